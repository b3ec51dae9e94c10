"""How well people are followed and named in an episode: python benchmarks/tracking.py

Draws a toy episode (known truth, drawn on twos and threes, coded by H.264), detects in it with every frame and with
the frames that repeat left out, and compares the raw detections with the tracks made of them, and with ByteTrack on
the same detections if supervision < 0.27 is installed. TrackEval computes HOTA and IDF1 (pip install trackeval).
"""

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.errors import UserError
from konohana.settings import read, require, require_whole, run

weights = ''  # weights file; '' takes weights/net.pt
seconds = 180.0  # length of the episode
seed = 101  # of the episode
on = [2, 2, 3]  # for how many frames a drawing is shown; each shot takes one of these
folder = 'benchmarks/out'  # where the episode is drawn
batch_size = 4  # frames that the detector sees at once
threshold = 0.5  # score from which a detection as it is counts
progress = True  # show progress bars

FPS, HW = 24, (360, 640)
SHORT = 3  # frames: a box that lives shorter flickers
PRESENT = 6  # frames of a second in which a character must be on screen for it to count
HEAD = ('', 'HOTA', 'IDF1', 'name changes/min', 'shorter than 3', 'precision', 'recall', 'named', 'P s', 'R s')


def main(arguments=None):
    settings = read(globals(), arguments, folder=Path(__file__).resolve().parent.parent)
    require(settings, seconds=(5, 36000), seed=(0, 2**32), batch_size=(1, 256), threshold=(0, 1))
    require_whole(settings, on=1)
    try:
        import trackeval  # noqa: F401
    except ImportError:
        raise UserError('HOTA and IDF1 need TrackEval: pip install trackeval') from None
    from konohana import load
    from konohana.cast import SHARED_NAMES
    from konohana.episodes.episode import raw_detections
    from konohana.episodes.watch import watch

    path = settings.path(settings.folder) / f'toy_{settings.seed}_{settings.seconds:g}.mkv'
    truth = episode(path, settings)
    model = load(settings.path(settings.weights) if settings.weights else None, device='cpu')
    rows = {}
    for every in (1, 'auto'):
        index, done = watch(model, path, 0, 0, settings.batch_size, every, SHARED_NAMES, settings.progress)
        title = f'{done["detected"] / done["frames"]:.0%} of frames detected'
        print(f'{title}: {done["seconds"]:.0f} s; {len(index.shots)} shots found, {truth[-1]["shot"] + 1} true')
        raw = as_tracks(raw_detections(index), index.class_names, settings.threshold)
        rows[f'as detected, {title}'] = raw
        rows[f'tracks, {title}'] = tracks_of(index)
        if every == 1:
            rows.update(byte_tracks(index, settings.threshold))
    print(' | '.join(HEAD))
    for title, found in rows.items():
        print(' | '.join([title, *(f'{value:.3f}' for value in judge(truth, found))]))


def episode(path, settings):
    """Draw the episode; returns its truth, see `write_video`."""
    from konohana.toy.writer import write_video

    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, settings.seconds, FPS, HW, settings.seed, settings.on, settings.progress)


def as_tracks(frames, class_names, threshold):
    """Detections as they are, each a track of its own: F lists of (box, track, name)."""
    number, rows = 0, []
    for found in frames:
        rows.append([])
        for box, label, score in zip(found['boxes'], found['labels'], found['scores'], strict=True):
            if score >= threshold:
                rows[-1].append((box, number, class_names[label - 1]))
                number += 1
    return rows


def tracks_of(index):
    """The tracks of an index: F lists of (box, track, name)."""
    rows = [[] for _ in index.times]
    for number, track in enumerate(index.tracks):
        for frame, box in zip(track['frames'], track['boxes'], strict=True):
            rows[frame].append((box, number, track['name']))
    return rows


def byte_tracks(index, threshold):
    """{title: F lists} of supervision's ByteTrack, once through and once restarted at cuts; {} without it."""
    try:
        from supervision import ByteTrack, Detections
    except ImportError:
        return {}
    from konohana.episodes.index import detections_of

    found = {}
    for title, starts in (('ByteTrack', {0}), ('ByteTrack, restarted at cuts', set(index.shots))):
        rows, first, tracker = [], 0, None
        for number, frame in enumerate(detections_of(index)):
            if number in starts:
                tracker, first = (
                    ByteTrack(threshold, FPS, frame_rate=FPS, minimum_consecutive_frames=SHORT),
                    first + 10**6,
                )
            keep = frame['scores'] >= 0.2
            labels = frame['probabilities'][keep].argmax(axis=1)
            seen = tracker.update_with_detections(
                Detections(xyxy=frame['boxes'][keep], confidence=frame['scores'][keep], class_id=labels)
            )
            rows.append(
                [
                    (box, first + int(track), index.class_names[label])
                    for box, track, label in zip(seen.xyxy, seen.tracker_id, seen.class_id, strict=True)
                ]
            )
        found[title] = rows
    return found


def judge(truth, found):
    """The numbers under `HEAD` for F lists of (box, track, name)."""
    import numpy as np

    from konohana.boxes import iou
    from konohana.episodes.tracks import pairs

    overlaps, matched, named, names_of, lives = [], 0, 0, {}, {}
    for true, rows in zip(truth, found, strict=True):
        boxes = np.array([box for box, _, _ in rows], np.float64).reshape(-1, 4)
        overlaps.append(iou(np.asarray(true['boxes'], np.float64).reshape(-1, 4), boxes))
        for _, track, _ in rows:
            lives[track] = lives.get(track, 0) + 1
        for i, k in pairs(overlaps[-1], 0.5):
            matched, named = matched + 1, named + (rows[k][2] == true['labels'][i])
            names_of.setdefault(true['people'][i], []).append(rows[k][2])
    changes = sum(a != b for names in names_of.values() for a, b in itertools.pairwise(names))
    n_true, n_found = sum(len(t['labels']) for t in truth), sum(map(len, found))
    return (
        *trackeval_numbers(truth, found, overlaps),
        changes / (len(truth) / FPS / 60),
        sum(life < SHORT for life in lives.values()),
        *(matched / max(n_found, 1), matched / max(n_true, 1), named / max(matched, 1)),
        *seconds_rightly_named(truth, found),
    )


def seconds_rightly_named(truth, found):
    """Precision and recall of "this character is on screen in this second"."""
    true = seconds_of([set(frame['labels']) for frame in truth])
    said = seconds_of([{name for _, _, name in rows} for rows in found])
    return len(true & said) / max(len(said), 1), len(true & said) / max(len(true), 1)


def seconds_of(names):
    """Sets of names, one a frame -> {(name, second)} of those in at least `PRESENT` of its frames."""
    counts = {}
    for frame, present in enumerate(names):
        for name in present:
            counts[name, frame // FPS] = counts.get((name, frame // FPS), 0) + 1
    return {key for key, count in counts.items() if count >= PRESENT}


def trackeval_numbers(truth, found, overlaps):
    """HOTA and IDF1, as TrackEval computes them."""
    import numpy as np
    from trackeval.metrics import HOTA, Identity

    def numbered(ids):
        known = {}
        return [np.array([known.setdefault(i, len(known)) for i in frame], int) for frame in ids], known

    true_ids, true_known = numbered([frame['people'] for frame in truth])
    ids, known = numbered([[track for _, track, _ in rows] for rows in found])
    data = {
        **{'gt_ids': true_ids, 'tracker_ids': ids, 'similarity_scores': overlaps, 'num_timesteps': len(truth)},
        **{'num_gt_ids': len(true_known), 'num_tracker_ids': len(known)},
        **{'num_gt_dets': sum(map(len, true_ids)), 'num_tracker_dets': sum(map(len, ids))},
    }
    silent = {'PRINT_CONFIG': False}
    return float(np.mean(HOTA().eval_sequence(data)['HOTA'])), float(Identity(silent).eval_sequence(data)['IDF1'])


if __name__ == '__main__':
    run(main)
