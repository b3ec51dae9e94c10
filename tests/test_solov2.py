"""SOLOv2: MMDetection's numbers, matrix NMS, who learns what, learning, pictures of any size."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import weight_by_rule
from torchvision.ops import masks_to_boxes

from konohana import detectors
from konohana.detectors import solov2
from konohana.detectors.solov2 import GRIDS, SOLOv2, cell_centres, dice_loss, mask_boxes, matrix_nms, shrink_masks
from konohana.errors import UserError
from konohana.toy import writer


def small(n_classes=2, img_hw=(64, 96), **options):
    """A narrow SOLOv2 of which everything trains."""
    options = {'width': 32, 'mask_channels': 32, 'frozen_stages': 0, 'norm_eval': False, **options}
    torch.manual_seed(0)
    return SOLOv2(n_classes, img_hw, **options)


@pytest.fixture(scope='module')
def talkative():
    """An untrained SOLOv2 in evaluation mode that finds something all the same. Shared: not to be changed."""
    model = small().eval()
    with torch.no_grad():
        model.cate_layer.bias[:] = 1.0
        model.cate_layer.weight *= 30
        model.kernel_layer.weight *= 100
    return model


@pytest.fixture(scope='module')
def reference(shared_data):
    """What MMDetection computes: (its .json, its .npz, our detector with the same weights)."""
    folder = shared_data('reference')
    meta = json.loads((folder / 'solov2_light_r18.json').read_text(encoding='utf-8'))
    with np.load(folder / 'solov2_light_r18.npz') as file:
        numbers = dict(file)
    height, width = numbers['image'].shape[:2]
    model = detectors.build('solov2_light_r18', 80, (height, width)).eval()
    state = {key: weight_by_rule(key, tuple(shape)) for key, shape in meta['parameters'].items()}
    model.load_state_dict(solov2.convert_mmdet_state(state))
    model.score_threshold = float(numbers['score_thr'])
    return meta, numbers, model


@torch.inference_mode()
def test_raw_outputs_are_mmdetections(reference):
    meta, numbers, model = reference
    mean, std = (torch.tensor(meta['preprocess'][key])[:, None, None] for key in ('mean', 'std'))
    batch = ((torch.from_numpy(numbers['image']).permute(2, 0, 1) - mean) / std)[None]
    maps = model.raw_outputs(batch)
    assert set(maps) == {'mask_feats', *(f'{kind}_{i}' for kind in ('kernel', 'cate') for i in range(5))}
    for name, values in maps.items():
        expected = torch.from_numpy(numbers[name])
        assert values.shape == expected.shape
        assert (values - expected).abs().max() < 1e-4 * expected.abs().max(), name


@torch.inference_mode()
def test_instances_are_mmdetections(reference):
    meta, numbers, model = reference
    assert (model.nms_kernel, model.nms_sigma) == (meta['test_cfg']['kernel'], meta['test_cfg']['sigma'])
    image = torch.from_numpy(numbers['image']).permute(2, 0, 1).float() / 255
    found = model([image])[0]
    expected = np.unpackbits(numbers['masks'], axis=-1)[..., : image.shape[2]].astype(bool)
    assert found['masks'].shape == expected.shape
    assert found['masks'].dtype == torch.bool
    assert (found['masks'].numpy() != expected).mean() < 1e-4
    np.testing.assert_array_equal(found['labels'].numpy() - 1, numbers['labels'])
    np.testing.assert_allclose(found['scores'].numpy(), numbers['scores'], atol=1e-4)


def slow_matrix_nms(masks, labels, scores, kernel, sigma):
    """The paper's words, mask by mask."""

    def iou(i, j):
        return float((masks[i] & masks[j]).sum()) / float((masks[i] | masks[j]).sum())

    def f(value):
        return math.exp(-sigma * value**2) if kernel == 'gaussian' else max(1 - value, 1e-6)

    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    lowered = [0.0] * len(scores)
    for place, j in enumerate(order):
        decay = 1.0
        for other, i in enumerate(order[:place]):
            if labels[i] == labels[j]:
                covered = max((iou(k, i) for k in order[:other] if labels[k] == labels[i]), default=0.0)
                decay = min(decay, f(iou(i, j)) / f(covered))
        lowered[j] = float(scores[j]) * decay
    return lowered


@pytest.mark.parametrize(('kernel', 'sigma'), [('gaussian', 2.0), ('gaussian', 0.5), ('linear', 2.0)])
def test_matrix_nms_is_the_papers(kernel, sigma):
    generator = torch.Generator().manual_seed(1)
    # Discs around a few centres, so that all degrees of overlap occur.
    y, x = torch.meshgrid(torch.arange(24), torch.arange(30), indexing='ij')
    centres = torch.tensor([[8, 8], [10, 9], [20, 15]])[torch.randint(3, (40,), generator=generator)]
    centres = centres + torch.randint(-3, 4, (40, 2), generator=generator)
    radii = torch.randint(3, 8, (40,), generator=generator)
    masks = (x - centres[:, 0, None, None]) ** 2 + (y - centres[:, 1, None, None]) ** 2 <= radii[:, None, None] ** 2
    labels = torch.randint(1, 3, (40,), generator=generator)
    scores = (torch.rand(40, generator=generator) * 10).round() / 10  # with ties
    lowered = matrix_nms(masks, labels, scores, kernel, sigma)
    expected = slow_matrix_nms(masks, labels, scores.tolist(), kernel, sigma)
    np.testing.assert_allclose(lowered.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert (lowered <= scores + 1e-6).all()


def test_matrix_nms_of_the_same_mask():
    masks = torch.zeros(4, 5, 5, dtype=torch.bool)
    masks[:3, 1:3, 1:4] = True
    masks[3, 4, 4] = True
    labels, scores = torch.tensor([1, 1, 2, 1]), torch.tensor([0.6, 0.9, 0.8, 0.1])
    lowered = matrix_nms(masks, labels, scores, 'gaussian', 2.0)
    assert lowered.tolist() == pytest.approx([0.6 * math.exp(-2), 0.9, 0.8, 0.1])
    # Three of the same: 0 / 0 for the last.
    lowered = matrix_nms(masks[[0, 0, 0]], labels[[0, 0, 0]], scores[:3], 'linear')
    assert lowered.tolist() == pytest.approx([0, 0.9, 0], abs=1e-6)
    assert matrix_nms(masks[:0], labels[:0], scores[:0]).shape == (0,)
    with pytest.raises(ValueError, match="'linear'"):
        matrix_nms(masks, labels, scores, 'cosine')


def test_boxes_of_masks():
    masks = torch.rand(20, 9, 13, generator=torch.Generator().manual_seed(0)) > 0.97
    masks = masks[masks.flatten(1).any(1)]
    expected = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(mask_boxes(masks), expected)
    assert mask_boxes(masks[:0]).shape == (0, 4)


def test_masks_at_a_quarter():
    masks = torch.zeros(3, 6, 9, dtype=torch.uint8)
    masks[0, :4, :4] = 1
    masks[1, 0:4, 2:7] = 1  # half of the first pixel, three quarters of the second
    masks[2, 2, 8] = 1  # a single pixel
    shrunk = shrink_masks(masks, (3, 4))
    assert shrunk.shape == (3, 3, 4)
    assert shrunk.flatten(1).nonzero().tolist() == [[0, 0], [1, 0], [1, 1], [2, 2]]


def rectangle(box, hw):
    mask = torch.zeros(hw, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    mask[y1:y2, x1:x2] = 1
    return mask


def target_of(boxes, hw, labels=None, **more):
    """A target of rectangles."""
    masks = torch.stack([rectangle(box, hw) for box in boxes]) if boxes else torch.zeros((0, *hw), dtype=torch.uint8)
    return {
        'boxes': torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        'labels': torch.tensor(labels or [1] * len(boxes), dtype=torch.int64),
        'masks': masks,
        **more,
    }


def grid_of(cells):
    """Numbers of cells -> list of (grid, row, column)."""
    starts = np.cumsum([0, *(n * n for n in GRIDS)])
    places = []
    for cell in cells.tolist():
        grid = int(np.searchsorted(starts, cell, side='right')) - 1
        places.append((grid, *divmod(cell - starts[grid], GRIDS[grid])))
    return places


def test_objects_are_learned_by_the_grids_of_their_size():
    model, hw = small(), (448, 768)
    for side, grids in ((16, {0}), (40, {0, 1}), (100, {1, 2}), (300, {3, 4})):
        cells, objects = model.assign(target_of([(200, 100, 200 + side, 100 + side)], hw), hw)
        places = grid_of(cells)
        assert {grid for grid, _, _ in places} == grids
        assert (objects == 0).all()
        for grid in grids:
            rows, columns = (sorted({p[i] for p in places if p[0] == grid}) for i in (1, 2))
            own = (int((100 + side / 2) / 448 * GRIDS[grid]), int((200 + side / 2) / 768 * GRIDS[grid]))
            for middle, span, length in ((own[0], rows, 448), (own[1], columns, 768)):
                low = math.floor((middle + 0.5) - side * 0.1 / length * GRIDS[grid] - 1)
                assert middle in span
                assert span == list(range(span[0], span[-1] + 1))
                assert max(middle - 1, low) <= span[0]
                assert span[-1] <= middle + 1


def test_cells_are_those_of_the_middle_fifth():
    # 0.2 x 320 = 64 pixels around (324, 224), of cells 48 by 28 pixels: columns 6 and 7, but rows 6 to 9 cut to 7 to 9.
    model, hw = small(), (448, 768)
    cells, _ = model.assign(target_of([(164, 64, 484, 384)], hw), hw)
    places = [place for place in grid_of(cells) if place[0] == 3]
    assert sorted({column for _, _, column in places}) == [6, 7]
    assert sorted({row for _, row, _ in places}) == [7, 8, 9]


def test_the_smaller_object_takes_a_shared_cell():
    model, hw = small(), (448, 768)
    target = target_of([(350, 190, 418, 258), (300, 150, 450, 290), (10, 10, 12, 12)], hw)
    target['masks'][2] = 0  # nothing left of it: it is learned by no cell
    for order in ([0, 1, 2], [2, 1, 0]):
        shuffled = {key: value[order] for key, value in target.items()}
        cells, objects = model.assign(shuffled, hw)
        assert len(set(cells.tolist())) == len(cells)
        learned = [(place, order[i]) for place, i in zip(grid_of(cells), objects.tolist(), strict=True)]
        assert {i for place, i in learned} == {0, 1}
        assert ((2, 12, 12), 0) in learned  # the centre of both, in a grid of both
    cells, objects = model.assign(target_of([], hw), hw)
    assert cells.shape == objects.shape == (0,)


def test_centres_of_cells():
    centres = cell_centres((448, 768))
    assert len(centres) == sum(n * n for n in GRIDS)
    assert centres[0].tolist() == pytest.approx([768 / 80, 448 / 80])
    assert centres[-1].tolist() == pytest.approx([768 - 32, 448 - 448 / 24])


def test_dice_loss():
    masks = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]])
    sure = (masks * 2 - 1) * 30
    assert dice_loss(sure, masks).tolist() == pytest.approx([0, 0], abs=2e-3)
    assert dice_loss(-sure, masks).tolist() == pytest.approx([1, 1], abs=2e-3)
    half = dice_loss(torch.zeros(1, 4), masks[:1])  # 1 - 2 * (0.5 + 0.5) / (4 * 0.25 + 2)
    assert half.item() == pytest.approx(1 / 3, abs=1e-3)


def test_nothing_is_learned_in_ignored_regions():
    model, hw = small(), (64, 96)
    torch.manual_seed(0)
    maps = {'mask_feats': torch.randn(1, 32, 16, 24)}
    for i, n in enumerate(GRIDS):
        maps[f'kernel_{i}'] = torch.randn(1, 32, n, n)
        maps[f'cate_{i}'] = torch.randn(1, 2, n, n, requires_grad=True)
    ignored = torch.tensor([[0.0, 0.0, 48.0, 64.0]])
    # One object inside the ignored half is still learned, and by its own name.
    target = target_of([(10, 20, 40, 50)], hw, labels=[2], ignored=ignored)
    losses = model.losses(maps, [target], [hw])
    sum(losses.values()).backward()
    gradients = torch.cat([maps[f'cate_{i}'].grad.flatten(2) for i in range(5)], dim=2)[0].T
    cells, _ = model.assign(target, hw)
    learned = gradients.abs().amax(dim=1) > 0
    inside = cell_centres(hw)[:, 0] <= 48
    assert learned[~inside].all()
    assert sorted(learned.nonzero()[:, 0][inside[learned]].tolist()) == cells.tolist()
    assert (gradients[cells, 1] < 0).all()
    assert (gradients[cells, 0] > 0).all()


def test_batches_without_objects_or_masks():
    model = small().train()
    images = [torch.rand(3, 64, 96), torch.rand(3, 48, 60)]
    targets = [target_of([], (64, 96)), target_of([], (48, 60))]
    losses = model(images, targets)
    assert losses['loss_mask'] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for target in targets:
        del target['masks']
    with pytest.raises(UserError, match='masks'):
        model(images, targets)
    with pytest.raises(ValueError, match='targets'):
        model(images)


def test_pictures_of_any_size(talkative):
    sizes = [(64, 96), (33, 50), (201, 90), (1, 7)]
    with torch.inference_mode():
        found = talkative([torch.rand(3, *size, generator=torch.Generator().manual_seed(3)) for size in sizes])
    assert sum(len(d['scores']) for d in found) > 10
    for d, size in zip(found, sizes, strict=True):
        n = len(d['scores'])
        assert d['masks'].shape == (n, *size)
        assert d['masks'].dtype == torch.bool
        assert d['labels'].shape == (n,)
        assert d['labels'].dtype == torch.int64
        assert set(d['labels'].tolist()) <= {1, 2}
        assert (d['scores'][:-1] >= d['scores'][1:]).all()
        assert ((0 <= d['scores']) & (d['scores'] <= 1)).all()
        torch.testing.assert_close(d['boxes'], mask_boxes(d['masks']))
        assert n <= talkative.max_detections


def test_masks_are_resized_without_a_shift(talkative):
    """Mirror, then resize, is resize, then mirror: plain 'nearest' would move masks up and to the left."""
    masks = torch.zeros(2, 100, 150, dtype=torch.uint8)
    masks[0, 20:61, 31:90] = masks[1, :50, 75:] = 1
    image, target = torch.rand(3, 100, 150), {'boxes': torch.zeros(2, 4)}
    _, plain = talkative.transform.resize(image, {**target, 'masks': masks})
    _, mirrored = talkative.transform.resize(image, {**target, 'masks': masks.flip(1, 2)})
    assert plain['masks'].shape == (2, 64, 96) and plain['masks'].dtype == torch.uint8
    assert torch.equal(plain['masks'], mirrored['masks'].flip(1, 2))


def test_each_picture_is_itself_in_a_batch(talkative):
    generator = torch.Generator().manual_seed(4)
    images = [torch.rand(3, 64, 96, generator=generator) for _ in range(2)]
    with torch.inference_mode():
        together, alone = talkative(images), [talkative([image])[0] for image in images]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a['scores'], b['scores'], atol=1e-4, rtol=1e-3)
        assert (a['masks'] != b['masks']).float().mean() < 1e-3


@pytest.mark.parametrize(('frozen_stages', 'norm_eval'), [(1, True), (0, False), (2, False)])
def test_what_is_frozen_stays(frozen_stages, norm_eval):
    model = small(frozen_stages=frozen_stages, norm_eval=norm_eval)
    model.eval()
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = model([torch.rand(3, 64, 96)] * 2, [target_of([(10, 10, 50, 50)], (64, 96))] * 2)
    sum(losses.values()).backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    frozen = ('conv1', 'bn1', 'layer1', 'layer2')[: frozen_stages + 2 if frozen_stages else 0]
    frozen = tuple(f'backbone.body.{name}.' for name in frozen)
    for key in before:
        statistics = key.endswith(('running_mean', 'running_var', 'num_batches_tracked'))
        if frozen and key.startswith(frozen):
            assert key not in changed
        elif statistics:
            assert (key in changed) != norm_eval, key
        elif key.startswith('backbone.'):
            assert key in changed, key


def test_a_few_frames_are_learned_by_heart(monkeypatch):
    # Coarser grids than the real ones, for the time.
    monkeypatch.setattr(solov2, 'GRIDS', (16, 14, 12, 8, 6))
    frames = [frame for i in range(6) if len((frame := writer.draw_frame((3, i), (96, 160)))['labels'])][:2]
    names = sorted({name for frame in frames for name in frame['labels']})
    images = [torch.from_numpy(frame['image']).permute(2, 0, 1).float() / 255 for frame in frames]
    targets = [
        {
            'boxes': torch.from_numpy(frame['boxes']),
            'labels': torch.tensor([names.index(name) + 1 for name in frame['labels']]),
            'masks': torch.from_numpy(frame['masks']),
        }
        for frame in frames
    ]
    model = small(len(names), (96, 160), width=64).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for step in range(25):
        optimizer.param_groups[0]['lr'] = 2e-3 * min(1, (step + 1) / 5)
        losses = model(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        history.append({key: float(value.detach()) for key, value in losses.items()})
    assert history[-1]['loss_category'] < 0.3 * history[0]['loss_category']
    assert history[-1]['loss_mask'] < 0.3 * history[0]['loss_mask']
    model.eval()
    with torch.inference_mode():
        found = model(images)
    for d, target in zip(found, targets, strict=True):
        for mask, label in zip(target['masks'], target['labels'], strict=True):
            same = d['masks'][(d['labels'] == label) & (d['scores'] > 0.3)]
            iou = (same & mask).flatten(1).sum(1) / (same | mask).flatten(1).sum(1)
            assert iou.max() > 0.5


def test_detectors_by_name():
    shapes = {}
    for name in ('solov2_light_r34', 'solov2_r50'):
        options = detectors.options_of(name, {'frozen_stages': 2, 'use_res2block': True})
        assert options == {'frozen_stages': 2, 'norm_eval': True}
        model = detectors.build(name, 3, (448, 768), **options)
        assert model.wants_masks
        shapes[name] = (len(model.cate_tower), model.kernel_layer.out_channels, model.backbone.channels)
        assert all(key.startswith('cate_layer.') for key in model.state_dict() if key.startswith(model.class_layers))
    assert shapes == {
        'solov2_light_r34': (2, 128, (64, 128, 256, 512)),
        'solov2_r50': (4, 256, (256, 512, 1024, 2048)),
    }
