"""COCO's metrics (Lin et al. 2014, https://arxiv.org/abs/1405.0312), and results as COCO files.

pycocotools computes them, or faster-coco-eval where it is installed.
"""

import contextlib
import io
import itertools
import json

import numpy as np

from konohana import files, masks
from konohana.boxes import as_array, iou
from konohana.evaluation.predict import encoded

try:
    # The same numbers in a tenth of the time for boxes, a quarter for masks.
    from faster_coco_eval import COCO
    from faster_coco_eval import COCOeval_faster as COCOeval
except ImportError:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval


# COCO's summary, in pycocotools' own order, with the names it is known by.
COCO_NUMBERS = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')

# COCOeval knows no difficult objects and overwrites `ignore`, but it ignores objects whose area is in no range.
AREA_OF_DIFFICULT = 1e11  # pixels; COCO's ranges end at 1e10
LOWEST_IOU = 0.5  # of the thresholds that COCO's metrics use


def _xywh(boxes):
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _segmentation(rle):
    """A compressed RLE as JSON can hold it."""
    return {'size': [int(side) for side in rle['size']], 'counts': rle['counts'].decode('ascii')}


def coco_results(detections, image_ids=None, category_ids=None):
    """Detections -> list of COCO results, as dicts that JSON can hold.

    Args:
        detections: one dict for each picture. image_ids: theirs, or None for 1, 2, ...
        category_ids: category_ids[k - 1] is that of label k; None for the labels themselves.

    Returns:
        list of dicts of `image_id`, `category_id`, `bbox` (x, y, width, height), `score` and, where detections have
        masks, `segmentation` (compressed RLE).
    """
    results = []
    image_ids = range(1, len(detections) + 1) if image_ids is None else image_ids
    for image_id, found in zip(image_ids, detections, strict=True):
        found = encoded(found)
        rles = found.get('rles', [None] * len(found['labels']))
        rows = (_xywh(found['boxes']).tolist(), found['labels'].tolist(), found['scores'].tolist(), rles)
        for box, label, score, rle in zip(*rows, strict=True):
            category_id = category_ids[label - 1] if category_ids else label
            result = {'image_id': image_id, 'category_id': category_id, 'bbox': box, 'score': score}
            results.append(result if rle is None else {**result, 'segmentation': _segmentation(rle)})
    return results


def coco_ground_truth(samples, class_names, detections=None):
    """Labels as a COCO dataset, for COCOeval.

    A region that is not counted becomes a crowd of its class, or of every class: it is never missed, and detections
    inside it are no mistakes. A difficult object is neither hit nor miss either: its area is `AREA_OF_DIFFICULT`, so
    that COCOeval ignores it, and it is repeated for each detection that may fall on it, since COCOeval lets an ignored
    object excuse one detection only. An object's area is that of its mask if it has one, else of its box.

    Args:
        samples: list of `Sample`. class_names: label k names class_names[k - 1].
        detections: one dict of `boxes` and more for each sample, or None; needed where objects are difficult.

    Returns:
        dict that JSON can hold; image and category ids count from 1.
    """
    images, annotations = [], []
    label_of = {name: i for i, name in enumerate(class_names, start=1)}
    rows = zip(samples, detections or itertools.repeat(None, len(samples)), strict=True)
    for image_id, (sample, found) in enumerate(rows, start=1):
        size = {'height': int(sample.height), 'width': int(sample.width)}
        images.append({'id': image_id, 'file_name': sample.path.name, **size})
        for name, annotation in [*_objects(sample, found), *_regions(sample)]:
            # A crowd of a name that is none of `class_names` concerns no detection.
            for label in label_of.values() if name is None else [label_of[name]] if name in label_of else []:
                ids = {'id': len(annotations) + 1, 'image_id': image_id, 'category_id': label}
                annotations.append({**ids, **annotation})
    categories = [{'id': label, 'name': name} for name, label in label_of.items()]
    return {'info': {}, 'images': images, 'annotations': annotations, 'categories': categories}


def _objects(sample, found):
    """(name, annotation without ids) of each object; a difficult one as often as detections may fall on it."""
    repeats = np.ones(len(sample.boxes), int)
    if found is not None and sample.difficult.any():
        overlaps = iou(as_array(found['boxes']).astype(np.float32), sample.boxes) >= LOWEST_IOU
        repeats = np.where(sample.difficult, overlaps.sum(0).clip(min=1), repeats)
    shapes = sample.masks or [None] * len(sample.boxes)
    for *row, difficult, times in zip(sample.names, sample.boxes, shapes, sample.difficult, repeats, strict=True):
        name, annotation = row[0], _annotation(*row[1:], crowd=0)
        if difficult:
            annotation['area'] = AREA_OF_DIFFICULT
        yield from [(name, annotation)] * times


def _regions(sample):
    """(name or None for every class, annotation without ids) of each region that is not counted."""
    without = [None] * len(sample.ignored)
    rows = zip(sample.ignored, sample.ignored_names or without, sample.ignored_masks or without, strict=True)
    for box, name, mask in rows:
        if mask is None and sample.masks is not None:
            mask = masks.box_mask(box, (sample.height, sample.width))
        yield name, _annotation(box, mask, crowd=1)


def _annotation(box, mask, crowd):
    """A COCO annotation of a box (x1, y1, x2, y2) and its compressed RLE or None, without ids."""
    box = _xywh(box)[0]
    area = float(box[2] * box[3]) if mask is None else float(masks.area([mask])[0])
    annotation = {'bbox': box.tolist(), 'area': area, 'iscrowd': crowd}
    return annotation if mask is None else {**annotation, 'segmentation': _segmentation(mask)}


def _run_cocoeval(truth, results, kind, by_class, brief=False):
    """Run COCOeval on boxes (`kind` 'bbox') or masks ('segm'), without its printing.

    Without `by_class` names do not matter. Without it, or with `brief`, only IoU 0.50 and 0.75, all areas and 100
    detections are evaluated. `results` may be empty.
    """
    # A detection's area, by which those of no object are sorted into small and large, is that of what is judged.
    left_out = 'bbox' if kind == 'segm' else 'segmentation'
    results = [{key: value for key, value in result.items() if key != left_out} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        if results:
            found = coco.loadRes(results)
        else:
            found = COCO()
            found.dataset = {**truth, 'annotations': []}
            found.createIndex()
        evaluation = COCOeval(coco, found, kind)
        evaluation.params.useCats = int(by_class)
        if brief or not by_class:
            evaluation.params.iouThrs = np.array([0.5, 0.75])
            evaluation.params.maxDets = [100]
            evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ['all']
        evaluation.evaluate()
        evaluation.accumulate()
        if by_class and not brief:
            evaluation.summarize()
    return evaluation


def compute_coco_metrics(truth, results, kind, class_names, agnostic_results=None):
    """COCO's metrics of boxes or masks.

    Args:
        truth: see `coco_ground_truth`. results: see `coco_results`.
        kind: 'bbox' or 'segm'. class_names: label k names class_names[k - 1].
        agnostic_results: what to measure finding by; None for `results`.

    Returns:
        dict of `COCO_NUMBERS`, `AP_per_class` and `AP50_per_class` (name -> AP, AP50), `AP50_agnostic` and
        `AP75_agnostic`; 0 to 1, nan where there is nothing to measure.
    """
    by_class = _run_cocoeval(truth, results, kind, by_class=True)
    metrics = {name: _known(value) for name, value in zip(COCO_NUMBERS, by_class.stats[:12], strict=True)}
    # precision: IoU thresholds x recalls x classes x areas x maximum detections; -1 where there are no objects
    precision = by_class.eval['precision'][:, :, :, 0, -1]
    for key, values in (('AP_per_class', precision), ('AP50_per_class', precision[:1])):
        metrics[key] = {
            name: _known(values[..., i].mean()) if i < values.shape[-1] else float('nan')
            for i, name in enumerate(class_names)
        }
    agnostic_results = results if agnostic_results is None else agnostic_results
    agnostic = _run_cocoeval(truth, agnostic_results, kind, by_class=False).eval['precision']
    metrics['AP50_agnostic'], metrics['AP75_agnostic'] = (_known(values.mean()) for values in agnostic)
    return metrics


def precision_recall(samples, detections, class_names):
    """The curves of which the classes' AP50 is the mean, see `compute_coco_metrics`.

    Args:
        samples, detections, class_names: see `summary.evaluate`.

    Returns:
        {name: (101 precisions, 101 scores)} at recalls 0, 0.01, ... 1, both 0 where the recall is not reached; classes
        without objects are left out.
    """
    truth = coco_ground_truth(samples, class_names, detections)
    curves = _run_cocoeval(truth, coco_results(detections), 'bbox', by_class=True, brief=True).eval
    precision, scores = (curves[key][0, :, :, 0, -1].clip(min=0) for key in ('precision', 'scores'))
    there = {name for sample in samples for name in np.array(sample.names, object)[~sample.difficult]}
    return {name: (precision[:, i], scores[:, i]) for i, name in enumerate(class_names) if name in there}


def _known(value):
    """pycocotools' -1 for "nothing to measure" as nan."""
    return float('nan') if value < 0 else float(value)


def write_results_json(path, pictures, detections, class_names, image_ids=None, categories=None):
    """Write detections as one COCO-style file.

    Args:
        path: JSON file, written whole or not at all.
        pictures: list of (file_name, height, width). detections: one dict for each, in pixels of the picture file.
        class_names: label k names class_names[k - 1].
        image_ids, categories: ids of the pictures, and name -> id of the classes, in the COCO dataset that the pictures
            belong to; None counts from 1. A class that the dataset lacks gets an id that it does not use.

    The file has `images` (`id`, `file_name`, `height`, `width`), `categories` (`id`, `name`) and `annotations` (`id`,
    `image_id`, `category_id`, `bbox` as x, y, width, height, `segmentation` as compressed RLE where there are masks,
    `area` of the mask, or else of the box, `iscrowd`, `score`): these are what pycocotools' `loadRes` takes.
    """
    categories = dict(categories or {})
    for name in class_names:
        categories.setdefault(name, 1 + max((key for key in categories.values() if isinstance(key, int)), default=0))
    image_ids = list(range(1, len(pictures) + 1)) if image_ids is None else list(image_ids)
    annotations = []
    for i, result in enumerate(coco_results(detections, image_ids, [categories[n] for n in class_names]), start=1):
        area = result['bbox'][2] * result['bbox'][3]
        if 'segmentation' in result:
            area = masks.area([result['segmentation']])[0]
        annotations.append({'id': i, **result, 'area': area, 'iscrowd': 0})
    content = {
        'info': {'description': 'detections by konohana'},
        'images': [
            {'id': i, 'file_name': name, 'height': int(height), 'width': int(width)}
            for i, (name, height, width) in zip(image_ids, pictures, strict=True)
        ],
        'categories': [{'id': key, 'name': name} for name, key in categories.items()],
        'annotations': annotations,
    }
    # A file's name may hold what is no character, which JSON writes as backslashreplace does: \\udc80.
    data = json.dumps(content, ensure_ascii=False).encode(errors='backslashreplace')
    files.write_bytes(path, data, remember=True)


def write_sample_results(path, samples, detections, class_names):
    """`write_results_json` of samples, with a COCO dataset's own ids where all are of one."""
    # YOLO's files number classes too, but no pictures.
    of_coco = bool(samples) and all(sample.categories and sample.image_id is not None for sample in samples)
    image_ids = [sample.image_id for sample in samples] if of_coco else None
    pictures = [(sample.path.name, sample.height, sample.width) for sample in samples]
    write_results_json(path, pictures, detections, class_names, image_ids, samples[0].categories if of_coco else None)
