"""What holds for every script and tool: --help answers at once, and no output replaces a file of the user's."""

import subprocess
import sys

import pytest
import torch
from conftest import PROJECT

from konohana import checkpoint, files, inference

SCRIPTS = ['_train.py', '_test.py']
SCRIPTS += [f'{folder}/{path.name}' for folder in ('tools', 'benchmarks') for path in (PROJECT / folder).glob('*.py')]
SCRIPTS.remove('benchmarks/yolo.py')  # a module of accuracy.py and speed.py

# One process for all scripts: it says after each whether PyTorch was imported.
HELP = """
import contextlib, io, runpy, sys
import konohana
assert 'torch' not in sys.modules, 'import konohana imports torch'
for script in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        runpy.run_path(script)['main'](['--help'])
    assert '  # ' in said.getvalue() and '  # \\n' not in said.getvalue(), f'{script}: a variable has no comment'
    assert 'torch' not in sys.modules, f'{script} imports torch before it answers --help'
"""


def test_import_konohana_and_help_answer_before_torch_is_imported():
    command = [sys.executable, '-c', HELP, *(str(PROJECT / script) for script in SCRIPTS)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, encoding='utf-8')
    assert done.returncode == 0, done.stderr


def test_halved_weights_are_half_the_size_and_find_the_same(run_script, weights_file, tmp_path):
    target = tmp_path / 'halves 花' / 'half.pt'
    done = run_script('tools/halve_weights.py', f'weights_in={weights_file}', f'weights_out={target}')
    assert done.returncode == 0 and str(target) in done.stdout, done.stderr
    assert target.stat().st_size < 0.6 * weights_file.stat().st_size
    assert checkpoint.load(target)['class_names'] == checkpoint.load(weights_file)['class_names']
    image = torch.rand(3, 64, 96)
    (before,), (after,) = (inference.load(file, 'cpu')([image]) for file in (weights_file, target))
    assert len(before['boxes']) > 0
    torch.testing.assert_close(after['scores'][:5], before['scores'][:5], atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ('tool', 'inputs', 'output'),
    [
        ('halve_weights', ['weights_in={weights}'], 'weights_out'),
        ('export_onnx', ['weights={weights}', 'n_pictures=1'], 'onnx_out'),
        ('draw_network', ['img_hw=(64, 96)'], 'svg_out'),
    ],
)
def test_a_file_of_the_users_is_replaced_only_when_told_to(run_script, weights_file, tmp_path, tool, inputs, output):
    ending = {'onnx_out': 'onnx', 'svg_out': 'svg'}.get(output, 'pt')
    target = tmp_path / f'mine.{ending}'
    target.write_text('mine', encoding='utf-8')
    command = (f'tools/{tool}.py', *(text.format(weights=weights_file) for text in inputs), f'{output}={target}')
    done = run_script(*command)
    assert done.returncode == 2 and output in done.stderr and 'overwrite=True' in done.stderr
    assert target.read_text(encoding='utf-8') == 'mine'
    assert run_script(*command, 'overwrite=True').returncode == 0
    written = target.stat().st_size
    assert written > 100 and run_script(*command).returncode == 0  # what it wrote itself


def test_the_graph_that_computes_weights_is_not_exported_over(run_script, weights_file):
    graph = weights_file.with_suffix('.onnx')
    files.write_text(graph, f'... {checkpoint.hash_of(weights_file)} ...', remember=True)
    done = run_script('tools/export_onnx.py', f'weights={weights_file}', f'onnx_out={graph}')
    assert done.returncode == 2 and 'of tools/quantize.py' in done.stderr and 'onnx_out' in done.stderr
    assert checkpoint.hash_of(weights_file) in graph.read_text(encoding='utf-8')


def test_weights_are_never_written_over_themselves(run_script, weights_file):
    before = weights_file.read_bytes()
    for tool in ('halve_weights', 'convert_mmdet'):
        done = run_script(
            f'tools/{tool}.py', f'weights_in={weights_file}', f'weights_out={weights_file}', 'overwrite=True'
        )
        assert done.returncode == 2 and 'weights_out' in done.stderr
    assert weights_file.read_bytes() == before
