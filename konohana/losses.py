"""What the flagship learns from: the losses of confidence, quality, box and name."""

import torch
import torch.nn.functional as F
from torchvision.ops import clip_boxes_to_image, generalized_box_iou_loss

from konohana import distributed

WEIGHTS = {'loss_confidence': 1.0, 'loss_quality': 0.5, 'loss_box': 7.5, 'loss_name': 1.0}
LABEL_SMOOTHING = 0.05
TEACHER_WEIGHTS = {'confidence': 1.0, 'box': 7.5, 'name': 1.0, 'features': 3.0}
TEACHER_SURE = 0.05  # where the teacher is less sure that somebody is there, it has no say in who and how large
EDGE = 4.0  # pixels; a side this close to the picture's edge lies on it


def points_in_boxes(points, boxes):
    """P x 2 points, m x 4 boxes -> P bool: the point lies in at least one of the boxes."""
    if len(boxes) == 0:
        return torch.zeros(len(points), dtype=torch.bool, device=points.device)
    low = points[:, None] >= boxes[None, :, :2]
    high = points[:, None] <= boxes[None, :, 2:]
    return (low & high).all(dim=-1).any(dim=-1)


def edges_reached(boxes, true_boxes, img_hw):
    """Predicted boxes, but sides that rightly run out of the picture count as right, however far they run.

    Most characters are cut by the picture's edge. Boxes are clipped to the picture in the end, so all that such a side
    needs is to reach the edge; to learn where exactly the edge is would take a sight of it from every cell.

    Args:
        boxes, true_boxes: n x 4, in pixels. img_hw: (height, width) of the picture.

    Returns:
        n x 4: `boxes`, with the true side (and no gradient) where that lies on the edge and the predicted one beyond.
    """
    height, width = img_hw
    low, high = boxes[:, :2], boxes[:, 2:]
    true_low, true_high = true_boxes[:, :2], true_boxes[:, 2:]
    far = true_high.new_tensor([width, height])
    low = torch.where((true_low <= EDGE) & (low < true_low), true_low, low)
    high = torch.where((true_high >= far - EDGE) & (high > true_high), true_high, high)
    return torch.cat([low, high], dim=1)


def detection_losses(predictions, targets, assigner, image_sizes):
    """Losses of a batch.

    Args:
        predictions: `Konohana.decode`'s dict for N images and P points.
        targets: N dicts of `boxes` (n x 4), `labels` (n; 1 is the first name) and maybe `ignored` (m x 4), in pixels
            of the batch.
        assigner: see `TaskAlignedAssigner`.
        image_sizes: N pairs (height, width) of the pictures within the batch.

    Returns:
        dict of scalars, already weighted: `loss_confidence` (binary cross-entropy over all points outside ignored
        regions, towards the assigner's aims), and over the points that learn a box, weighted by their aim:
        `loss_quality` (binary cross-entropy towards the IoU), `loss_box` (GIoU loss of `edges_reached`; Rezatofighi et
        al. 2019, https://arxiv.org/abs/1902.09630), `loss_name` (cross-entropy with label smoothing). All are divided
        by the batch's sum of aims.
    """
    points = predictions['points']
    aims, counted = [], []
    chosen = {'weight': [], 'box': [], 'true_box': [], 'quality': [], 'names': [], 'label': []}
    for i, target in enumerate(targets):
        boxes = predictions['boxes'][i]
        true_boxes = target['boxes']
        visible = clip_boxes_to_image(boxes.detach(), image_sizes[i])
        index, aim = assigner(predictions['confidence'][i].sigmoid(), visible, points, true_boxes)
        positive = index >= 0
        aims.append(aim)
        counted.append(positive | ~points_in_boxes(points, target.get('ignored', true_boxes[:0])))
        chosen['weight'].append(aim[positive])
        true_box = true_boxes[index[positive]]
        chosen['box'].append(edges_reached(boxes[positive], true_box, image_sizes[i]))
        chosen['true_box'].append(true_box)
        chosen['quality'].append(predictions['quality'][i][positive])
        chosen['names'].append(predictions['names'][i][positive])
        chosen['label'].append(target['labels'][index[positive]] - 1)
    chosen = {key: torch.cat(parts) for key, parts in chosen.items()}
    aims, counted = torch.stack(aims), torch.stack(counted)
    weight = chosen['weight']
    total = distributed.normaliser(aims.sum(), len(targets))

    confidence = F.binary_cross_entropy_with_logits(predictions['confidence'], aims, reduction='none') * counted
    box = generalized_box_iou_loss(chosen['box'], chosen['true_box']) * weight
    with torch.no_grad():
        iou = paired_iou(chosen['box'], chosen['true_box'])
    quality = F.binary_cross_entropy_with_logits(chosen['quality'], iou, reduction='none') * weight
    name = F.cross_entropy(chosen['names'], chosen['label'], reduction='none', label_smoothing=LABEL_SMOOTHING) * weight
    losses = {'loss_confidence': confidence, 'loss_quality': quality, 'loss_box': box, 'loss_name': name}
    return {key: WEIGHTS[key] * loss.sum() / total for key, loss in losses.items()}


def teacher_losses(predictions, targets, image_sizes):
    """How far a network sees something else than its teacher does (Hinton et al. 2015, 1503.02531).

    Args:
        predictions: `Konohana.decode`'s dict for N images and P points, and `features`, the neck's map N x c x h x w.
        targets: N dicts with what `distillation.Teacher.look` adds, `teacher`.
        image_sizes: N pairs (height, width) of the pictures within the batch.

    Returns:
        dict of the scalar `loss_teacher`, already weighted: binary cross-entropy of confidence at all points; at the
        points where the teacher is sure of somebody, weighted by its confidence, GIoU loss of `edges_reached` and
        cross-entropy of the names; these divided by the batch's sum of the teacher's confidences. And `features_apart`.
    """
    views = [target['teacher'] for target in targets]
    seen = {key: torch.stack([view[key] for view in views]) for key in views[0]}
    sure = seen['confidence'] > TEACHER_SURE
    weight = seen['confidence'][sure]
    total = distributed.normaliser(seen['confidence'].sum(), len(targets))
    confidence = F.binary_cross_entropy_with_logits(predictions['confidence'], seen['confidence'], reduction='sum')
    name = F.cross_entropy(predictions['names'][sure], seen['names'][sure], reduction='none') * weight
    boxes, true_boxes = [], []
    for i, size in enumerate(image_sizes):
        true_boxes.append(clip_boxes_to_image(seen['boxes'][i][sure[i]], size))
        boxes.append(edges_reached(predictions['boxes'][i][sure[i]], true_boxes[-1], size))
    box = generalized_box_iou_loss(torch.cat(boxes), torch.cat(true_boxes)) * weight
    apart = {'confidence': confidence / total, 'box': box.sum() / total, 'name': name.sum() / total}
    apart['features'] = features_apart(predictions['features'], seen['features'])
    return {'loss_teacher': sum(TEACHER_WEIGHTS[key] * value for key, value in apart.items())}


def features_apart(features, wanted):
    """1 minus the correlation of two maps N x c x h x w, mean over channels: 0 where they say the same, at most 2.

    Cao et al. 2022 (PKD, 2207.02039): what counts is where a channel is strong, not how large the numbers are.
    """
    a, b = (x.float().transpose(0, 1).flatten(1) for x in (features, wanted))
    a, b = (
        (x - x.mean(dim=1, keepdim=True)) / x.std(dim=1, correction=0, keepdim=True).clamp(min=1e-6) for x in (a, b)
    )
    return 1 - (a * b).mean()


def paired_iou(a, b):
    """IoU of box i of `a` with box i of `b`; both n x 4 -> n in 0 to 1."""
    low = torch.maximum(a[:, :2], b[:, :2])
    high = torch.minimum(a[:, 2:], b[:, 2:])
    overlap = (high - low).clamp(min=0).prod(dim=1)
    union = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1) - overlap
    return overlap / union.clamp(min=1e-6)
