"""benchmarks/accuracy.py: peers are trained alike, once, judged alike, and end as one table."""

import shutil
import sys
import types

import pytest
import torch
from test_speed import rows_of

import _train
from benchmarks import accuracy, yolo
from konohana.cast import CLASS_NAMES, IGNORE_CLASS
from konohana.data.voc import read_split
from konohana.errors import UserError
from tools import compare

ONE = "peers={'ours': {}}"


@pytest.fixture
def dataset(toy_dataset, tmp_path):
    """A toy show whose whole cast is known, though few of them stand in the frames to train on."""
    folder = shutil.copytree(toy_dataset, tmp_path / 'show')
    (folder / 'classes.txt').write_text('\n'.join(CLASS_NAMES), encoding='utf-8')
    return folder


def test_peers_are_trained_once_and_compared(run_script, dataset, tmp_path, monkeypatch):
    # In this process: test_compare.py trains one in a process of its own.
    monkeypatch.setattr(compare, 'train', lambda _, own: _train.main(compare.arguments_of(own)))
    out = tmp_path / 'out'
    quick = (f'konohana_dataset_path={dataset}', f'accuracy_out={out}', 'minutes=0.02', 'img_hw=64,96', 'n_runs=1')
    done = run_script('benchmarks/accuracy.py', ONE, *quick, 'batch_size=4')
    assert done.returncode == 0, done.stderr
    first = (out / 'accuracy.md').read_text(encoding='utf-8')
    rows = rows_of(first)
    assert list(rows) == ['ours'] and '0.02 minutes' in first and 'from scratch' in first and '96 x 64' in first
    ap, *_, found, parameters, _, _, ratio, epochs = (float(cell) for cell in rows['ours'])
    assert 0 <= ap <= 1 and 0 <= found <= 1 and 2 < parameters < 4 and ratio == 1 and epochs > 0
    stamp = (out / 'ours' / 'net.pt').stat().st_mtime_ns
    done = run_script('benchmarks/accuracy.py', ONE, *quick, 'batch_size=4')
    assert done.returncode == 0 and (out / 'ours' / 'net.pt').stat().st_mtime_ns == stamp
    assert rows_of((out / 'accuracy.md').read_text(encoding='utf-8'))['ours'][:4] == rows['ours'][:4]
    # Another budget is another comparison, not a mixture of two.
    done = run_script('benchmarks/accuracy.py', ONE, *quick, 'batch_size=2')
    assert done.returncode != 0 and 'batch_size' in done.stderr and 'Traceback' not in done.stderr


def test_bad_peers_get_one_line(run_script, dataset, tmp_path):
    for peers, word in (('peers={}', 'at least one'), ("peers={'x': {'detector': 'nonsense'}}", 'nonsense')):
        done = run_script(
            'benchmarks/accuracy.py', peers, f'konohana_dataset_path={dataset}', f'accuracy_out={tmp_path}'
        )
        assert done.returncode != 0 and word in done.stderr and 'Traceback' not in done.stderr


def test_yolos_need_ultralytics(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'ultralytics', None)
    with pytest.raises(UserError, match='pip install ultralytics'):
        accuracy.train_yolo('yolo26n', tmp_path, ([], []), [], None, torch.device('cpu'))


def test_labels_as_ultralytics_reads_them(dataset, tmp_path):
    frames, _ = read_split(dataset, 'train', IGNORE_CLASS, progress=False)
    accuracy.yolo_dataset(tmp_path / 'yolo', frames, frames[:2], list(CLASS_NAMES))
    for i, frame in enumerate(frames):
        (picture,) = (tmp_path / 'yolo' / 'images' / 'train').glob(f'{i:06}.*')
        assert picture.read_bytes() == frame.path.read_bytes()
        lines = (tmp_path / 'yolo' / 'labels' / 'train' / f'{i:06}.txt').read_text().splitlines()
        for line, box, name in zip(lines, frame.boxes, frame.names, strict=True):
            label, x, y, w, h = map(float, line.split())
            assert CLASS_NAMES[int(label)] == name
            corners = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            scale = torch.tensor([frame.width, frame.height] * 2)
            assert torch.allclose(corners * scale, torch.from_numpy(box), atol=0.01)
    assert len(list((tmp_path / 'yolo' / 'labels' / 'val').iterdir())) == 2


def test_yolos_see_pictures_at_the_size_they_were_trained_at(monkeypatch):
    """Pictures of any size; boxes come back in their own pixels."""
    seen = []

    class Network(torch.nn.Conv2d):
        def forward(self, batch):
            seen.append(tuple(batch.shape[-2:]))
            y, x = (batch[0, 0] > 0.9).nonzero(as_tuple=True)
            return [torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1, torch.tensor(1), torch.tensor(3)])[None]]

    class YOLO:
        def __init__(self, name, **options):
            self.model = Network(1, 1, 1)

    nms = types.SimpleNamespace(non_max_suppression=lambda found, **limits: [f.float() for f in found])
    monkeypatch.setitem(sys.modules, 'ultralytics', types.SimpleNamespace(YOLO=YOLO))
    monkeypatch.setitem(sys.modules, 'ultralytics.utils', types.SimpleNamespace(nms=nms))
    monkeypatch.setitem(sys.modules, 'ultralytics.utils.nms', nms)
    model = yolo.TrainedYolo('yolo26n', 'weights.pt', (180, 320))
    pictures = [torch.zeros(3, 360, 640), torch.zeros(3, 180, 320), torch.zeros(3, 400, 400)]
    boxes = [(80, 40, 240, 200), (30, 20, 100, 90), (100, 80, 300, 360)]
    for picture, (x1, y1, x2, y2) in zip(pictures, boxes, strict=True):
        picture[:, y1:y2, x1:x2] = 1.0
    found = model(pictures)
    assert seen == [(192, 320), (192, 320), (192, 192)]  # 180 x 320 and 180 x 180, padded to multiples of 32
    for one, box in zip(found, boxes, strict=True):
        assert torch.allclose(one['boxes'][0], torch.tensor(box, dtype=torch.float32), atol=4)
        assert one['labels'].tolist() == [4] and one['scores'].tolist() == [1]
