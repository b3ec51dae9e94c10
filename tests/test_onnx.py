"""ONNX files: the same detections as PyTorch's, any size, standard operators; bad files get one clear line."""

import builtins
import json

import pytest
import torch
from conftest import make_weights
from torch import nn

import konohana
from konohana import detectors
from konohana.data.images import save_image
from konohana.detectors import yolof
from konohana.detectors.base import Detector
from konohana.detectors.fusing import fuse_batch_norms
from konohana.errors import UserError
from konohana.evaluation.predict import predict
from konohana.inference import from_checkpoint
from konohana.onnx import export, runtime
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
    monkeypatch.setattr(yolof, 'CHANNELS', 128)  # for the time
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
        ('folder', 'cannot be read'),
        ('foreign', 'not a file of this program'),
        ('newer', 'another version'),
        ('unknown', 'there is no such detector'),
    ):
        with pytest.raises(UserError, match=words) as caught:
            konohana.load(tmp_path / f'{name}.onnx')
        assert str(tmp_path / f'{name}.onnx') in str(caught.value) and '\n' not in str(caught.value)
    with pytest.raises(UserError, match='onnxruntime does not run there'):
        konohana.load(whole, device='mps')


def test_missing_packages(flagship, tmp_path, monkeypatch):
    model, whole, _ = flagship
    real = builtins.__import__
    monkeypatch.setattr(export.importlib, 'import_module', lambda name: real('no_such_package_at_all'))
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
