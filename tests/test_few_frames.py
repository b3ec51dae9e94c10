"""benchmarks/few_frames.py: few frames, drawn alike each time, learned by several ways for equal processor time."""

import shutil
import sys
import time
import types
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import accuracy, few_frames
from konohana.cast import CLASS_NAMES
from konohana.data.sample import Sample
from konohana.data.yolo import read_split
from konohana.training import engine

QUICK = ('minutes=0.004', 'batch_size=4')


@pytest.fixture
def dataset(toy_dataset, tmp_path):
    """A toy show whose whole cast is known, though few of them stand in the frames to train on."""
    folder = shutil.copytree(toy_dataset, tmp_path / 'show')
    (folder / 'classes.txt').write_text('\n'.join(CLASS_NAMES), encoding='utf-8')
    return folder


def test_ways_learn_the_same_frames_once_and_are_judged_alike(run_script, dataset, tmp_path):
    out = tmp_path / 'out 花'
    given = (f'konohana_dataset_path={dataset}', f'few_frames_out={out}', *QUICK)
    small = {'img_hw': (64, 96), 'second_look': False}
    done = run_script('benchmarks/few_frames.py', *given, f"ways={{'nothing': {small}}}", 'n_frames=[4, 0, 9]')
    assert done.returncode == 0, done.stderr
    text = (out / 'few_frames.md').read_text(encoding='utf-8')
    rows = [line.strip('| ').split(' | ') for line in text.splitlines()[4:]]
    assert [row[:3] for row in rows] == [['4', 'nothing', '0'], ['8', 'nothing', '0']]
    assert all(0 <= float(cell) <= 1 for row in rows for cell in row[3:7]) and all(float(row[7]) > 0 for row in rows)
    assert text in done.stdout and '0.004 minutes of processor time' in text and '4 frames of val' in text
    learned, _ = read_split(out / '4 frames', 'train', '', progress=False)
    assert len(learned) == 4 and len(read_split(out / '4 frames', 'val', '', progress=False)[0]) == 4
    # A second run, with one more way, trains that alone.
    nets = {path: path.stat().st_mtime_ns for path in out.rglob('net.pt')}
    both = f"ways={{'nothing': {small}, 'no pasting': { {**small, 'paste': 0.0} }}}"
    done = run_script('benchmarks/few_frames.py', *given, both, 'n_frames=[4]')
    assert done.returncode == 0 and len(nets) == 2, done.stderr
    assert all(path.stat().st_mtime_ns == before for path, before in nets.items())
    assert len(list(out.rglob('net.pt'))) == 3
    # Other variables under the same name are not mixed with what was learned.
    done = run_script('benchmarks/few_frames.py', *given, both, 'n_frames=[4]', 'batch_size=2')
    assert done.returncode == 2 and 'batch_size' in done.stderr


def test_the_frames_drawn_are_spread_over_the_characters_and_always_the_same():
    names = {'a': 'Ann', 'b': 'Ben', 'c': 'Cleo', 'd': ''}
    frames = [
        Sample(Path(f'{letter}{i:02}.jpg'), names=[name] if name else [])
        for letter, name in names.items()
        for i in range(10 if letter != 'c' else 2)
    ]
    few = few_frames.drawn(frames, 8)
    assert Counter(frame.path.name[0] for frame in few) == {'a': 2, 'b': 2, 'c': 2, 'd': 2}
    assert few == few_frames.drawn(frames[::-1], 8) and few[0].path.name == 'a00.jpg'
    more = few_frames.drawn(frames, 20)
    assert Counter(frame.path.name[0] for frame in more) == {'a': 6, 'b': 6, 'c': 2, 'd': 6}
    assert {frame.path for frame in few} <= {frame.path for frame in more} and len(few_frames.drawn(frames, 99)) == 32


def test_yolos_learn_the_same_frames_for_the_same_processor_time(run_script, dataset, tmp_path, monkeypatch):
    trainer, seen = types.ModuleType('ultralytics.engine.trainer'), []
    trainer.time = time
    package = types.ModuleType('ultralytics.engine')
    package.trainer = trainer
    for module in (types.ModuleType('ultralytics'), package, trainer):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def evaluate_yolo(name, folder, frames, class_names, settings, device, data, **options):
        seen.append((trainer.time.time, engine.time.monotonic, data.parent.name, len(frames[0]), options['workers']))
        assert settings.minutes == 0.004 and data.is_file() and 0 < options['lr0'] < 0.002
        return None, {'AP': 0.1, 'AP50': 0.2, 'found AP50': 0.3, 'found AP75': 0.4, 'epochs': 5.0}

    monkeypatch.setattr(accuracy, 'evaluate_yolo', evaluate_yolo)
    given = (f'konohana_dataset_path={dataset}', f'few_frames_out={tmp_path / "out"}', "ways={'yolo26n': None}", *QUICK)
    done = run_script('benchmarks/few_frames.py', *given, 'n_frames=[4]')
    assert done.returncode == 0, done.stderr
    assert seen == [(time.process_time, time.process_time, '4 frames', 4, 0)]
    assert (
        '| 4 | yolo26n | 0 | 0.100 | 0.200 | 0.300 | 0.400 | 5.0 |' in (tmp_path / 'out' / 'few_frames.md').read_text()
    )
    assert trainer.time is time and engine.time is time  # as before


def test_names_that_nobody_learns_are_one_line(run_script, toy_dataset, tmp_path):
    done = run_script('benchmarks/few_frames.py', f'konohana_dataset_path={toy_dataset}', f'few_frames_out={tmp_path}')
    assert done.returncode == 2 and 'Fix the data' in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.parametrize(
    ('given', 'word'),
    [
        ('ways={}', 'at least one'),
        ("ways={'x': {'detector': 'nonsense'}}", 'nonsense'),
        ("ways={'x': 3}", "'x'"),
        ('n_frames=[]', 'n_frames'),
        ('n_frames=[-1]', 'n_frames'),
        ('seeds=[-1]', 'seeds'),
        ('minutes=0', 'minutes'),
    ],
)
def test_mistakes_are_one_line(given, word, run_script, dataset, tmp_path):
    paths = (f'konohana_dataset_path={dataset}', f'few_frames_out={tmp_path / "out"}')
    done = run_script('benchmarks/few_frames.py', *paths, given)
    assert done.returncode == 2 and word in done.stderr and 'Traceback' not in done.stderr
