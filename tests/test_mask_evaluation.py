"""Metrics of masks and boxes equal pycocotools' from files, VOC's the development kit's; results as COCO files."""

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import coco as original
from pycocotools import cocoeval
from torch import nn

import konohana
from konohana import masks
from konohana.data.dataset import Frames
from konohana.data.reading import read_frames
from konohana.data.sample import Sample
from konohana.detectors.base import Detector
from konohana.evaluation import coco_metrics
from konohana.evaluation.coco_metrics import COCO_NUMBERS, write_results_json
from konohana.evaluation.predict import predict_dataset
from konohana.evaluation.summary import evaluate, format_metrics
from konohana.evaluation.voc_metrics import voc_map

HW = (120, 200)
IDS = {'柚': 3, 'cat': 17, 'dog': 90}
NAMES = list(IDS)


def ellipse(box, points=24):
    """A polygon as COCO writes it: the ellipse in a box (x1, y1, x2, y2), within the picture."""
    x1, y1, x2, y2 = box
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    x = ((x1 + x2) / 2 + (x2 - x1) / 2 * np.cos(turn)).clip(0, HW[1])
    y = ((y1 + y2) / 2 + (y2 - y1) / 2 * np.sin(turn)).clip(0, HW[0])
    return np.stack([x, y], axis=1).ravel().tolist()


def random_box(rng):
    x, y = rng.uniform(0, HW[1] - 30), rng.uniform(0, HW[0] - 30)
    return np.array([x, y, min(x + rng.uniform(10, 120), HW[1]), min(y + rng.uniform(10, 110), HW[0])])


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    """(folder of a COCO data set with polygons, RLEs and crowds; its JSON file; frames; random detections for them)."""
    root, rng = tmp_path_factory.mktemp('case') / 'data 花', np.random.default_rng(0)
    (root / 'val').mkdir(parents=True)
    (root / 'annotations').mkdir()
    images, rows, detections = [], [], []
    for image_id in (907, 12, 55, 4, 1000, 77, 31, 8):
        images.append({'id': image_id, 'file_name': f'{image_id}.png', 'height': HW[0], 'width': HW[1]})
        Image.new('RGB', HW[::-1]).save(root / 'val' / f'{image_id}.png')
        boxes, labels, shapes = [], [], []
        for number in range(rng.integers(0, 7)):
            box, name, crowd = random_box(rng), NAMES[rng.integers(3)], number == 3
            segmentation = [ellipse(box)]
            rle = masks.from_segmentation(segmentation, HW)
            if crowd or number % 2:
                segmentation = {'size': list(HW), 'counts': masks._runs(masks.decode([rle], HW)[0].numpy()).tolist()}
            x1, y1, x2, y2 = masks.bounding_box(rle)
            rows.append({
                'id': len(rows) + 1, 'image_id': image_id, 'category_id': IDS[name], 'iscrowd': int(crowd),
                'bbox': [x1, y1, x2 - x1, y2 - y1], 'segmentation': segmentation, 'area': masks.area([rle])[0],
            })  # fmt: skip
            for _ in range(rng.integers(1, 4)):
                moved = box + rng.normal(0, 5, 4)
                boxes.append([*moved[:2].clip(0), *np.maximum(moved[2:], moved[:2] + 4)])
                labels.append(NAMES.index(name) + 1 if rng.random() < 0.7 else rng.integers(1, 4))
        boxes.append(random_box(rng))
        labels.append(1)
        shapes = [masks.from_segmentation([ellipse(box)], HW) for box in boxes]
        # The scores differ: pycocotools and faster-coco-eval may order equal ones differently.
        scores = np.sort(rng.permutation(1000)[: len(boxes)] / 1000)[::-1].copy()
        detections.append({
            'boxes': torch.tensor(np.array(boxes), dtype=torch.float32), 'labels': torch.tensor(labels),
            'scores': torch.from_numpy(scores), 'rles': shapes,
        })  # fmt: skip
    categories = [{'id': key, 'name': name} for name, key in IDS.items()]
    file = root / 'annotations' / 'instances_val.json'
    content = {'images': images, 'annotations': rows, 'categories': categories}
    file.write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')
    assert sum(row['iscrowd'] for row in rows) > 1
    (frames,), problems = read_frames(root, ['val'], None, progress=False)
    assert problems == []
    return root, file, frames, detections


def reference(truth_file, results, kind, by_class=True):
    """The twelve numbers by pycocotools from files, as anybody would compute them."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = original.COCO(str(truth_file))
        evaluator = cocoeval.COCOeval(truth, truth.loadRes([dict(row) for row in results]), kind)
        evaluator.params.useCats = int(by_class)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [math.nan if value < 0 else value for value in evaluator.stats]


@pytest.fixture(params=['pycocotools', 'faster-coco-eval'])
def backend(request, monkeypatch):
    """Evaluation with the one library and with the other."""
    if request.param == 'pycocotools':
        monkeypatch.setattr(coco_metrics, 'COCO', original.COCO)
        monkeypatch.setattr(coco_metrics, 'COCOeval', cocoeval.COCOeval)
    else:
        faster = pytest.importorskip('faster_coco_eval')
        monkeypatch.setattr(coco_metrics, 'COCO', faster.COCO)
        monkeypatch.setattr(coco_metrics, 'COCOeval', faster.COCOeval_faster)


def test_boxes_and_masks_equal_pycocotools_on_the_files(case, tmp_path, backend):
    _, file, frames, detections = case
    metrics = evaluate(frames, detections, NAMES)
    pictures = [(frame.path.name, frame.height, frame.width) for frame in frames]
    ids = [frame.image_id for frame in frames]
    write_results_json(tmp_path / 'found.json', pictures, detections, NAMES, ids, frames[0].categories)
    written = json.loads((tmp_path / 'found.json').read_text(encoding='utf-8'))
    assert [image['id'] for image in written['images']] == ids
    assert {category['name']: category['id'] for category in written['categories']} == IDS
    boxes = [{k: v for k, v in row.items() if k != 'segmentation'} for row in written['annotations']]
    shapes = [{k: v for k, v in row.items() if k != 'bbox'} for row in written['annotations']]
    own = [metrics[name] for name in COCO_NUMBERS]
    np.testing.assert_allclose(own, reference(file, boxes, 'bbox'), atol=1e-9)
    own_masks = [metrics[f'mask_{name}'] for name in COCO_NUMBERS]
    np.testing.assert_allclose(own_masks, reference(file, shapes, 'segm'), atol=1e-9)
    assert 0.1 < metrics['mask_AP'] < 0.9 and metrics['mask_AP'] != metrics['AP']
    for start, rows, kind in (('', boxes, 'bbox'), ('mask_', shapes, 'segm')):
        agnostic = [metrics[f'{start}AP50_agnostic'], metrics[f'{start}AP75_agnostic']]
        np.testing.assert_allclose(agnostic, reference(file, rows, kind, by_class=False)[1:3], atol=1e-9)
        for key in ('AP', 'AP50'):
            by_name = list(metrics[f'{start}{key}_per_class'].values())
            assert np.mean(by_name) == pytest.approx(metrics[f'{start}{key}'])


def test_numbers_of_both_libraries_without_objects_and_without_detections(case, backend):
    _, _, frames, detections = case
    nothing = {'boxes': torch.zeros(0, 4), 'labels': torch.zeros(0, dtype=torch.int64), 'scores': torch.zeros(0)}
    metrics = evaluate(frames, [{**nothing, 'rles': []}] * len(frames), NAMES)
    assert metrics['AP'] == metrics['mask_AP'] == metrics['mask_AP50_agnostic'] == metrics['VOC12_mAP'] == 0
    empty = [Sample(frame.path, *HW, masks=[]) for frame in frames]
    metrics = evaluate(empty, detections, NAMES)
    assert all(math.isnan(metrics[key]) for key in ('AP', 'mask_AP', 'mask_AP75_agnostic', 'VOC07_mAP', 'VOC12_mAP'))
    assert 'nan' not in format_metrics(metrics)


def test_perfect_masks_under_poor_boxes_and_the_other_way_round(case):
    _, _, frames, _ = case
    right, wrong = [], []
    for frame in frames:
        n = len(frame.names)
        found = {
            'labels': torch.tensor([NAMES.index(name) + 1 for name in frame.names], dtype=torch.int64),
            'scores': torch.linspace(0.9, 0.5, n),
            'boxes': torch.from_numpy(frame.boxes),
        }
        right.append({**found, 'boxes': found['boxes'] * 0.2, 'rles': frame.masks})
        wrong.append({**found, 'rles': [masks.box_mask((0, 0, 5, 5), HW)] * n})
    metrics = evaluate(frames, right, NAMES)
    assert metrics['mask_AP'] == pytest.approx(1) and metrics['mask_AP75_agnostic'] == pytest.approx(1)
    assert metrics['AP'] < 0.3
    metrics = evaluate(frames, wrong, NAMES)
    assert metrics['AP'] == pytest.approx(1) and metrics['mask_AP'] < 0.1


def test_size_of_an_object_is_that_of_its_mask():
    # The box has 40 x 40 pixels, which is medium; a cross of thin lines in it is small.
    cross = np.zeros(HW, bool)
    cross[10:50, 28:32] = cross[28:32, 10:50] = True
    frame = Sample(Path('a.png'), *HW, np.float32([[10, 10, 50, 50]]), ['cat'], np.zeros(1, bool))
    found = {'boxes': torch.tensor([[10.0, 10, 50, 50]]), 'labels': torch.tensor([2]), 'scores': torch.tensor([0.9])}
    metrics = evaluate([frame], [found], NAMES)
    assert metrics['APm'] == pytest.approx(1) and math.isnan(metrics['APs']) and 'mask_AP' not in metrics
    frame.masks = masks.encode(cross[None])
    metrics = evaluate([frame], [{**found, 'masks': torch.from_numpy(cross[None])}], NAMES)
    for kind in ('', 'mask_'):
        assert metrics[f'{kind}APs'] == pytest.approx(1) and math.isnan(metrics[f'{kind}APm'])
    # Without masks on either side there are metrics of boxes alone.
    assert 'mask_AP' not in evaluate([frame], [found], NAMES)


def test_a_crowd_is_a_region_for_its_own_class_alone():
    frame = Sample(
        Path('a.png'),
        *HW,
        np.float32([[10, 10, 50, 50]]),
        ['cat'],
        np.zeros(1, bool),
        ignored=np.float32([[100, 0, 200, 120]]),
        masks=[masks.box_mask((10, 10, 50, 50), HW)],
        ignored_names=['cat'],
        ignored_masks=[None],
    )
    boxes = torch.tensor([[110.0, 10, 150, 60], [10, 10, 50, 50]])
    found = {'boxes': boxes, 'labels': torch.tensor([2, 2]), 'scores': torch.tensor([0.9, 0.8])}
    found['rles'] = [masks.box_mask(box, HW) for box in boxes]
    metrics = evaluate([frame], [found], NAMES)
    assert metrics['AP50'] == metrics['mask_AP50'] == pytest.approx(1)
    frame.ignored_names = ['dog']
    metrics = evaluate([frame], [found], NAMES)
    assert metrics['AP50'] == metrics['mask_AP50'] == pytest.approx(0.5)
    frame.ignored_names = ['a stranger']  # such a class is none of these weights'
    assert evaluate([frame], [found], NAMES)['AP50'] == pytest.approx(0.5)


def test_masks_stand_beside_boxes(case):
    _, _, frames, detections = case
    metrics = evaluate(frames, detections, NAMES)
    text = format_metrics(metrics)
    assert f'  AP50   {metrics["AP50"]:.3f}  {metrics["mask_AP50"]:.3f}  IoU 0.50\n' in text
    assert 'boxes and masks' in text and 'VOC 2010-12' in text and 'Their masks, whoever it is' in text
    alone = format_metrics(evaluate(frames, without_masks(detections), NAMES))
    assert 'masks' not in alone


def without_masks(detections):
    return [{key: value for key, value in found.items() if key != 'rles'} for found in detections]


# ------------------------------------------------------------------------------------------------------ VOC's metrics


def devkit(frames, detections, name, label):
    """VOCevaldet.m and VOCap.m of the VOC 2007 and 2012 development kits, line by line: (11-point AP, area AP)."""
    gt = [
        {'BB': f.boxes[[n == name for n in f.names]], 'diff': f.difficult[[n == name for n in f.names]]} for f in frames
    ]
    npos = sum(int((~g['diff']).sum()) for g in gt)
    rows = [
        (float(score), i, box.tolist())
        for i, d in enumerate(detections)
        for box, score, k in zip(d['boxes'], d['scores'], d['labels'], strict=True)
        if k == label
    ]
    rows.sort(key=lambda row: -row[0])
    det = [np.zeros(len(g['BB']), bool) for g in gt]
    tp, fp = np.zeros(len(rows)), np.zeros(len(rows))
    for d, (_, i, bb) in enumerate(rows):
        ovmax, jmax = -math.inf, -1
        for j, bbgt in enumerate(gt[i]['BB'].tolist()):
            iw = min(bb[2], bbgt[2]) - max(bb[0], bbgt[0])
            ih = min(bb[3], bbgt[3]) - max(bb[1], bbgt[1])
            if iw > 0 and ih > 0:
                ua = (bb[2] - bb[0]) * (bb[3] - bb[1]) + (bbgt[2] - bbgt[0]) * (bbgt[3] - bbgt[1]) - iw * ih
                if iw * ih / ua > ovmax:
                    ovmax, jmax = iw * ih / ua, j
        if ovmax >= 0.5:
            if not gt[i]['diff'][jmax]:
                if not det[i][jmax]:
                    tp[d], det[i][jmax] = 1, True
                else:
                    fp[d] = 1
        else:
            fp[d] = 1
    fp, tp = np.cumsum(fp), np.cumsum(tp)
    with np.errstate(invalid='ignore', divide='ignore'):
        rec, prec = tp / npos, np.nan_to_num(tp / (fp + tp))
    ap07 = sum(max(prec[rec >= t / 10 - 1e-12], default=0.0) / 11 for t in range(11))
    mrec, mpre = np.array([0, *rec, 1]), np.array([0, *prec, 0])
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    i = np.flatnonzero(mrec[1:] != mrec[:-1]) + 1
    return ap07, float(((mrec[i] - mrec[i - 1]) * mpre[i]).sum())


@pytest.mark.parametrize('seed', range(4))
def test_voc_equals_the_development_kit(seed):
    rng = np.random.default_rng(seed)
    frames, detections = [], []
    for i in range(15):
        n = rng.integers(0, 6)
        boxes = np.array([random_box(rng) for _ in range(n)], np.float32).reshape(-1, 4)
        names = [NAMES[k] for k in rng.integers(0, 3, n)]
        frames.append(Sample(Path(f'{i}.jpg'), *HW, boxes, names, rng.random(n) < 0.3))
        copies = rng.integers(0, max(n, 1), 9 if n else 0)
        drawn = np.concatenate([boxes[copies] + rng.normal(0, 4, (len(copies), 4)), [random_box(rng)]])
        labels = [NAMES.index(names[k]) + 1 if rng.random() < 0.8 else rng.integers(1, 4) for k in copies] + [1]
        detections.append({
            'boxes': torch.tensor(drawn, dtype=torch.float32), 'labels': torch.tensor(labels),
            'scores': torch.tensor(rng.permutation(10_000)[: len(drawn)] / 10_000),
        })  # fmt: skip
    expected = [devkit(frames, detections, name, label) for label, name in enumerate(NAMES, start=1)]
    metrics = evaluate(frames, detections, NAMES)
    assert metrics['VOC07_mAP'] == pytest.approx(np.mean([ap for ap, _ in expected]), abs=1e-9)
    assert metrics['VOC12_mAP'] == pytest.approx(np.mean([ap for _, ap in expected]), abs=1e-9)
    assert 0.1 < metrics['VOC12_mAP'] < 0.9 and metrics['VOC12_mAP'] != metrics['VOC07_mAP']


def voc_case(difficult, drawn):
    frame = Sample(
        Path('a.jpg'), *HW, np.float32([[0, 0, 50, 50], [60, 0, 110, 50]]), ['cat', 'cat'], np.array(difficult)
    )
    boxes = {'first': [0, 0, 50, 50], 'second': [60, 0, 110, 50], 'nowhere': [120, 60, 190, 110]}
    found = {
        'boxes': torch.tensor([boxes[name] for name in drawn], dtype=torch.float32),
        'labels': torch.full((len(drawn),), 2),
        'scores': torch.linspace(0.9, 0.1, len(drawn)),
    }
    return voc_map([frame], [found], NAMES, eleven_points=False)


def test_difficult_objects_as_the_development_kit_counts_them():
    # Neither missed nor found, however often; whatever else is drawn counts.
    assert voc_case([False, True], ['first']) == pytest.approx(1)
    assert voc_case([False, True], ['second', 'second', 'first']) == pytest.approx(1)
    assert voc_case([False, True], ['nowhere', 'second', 'first']) == pytest.approx(0.5)
    assert voc_case([False, True], ['second']) == 0
    # A second detection of an easy object is a mistake, though a difficult one is free.
    assert voc_case([False, False], ['first', 'first', 'second']) == pytest.approx(0.5 + 0.5 * 2 / 3)
    # A class with difficult objects alone is no class to be judged by.
    assert math.isnan(voc_case([True, True], ['first']))


# --------------------------------------------------------------------------------------- from the detector to the file


class Bright(Detector):
    """Finds what is bright: one object in each half of a picture, with its mask. For tests only."""

    class_names, img_hw = ('柚', 'cat'), (48, 80)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.most = 0  # pictures at once

    def forward(self, images, with_maps=False):
        self.most = max(self.most, len(images))
        return [self.one(image) for image in images]

    def one(self, image):
        bright, half = image.mean(dim=0) > 0.6, image.shape[-1] // 2
        sides = [bright.clone(), bright.clone()]
        sides[0][:, half:], sides[1][:, :half] = False, False
        shapes = [side for side in sides if side.any()]
        boxes = [torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]) for y, x in (s.nonzero().T for s in shapes)]
        return {
            'boxes': torch.stack(boxes).float() if boxes else torch.zeros(0, 4),
            'labels': torch.arange(1, len(boxes) + 1),
            'scores': torch.linspace(0.9, 0.8, len(boxes)),
            'masks': torch.stack(shapes) if shapes else torch.zeros(0, *image.shape[-2:], dtype=torch.bool),
        }


@pytest.fixture
def bright_data(tmp_path):
    """(folder of a COCO data set of which `Bright` finds all, its JSON file)."""
    root = tmp_path / 'bright 花'
    (root / 'annotations').mkdir(parents=True)
    images, rows = [], []
    for image_id, name in ((70, 'a/one.png'), (5, 'b/one.png'), (6, 'b/two.png')):
        picture = np.full((*HW, 3), 30, np.uint8)
        for label, left in enumerate((10, 110), start=1):
            if (image_id, label) == (6, 2):
                continue
            part = np.zeros(HW, bool)
            part[20 : 30 + image_id // 2, left : left + 60] = part[30:100, left + 20 : left + 30] = True
            picture[part] = 220
            rle = masks.encode(part[None])
            x1, y1, x2, y2 = masks.bounding_box(rle[0])
            rows.append({
                'id': len(rows) + 1, 'image_id': image_id, 'category_id': 40 + label, 'iscrowd': 0,
                'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': masks.area(rle)[0],
                'segmentation': {'size': list(HW), 'counts': rle[0]['counts'].decode()},
            })  # fmt: skip
        (root / 'val' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / 'val' / name)
        images.append({'id': image_id, 'file_name': name, 'height': HW[0], 'width': HW[1]})
    categories = [{'id': 41, 'name': '柚'}, {'id': 42, 'name': 'cat'}, {'id': 43, 'name': 'unused'}]
    file = root / 'annotations' / 'instances_val.json'
    file.write_text(json.dumps({'images': images, 'annotations': rows, 'categories': categories}), encoding='utf-8')
    return root, file


def test_masks_are_encoded_while_predicting(bright_data):
    (frames,), _ = read_frames(bright_data[0], ['val'], None, progress=False)
    model = Bright()
    detections = predict_dataset(model, Frames(frames, ['柚', 'cat']), batch_size=2, progress=False)
    assert model.most == 2 and all('masks' not in found for found in detections)
    assert [len(found['rles']) for found in detections] == [2, 2, 1]
    for found, frame in zip(detections, frames, strict=True):
        assert found['rles'] == frame.masks
    metrics = evaluate(frames, detections, ['柚', 'cat'])
    assert metrics['mask_AP'] == metrics['AP'] == pytest.approx(1)


@pytest.fixture
def look(run_script, tmp_path, monkeypatch):
    """Function (*overrides) -> (what _test.py prints, its results file), with `Bright` instead of weights."""
    monkeypatch.setattr(konohana, 'load', lambda *_, **options: Bright())

    def run(*overrides):
        results = tmp_path / 'made' / 'found.json'
        result = run_script('_test.py', f'test_out={tmp_path / "out"}', f'results_json={results}', *overrides)
        assert result.returncode == 0, result.stderr
        return result.stdout, json.loads(results.read_text(encoding='utf-8'))

    return run


def test_script_prints_and_writes_masks(look, bright_data, tmp_path):
    root, file = bright_data
    text, written = look(f'konohana_dataset_path={root}', 'batch_size=2')
    assert 'AP     1.000  1.000  IoU 0.50:0.95' in text
    assert {image['id']: image['file_name'] for image in written['images']} == {
        70: 'one.png',
        5: 'one.png',
        6: 'two.png',
    }
    assert {c['name']: c['id'] for c in written['categories']} == {'柚': 41, 'cat': 42, 'unused': 43}
    for kind, other in (('bbox', 'segmentation'), ('segm', 'bbox')):
        rows = [{key: value for key, value in row.items() if key != other} for row in written['annotations']]
        assert reference(file, rows, kind)[0] == pytest.approx(1)
    # Two pictures of one name lie in two folders; a sheet has the panels there are: frame and what was found.
    assert {path.name for path in (tmp_path / 'out').glob('*.jpg')} == {'a_one.png.jpg', 'b_one.png.jpg', 'two.jpg'}
    with Image.open(tmp_path / 'out' / 'two.jpg') as picture:
        pixels = np.asarray(picture).astype(int)
    assert 150 < pixels.shape[1] < 200 and pixels.shape[0] < 100

    # The mask is drawn: the bright part is grey in the frame, coloured where it was found.
    def colour(part):
        return int((part.max(axis=2) - part.min(axis=2)).max())

    middle = pixels.shape[1] // 2
    assert colour(pixels[-20:, : middle - 4]) < 40 < 100 < colour(pixels[-20:, middle + 4 :])


def test_script_writes_masks_without_labels(look, bright_data, tmp_path):
    text, written = look(f'pictures_in={bright_data[0] / "val" / "b"}', 'sheet=False')
    assert 'IoU' not in text
    assert [(image['id'], image['file_name']) for image in written['images']] == [(1, 'one.png'), (2, 'two.png')]
    assert [(c['id'], c['name']) for c in written['categories']] == [(1, '柚'), (2, 'cat')]
    rows = written['annotations']
    assert [(row['image_id'], row['category_id']) for row in rows] == [(1, 1), (1, 2), (2, 1)]
    for row in rows:
        dense = masks.decode([row['segmentation']], HW)[0]
        assert row['area'] == int(dense.sum()) < row['bbox'][2] * row['bbox'][3] and isinstance(row['score'], float)
        x1, y1, x2, y2 = masks.bounding_box(row['segmentation'])
        assert row['bbox'] == [x1, y1, x2 - x1, y2 - y1]
    with Image.open(tmp_path / 'out' / 'two.jpg') as picture:
        assert picture.size == HW[::-1]
