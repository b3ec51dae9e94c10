"""benchmarks/speed.py and training_speed.py: what they measure, write and refuse. Times themselves are not tested."""

import sys

import pytest
import torch

from benchmarks import latency, speed
from konohana.detectors import build, solov2
from konohana.errors import UserError
from konohana.evaluation.cost import count_macs, count_parameters


def run(*overrides):
    speed.main(['img_hw=(64, 96)', 'n_runs=2', *overrides])


def rows_of(text):
    """{name: list of the row's cells} of the Markdown table in `text`."""
    lines = [line for line in text.splitlines() if line.startswith('|')]
    assert len({line.count('|') for line in lines}) == 1 and lines[1].strip('|-:') == ''
    return {cells[0]: cells[1:] for cells in ([c.strip() for c in line.strip('|').split('|')] for line in lines[2:])}


def test_several_side_by_side(capsys):
    names = 'konohana,  konohana fuse=False, konohana use_res2block=True channels_last=False'
    run(f'detector={names}, ssdlite320_mobilenet_v3_large', 'img_hw=(64, 96)', 'n_classes=5')
    said = capsys.readouterr().out
    assert said.startswith('64 x 96, cpu, ')
    rows = rows_of(said)
    assert list(rows) == [*(' '.join(name.split()) for name in names.split(',')), 'ssdlite320_mobilenet_v3_large']
    model = build('konohana', 5, (64, 96))
    # Counted before batch norms are folded, so that both rows say the same.
    for row in list(rows.values())[:2]:
        assert row[0] == f'{count_parameters(model) / 1e6:.2f}' and row[1] == f'{count_macs(model, (64, 96)) / 1e9:.2f}'
    assert rows['konohana'][-1] == '1.00'
    for _, _, milliseconds, per_second, ratio in rows.values():
        assert float(milliseconds) > 0 and float(per_second) > 0 and float(ratio) > 0


def test_weights_files_and_onnxruntime(capsys, weights_file):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    from konohana import inference
    from konohana.onnx import export

    model = inference.load(weights_file, 'cpu')
    export.export(model, weights_file.with_suffix('.onnx'), 'konohana', {}, torch.rand(3, 64, 96))
    # A path with a space in it.
    names = [str(weights_file), str(weights_file.with_suffix('.onnx'))]
    run(f'detector={", ".join(names)}', 'img_hw=(64, 96)', 'onnx=True')
    rows = rows_of(capsys.readouterr().out)
    torch_row, onnx_row, file_row = rows.values()
    assert list(rows) == [names[0], f'{names[0]}, onnxruntime', weights_file.with_suffix('.onnx').name]
    assert file_row[:2] == ['–', '–'] and onnx_row[:2] == torch_row[:2]


def test_table():
    rows = {'a': (2_280_000, 1_190_000_000), 'b': (None, None)}
    lines = speed.table(rows, {'a': [0.010, 0.020, 0.100], 'b': [0.020, 0.060, 0.100]}).splitlines()
    assert lines[2:] == ['| a | 2.28 | 1.19 | 20.0 | 50.0 | 1.00 |', '| b | – | – | 60.0 | 16.7 | 2.00 |']


@pytest.mark.parametrize(
    ('overrides', 'words'),
    [
        (['detector=no_such_network'], 'there is no such detector'),
        (['detector= , '], 'name at least one'),
        (['detector=konohana backbone=resnet18'], 'it has no variable backbone. Known: use_res2block'),
        (['detector=konohana use_res2block=True fast'], "'fast' is not of the form"),
        (['detector=missing.pt'], 'no such weights file'),
        (['n_runs=0'], 'n_runs'),
        (['device=nowhere'], 'nowhere'),
    ],
)
def test_wrong_settings(overrides, words):
    with pytest.raises(UserError, match=words) as caught:
        run(*overrides)
    assert '\n' not in str(caught.value)


def test_yolo_needs_ultralytics(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ultralytics', None)
    with pytest.raises(UserError, match='pip install ultralytics'):
        run('detector=yolo11n')


def test_yolo(capsys):
    pytest.importorskip('ultralytics')
    run('detector=yolo11n, yolo26n', 'img_hw=(60, 96)')
    assert list(rows_of(capsys.readouterr().out)) == ['yolo11n', 'yolo26n']


def test_steps_in_both_precisions_side_by_side(run_script, monkeypatch):
    monkeypatch.setattr(solov2, 'GRIDS', (16, 14, 12, 8, 6))  # coarser than the real ones, for the time
    script = 'benchmarks/training_speed.py'
    names = 'detector=konohana, solov2_light_r18'
    done = run_script(script, names, 'img_hw=(64, 96)', 'batch_size=2', 'n_runs=1', 'n_frames=4', 'num_workers=0')
    assert done.returncode == 0, done.stderr
    steps, prepared = done.stdout.split('Batches prepared')
    rows = rows_of(steps)
    assert list(rows) == [f'{name} amp={amp}' for name in ('konohana', 'solov2_light_r18') for amp in (False, True)]
    for name, (kind, *numbers) in rows.items():
        assert 'True' in name or (kind, numbers[-1]) == ('float32', '1.00')
        assert all(float(number) > 0 for number in numbers)
    rows = rows_of(prepared)
    assert list(rows) == ['no', 'ram', 'drawn for a GPU'] and rows['no'][1] == '1.00'
    assert all(float(number) > 0 for row in rows.values() for number in row)
    for wrong, said in (('detector=nothing', 'nothing'), ('detector=,', 'at least one'), ('n_runs=0', 'n_runs')):
        done = run_script(script, wrong)
        assert done.returncode == 2 and said in done.stderr and 'Traceback' not in done.stderr


def test_latency_of_each_runtime(weights_file, tmp_path, capsys):
    latency.main([f'weights={weights_file}', 'peer=', 'n_rounds=1', f'table_out={tmp_path / "t.md"}', 'progress=False'])
    text = (tmp_path / 't.md').read_text(encoding='utf-8')
    assert '1 rounds' in text and text.splitlines()[-1] in capsys.readouterr().out
    rows = [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('| ours')]
    assert rows[0][1] == 'torch' and rows[0][3] == '1.00' and all(float(row[2]) > 0 for row in rows)
    # Nothing is said of what was not measured.
    assert all(row[4:] == ['–'] * 4 for row in rows)


def test_latency_against_a_peer():
    times = {('ours', 'torch'): [0.02, 0.02], ('ours', 'openvino'): [0.01, 0.03], ('yolo', 'torch'): [0.04, 0.08]}
    lines = latency.table(times, {'torch': (0.48, 0.923)}).splitlines()[2:]
    assert lines == [
        '| ours | torch | 20.0 | 1.00 | 0.38 | 0.38 | 0.480 | 0.923 |',
        '| ours | openvino | 20.0 | 1.00 | – | 0.31 | – | – |',
        '| yolo | torch | 60.0 | 3.00 | 1.00 | 1.00 | – | – |',
    ]


def test_latency_of_a_dataset(weights_file, toy_dataset, monkeypatch, capsys):
    monkeypatch.setattr(latency, 'RUNTIMES', ('torch',))
    options = (
        f'konohana_dataset_path={toy_dataset}',
        f'weights={weights_file}',
        'peer=',
        'n_rounds=1',
        'progress=False',
    )
    latency.main(list(options))
    last = capsys.readouterr().out.splitlines()[-1].strip('| ').split(' | ')
    assert 0 <= float(last[6]) <= 1 and 0 <= float(last[7]) <= 1
