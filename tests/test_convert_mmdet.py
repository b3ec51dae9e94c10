"""tools/convert_mmdet.py: MMDetection's names and shapes, files that are something else."""

import json
import os
import pickle

import pytest
import torch

import konohana
from konohana import checkpoint, detectors
from konohana.errors import UserError
from tools import convert_mmdet

CLASSES = ('cat', 'a dog', '狐')


def resnet18_names():
    """MMDetection's (and torchvision's) names and shapes of a ResNet-18 without its last layer."""

    def norm(name, channels):
        vectors = {f'{name}.{part}': (channels,) for part in ('weight', 'bias', 'running_mean', 'running_var')}
        return {**vectors, f'{name}.num_batches_tracked': ()}

    names = {'conv1.weight': (64, 3, 7, 7), **norm('bn1', 64)}
    before = 64
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f'layer{stage}.{block}'
            c_in = before if block == 0 else channels
            names |= {f'{name}.conv1.weight': (channels, c_in, 3, 3), **norm(f'{name}.bn1', channels)}
            names |= {f'{name}.conv2.weight': (channels, channels, 3, 3), **norm(f'{name}.bn2', channels)}
            if block == 0 and stage > 1:
                names |= {f'{name}.downsample.0.weight': (channels, c_in, 1, 1)}
                names |= norm(f'{name}.downsample.1', channels)
        before = channels
    return names


def solov2_names(n_classes):
    """MMDetection's names and shapes of SOLOv2-light R18."""

    def conv_norm(name, c_out, c_in, kernel=3):
        return {
            f'{name}.conv.weight': (c_out, c_in, kernel, kernel),
            f'{name}.gn.weight': (c_out,),
            f'{name}.gn.bias': (c_out,),
        }

    names = {f'backbone.{name}': shape for name, shape in resnet18_names().items()}
    for i, channels in enumerate((64, 128, 256, 512)):
        for kind, shape in (('lateral', (256, channels, 1, 1)), ('fpn', (256, 256, 3, 3))):
            names |= {f'neck.{kind}_convs.{i}.conv.weight': shape, f'neck.{kind}_convs.{i}.conv.bias': (256,)}
    for i in range(2):
        names |= conv_norm(f'mask_head.cls_convs.{i}', 256, 256)
        names |= conv_norm(f'mask_head.kernel_convs.{i}', 256, 256 if i else 258)
    for layer, channels in (('conv_cls', n_classes), ('conv_kernel', 128)):
        names |= {f'mask_head.{layer}.weight': (channels, 256, 3, 3), f'mask_head.{layer}.bias': (channels,)}
    branch = 'mask_head.mask_feature_head'
    for level in range(4):
        for i in range(max(level, 1)):
            c_in = 128 if i else 258 if level == 3 else 256
            names |= conv_norm(f'{branch}.convs_all_levels.{level}.conv{i}', 128, c_in)
    return names | conv_norm(f'{branch}.conv_pred', 128, 128, kernel=1)


@pytest.fixture(scope='module')
def mmdet_state():
    """A state dict as MMDetection has it. Shared: not to be changed."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator).abs() if shape else torch.tensor(7)
        for name, shape in solov2_names(len(CLASSES)).items()
    }


@pytest.fixture
def convert(tmp_path):
    """Function (content of the file or bytes, **variables) -> weights file written; runs the tool's main()."""

    def run(content, old_format=False, **variables):
        source, target = tmp_path / 'mm det.pth', tmp_path / 'out 花' / 'net.pt'
        if isinstance(content, bytes):
            source.write_bytes(content)
        else:
            torch.save(content, source, _use_new_zipfile_serialization=not old_format)
        variables = {'weights_in': source, 'weights_out': target, **variables}
        convert_mmdet.main([f'{key}={value}' for key, value in variables.items()])
        return target

    return run


def checkpoint_of(state, **meta):
    """A file's content, as MMDetection 3.x writes it."""
    return {'meta': {'mmengine_version': '0.10.0', 'epoch': 36, 'seed': None, **meta}, 'state_dict': state}


def test_names_are_mmdetections(shared_data, mmdet_state):
    file = shared_data('reference') / 'solov2_light_r18.json'
    expected = json.loads(file.read_text(encoding='utf-8'))['parameters']
    assert {key: list(value) for key, value in solov2_names(80).items()} == expected


@pytest.mark.parametrize('old_format', [False, True])
def test_solov2(convert, mmdet_state, old_format, capsys):
    meta = {'dataset_meta': {'classes': CLASSES, 'palette': [(220, 20, 60)]}}
    path = convert(checkpoint_of(mmdet_state, **meta), old_format)
    assert f'solov2_light_r18 with all {len(mmdet_state)} tensors' in capsys.readouterr().out
    model = konohana.load(path, device='cpu', fuse=False)
    assert model.class_names == list(CLASSES)
    assert model.img_hw == (448, 768)
    # Every tensor is somewhere, and where it belongs.
    own = model.state_dict()
    assert len(own) == len(mmdet_state)
    for theirs, ours in (
        ('backbone.layer3.0.downsample.1.running_var', 'backbone.body.layer3.0.downsample.1.running_var'),
        ('neck.lateral_convs.2.conv.bias', 'neck.inner_blocks.2.0.bias'),
        ('neck.fpn_convs.0.conv.weight', 'neck.layer_blocks.0.0.weight'),
        ('mask_head.cls_convs.1.gn.bias', 'cate_tower.1.1.bias'),
        ('mask_head.kernel_convs.0.conv.weight', 'kernel_tower.0.0.weight'),
        ('mask_head.conv_kernel.bias', 'kernel_layer.bias'),
        ('mask_head.mask_feature_head.convs_all_levels.3.conv2.gn.weight', 'mask_branch.levels.3.2.1.weight'),
        ('mask_head.mask_feature_head.conv_pred.conv.weight', 'mask_branch.last.0.weight'),
    ):
        assert torch.equal(own[ours], mmdet_state[theirs])
    assert sorted(float(value.sum()) for value in own.values()) == pytest.approx(
        sorted(float(value.sum()) for value in mmdet_state.values())
    )


def test_names_of_classes(convert, mmdet_state, tmp_path):
    names = tmp_path / 'names 花.txt'
    names.write_text('一\n\n二\n三\n', encoding='utf-8')
    content = checkpoint_of(mmdet_state)
    assert checkpoint.load(convert(content, class_names=names))['class_names'] == ['一', '二', '三']
    path = convert(content, class_names="['x', 'y', 'z']", img_hw='(360, 640)')
    assert checkpoint.load(path)['class_names'] == ['x', 'y', 'z']
    assert checkpoint.load(path)['img_hw'] == [360, 640]
    for wrong, words in (
        ({}, 'does not name its 3 classes'),
        ({'class_names': "['x', 'y']"}, '2 names'),
        ({'class_names': "['x', 'y', 'x']"}, r'2 different'),
        ({'class_names': tmp_path / 'none.txt'}, 'none.txt'),
        ({'class_names': '5'}, 'Set class_names'),
        ({'class_names': names, 'img_hw': '(5, 640)'}, 'img_hw'),
    ):
        with pytest.raises(UserError, match=words) as error:
            convert(content, **wrong)
        assert '\n' not in str(error.value)


def test_coco_names_where_there_are_eighty(convert, mmdet_state):
    state = dict(mmdet_state)
    for key in ('weight', 'bias'):
        state[f'mask_head.conv_cls.{key}'] = mmdet_state[f'mask_head.conv_cls.{key}'][:1].repeat_interleave(80, 0)
    names = checkpoint.load(convert(checkpoint_of(state)))['class_names']
    assert (len(names), names[0], names[-1]) == (80, 'person', 'toothbrush')


def test_what_does_not_fit_is_told_in_a_line_each(convert, mmdet_state, tmp_path):
    state = {**mmdet_state, 'neck.extra.weight': torch.zeros(1), 'mask_head.conv_kernel.bias': torch.zeros(64)}
    del state['mask_head.cls_convs.1.gn.bias'], state['backbone.bn1.num_batches_tracked']
    with pytest.raises(UserError) as error:
        convert(checkpoint_of(state, CLASSES=CLASSES))
    lines = str(error.value).splitlines()
    assert lines[0].endswith('its weights do not fit solov2_light_r18.')
    assert lines[1:] == [
        'Missing: cate_tower.1.1.bias',
        'Not known: neck.extra.weight',
        'Of another shape: kernel_layer.bias (64,) instead of (128,)',
    ]
    assert not (tmp_path / 'out 花').exists()


class Harmful:
    def __reduce__(self):
        return os.system, ('echo harm',)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ({'meta': {'buffer': Harmful()}, 'state_dict': {}}, 'more than weights'),
        (pickle.dumps(Harmful()), 'not a PyTorch weights file'),
        (b'', 'not a PyTorch weights file'),
        (b'a text', 'not a PyTorch weights file'),
        (b'PK\x03\x04 cut', 'truncated'),
        (checkpoint.OLDER_FORMAT + b'.\x80', 'damaged|more than weights'),
        ({'state_dict': {}}, 'no state_dict'),
        ([1, 2], 'no state_dict'),
        ({'state_dict': {'backbone.conv1.weight': torch.zeros(1)}}, 'neither SOLOv2 nor YOLOF'),
        ({'state_dict': {'backbone.conv1.weight': 'text'}}, 'no state_dict'),
    ],
)
def test_files_that_are_something_else(convert, capfd, content, words):
    with pytest.raises(UserError, match=words) as error:
        convert(content)
    assert '\n' not in str(error.value)
    assert 'harm\n' not in capfd.readouterr().out


def test_deformable_convolutions_are_refused(convert, mmdet_state):
    state = {**mmdet_state, 'mask_head.cls_convs.1.conv.conv_offset.weight': torch.zeros(1)}
    with pytest.raises(UserError, match='deformable'):
        convert(checkpoint_of(state))


def test_yolof(convert, shared_data, capsys):
    file = shared_data('reference') / 'yolof_r50.json'
    shapes = json.loads(file.read_text(encoding='utf-8'))['parameters']
    # One number stands for all of a tensor: the file stays small.
    state = {
        key: torch.tensor(float(i)).expand(shape) if shape else torch.tensor(i)
        for i, (key, shape) in enumerate(shapes.items())
    }
    content = checkpoint.load(convert(checkpoint_of(state)))
    assert f'yolof with all {len(state)} tensors' in capsys.readouterr().out
    assert (content['detector'], len(content['class_names'])) == ('yolof', 80)
    model = detectors.build('yolof', 80, content['img_hw'], **content['options'])
    model.load_state_dict(content['model'])
    assert model.backbone.bgr
    del state['bbox_head.bbox_pred.bias']
    with pytest.raises(UserError, match=r'yolof\.\nMissing: \S+\.bias$'):
        convert(checkpoint_of(state))


def test_as_a_user_runs_it(run_script, mmdet_state, tmp_path):
    source, target = tmp_path / 'a b.pth', tmp_path / 'n.pt'
    torch.save(checkpoint_of(mmdet_state, CLASSES=CLASSES), source)
    done = run_script('tools/convert_mmdet.py', f'weights_in={source}', f'weights_out={target}')
    assert (done.returncode, done.stderr) == (0, '')
    assert 'Classes: cat, a dog, 狐.' in done.stdout
    assert checkpoint.load(target)['detector'] == 'solov2_light_r18'
