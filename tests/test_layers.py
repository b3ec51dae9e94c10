"""benchmarks/layers.py says where the time of a picture goes."""

import re

import pytest
from conftest import make_weights


def test_the_parts_add_up(run_script, tmp_path):
    weights = tmp_path / 'net.pt'
    make_weights(weights)
    done = run_script('benchmarks/layers.py', f'weights={weights}', 'n_rounds=2')
    assert done.returncode == 0, done.stderr
    rows = {cells[0]: cells[1:] for cells in re.findall(r'^\| ([a-z].*?) \| ([\d.]+) \| (\d+)%', done.stdout, re.M)}
    times = {part: float(ms) for part, (ms, _) in rows.items()}
    assert times['all'] == pytest.approx(sum(times.values()) - times['all'], abs=0.1)
    for part in ('bytes to floats', 'stem', 'blocks at stride 4', 'blocks at stride 64', 'neck', 'post-processing'):
        assert times[part] > 0
