"""Weights files that are right, wrong and dangerous, and the detector that konohana.load makes of them."""

import os
import pickle
import random
import time
import zipfile

import pytest
import torch
from conftest import IMG_HW, make_weights, untrained_state

import konohana
from konohana import checkpoint, detectors, files, inference
from konohana.cast import CLASS_NAMES
from konohana.detectors.base import Detector
from konohana.errors import UserError


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / 'new folder' / 'net 花.pt'
    content = make_weights(path)
    loaded = checkpoint.load(path)
    assert loaded.keys() == content.keys()
    assert all(torch.equal(value, content['model'][key]) for key, value in loaded['model'].items())
    assert {**loaded, 'model': None} == {**content, 'model': None}
    assert [file.name for file in path.parent.iterdir()] == ['net 花.pt']


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), RuntimeError('PytorchStreamWriter failed')])
def test_a_failing_save_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / 'net.pt'
    path.write_bytes(b'old')

    def half(content, file):
        file.write(b'half')
        raise error

    monkeypatch.setattr(torch, 'save', half)
    with pytest.raises(UserError, match='cannot be written') as caught:
        checkpoint.save({}, path)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)
    assert path.read_bytes() == b'old'
    assert [file.name for file in tmp_path.iterdir()] == ['net.pt']


def test_a_save_that_is_killed_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'net.pt'
    path.write_bytes(b'old')

    def killed(content, file):
        file.write(b'half')
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, 'save', killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({}, path)
    assert path.read_bytes() == b'old'


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    (tmp_path / 'folder.pt').mkdir()
    for path in (tmp_path / 'file' / 'net.pt', tmp_path / 'folder.pt'):
        with pytest.raises(UserError, match='cannot be written') as caught:
            checkpoint.save({}, path)
        assert str(path) in str(caught.value)
        with pytest.raises(UserError, match='cannot be written'):
            files.write_text(path, 'text')
    assert sorted(file.name for file in tmp_path.iterdir() if file.suffix != '.tmp') == ['file', 'folder.pt']


def test_write_text(tmp_path):
    for text in ('1\n', '花\n'):
        files.write_text(tmp_path / 'iter.txt', text)
        assert (tmp_path / 'iter.txt').read_text(encoding='utf-8') == text
    assert len(list(tmp_path.iterdir())) == 1


class Evil:
    def __reduce__(self):
        return os.mkdir, (self.path,)

    def __init__(self, path):
        self.path = path


def flip_a_bit(path, name):
    """Change a byte in the middle of one of the members of a zip file."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = next(info for info in archive.infolist() if info.filename.endswith(name))
        content = archive.read(member)
    start = bytes(data).index(content[:64], member.header_offset)
    data[start + len(content) // 2] ^= 16
    path.write_bytes(bytes(data))


def missing(path):
    path.unlink()


def folder(path):
    path.unlink()
    path.mkdir()


def empty(path):
    path.write_bytes(b'')


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def last_bytes_cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def text(path):
    path.write_text('<html>404: not found</html>', encoding='utf-8')


def other_zip(path):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('word/document.xml', '<xml/>')


def wrong_weight(path):
    flip_a_bit(path, '/data/100')


def wrong_pickle(path):
    flip_a_bit(path, 'data.pkl')


def plain_pickle(path):
    path.write_bytes(pickle.dumps({'model': Evil(str(path.parent / 'executed'))}))


def code(path):
    torch.save({'model': Evil(str(path.parent / 'executed')), 'detector': 'konohana'}, path)


def whole_model(path):
    torch.save(torch.nn.Conv2d(1, 1, 1), path)


def bare_state_dict(path):
    torch.save({'conv.weight': torch.zeros(1)}, path)


def a_list(path):
    torch.save([1, 2], path)


def without_names(path):
    content = torch.load(path, weights_only=True)
    del content['class_names'], content['img_hw']
    torch.save(content, path)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (missing, 'there is no such weights file'),
        (folder, 'a folder, not a weights file. Name the weights file itself'),
        (empty, 'not a PyTorch weights file'),
        (cut_in_half, 'truncated'),
        (last_bytes_cut, 'truncated'),
        (text, 'not a PyTorch weights file'),
        (other_zip, 'damaged'),
        (wrong_weight, 'damaged'),
        (wrong_pickle, 'damaged'),
        (plain_pickle, 'not a PyTorch weights file'),
        (code, 'refused'),
        (whole_model, 'refused'),
        (bare_state_dict, 'it has no model, detector, class_names, img_hw'),
        (a_list, 'not a file of this program'),
        (without_names, 'it has no class_names, img_hw'),
    ],
)
def test_a_wrong_file_is_one_line(weights_file, change, words):
    change(weights_file)
    with pytest.raises(UserError) as caught:
        konohana.load(weights_file, device='cpu')
    assert str(weights_file) in str(caught.value)
    assert words in str(caught.value) and '\n' not in str(caught.value)
    assert not (weights_file.parent / 'executed').exists()


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'class_names': ['柚', '莲']}, 'do not fit'),
        ({'class_names': None}, 'class_names'),
        ({'class_names': []}, 'class_names'),
        ({'class_names': [1, 2]}, 'class_names'),
        ({'class_names': {'柚': 1}}, 'class_names'),
        ({'class_names': ['柚', '莲', '柚']}, "'柚' is duplicated"),
        ({'class_names': ['柚', ' ']}, 'not a name'),
        ({'class_names': ['柚', '\ud800']}, 'not a name'),
        ({'class_names': ['柚', 'a\x1b[31m']}, 'not a name'),
        ({'class_names': [str(i) for i in range(20_000)]}, '20000 names'),
        ({'options': {'use_res2block': True}}, 'do not fit'),
        ({'options': {'depth': 50}}, 'depth=50'),
        ({'options': {'attention': 10**400}}, 'attention'),
        ({'options': {'use_res2block': [[]]}}, 'options'),
        ({'options': {1: 2}}, 'options'),
        ({'options': None}, 'options'),
        ({'model': {}}, 'do not fit'),
        ({'model': None}, 'model'),
        ({'model': {'conv.weight': 'x'}}, "'conv.weight' is not a tensor"),
        ({'model': {1: torch.zeros(1)}}, '1 is not a tensor'),
        ({'model': {'conv.weight': torch.zeros(2).to_sparse()}}, 'not a plain tensor'),
        ({'model': {'a': torch.zeros(2, dtype=torch.complex64)}}, 'not a plain tensor'),
        ({'img_hw': 'large'}, 'img_hw'),
        ({'img_hw': ['64', '96']}, 'img_hw'),
        ({'img_hw': [64.0, 96.0]}, 'img_hw'),
        ({'img_hw': [64, 96, 3]}, 'img_hw'),
        ({'img_hw': [1, 2]}, 'img_hw'),
        ({'img_hw': [10**400, 96]}, 'img_hw'),
        ({'detector': 'yolo'}, 'yolo'),
        ({'detector': None}, 'detector'),
        ({'detector': '../x\x1b[31m'}, 'x'),
        ({'epoch': 'last'}, 'epoch'),
        ({'epoch': -1}, 'epoch'),
        ({'figures': [1]}, 'figures'),
        ({'figures': {'AP': 'high'}}, 'figures'),
        ({'figures': {'AP50_per_class': {1: 0.5}}}, 'figures'),
    ],
)
def test_weights_that_do_not_fit_are_one_line(tmp_path, changes, words):
    path = tmp_path / 'net.pt'
    make_weights(path, **changes)
    with pytest.raises(UserError) as caught:
        konohana.load(path, device='cpu')
    assert str(path) in str(caught.value)
    assert words in str(caught.value) and '\n' not in str(caught.value)


def unusable(value):
    """A change to weights: one value of one tensor is `value`."""
    state = dict(untrained_state())
    name = next(name for name in state if name.endswith('running_var'))
    state[name] = state[name].clone()
    state[name][-1] = value
    return name, state


@pytest.mark.parametrize(
    ('value', 'words'), [(float('nan'), 'NaN or infinity'), (-float('inf'), 'NaN or infinity'), (-1e-3, 'negative')]
)
def test_weights_that_are_no_numbers(tmp_path, value, words):
    name, state = unusable(value)
    make_weights(tmp_path / 'net.pt', model=state)
    with pytest.raises(UserError, match=words) as caught:
        konohana.load(tmp_path / 'net.pt', device='cpu')
    assert name in str(caught.value)
    # So it is with what a training would go on from.
    checkpoint.save({'ema': state}, tmp_path / 'optim.pt')
    with pytest.raises(UserError, match=words):
        checkpoint.load(tmp_path / 'optim.pt', needed=('ema',))


@pytest.mark.parametrize(
    'changes',
    [
        {'description': None},
        {'description': {'detector': 'konohana'}},
        {'description': {'detector': 1, 'options': {}, 'class_names': ['柚'], 'img_hw': [64, 96]}},
        {'iteration': 1.5},
        {'batches_done': None},
        {'minutes': float('nan')},
        {'minutes': 'ten'},
        {'model': [1]},
    ],
)
def test_a_forged_state_of_a_run_is_one_line(tmp_path, changes):
    checkpoint.save(changes, tmp_path / 'optim.pt')
    with pytest.raises(UserError, match=f'its {next(iter(changes))} cannot be used') as caught:
        checkpoint.load(tmp_path / 'optim.pt', needed=())
    assert str(tmp_path / 'optim.pt') in str(caught.value)


def zip_bomb(path):
    """A small file that unpacks to 4 GiB."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('net/data.pkl', b'x')
        for i in range(4):
            archive.writestr(f'net/data/{i}', bytes(2**20))
    # What the directory says of the sizes is what counts: writing the real thing would take a minute.
    data = bytearray(path.read_bytes())
    for signature, offset in ((b'PK\x01\x02', 24), (b'PK\x03\x04', 22)):
        start = -1
        while (start := data.find(signature, start + 1)) >= 0:
            data[start + offset : start + offset + 4] = (2**30).to_bytes(4, 'little')
    path.write_bytes(data)


def repeated(path):
    """One number that stands for 4 TiB of them."""
    torch.save({'model': {'conv.weight': torch.zeros(1).expand(2**20, 2**20)}}, path)


@pytest.mark.parametrize('trap', [zip_bomb, repeated])
def test_a_small_file_that_claims_to_be_large_is_refused_at_once(tmp_path, trap):
    trap(tmp_path / 'net.pt')
    start = time.monotonic()
    with pytest.raises(UserError, match='claim to') as caught:
        checkpoint.load(tmp_path / 'net.pt', needed=('model',))
    assert str(tmp_path / 'net.pt') in str(caught.value)
    assert time.monotonic() - start < 1


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no such files')
def test_what_is_not_a_file_is_one_line(tmp_path):
    os.mkfifo(tmp_path / 'pipe.pt')
    with (tmp_path / 'endless.pt').open('wb') as file:
        file.truncate(2**40)  # takes no space
    places = (tmp_path / 'pipe.pt', '/dev/zero', '/dev/stdin', tmp_path, tmp_path / 'endless.pt')
    for path in (*places, tmp_path / ('花' * 86), 'a\0.pt', '\ud800.pt'):
        with pytest.raises(UserError) as caught:
            konohana.load(path, device='cpu')
        assert str(path) in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('method', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_to_compressed_weights_is_one_line(weights_file, method):
    # torch.save does not compress, other programs may; each kind of compression has errors of its own.
    with zipfile.ZipFile(weights_file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()[:20]}
    with zipfile.ZipFile(weights_file, 'w', method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    data = weights_file.read_bytes()
    rng = random.Random(0)
    for _ in range(30):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 3, 30))):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        weights_file.write_bytes(damaged)
        with pytest.raises(UserError) as caught:
            konohana.load(weights_file, device='cpu')
        assert str(caught.value).startswith(str(weights_file)) and '\n' not in str(caught.value)


@pytest.mark.parametrize('device', ['cuda:99', 'abacus', 'cpu:x', 'meta', 'xla', 'hpu', 'cpu\n', '\ud800', 'cuda:-2'])
def test_no_such_device(weights_file, device):
    with pytest.raises(UserError, match='device=') as caught:
        konohana.load(weights_file, device=device)
    assert repr(device) in str(caught.value) and '\n' not in str(caught.value)


SIZES = [(7, 9), (9, 7), (64, 96), (160, 90), (1, 50), (1080, 1920), (333, 501)]


@pytest.fixture
def pictures():
    torch.manual_seed(1)
    return [torch.rand(3, *hw) for hw in SIZES]


def test_load_keeps_the_contract(weights_file, pictures):
    model = konohana.load(weights_file, device='cpu')
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert tuple(model.class_names) == CLASS_NAMES and tuple(model.img_hw) == IMG_HW
    together = model(pictures)
    alone = [model([picture])[0] for picture in pictures]
    for detections in (together, alone):
        assert len(detections) == len(pictures)
        for found, (height, width) in zip(detections, SIZES, strict=True):
            boxes, labels, scores = found['boxes'], found['labels'], found['scores']
            assert boxes.shape == (len(labels), 4) and scores.shape == (len(labels),)
            assert labels.dtype == torch.int64 and ((labels >= 1) & (labels <= len(CLASS_NAMES))).all()
            assert ((scores >= 0) & (scores <= 1)).all() and (scores[:-1] >= scores[1:]).all()
            assert (boxes[:, :2] >= 0).all()
            assert (boxes[:, 2:] <= torch.tensor([width, height]) * (1 + 1e-5)).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
    # Otherwise nothing was tested above.
    assert sum(len(found['scores']) for found in together) > len(SIZES)
    with torch.no_grad():
        model.name_layer.bias[-1] += 1000
    assert set(model(pictures[2:3])[0]['labels'].tolist()) == {len(CLASS_NAMES)}  # label k is the k-th name


def test_the_same_picture_twice_gives_the_same(weights_file):
    image = torch.rand(3, 64, 96)
    model = konohana.load(weights_file, device='cpu')
    found = model([image, image])
    assert all(torch.equal(found[0][key], found[1][key]) for key in ('boxes', 'labels', 'scores'))


@pytest.mark.parametrize('use_res2block', [False, True])
def test_fused_equals_unfused(weights_file, use_res2block, pictures):
    if use_res2block:
        torch.manual_seed(0)
        content = checkpoint.load(weights_file)
        model = detectors.build('konohana', len(CLASS_NAMES), IMG_HW, use_res2block=True)
        checkpoint.fit_weights(model, content['model'])
        checkpoint.save({**content, 'model': model.state_dict(), 'options': {'use_res2block': True}}, weights_file)
    fused = konohana.load(weights_file, device='cpu')
    unfused = konohana.load(weights_file, device='cpu', fuse=False)
    norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()) for model in (fused, unfused)]
    assert norms[0] == 0 < norms[1]
    batch = torch.rand(2, 3, *IMG_HW) * 2 - 1
    maps, same = fused.raw_outputs(batch), unfused.raw_outputs(batch)
    for key, value in same.items():
        assert value.std() > 1e-2
        torch.testing.assert_close(maps[key], value, atol=1e-4, rtol=1e-4)
    for one, other in zip(fused(pictures[:4]), unfused(pictures[:4]), strict=True):
        torch.testing.assert_close(one['scores'], other['scores'], atol=1e-4, rtol=0)


def test_default_weights_prefers_what_the_user_trained(tmp_path):
    assert konohana.default_weights(tmp_path) == tmp_path / 'weights' / 'net.pt'
    (tmp_path / 'net_det3.pt').write_bytes(b'')
    assert konohana.default_weights(tmp_path) == tmp_path / 'weights' / 'net.pt'
    assert konohana.default_weights(tmp_path, use_res2block=True) == tmp_path / 'net_det3.pt'
    (tmp_path / 'net.pt').write_bytes(b'')
    assert konohana.default_weights(tmp_path) == tmp_path / 'net.pt'
    assert inference.weights_name(True) == 'net_det3.pt'


def test_fit_weights():
    class Two(torch.nn.Sequential, Detector):
        """A detector of two layers."""

    model = Two(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    ones = {key: torch.ones_like(value) for key, value in model.state_dict().items()}
    state = {**ones, '1.weight': torch.ones(5, 3), 'unknown': torch.ones(1)}
    assert checkpoint.fit_weights(model, state, skip=['1.']) == ['1.bias', '1.weight']
    assert (model[0].weight == 1).all() and not (model[1].bias == 1).any()
    assert checkpoint.fit_weights(model, state) == ['1.weight']
    assert (model[1].bias == 1).all()


def test_an_onnx_file_in_the_place_of_weights_to_learn_from(tmp_path):
    (tmp_path / 'net.onnx').write_bytes(b'\x08\x08')
    with pytest.raises(UserError, match=r'not a PyTorch weights file\. Name the \.pt file that it is of'):
        checkpoint.load(tmp_path / 'net.onnx')
