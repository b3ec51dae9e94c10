"""COCO's numbers, and COCO's form of results."""

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np

from konohana import masks
from konohana.errors import UserError
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


def coco_ground_truth(frames, class_names):
    """`Sample`s -> a COCO data set as a dict; image and category ids count from 1.

    A region not to be counted becomes a crowd of its category or of every one, which pycocotools neither counts as
    missed nor lets count what is found inside. An object's area is that of its mask if it has one, else of its box.
    """
    images, annotations = [], []
    label_of = {name: i for i, name in enumerate(class_names, start=1)}
    for image_id, frame in enumerate(frames, start=1):
        images.append(
            {'id': image_id, 'file_name': frame.path.name, 'height': int(frame.height), 'width': int(frame.width)}
        )
        without = [None] * len(frame.boxes)
        rows = list(zip(frame.boxes, frame.names, frame.masks or without, [0] * len(without), strict=True))
        without = [None] * len(frame.ignored)
        regions = (frame.ignored, frame.ignored_names or without, frame.ignored_masks or without, [1] * len(without))
        for box, name, mask, crowd in rows + list(zip(*regions, strict=True)):
            if crowd and mask is None and frame.masks is not None:
                mask = masks.box_mask(box, (frame.height, frame.width))
            box = _xywh(box)[0]
            annotation = {
                'image_id': image_id,
                'bbox': box.tolist(),
                'area': float(box[2] * box[3]) if mask is None else float(masks.area([mask])[0]),
                'iscrowd': crowd,
            }
            if mask is not None:
                annotation['segmentation'] = _segmentation(mask)
            # A crowd of a name that is none of `class_names` concerns no detection.
            for label in label_of.values() if name is None else [label_of[name]] if name in label_of else []:
                annotations.append({'id': len(annotations) + 1, 'category_id': label, **annotation})
    categories = [{'id': label, 'name': name} for name, label in label_of.items()]
    return {'info': {}, 'images': images, 'annotations': annotations, 'categories': categories}


def _run_cocoeval(truth, results, kind, by_class):
    """pycocotools' COCOeval on boxes (`kind` 'bbox') or masks ('segm'), its printing kept back.

    Without `by_class` names do not matter, and only IoU 0.50 and 0.75, all areas and 100 detections are looked at.
    Without results all numbers come out as they should.
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
        if not by_class:
            evaluation.params.iouThrs = np.array([0.5, 0.75])
            evaluation.params.maxDets = [100]
            evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ['all']
        evaluation.evaluate()
        evaluation.accumulate()
        if by_class:
            evaluation.summarize()
    return evaluation


def coco_figures(truth, results, kind, class_names):
    """COCO's twelve numbers and the others that COCOeval gives, for boxes ('bbox') or masks ('segm')."""
    by_class = _run_cocoeval(truth, results, kind, by_class=True)
    figures = {name: _known(value) for name, value in zip(COCO_NUMBERS, by_class.stats[:12], strict=True)}
    # precision: IoU thresholds x recalls x classes x areas x maximum detections; -1 where there are no objects
    precision = by_class.eval['precision'][0, :, :, 0, -1]
    figures['AP50_per_class'] = {
        name: _known(precision[:, i].mean()) if i < precision.shape[1] else float('nan')
        for i, name in enumerate(class_names)
    }
    agnostic = _run_cocoeval(truth, results, kind, by_class=False).eval['precision']
    figures['AP50_agnostic'], figures['AP75_agnostic'] = (_known(values.mean()) for values in agnostic)
    return figures


def _known(value):
    """pycocotools' -1 for "nothing to measure" as nan."""
    return float('nan') if value < 0 else float(value)


def write_results_json(path, pictures, detections, class_names, image_ids=None, categories=None):
    """Write detections as one COCO-style file.

    Args:
        path: JSON file, written whole or not at all.
        pictures: list of (file_name, height, width). detections: one dict for each, in pixels of the picture file.
        class_names: label k names class_names[k - 1].
        image_ids, categories: ids of the pictures, and name -> id of the classes, in a COCO data set that the pictures
            are of; None counts from 1. A class that the data set lacks gets an id that it does not use.

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
    path = Path(path)
    temporary = path.with_name(path.name + '.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror}).') from None
