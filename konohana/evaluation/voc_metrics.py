"""Pascal VOC's mean average precision (Everingham et al. 2010, https://doi.org/10.1007/s11263-009-0275-4)."""

import numpy as np

from konohana.boxes import as_array, iou, part_inside


def voc_map(samples, detections, class_names, iou_threshold=0.5, eleven_points=True):
    """Mean average precision as the Pascal VOC development kit computes it.

    Each detection, best first, is compared with the object it overlaps most. A second detection of an object is a
    mistake. Difficult objects are neither hit nor miss, and detections mostly in an ignored region do not count.

    Args:
        samples: list of `Sample`. detections: one dict of `boxes` (n x 4), `labels` (n) and `scores` (n) for each.
        class_names: label k names class_names[k - 1]. iou_threshold: the lowest IoU of a hit.
        eleven_points: VOC 2007's mean over recalls 0, 0.1, ... 1; else VOC 2010's area under the curve.

    Returns:
        mean over the classes that have objects, 0 to 1; nan if none has.
    """
    return voc_mean(voc_matches(samples, detections, class_names, iou_threshold), eleven_points)


def voc_mean(matches, eleven_points):
    """What `voc_matches` returns -> mean average precision, see `voc_map`."""
    values = [_voc_ap(rows, n_objects, eleven_points) for rows, n_objects in matches if n_objects]
    return float(np.mean(values)) if values else float('nan')


def voc_matches(samples, detections, class_names, iou_threshold):
    """Compare detections with labels, see `voc_map` -> for each class a tuple of (list of (score, is a hit) of all
    pictures, number of objects that are not difficult).
    """
    matches = [([], 0) for _ in class_names]
    label_of = {name: label for label, name in enumerate(class_names, start=1)}
    for sample, found in zip(samples, detections, strict=True):
        found = drop_ignored(found, sample.ignored)
        labels, scores = found['labels'], found['scores']
        true_labels = np.array([label_of[name] for name in sample.names], np.int64)
        overlaps = iou(found['boxes'].astype(np.float32), sample.boxes)
        for label in {*labels.tolist(), *true_labels.tolist()}:
            mine, keep = true_labels == label, labels == label
            rows, n_objects = matches[label - 1]
            rows += _match_voc(overlaps[keep][:, mine], scores[keep], sample.difficult[mine], iou_threshold)
            matches[label - 1] = rows, n_objects + int((~sample.difficult[mine]).sum())
    return matches


def _match_voc(overlaps, scores, difficult, iou_threshold):
    """One picture, one class -> list of (score, is a hit); what falls on a difficult object is left out.

    Args:
        overlaps: IoU of n detections with m objects. scores: of the detections. difficult: m bools.
    """
    rows, taken = [], np.zeros(len(difficult), bool)
    for i in np.argsort(-scores, kind='stable'):
        best = int(overlaps[i].argmax()) if len(difficult) else -1
        hit = best >= 0 and overlaps[i, best] >= iou_threshold
        if hit and difficult[best]:
            continue
        rows.append((float(scores[i]), bool(hit and not taken[best])))
        if hit:
            taken[best] = True
    return rows


def _voc_ap(rows, n_objects, eleven_points):
    """(score, hit) of all pictures -> average precision."""
    rows.sort(key=lambda row: -row[0])
    hits = np.cumsum([hit for _, hit in rows]) if rows else np.zeros(0)
    recall = hits / n_objects
    precision = hits / np.arange(1, len(rows) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if eleven_points:
        return float(np.mean([envelope[recall >= r - 1e-12].max(initial=0.0) for r in np.linspace(0, 1, 11)]))
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def drop_ignored(found, ignored):
    """Leave out the detections whose box lies more than half inside one ignored region.

    Args:
        found: dict of `boxes` (n x 4), `labels` and `scores`, tensors or arrays. ignored: m x 4 boxes of regions.

    Returns:
        dict of `boxes`, `labels` and `scores` of those that remain, arrays.
    """
    found = {key: as_array(found[key]) for key in ('boxes', 'labels', 'scores')}
    keep = (part_inside(found['boxes'].astype(np.float32), as_array(ignored)) <= 0.5).all(1)
    return {key: values[keep] for key, values in found.items()}
