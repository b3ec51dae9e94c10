"""How pictures and labelled people look, small enough to compare all with all: no network, a few milliseconds each."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from konohana.data.images import load_image
from konohana.progress import progress_bar

SIDE = 32  # pixels of the small picture that is compared
FINE = 64  # pixels of the grey one in which details are compared
COLOUR_SIDE = 320  # longer side in pixels at which colours are counted
STEPS = (6, 12, 12)  # of lightness, and of the two colour axes
N_COLOURS = STEPS[0] * STEPS[1] * STEPS[2]
FLAT = 4.0  # grey levels: pictures with less contrast all look alike
ENOUGH = 200  # pixels outside all boxes, from which their colours say what the background is
BLOCK = 2000  # pictures compared with all others at once
NEAR, SAME = 0.9, 0.99  # likeness of two frames of one shot, and of one picture saved twice


@dataclass
class Looks:
    """`small` (n x SIDE x SIDE x 3 bytes), `fine` (n x FINE x FINE grey bytes) of n pictures; `colours`, what
    `object_colours` gives for each picture's boxes."""

    small: np.ndarray
    fine: np.ndarray
    colours: list


def look_at(samples, progress=True):
    """`Looks` of samples, whose pictures are read in threads. UserError: one that cannot be read."""
    small = np.zeros((len(samples), SIDE, SIDE, 3), np.uint8)
    fine = np.zeros((len(samples), FINE, FINE), np.uint8)
    colours = []
    with ThreadPoolExecutor() as pool, progress_bar('Looking', len(samples), progress) as bar:
        for i, found in enumerate(pool.map(_look, samples)):
            small[i], fine[i], one = found
            colours.append(one)
            bar.update(i + 1)
    return Looks(small, fine, colours)


def _look(sample):
    image = load_image(sample.path)
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (FINE, FINE), interpolation=cv2.INTER_AREA)
    scale = min(1.0, COLOUR_SIDE / max(image.shape[:2]))
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return small, grey, object_colours(image, sample.boxes * scale)


def object_colours(image, boxes):
    """What colours each boxed object has, above, in the middle, below and as a whole.

    A colour counts by how much more frequent it is in the box than outside all boxes, and by how near it is to the
    box's middle line: hair and clothes, rather than the wall behind them.

    Args:
        image: uint8 H x W x 3 RGB. boxes: m x 4 in its pixels.

    Returns:
        float16 m x (4 * N_COLOURS): square roots of shares, so that a product of two is their likeness (Bhattacharyya).
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(int)
    middle = [(lab[..., k] - 64).clip(0, 127) * STEPS[k] // 128 for k in (1, 2)]
    colour = (lab[..., 0] * STEPS[0] // 256 * STEPS[1] + middle[0]) * STEPS[2] + middle[1]
    corners = np.rint(boxes).astype(int).clip(0)
    corners[:, :2] = np.minimum(corners[:, :2], (image.shape[1] - 1, image.shape[0] - 1))
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    outside = np.ones(colour.shape, bool)
    for x1, y1, x2, y2 in corners:
        outside[y1:y2, x1:x2] = False
    behind = np.zeros(N_COLOURS)
    if outside.sum() >= ENOUGH:
        behind = np.bincount(colour[outside], minlength=N_COLOURS) / outside.sum()
    rows = [_shares(colour[y1:y2, x1:x2], behind) for x1, y1, x2, y2 in corners]
    return np.array(rows, np.float16).reshape(len(boxes), 4 * N_COLOURS)


def _shares(colour, behind):
    """Colours (h x w numbers) of one object -> its row of `object_colours`."""
    height, width = colour.shape
    inside = np.bincount(colour.ravel(), minlength=N_COLOURS) / colour.size
    weight = (inside / (inside + behind + 1e-9))[colour]
    weight *= np.exp(-((((np.arange(width) + 0.5) / width - 0.5) / 0.3) ** 2))
    cuts = [k * height // 3 for k in range(4)]
    parts = [(a, max(b, a + 1)) for a, b in pairwise(cuts)] + [(0, height)]
    shares = []
    for a, b in parts:
        count = np.bincount(colour[a:b].ravel(), weights=weight[a:b].ravel(), minlength=N_COLOURS)
        shares.append(np.sqrt(count / max(count.sum(), 1e-9)))
    return np.concatenate(shares)


def alike(small, least):
    """All pairs of pictures that look alike: list of (i, j, likeness), i < j.

    The likeness is the correlation of the small pictures, 1 for the same picture; brightness and contrast do not
    matter.

    Args:
        small: `Looks.small`. least: likeness from which a pair counts, such as NEAR.
    """
    rows = small.reshape(len(small), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), FLAT * rows.shape[1] ** 0.5)
    pairs = []
    for start in range(0, len(rows), BLOCK):
        likeness = rows[start : start + BLOCK] @ rows[start:].T
        for i, j in zip(*np.nonzero(likeness >= least), strict=True):
            if j > i:
                pairs.append((int(start + i), int(start + j), float(likeness[i, j])))
    return pairs


def same_there(fine, i, j, box):
    """Whether two pictures look the same within a box.

    Args:
        fine: `Looks.fine`. i, j: numbers of the pictures. box: x1, y1, x2, y2 as parts of the picture's sides.
    """
    x1, y1, x2, y2 = (np.asarray(box) * FINE).round().astype(int).clip(0, FINE).tolist()
    a, b = (fine[k, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)].astype(float) for k in (i, j))
    if not a.size:
        return False
    difference = np.abs((a - a.mean()) - (b - b.mean()))
    return bool(difference.mean() <= 5 and np.percentile(difference, 90) <= 14)
