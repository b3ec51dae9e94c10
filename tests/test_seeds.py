"""benchmarks/seeds.py: metrics side by side, and several networks as one."""

import math
import re
import types

import pytest
import torch
from conftest import IMG_HW, make_weights, untrained_state
from test_speed import rows_of

from benchmarks import seeds
from konohana import detectors, inference
from konohana.cast import IGNORE_CLASS
from konohana.data.reading import read_frames
from konohana.errors import UserError


def other_state():
    """Weights that find other boxes than `untrained_state`, and other names."""
    state = {key: value.clone() for key, value in untrained_state().items()}
    torch.manual_seed(1)
    for key in ('find_layer.weight', 'name_layer.weight'):
        state[key] = state[key][torch.randperm(len(state[key]))] if 'name' in key else state[key] * 0.5
    return state


def test_together_has_the_cells_of_all(tmp_path, weights_file):
    make_weights(tmp_path / 'b.pt', model=other_state())
    a, b = (inference.load(file, 'cpu') for file in (weights_file, tmp_path / 'b.pt'))
    tensors = torch.rand(2, 3, *IMG_HW)
    both = seeds.together([a, b])
    mine, of_a, of_b = (model.decode(model.raw_outputs(tensors)) for model in (both, a, b))
    n = len(of_a['points'])
    for key in ('objectness', 'quality', 'names', 'boxes'):
        assert not torch.allclose(of_a[key], of_b[key])
        torch.testing.assert_close(mine[key][:, :n], of_a[key])
        torch.testing.assert_close(mine[key][:, n:], of_b[key])
    # One network with itself finds what it finds alone.
    image = torch.rand(3, 90, 160)
    alone, twice = a([image])[0], seeds.together([a, a])([image])[0]
    assert len(alone['boxes']) > 0
    for key, value in alone.items():
        torch.testing.assert_close(twice[key], value, atol=1e-3, rtol=1e-4)


def test_rows(run_script, toy_dataset, tmp_path, weights_file):
    make_weights(tmp_path / 'b.pt', model=other_state())
    files = [str(weights_file), str(tmp_path / 'b.pt')]
    where = f'konohana_dataset_path={toy_dataset}'
    done = run_script('benchmarks/seeds.py', f'weights={", ".join(files)}', where, 'min_objects=2')
    assert done.returncode == 0, done.stderr
    rows = rows_of(done.stdout)
    assert list(rows) == [*files, 'together'] and '4 frames' in done.stdout
    assert all(0 <= float(cell) <= 1 for row in rows.values() for cell in row)
    # One file alone has nobody to be together with; no name is there so often.
    done = run_script('benchmarks/seeds.py', f'weights={files[0]}', where, 'min_objects=1000')
    assert done.returncode == 0, done.stderr
    (row,) = rows_of(done.stdout).values()
    assert row[seeds.COLUMNS.index('frequent, AP50')] == '–' and row[:4] == rows[files[0]][:4]


def test_frequent_names_alone(toy_dataset):
    frames = read_frames(toy_dataset, ['val'], IGNORE_CLASS, False)[0][0]
    names = sorted({name for frame in frames for name in frame.names})
    counts = {name: sum(frame.names.count(name) for frame in frames) for name in names}
    most = max(counts.values())
    best = next(name for name in names if counts[name] == most)
    # Only the most frequent name is found, and rightly.
    detections = []
    for frame in frames:
        boxes = torch.as_tensor(frame.boxes)[[name == best for name in frame.names]].reshape(-1, 4)
        labels = torch.full((len(boxes),), names.index(best) + 1)
        detections.append({'boxes': boxes.float(), 'labels': labels, 'scores': torch.full((len(boxes),), 0.9)})
    n_most = sum(count == most for count in counts.values())
    settings = types.SimpleNamespace(min_objects=most, threshold=0.5)
    row = dict(zip(seeds.COLUMNS, seeds.row_of(frames, detections, names, settings), strict=True))
    assert math.isclose(row['frequent, AP50'], 1 / n_most, abs_tol=1e-6) and row['AP50'] < 1
    assert row['precision'] == row['rightly named'] == 1 and row['recall'] < 1


def test_mistakes_get_one_line(toy_dataset, tmp_path, weights_file):
    make_weights(tmp_path / 'b.pt', class_names=[f'name {i}' for i in range(14)])
    other = 'ssdlite320_mobilenet_v3_large'
    state = detectors.build(other, 14, IMG_HW).state_dict()
    make_weights(tmp_path / 'other.pt', model=state, detector=other, options={})
    where = f'konohana_dataset_path={toy_dataset}'
    for overrides, message in (
        (['weights= , '], 'at least one'),
        (['weights=nowhere.pt'], 'nowhere.pt: there is no'),
        ([f'weights={weights_file}, {tmp_path / "b.pt"}', where], 'b.pt: its class_names'),
        ([f'weights={tmp_path / "other.pt"}', where], 'other.pt: not a weights file of the default network'),
        (['min_objects=0'], 'min_objects=0'),
        ([f'weights={weights_file}', f'konohana_dataset_path={tmp_path / "none"}'], 'none: there is no such folder'),
        ([f'weights={weights_file}', where, 'split=nobody'], 'nobody'),
    ):
        with pytest.raises(UserError, match=re.escape(message)) as raised:
            seeds.main(['progress=False', *overrides])
        assert len(str(raised.value).splitlines()) == 1
