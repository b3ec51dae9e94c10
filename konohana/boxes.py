"""Boxes: x1, y1, x2, y2."""

import torch


def points_in_boxes(points, boxes):
    """P x 2 points, m x 4 boxes -> P bool: the point lies in at least one of the boxes."""
    if len(boxes) == 0:
        return torch.zeros(len(points), dtype=torch.bool, device=points.device)
    low = points[:, None] >= boxes[None, :, :2]
    high = points[:, None] <= boxes[None, :, 2:]
    return (low & high).all(dim=-1).any(dim=-1)


def paired_iou(a, b):
    """IoU of box i of `a` with box i of `b`; both n x 4 -> n in 0 to 1."""
    low = torch.maximum(a[:, :2], b[:, :2])
    high = torch.minimum(a[:, 2:], b[:, 2:])
    overlap = (high - low).clamp(min=0).prod(dim=1)
    union = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1) - overlap
    return overlap / union.clamp(min=1e-6)
