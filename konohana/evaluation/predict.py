"""Detections of pictures and datasets."""

from konohana.progress import progress_bar


def predict(model, images, encode=False, with_maps=False):
    """Detect in a list of pictures.

    Args:
        model: a detector in evaluation mode.
        images: list of 3 x H x W RGB tensors, uint8 or float 0 to 1, of any size. They move to the model's device.
        encode: give `rles` instead of `masks`, so that dense masks need not leave the device.
        with_maps: ask the detector for its maps (`model.maps`) too.

    Returns:
        list of dicts, one for each picture, as the detector returns them, on the CPU.
    """
    import torch  # where it is used: these are its tensors

    with torch.inference_mode():
        images = [image.as_subclass(torch.Tensor).to(model.device, non_blocking=True) for image in images]
        if not model.takes_bytes:
            images = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
        detections = model(images, with_maps=True) if with_maps else model(images)
        if encode:
            detections = [encoded(found) for found in detections]
    return [
        {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in d.items()} for d in detections
    ]


def encoded(found):
    """Detections of a picture -> the same with `rles` (see `masks.encode`) instead of `masks`, if there are any."""
    found = dict(found)
    if 'masks' in found:
        from konohana import masks  # needs pycocotools

        found['rles'] = masks.encode(found.pop('masks'))
    return found


def predict_dataset(model, dataset, batch_size=8, title='Evaluating', progress=True):
    """Detect in every sample of a dataset. The model is in evaluation mode meanwhile.

    Args:
        model: a detector. dataset: a `Frames` dataset. batch_size: pictures that the detector sees at once.
        title: text before the progress bar. progress: whether to show one.

    Returns:
        list of dicts in the order of the dataset; those of a detector that gives masks have `rles`, see `encoded`.
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
