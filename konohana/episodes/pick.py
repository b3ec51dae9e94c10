"""Which frames of a show are worth labelling: sharp ones, one or two a shot, each look once, from all episodes."""

from dataclasses import dataclass

import numpy as np

from konohana.cast import SHARED_NAMES
from konohana.episodes.scan import EVERY, distance
from konohana.episodes.timeline import runs

DARK, FLAT = 16.0, 6.0  # grey levels: mean and standard deviation below which a frame is black, or of one colour
BLURRED = 0.55  # see scan.blur_of; of 136 frames of a show none is above it, blurred by 4 of 640 pixels 97 % are
LONG = 6.0  # seconds: a longer shot gives two frames
ALIKE = 10  # of 64 bits: frames whose perceptual hashes differ less are near-duplicates

# An opening or ending: most moments of a stretch are in another episode too, in the same order.
RARE = 2  # of so many moments, one is compared
STRETCH = 16  # compared moments
MOST = 12  # of these must be in the other episode
SAME = 8  # of 64 bits

SURE, UNSURE = 0.75, 0.4  # scores of a detection that needs no person to look at it, and of one that does most
PLAIN = 0.35  # how much a frame counts in which everybody is known for sure, against one that is all doubt
NOBODY = 0.25  # how much a frame counts in which nobody is found


@dataclass
class Moment:
    """A frame that may be chosen: `episode` (index), `time` in seconds, `hash`, `look`, and `worth`, 0 to 1."""

    episode: int
    time: float
    hash: np.uint64
    look: np.ndarray
    worth: float = 1.0


def is_picture(scan):
    """Which moments of a `Scan` show something: bool array."""
    return (scan.bright >= DARK) & (scan.contrast >= FLAT)


def repeated(scans):
    """What each episode has in common with an earlier one, such as the opening and the ending.

    Args:
        scans: list of `Scan`, in the order of the episodes.

    Returns:
        (list of a bool array for each episode: moments that an earlier episode shows too,
        list of (episode, begin, end, earlier episode): indices and seconds).
    """
    marks, stretches = [], []
    for number, scan in enumerate(scans):
        mark = np.zeros(len(scan), bool)
        for earlier in range(number):
            common = _common(scans[earlier], scan)
            for first, last in runs(common & ~mark):
                stretches.append((number, float(scan.times[first]), float(scan.times[last - 1]) + EVERY, earlier))
            mark |= common
        marks.append(mark)
    return marks, stretches


def _common(a, b):
    """Bool array: which moments of `b` lie in a stretch that `a` has too."""
    rows, columns = (np.flatnonzero(is_picture(scan)[::RARE]) for scan in (a, b))
    size = -(-len(a) // RARE), -(-len(b) // RARE)
    match = np.zeros(size, bool)
    for part in np.array_split(rows, max(1, len(rows) // 256)):  # in parts: a film's square fills the memory
        match[np.ix_(part, columns)] = distance(a.hashes[::RARE][part, None], b.hashes[::RARE][columns]) <= SAME
    match[1:] |= match[:-1]  # the moments of the two lie up to half a step apart
    found = np.zeros(size[1], bool)
    for offset in range(STRETCH - size[0], size[1] - STRETCH + 1):
        line = np.diagonal(match, offset)
        if np.count_nonzero(line) < MOST:
            continue
        count = np.convolve(line, np.ones(STRETCH, int), 'valid')
        for start in np.flatnonzero(count >= MOST):
            hits = start + np.flatnonzero(line[start : start + STRETCH]) + max(0, offset)
            found[hits[0] : hits[-1] + 1] = True
    return np.repeat(found, RARE)[: len(b)]


def moments_of(episode, scan, left_out):
    """The best one or two frames of each shot.

    Args:
        episode: its index. scan: its `Scan`. left_out: bool array of moments not to take.

    Returns:
        list of `Moment` in the order of time.
    """
    good = scan.usable & is_picture(scan) & (scan.blur <= BLURRED) & ~left_out
    found = []
    for shot in np.unique(scan.shots):
        inside = np.flatnonzero(scan.shots == shot)
        long = len(inside) * EVERY > LONG
        for part in np.array_split(inside, 2) if long else (inside,):
            part = part[good[part]]
            if len(part):
                i = _sharp(part, scan.blur)
                found.append(Moment(episode, float(scan.times[i]), scan.hashes[i], scan.looks[i].ravel()))
    return found


def _sharp(part, blur):
    """Of the moments that are about as sharp as the sharpest, the one nearest to the middle."""
    sharp = part[blur[part] <= blur[part].min() + 0.03]
    return sharp[np.abs(sharp - part.mean()).argmin()]


def choose(moments, n_frames):
    """Choose frames that look as different as can be, as many from each episode, the more worth ones before others.

    Each is the one farthest from all those chosen before (greedy k-center); near-duplicates of a chosen one are out. So
    the first n of a longer choice are the choice of n.

    Args:
        moments: list of `Moment`. n_frames: how many to choose at most.

    Returns:
        list of `Moment`, in the order of their choice.
    """
    if not moments:
        return []
    looks = np.array([m.look for m in moments], np.float32)
    hashes, worth = np.array([m.hash for m in moments]), np.array([m.worth for m in moments])
    episodes = np.array([m.episode for m in moments])
    far = np.full(len(moments), 100.0)  # to the nearest chosen one: the largest distance there is
    free, taken, chosen = np.ones(len(moments), bool), np.zeros(episodes.max() + 1, int), []
    while free.any() and len(chosen) < n_frames:
        left = np.unique(episodes[free])
        episode = left[taken[left].argmin()]
        i = int(np.where(free & (episodes == episode), far * worth, -1).argmax())
        chosen.append(moments[i])
        taken[episode] += 1
        free &= distance(hashes, hashes[i]) > ALIKE
        free[i] = False
        far = np.minimum(far, np.sqrt(((looks - looks[i]) ** 2).mean(axis=1)))
    return chosen


def worth_of(found, class_names):
    """How much a frame is worth labelling by what a detector finds in it.

    Args:
        found: `scores`, `labels` and maybe `probabilities` of its detections, the weak ones too. class_names: names.

    Returns:
        PLAIN where it is sure of everybody, up to 1 where it is unsure or finds somebody whom it cannot name; NOBODY.
    """
    if not len(found['scores']):
        return NOBODY
    scores = np.asarray(found['scores'], float)
    doubt = np.clip(1 - np.abs(scores - UNSURE) / (SURE - UNSURE), 0, 1)
    if 'probabilities' in found:
        probabilities = np.asarray(found['probabilities'], float)
        nameless = (1 - probabilities.max(axis=1)) * (scores >= UNSURE)
        shared = [i for i, name in enumerate(class_names) if name in SHARED_NAMES]
        # Somebody outside the cast may be one of the cast in other clothes, but often is not.
        stranger = 0.5 * probabilities[:, shared].sum(axis=1) * (scores >= UNSURE)
        doubt = np.maximum(doubt, np.maximum(nameless, stranger))
    return float(PLAIN + (1 - PLAIN) * doubt.max())
