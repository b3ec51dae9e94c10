"""From the flagship's predictions to detections."""

from torchvision.ops import box_iou, clip_boxes_to_image, nms


def postprocess(
    objectness, quality, names, boxes, size, *, score_threshold, nms_threshold, vote_threshold, max_detections
):
    """Turn one image's predictions at P points into detections: threshold, class-agnostic NMS, box voting.

    One character has one name, so NMS ignores classes. A character covers many cells, whose boxes and names differ a
    little: the boxes close to one that NMS keeps are averaged into it, and so are their class probabilities (box
    voting, Gidaris and Komodakis 2015, https://arxiv.org/abs/1505.01749).

    The score is the geometric mean of objectness (counted twice), quality and the class probability: the mixture with
    the highest AP on val.

    Args:
        objectness, quality: P logits. names: P x n_classes logits. boxes: P x 4 (x1, y1, x2, y2 in pixels).
        size: (height, width) of the image in pixels.
        score_threshold: boxes less likely to be a character are dropped before NMS.
        nms_threshold: IoU from which two boxes are the same character, whatever their names.
        vote_threshold: IoU from which a box that NMS drops votes on the one that it keeps.
        max_detections: keep the best so many.

    Returns:
        dict of `boxes` (n x 4), `labels` (n; 1 is the first class), `scores` (n, 0 to 1, descending) and
        `probabilities` (n x n_classes, of the classes, each row adding up to 1).
    """
    found = objectness.sigmoid() ** 2 * quality.sigmoid()
    boxes = clip_boxes_to_image(boxes, size)
    # Cells in a batch's padding see boxes of which nothing lies in the picture.
    seen = (found > score_threshold**3) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    found, boxes, names = found[seen], boxes[seen], names[seen].softmax(dim=-1)
    keep = nms(boxes, found, nms_threshold)
    votes = (box_iou(boxes[keep], boxes) >= vote_threshold) * found.sqrt()
    votes = votes / votes.sum(dim=1, keepdim=True)
    probabilities = votes @ names
    probability, labels = probabilities.max(dim=1)
    scores = (found[keep] * probability) ** 0.25
    best = scores.argsort(descending=True)[:max_detections]
    return {
        'boxes': (votes @ boxes)[best],
        'labels': labels[best] + 1,
        'scores': scores[best],
        'probabilities': probabilities[best],
    }
