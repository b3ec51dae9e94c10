"""Trained detectors whose opinion another one learns besides the labels.

Hinton et al. 2015, Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531. Here teachers and
learner have the same output map, so each cell learns from the same cell.
"""

import torch

from konohana import checkpoint, inference
from konohana.errors import UserError


class Teachers:
    """Detectors that give their opinion of a batch. No weights of the learner, so no part of its files.

    Args:
        detectors: list of `Konohana`, in evaluation mode, with the learner's classes in the learner's order.

    `teachers(batch)`: normalised N x 3 x H x W -> dict of `objectness` (N x P, 0 to 1), `names` (N x P x n_classes, 0
    to 1) and `boxes` (N x P x 4, in pixels of the batch) for the points of `Konohana.decode`: the means of all.
    """

    def __init__(self, detectors):
        self.detectors = detectors

    @torch.no_grad()
    def __call__(self, batch):
        opinions = [detector.decode(detector.raw_outputs(batch)) for detector in self.detectors]
        return {
            'objectness': mean([opinion['objectness'].sigmoid() for opinion in opinions]),
            'names': mean([opinion['names'].softmax(dim=-1) for opinion in opinions]),
            'boxes': mean([opinion['boxes'] for opinion in opinions]),
        }


def mean(tensors):
    """Tensors of one shape -> their mean."""
    return sum(tensors) / len(tensors)


def read_teachers(paths, class_names, device):
    """Teachers from weights files.

    Args:
        paths: list of weights files. class_names: the learner's. device: torch.device to train on.

    Raises:
        UserError: see `checkpoint.load`; weights of another kind of detector, or of other classes.
    """
    detectors = []
    for path in paths:
        content = checkpoint.load(path)
        if content['detector'] != 'konohana':
            raise UserError(f'{path}: a detector={content["detector"]!r} cannot teach the default network.')
        if list(content['class_names']) != list(class_names):
            raise UserError(
                f'{path}: this teacher knows {", ".join(content["class_names"])}, and {", ".join(class_names)} are '
                'learned. Train a teacher on the same data.'
            )
        detector = inference.from_checkpoint(content, path).eval()
        detector.second_look = None  # it has no say
        detectors.append(inference.on_device(detector, device))
    return Teachers(detectors)
