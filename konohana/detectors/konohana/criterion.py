"""The losses of the flagship: objectness, quality, box and name."""

import torch
import torch.nn.functional as F
from torchvision.ops import clip_boxes_to_image, generalized_box_iou_loss

from konohana import distributed
from konohana.boxes import apart, paired_iou, points_in_boxes

WEIGHTS = {'loss_objectness': 1.0, 'loss_quality': 0.5, 'loss_box': 7.5, 'loss_name': 1.0}
LABEL_SMOOTHING = 0.05
SOMEBODY = 0.5  # objectness from which a point far from all labels sees somebody unlabelled
SAME = 0.6  # IoU with the labelled box from which a teacher's box is that person's
EDGE = 4.0  # pixels; a side this close to the edge of the picture lies on it


def edges_reached(boxes, true_boxes, img_hw):
    """Replace predicted sides that rightly run out of the picture by the true ones, however far they run.

    The picture's edge cuts most characters. Boxes are clipped to the picture in the end, so such a side only needs to
    reach the edge; to learn where exactly the edge is, every cell would have to see it.

    Args:
        boxes, true_boxes: n x 4, in pixels. img_hw: (height, width) of the picture, or n x 2 of each box's picture.

    Returns:
        n x 4: `boxes`, with the true side (and no gradient) where the true side lies on the edge and the predicted one
        beyond it.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    true_low, true_high = true_boxes[:, :2], true_boxes[:, 2:]
    far = torch.as_tensor(img_hw).to(true_high).flip(-1)
    low = torch.where((true_low <= EDGE) & (low < true_low), true_low, low)
    high = torch.where((true_high >= far - EDGE) & (high > true_high), true_high, high)
    return torch.cat([low, high], dim=1)


def detection_losses(predictions, targets, assigner, image_sizes, unlabelled='background', taught=None):
    """Losses of a batch.

    Args:
        predictions: `Konohana.decode`'s dict for N images and P points.
        targets: N dicts of `boxes` (n x 4), `labels` (n; 1 is the first name) and maybe `ignored` (m x 4), in pixels
            of the batch.
        assigner: see `TaskAlignedAssigner`.
        image_sizes: N pairs (height, width) of the pictures within the batch.
        unlabelled: 'ignore' leaves out points that see somebody whom nobody labelled: their objectness is at least
            `SOMEBODY`, and their box is `apart` from all labelled ones. 'background' takes them for mistakes. (A simple
            form of Zhang et al. 2020, Solving Missing-Annotation Object Detection with Background Recalibration Loss,
            https://arxiv.org/abs/2002.05274.)
        taught: what a `training.teachers.Teachers` says of the batch, or None. What is learned is then the mean of the
            labels' targets and its; of its boxes those count that are of the labelled person (`SAME`).

    Returns:
        dict of scalars, weighted by `WEIGHTS`: `loss_objectness` (binary cross-entropy with the assigner's soft
        targets, over all points outside ignored regions), and over the points that learn a box, weighted by their soft
        target: `loss_quality` (binary cross-entropy with the IoU), `loss_box` (GIoU loss of `edges_reached`;
        Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630), `loss_name` (cross-entropy with label smoothing).
        All are divided by the batch's sum of soft targets.
    """
    index, soft_targets, counted = assigned(predictions, targets, assigner, image_sizes, unlabelled)
    positive = index >= 0
    owners = [own[own >= 0] for own in index]  # of each picture's points that learn a box
    true_boxes = torch.cat([target['boxes'][own] for target, own in zip(targets, owners, strict=True)])
    labels = torch.cat([target['labels'][own] for target, own in zip(targets, owners, strict=True)]) - 1
    sizes = torch.cat([own.new_tensor(size).expand(len(own), 2) for own, size in zip(owners, image_sizes, strict=True)])
    quality, names, boxes = (predictions[key][positive] for key in ('quality', 'names', 'boxes'))
    weight = soft_targets[positive]
    total = distributed.normaliser(soft_targets.sum(), len(targets))

    reached = edges_reached(boxes, true_boxes, sizes)
    box_loss = generalized_box_iou_loss(reached, true_boxes)
    iou = paired_iou(reached.detach(), true_boxes)
    name_loss = F.cross_entropy(names, labels, reduction='none', label_smoothing=LABEL_SMOOTHING)
    if taught is not None:
        soft_targets = (soft_targets + taught['objectness']) / 2
        taught_boxes = those_of_the_same(taught['boxes'][positive], true_boxes, sizes)
        taught_loss = generalized_box_iou_loss(edges_reached(boxes, taught_boxes, sizes), taught_boxes)
        box_loss = (box_loss + taught_loss) / 2
        name_loss = (name_loss + F.cross_entropy(names, taught['names'][positive], reduction='none')) / 2
    objectness = F.binary_cross_entropy_with_logits(predictions['objectness'], soft_targets, reduction='none') * counted
    losses = {
        'loss_objectness': objectness,
        'loss_quality': F.binary_cross_entropy_with_logits(quality, iou, reduction='none') * weight,
        'loss_box': box_loss * weight,
        'loss_name': name_loss * weight,
    }
    return {key: WEIGHTS[key] * loss.sum() / total for key, loss in losses.items()}


@torch.no_grad()
def assigned(predictions, targets, assigner, image_sizes, unlabelled):
    """What each point of a batch learns; for the arguments see `detection_losses`.

    Returns:
        index (N x P int64: the box of its picture, or -1 for none), soft_target (N x P, 0 to 1, of its objectness),
        counted (N x P bool: whether its objectness is learned at all).
    """
    points, parts = predictions['points'], []
    for i, target in enumerate(targets):
        true_boxes = target['boxes']
        visible = clip_boxes_to_image(predictions['boxes'][i], image_sizes[i])
        objectness = predictions['objectness'][i].sigmoid()
        index, soft_target = assigner(objectness, visible, points, true_boxes)
        left_out = points_in_boxes(points, target.get('ignored', true_boxes[:0]))
        if unlabelled == 'ignore':
            left_out |= (objectness >= SOMEBODY) & apart(visible, true_boxes)
        parts.append((index, soft_target, (index >= 0) | ~left_out))
    return [torch.stack(part) for part in zip(*parts, strict=True)]


def those_of_the_same(boxes, true_boxes, sizes):
    """A teacher's boxes, within their pictures, where they are of the labelled person; the labelled ones elsewhere.

    Args:
        boxes, true_boxes: n x 4, in pixels. sizes: n x 2, (height, width) of each box's picture.
    """
    far = sizes.flip(-1).repeat(1, 2).to(boxes)
    boxes = boxes.clamp(min=0).minimum(far)
    return torch.where((paired_iou(boxes, true_boxes) >= SAME)[:, None], boxes, true_boxes)
