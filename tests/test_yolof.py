"""YOLOF: MMDetection's numbers, its contract, its matching and losses; the backbones; the scripts with it."""

import copy
import importlib.util
import json
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOY_HW, check_contract, weight_by_rule
from torchvision.models import get_model
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou

from konohana import checkpoint, inference
from konohana.cast import CLASS_NAMES
from konohana.detectors import build, hub, yolof
from konohana.detectors.backbones import make_backbone
from konohana.detectors.fusing import fuse_batch_norms
from konohana.detectors.yolof import ANCHORS, MATCHED, YOLOF, uniform_matching, yolof_losses
from konohana.errors import UserError
from konohana.toy.writer import draw_frame

SMALL = 'mobilenet_v3_small'
HW = (96, 160)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build('yolof', 5, HW, backbone=SMALL)


def sample(hw=HW):
    target = {
        'boxes': torch.tensor([[10.0, 8.0, 60.0, 90.0], [80.0, 20.0, 150.0, 70.0]]),
        'labels': torch.tensor([1, 5]),
    }
    return torch.rand(3, *hw), target


def empty_target():
    return {'boxes': torch.zeros(0, 4), 'labels': torch.zeros(0, dtype=torch.int64)}


# The reference numbers


def test_agrees_with_mmdetection(shared_data):
    folder = shared_data('reference')
    described = json.loads((folder / 'yolof_r50.json').read_text(encoding='utf-8'))
    expected = {key: torch.from_numpy(value) for key, value in np.load(folder / 'yolof_r50.npz').items()}
    state = {key: weight_by_rule(key, shape) for key, shape in described['parameters'].items()}
    model = build('yolof', 80, (160, 224), **yolof.MMDET_OPTIONS).eval()
    model.load_state_dict(yolof.convert_mmdet_state(state))

    image = expected['image'].permute(2, 0, 1).float()
    assert described['preprocess']['channels'] == 'BGR'
    mean, std = (torch.tensor(described['preprocess'][key])[:, None, None] for key in ('mean', 'std'))
    batch = ((image.flip(0) - mean) / std)[None]
    torch.testing.assert_close(model.transform([image / 255])[0].tensors, batch, atol=1e-4, rtol=1e-4)

    model.score_threshold = float(expected['score_thr'])
    with torch.inference_mode():
        maps = model.raw_outputs(batch)
        (found,) = model([image / 255])
    for name in ('cls', 'reg'):
        # Near zero, where a ratio says nothing, within a thousandth of the values' spread.
        spread = float(expected[name].std())
        torch.testing.assert_close(maps[name], expected[name], rtol=1e-3, atol=1e-4 * spread)
    assert found['labels'].tolist() == (expected['labels'] + 1).tolist()
    torch.testing.assert_close(found['boxes'], expected['boxes'], atol=1e-2, rtol=0)
    torch.testing.assert_close(found['scores'], expected['scores'], atol=1e-3, rtol=0)


# The contract


def test_training_gives_losses_that_reach_every_weight(network):
    images, targets = zip(*[sample(), sample((50, 90)), (torch.rand(3, 96, 160), empty_target())], strict=True)
    losses = network.train()(list(images), list(targets))
    assert set(losses) == {'loss_name', 'loss_box'}
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_a_batch_without_anybody_still_learns(network):
    losses = network.train()([torch.rand(3, *HW)] * 2, [empty_target()] * 2)
    assert losses['loss_name'] > 0 and losses['loss_box'] == 0
    sum(losses.values()).backward()


def test_training_without_targets_is_an_error(network):
    with pytest.raises(ValueError, match='targets'):
        network.train()([torch.rand(3, *HW)])


def test_detections_keep_the_contract_at_any_size(network):
    check_contract(network, n_classes=5)


def test_the_result_does_not_depend_on_the_rest_of_the_batch(network):
    network.eval()
    network.score_threshold = 0.0
    image, other = torch.rand(3, *HW), torch.rand(3, *HW)
    with torch.inference_mode():
        alone, together = network([image])[0], network([image, other])[0]
    torch.testing.assert_close(alone['boxes'], together['boxes'], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(alone['scores'], together['scores'], atol=1e-5, rtol=1e-4)


def test_fused_from_its_file_it_computes_the_same(network, tmp_path):
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value += 0.02 * torch.rand_like(value)
    content = {'model': network.state_dict(), 'detector': 'yolof', 'options': {'backbone': SMALL}}
    path = tmp_path / 'net 花.pt'
    checkpoint.save({**content, 'class_names': list('abcde'), 'img_hw': list(HW)}, path)
    batch = torch.rand(1, 3, *HW)
    with torch.inference_mode():
        expected, found = network.eval().raw_outputs(batch), inference.load(path, 'cpu').raw_outputs(batch)
    assert expected['cls'].shape == (1, 5 * 5, 3, 5) and expected['reg'].shape == (1, 5 * 4, 3, 5)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-4 * float(values.abs().max()))
    checkpoint.save({**content, 'options': {}, 'class_names': list('abcde'), 'img_hw': list(HW)}, path)
    with pytest.raises(UserError, match='do not fit'):
        inference.load(path, 'cpu')


def test_boxes_are_decoded_as_torchvision_does_but_for_the_clamp():
    torch.manual_seed(0)
    model = YOLOF(3, HW, SMALL)
    reg = torch.randn(1, 20, 3, 5) * 0.5
    decoded = model.decode({'reg': reg, 'cls': torch.zeros(1, 15, 3, 5)})
    anchors = decoded['anchors'].view(3, 5, 5, 4)
    assert (anchors[1, 2, 0] + torch.tensor([16, 16, -16, -16])).tolist() == [64, 32, 64, 32]
    assert (anchors[0, 0, :, 2] - anchors[0, 0, :, 0]).tolist() == list(ANCHORS)
    offsets = reg.view(5, 4, 3, 5).permute(2, 3, 0, 1).reshape(-1, 4)
    plain = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(offsets, decoded['anchors'])
    sides = decoded['anchors'][:, 2:] - decoded['anchors'][:, :2]
    free = (offsets[:, :2].abs() * sides < 32).all(dim=1)
    assert free.any() and not free.all()
    torch.testing.assert_close(decoded['boxes'][0][free], plain[free])
    moved = (decoded['boxes'][0][:, :2] + decoded['boxes'][0][:, 2:] - sum(decoded['anchors'].split(2, dim=1))) / 2
    assert moved.abs().max() == pytest.approx(32, abs=1e-3)


def test_the_product_of_name_and_objectness():
    decoder = yolof.Decoder(2).eval()  # one cell has no variance
    names, objectness = torch.tensor([-3.0, 2.0, 0.5]), torch.tensor([1.0, 15.0, -90.0])
    for name, seen in zip(names, objectness, strict=True):
        with torch.no_grad():
            for layer, value in ((decoder.name_layer, name), (decoder.object_layer, seen)):
                layer.weight.zero_()
                layer.bias.fill_(value)
        logits, _ = decoder(torch.zeros(1, 512, 1, 1))
        expected = name.double().sigmoid() * seen.double().sigmoid()
        assert logits.shape == (1, 10, 1, 1) and logits.isfinite().all()
        torch.testing.assert_close(logits.double().sigmoid(), expected.expand(1, 10, 1, 1), atol=1e-7, rtol=1e-3)


# Matching and losses


def grid(h=6, w=10):
    """Anchors of a map of h x w cells."""
    model = YOLOF.__new__(YOLOF)
    torch.nn.Module.__init__(model)
    model.n_classes = 3
    return model.decode({'reg': torch.zeros(1, 20, h, w), 'cls': torch.zeros(1, 15, h, w)})


def test_large_and_small_objects_teach_equally_many_anchors():
    anchors = grid()['anchors']
    truth = torch.tensor([[80.0, 25.0, 140.0, 95.0], [20.0, 10.0, 300.0, 180.0]])
    index, owner, owner_of = uniform_matching(anchors, anchors, truth)
    # The predictions are the anchors themselves: each pair comes twice.
    assert torch.bincount(owner).tolist() == [2 * MATCHED] * 2
    middle = (anchors[:, :2] + anchors[:, 2:]) / 2
    sides = anchors[:, 2:] - anchors[:, :2]
    for k, box in enumerate(truth):
        mine = index[owner == k].unique()
        far = (middle - (box[:2] + box[2:]) / 2).abs().sum(1) + (sides - (box[2:] - box[:2])).abs().sum(1)
        assert far[mine].max() <= far.sort().values[MATCHED - 1] + 1e-4
        assert (owner_of[mine] == k).all()
    assert (owner_of >= 0).sum() == 2 * MATCHED


def test_what_is_too_far_or_close_enough_is_neither_object_nor_background():
    anchors = grid()['anchors']
    tiny = torch.tensor([[100.0, 40.0, 108.0, 48.0]])
    index, _, owner_of = uniform_matching(anchors, anchors, tiny)
    assert len(index) == 0 and (owner_of == -2).sum() == MATCHED  # no anchor overlaps it by 0.15
    truth = torch.tensor([[64.0, 32.0, 192.0, 160.0]])
    boxes = truth + torch.linspace(0, 40, len(anchors))[:, None]
    _, _, owner_of = uniform_matching(boxes, anchors, truth)
    close = box_iou(boxes, truth)[:, 0] > 0.7
    assert close.sum() > 2 * MATCHED
    assert (owner_of[close] != -1).all() and (owner_of[~close] == -1).any()


def test_an_anchor_wanted_twice_learns_the_name_it_overlaps_more():
    anchors = grid()['anchors']
    truth = torch.tensor([[64.0, 64.0, 128.0, 128.0], [66.0, 66.0, 150.0, 150.0]])
    index, owner, owner_of = uniform_matching(anchors, anchors, truth)
    overlap = box_iou(anchors, truth)
    twice = [i for i in index.unique().tolist() if len(set(owner[index == i].tolist())) == 2]
    assert twice and all(owner_of[i] == overlap[i].argmax() for i in twice)


def loss_gradient(target, sizes=((192, 320),)):
    predictions = grid()
    names = torch.zeros(1, len(predictions['anchors']), 3, requires_grad=True)
    losses = yolof_losses({**predictions, 'names': names}, [target], sizes)
    losses['loss_name'].backward()
    centres = (predictions['anchors'][:, :2] + predictions['anchors'][:, 2:]) / 2
    return losses, names.grad[0].abs().sum(dim=1), centres


def test_nothing_is_learned_in_an_ignored_region():
    region = torch.tensor([[60.0, 0.0, 200.0, 100.0]])
    losses, gradient, centres = loss_gradient({**empty_target(), 'ignored': region})
    inside = ((centres >= region[:, :2]) & (centres <= region[:, 2:])).all(dim=1)
    assert inside.sum() > 20 and (gradient[inside] == 0).all() and losses['loss_name'] > 0
    assert (gradient[~inside] > 0).sum() > len(centres) / 2
    everything = torch.tensor([[0.0, 0.0, 320.0, 192.0]])
    losses, gradient, _ = loss_gradient({**empty_target(), 'ignored': everything})
    assert losses['loss_name'] == 0 and (gradient == 0).all()


def test_an_object_in_an_ignored_region_is_learned_all_the_same():
    target = {'boxes': torch.tensor([[64.0, 32.0, 128.0, 96.0]]), 'labels': torch.tensor([2])}
    losses, gradient, _ = loss_gradient({**target, 'ignored': torch.tensor([[0.0, 0.0, 320.0, 192.0]])})
    assert 1 <= (gradient > 0).sum() <= MATCHED and losses['loss_box'] > 0


def test_cells_in_the_padding_learn_nothing():
    _, gradient, centres = loss_gradient(empty_target(), sizes=((100, 160),))
    inside = (centres[:, 0] < 160) & (centres[:, 1] < 100)
    assert (gradient[~inside] == 0).all() and (gradient[inside] > 0).all()


def test_losses_are_divided_by_the_anchors_that_learn_an_object():
    target = {'boxes': torch.tensor([[64.0, 32.0, 128.0, 96.0]]), 'labels': torch.tensor([2])}
    single, _, _ = loss_gradient(target)
    predictions = grid()
    double = {key: value.expand(2, *value.shape[1:]) for key, value in predictions.items() if key != 'anchors'}
    both = yolof_losses({**double, 'anchors': predictions['anchors']}, [target] * 2, [(192, 320)] * 2)
    for name, value in single.items():
        torch.testing.assert_close(both[name], value)


def test_overfits_a_handful_of_frames(monkeypatch):
    monkeypatch.setattr(yolof, 'CHANNELS', 64)  # a sixty-fourth of the encoder's and decoder's work
    torch.manual_seed(0)
    frames = [draw_frame(seed, HW) for seed in range(4)]
    images = [torch.from_numpy(frame['image']).permute(2, 0, 1).float() / 255 for frame in frames]
    targets = [
        {
            'boxes': torch.from_numpy(frame['boxes']),
            'labels': torch.tensor([CLASS_NAMES.index(name) + 1 for name in frame['labels']]),
        }
        for frame in frames
    ]
    assert sum(len(target['boxes']) for target in targets) >= 5
    model = build('yolof', len(CLASS_NAMES), HW, backbone='resnet18').train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(40):
        losses = model(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    assert history[-1]['loss_name'] < history[0]['loss_name'] / 20
    assert history[-1]['loss_box'] < history[0]['loss_box'] / 2
    with torch.inference_mode():
        detections = model.eval()(images)
    for found, target in zip(detections, targets, strict=True):
        overlap = box_iou(target['boxes'], found['boxes'])
        right = (target['labels'][:, None] == found['labels']) & (found['scores'] > 0.3)
        assert ((overlap * right).amax(dim=1) > 0.5).all()


# Backbones


def test_maps_are_of_the_strides_and_channels_they_say():
    for name, channels in (('resnet18', (64, 128, 256, 512)), (SMALL, (16, 24, 48, 576))):
        backbone = make_backbone(name)
        assert backbone.channels == channels and backbone.strides == (4, 8, 16, 32)
        maps = backbone(torch.rand(2, 3, 64, 96))
        assert [tuple(x.shape) for x in maps] == [
            (2, c, 64 // stride, 96 // stride) for c, stride in zip(channels, backbone.strides, strict=True)
        ]


def test_a_resnets_maps_are_its_stages():
    torch.manual_seed(0)
    backbone, whole = make_backbone('resnet18', (8, 32)).eval(), get_model('resnet18').eval()
    assert set(backbone.body.state_dict()) == {key for key in whole.state_dict() if not key.startswith('fc.')}
    backbone.body.load_state_dict(whole.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        fine, coarse = backbone(x)
        x = whole.layer2(whole.layer1(whole.maxpool(whole.relu(whole.bn1(whole.conv1(x))))))
        torch.testing.assert_close(fine, x)
        torch.testing.assert_close(coarse, whole.layer4(whole.layer3(x)))


def test_caffes_resnet_has_its_strides_first():
    plain, caffe = (make_backbone(name, (32,)) for name in ('resnext50_32x4d', 'resnext50_32x4d_caffe'))
    block, turned = (backbone.body.get_submodule('layer3.0') for backbone in (plain, caffe))
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))
    assert (turned.conv1.stride, turned.conv2.stride) == ((2, 2), (1, 1))
    assert caffe.channels == plain.channels == (2048,)
    red = torch.zeros(3, 32, 32)
    red[0] = 1
    (batch, _), (mean, _) = (backbone.transform((32, 32), 32)([red]) for backbone in (caffe, plain))
    assert batch.tensors[0, 2, 0, 0] == pytest.approx(255 - 123.675, abs=1e-3)
    assert mean.tensors[0, 0, 0, 0] == pytest.approx((1 - 0.485) / 0.229, abs=1e-3)


def test_frozen_stages_and_norms_stay_as_they_are():
    torch.manual_seed(0)
    backbone = make_backbone('resnet18', frozen_stages=1, norm_eval=True).train()
    frozen = {name for name, p in backbone.body.named_parameters() if not p.requires_grad}
    assert {name.partition('.')[0] for name in frozen} == {'conv1', 'bn1', 'layer1'}
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.rand(2, 3, 64, 64))[-1].sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    half = make_backbone('resnet18', frozen_stages=1).train()
    half(torch.rand(2, 3, 64, 64))
    kept = {name: module.training for name, module in half.body.named_modules() if name.endswith('bn1')}
    assert not kept['bn1'] and not kept['layer1.0.bn1'] and kept['layer2.0.bn1']
    with pytest.raises(UserError, match='frozen_stages=1'):
        make_backbone(SMALL, frozen_stages=1)


def test_a_copy_is_in_the_same_mode():
    torch.manual_seed(0)
    backbone = make_backbone(SMALL, (32,)).eval()
    copied, x = copy.deepcopy(backbone), torch.rand(2, 3, 64, 64)
    assert not any(module.training for module in copied.modules())
    torch.testing.assert_close(copied(x), backbone(x))
    assert all(module.training for module in copied.train().modules())


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('resnet_18', 'neither torchvision nor timm.*resnet18'),
        ('', 'Names are like'),
        ('vit_b_16', 'does not take pictures of any size'),
        ('alexnet', 'no feature maps of stride 32'),
        (f'{SMALL}_caffe', 'neither torchvision nor timm'),
    ],
)
def test_a_name_that_will_not_do_is_one_line(name, said):
    pytest.importorskip('timm')
    with pytest.raises(UserError, match=f'backbone=.{name}.: .*{said}') as caught:
        build('yolof', 3, HW, backbone=name)
    assert '\n' not in str(caught.value)


def test_without_timm_one_line_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *_: None if name == 'timm' else find(name))
    with pytest.raises(UserError, match=r"^backbone='mobilenetv3_large_100': .*pip install timm$"):
        build('yolof', 3, HW, backbone='mobilenetv3_large_100')
    with pytest.raises(UserError, match=r'Near: .*resnet18'):
        build('yolof', 3, HW, backbone='resnet_18')


def test_timms_networks_train(monkeypatch):
    pytest.importorskip('timm')
    monkeypatch.setattr(yolof, 'CHANNELS', 32)
    model = build('yolof', 5, HW, backbone='mobilenetv3_small_050').train()
    images, targets = zip(*[sample()] * 2, strict=True)
    sum(model(images, targets).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    with torch.inference_mode():
        expected = model.eval().raw_outputs(torch.ones(1, 3, *HW))
        found = fuse_batch_norms(copy.deepcopy(model)).raw_outputs(torch.ones(1, 3, *HW))
    torch.testing.assert_close(found['cls'], expected['cls'], rtol=1e-3, atol=1e-3)


# Published weights, without a network


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """The folder of published weights, empty; nothing can be fetched."""
    folder = tmp_path / 'weights 花'
    monkeypatch.setattr(hub, 'folder', lambda: folder)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))

    def refuse(*_args, **_options):
        raise urllib.error.URLError('no network')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', refuse)
    return folder


@pytest.mark.parametrize('name', [SMALL, 'mobilenetv3_small_050'])
def test_offline_the_file_and_its_place_are_named(offline, name):
    if name != SMALL:
        pytest.importorskip('timm')
    model = build('yolof', 3, HW, backbone=name)
    with pytest.raises(UserError) as caught:
        model.load_pretrained('backbone')
    text = str(caught.value)
    assert 'https://' in text and str(offline) in text and '\n' not in text
    assert text.partition(':')[0].startswith(name) and Path(text.partition(':')[0]).suffix in ('.pth', '.safetensors')


def test_torchvisions_weights_are_taken_from_the_folder(offline, monkeypatch):
    model = build('yolof', 3, HW, backbone='resnet18')
    state = get_model('resnet18').state_dict()
    monkeypatch.setattr(hub, 'state_dict', lambda weights: state)
    assert 'resnet18' in model.load_pretrained('backbone')
    for key, value in model.backbone.body.state_dict().items():
        assert torch.equal(value, state[key])


def test_timms_weights_are_taken_from_the_folder(offline):
    timm = pytest.importorskip('timm')
    save_file = pytest.importorskip('safetensors.torch').save_file
    name = 'mobilenetv3_small_050'
    model = build('yolof', 3, HW, backbone=name)
    file = offline / f'{model.backbone.body.pretrained_cfg["hf_hub_id"].partition("/")[2]}.safetensors'
    offline.mkdir()
    whole = timm.create_model(name)
    save_file(whole.state_dict(), file)
    assert name in model.load_pretrained('backbone')
    state = whole.state_dict()
    assert torch.equal(model.backbone.body.state_dict()['conv_stem.weight'], state['conv_stem.weight'])
    assert torch.equal(
        model.backbone.body.state_dict()['blocks.1.0.bn1.running_var'], state['blocks.1.0.bn1.running_var']
    )
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match='damaged'):
        model.load_pretrained('backbone')


def test_weights_that_do_not_exist_are_one_line(offline):
    model = build('yolof', 3, HW, backbone=SMALL)
    with pytest.raises(UserError, match="pretrained='backbone'"):
        model.load_pretrained(True)
    with pytest.raises(UserError, match='resnet50'):
        make_backbone('resnet50_caffe', (32,)).load_imagenet()


# The scripts


def test_trains_resumes_and_is_tested_by_the_scripts(run_script, toy_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(yolof, 'CHANNELS', 64)  # for the time
    folder = tmp_path / 'my run'
    options = [
        f'konohana_dataset_path={toy_dataset}',
        'detector=yolof',
        f'backbone={SMALL}',
        f'img_hw={TOY_HW}',
        'batch_size=4',
        'num_workers=0',
        f'checkpoint_path={folder}',
        f'log_path={tmp_path / "logs"}',
        'skip_bad_files=True',  # so few frames do not show everybody
    ]
    first = run_script('_train.py', *options, 'n_epoch=1')
    assert first.returncode == 0, first.stderr
    assert 'name ' in first.stdout and 'box ' in first.stdout
    again = run_script('_train.py', *options, 'n_epoch=2')
    assert again.returncode == 0, again.stderr
    assert 'Resuming at epoch 2, iteration ' in again.stdout
    other = run_script('_train.py', *options, 'n_epoch=2', 'backbone=resnet18')
    assert other.returncode == 2 and 'backbone' in other.stderr and len(other.stderr.splitlines()) == 1
    out = tmp_path / 'out'
    arguments = [f'konohana_dataset_path={toy_dataset}', f'weights={folder / "net.pt"}', f'test_out={out}']
    tested = run_script('_test.py', *arguments, 'threshold=0.0')
    assert tested.returncode == 0, tested.stderr
    assert len(list(out.rglob('*.jpg'))) + len(list(out.rglob('*.png'))) >= 4
