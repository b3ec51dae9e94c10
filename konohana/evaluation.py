"""How good detections are: COCO's numbers (by pycocotools), VOC 2007's, and what a user asks: found? rightly named?"""

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_iou

from konohana.progress import progress_bar
from konohana.settings import UserError

# COCO's summary, in pycocotools' own order, with the names it is known by.
COCO_NUMBERS = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')


@torch.inference_mode()
def predict(model, images):
    """Detections of a list of pictures (uint8 or float 0 to 1, 3 x H x W RGB), on the CPU.

    Pictures go to the model's device, uint8 becomes float there. Returns the model's list of dicts.
    """
    device = next(model.parameters()).device
    images = [image.as_subclass(torch.Tensor).to(device, non_blocking=True) for image in images]
    images = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
    return [{key: value.cpu() for key, value in found.items()} for found in model(images)]


def predict_dataset(model, dataset, batch_size=8, title='Evaluating', progress=True):
    """Detections of every sample of a `Frames` dataset, in its order; the model is in evaluation mode meanwhile."""
    was_training = model.training
    model.eval()
    detections = []
    try:
        with progress_bar(title, len(dataset), shown=progress) as bar:
            for start in range(0, len(dataset), batch_size):
                samples = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
                detections += predict(model, [image for image, _ in samples])
                bar.update(len(detections))
    finally:
        model.train(was_training)
    return detections


def _xywh(boxes):
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def coco_results(detections, image_ids=None):
    """Detections -> list of COCO results (`image_id`, `category_id`, `bbox` as x, y, width, height, `score`)."""
    results = []
    image_ids = range(1, len(detections) + 1) if image_ids is None else image_ids
    for image_id, found in zip(image_ids, detections, strict=True):
        rows = zip(_xywh(found['boxes']).tolist(), found['labels'].tolist(), found['scores'].tolist(), strict=True)
        for box, label, score in rows:
            results.append({'image_id': image_id, 'category_id': label, 'bbox': box, 'score': score})
    return results


def coco_ground_truth(frames, class_names):
    """`voc.Frame`s -> a COCO data set as a dict; image and category ids count from 1.

    A region not to be counted becomes a crowd of every category, which pycocotools neither counts as missed nor lets
    count what is found inside.
    """
    images, annotations = [], []
    label_of = {name: i for i, name in enumerate(class_names, start=1)}
    for image_id, frame in enumerate(frames, start=1):
        images.append(
            {'id': image_id, 'file_name': frame.path.name, 'height': int(frame.height), 'width': int(frame.width)}
        )
        rows = [(box, [label_of[name]], 0) for box, name in zip(_xywh(frame.boxes), frame.names, strict=True)]
        rows += [(box, label_of.values(), 1) for box in _xywh(frame.ignored)]
        for box, labels, crowd in rows:
            for label in labels:
                annotations.append(
                    {
                        'id': len(annotations) + 1,
                        'image_id': image_id,
                        'category_id': label,
                        'bbox': box.tolist(),
                        'area': float(box[2] * box[3]),
                        'iscrowd': crowd,
                    }
                )
    categories = [{'id': label, 'name': name} for name, label in label_of.items()]
    return {'info': {}, 'images': images, 'annotations': annotations, 'categories': categories}


def _run_cocoeval(truth, results, by_class):
    """pycocotools' COCOeval on boxes, its printing kept back; without results all numbers come out as they should."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        if results:
            found = coco.loadRes([dict(result) for result in results])
        else:
            found = COCO()
            found.dataset = {**truth, 'annotations': []}
            found.createIndex()
        evaluation = COCOeval(coco, found, 'bbox')
        evaluation.params.useCats = int(by_class)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def evaluate(frames, detections, class_names):
    """All figures of detections against labels.

    Args:
        frames: list of `voc.Frame`. detections: one dict of `boxes`, `labels`, `scores` for each, in pixels of the
            picture file. class_names: label k names class_names[k - 1].

    Returns:
        dict: the twelve numbers of `COCO_NUMBERS`; `AP50_per_class` (name -> AP50, nan where no such object is there);
        `AP50_agnostic` and `AP75_agnostic` (found, whoever it is); `VOC07_mAP`; `objects_per_class`. All in 0 to 1,
        nan where there is nothing to measure.
    """
    truth = coco_ground_truth(frames, class_names)
    results = coco_results(detections)
    by_class = _run_cocoeval(truth, results, by_class=True)
    figures = {name: _known(value) for name, value in zip(COCO_NUMBERS, by_class.stats, strict=True)}
    # precision: IoU thresholds x recalls x classes x areas x maximum detections; -1 where there are no objects
    precision = by_class.eval['precision'][0, :, :, 0, -1]
    figures['AP50_per_class'] = {
        name: _known(precision[:, i].mean()) if i < precision.shape[1] else float('nan')
        for i, name in enumerate(class_names)
    }
    figures['objects_per_class'] = {name: sum(frame.names.count(name) for frame in frames) for name in class_names}
    agnostic = _run_cocoeval(truth, results, by_class=False)
    figures['AP50_agnostic'], figures['AP75_agnostic'] = _known(agnostic.stats[1]), _known(agnostic.stats[2])
    figures['VOC07_mAP'] = voc_map(frames, detections, class_names)
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
    found_in = [_outside_ignored(found, frame.ignored) for found, frame in zip(detections, frames, strict=True)]
    values = []
    for label, name in enumerate(class_names, start=1):
        rows, n_objects = [], 0
        for frame, found in zip(frames, found_in, strict=True):
            mine = np.array([n == name for n in frame.names], bool)
            difficult = frame.difficult[mine]
            n_objects += int((~difficult).sum())
            keep = found['labels'] == label
            rows += _match_voc(found['boxes'][keep], found['scores'][keep], frame.boxes[mine], difficult, iou_threshold)
        if n_objects:
            values.append(_voc_ap(rows, n_objects, eleven_points))
    return float(np.mean(values)) if values else float('nan')


def _match_voc(boxes, scores, true_boxes, difficult, iou_threshold):
    """One picture, one class -> list of (score, is a hit); what falls on a difficult object is left out."""
    rows, taken = [], np.zeros(len(true_boxes), bool)
    overlaps = box_iou(boxes, torch.as_tensor(true_boxes)).numpy()
    for i in np.argsort(-scores.numpy(), kind='stable'):
        best = int(overlaps[i].argmax()) if len(true_boxes) else -1
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
    """The figures as text to print. `spell` maps a class name to the spelling to show."""
    titles = ('IoU 0.50:0.95', 'IoU 0.50', 'IoU 0.75', 'small', 'medium', 'large')
    titles += ('1 detection', '10 detections', '100 detections', 'small', 'medium', 'large')
    lines = ["COCO's twelve numbers:"]
    for name, title in zip(COCO_NUMBERS, titles, strict=True):
        lines.append(f'  {name:6} {_shown(figures[name])}  {title}')
    lines.append('AP50 of each class (objects):')
    for name, value in figures['AP50_per_class'].items():
        lines.append(f'  {_shown(value)}  {spell(name)} ({figures["objects_per_class"][name]})')
    lines.append(f'VOC 2007 mAP (11 points)                {_shown(figures["VOC07_mAP"])}')
    lines.append(
        f'Found, whoever it is: AP50 {_shown(figures["AP50_agnostic"])}, AP75 {_shown(figures["AP75_agnostic"])}'
    )
    return '\n'.join(lines)


def _shown(value):
    return '  -  ' if np.isnan(value) else f'{value:.3f}'


def write_results_json(path, pictures, detections, class_names):
    """Write detections as one COCO-style file.

    Args:
        path: JSON file, written whole or not at all.
        pictures: list of (file_name, height, width). detections: one dict for each, in pixels of the picture file.
        class_names: category k is class_names[k - 1].

    The file has `images` (`id`, `file_name`, `height`, `width`), `categories` (`id`, `name`) and `annotations` (`id`,
    `image_id`, `category_id`, `bbox` as x, y, width, height, `area`, `iscrowd`, `score`).
    """
    annotations = []
    for i, result in enumerate(coco_results(detections), start=1):
        area = result['bbox'][2] * result['bbox'][3]
        annotations.append({'id': i, **result, 'area': area, 'iscrowd': 0})
    content = {
        'info': {'description': 'detections by konohana'},
        'images': [
            {'id': i, 'file_name': name, 'height': int(height), 'width': int(width)}
            for i, (name, height, width) in enumerate(pictures, start=1)
        ],
        'categories': [{'id': i, 'name': name} for i, name in enumerate(class_names, start=1)],
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
