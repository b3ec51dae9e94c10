"""ONNX files: the same detections as PyTorch's, any size, standard operators; bad files get one clear line."""

import json
import os
import sys

import pytest
import torch
from conftest import make_weights
from torch import nn

import konohana
from konohana import detectors
from konohana.data.images import save_image
from konohana.detectors import solov2, yolof
from konohana.detectors.base import Detector
from konohana.detectors.fusing import fuse_batch_norms
from konohana.errors import UserError
from konohana.evaluation.predict import predict
from konohana.inference import from_checkpoint
from konohana.onnx import export, runtime, sessions
from konohana.toy.writer import draw_frame

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


def pictures(*sizes):
    """Toy frames of several sizes as float 3 x H x W."""
    frames = [draw_frame(seed, size)['image'] for seed, size in enumerate(sizes, start=1)]
    return [torch.from_numpy(frame).permute(2, 0, 1).float() / 255 for frame in frames]


def lively(name, layers, gain, img_hw=(64, 96), **options):
    """An untrained detector of three names that finds something: its batch norms fit the pictures, and the weights of
    `layers`, which name, are larger by `gain` (their biases are 0)."""
    torch.manual_seed(0)
    model = detectors.build(name, 3, img_hw, **options).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = None
    model(pictures(img_hw, img_hw))
    for key, parameter in model.eval().named_parameters():
        if key.startswith(layers):
            parameter.mul_(gain if key.endswith('weight') else 0.0)
    model.class_names, model.img_hw = ['柚', 'ren', 'other'], img_hw
    return fuse_batch_norms(model)


def check_same(model, exported, images, box=0.05, score=1e-3):
    """Both find the same in each of the pictures, and something in all of them together."""
    count = 0
    for image in images:
        (expected,), (found,) = predict(model, [image]), predict(exported, [image])
        far = runtime.differences(expected, found)
        assert far['box'] < box and far['score'] < score and far['mask'] < 0.01, far
        # A score at a threshold, or an overlap at NMS's, may fall to either side.
        assert far['unmatched'] <= 0.05 * len(expected['boxes']) + 1, far
        assert (found['scores'].diff() <= 0).all() and found['labels'].dtype == torch.int64
        count += len(expected['boxes'])
    assert count


@pytest.fixture(scope='module')
def flagship(tmp_path_factory):
    """(the detector, its ONNX file with post-processing, the one without)."""
    folder = tmp_path_factory.mktemp('onnx') / '权 重'
    content = make_weights(folder / 'net.pt')
    model = fuse_batch_norms(from_checkpoint(content, 'net.pt').eval().requires_grad_(False))
    (picture,) = pictures((90, 160))
    for name, post_processing in (('whole.onnx', True), ('raw.onnx', False)):
        export.export(model, folder / name, 'konohana', content['options'], picture, post_processing)
    return model, folder / 'whole.onnx', folder / 'raw.onnx'


def test_flagship_with_post_processing(flagship):
    model, path, _ = flagship
    exported = konohana.load(path, device='cpu')
    # Smaller and larger than the network's size, upright, and none of its sides a multiple of 8.
    images = pictures((90, 160), (64, 96), (33, 47), (200, 120))
    check_same(model, exported, images)
    assert exported.class_names == model.class_names and exported.img_hw == model.img_hw
    assert not exported.training and len(exported(images)) == len(images) and exported([]) == []
    assert set(exported(images[:1])[0]) == {'boxes', 'labels', 'scores'}


def test_flagship_without_post_processing(flagship):
    model, _, path = flagship
    exported = konohana.load(path, device='cpu')
    images = pictures((90, 160), (64, 96), (200, 120))
    for batch in (images, images[2:]):
        tensors = model.transform(batch)[0].tensors
        expected, found = model.raw_outputs(tensors), exported.raw_outputs(tensors)
        assert list(found) == ['find', 'name']
        for name, values in expected.items():
            assert torch.allclose(values, found[name], rtol=1e-3, atol=1e-3)
        for a, b in zip(predict(model, batch), predict(exported, batch), strict=True):
            assert runtime.differences(a, b)['box'] < 0.05
    # What the flagship alone has: the maps that _test.py draws.
    assert exported(images[:1], with_maps=True)[0]['objectness'].shape == (7, 12)


def test_learned_numbers_of_the_post_processing_are_in_the_file(tmp_path):
    """`distance_scale` is learned, but it is no part of the raw outputs: boxes would have other sizes without it."""
    content = make_weights(tmp_path / 'net.pt')
    content['model'] = {**content['model'], 'distance_scale': torch.tensor(0.7)}
    model = from_checkpoint(content, 'net.pt').eval()
    (picture,) = pictures((64, 96))
    export.export(model, tmp_path / 'raw.onnx', 'konohana', content['options'], picture, post_processing=False)
    check_same(model, konohana.load(tmp_path / 'raw.onnx'), [picture])


def test_what_is_in_the_file(flagship):
    model, whole, raw = flagship
    for path in (whole, raw):
        content = onnx.load(path)
        onnx.checker.check_model(content)
        assert {node.domain for node in content.graph.node} == {''}
        assert not content.functions and [o.domain for o in content.opset_import] == ['']
        metadata = {entry.key: json.loads(entry.value) for entry in content.metadata_props}
        assert metadata['class_names'] == model.class_names and metadata['detector'] == 'konohana'
        assert tuple(metadata['img_hw']) == model.img_hw and metadata['mean'] == [0.5, 0.5, 0.5]
        (entry,) = content.graph.input
        sizes = [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim]
        assert sizes == ([1, 3] if path == whole else ['n', 3]) + ['height', 'width']
    assert not [p for p in whole.parent.iterdir() if p.suffix == '.tmp']


def test_nothing_found(flagship, tmp_path):
    """A network that finds nothing when it is written down, and one that later finds nothing."""
    model, _, _ = flagship
    images = pictures((64, 96))
    bias = model.find_layer.bias[0].clone()
    try:
        model.find_layer.bias[0] = -40
        export.export(model, tmp_path / 'none.onnx', 'konohana', {'use_res2block': False}, images[0])
    finally:
        model.find_layer.bias[0] = bias
    (found,) = konohana.load(tmp_path / 'none.onnx')(images)
    assert found['boxes'].shape == (0, 4) and found['labels'].shape == found['scores'].shape == (0,)


DETECTORS = {
    'res2': ('konohana', ('find_layer.', 'name_layer.'), 20, {'use_res2block': True}),
    'yolof': ('yolof', ('decoder.name_layer.',), 20, {'backbone': 'resnet18'}),
    'solov2': ('solov2_light_r18', ('cate_layer.',), 8, {}),
    'fasterrcnn': ('fasterrcnn_mobilenet_v3_large_320_fpn', ('model.roi_heads.box_predictor.cls',), 20, {}),
    'ssdlite': ('ssdlite320_mobilenet_v3_large', ('model.head.classification_head.',), 2, {}),
}


@pytest.mark.parametrize('case', DETECTORS)
def test_other_detectors(case, tmp_path, monkeypatch):
    # Narrower networks and coarser grids than the real ones, for the time.
    monkeypatch.setattr(yolof, 'CHANNELS', 64)
    monkeypatch.setattr(yolof, 'MIDDLE_CHANNELS', 32)
    monkeypatch.setattr(solov2, 'PYRAMID_CHANNELS', 64)
    monkeypatch.setattr(solov2, 'GRIDS', (16, 14, 12, 8, 6))
    name, layers, gain, options = DETECTORS[case]
    options = detectors.options_of(name, options)
    model = lively(name, layers, gain, **options)
    # Wide, upright and square: no size of the first may be written down.
    images = pictures((90, 160), (96, 64), (70, 70))
    kinds = (True, False) if model.has_raw_outputs else (True,)
    for post_processing in kinds:
        export.export(model, tmp_path / 'net.onnx', name, options, images[0], post_processing)
        exported = konohana.load(tmp_path / 'net.onnx', device='cpu')
        if case != 'solov2':
            check_same(model, exported, images)
            continue
        # Its masks are noise here, many nearly the same: a pixel at the threshold moves a box far and lets alike masks
        # change places, so the order of scores is compared. With post-processing the masks are cut out at the
        # network's size, so only pictures of that size are the same.
        for image in images:
            if post_processing:
                image = model.transform.resize(image)[0]
            (expected,), (found,) = predict(model, [image]), predict(exported, [image])
            far = runtime.differences(expected, found)
            assert len(expected['boxes']) == len(found['boxes']) > 10
            assert (expected['scores'] - found['scores']).abs().max() < 0.01, far
            assert far['mask'] < 0.02 and far['unmatched'] <= 0.05 * len(expected['boxes']) + 1, far


@pytest.mark.parametrize('n', [0, 1])
def test_masks_of_a_picture_in_which_one_of_both_finds_nobody(n):
    nobody = {
        'boxes': torch.zeros(0, 4), 'labels': torch.zeros(0, dtype=torch.int64), 'scores': torch.zeros(0),
        'masks': torch.zeros(0, 8, 9, dtype=torch.bool),
    }  # fmt: skip
    found = {key: torch.ones((n, *values.shape[1:]), dtype=values.dtype) for key, values in nobody.items()}
    for pair in ((nobody, found), (found, nobody)):
        assert runtime.differences(*pair) == {'box': 0.0, 'score': 0.0, 'mask': 0.0, 'unmatched': n}


def test_two_stage_detectors_have_no_raw_outputs(tmp_path):
    model = Detector()
    model.transform, model.class_names, model.img_hw = (
        detectors.build('konohana', 2, (64, 96)).transform,
        ['a'],
        (64, 96),
    )
    with pytest.raises(UserError, match='post_processing=True'):
        export.export(model, tmp_path / 'a.onnx', 'fasterrcnn_resnet50_fpn', {}, torch.rand(3, 64, 96), False)


def test_bad_files(flagship, tmp_path):
    _, whole, _ = flagship
    data = whole.read_bytes()
    (tmp_path / 'cut.onnx').write_bytes(data[: len(data) // 2])
    (tmp_path / 'empty.onnx').write_bytes(b'')
    (tmp_path / 'text.onnx').write_bytes(b'a text, not a network')
    (tmp_path / 'folder.onnx').mkdir()
    content = onnx.load(whole)
    foreign, newer, unknown = onnx.ModelProto(), onnx.ModelProto(), onnx.ModelProto()
    for copy in (foreign, newer, unknown):
        copy.CopyFrom(content)
    del foreign.metadata_props[:]
    for copy, key, value in ((newer, 'format', 'konohana.99'), (unknown, 'detector', 'of another world')):
        next(entry for entry in copy.metadata_props if entry.key == key).value = json.dumps(value)
    for name, copy in (('foreign', foreign), ('newer', newer), ('unknown', unknown)):
        onnx.save(copy, tmp_path / f'{name}.onnx')
    for name, words in (
        ('missing', 'no such weights file'),
        ('cut', 'damaged'),
        ('empty', 'damaged'),
        ('text', 'damaged'),
        ('folder', 'a folder, not a weights file. Name the weights file itself'),
        ('foreign', 'not a file of this program'),
        ('newer', 'another version'),
        ('unknown', 'there is no such detector'),
    ):
        with pytest.raises(UserError, match=words) as caught:
            konohana.load(tmp_path / f'{name}.onnx')
        assert str(tmp_path / f'{name}.onnx') in str(caught.value) and '\n' not in str(caught.value)
    with pytest.raises(UserError, match='onnxruntime does not run there'):
        konohana.load(whole, device='mps')


def with_metadata(path, target, **changes):
    """Write a copy of an ONNX file whose metadata have other values; None takes one out, bytes stay as they are."""
    content = onnx.load(path)
    texts = {entry.key: entry.value for entry in content.metadata_props}
    texts |= {k: v.decode() if isinstance(v, bytes) else json.dumps(v) for k, v in changes.items()}
    texts = {key: value for key, value in texts.items() if changes.get(key, 0) is not None}
    del content.metadata_props[:]
    onnx.helper.set_model_props(content, texts)
    onnx.save(content, target)


@pytest.mark.parametrize(
    ('kind', 'changes', 'said'),
    [
        ('whole', {'detector': None}, 'detector: missing'),
        ('whole', {'detector': 5}, 'detector: not the name'),
        ('whole', {'detector': 'yolof', 'options': {'backbone': '/etc/passwd'}}, "it is a network's name"),
        ('whole', {'options': ['use_res2block']}, 'options: not a dict'),
        ('whole', {'options': {'use_res2block': 'yes'}}, 'use_res2block='),
        ('whole', {'options': {'layers': 9}}, 'no such option'),
        ('whole', {'options': {'n_classes': 9}}, 'does not fit its metadata'),
        ('whole', {'class_names': 'abc'}, 'class_names: not a list'),
        ('whole', {'class_names': [1, 2]}, 'class_names: not a list'),
        ('whole', {'class_names': []}, 'class_names: 0 names'),
        ('whole', {'class_names': ['\x1b[31m'] * 2}, 'is duplicated'),
        ('whole', {'img_hw': [10**9, 10**9]}, 'img_hw: .* not from 32 to 8192'),
        ('whole', {'img_hw': [64.5, '96']}, 'img_hw: not a height'),
        ('whole', {'img_hw': None}, 'img_hw: missing'),
        ('whole', {'post_processing': 1}, 'post_processing: neither'),
        ('whole', {'post_processing': False}, 'parameters: not a dict'),
        ('whole', {'format': b'{"a":' * 2000}, 'not a file of this program'),
        ('whole', {'format': ['konohana.1']}, 'not a file of this program'),
        ('raw', {'post_processing': True}, 'does not fit its metadata'),
        ('raw', {'parameters': {}}, 'does not fit its metadata'),
        ('raw', {'parameters': ['distance_scale']}, 'parameters: not a dict'),
        ('raw', {'parameters': {'distance_scale': [1.0, 2.0]}}, 'does not fit its metadata'),
        ('raw', {'parameters': {'distance_scale': 'a'}}, 'does not fit its metadata'),
        ('raw', {'parameters': {'distance_scale': float('nan')}}, 'does not fit its metadata'),
        ('raw', {'detector': 'yolof', 'options': {'backbone': 'resnet18'}}, 'does not fit its metadata'),
        ('raw', {'detector': 'ssdlite320_mobilenet_v3_large', 'options': {}}, 'does not fit its metadata'),
        ('raw', {'class_names': list('abc')}, 'does not fit its metadata'),
    ],
)
def test_forged_metadata_is_one_line(flagship, tmp_path, kind, changes, said):
    file = tmp_path / 'forged.onnx'
    with_metadata(flagship[1 if kind == 'whole' else 2], file, **changes)
    with pytest.raises(UserError, match=said) as caught:
        konohana.load(file, 'cpu')
    text = str(caught.value)
    assert text.startswith(f'{file}: ') and text.isprintable() and len(text) < len(str(file)) + 300


@pytest.mark.parametrize('operator', ['ConstantOfShape', 'Expand'])
def test_a_file_that_asks_for_6_gb_is_refused(operator, flagship, tmp_path):
    """What operators ask for is not declared anywhere in a file, so onnxruntime's memory has a limit."""
    if operator == 'ConstantOfShape' and sys.version_info < (3, 11):
        pytest.skip('onnxruntime 1.23, the last for Python 3.10, computes constants while loading, without the limit')
    content = onnx.load(flagship[1])
    make = onnx.helper.make_node
    content.graph.initializer.append(onnx.helper.make_tensor('six', onnx.TensorProto.INT64, [1], [1_500_000_000]))
    (entry,) = content.graph.input
    if operator == 'Expand':
        content.graph.node.append(make('ReduceMax', [entry.name], ['largest'], keepdims=0))
        content.graph.node.append(make('Expand', ['largest', 'six'], ['huge']))
    else:
        value = onnx.helper.make_tensor('one', onnx.TensorProto.FLOAT, [1], [1.0])
        content.graph.node.append(make('ConstantOfShape', ['six'], ['huge'], value=value))
    content.graph.node.append(make('ReduceMean', ['huge'], ['mean'], keepdims=0))
    last = content.graph.output[2].name
    node = next(node for node in content.graph.node if last in node.output)
    node.output[list(node.output).index(last)] = 'before'
    content.graph.node.append(make('Mul', ['before', 'mean'], [last]))
    onnx.save(content, tmp_path / 'huge.onnx')
    with pytest.raises(UserError, match=r'huge\.onnx: .*more memory than 4 GiB') as caught:
        konohana.load(tmp_path / 'huge.onnx', 'cpu')
    assert '\n' not in str(caught.value)
    assert konohana.load(flagship[1], 'cpu')(pictures((64, 96)))  # the next file still runs


def test_weights_that_are_nan_are_refused(flagship, tmp_path):
    for path in flagship[1:]:
        content = onnx.load(path)
        weights = max(content.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weights.raw_data = weights.raw_data[:-4] + b'\0\0\xc0\x7f'
        onnx.save(content, tmp_path / 'nan.onnx')
        with pytest.raises(UserError, match=r'nan\.onnx: its weights .* hold NaN'):
            konohana.load(tmp_path / 'nan.onnx', 'cpu')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='pipes have no names here')
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / 'pipe.onnx')
    with pytest.raises(UserError, match=r'pipe\.onnx: a pipe'):
        konohana.load(tmp_path / 'pipe.onnx')


def test_missing_packages(flagship, tmp_path, monkeypatch):
    model, whole, _ = flagship
    for package in ('onnxruntime', 'onnx'):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match='pip install onnxruntime'):
        konohana.load(whole)
    with pytest.raises(UserError, match=r'pip install onnx$'):
        export.export(model, tmp_path / 'a.onnx', 'konohana', {}, torch.rand(3, 64, 96))


def test_fused_batch_norms():
    """Pairs that torch.fx finds in torchvision's networks, and those that must be left alone."""
    model = lively('fasterrcnn_mobilenet_v3_large_320_fpn', (), 1)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())

    class Twice(nn.Module):
        """One convolution, seen by two: its output must stay."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.other = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(x)
            return self.norm(x) + self.other(x)

    class Shared(nn.Module):
        """A batch norm after two convolutions; and one that comes after an activation."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
            self.after = nn.BatchNorm2d(4)

        def forward(self, x):
            return self.after(self.last(self.norm(self.a(x)) + self.norm(self.b(x))))

    for network in (Twice(), Shared()):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.running_mean)
        x = torch.rand(1, 3, 5, 5)
        expected = network.eval()(x)
        norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        assert torch.allclose(fuse_batch_norms(network)(x), expected, atol=1e-6)
        assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == norms


def test_script_and_the_file_as_weights(run_script, tmp_path, weights_file):
    """tools/export_onnx.py as a user runs it, then _test.py with the file it has written."""
    target, (picture,) = tmp_path / '输 出' / 'net.onnx', pictures((90, 160))
    done = run_script('tools/export_onnx.py', f'weights={weights_file}', f'onnx_out={target}', 'n_pictures=2')
    assert done.returncode == 0, done.stderr
    assert str(target) in done.stdout and 'largest difference of a box' in done.stdout
    assert 'Warning' not in done.stderr and 'graph(' not in done.stdout
    save_image(tmp_path / 'frame.png', (picture.permute(1, 2, 0) * 255).byte().numpy())
    done = run_script(
        *('_test.py', f'weights={target}', f'pictures_in={tmp_path / "frame.png"}', f'test_out={tmp_path / "out"}')
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'out' / 'frame.jpg').is_file()


@pytest.mark.parametrize(
    ('override', 'words'),
    [
        ('detector=yolof', "weights of konohana, not of detector='yolof'"),
        ('onnx_out=net.txt', 'ending .onnx'),
        ('n_pictures=0', 'n_pictures'),
    ],
)
def test_script_with_wrong_settings(run_script, override, words, weights_file):
    done = run_script('tools/export_onnx.py', f'weights={weights_file}', override)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_endless_loop_comes_to_an_end(flagship, tmp_path, monkeypatch):
    make, kinds = onnx.helper, onnx.TensorProto
    content = onnx.load(flagship[1])
    (maker,) = (node for node in content.graph.node if 'boxes' in node.output)
    maker.output[list(maker.output).index('boxes')] = 'boxes_before'
    values = [make.make_tensor_value_info(name, kinds.BOOL, []) for name in ('go', 'go_on')]
    zeros = [make.make_tensor_value_info(name, kinds.FLOAT, []) for name in ('zero_in', 'zero_out')]
    steps = [make.make_node('Identity', ['go'], ['go_on']), make.make_node('Neg', ['zero_in'], ['zero_out'])]
    count = make.make_tensor_value_info('count', kinds.INT64, [])
    body = make.make_graph(steps, 'body', [count, values[0], zeros[0]], [values[1], zeros[1]])
    content.graph.initializer.extend(
        [make.make_tensor('for_ever', kinds.BOOL, [], [True]), make.make_tensor('zero', kinds.FLOAT, [], [0.0])]
    )
    loop = make.make_node('Loop', ['', 'for_ever', 'zero'], ['nothing'], body=body)
    content.graph.node.extend([loop, make.make_node('Add', ['boxes_before', 'nothing'], ['boxes'])])
    onnx.save(content, tmp_path / 'endless.onnx')
    monkeypatch.setattr(sessions, 'FIRST_RUN', 1.0)
    with pytest.raises(UserError, match=r'endless.onnx: it does not come to an end within 1 seconds'):
        konohana.load(tmp_path / 'endless.onnx', 'cpu')
