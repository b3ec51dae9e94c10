"""Boxes: x1, y1, x2, y2 in pixels, x2 and y2 exclusive. Each function takes NumPy's arrays or PyTorch's tensors.

Who uses the weights alone needs no PyTorch, so nothing here imports it.
"""

import math
import sys

import numpy as np

# Pixels. Labelling tools disagree on whether the first pixel is 0 or 1: so far outside, a label is clipped silently.
EDGE_TOLERANCE = 2.0
LEAST_INSIDE = 0.5  # part of a label that has to lie within its picture: the rest of it is cut


def reaches_beyond(box, hw):
    """Whether a box (x1, y1, x2, y2) reaches beyond a picture of `hw` (height, width; 0 for one that is not known)."""
    x1, y1, x2, y2 = box
    height, width = (side or math.inf for side in hw)
    return max(-x1, -y1, x2 - width, y2 - height) > EDGE_TOLERANCE


def fits(box, hw):
    """Whether so much of a box lies within its picture that it may be cut at the edge; see `reaches_beyond`."""
    x1, y1, x2, y2 = box
    height, width = (side or math.inf for side in hw)
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return False
    if not reaches_beyond(box, hw):
        return True
    parts = [(min(b, side) - max(a, 0)) / max(b - a, 1e-9) for a, b, side in ((x1, x2, width), (y1, y2, height))]
    return parts[0] * parts[1] >= LEAST_INSIDE


def module_of(values):
    """NumPy or PyTorch, whichever these values are of."""
    return np if isinstance(values, np.ndarray) else sys.modules['torch']


def as_array(values):
    """A torch tensor of any device, or anything array-like, as a numpy array."""
    if hasattr(values, 'detach'):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def area(boxes):
    """... x 4 boxes -> their areas in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a, b):
    """Areas that boxes have in common, in square pixels.

    Args:
        a, b: ... x 4, of shapes that broadcast: `intersection(a, b)` takes box i of both, `intersection(a[:, None], b)`
            all n of `a` with all m of `b`.

    Returns:
        values of the broadcast shape without its last dimension, 0 where boxes do not touch.
    """
    module = module_of(a)
    low = module.maximum(a[..., :2], b[..., :2])
    high = module.minimum(a[..., 2:], b[..., 2:])
    return (high - low).clip(min=0).prod(-1)


def iou(a, b):
    """n x 4 boxes, m x 4 boxes -> n x m: their IoU, 0 to 1; 0 too where both are empty."""
    shared = intersection(a[:, None], b)
    return shared / (area(a)[:, None] + area(b) - shared).clip(min=1e-12)


def part_inside(boxes, regions):
    """n x 4 boxes, m x 4 regions -> n x m: the part of each box's area that lies in each region, 0 to 1."""
    return intersection(boxes[:, None], regions) / area(boxes).clip(min=1e-6)[:, None]


def apart(boxes, labelled):
    """n x 4 boxes, m x 4 labelled ones -> n bool: none of `labelled` is near.

    Near is one that shares at least half of the area of the smaller box of the two: the same figure, a part of it, or
    it and more.
    """
    smaller = module_of(boxes).minimum(area(boxes)[:, None], area(labelled))
    return (intersection(boxes[:, None], labelled) < 0.5 * smaller.clip(min=1e-6)).all(1)


def paired_iou(a, b):
    """IoU of box i of `a` with box i of `b`; both n x 4 -> n in 0 to 1."""
    shared = intersection(a, b)
    return shared / (area(a) + area(b) - shared).clip(min=1e-6)


def points_in_boxes(points, boxes):
    """P x 2 points, m x 4 boxes -> P bool: the point lies in at least one of the boxes, their edges included."""
    low = points[:, None] >= boxes[:, :2]
    high = points[:, None] <= boxes[:, 2:]
    return (low & high).all(-1).any(-1)
