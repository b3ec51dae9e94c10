"""The picture of the network tells the truth; start_tb finds TensorBoard or says that it is missing."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from torch import nn

from konohana import files
from konohana.detectors.konohana import network
from konohana.detectors.konohana.detector import Konohana
from konohana.errors import UserError
from tools import draw_network

ROOT = Path(__file__).resolve().parent.parent
SVG = '{http://www.w3.org/2000/svg}'
posix = pytest.mark.skipif(os.name == 'nt', reason='start_tb.sh is for macOS and Linux')


def layers(svg):
    """{name of layer: its element}"""
    found = [g for g in ET.fromstring(svg).iter(f'{SVG}g') if 'layer' in g.get('class', '').split()]
    names = [g.get('id') for g in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def texts(element):
    return [t.text for t in element.iter(f'{SVG}text')]


def count_macs(model, img_hw):
    """Multiply-adds of the convolutions, counted in another way than the script's."""
    total = 0

    def add(conv, _inputs, output):
        nonlocal total
        total += output.numel() * conv.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(add)
    with torch.no_grad():
        model.eval().raw_outputs(torch.zeros(1, 3, *img_hw))
    return total


def test_the_picture_in_docs_is_of_this_network():
    picture = draw_network.draw(Konohana(14, (360, 640)), (360, 640))
    drawn = (ROOT / 'docs' / 'network.svg').read_text(encoding='utf-8')
    assert picture == drawn, 'run python tools/draw_network.py overwrite=True'


@pytest.mark.parametrize('use_res2block', [False, True])
def test_totals_and_every_layer(use_res2block):
    hw = (136, 200)
    model = Konohana(5, hw, use_res2block)
    svg = draw_network.draw(model, hw)
    # Other weights, the same picture.
    assert svg == draw_network.draw(Konohana(5, hw, use_res2block), hw)

    macs, parameters = count_macs(model, hw), sum(p.numel() for p in model.parameters())
    root = ET.fromstring(svg)
    assert root.find(f'{SVG}desc').text == (
        f'{parameters} parameters, {macs} multiply-adds for a frame of 200 x 136 pixels'
    )
    assert f'{parameters / 1e6:.2f} million' in texts(root) and f'{macs / 1e9:.2f} GMAC' in texts(root)
    assert '5 classes' in texts(root)

    drawn = layers(svg)
    assert sum('block' in g.get('class').split() for g in drawn.values()) == len(network.BLOCKS)
    hints = [re.findall(r'[\d,]+(?= (?:mul|par))', g.find(f'{SVG}title').text) for g in drawn.values()]
    sums = [sum(int(n.replace(',', '')) for n in column) for column in zip(*hints, strict=True)]
    # No layer is missing: together they are the network, but for the scale of the distances.
    assert sums == [macs, parameters - model.distance_scale.numel()]


def test_rows_say_what_the_table_says():
    hw = (136, 200)
    drawn = layers(draw_network.draw(Konohana(5, hw), hw))
    features = iter(network.Backbone().eval()(torch.zeros(1, 3, *hw)))
    before = network.STEM[-1][2]
    for i, (kernel, stride, expanded, channels, squeeze) in enumerate(network.BLOCKS):
        row = drawn[f'backbone.blocks.{i}']
        seen = texts(row)
        assert seen[:3] == [f'{kernel} × {kernel}', str(expanded), str(channels)]
        assert ('2' in seen) == (stride == 2) and ('SE' in seen) == squeeze
        assert (row.find(f'{SVG}circle') is not None) == (stride == 1 and channels == before)
        before = channels
        if i in network.FEATURES:
            _, c, h, w = next(features).shape
            assert seen[-1] == f'{h} × {w} × {c}'
    for i, (_, _, channels) in enumerate(network.STEM):
        assert texts(drawn[f'backbone.stem.{i}'])[1] == str(channels)


def test_the_picture_follows_the_tables(monkeypatch):
    monkeypatch.setattr(network, 'FEATURES', (0, 2))
    blocks = ((7, 2, 32, 16, True), (3, 2, 48, 24, False), (3, 1, 64, 28, False))
    monkeypatch.setattr(network, 'BLOCKS', blocks)
    monkeypatch.setattr(network, 'TOWER_DEPTH', 3)
    svg = draw_network.draw(Konohana(1, (64, 64)), (64, 64))
    drawn = layers(svg)
    assert [name for name in drawn if 'blocks' in name] == [f'backbone.blocks.{i}' for i in range(3)]
    assert texts(drawn['backbone.blocks.0']) == ['7 × 7', '32', '16', '2', 'SE', '8 × 8 × 16']
    assert 'name_tower.2' in drawn and 'neck.smooths.1' in drawn and 'neck.smooths.2' not in drawn
    assert 'Stride 16' in texts(ET.fromstring(svg)) and 'Stride 32' not in texts(ET.fromstring(svg))


def test_sizes_that_the_strides_do_not_divide():
    ET.fromstring(draw_network.draw(Konohana(2, (1, 37)), (1, 37)))


def test_runs_from_any_folder(run_script, tmp_path):
    folder = tmp_path / '图 1'
    target = folder / '网络 & 图.svg'
    done = run_script('tools/draw_network.py', f'svg_out={target}', 'n_classes=3', 'img_hw=(64, 96)')
    assert done.returncode == 0, done.stderr
    assert '3 classes' in texts(ET.parse(target).getroot())
    assert [path.name for path in folder.iterdir() if path.name != files.LIST_NAME] == [target.name]


@pytest.mark.parametrize(
    ('argument', 'said'),
    [
        ('svg_out=train.py', r'\.svg'),
        ('n_classes=0', 'n_classes=0'),
        ('img_hw=(0, 640)', 'img_hw'),
        ('img_hw=(360.5, 640)', 'img_hw'),
        ('svg_uot=a.svg', 'svg_out'),
    ],
)
def test_wrong_variables(argument, said):
    with pytest.raises(UserError, match=said):
        draw_network.main([argument])


def test_a_target_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('kept', encoding='utf-8')
    (tmp_path / 'folder.svg').mkdir()
    monkeypatch.setattr(draw_network, 'draw', lambda *_: '<svg/>')
    for target in ('file/a.svg', 'folder.svg'):
        with pytest.raises(UserError, match=r'cannot be written|this program did not write it'):
            draw_network.main([f'svg_out={tmp_path / target}'])
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'folder.svg']


def program(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('#!/bin/sh\n' + lines + '\n', encoding='utf-8')
    path.chmod(0o755)


def start_tb(folder, tmp_path, *arguments):
    """Run a copy of start_tb.sh in `folder` from elsewhere, with the python3 of tmp_path/bin first on PATH."""
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / 'start_tb.sh', folder)
    return subprocess.run(
        ['sh', str(folder / 'start_tb.sh'), *arguments],
        cwd=tmp_path,
        env={**os.environ, 'PATH': f'{tmp_path / "bin"}{os.pathsep}{os.environ["PATH"]}'},
        capture_output=True,
        text=True,
        encoding='utf-8',
    )


@posix
def test_start_tb_starts_tensorboard(tmp_path):
    pytest.importorskip('tensorboard')
    program(tmp_path / 'bin' / 'python3', f'exec "{sys.executable}" "$@"')
    done = start_tb(tmp_path / 'my 项目', tmp_path, '--version')
    assert done.returncode == 0, done.stderr
    assert re.search(r'^\d+\.\d+', done.stdout, re.M)


@posix
def test_start_tb_takes_the_projects_python_and_passes_arguments_on(tmp_path):
    folder = tmp_path / 'my 项目'
    program(tmp_path / 'bin' / 'python3', 'exit 1')
    program(folder / '.venv' / 'bin' / 'python', 'if [ "$1" = -m ]; then pwd; printf "%s\\n" "$@"; fi')
    done = start_tb(folder, tmp_path, '--window_title', 'two words')
    assert (done.returncode, done.stderr) == (0, '')
    where, *arguments = done.stdout.splitlines()
    assert Path(where).resolve() == folder.resolve()
    assert arguments == ['-m', 'tensorboard.main', '--logdir', 'logs', '--window_title', 'two words']


@posix
def test_start_tb_without_tensorboard(tmp_path):
    program(tmp_path / 'bin' / 'python3', 'echo "ModuleNotFoundError: tensorboard" >&2; exit 1')
    done = start_tb(tmp_path / 'project', tmp_path)
    assert done.returncode == 2 and done.stdout == ''
    assert len(done.stderr.splitlines()) == 1 and 'pip install tensorboard' in done.stderr


@posix
def test_start_tb_is_executable():
    assert os.access(ROOT / 'start_tb.sh', os.X_OK)


def test_line_endings_that_the_shells_need():
    windows = (ROOT / 'start_tb.cmd').read_bytes()
    assert windows.count(b'\r\n') == windows.count(b'\n') > 0
    if os.name != 'nt':
        assert b'\r' not in (ROOT / 'start_tb.sh').read_bytes()
