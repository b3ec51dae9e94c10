"""One name for each track, from all its frames; two tracks that are seen at once do not share a named character."""

import numpy as np

from konohana.boxes import area, intersection

FLOOR = 0.01  # probability below which one frame's opinion does not count further against a name
INSIDE = 0.9  # of the smaller of two boxes: so much of it in the other, and with its name, it is the same person


def track_probabilities(names, weights):
    """The probabilities of the names of one track from those of its detections.

    The weighted geometric mean: frames of one shot resemble one another, so their opinions are averaged, not multiplied
    as independent ones would be.

    Args:
        names: n x c probabilities, one row a detection. weights: n, how much each counts (quality, size).

    Returns:
        c probabilities, adding up to 1.
    """
    weights = np.asarray(weights, np.float64)
    mean = np.average(np.log(np.clip(names, FLOOR, 1)), axis=0, weights=weights if weights.sum() > 0 else None)
    mean = np.exp(mean - mean.max())
    return mean / mean.sum()


def without_doubles(tracks, scores, names, shared, shortest):
    """Leave out second boxes of one person, which would be drawn under another name: one name stands once in a frame.

    A track is such a box where it lies in that of a surer track, or that in its, and both are most likely of one named
    character. If it does so for most of its time it goes; else, where one takes over from the other, only those frames.

    Args:
        tracks: list of `tracks.Track`. scores, names: of the detections that are their rows, n and n x c.
        shared: indices of names that several people may have at once. shortest: detections that make a track.
    """
    opinions = [track_probabilities(names[track.seen], scores[track.seen] ** 2) for track in tracks]
    best = np.array([opinion.argmax() for opinion in opinions])
    sure = np.array([(p.max(), scores[track.seen].mean()) for p, track in zip(opinions, tracks, strict=True)])
    first, last = (np.array([track.frames[k] for track in tracks]) for k in (0, -1))
    kept = []
    for i, track in enumerate(tracks):
        double = np.zeros(len(track.frames), bool)
        surer = (best == best[i]) & (sure > sure[i]).all(axis=1) & (first <= last[i]) & (last >= first[i])
        for j in np.flatnonzero(surer) if best[i] not in shared else ():
            double |= _inside(track, tracks[j])
        if double.any():
            mostly = 2 * double.sum() > len(double)
            track = track.without(double | mostly)
        if len(track.seen) >= shortest:
            kept.append(track)
    return kept


def _inside(track, other):
    """In which of a track's frames its box lies in the other's, or the other's in it: a bool for each."""
    begin, end = max(track.frames[0], other.frames[0]), min(track.frames[-1], other.frames[-1]) + 1
    ours, theirs = (slice(begin - one.frames[0], end - one.frames[0]) for one in (track, other))
    a, b = track.boxes[ours], other.boxes[theirs]
    inside = np.zeros(len(track.frames), bool)
    inside[ours] = intersection(a, b) >= INSIDE * np.minimum(area(a), area(b))
    return inside


def choose_names(probabilities, spans, shared):
    """Choose a name for each track, the surest track first; who is on screen at the same time has another name.

    Args:
        probabilities: t x c, see `track_probabilities`. spans: t pairs of first and last frame, inclusive.
        shared: indices of names that several people may have at once, such as "other".

    Returns:
        (t chosen indices, t indices of the second best, or -1 where there is one name alone).
    """
    probabilities = np.asarray(probabilities, np.float64)
    chosen = np.full(len(probabilities), -1)
    if not len(probabilities):
        return chosen, chosen.copy()
    begin, end = min(span[0] for span in spans), max(span[1] for span in spans) + 1
    taken = {}  # of each name that one alone may have: in which frames somebody has it
    for i in np.argsort(-probabilities.max(axis=1), kind='stable'):
        here = slice(spans[i][0] - begin, spans[i][1] + 1 - begin)
        free = probabilities[i].copy()
        free[[name for name, frames in taken.items() if frames[here].any()]] = -1
        name = chosen[i] = int(free.argmax()) if free.max() >= 0 else int(probabilities[i].argmax())
        if name not in shared:
            taken.setdefault(name, np.zeros(end - begin, bool))[here] = True
    others = probabilities.copy()
    others[np.arange(len(others)), chosen] = -1
    second = np.where(others.max(axis=1) >= 0, others.argmax(axis=1), -1)
    return chosen, second
