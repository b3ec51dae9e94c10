"""Labelled people as a detector finds them, with their embeddings: what casts and their likenesses are measured by."""

from konohana.boxes import iou
from konohana.data.images import load_image
from konohana.progress import progress_bar

FOUND = 0.5  # lowest IoU of a detection and the labelled person
MARGIN = 0.1  # of a box's sides, that a picture of a cast shows around it


def found_people(model, samples, title, progress):
    """The labelled people of some frames whom a detector finds and looks at again, from now on at everyone.

    Args:
        model: the detector. samples: the frames. title, progress: of the progress bar.

    Returns:
        list of dicts of `name`, `embeddings` (d), `probabilities` of the names learned, and `learned`, the likeliest.
    """
    model.looks_at_everyone = True  # those, too, whose names it is sure of
    people = []
    with progress_bar(title, len(samples), progress) as bar:
        for done, sample in enumerate(samples, 1):
            (detections,) = model.detect([load_image(sample.path)])
            people += _matched(sample, detections, model.class_names)
            bar.update(done)
    return people


def spaced(samples, most):
    """The frames that hold at most so many people of each name, evenly spaced among the frames with this name."""
    chosen = set()
    for name in sorted({name for sample in samples for name in sample.names}):
        own = [i for i, sample in enumerate(samples) if name in sample.names]
        chosen.update(own[k * len(own) // most] for k in range(most) if most < len(own))
        chosen.update(own if most >= len(own) else ())
    return [samples[i] for i in sorted(chosen)]


def picture_of(image, box):
    """A person as a picture of a cast shows one: the box and `MARGIN` around it, as far as the frame reaches.

    Args:
        image: uint8 H x W x 3. box: x1, y1, x2, y2 in pixels of it.

    Returns:
        uint8 h x w x 3, a part of `image`.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box
    around = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    left, top = max(0, round(x1 - around[0])), max(0, round(y1 - around[1]))
    right, bottom = min(width, round(x2 + around[0])), min(height, round(y2 + around[1]))
    return image[top:bottom, left:right]


def _matched(sample, found, class_names):
    """The detections of a picture that are labelled people, see `found_people`."""
    if not len(sample.boxes) or not len(found['boxes']):
        return []
    overlaps, rows = iou(sample.boxes, found['boxes']), []
    for i, name in enumerate(sample.names):
        best = int(overlaps[i].argmax())
        if overlaps[i, best] >= FOUND and not sample.difficult[i] and found['embeddings'][best].any():
            own = {key: found[key][best] for key in ('embeddings', 'probabilities')}
            learned = class_names[int(found['labels'][best]) - 1]
            rows.append({'name': name, 'learned': learned, **own})
    return rows
