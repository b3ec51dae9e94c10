"""Annotating without PyTorch: scripts and konohana.load in processes that cannot import it; arrays in, arrays out."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PROJECT, make_weights

import konohana
from konohana import boxes, settings
from konohana.data.images import save_image
from konohana.toy.writer import draw_frame, write_video, write_voc

pytest.importorskip('onnx')
RUNTIMES = ('onnxruntime', 'openvino')
# What `requirements-light.txt` does not install cannot be imported.
BLOCKED = ('torch', 'torchvision', 'matplotlib', 'scipy', 'onnx', 'tensorboard')
WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in %r:
            raise ModuleNotFoundError('No module named ' + repr(name), name=name)
sys.meta_path.insert(0, Blocked())
import runpy
if sys.argv[1] == '-c':
    exec(sys.argv[2])
else:
    sys.argv = sys.argv[1:]
    sys.path.insert(0, %r)
    runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A weights file with its graph beside it."""
    path = tmp_path_factory.mktemp('light') / 'net.pt'
    make_weights(path)
    konohana.load(path, 'cpu', backend='onnxruntime')
    return path


def without_torch(*arguments, blocked=BLOCKED):
    """Run Python without PyTorch -> CompletedProcess."""
    environment = {**os.environ, 'KONOHANA_BACKEND': 'auto', 'PYTHONPATH': str(PROJECT), 'OMP_NUM_THREADS': '1'}
    return subprocess.run(
        [sys.executable, '-c', WITHOUT % (blocked, str(PROJECT)), *map(str, arguments)],
        **{'capture_output': True, 'encoding': 'utf-8', 'env': environment, 'cwd': PROJECT, 'timeout': 300},
    )


@pytest.mark.parametrize('backend', RUNTIMES)
def test_pictures(backend, weights, tmp_path):
    pytest.importorskip(backend)
    others = tuple(set(RUNTIMES) - {backend})
    save_image(tmp_path / 'in' / 'a.png', draw_frame(1, (64, 96))['image'])
    options = [f'pictures_in={tmp_path / "in"}', f'test_out={tmp_path / "out"}', f'results_json={tmp_path / "r.json"}']
    done = without_torch(
        PROJECT / '_test.py', f'weights={weights}', 'progress=False', *options, blocked=BLOCKED + others
    )
    assert done.returncode == 0 and f'(computed by {backend})' in done.stdout, done.stderr
    assert (tmp_path / 'out' / 'a.jpg').is_file()
    found = json.loads((tmp_path / 'r.json').read_text(encoding='utf-8'))['annotations']
    (expected,) = konohana.load(weights, 'cpu', backend='torch').detect([draw_frame(1, (64, 96))['image']])
    assert [one['score'] for one in found] == pytest.approx(expected['scores'].tolist(), abs=1e-3)


def test_pictures_with_labels_are_judged_without_charts(weights, tmp_path):
    write_voc(tmp_path / 'toy', n_train=1, n_val=2, hw=(64, 96), progress=False)
    options = [f'konohana_dataset_path={tmp_path / "toy"}', f'test_out={tmp_path / "out"}', 'progress=False']
    done = without_torch(PROJECT / '_test.py', f'weights={weights}', *options)
    assert done.returncode == 0, done.stderr
    assert 'f1.png are left out: pip install matplotlib' in done.stdout and 'rightly named' in done.stdout
    assert (tmp_path / 'out' / 'mistakes.html').is_file() and not (tmp_path / 'out' / 'f1.png').exists()


def test_a_video(weights, tmp_path):
    write_video(tmp_path / 'a.mp4', seconds=1, fps=6, hw=(64, 96), seed=0)
    options = [f'video_in={tmp_path / "a.mp4"}', f'video_out={tmp_path / "out.mkv"}', 'progress=False']
    done = without_torch(PROJECT / '_test_with_video.py', f'weights={weights}', *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'out.mkv').is_file() and (tmp_path / 'out.html').is_file()
    assert 'pip install matplotlib' in done.stdout and not (tmp_path / 'out.timeline.png').exists()


def test_python(weights):
    code = (
        'import konohana, numpy as np, sys\n'
        f'model = konohana.load({str(weights)!r})\n'
        'frame = np.zeros((64, 96, 3), np.uint8)\n'
        '(found,) = model([frame.transpose(2, 0, 1)])\n'
        '(same,) = model.detect([frame], with_maps=True)\n'
        'assert all(type(v) is np.ndarray for v in same.values()) and set(same) == {*found, *model.maps}\n'
        'assert "torch" not in sys.modules\n'
        'print(len(model.class_names))\n'
    )
    done = without_torch('-c', code)
    assert done.returncode == 0 and int(done.stdout) == 14, done.stderr


@pytest.mark.parametrize(
    ('script', 'options', 'words'),
    [
        ('_train.py', ['konohana_dataset_path=none'], 'needs PyTorch'),
        ('tools/check_dataset.py', ['konohana_dataset_path={folder}'], 'needs SciPy'),
        ('_test.py', ['weights={other}', 'pictures_in={folder}'], 'requirements.txt'),
        ('_test.py', ['weights={weights}', 'pictures_in={folder}', 'backend=torch'], 'requirements.txt'),
        ('_test.py', ['weights={weights}', 'pictures_in={folder}', 'device=cuda'], 'requirements.txt'),
    ],
)
def test_what_needs_torch_says_so_in_one_line(script, options, words, weights, tmp_path):
    other = tmp_path / 'other.pt'
    other.write_bytes(b'PK')
    done = without_torch(PROJECT / script, *(o.format(weights=weights, other=other, folder=tmp_path) for o in options))
    assert done.returncode == 2 and words in done.stderr and done.stderr.count('\n') == 1, done.stderr


def test_every_package_that_is_not_light_is_named():
    """Those that are missed are asked for by name; matplotlib and OpenVINO are done without."""

    def packages(name):
        lines = (PROJECT / name).read_text(encoding='utf-8').splitlines()
        return {re.split('[>=;]', line)[0] for line in lines if line and not line.startswith('#')}

    rest = packages('requirements.txt') - packages('requirements-light.txt') - {'matplotlib', 'openvino'}
    assert rest == set(settings.NOT_LIGHT)


def test_torch_is_not_imported_where_it_is_not_used(weights):
    """It takes seconds, which nobody who only annotates should wait for."""
    code = f'import konohana, sys\nkonohana.load({str(weights)!r}, "cpu")\nprint("torch" in sys.modules)'
    done = subprocess.run(
        [sys.executable, '-c', code],
        **{'capture_output': True, 'encoding': 'utf-8', 'cwd': PROJECT},
        env={**os.environ, 'KONOHANA_BACKEND': 'auto'},
    )
    assert done.stdout == 'False\n', done.stderr


def test_boxes_of_arrays_and_of_tensors():
    generator = np.random.default_rng(0)
    a, b = (generator.uniform(0, 50, (n, 4)).astype(np.float32) for n in (5, 3))
    a[:, 2:] += a[:, :2]
    b[:, 2:] += b[:, :2]
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    for function in (boxes.iou, boxes.part_inside, boxes.apart):
        np.testing.assert_array_equal(function(a, b), function(ta, tb).numpy())
    assert boxes.iou(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0.0]]
