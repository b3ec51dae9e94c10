"""What the tests share: a small toy show, a weights file, running a script as a user does, data beside the project."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import progressbar.utils  # noqa: F401 (it keeps the sys.stderr that it first sees: not one that a test captures)
import pytest
import torch

from konohana import checkpoint, detectors
from konohana.cast import CLASS_NAMES
from konohana.toy import writer

PROJECT = Path(__file__).resolve().parent.parent
TOY_HW = (90, 160)
IMG_HW = (64, 96)

torch.set_num_threads(1)  # the networks here are tiny: more threads would only wait for one another


@pytest.fixture(scope='session')
def toy_dataset(tmp_path_factory):
    """Folder of a toy show of 8 frames to train and 4 to validate on. Shared: copy it before changing it."""
    folder = tmp_path_factory.mktemp('toy') / 'a show 花'
    writer.write_voc(folder, n_train=8, n_val=4, hw=TOY_HW)
    return folder


@functools.cache
def untrained_state():
    """State dict of an untrained flagship that finds something all the same. Shared: not to be changed."""
    torch.manual_seed(0)
    model = detectors.build('konohana', len(CLASS_NAMES), IMG_HW)
    with torch.no_grad():
        # As after training: confidence is not everywhere 1 %, cells differ, batch norms have something to fold.
        model.find_layer.bias[0] = 2.0
        model.find_layer.weight *= 20
        model.name_layer.weight *= 50
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight += 0.1 * torch.randn_like(module.weight)
                module.bias += 0.1 * torch.randn_like(module.bias)
                module.running_mean += 0.1 * torch.randn_like(module.running_mean)
                module.running_var += 0.1 * torch.rand_like(module.running_var)
    return model.state_dict()


def make_weights(path, **changes):
    """Write a weights file for `IMG_HW` and the whole cast, with `changes` to its keys; returns its content."""
    content = {
        'model': untrained_state(),
        'detector': 'konohana',
        'options': {'use_res2block': False},
        'class_names': list(CLASS_NAMES),
        'img_hw': list(IMG_HW),
        'epoch': 3,
        'figures': {},
        **changes,
    }
    checkpoint.save(content, path)
    return content


@pytest.fixture
def weights_file(tmp_path):
    """A weights file of an untrained flagship for `IMG_HW` and the whole cast, with which there are detections."""
    path = tmp_path / 'weights 花.pt'
    make_weights(path)
    return path


@pytest.fixture
def run_script(tmp_path):
    """Function (name, *overrides) -> CompletedProcess with text output.

    The script runs as a user runs it, but from a folder that is not the project's, on the CPU, without progress bars.
    """

    def run(name, *overrides):
        source = (PROJECT / name).read_text(encoding='utf-8')
        quiet = [
            f'{key}={value}' for key, value in (('progress', 'False'), ('device', 'cpu')) if f'\n{key} = ' in source
        ]
        elsewhere = tmp_path / 'somewhere else'
        elsewhere.mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, str(PROJECT / name), *quiet, *map(str, overrides)],
            cwd=elsewhere,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONIOENCODING': 'utf-8'},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding='utf-8',
            timeout=300,
        )

    return run


@pytest.fixture(scope='session')
def shared_data():
    """Function (name) -> the folder of data that lies beside the project, on the developers' machine alone."""

    def find(name):
        folder = PROJECT.parent / 'shared' / name
        if not folder.exists():
            pytest.skip(f'needs ../shared/{name}, data for development that is not part of the project')
        return folder

    return find
