"""tools/compare.py: variants are trained as a user would, once, and end as a table and a chart."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from konohana import checkpoint, detectors
from konohana.cast import CLASS_NAMES
from konohana.detectors.base import Detector
from konohana.errors import UserError
from konohana.evaluation import cost
from konohana.training.run import Run
from konohana.training.schedule import Ema, make_optimizer
from tools import compare as tool

QUICK = "common={'img_hw': (64, 96), 'batch_size': 4, 'num_workers': 0, 'eval_every': 1000, 'skip_bad_files': True}"


@pytest.fixture
def compare(monkeypatch, toy_dataset, tmp_path):
    """Function (*overrides): runs the tool as the command line would. `.module` is the tool, `.out` its folder."""
    # The trainings are processes of their own.
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    out = tmp_path / 'a comparison 花'

    def run(*overrides):
        quiet = ('device=cpu', 'progress=False', 'n_runs=2', QUICK, 'max_minutes=0', 'n_epoch=1')
        paths = (f'konohana_dataset_path={toy_dataset}', f'compare_out={out}')
        tool.main([*paths, *quiet, *overrides])

    run.module, run.out = tool, out
    return run


@pytest.fixture
def trained(compare, monkeypatch):
    """The list of variants trained so far; training is only pretended, in no time, and 'broken' ones fail."""
    names = []

    def train(name, settings):
        names.append(name)
        if 'broken' in name:
            raise UserError(f'variant {name!r}: it broke.')
        options = detectors.options_of('konohana', vars(settings))
        model = detectors.build('konohana', len(CLASS_NAMES), settings.img_hw, **options)
        optimizer = make_optimizer(model, 1e-3, 0.05)
        scaler = torch.amp.GradScaler('cpu', enabled=False)
        description = {'detector': 'konohana', 'options': options}
        description |= {'class_names': list(CLASS_NAMES), 'img_hw': list(settings.img_hw)}
        folder = Path(settings.log_path) / settings.run_name
        order, res2 = {'seed': settings.seed}, settings.use_res2block
        state = Run(folder, model, Ema(model), optimizer, scaler, description, order, res2)
        state.epoch, state.iteration, state.minutes = settings.n_epoch, 7, 0.5
        state.metrics = {'AP': 0.25 * len(names), 'AP50': float('nan')}
        state.save()

    monkeypatch.setattr(compare.module, 'train', train)
    return names


TWO = "variants={'plain 花': {}, 'Res2': {'use_res2block': True}}"


def test_variants_are_trained_once_and_compared(compare, trained, capsys):
    compare(TWO)
    assert trained == ['plain 花', 'Res2']
    table = (compare.out / 'table.md').read_text(encoding='utf-8')
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines() if line[:1] == '|']
    assert rows[0] == ['variant', 'AP', 'AP50', 'M parameters', 'GMAC', 'ms a picture', 'epochs', 'minutes']
    assert [row[:3] for row in rows[2:]] == [['plain 花', '0.250', '–'], ['Res2', '0.500', '–']]
    plain = detectors.build('konohana', len(CLASS_NAMES), (64, 96), second_look=True)
    # As _train.py built it: before batch norms are folded into convolutions.
    assert rows[2][3] == f'{cost.count_parameters(plain) / 1e6:.2f}' and float(rows[2][4]) > 0
    assert all(float(row[5]) > 0 for row in rows[2:]) and rows[2][6:] == ['1.0', '0.5']
    assert table in capsys.readouterr().out
    chart = Image.open(io.BytesIO((compare.out / 'chart.png').read_bytes()))
    assert chart.size[0] > 800 and len(chart.convert('RGB').getcolors(1 << 20)) > 50

    # What is done is not done again; what is new is added to it.
    compare("variants={'Res2': {'use_res2block': True}, 'another': {'lr': 0.01}, 'plain 花': {}}")
    assert trained == ['plain 花', 'Res2', 'another']
    assert (compare.out / 'table.md').read_text(encoding='utf-8').count('\n| ') == 1 + 3
    with pytest.raises(UserError, match=r'Res2.*use_res2block=True then and False now.*its own name'):
        compare("variants={'Res2': {}}")


def test_a_dollar_in_a_variants_name_is_no_formula(compare):
    row = {'AP': 0.5, 'AP50': 0.7, 'M parameters': 1.0, 'GMAC': 2.0, 'ms a picture': 3.0}
    chart, plain = (compare.module.chart({name: row, 'b': row}) for name in ('lr $x_{$', 'lr'))
    assert chart.startswith(b'\x89PNG') and chart != plain


def test_one_that_fails_does_not_hold_up_the_others(compare, trained, capsys):
    with pytest.raises(UserError, match='Not trained: broken'):
        compare("variants={'broken': {}, 'whole': {}}")
    assert trained == ['broken', 'whole'] and 'it broke' in capsys.readouterr().out
    table = (compare.out / 'table.md').read_text(encoding='utf-8')
    assert '| broken | failed |' in table and '| whole | 0.500 |' in table


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (("variants={'a': {'lr': 0.01}, 'b': {'lrr': 1}}",), r"variant 'b': unknown variable 'lrr'. Did you mean lr"),
        (("variants={'a': {'lr': 'high'}}",), r"variant 'a': lr=high"),
        (("variants={'a/b': {}}",), 'name of a folder'),
        (("variants={'a': 3}",), 'takes a dictionary'),
        (("variants={'a': {'val_split': ''}}",), 'nothing to compare by'),
        (('variants={}',), 'name at least one'),
        (("variants={'a': {'detector': 'nonsense'}}",), "variant 'a': .*nonsense"),
        (('max_minutes=-1',), 'max_minutes'),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(compare, trained, overrides, message):
    with pytest.raises(UserError, match=message):
        compare(*overrides)
    assert not trained


def test_a_real_training_of_some_seconds(compare, toy_dataset):
    """A budget in minutes: the run stops when it is used up, is judged, and is not trained again."""
    compare("variants={'flagship': {}}", 'max_minutes=0.03', 'n_epoch=1')
    folder = compare.out / 'flagship'
    state = checkpoint.load(folder / 'optim.pt', needed=('minutes', 'iteration', 'figures'))
    assert state['minutes'] >= 0.03 and state['iteration'] >= 1 and 'AP' in state['figures']
    assert '0.03 minutes each' in (compare.out / 'table.md').read_text(encoding='utf-8')
    before = (folder / 'optim.pt').stat().st_mtime_ns
    compare("variants={'flagship': {}}", 'max_minutes=0.03', 'n_epoch=1')
    assert (folder / 'optim.pt').stat().st_mtime_ns == before


@pytest.mark.skipif(os.name == 'nt', reason='no signals to a single child process there')
def test_stopped_training_stops_the_comparison(compare, monkeypatch):
    """_train.py answers Ctrl-C by saving and ending well: the next variant must not be begun then."""
    begun = []

    class Stopped(subprocess.Popen):
        def __init__(self, command, **options):
            begun.append(command)
            super().__init__([sys.executable, '-c', 'pass'], **options)

    monkeypatch.setattr(compare.module.subprocess, 'Popen', Stopped)
    with pytest.raises(KeyboardInterrupt):
        compare(TWO)
    assert len(begun) == 1 and 'run_name=plain 花' in begun[0]


def test_macs_are_those_of_the_convolutions():
    """3 -> 8 channels, 3 x 3, on 10 x 12: by hand."""

    class Convolution(torch.nn.Conv2d, Detector):
        def forward(self, images):
            return super().forward(images[0][None])

    model = Convolution(3, 8, 3, padding=1).train()
    assert cost.count_macs(model, (10, 12)) == 3 * 8 * 9 * 10 * 12 and model.training
    flagship = detectors.build('konohana', 2, (64, 96))
    assert cost.count_macs(flagship, (64, 96)) == cost.count_macs(flagship, (64, 96)) > 1e6


def test_timed_models_take_turns():
    calls = []
    models = {name: lambda images, name=name: calls.append(name) for name in 'ab'}
    times = cost.time_models(models, torch.zeros(3, 4, 4), 2)
    assert calls == list('ab') * (2 + cost.WARM_UP) and all(len(t) == 2 and min(t) >= 0 for t in times.values())
