"""What the tests share: a small toy show, a weights file, running a script as a user does, data beside the project."""

import contextlib
import functools
import importlib.util
import inspect
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
import uuid
import zlib
from pathlib import Path

import numpy as np
import progressbar.utils  # noqa: F401 (it keeps the sys.stderr that it first sees: not one that a test captures)
import pytest
import torch

from konohana import checkpoint, detectors, settings
from konohana.cast import CLASS_NAMES
from konohana.toy import writer

PROJECT = Path(__file__).resolve().parent.parent
TOY_HW = (90, 160)
IMG_HW = (64, 96)
CHROMIUM = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
HANDLED = [getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP') if hasattr(signal, name)]

for number in HANDLED[1:]:
    if signal.getsignal(number) is signal.SIG_IGN:  # under nohup, where no test could send it
        signal.signal(number, signal.SIG_DFL)

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


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch):
    """Tests compute detectors by torch: other runtimes take seconds for each new weights file. See test_backends."""
    monkeypatch.setenv('KONOHANA_BACKEND', 'torch')


@pytest.fixture
def weights_file(tmp_path):
    """A weights file of an untrained flagship for `IMG_HW` and the whole cast, with which there are detections."""
    path = tmp_path / 'weights 花.pt'
    make_weights(path)
    return path


def arguments_of(name, overrides):
    """What a test gives to a script: on the CPU and without progress bars, unless `overrides` say otherwise."""
    source = (PROJECT / name).read_text(encoding='utf-8')
    quiet = [f'{key}={value}' for key, value in (('progress', 'False'), ('device', 'cpu')) if f'\n{key} = ' in source]
    return [*quiet, *map(str, overrides)]


def load_script(name):
    """A script as a new module, so that no test sees what another has changed in it."""
    spec = importlib.util.spec_from_file_location(f'script_{uuid.uuid4().hex}', PROJECT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def state_kept():
    """What a script may change in its process is as before afterwards: the next test runs in the same one."""
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    before = os.getcwd(), list(sys.path), dict(os.environ), sys.argv, sys.stdin, torch.get_num_threads()  # noqa: PTH109
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        folder, sys.path[:], environment, sys.argv, sys.stdin, n_threads = before
        os.chdir(folder)
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)
        torch.set_num_threads(n_threads)
        random.setstate(state)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run_in_process(name, arguments, folder):
    """Run a script's main in this process, as `python <name> <arguments>` would in `folder` -> CompletedProcess."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding='utf-8', write_through=True) for _ in range(2))
    status = 0
    with state_kept(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        os.chdir(folder)
        sys.argv = [str(PROJECT / name), *arguments]
        sys.stdin = io.StringIO()
        try:
            main = load_script(name).main
            settings.run(main, arguments if inspect.signature(main).parameters else None)
        except SystemExit as ended:
            status = ended.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
    texts = (stream.buffer.getvalue().decode() for stream in (out, err))
    return subprocess.CompletedProcess([name, *arguments], status, *texts)


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that is not the project's: the scripts run from anywhere."""
    folder = tmp_path / 'somewhere else'
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def run_script(elsewhere):
    """Function (name, *overrides) -> CompletedProcess with text output. The script runs in the test's own process."""
    return lambda name, *overrides: run_in_process(name, arguments_of(name, overrides), elsewhere)


@pytest.fixture
def start_script(elsewhere):
    """Function (name, *overrides, **changes of Popen) -> Popen with text output: a process as a user starts it.

    It takes seconds to import torch, so this is for what needs a process: killing it, Ctrl-C, one test of each script.
    """

    def start(name, *overrides, **changes):
        options = {
            'cwd': elsewhere,
            'env': {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONIOENCODING': 'utf-8'},
            'stdin': subprocess.DEVNULL,
            'stdout': subprocess.PIPE,
            'stderr': subprocess.PIPE,
            'encoding': 'utf-8',
        }
        command = [sys.executable, str(PROJECT / name), *arguments_of(name, overrides)]
        return subprocess.Popen(command, **{**options, **changes})

    return start


@pytest.fixture
def run_process(start_script):
    """Function (name, *overrides, **changes of Popen) -> CompletedProcess: `start_script`, waited for."""

    def run(name, *overrides, **changes):
        with start_script(name, *overrides, **changes) as process:
            out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture(scope='module')
def browser():
    """A real Chromium without a window, of Playwright; without one its tests are skipped."""
    api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if not path:
        pytest.skip('no Chromium on this machine (Debian and Ubuntu: apt install chromium)')
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield chromium
        chromium.close()


@pytest.fixture(scope='session')
def shared_data():
    """Function (name) -> the folder of data that lies beside the project, on the developers' machine alone."""

    def find(name):
        folder = PROJECT.parent / 'shared' / name
        if not folder.exists():
            pytest.skip(f'needs ../shared/{name}, data for development that is not part of the project')
        return folder

    return find


def weight_by_rule(key, shape):
    """A weight of the networks whose numbers lie in ../shared/reference, by its name."""
    if key.endswith('num_batches_tracked'):
        return torch.tensor(0)
    values = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if len(shape) > 1:
        values = values * np.sqrt(1 / np.prod(shape[1:]))
    elif key.endswith('running_var'):
        values = 1 + 0.1 * np.abs(values)
    elif key.endswith('bn3.weight'):
        values = 0.3 + 0.03 * values
    elif key.endswith(('.bias', 'running_mean')):
        values = 0.1 * values
    else:
        values = 1 + 0.1 * values
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def check_contract(network, n_classes):
    """Assert that an untrained detector's detections are as `detectors.base.Detector` says, of pictures of any size."""
    network.eval()
    network.score_threshold = 0.0
    sizes = [(96, 160), (200, 60), (1, 1), (33, 500)]
    with torch.inference_mode():
        found = network([torch.rand(3, *size) for size in sizes])
    for (height, width), one in zip(sizes, found, strict=True):
        n = len(one['boxes'])
        assert 0 < n <= network.max_detections
        assert one['boxes'].shape == (n, 4) and one['labels'].shape == one['scores'].shape == (n,)
        assert one['labels'].dtype == torch.int64 and one['labels'].min() >= 1 and one['labels'].max() <= n_classes
        assert (one['scores'].diff() <= 0).all() and one['scores'].min() >= 0 and one['scores'].max() <= 1
        assert (one['boxes'] >= 0).all()
        assert (one['boxes'][:, [0, 2]] <= width + 1e-3).all() and (one['boxes'][:, [1, 3]] <= height + 1e-3).all()
