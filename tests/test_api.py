"""konohana from Python, as in a notebook: what is taken, what is given, and a clear line for what cannot be taken."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PROJECT
from PIL import Image

import konohana
from konohana.data.images import load_image, save_image
from konohana.detectors import build
from konohana.onnx import runtime
from konohana.toy.writer import draw_frame


@pytest.fixture(scope='module', params=['torch', 'onnxruntime'])
def model(request):
    """The shipped weights, computed by PyTorch and by a graph."""
    if request.param != 'torch':
        pytest.importorskip(request.param)
    return konohana.load(device='cpu', backend=request.param)


@pytest.fixture(scope='module')
def frame():
    return draw_frame(1, (360, 640))['image']  # the network's size: bytes and floats are resized a little differently


def same(a, b):
    return all(
        np.allclose(np.asarray(a[key]), np.asarray(b[key]), atol=0.05) for key in a
    )  # crops of floats are not rounded


def test_forms_of_a_picture(model, frame):
    (found,) = model.detect([frame])
    assert len(found['boxes']) and all(isinstance(values, np.ndarray) for values in found.values())
    read_only = frame.copy()
    read_only.setflags(write=False)
    for other in (Image.fromarray(frame), read_only, frame[..., ::-1].copy()[..., ::-1], torch.from_numpy(frame)):
        assert same(model.detect([other])[0], found)
    tensor = torch.from_numpy(frame).permute(2, 0, 1)
    for other in (tensor, tensor / 255):
        (given,) = model([other])
        assert same(given, found) and all(isinstance(values, torch.Tensor) for values in given.values())
    assert len(model.detect(np.stack([frame, frame]))) == len(model(torch.stack([tensor, tensor]))) == 2


def test_no_pictures_and_the_smallest(model):
    assert model([]) == model.detect([]) == []
    for hw in ((1, 1), (1, 900), (900, 1)):
        (found,) = model.detect([np.zeros((*hw, 3), np.uint8)])
        assert found['boxes'].shape[1] == 4
    for empty in (np.zeros((0, 9, 3), np.uint8), np.zeros((9, 0, 3), np.uint8)):
        with pytest.raises(ValueError, match='nothing to see'):
            model.detect([empty])


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda frame: frame[..., 0], r'uint8 \(360, 640\)'),
        (lambda frame: np.dstack([frame, frame[..., 0]]), r'\(360, 640, 4\)'),
        (lambda frame: np.float32(frame) / 255, 'float32'),
        (lambda frame: np.uint16(frame) * 257, 'uint16'),
        (lambda frame: 'frame.jpg', "'frame.jpg': konohana.data.images.load_image reads"),
        (lambda frame: None, 'NoneType'),
        (lambda frame: frame.transpose(2, 0, 1), r'\(3, 360, 640\)'),
    ],
)
def test_what_is_no_frame(change, said, model, frame):
    with pytest.raises(ValueError, match=f'uint8 H x W x 3, not .*{said}'):
        model.detect([change(frame)])


@pytest.mark.parametrize(
    ('pictures', 'said'),
    [
        (torch.zeros(3, 9, 16), r'float32 \(9, 16\)'),
        ([torch.zeros(4, 9, 16)], r'\(4, 9, 16\)'),
        ([torch.zeros(9, 16, 3)], r'\(9, 16, 3\)'),
        ([Image.new('RGB', (16, 9))], 'PIL'),
        (['frame.jpg'], 'load_image reads'),
    ],
)
def test_what_a_detector_is_not_called_with(pictures, said, model):
    with pytest.raises(ValueError, match=f'each 3 x H x W, not .*{said}'):
        model(pictures)


def test_torch_takes_tensors_and_other_detectors_say_the_same():
    model = build('ssdlite320_mobilenet_v3_large', 2, (64, 96)).eval()
    assert model([]) == []
    with pytest.raises(ValueError, match=r'list of tensors, each 3 x H x W, not numpy\.ndarray of uint8'):
        model([np.zeros((3, 9, 16), np.uint8)])
    picture = np.zeros((9, 16, 3), np.uint8)
    assert model.detect([picture], pictures=[picture])[0].keys() >= {'boxes', 'labels', 'scores'}
    with pytest.raises(ValueError, match='targets are needed'):
        model.train()([torch.zeros(3, 64, 96)])


def test_code_for_detectors_of_torchvision_goes_on(model):
    assert model.eval().to('cpu').to(torch.device('cpu')) is model
    if model.backend != 'torch':
        with pytest.raises(ValueError, match="device='cuda:0'"):
            model.to(torch.device('cuda:0'))
        with pytest.raises(ValueError, match="backend='torch'"):
            model.train()


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_the_whole_model_in_another_precision(dtype, frame):
    model = konohana.load(device='cpu', backend='torch')
    (expected,) = model.detect([frame])
    tensor = torch.from_numpy(frame).permute(2, 0, 1).to(dtype) / 255
    assert runtime.differences(expected, model([tensor])[0])['unmatched'] == 0  # the pictures alone
    model.to(dtype)
    for (found,) in (model.detect([frame]), model([tensor])):
        far = runtime.differences(expected, found)
        assert far['unmatched'] == 0 and far['box'] < 1 and far['score'] < 0.02, far
        assert all(np.isfinite(np.asarray(values)).all() for values in found.values())


def test_a_cast_that_fails_leaves_the_names_learned(model, tmp_path):
    (tmp_path / 'Aoi').mkdir()
    save_image(tmp_path / 'Aoi' / 'nobody.png', np.zeros((90, 160, 3), np.uint8))
    names = list(model.class_names)
    with pytest.raises(konohana.own_cast.UserError, match='no picture of this character can be used'):
        model.cast = konohana.read_cast(tmp_path)
    assert (model.cast, model.class_names, model.looks_at_everyone) == (None, names, False)


@pytest.mark.parametrize('language', ['', 'zh-CN'])
def test_the_page_of_python_runs_as_it_stands(language, tmp_path, monkeypatch, frame, capsys):
    page = (PROJECT / 'docs' / language / 'detectors.md').read_text(encoding='utf-8')
    (code,) = re.findall(r'^```py\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    save_image(tmp_path / 'frame.jpg', frame)
    exec(code, {})
    assert re.search(r'^\S.* 0\.\d+ \[', capsys.readouterr().out)
    assert (load_image(tmp_path / 'annotated.jpg') != frame).any()


def test_completion_shows_what_there_is():
    code = 'import sys, konohana; print({*konohana.__all__} <= {*dir(konohana)}, "torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['True', 'False']
