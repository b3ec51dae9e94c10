"""What a model is shown of a video's frames, and what it finds in them."""

from typing import NamedTuple

import numpy as np

from konohana.boxes import as_array
from konohana.data.images import fit_size

LARGEST_LOOK = (1080, 1920)  # height and width of frames that are looked at again
NOTHING = {'boxes': np.zeros((0, 4), np.float32), 'labels': np.zeros(0, int), 'scores': np.zeros(0, np.float32)}


def detect(model, frames, hw, threshold, pictures=None):
    """Detections of uint8 h x w x 3 RGB frames, with boxes in pixels of a picture of `hw` (height, width).

    Detections below `threshold` are dropped, and masks stay at the size of the frames: masks at full size would fill
    the memory. pictures: larger versions of the frames, at which a detector that looks again does so.
    """
    h, w = frames[0].shape[:2]
    if hasattr(model, 'detect'):
        found = model.detect(frames, pictures=pictures or None)
    else:
        found = _called(model, frames)
    scale = np.array([hw[1] / w, hw[0] / h] * 2, np.float32)
    detections = []
    for d in found:
        scores = as_array(d['scores'])
        shown = scores >= threshold
        boxes = as_array(d['boxes']).astype(np.float32)[shown].reshape(-1, 4) * scale
        detections.append({'boxes': boxes, 'scores': scores.astype(np.float32)[shown]})
        for key in ('labels', 'masks', 'probabilities'):
            if key in d:
                detections[-1][key] = as_array(d[key])[shown]
    return detections


def _called(model, frames):
    """What any callable gives for frames; see `annotate.annotate_video`."""
    import torch  # here alone: detectors of this program that other runtimes compute do without it

    _, device, takes_bytes = inputs_of(model)
    with torch.inference_mode():
        images = [torch.from_numpy(frame).to(device).permute(2, 0, 1) for frame in frames]
        return model(images if takes_bytes else [image.float().div(255) for image in images])


class Inputs(NamedTuple):
    """The inputs that a model takes: `img_hw` (height, width) or None for any, `device`, and whether it takes bytes."""

    img_hw: tuple | None
    device: object  # torch.device or its name
    takes_bytes: bool


def inputs_of(model):
    """`Inputs` of a model. A model may be any callable, so these three attributes are optional."""
    parameter = next(iter(model.parameters()), None) if hasattr(model, 'parameters') else None
    device = 'cpu' if parameter is None else parameter.device
    return Inputs(getattr(model, 'img_hw', None), device, getattr(model, 'takes_bytes', False))


def model_size(width, height, sar, model):
    """(height, width) of the frames for the model: square pixels, reduced to the model's size.

    Reducing bytes here is several times as fast as reducing floats in the model, which then does not resize. Frames
    smaller than the model's size keep theirs.
    """
    width = max(1, round(width * float(sar or 1)))
    fit = fit_size(height, width, inputs_of(model).img_hw or (height, width))
    return min(fit, (height, width))


def looked_at_size(width, height, sar, model):
    """(height, width) of the frames for a model's second look; None for a model that takes none, or gains nothing.

    Small people are seen better in the frame as it is; beyond `LARGEST_LOOK` nobody gains, and a 4K frame fills memory.
    """
    if not getattr(model, 'looks_again', False):
        return None
    width = max(1, round(width * float(sar or 1)))
    size = min(fit_size(height, width, LARGEST_LOOK), (height, width))
    return size if size > model_size(width, height, 1, model) else None
