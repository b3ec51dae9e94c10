"""How good detections are: COCO's numbers, Pascal VOC's, and what a user asks: found? rightly named?

COCO's come from pycocotools, or from faster-coco-eval where that is installed.

Detections are dicts as the detectors return them. Dense masks (`masks`) of many pictures would fill the memory, so here
detections hold them encoded: `rles`, a list of compressed RLEs (see masks.py) in the order of the boxes.
"""

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import box_iou

from konohana import masks
from konohana.progress import progress_bar
from konohana.settings import UserError

try:
    # The same numbers in a tenth of the time for boxes, a quarter for masks.
    from faster_coco_eval import COCO
    from faster_coco_eval import COCOeval_faster as COCOeval
except ImportError:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

# COCO's summary, in pycocotools' own order, with the names it is known by.
COCO_NUMBERS = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')


@torch.inference_mode()
def predict(model, images, encode=False):
    """Detections of a list of pictures (uint8 or float 0 to 1, 3 x H x W RGB), on the CPU.

    Pictures go to the model's device, uint8 becomes float there. Returns the model's list of dicts; with `encode` they
    have `rles` instead of `masks`, so that dense masks need not even leave the device.
    """
    device = next(model.parameters()).device
    images = [image.as_subclass(torch.Tensor).to(device, non_blocking=True) for image in images]
    images = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
    detections = model(images)
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
    """`voc.Frame`s -> a COCO data set as a dict; image and category ids count from 1.

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


def evaluate(frames, detections, class_names):
    """All figures of detections against labels.

    Args:
        frames: list of `voc.Frame`. detections: one dict of `boxes`, `labels`, `scores` (and `rles` or `masks`) for
            each, in pixels of the picture file. class_names: label k names class_names[k - 1].

    Returns:
        dict: the twelve numbers of `COCO_NUMBERS`; `AP50_per_class` (name -> AP50, nan where no such object is there);
        `AP50_agnostic` and `AP75_agnostic` (found, whoever it is); `VOC07_mAP` and `VOC12_mAP` (11 points, and the area
        under the curve); `objects_per_class`. Where all detections and all objects have masks, all but VOC's also for
        masks, as `mask_AP`, `mask_AP50` ... `mask_AP75_agnostic`. All in 0 to 1, nan where there is nothing to measure.
    """
    truth = coco_ground_truth(frames, class_names)
    results = coco_results(detections)
    figures = _coco_figures(truth, results, 'bbox', class_names)
    figures['objects_per_class'] = {name: sum(frame.names.count(name) for frame in frames) for name in class_names}
    matches = _voc_matches(frames, detections, class_names, iou_threshold=0.5)
    figures['VOC07_mAP'] = _voc_mean(matches, eleven_points=True)
    figures['VOC12_mAP'] = _voc_mean(matches, eleven_points=False)
    has_masks = all('rles' in found or 'masks' in found for found in detections)
    if has_masks and all(frame.masks is not None and frame.has_masks for frame in frames):
        of_masks = _coco_figures(truth, results, 'segm', class_names)
        figures.update({f'mask_{name}': value for name, value in of_masks.items()})
    return figures


def _coco_figures(truth, results, kind, class_names):
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


def voc_map(frames, detections, class_names, iou_threshold=0.5, eleven_points=True):
    """Mean average precision as the Pascal VOC development kit computes it (Everingham et al. 2010).

    Each detection, best first, is compared with the object it overlaps most; a second detection of an object is a
    mistake; `difficult` objects neither count nor hurt. Detections lying mostly in ignored regions are left out.

    Args:
        eleven_points: VOC 2007's mean over recalls 0, 0.1, ... 1; else VOC 2010's area under the curve.

    Returns:
        mean over the classes that have objects, 0 to 1; nan if none has.
    """
    return _voc_mean(_voc_matches(frames, detections, class_names, iou_threshold), eleven_points)


def _voc_mean(matches, eleven_points):
    values = [_voc_ap(rows, n_objects, eleven_points) for rows, n_objects in matches if n_objects]
    return float(np.mean(values)) if values else float('nan')


def _voc_matches(frames, detections, class_names, iou_threshold):
    """For each class (list of (score, is a hit) of all pictures, number of objects that are not difficult)."""
    matches = [([], 0) for _ in class_names]
    label_of = {name: label for label, name in enumerate(class_names, start=1)}
    for frame, found in zip(frames, detections, strict=True):
        found = _outside_ignored(found, frame.ignored)
        labels, scores = found['labels'].numpy(), found['scores'].numpy()
        true_labels = np.array([label_of[name] for name in frame.names], np.int64)
        overlaps = box_iou(found['boxes'].float(), torch.as_tensor(frame.boxes)).numpy()
        for label in {*labels.tolist(), *true_labels.tolist()}:
            mine, keep = true_labels == label, labels == label
            rows, n_objects = matches[label - 1]
            rows += _match_voc(overlaps[keep][:, mine], scores[keep], frame.difficult[mine], iou_threshold)
            matches[label - 1] = rows, n_objects + int((~frame.difficult[mine]).sum())
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


def _outside_ignored(found, ignored):
    """Detections without those whose box lies more than half inside one ignored region."""
    boxes = found['boxes'].float()
    keep = torch.ones(len(boxes), dtype=torch.bool)
    for region in torch.as_tensor(ignored):
        low, high = torch.maximum(boxes[:, :2], region[:2]), torch.minimum(boxes[:, 2:], region[2:])
        area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=1e-6)
        keep &= (high - low).clamp(min=0).prod(dim=1) / area <= 0.5
    return {'boxes': boxes[keep], 'labels': found['labels'][keep], 'scores': found['scores'][keep]}


def finding(frames, detections, class_names, threshold, iou_threshold=0.5):
    """What a viewer sees at one threshold: who is found, what is drawn in error, who gets the right name.

    Detections of at least `threshold`, best first, each take the free object they overlap most (IoU >= iou_threshold),
    whatever its name; those mostly in ignored regions are left out.

    Returns:
        dict of `precision`, `recall`, `f1` of finding, and `named`, the share of the found whose name is right; 0 to 1.
    """
    n_found = n_drawn = n_named = n_objects = 0
    for frame, found in zip(frames, detections, strict=True):
        found = _outside_ignored(found, frame.ignored)
        keep = found['scores'] >= threshold
        overlaps = box_iou(found['boxes'][keep], torch.as_tensor(frame.boxes))
        labels, order = found['labels'][keep], found['scores'][keep].argsort(descending=True)
        n_objects += len(frame.boxes)
        n_drawn += len(order)
        for i in order:
            if len(frame.boxes) == 0:
                break
            overlap, best = overlaps[i].max(dim=0)
            if overlap >= iou_threshold:
                n_found += 1
                n_named += class_names[labels[i] - 1] == frame.names[best]
                overlaps[:, best] = -1.0
    precision, recall = n_found / max(n_drawn, 1), n_found / max(n_objects, 1)
    return {
        'precision': precision,
        'recall': recall,
        'f1': 2 * precision * recall / max(precision + recall, 1e-9),
        'named': n_named / max(n_found, 1),
    }


def format_figures(figures, spell=str):
    """The figures as text to print, those of masks beside those of boxes. `spell`: class name -> spelling to show."""
    titles = ('IoU 0.50:0.95', 'IoU 0.50', 'IoU 0.75', 'small', 'medium', 'large')
    titles += ('1 detection', '10 detections', '100 detections', 'small', 'medium', 'large')
    kinds = ('', 'mask_') if 'mask_AP' in figures else ('',)
    lines = ["COCO's twelve numbers" + (', boxes and masks:' if len(kinds) > 1 else ':')]
    for name, title in zip(COCO_NUMBERS, titles, strict=True):
        lines.append(f'  {name:6} {_shown(*(figures[kind + name] for kind in kinds))}  {title}')
    lines.append('AP50 of each class (objects):')
    for name, objects in figures['objects_per_class'].items():
        values = _shown(*(figures[f'{kind}AP50_per_class'][name] for kind in kinds))
        lines.append(f'  {values}  {spell(name)} ({objects})')
    lines.append(f'VOC 2007 mAP (11 points)                {_shown(figures["VOC07_mAP"])}')
    lines.append(f'VOC 2010-12 mAP (area under the curve)  {_shown(figures["VOC12_mAP"])}')
    for kind, what in zip(kinds, ('Found', 'Their masks'), strict=False):
        found = (_shown(figures[f'{kind}AP{iou}_agnostic']) for iou in (50, 75))
        lines.append('{}, whoever it is: AP50 {}, AP75 {}'.format(what, *found))
    return '\n'.join(lines)


def _shown(*values):
    return '  '.join('  -  ' if np.isnan(value) else f'{value:.3f}' for value in values)


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
