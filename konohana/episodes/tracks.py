"""Detections of an episode, frame by frame -> tracks: the same person from frame to frame, within one shot.

The whole episode is on disk, so linking looks both ways. Online trackers cannot, carry identities across cuts, and
assume the even motion of photographs; drawings stand still for two or three frames and then jump.

1. Frame by frame, boxes go on with the track they overlap and resemble, the sure ones first, then the unsure ones for
   the tracks that are left (ByteTrack, Zhang et al. 2022, 2110.06864). The pairs are chosen by optimal assignment.
2. Pieces of one person are joined over gaps: the end of one and the start of another, again by optimal assignment.
3. Gaps are filled, tracks of under `MIN_FRAMES` detections dropped, and boxes smoothed over both neighbours, so that
   nothing lags.
"""

import itertools
from dataclasses import dataclass

import cv2
import lap
import numpy as np

from konohana.boxes import iou

SURE = 0.5  # detections of this score or more begin tracks and are linked first
UNSURE = 0.4  # of that: weaker ones only continue a track; below this part they are not looked at
MIN_FRAMES = 3  # detections that make a track
MAX_MISSED = 3  # frames that a track may miss while it is linked frame by frame
MAX_GAP = 24  # frames over which two pieces are joined
BLOCK = 256  # pieces whose ends are compared at once: a table of all pieces of a long shot fills the memory
LINK = 0.25  # lowest likeness (`likeness`) of a box to the track it continues
JOIN = 0.35  # the same for the two ends of a gap
SIGMA = 1.0  # frames: width of the smoothing
REACH = 4  # frames before and after that it looks at


@dataclass
class Track:
    """One person in one shot.

    Attributes:
        frames: n consecutive frame numbers, int64. boxes: n x 4 x1, y1, x2, y2 in pixels, smoothed.
        rows: n; which row of the detections each box comes from, -1 where a gap was filled.
    """

    frames: np.ndarray
    boxes: np.ndarray
    rows: np.ndarray

    @property
    def seen(self):
        """The rows of its detections, without the gaps."""
        return self.rows[self.rows >= 0]

    def without(self, frames):
        """The same without those of its first and last frames that `frames` (n bools) names; it may be empty then."""
        kept = np.flatnonzero(~frames)
        part = slice(kept[0], kept[-1] + 1) if len(kept) else slice(0)
        return Track(self.frames[part], self.boxes[part], self.rows[part])


def likeness(boxes_a, names_a, boxes_b, names_b):
    """How likely two boxes show one person, n x m in 0 to 1.

    IoU of the boxes, with a floor for a jump of up to a box's width, times a factor that is 1 where the names agree.
    """
    near = _nearness(boxes_a, boxes_b)
    overlap = np.maximum(iou(np.asarray(boxes_a, np.float64), np.asarray(boxes_b, np.float64)), 0.5 * near)
    return overlap * (0.4 + 0.6 * affinity(names_a, names_b))


def affinity(names_a, names_b):
    """Bhattacharyya's coefficient of each of n and each of m rows of probabilities, n x m in 0 to 1."""
    return np.sqrt(names_a) @ np.sqrt(names_b).T


def _nearness(a, b):
    """1 for boxes of one size at one place, 0 for those a box's size apart or of half the size, n x m."""
    size_a, size_b = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    centre_a, centre_b = (a[:, 2:] + a[:, :2]) / 2, (b[:, 2:] + b[:, :2]) / 2
    size = np.minimum(size_a[:, None], size_b).clip(1)
    moved = (np.abs(centre_a[:, None] - centre_b) / size).max(2)
    grown = np.abs(np.log2(size_a[:, None].clip(1) / size_b.clip(1))).max(2)
    return (1 - moved).clip(0) * (1 - grown).clip(0)


def pairs(scores, lowest):
    """Optimal pairs of a matrix of likenesses -> list of (row, column), those of at least `lowest`."""
    if not scores.size:
        return []
    allowed = np.where(scores >= lowest, scores, 0.0)
    # Jonker and Volgenant's algorithm; a row without a partner has -1.
    partners, _ = lap.lapjv(-allowed, extend_cost=True, return_cost=False)
    return [(i, int(j)) for i, j in enumerate(partners) if j >= 0 and scores[i, j] >= lowest]


def link_shot(frames, boxes, scores, names, shortest=MIN_FRAMES, threshold=SURE):
    """Link the detections of one shot.

    Args:
        frames: n frame numbers, ascending. boxes: n x 4. scores: n. names: n x c probabilities of the class names.
        threshold: score from which a detection begins a track, 0 to 1.
        shortest: detections that make a track.

    Returns:
        list of `Track`.
    """
    pieces = _link_frames(frames, boxes, scores, names, threshold)
    pieces = _join(pieces, frames, boxes, names)
    return [_finished(frames[rows], boxes[rows], rows) for rows in pieces if len(rows) >= shortest]


def _link_frames(frames, boxes, scores, names, threshold):
    """Step 1 -> list of lists of rows."""
    pieces, alive = [], []
    first = np.unique(frames, return_index=True)[1]
    for begin, end in itertools.pairwise([*first, len(frames)]):
        alive = [rows for rows in alive if frames[begin] - frames[rows[-1]] <= MAX_MISSED]
        here = np.arange(begin, end)
        certain = scores[here] >= threshold
        sure, unsure = here[certain], here[~certain & (scores[here] >= UNSURE * threshold)]
        waiting, new = _continue(alive, sure, boxes, names)
        _continue(waiting, unsure, boxes, names)  # those that nobody continues are dropped
        pieces += new
        alive += new
    return pieces


def _continue(alive, chosen, boxes, names):
    """Append each chosen row to the piece it continues -> (pieces not continued, new pieces of the rest)."""
    last = np.array([rows[-1] for rows in alive], int)
    found = dict(pairs(likeness(boxes[last], names[last], boxes[chosen], names[chosen]), LINK))
    for i, j in found.items():
        alive[i].append(int(chosen[j]))
    waiting = [rows for i, rows in enumerate(alive) if i not in found]
    new = [[int(row)] for j, row in enumerate(chosen) if j not in found.values()]
    return waiting, new


def _join(pieces, frames, boxes, names):
    """Step 2: pieces, ordered by their starts, whose ends meet over a gap become one, until none is left to join."""
    while len(pieces) > 1:
        first, last = (np.array([rows[k] for rows in pieces]) for k in (0, -1))
        mean_names = np.stack([names[rows].mean(0) for rows in pieces])
        following = _chosen(*_joints(first, last, frames, boxes, mean_names), frames[first], frames[last])
        if not following:
            break
        joined = []
        for i in sorted(set(range(len(pieces))) - set(following.values())):
            rows = list(pieces[i])
            while i in following:
                i = following[i]
                rows += pieces[i]
            joined.append(rows)
        pieces = joined
    return pieces


def _joints(first, last, frames, boxes, names):
    """Pieces that may be joined: arrays of one piece, one that begins after its end, and their likeness.

    first, last: first and last row of each piece, in the order of the first. names: mean probabilities of each piece.
    """
    starts, ends = frames[first], frames[last]
    order, found = np.argsort(ends, kind='stable'), []
    for a in np.split(order, range(BLOCK, len(order), BLOCK)):
        b = np.arange(*np.searchsorted(starts, (ends[a[0]] + 1, ends[a[-1]] + MAX_GAP + 1)))
        gap = starts[b] - ends[a][:, None]
        scores = likeness(boxes[last[a]], names[a], boxes[first[b]], names[b])
        # The longer the gap, the surer it has to be; and nobody turns into somebody else behind a gap.
        scores = scores * affinity(names[a], names[b]) * (1 - 0.5 * gap / MAX_GAP)
        i, j = np.nonzero((scores >= JOIN) & (gap > 0) & (gap <= MAX_GAP))
        found.append((a[i], b[j], scores[i, j]))
    return map(np.concatenate, zip(*found, strict=True))


def _chosen(one, other, scores, starts, ends):
    """The best of the `_joints`, each piece joined once on each side: {piece: the one that follows}."""
    # Where no gap goes on, what is before shares no piece with what comes after: each such part is chosen by itself.
    reached = np.maximum.accumulate(starts[other])
    following = {}
    for part in np.split(np.arange(len(one)), 1 + np.flatnonzero(ends[one][1:] >= reached[:-1])):
        rows, row = np.unique(one[part], return_inverse=True)
        columns, column = np.unique(other[part], return_inverse=True)
        table = np.zeros((len(rows), len(columns)))
        table[row, column] = scores[part]
        following.update((int(rows[i]), int(columns[j])) for i, j in pairs(table, JOIN))
    return following


def _finished(frames, boxes, rows):
    """Step 3: a `Track` without gaps, smoothed."""
    whole = np.arange(frames[0], frames[-1] + 1)
    filled = np.stack([np.interp(whole, frames, boxes[:, k]) for k in range(4)], axis=1)
    sources = np.full(len(whole), -1)
    sources[frames - frames[0]] = rows
    smooth = cv2.GaussianBlur(filled, (1, 2 * REACH + 1), SIGMA, borderType=cv2.BORDER_REPLICATE)
    return Track(whole, smooth, sources)
