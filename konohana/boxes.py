"""What torchvision.ops does not have for boxes. Boxes are tensors of x1, y1, x2, y2 in pixels, x2 and y2 exclusive."""

import torch
from torchvision.ops import box_area

# Pixels. Labelling tools disagree on whether the first pixel is 0 or 1: so far outside, a label is clipped silently.
EDGE_TOLERANCE = 2.0


def intersection(a, b):
    """Areas that boxes have in common, in square pixels.

    Args:
        a, b: ... x 4, of shapes that broadcast: `intersection(a, b)` takes box i of both, `intersection(a[:, None], b)`
            all n of `a` with all m of `b`.

    Returns:
        tensor of the broadcast shape without its last dimension, 0 where boxes do not touch.
    """
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    return (high - low).clamp(min=0).prod(dim=-1)


def part_inside(boxes, regions):
    """n x 4 boxes, m x 4 regions -> n x m: the part of each box's area that lies in each region, 0 to 1."""
    return intersection(boxes[:, None], regions) / box_area(boxes).clamp(min=1e-6)[:, None]


def apart(boxes, labelled):
    """n x 4 boxes, m x 4 labelled ones -> n bool: none of `labelled` is near.

    Near is one that shares at least half of the area of the smaller box of the two: the same figure, a part of it, or
    it and more.
    """
    smaller = torch.minimum(box_area(boxes)[:, None], box_area(labelled))
    return (intersection(boxes[:, None], labelled) < 0.5 * smaller.clamp(min=1e-6)).all(dim=1)


def paired_iou(a, b):
    """IoU of box i of `a` with box i of `b`; both n x 4 -> n in 0 to 1."""
    shared = intersection(a, b)
    return shared / (box_area(a) + box_area(b) - shared).clamp(min=1e-6)


def points_in_boxes(points, boxes):
    """P x 2 points, m x 4 boxes -> P bool: the point lies in at least one of the boxes, their edges included."""
    low = points[:, None] >= boxes[:, :2]
    high = points[:, None] <= boxes[:, 2:]
    return (low & high).all(dim=-1).any(dim=-1)
