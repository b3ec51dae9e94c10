"""Metrics: equal to pycocotools' own, to the VOC development kit's rules, and sane where there is nothing."""

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from konohana import masks
from konohana.data.sample import Sample
from konohana.evaluation.coco_metrics import COCO_NUMBERS, coco_ground_truth, write_results_json
from konohana.evaluation.summary import evaluate, format_metrics, metrics_at_threshold, report_metrics
from konohana.evaluation.voc_metrics import voc_map

NAMES = ['柚', '皋', 'other']


def frame(boxes, names, difficult=None, ignored=()):
    return Sample(
        Path(f'{len(boxes)}.jpg'),
        360,
        640,
        np.array(boxes, np.float32).reshape(-1, 4),
        list(names),
        np.array(difficult if difficult is not None else [False] * len(names), bool),
        np.array(ignored, np.float32).reshape(-1, 4),
    )


def found(boxes, labels, scores):
    return {
        'boxes': torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        'labels': torch.tensor(labels, dtype=torch.int64),
        'scores': torch.tensor(scores, dtype=torch.float32),
    }


def random_case(seed, n=12):
    rng = np.random.default_rng(seed)
    frames, detections = [], []
    for _ in range(n):
        low = rng.uniform(0, 300, (rng.integers(0, 5), 2))
        boxes = np.concatenate([low, low + rng.uniform(20, 200, low.shape)], axis=1)
        names = rng.choice(NAMES, len(boxes)).tolist()
        frames.append(frame(boxes, names))
        drawn = np.concatenate([boxes + rng.normal(0, 8, boxes.shape), boxes[:1] + 40])
        labels = rng.integers(1, 4, len(drawn))
        labels[: len(names)] = np.where(
            rng.random(len(names)) < 0.7, [NAMES.index(x) + 1 for x in names], labels[: len(names)]
        )
        detections.append(found(drawn, labels, rng.random(len(drawn))))
    return frames, detections


@pytest.mark.parametrize('seed', [0, 1])
def test_twelve_numbers_equal_those_pycocotools_reads_from_the_written_file(tmp_path, seed):
    frames, detections = random_case(seed)
    metrics = evaluate(frames, detections, NAMES)
    write_results_json(tmp_path / 'found.json', [(f.path.name, f.height, f.width) for f in frames], detections, NAMES)
    (tmp_path / 'truth.json').write_text(json.dumps(coco_ground_truth(frames, NAMES)), encoding='utf-8')
    written = json.loads((tmp_path / 'found.json').read_text(encoding='utf-8'))
    assert [category['name'] for category in written['categories']] == NAMES
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / 'truth.json'))
        evaluation = COCOeval(truth, truth.loadRes(written['annotations']), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    own = [metrics[name] for name in COCO_NUMBERS]
    theirs = [math.nan if value < 0 else value for value in evaluation.stats]
    np.testing.assert_allclose(own, theirs, atol=1e-6)
    assert 0.1 < metrics['AP50'] < 0.95
    assert metrics['AP50_agnostic'] > metrics['AP50']


def test_perfect_detections_get_one_everywhere():
    frames = [frame([[10, 10, 200, 300]], ['柚']), frame([[50, 20, 300, 300]], ['皋']), frame([], [])]
    detections = [found([[10, 10, 200, 300]], [1], [0.9]), found([[50, 20, 300, 300]], [2], [0.8]), found([], [], [])]
    metrics = evaluate(frames, detections, NAMES)
    for key in ('AP', 'AP50', 'AP75', 'AP50_agnostic', 'VOC07_mAP'):
        assert metrics[key] == pytest.approx(1.0)
    assert math.isnan(metrics['AP50_per_class']['other'])
    assert set(metrics_at_threshold(frames, detections, NAMES, 0.5).values()) == {1.0}


def test_found_under_a_wrong_name_counts_as_found():
    frames = [frame([[10, 10, 200, 300]], ['柚'])]
    detections = [found([[10, 10, 200, 300]], [2], [0.9])]
    metrics = evaluate(frames, detections, NAMES)
    assert metrics['AP50'] == 0 and metrics['AP50_agnostic'] == pytest.approx(1.0)
    seen = metrics_at_threshold(frames, detections, NAMES, 0.5)
    assert seen['f1'] == 1.0 and seen['named'] == 0.0


def test_what_lies_in_an_ignored_region_is_no_mistake():
    boxes, region = [[10, 10, 100, 200]], [[300, 0, 600, 300]]
    drawn = found([[10, 10, 100, 200], [350, 20, 450, 200]], [1, 1], [0.5, 0.9])
    with_region, without = frame(boxes, ['柚'], ignored=region), frame(boxes, ['柚'])
    assert evaluate([without], [drawn], NAMES)['AP50'] == pytest.approx(0.5)
    metrics = evaluate([with_region], [drawn], NAMES)
    for key in ('AP50', 'AP50_agnostic', 'VOC07_mAP'):
        assert metrics[key] == pytest.approx(1.0)
    assert metrics_at_threshold([with_region], [drawn], NAMES, 0.3)['precision'] == 1.0


def test_no_detections_and_no_objects():
    frames = [frame([[10, 10, 100, 200]], ['柚'])]
    metrics = evaluate(frames, [found([], [], [])], NAMES)
    assert metrics['AP'] == metrics['AP50_agnostic'] == metrics['VOC07_mAP'] == 0
    nobody = evaluate([frame([], [])], [found([[1, 1, 50, 50]], [1], [0.9])], NAMES)
    assert math.isnan(nobody['AP']) and math.isnan(nobody['VOC07_mAP'])
    assert 'nan' not in format_metrics(nobody)
    assert metrics_at_threshold([frame([], [])], [found([[1, 1, 50, 50]], [1], [0.9])], NAMES, 0.5)['precision'] == 0


def test_voc_points_by_hand():
    # Two objects; ranked: hit, miss, hit. Precision 1 up to recall 0.5, then 2/3.
    frames = [frame([[0, 0, 100, 100], [200, 0, 300, 100]], ['柚', '柚'])]
    drawn = [found([[0, 0, 100, 100], [400, 0, 500, 100], [200, 0, 300, 100]], [1, 1, 1], [0.9, 0.8, 0.7])]
    assert voc_map(frames, drawn, NAMES) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert voc_map(frames, drawn, NAMES, eleven_points=False) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_voc_difficult_objects_neither_count_nor_hurt():
    boxes = [[0, 0, 100, 100], [200, 0, 300, 100]]
    drawn = [found(boxes, [1, 1], [0.6, 0.9])]
    assert voc_map([frame(boxes, ['柚', '柚'], difficult=[False, True])], drawn, NAMES) == pytest.approx(1.0)
    only_easy = [found(boxes[:1], [1], [0.6])]
    assert voc_map([frame(boxes, ['柚', '柚'], difficult=[False, True])], only_easy, NAMES) == pytest.approx(1.0)


def test_voc_second_detection_of_an_object_is_a_mistake():
    frames = [frame([[0, 0, 100, 100], [200, 0, 300, 100]], ['柚', '柚'])]
    drawn = [found([[0, 0, 100, 100], [0, 0, 99, 100], [200, 0, 300, 100]], [1, 1, 1], [0.9, 0.8, 0.7])]
    assert voc_map(frames, drawn, NAMES, eleven_points=False) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_only_a_hundred_detections_a_picture_count():
    boxes = [[x, y, x + 8, y + 8] for x in range(0, 600, 10) for y in (0, 20, 40)]
    metrics = evaluate([frame(boxes, ['柚'] * len(boxes))], [found(boxes, [1] * len(boxes), [0.5] * len(boxes))], NAMES)
    assert metrics['AR100'] == pytest.approx(100 / 180, abs=0.01)  # COCO's own rule


# ------------------------------------------------------------------------------------------------ difficult objects


EASY, HARD, NOWHERE = [0, 0, 100, 100], [200, 0, 300, 100], [400, 200, 600, 350]


def all_metrics(sample, detections, threshold=0.05):
    """Every metric that says how well one picture's objects are found and named."""
    metrics = evaluate([sample], [detections], NAMES)
    at = metrics_at_threshold([sample], [detections], NAMES, threshold)
    keys = [name for name in COCO_NUMBERS if name not in ('APs', 'APm', 'ARs', 'ARm')]
    keys += ['AP50_agnostic', 'AP75_agnostic', 'VOC07_mAP', 'VOC12_mAP']
    keys += [f'mask_{name}' for name in (*keys[:8], 'AP50_agnostic', 'AP75_agnostic') if 'mask_AP' in metrics]
    return {key: metrics[key] for key in keys} | at


def with_box_masks(sample, detections):
    """Both with masks that fill their boxes."""
    sample.masks = [masks.box_mask(box, (360, 640)) for box in sample.boxes]
    return sample, {**detections, 'rles': [masks.box_mask(box, (360, 640)) for box in detections['boxes']]}


@pytest.mark.parametrize('shapes', [False, True])
@pytest.mark.parametrize(
    'drawn',
    [
        [EASY],  # the difficult one is missed
        [HARD, EASY],  # found before the other
        [HARD, HARD, EASY, HARD],  # found again and again
    ],
)
def test_a_difficult_object_is_neither_hit_nor_miss_in_any_metric(drawn, shapes):
    sample = frame([EASY, HARD], ['柚', '柚'], difficult=[False, True])
    # Equal scores have no order that all libraries agree on.
    detections = found(drawn, [1] * len(drawn), np.linspace(0.9, 0.5, len(drawn)).tolist())
    if shapes:
        sample, detections = with_box_masks(sample, detections)
    metrics = all_metrics(sample, detections)
    if drawn.index(EASY):
        metrics.pop('AR1')  # one detection a picture, and it may be spent on the difficult object
        metrics.pop('mask_AR1', None)
    assert len(metrics) > 14
    assert metrics == pytest.approx(dict.fromkeys(metrics, 1.0), abs=1e-9)


@pytest.mark.parametrize('shapes', [False, True])
def test_what_is_drawn_beside_a_difficult_object_is_a_mistake_all_the_same(shapes):
    sample = frame([EASY, HARD], ['柚', '柚'], difficult=[False, True])
    inside = [210, 10, 240, 40]  # a small part of the difficult object is not that object
    for wrong in (NOWHERE, inside):
        drawn = found([wrong, EASY], [1, 1], [0.9, 0.8])
        metrics = all_metrics(*(with_box_masks(sample, drawn) if shapes else (sample, drawn)))
        for key in ('AP50', 'AP50_agnostic', 'VOC12_mAP', 'precision'):
            assert metrics[key] == pytest.approx(0.5, abs=1e-9)


def test_difficult_objects_alone_leave_nothing_to_measure():
    sample = frame([HARD], ['柚'], difficult=[True])
    for drawn in ([], [HARD]):
        detections = found(drawn, [1] * len(drawn), [0.9] * len(drawn))
        metrics = evaluate([sample], [detections], NAMES)
        assert all(math.isnan(metrics[key]) for key in ('AP', 'AP50_agnostic', 'VOC07_mAP'))
        assert metrics['objects_per_class'] == {'柚': 0, '皋': 0, 'other': 0}
        assert '(0)' in report_metrics([sample], [detections], NAMES, 0.5)


def test_a_difficult_object_of_a_wrong_name_is_still_no_mistake_of_finding():
    sample = frame([EASY, HARD], ['柚', '皋'], difficult=[False, True])
    detections = found([EASY, HARD], [1, 1], [0.8, 0.9])
    metrics = all_metrics(sample, detections)
    assert [metrics[key] for key in ('AP50_agnostic', 'precision', 'named')] == pytest.approx([1, 1, 1])
    assert metrics['AP50'] == pytest.approx(0.5)  # as in VOC: there is no difficult 柚 there


def test_without_difficult_objects_nothing_changes():
    frames, detections = random_case(3)
    assert coco_ground_truth(frames, NAMES, detections) == coco_ground_truth(frames, NAMES)
    assert max(row['area'] for row in coco_ground_truth(frames, NAMES)['annotations']) < 360 * 640


def test_somebody_unlabelled_is_no_mistake_of_finding_where_that_is_asked_for():
    sample = frame([EASY], ['柚'])
    half = [EASY[0], EASY[1], EASY[2], (EASY[1] + EASY[3]) / 2]  # a part of whoever is labelled
    detections = found([NOWHERE, EASY, half], [1, 1, 1], [0.9, 0.8, 0.7])

    def metrics(unlabelled):
        at = metrics_at_threshold([sample], [detections], NAMES, 0.5, unlabelled=unlabelled)
        return {**evaluate([sample], [detections], NAMES, unlabelled), **at}

    before, after = metrics('background'), metrics('ignore')
    assert before['AP50_agnostic'] == pytest.approx(0.5) and after['AP50_agnostic'] == pytest.approx(1)
    assert before['precision'] == pytest.approx(1 / 3) and after['precision'] == pytest.approx(1 / 2)
    # Whoever is called 柚 is labelled if it is 柚.
    assert before['AP50'] == after['AP50'] == pytest.approx(0.5) and after['recall'] == 1
    nobody = frame([], [])
    assert metrics_at_threshold([nobody], [detections], NAMES, 0.5, unlabelled='ignore')['precision'] == 0
