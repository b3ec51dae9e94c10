"""Faster runtimes than PyTorch: the same detections, one graph for each weights file, one line where there is none."""

import hashlib
import json
import math
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from conftest import PROJECT, load_script, make_weights
from test_onnx import lively

import konohana
from konohana import boxes, checkpoint, files
from konohana.data.images import list_pictures, load_image
from konohana.detectors import yolof
from konohana.errors import UserError
from konohana.evaluation.predict import predict
from konohana.onnx import backends, export, runtime, sessions
from konohana.toy.writer import draw_frame

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
REAL = PROJECT.parent / 'shared' / 'konohana_dataset' / 'imgs'
RUNTIMES = ('onnxruntime', 'openvino')


@pytest.fixture(autouse=True)
def any_backend(monkeypatch, tmp_path):
    """'auto' is what users have, and their cache folder is the test's."""
    monkeypatch.delenv('KONOHANA_BACKEND', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture(scope='module')
def graph(tmp_path_factory):
    """The graph of the weights of `weights_file`, as bytes."""
    path = tmp_path_factory.mktemp('graph') / 'net.pt'
    make_weights(path)
    return export.export_frames(konohana.load(path, 'cpu', backend='torch'), checkpoint.load(path), hash_of(path))


@pytest.fixture
def exports(monkeypatch, graph):
    """List that grows with each detector whose graph is made; they all get the same one, which takes no time."""
    made = []

    def export_frames(model, content, weights):
        made.append(model)
        content = onnx.load_from_string(graph)
        (said,) = (one for one in content.metadata_props if one.key == 'weights')
        said.value = json.dumps(weights)
        return content.SerializeToString()

    monkeypatch.setattr(export, 'export_frames', export_frames)
    return made


def hash_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def toy(*sizes):
    return [torch.from_numpy(draw_frame(seed, hw)['image']).permute(2, 0, 1) for seed, hw in enumerate(sizes, 1)]


def graphs(folder):
    return sorted(folder.glob('.*.onnx'))


def check_same(expected, found, box=0.05, score=1e-3):
    far = runtime.differences(expected, found)
    assert far['box'] < box and far['score'] < score and far['unmatched'] <= 1, far


@pytest.mark.parametrize('name', RUNTIMES)
def test_same_detections_as_torch(name, weights_file):
    pytest.importorskip(name)
    model, fast = (konohana.load(weights_file, 'cpu', backend=backend) for backend in ('torch', name))
    assert (model.backend, fast.backend, model.takes_bytes, fast.takes_bytes) == ('torch', name, True, True)
    assert (fast.class_names, fast.img_hw, fast.maps) == (model.class_names, model.img_hw, model.maps)
    images = toy(model.img_hw, (41, 71), model.img_hw)  # the usual size; smaller, and no multiple of 8
    for image in images:
        (expected,), (found,) = predict(model, [image], with_maps=True), predict(fast, [image], with_maps=True)
        assert found.keys() == expected.keys() and found['probabilities'].shape == expected['probabilities'].shape
        assert torch.allclose(found['objectness'], expected['objectness'], atol=0.02)
        check_same(expected, found)
        (arrays,) = fast.detect([image.permute(1, 2, 0).numpy()], with_maps=True)
        assert all(isinstance(arrays[key], np.ndarray) and (arrays[key] == found[key].numpy()).all() for key in found)
        assert fast([image.numpy()])[0]['scores'].tolist() == found['scores'].tolist()
    together = fast([image.float() / 255 for image in images])
    assert len(together) == 3 and fast([]) == []
    check_same(predict(fast, images[:1])[0], together[0])


def test_shipped_weights_on_real_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(backends, 'SHIPPED', tmp_path)  # not the graph in 8 bits
    if not REAL.is_dir():
        pytest.skip('needs the real frames')
    path = shutil.copy(PROJECT / 'weights' / 'net.pt', tmp_path)
    model = konohana.load(path, 'cpu', backend='torch')
    images = [torch.from_numpy(load_image(path)).permute(2, 0, 1) for path in list_pictures(REAL)[::500]]
    for name in backends.runtimes():
        fast = konohana.load(path, 'cpu', backend=name)
        for expected, found in zip(predict(model, images), predict(fast, images), strict=True):
            check_same(expected, found, box=0.02, score=0.01)  # the second look is at bytes
            assert torch.equal(expected['labels'], found['labels'])


def test_openvino_keeps_what_it_compiles(weights_file, tmp_path):
    pytest.importorskip('openvino')
    frame = draw_frame(1, (64, 96))['image']

    def scores():
        model = konohana.load(weights_file, 'cpu', backend='openvino')
        return model.detect([frame])[0]['scores'].tolist()

    expected, folder = scores(), tmp_path / 'cache' / 'konohana' / 'openvino'
    kept = {path: path.stat().st_mtime_ns for path in folder.glob('*.blob')}
    assert kept and scores() == expected
    assert {path: path.stat().st_mtime_ns for path in folder.glob('*.blob')} == kept
    for path in kept:
        content = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(content[: len(content) // 2])
    assert scores() == expected
    for number in range(sessions.MOST_KEPT + 5):
        (folder / f'{number}.blob').write_bytes(b'')
    (folder / next(iter(kept)).name).unlink()
    assert scores() == expected and len(list(folder.glob('*.blob'))) <= sessions.MOST_KEPT + len(kept)
    shutil.rmtree(folder)
    folder.write_text('no folder')
    assert scores() == expected


@pytest.mark.parametrize('name', ['net', 'net_det3'])
def test_the_shipped_graphs_are_of_the_shipped_weights(name):
    """tools/quantize.py writes them. They find what the weights find: real frames show more than toy ones."""
    path = PROJECT / 'weights' / f'{name}.pt'
    assert hash_of(path).encode() in path.with_suffix('.onnx').read_bytes()
    folder = REAL if REAL.is_dir() else None
    images = [load_image(one) for one in list_pictures(folder)[::400]] if folder else [draw_frame(3)['image']]
    expected = konohana.load(path, 'cpu', backend='torch').detect(images)
    for runtime_name in backends.runtimes():
        fast = backends.at_hand(path, runtime_name)
        for a, b in zip(expected, fast.detect(images), strict=True):
            sure_a, sure_b = (
                {key: one[key][one['scores'] > 0.6] for key in ('boxes', 'labels', 'scores')} for one in (a, b)
            )
            overlaps = boxes.iou(sure_a['boxes'], b['boxes'])
            assert not len(sure_a['boxes']) or (overlaps.max(axis=1) > 0.7).all()
            assert abs(len(sure_a['boxes']) - len(sure_b['boxes'])) <= 1


def test_yolof_too(monkeypatch):
    # Narrower than the real one, for the time.
    monkeypatch.setattr(yolof, 'CHANNELS', 64)
    monkeypatch.setattr(yolof, 'MIDDLE_CHANNELS', 32)
    model = lively('yolof', ('decoder.name_layer.',), 20, backbone='resnet18')
    content = {'detector': 'yolof', 'options': {'backbone': 'resnet18'}}
    fast = backends.started('onnxruntime', export.export_frames(model, content, ''), 'net.onnx')
    (image,) = toy((60, 96))
    check_same(predict(model, [image])[0], predict(fast, [image])[0])


def test_the_graph_is_made_once_and_again_when_the_weights_change(weights_file, exports):
    for _ in range(2):
        assert konohana.load(weights_file, 'cpu', backend='onnxruntime').backend == 'onnxruntime'
    assert len(exports) == 1 and len(graphs(weights_file.parent)) == 1
    old, state = graphs(weights_file.parent), checkpoint.load(weights_file)['model']
    make_weights(weights_file, model={**state, 'distance_scale': torch.tensor(2.0)})
    konohana.load(weights_file, 'cpu', backend='onnxruntime')
    assert len(exports) == 2 and exports[1].distance_scale == 2
    # The one of the weights that were there before is gone.
    assert len(graphs(weights_file.parent)) == 1 and graphs(weights_file.parent) != old


@pytest.mark.parametrize('damage', ['truncated', 'empty', 'of another detector'])
def test_a_damaged_graph_is_made_again(damage, weights_file, exports, graph):
    konohana.load(weights_file, 'cpu', backend='onnxruntime')
    (path,) = graphs(weights_file.parent)
    other = onnx.load_from_string(graph)
    del other.graph.output[0]
    parts = {'truncated': graph[: len(graph) // 2], 'empty': b'', 'of another detector': other.SerializeToString()}
    path.write_bytes(parts[damage])
    assert konohana.load(weights_file, 'cpu', backend='onnxruntime').backend == 'onnxruntime'
    assert len(exports) == 2 and onnx.load(path).graph == onnx.load_from_string(graph).graph


def test_weights_in_a_folder_that_cannot_be_written(weights_file, exports, monkeypatch, tmp_path):
    original = files.write_bytes

    def write(path, data, remember=False):
        if path.parent == weights_file.parent or len(exports) > 1:
            raise UserError(f'{path}: cannot be written (Read-only file system).')
        original(path, data, remember)

    monkeypatch.setattr(files, 'write_bytes', write)
    for _ in range(2):
        konohana.load(weights_file, 'cpu', backend='onnxruntime')
        assert len(exports) == 1 and not graphs(weights_file.parent)
    (kept,) = graphs(tmp_path / 'cache' / 'konohana')
    # Nowhere at all: it is made each time.
    kept.unlink()
    for count in (2, 3):
        konohana.load(weights_file, 'cpu', backend='onnxruntime')
        assert len(exports) == count


def test_what_only_torch_can_compute(tmp_path, capsys):
    model = lively('solov2_light_r18', ('cate_layer.',), 1)
    assert backends.accelerate(model, {}, tmp_path / 'net.pt') is None
    assert capsys.readouterr().out == ''
    assert backends.accelerate(model, {}, tmp_path / 'net.pt', 'onnxruntime') is None
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_without_runtimes(weights_file, monkeypatch):
    for name in RUNTIMES:
        monkeypatch.setitem(sys.modules, name, None)
    assert konohana.load(weights_file, 'cpu').backend == 'torch'
    for name in RUNTIMES:
        with pytest.raises(UserError, match=f'pip install {name}'):
            konohana.load(weights_file, 'cpu', backend=name)


def test_runtimes_that_fail(weights_file, exports, monkeypatch):
    def fail(*_):
        raise UserError('out of order')

    monkeypatch.setitem(sessions.RUNTIMES, 'openvino', fail)
    monkeypatch.setattr(backends, 'installed', lambda name: True)
    assert konohana.load(weights_file, 'cpu').backend == 'onnxruntime'
    with pytest.raises(UserError, match="'openvino': out of order"):
        konohana.load(weights_file, 'cpu', backend='openvino')
    # Nor does an export that fails stop anybody who has not asked for it.
    (kept,) = graphs(weights_file.parent)
    kept.unlink()
    monkeypatch.setattr(export, 'export_frames', fail)
    assert konohana.load(weights_file, 'cpu').backend == 'torch'


def test_unknown_backend(weights_file, run_script):
    with pytest.raises(UserError, match=r'no such choice.* auto, torch, onnxruntime, openvino'):
        konohana.load(weights_file, 'cpu', backend='tensorrt')
    assert run_script('_test.py', f'weights={weights_file}', 'backend=tensorrt').returncode == 2


def test_unknown_backend_in_the_environment(weights_file, monkeypatch):
    monkeypatch.setenv('KONOHANA_BACKEND', 'fast')
    with pytest.raises(UserError, match=r"^KONOHANA_BACKEND='fast': there is no such choice"):
        konohana.load(weights_file)


def test_scripts_say_what_computes(weights_file, exports, run_script, tmp_path):
    from konohana.data.images import save_image

    save_image(tmp_path / 'in' / 'a.png', draw_frame(0, (64, 96))['image'])
    options = (f'weights={weights_file}', f'pictures_in={tmp_path / "in"}', f'test_out={tmp_path / "out"}')
    done = run_script('_test.py', *options)
    fastest = next(iter(backends.runtimes()))
    assert done.returncode == 0 and f'(computed by {fastest})' in done.stdout, done.stderr
    assert (tmp_path / 'out' / 'a.jpg').is_file()


def test_a_signal_after_openvino_was_let_go_in_another_thread(weights_file):
    """OpenVINO frees the signal stack that it gave a thread; the process used to end by a segmentation fault."""
    pytest.importorskip('openvino')
    if not hasattr(signal, 'SIGUSR1'):
        pytest.skip('Windows has no such signals')
    code = (
        'import faulthandler, gc, os, signal, sys, threading, torch, konohana\n'
        'faulthandler.enable()\n'
        'heard = []\n'
        'signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))\n'
        'models = [konohana.load(sys.argv[1], "cpu", backend="openvino")]\n'
        'let_go = threading.Thread(target=lambda: (models.clear(), gc.collect()))\n'
        'let_go.start(); let_go.join()\n'
        'os.kill(os.getpid(), signal.SIGUSR1)\n'
        'print("heard", len(heard))\n'
    )
    done = subprocess.run([sys.executable, '-c', code, weights_file], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0 and 'heard 1' in done.stdout, (done.returncode, done.stderr)


def test_half_of_the_threads_for_video(monkeypatch):
    """A runtime leaves cores to decoders and encoders; it keeps the number it was opened with."""
    pytest.importorskip('openvino')
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 8)
    data = (PROJECT / 'weights' / 'net.onnx').read_bytes()
    with sessions.half_the_threads():
        assert sessions.n_threads() == 4
        opened = sessions.OpenVino(data, 'net.onnx')
        monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
        assert sessions.n_threads() == 1
    assert sessions.n_threads() == 1 and opened.n_threads == 4


def test_quantize_measures_before_it_writes(run_script, weights_file, toy_dataset, tmp_path):
    given = (f'weights={weights_file}', f'konohana_dataset_path={toy_dataset}', 'n_frames=2')
    target = weights_file.with_suffix('.onnx')
    done = run_script('tools/quantize.py', *given, 'tolerance=1')
    assert done.returncode == 0 and 'AP 0.' in done.stdout and str(target) in done.stdout, done.stderr
    assert konohana.load(weights_file, 'cpu', backend='onnxruntime').backend == 'onnxruntime'
    before = target.read_bytes()
    unknown, none = 'the weights do not know (Somebody)', 'no labels that count'
    for folder, words in (('strangers', unknown), ('nobody', none), ('difficult', none)):
        show = shutil.copytree(toy_dataset, tmp_path / folder)
        for path in (show / 'anns').iterdir():
            objects = ET.parse(path)
            for one in objects.findall('object'):
                one.find('difficult').text = str(int(folder == 'difficult'))
                if folder == 'strangers':
                    one.find('name').text = 'Somebody'
                if folder == 'nobody':
                    objects.getroot().remove(one)
            objects.write(path, 'utf-8')
        done = run_script('tools/quantize.py', f'weights={weights_file}', f'konohana_dataset_path={show}')
        assert done.returncode == 2 and words in done.stderr, done.stderr
    assert target.read_bytes() == before


def test_the_only_object_of_a_name_weighs_as_one_object():
    before = {'AP_per_class': {'a': 0.5, 'b': 1.0, 'c': math.nan}, 'objects_per_class': {'a': 99, 'b': 1, 'c': 0}}
    after = {**before, 'AP_per_class': {'a': 0.5, 'b': 0.0, 'c': math.nan}}
    of_objects = load_script('tools/quantize.py').ap_of_objects
    assert of_objects(before) == pytest.approx(0.505) and of_objects(after) == pytest.approx(0.495)


@pytest.mark.parametrize('n', [1, 3, 79, 80, 200])
def test_frames_to_calibrate_on_are_of_the_whole_split(n):
    chosen = load_script('tools/quantize.py').evenly(range(n), 40)
    assert len(chosen) == min(n, 40) and len(set(chosen)) == len(chosen)
    assert np.diff([*chosen, n]).max() <= -(-n // 40), 'no part of the split is without a frame'
