"""How good detections are: COCO's numbers, Pascal VOC's, and what a user asks: found? rightly named?

COCO's come from pycocotools, or from faster-coco-eval where that is installed.

Detections are dicts as the detectors return them. Dense masks (`masks`) of many pictures would fill the memory, so here
detections hold them encoded: `rles`, a list of compressed RLEs (see masks.py) in the order of the boxes.
"""

import numpy as np
import torch
from torchvision.ops import box_iou

from konohana.evaluation.coco_metrics import COCO_NUMBERS, coco_figures, coco_ground_truth, coco_results
from konohana.evaluation.voc_metrics import outside_ignored, voc_matches, voc_mean


def evaluate(frames, detections, class_names):
    """All figures of detections against labels.

    Args:
        frames: list of `Sample`. detections: one dict of `boxes`, `labels`, `scores` (and `rles` or `masks`) for
            each, in pixels of the picture file. class_names: label k names class_names[k - 1].

    Returns:
        dict: the twelve numbers of `COCO_NUMBERS`; `AP50_per_class` (name -> AP50, nan where no such object is there);
        `AP50_agnostic` and `AP75_agnostic` (found, whoever it is); `VOC07_mAP` and `VOC12_mAP` (11 points, and the area
        under the curve); `objects_per_class`. Where all detections and all objects have masks, all but VOC's also for
        masks, as `mask_AP`, `mask_AP50` ... `mask_AP75_agnostic`. All in 0 to 1, nan where there is nothing to measure.
    """
    truth = coco_ground_truth(frames, class_names)
    results = coco_results(detections)
    figures = coco_figures(truth, results, 'bbox', class_names)
    figures['objects_per_class'] = {name: sum(frame.names.count(name) for frame in frames) for name in class_names}
    matches = voc_matches(frames, detections, class_names, iou_threshold=0.5)
    figures['VOC07_mAP'] = voc_mean(matches, eleven_points=True)
    figures['VOC12_mAP'] = voc_mean(matches, eleven_points=False)
    has_masks = all('rles' in found or 'masks' in found for found in detections)
    if has_masks and all(frame.masks is not None and frame.has_masks for frame in frames):
        of_masks = coco_figures(truth, results, 'segm', class_names)
        figures.update({f'mask_{name}': value for name, value in of_masks.items()})
    return figures


def finding(frames, detections, class_names, threshold, iou_threshold=0.5):
    """What a viewer sees at one threshold: who is found, what is drawn in error, who gets the right name.

    Detections of at least `threshold`, best first, each take the free object they overlap most (IoU >= iou_threshold),
    whatever its name; those mostly in ignored regions are left out.

    Returns:
        dict of `precision`, `recall`, `f1` of finding, and `named`, the share of the found whose name is right; 0 to 1.
    """
    n_found = n_drawn = n_named = n_objects = 0
    for frame, found in zip(frames, detections, strict=True):
        found = outside_ignored(found, frame.ignored)
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
