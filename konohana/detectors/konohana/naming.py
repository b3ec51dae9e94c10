"""Names from two opinions: the detector's, and that of a second look at each person (see `second_look`)."""

import torch
from torchvision.transforms.v2 import functional as TF

from konohana.detectors.konohana.second_look import EMBEDDING, SIDE, regions

LOOK_FROM = 0.3  # score from which a box is looked at again
LOOK_WEIGHT = 0.4  # of the second look's opinion against the detector's, 0 to 1


def look_again(found, hw, picture, look):
    """Name the people of one picture by both opinions.

    The probabilities of the names become the weighted geometric mean of both. A score is the geometric mean of the
    objectness (counted twice), the quality and the name's probability (see `postprocess`), so it changes by the fourth
    root of what the probability changes by.

    Args:
        found: dict of `boxes`, `labels`, `scores` and `probabilities` as `postprocess` returns it; other entries stay.
        hw: (height, width) of the picture in whose pixels the boxes are.
        picture: the same or a larger version of it, 3 x H x W, RGB, uint8 or float 0 to 1.
        look: function of (picture, n x 4 boxes) -> (embeddings n x d, logits n x n_classes).

    Returns:
        such a dict, with `embeddings` (n x d, of unit length). Boxes with a score below `LOOK_FROM` are not looked at:
        they keep their names, and zeros are their embeddings.
    """
    scores, probabilities = found['scores'], found['probabilities']
    n_seen = (scores >= LOOK_FROM).sum()  # the first ones: scores are descending
    if not torch.jit.is_tracing() and not n_seen:
        return {**found, 'embeddings': probabilities.new_zeros(len(scores), EMBEDDING)}
    boxes = found['boxes'][:n_seen]
    if tuple(hw) != tuple(picture.shape[-2:]):
        boxes = boxes * boxes.new_tensor([picture.shape[-1] / hw[1], picture.shape[-2] / hw[0]] * 2)
    embeddings, logits = look(picture, boxes)
    names = fused(probabilities[:n_seen], logits.to(probabilities).softmax(dim=-1))
    names = torch.cat([names, probabilities[n_seen:]])
    embeddings = torch.cat([embeddings, embeddings.new_zeros(scores.shape[0] - n_seen, embeddings.shape[1])])
    return renamed({**found, 'embeddings': embeddings}, names)


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
