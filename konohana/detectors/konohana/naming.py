"""Names from two opinions: the detector's, and that of a second look at each person (see `second_look`)."""

import torch
from torchvision.transforms.v2 import functional as TF

from konohana.detectors.konohana.second_look import EMBEDDING, SIDE, regions

LOOK_FROM = 0.3  # score from which a box is looked at again
SURE = 0.85  # probability from which the detector is believed: it is hardly ever wrong then, and looking takes time
LOOK_WEIGHT = 0.4  # of the second look's opinion against the detector's, 0 to 1


def look_again(found, hw, picture, look, rows=None, everyone=False):
    """Name the people of one picture by both opinions.

    The probabilities of the names become the weighted geometric mean of both. A score is the geometric mean of the
    objectness (counted twice), the quality and the name's probability (see `postprocess`), so it changes by the fourth
    root of what the probability changes by.

    Args:
        found: dict of `boxes`, `labels`, `scores` and `probabilities` as `postprocess` returns it; other entries stay.
        hw: (height, width) of the picture in whose pixels the boxes are.
        picture: the same or a larger version of it, 3 x H x W, RGB, uint8 or float 0 to 1.
        look: function of (picture, n x 4 boxes) -> (embeddings n x d, logits n x n_classes).
        rows: indices of the boxes to look at, m int64; None chooses them: scores from `LOOK_FROM` on, whose name the
            detector is not sure of.
        everyone: choose also those whose name it is sure of. Their embeddings are wanted then; their names stay.

    Returns:
        such a dict, with `embeddings` (n x d, of unit length). Boxes that are not looked at keep their names, and zeros
        are their embeddings.
    """
    scores, probabilities = found['scores'], found['probabilities']
    unsure = probabilities.amax(dim=1) < SURE
    if rows is None:
        wanted = scores >= LOOK_FROM
        rows = (wanted if everyone else wanted & unsure).nonzero()[:, 0]
    embeddings = probabilities.new_zeros(scores.shape[0], EMBEDDING)
    if not torch.jit.is_tracing() and not len(rows):
        return {**found, 'embeddings': embeddings}
    boxes = found['boxes'][rows]
    if tuple(hw) != tuple(picture.shape[-2:]):
        boxes = boxes * boxes.new_tensor([picture.shape[-1] / hw[1], picture.shape[-2] / hw[0]] * 2)
    seen, logits = look(picture, boxes)
    own = probabilities[rows]
    names = torch.where(unsure[rows][:, None], fused(own, logits.to(own).softmax(dim=-1)), own)
    embeddings = embeddings.index_copy(0, rows, seen.to(embeddings))
    return renamed({**found, 'embeddings': embeddings}, probabilities.index_copy(0, rows, names))


def resized_crops(picture, boxes):
    """What `second_look.crop` gives, by resizing: within rounding the same, in a third of the time on a CPU.

    Args:
        picture: 3 x H x W, RGB, uint8 or float 0 to 1. boxes: n x 4, in its pixels.

    Returns:
        n x 3 x SIDE x SIDE, of the type of `picture`.
    """
    height, width = picture.shape[-2:]
    crops = [picture.new_zeros(0, 3, SIDE, SIDE)]
    for x1, y1, x2, y2 in regions(boxes, height, width).round().int().tolist():
        left, top = min(x1, width - 1), min(y1, height - 1)
        part = picture[:, top : max(y2, top + 1), left : max(x2, left + 1)]
        crops.append(TF.resize(part, [SIDE, SIDE], antialias=True)[None])
    return torch.cat(crops)


def fused(detector, look, weight=LOOK_WEIGHT):
    """The weighted geometric mean of two opinions, n x c each, every row adding up to 1."""
    names = detector.clamp(min=1e-8) ** (1 - weight) * look.clamp(min=1e-8) ** weight
    return names / names.sum(dim=1, keepdim=True)


def renamed(found, probabilities):
    """Detections under other names: labels, scores and their order follow `probabilities` (n x c)."""
    before = found['probabilities'].amax(dim=1)
    probability, labels = probabilities.max(dim=1)
    scores = found['scores'] * (probability / before) ** 0.25
    order = scores.argsort(descending=True)
    found = {**found, 'labels': labels + 1, 'scores': scores, 'probabilities': probabilities}
    return {key: value[order] if key in ROWS else value for key, value in found.items()}


ROWS = ('boxes', 'labels', 'scores', 'probabilities', 'embeddings')  # entries with a row for each detection
