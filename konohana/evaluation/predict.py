"""Detections of pictures and data sets."""

import torch

from konohana import masks
from konohana.progress import progress_bar


@torch.inference_mode()
def predict(model, images, encode=False, with_maps=False):
    """Detections of a list of pictures (uint8 or float 0 to 1, 3 x H x W RGB), on the CPU.

    Pictures go to the model's device, uint8 becomes float there. Returns the model's list of dicts; with `encode` they
    have `rles` instead of `masks`, so that dense masks need not even leave the device; with `with_maps` also the
    detector's `maps`.
    """
    device = next(model.parameters()).device
    images = [image.as_subclass(torch.Tensor).to(device, non_blocking=True) for image in images]
    images = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
    detections = model(images, with_maps=True) if with_maps else model(images)
    if encode:
        detections = [encoded(found) for found in detections]
    return [{key: value.cpu() if hasattr(value, 'cpu') else value for key, value in d.items()} for d in detections]


def encoded(found):
    """A picture's detections with `rles` in the place of `masks`, if it has any."""
    found = dict(found)
    if 'masks' in found:
        found['rles'] = masks.encode(found.pop('masks'))
    return found


def predict_dataset(model, dataset, batch_size=8, title='Evaluating', progress=True):
    """Detections of every sample of a `Frames` dataset, in its order; the model is in evaluation mode meanwhile.

    Of a detector that gives masks they have `rles`, see above.
    """
    was_training = model.training
    model.eval()
    detections = []
    try:
        with progress_bar(title, len(dataset), shown=progress) as bar:
            for start in range(0, len(dataset), batch_size):
                samples = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
                detections += predict(model, [image for image, _ in samples], encode=True)
                bar.update(len(detections))
    finally:
        model.train(was_training)
    return detections
