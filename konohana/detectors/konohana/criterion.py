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
        boxes, true_boxes: n x 4, in pixels. img_hw: (height, width) of the picture.

    Returns:
        n x 4: `boxes`, with the true side (and no gradient) where the true side lies on the edge and the predicted one
        beyond it.
    """
    height, width = img_hw
    low, high = boxes[:, :2], boxes[:, 2:]
    true_low, true_high = true_boxes[:, :2], true_boxes[:, 2:]
    far = true_high.new_tensor([width, height])
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
        taught: what `Teachers` say of the batch, or None. Each target is then the mean of the labels' and theirs; a box
            of theirs counts where it is of the labelled person (`SAME` of IoU).

    Returns:
        dict of scalars, weighted by `WEIGHTS`: `loss_objectness` (binary cross-entropy with the assigner's soft
        targets, over all points outside ignored regions), and over the points that learn a box, weighted by their soft
        target: `loss_quality` (binary cross-entropy with the IoU), `loss_box` (GIoU loss of `edges_reached`;
        Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630), `loss_name` (cross-entropy with label smoothing).
        All are divided by the batch's sum of soft targets.
    """
    points = predictions['points']
    soft_targets, counted = [], []
    chosen = {'weight': [], 'box': [], 'true_box': [], 'quality': [], 'names': [], 'label': []}
    if taught is not None:
        chosen |= {'taught_box': [], 'box_for_taught': [], 'taught_names': []}
    for i, target in enumerate(targets):
        boxes = predictions['boxes'][i]
        true_boxes = target['boxes']
        visible = clip_boxes_to_image(boxes.detach(), image_sizes[i])
        objectness = predictions['objectness'][i].detach().sigmoid()
        index, soft_target = assigner(objectness, visible, points, true_boxes)
        positive = index >= 0
        soft_targets.append(soft_target)
        left_out = points_in_boxes(points, target.get('ignored', true_boxes[:0]))
        if unlabelled == 'ignore':
            left_out |= (objectness >= SOMEBODY) & apart(visible, true_boxes)
        counted.append(positive | ~left_out)
        chosen['weight'].append(soft_target[positive])
        true_box = true_boxes[index[positive]]
        chosen['box'].append(edges_reached(boxes[positive], true_box, image_sizes[i]))
        chosen['true_box'].append(true_box)
        chosen['quality'].append(predictions['quality'][i][positive])
        chosen['names'].append(predictions['names'][i][positive])
        chosen['label'].append(target['labels'][index[positive]] - 1)
        if taught is not None:
            taught_box = clip_boxes_to_image(taught['boxes'][i][positive], image_sizes[i])
            same = paired_iou(taught_box, true_box) >= SAME
            taught_box = torch.where(same[:, None], taught_box, true_box)
            chosen['taught_box'].append(taught_box)
            chosen['box_for_taught'].append(edges_reached(boxes[positive], taught_box, image_sizes[i]))
            chosen['taught_names'].append(taught['names'][i][positive])
    chosen = {key: torch.cat(parts) for key, parts in chosen.items()}
    soft_targets, counted = torch.stack(soft_targets), torch.stack(counted)
    weight = chosen['weight']
    total = distributed.normaliser(soft_targets.sum(), len(targets))

    if taught is not None:
        soft_targets = (soft_targets + taught['objectness']) / 2
    objectness = F.binary_cross_entropy_with_logits(predictions['objectness'], soft_targets, reduction='none') * counted
    box = generalized_box_iou_loss(chosen['box'], chosen['true_box'])
    with torch.no_grad():
        iou = paired_iou(chosen['box'], chosen['true_box'])
    quality = F.binary_cross_entropy_with_logits(chosen['quality'], iou, reduction='none') * weight
    name = F.cross_entropy(chosen['names'], chosen['label'], reduction='none', label_smoothing=LABEL_SMOOTHING)
    if taught is not None:
        box = (box + generalized_box_iou_loss(chosen['box_for_taught'], chosen['taught_box'])) / 2
        name = (name + F.cross_entropy(chosen['names'], chosen['taught_names'], reduction='none')) / 2
    losses = {
        'loss_objectness': objectness,
        'loss_quality': quality,
        'loss_box': box * weight,
        'loss_name': name * weight,
    }
    return {key: WEIGHTS[key] * loss.sum() / total for key, loss in losses.items()}
