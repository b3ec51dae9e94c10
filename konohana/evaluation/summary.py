"""How good detections are: COCO's metrics, Pascal VOC's, and what a viewer asks: found? rightly named?

Detections are dicts as the detectors return them. Dense masks (`masks`) of many pictures would fill the memory, so here
detections hold them encoded: `rles`, a list of compressed RLEs (see masks.py) in the order of the boxes.

An object that its labels call difficult is neither hit nor miss in any of these metrics: finding it, however often, is
no mistake, and missing it costs nothing.

Where labels are not complete, `unlabelled='ignore'` leaves out detections that are `boxes.apart` from all labels
before finding is measured (AP of found, precision, recall, F1): somebody may be there whom nobody labelled. Detections
of nobody far from all labels cannot be told from these, so they do not count either. Metrics by name count all
detections: whoever has one of the names is labelled.
"""

import contextlib
import gc
from collections import Counter

import numpy as np

from konohana.boxes import apart, as_array, iou
from konohana.cast import ROMANISED
from konohana.evaluation.coco_metrics import COCO_NUMBERS, coco_ground_truth, coco_results, compute_coco_metrics
from konohana.evaluation.voc_metrics import drop_ignored, voc_matches, voc_mean


@contextlib.contextmanager
def without_collector():
    """Python's collector looks through all objects again and again, a million of small dicts: it is off here."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@without_collector()
def evaluate(samples, detections, class_names, unlabelled='background'):
    """All metrics of detections against labels.

    Args:
        samples: list of `Sample`. detections: one dict of `boxes` (n x 4), `labels` (n), `scores` (n) and maybe `rles`
            or `masks` for each, in pixels of the picture file. class_names: label k names class_names[k - 1].
        unlabelled: 'background' or 'ignore', see above.

    Returns:
        dict: the twelve numbers of `COCO_NUMBERS`; `AP_per_class` and `AP50_per_class` (name -> AP, AP50);
        `AP50_agnostic` and `AP75_agnostic` (found, whoever it is); `VOC07_mAP` and `VOC12_mAP` (11 points, and the area
        under the curve); and `objects_per_class` (name -> number of objects that count). Where all detections and all
        objects have masks, all but VOC's also for masks, as `mask_AP`, `mask_AP50` ... `mask_AP75_agnostic`. Metrics
        are 0 to 1, and nan where there is nothing to measure.
    """
    truth = coco_ground_truth(samples, class_names, detections)
    results = coco_results(detections)
    of_labelled = results
    if unlabelled == 'ignore':
        rows = zip(detections, samples, strict=True)
        of_labelled = coco_results([drop_unlabelled(found, sample.boxes) for found, sample in rows])
    metrics = compute_coco_metrics(truth, results, 'bbox', class_names, of_labelled)
    count = Counter(name for sample in samples for name in np.array(sample.names, object)[~sample.difficult])
    metrics['objects_per_class'] = {name: count[name] for name in class_names}
    matches = voc_matches(samples, detections, class_names, iou_threshold=0.5)
    metrics['VOC07_mAP'] = voc_mean(matches, eleven_points=True)
    metrics['VOC12_mAP'] = voc_mean(matches, eleven_points=False)
    has_masks = all('rles' in found or 'masks' in found for found in detections)
    if has_masks and all(sample.masks is not None and sample.has_masks for sample in samples):
        of_masks = compute_coco_metrics(truth, results, 'segm', class_names, of_labelled)
        metrics.update({f'mask_{name}': value for name, value in of_masks.items()})
    return metrics


def drop_unlabelled(found, boxes):
    """Leave out the detections (dict of tensors and lists of n) that are `apart` from all labelled boxes (m x 4)."""
    keep = ~apart(as_array(found['boxes']).astype(np.float32), as_array(boxes))
    return {
        key: [v for v, near in zip(value, keep, strict=True) if near]
        if isinstance(value, list)
        else as_array(value)[keep]
        for key, value in found.items()
    }


def metrics_at_threshold(samples, detections, class_names, threshold, iou_threshold=0.5, unlabelled='background'):
    """What a viewer sees at one threshold: who is found, what is drawn in error, who gets the right name.

    Detections of at least `threshold`, best first, each take the free object that they overlap most, whatever its name.
    One that finds no free object but a difficult one, or is mostly in an ignored region, does not count.

    Args:
        samples, detections, class_names, unlabelled: see `evaluate`. threshold: lowest score, 0 to 1.
        iou_threshold: the lowest IoU of a hit.

    Returns:
        dict of `precision`, `recall`, `f1` of finding, and `named`, the share of the found whose name is right; 0 to 1.
    """
    n_found = n_drawn = n_named = n_objects = 0
    for sample, found in zip(samples, detections, strict=True):
        found = drop_ignored(found, sample.ignored)
        if unlabelled == 'ignore':
            found = drop_unlabelled(found, sample.boxes)
        keep = found['scores'] >= threshold
        found = {key: value[keep] for key, value in found.items()}
        pairs, excused = match(found, sample, iou_threshold)
        n_objects += int((~sample.difficult).sum())
        n_drawn += len(found['scores']) - len(excused)
        n_found += len(pairs)
        n_named += sum(class_names[found['labels'][i] - 1] == sample.names[j] for i, j in pairs)
    precision, recall = n_found / max(n_drawn, 1), n_found / max(n_objects, 1)
    return {
        'precision': precision,
        'recall': recall,
        'f1': 2 * precision * recall / max(precision + recall, 1e-9),
        'named': n_named / max(n_found, 1),
    }


def match(found, sample, iou_threshold):
    """One picture -> (pairs of a detection and the object it finds, the detections that fall on difficult ones).

    See `metrics_at_threshold`. The best detections choose first, so those of a higher threshold have the same pairs.
    """
    overlaps, difficult = iou(as_array(found['boxes']).astype(np.float32), sample.boxes), sample.difficult
    free, pairs, excused = ~difficult, [], []
    for i in np.argsort(-as_array(found['scores']), kind='stable').tolist():
        hits = overlaps[i] >= iou_threshold
        if (hits & free).any():
            best = int(np.where(free, overlaps[i], -1.0).argmax())
            free[best] = False
            pairs.append((i, best))
        elif (hits & difficult).any():
            excused.append(i)
    return pairs, excused


def report_metrics(samples, detections, class_names, threshold, unlabelled='background'):
    """All metrics of detections against labels as text, see `evaluate` and `metrics_at_threshold`.

    Names in `samples` that the detector does not know are said first; such characters can be found, but not named.
    """
    unknown = sorted({name for sample in samples for name in sample.names} - set(class_names))
    class_names = [*class_names, *unknown]
    at = metrics_at_threshold(samples, detections, class_names, threshold, unlabelled=unlabelled)
    lines = [format_metrics(evaluate(samples, detections, class_names, unlabelled), _with_romanised)]
    if unknown:
        names = ', '.join(unknown)
        lines.insert(0, f'These weights do not know {names}: such characters can be found here, but not named.')
    lines.append(
        f'At threshold {threshold:g}: precision {at["precision"]:.3f}, recall {at["recall"]:.3f}, '
        f'F1 {at["f1"]:.3f}; of those found, {at["named"]:.1%} rightly named'
    )
    return '\n'.join(lines)


def _with_romanised(name):
    return f'{name} {ROMANISED[name]}' if name in ROMANISED else name


def format_metrics(metrics, spell=str):
    """What `evaluate` returns as text, masks beside boxes. `spell`: function of a class name -> spelling to show."""
    titles = ('IoU 0.50:0.95', 'IoU 0.50', 'IoU 0.75', 'small', 'medium', 'large')
    titles += ('1 detection', '10 detections', '100 detections', 'small', 'medium', 'large')
    kinds = ('', 'mask_') if 'mask_AP' in metrics else ('',)
    lines = ["COCO's twelve numbers" + (', boxes and masks:' if len(kinds) > 1 else ':')]
    for name, title in zip(COCO_NUMBERS, titles, strict=True):
        lines.append(f'  {name:6} {_shown(*(metrics[kind + name] for kind in kinds))}  {title}')
    lines.append('AP50 of each class (objects):')
    for name, objects in metrics['objects_per_class'].items():
        values = _shown(*(metrics[f'{kind}AP50_per_class'][name] for kind in kinds))
        lines.append(f'  {values}  {spell(name)} ({objects})')
    lines.append(f'VOC 2007 mAP (11 points)                {_shown(metrics["VOC07_mAP"])}')
    lines.append(f'VOC 2010-12 mAP (area under the curve)  {_shown(metrics["VOC12_mAP"])}')
    for kind, what in zip(kinds, ('Found', 'Their masks'), strict=False):
        found = (_shown(metrics[f'{kind}AP{iou}_agnostic']) for iou in (50, 75))
        lines.append('{}, whoever it is: AP50 {}, AP75 {}'.format(what, *found))
    return '\n'.join(lines)


def _shown(*values):
    """Numbers as text of equal width, nan as a dash."""
    return '  '.join('  -  ' if np.isnan(value) else f'{value:.3f}' for value in values)
