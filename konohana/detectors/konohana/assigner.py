"""Assigns anchor points to ground-truth boxes (task-aligned assignment)."""

import torch
from torch import nn
from torchvision.ops import box_iou


class TaskAlignedAssigner(nn.Module):
    """Task-aligned assignment of TOOD (Feng et al. 2021, https://arxiv.org/abs/2108.07755).

    A point's alignment with a box is objectness^alpha * IoU^beta of the current prediction. Of the points inside a box,
    the `top_k` best aligned learn it; a point that several boxes choose goes to the one it overlaps most. A point's
    soft target for objectness is its alignment, scaled so that each box's best point gets that box's best IoU.

    TOOD takes 13 points on maps of strides 8 to 128; on one map of stride 8 a character covers hundreds of points.
    TOOD aligns class scores; here objectness and names are apart, so the assignment does not depend on names.
    """

    def __init__(self, top_k=50, alpha=0.5, beta=6.0):
        super().__init__()
        self.top_k, self.alpha, self.beta = top_k, alpha, beta

    @torch.no_grad()
    def forward(self, objectness, boxes, points, targets):
        """Assign the points of one image.

        Args:
            objectness: P, 0 to 1. boxes: P x 4, predicted. points: P x 2 (x, y).
            targets: n x 4, ground truth. All in the same pixels, boxes as x1, y1, x2, y2.

        Returns:
            index: P int64, the box that each point learns, or -1 for none.
            soft_target: P float, 0 to 1, the target of each point's objectness (0 where index is -1).
        """
        n_points, n_boxes = len(points), len(targets)
        index = torch.full((n_points,), -1, dtype=torch.int64, device=points.device)
        soft_target = torch.zeros(n_points, device=points.device)
        if n_boxes == 0:
            return index, soft_target
        x, y = points[:, 0], points[:, 1]
        sides = torch.stack(
            [x - targets[:, 0:1], y - targets[:, 1:2], targets[:, 2:3] - x, targets[:, 3:4] - y], dim=-1
        )
        inside = sides.amin(dim=-1) > 0  # n x P
        # A box too small to hold a point is learned by the nearest one.
        empty = ~inside.any(dim=1)
        if empty.any():
            centres = (targets[empty, :2] + targets[empty, 2:]) / 2
            nearest = torch.cdist(centres, points).argmin(dim=1)
            inside[empty.nonzero()[:, 0], nearest] = True
        iou = box_iou(targets, boxes).nan_to_num(0.0)
        alignment = objectness.pow(self.alpha) * iou.pow(self.beta) * inside
        # Where nothing overlaps yet the order is arbitrary but the points still lie inside their box.
        top = (alignment + inside * 1e-12).topk(min(self.top_k, n_points), dim=1).indices
        chosen = torch.zeros_like(inside).scatter_(1, top, True) & inside
        best_iou, owner = torch.where(chosen, iou, -1.0).max(dim=0)
        positive = best_iou >= 0
        index[positive] = owner[positive]
        chosen &= index == torch.arange(n_boxes, device=points.device)[:, None]
        alignment = alignment * chosen
        best = alignment.amax(dim=1, keepdim=True).clamp(min=1e-12)
        target_per_box = alignment / best * (iou * chosen).amax(dim=1, keepdim=True)
        return index, target_per_box.amax(dim=0)
