"""Several processes train as one does: the same losses and weights, files and words of the first alone, one stop."""

import itertools
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import distributed_worker
import pytest
import torch

from konohana import checkpoint, detectors, distributed
from konohana.data.augment import training_transform
from konohana.data.sampler import EpochBatches, upright
from konohana.data.step import boxes_of
from konohana.errors import UserError
from konohana.toy import writer

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONIOENCODING': 'utf-8'}


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """Twelve toy frames to train on, two to evaluate on, small."""
    folder = tmp_path_factory.mktemp('data') / 'a show 花'
    writer.write_voc(folder, n_train=12, n_val=2, hw=(90, 160))
    return folder


def run_as_ranks(n, function, *arguments):
    """Call a function in `n` processes that are told what torchrun would tell them, without its seconds of imports."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context('fork' if 'fork' in multiprocessing.get_all_start_methods() else 'spawn')
    told = {'WORLD_SIZE': str(n), 'LOCAL_WORLD_SIZE': str(n), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    processes = [context.Process(target=as_rank, args=(rank, told, function, arguments)) for rank in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * n


def as_rank(rank, told, function, arguments):
    os.environ.update(told, RANK=str(rank), LOCAL_RANK=str(rank))
    function(*arguments)
    torch.distributed.destroy_process_group()


def test_two_processes_learn_what_one_does(dataset, tmp_path):
    result = tmp_path / 'two' / 'result.pt'
    result.parent.mkdir()
    run_as_ranks(2, distributed_worker.main, dataset, result)
    two, one = torch.load(result, weights_only=True), distributed_worker.train(dataset, tmp_path / 'one')
    for name in ('flagship', 'mean'):
        (losses, weights), (expected_losses, expected_weights) = two[name], one[name]
        assert [entry[:2] for entry in losses] == [entry[:2] for entry in expected_losses]
        values, expected = (torch.tensor([entry[2] for entry in part]) for part in (losses, expected_losses))
        torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(weights, expected_weights, rtol=1e-4, atol=1e-6)
        assert (tmp_path / 'two' / name / 'iter.txt').read_text() == '3\n'


def train_command(dataset, run, *overrides):
    settings = ('img_hw=64,96', 'batch_size=5', 'num_workers=0', 'progress=False', 'device=cpu', 'eval_every=1000')
    paths = (f'konohana_dataset_path={dataset}', f'checkpoint_path={run}', f'log_path={run / "logs"}')
    return [str(ROOT / '_train.py'), *paths, *settings, *overrides]


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGINT for a single child process')
def test_one_ctrl_c_stops_all_and_a_single_process_goes_on(run_script, dataset, tmp_path):
    """torchrun passes Ctrl-C on to all; they stop at the same batch, and the position counts whole batches."""
    process = subprocess.Popen(
        [*TORCHRUN, *train_command(dataset, tmp_path, 'n_epoch=500', 'save_minutes=0.0')],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding='utf-8',
        env=ENV,
    )
    end = time.monotonic() + 240
    while not (tmp_path / 'iter.txt').is_file() and time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert out.count('Stopped at iteration') == 1 and out.count('frames to train on') == 1, out + err
    state = checkpoint.load(tmp_path / 'optim.pt', needed=('iteration', 'epoch', 'batches_done'))
    assert f'Stopped at iteration {state["iteration"]} ' in out
    assert state['iteration'] == 3 * state['epoch'] + state['batches_done']
    assert len(list((tmp_path / 'logs' / 'net').glob('events*'))) == 1

    n_epoch = state['epoch'] + 1
    done = run_script('_train.py', *train_command(dataset, tmp_path, f'n_epoch={n_epoch}', 'val_split=')[1:])
    assert done.returncode == 0, done.stderr
    assert f'Resuming at epoch {n_epoch}, iteration {state["iteration"]}.' in done.stdout
    assert (tmp_path / 'iter.txt').read_text().strip() == str(3 * n_epoch)


def pretend(monkeypatch, rank, world_size):
    monkeypatch.setattr(distributed, 'rank', lambda: rank)
    monkeypatch.setattr(distributed, 'world_size', lambda: world_size)


def test_shares_make_up_the_batches_of_one_process(monkeypatch):
    whole = [sorted(batch) for batch in EpochBatches(22, 5, seed=1)]
    shares = []
    for rank in range(2):
        pretend(monkeypatch, rank, 2)
        shares.append(list(EpochBatches(22, 5, seed=1)))
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == whole
    assert all(len(a) - len(b) in (0, 1) and b for a, b in zip(*shares, strict=True))
    # With three, the two frames left over are too few: they join the batch before, and nobody is left out.
    pretend(monkeypatch, 2, 3)
    batches = EpochBatches(22, 5, seed=1).batches()
    assert [len(batch) for batch in batches] == [5, 5, 5, 7]
    assert sorted(itertools.chain(*batches)) == list(range(22))
    for n, batch_size in ((22, 2), (2, 5)):
        with pytest.raises(UserError, match=f'batch_size={batch_size}.*3 processes'):
            EpochBatches(n, batch_size)


def test_batches_grouped_by_aspect_hold_one_kind_and_resume():
    groups = [i % 3 == 0 for i in range(31)]  # 11 upright pictures, 20 others
    batches = EpochBatches(31, 4, seed=5, groups=groups)
    first = list(batches)
    assert sorted(key[1] for batch in first for key in batch) == list(range(31))
    assert all(len({groups[key[1]] for key in batch}) == 1 for batch in first)
    kinds = [groups[batch[0][1]] for batch in first]
    assert kinds != sorted(kinds), 'the kinds take turns'
    batches.skip = 3
    assert list(batches) == first[3:] and len(batches) == len(first) - 3
    batches.epoch, batches.skip = 1, 0
    assert [key[1] for batch in batches for key in batch] != [key[1] for batch in first for key in batch]
    # A single upright picture is no batch of its own; nor is it lost.
    lone = EpochBatches(9, 4, groups=[True] + [False] * 8).batches()
    assert sorted(len(batch) for batch in lone) == [4, 5] and sorted(itertools.chain(*lone)) == list(range(9))
    assert EpochBatches(1, 4, groups=[True]).batches() == [[0]]


def test_a_picture_higher_than_wide_is_upright():
    from types import SimpleNamespace

    sizes = ((480, 640), (640, 480), (500, 500))
    assert upright([SimpleNamespace(height=h, width=w) for h, w in sizes]) == [False, True, False]


def test_upright_pictures_fill_an_upright_window():
    box = boxes_of(torch.tensor([[30.0, 60.0, 60.0, 120.0]]), (240, 180))
    target = {'boxes': box, 'labels': torch.tensor([1]), 'ignored': boxes_of(box[:0], (240, 180))}
    image = torch.zeros(3, 240, 180, dtype=torch.uint8)
    for turn, size, expected in ((True, (80, 60), (10, 20, 20, 40)), (False, (60, 80), (25, 15, 32.5, 30))):
        transform = training_transform((60, 80), flip=0, scale=None, shift=False, colour=0, turn=turn)
        found, changed = transform(image, target)
        assert tuple(found.shape[-2:]) == size
        # 180 x 240 fits an upright window whole, and takes 45 of the 80 columns of one that lies.
        torch.testing.assert_close(changed['boxes'][0].tolist(), list(map(float, expected)), atol=0.6, rtol=0)


def test_no_process_waits_for_the_second_look_of_one_without_people():
    model = detectors.build('konohana', 3, (64, 96), second_look=True)
    before = list(model.state_dict())
    distributed.synchronise_norms(model)
    norms = {name: type(module) for name, module in model.named_modules() if 'BatchNorm' in type(module).__name__}
    synchronised = {name for name, kind in norms.items() if kind is torch.nn.SyncBatchNorm}
    assert synchronised == {name for name in norms if not name.startswith('second_look.')} != set(norms)
    assert list(model.state_dict()) == before and all(p.requires_grad for p in model.parameters())


def test_alone_everything_is_as_it_was():
    model, total = torch.nn.Linear(2, 1), torch.tensor(0.25, requires_grad=True)
    assert distributed.wrap(model) is model and distributed.rank() == 0 and distributed.share([1, 2]) == [1, 2]
    assert distributed.normaliser(total, 3) == 1.0 and not distributed.normaliser(total, 3).requires_grad
    assert distributed.normaliser(total + 4, 3) == 4.25 and distributed.weight(3, torch.device('cpu')) == 1.0
    assert distributed.means({'a': total}) == {'a': 0.25} and distributed.zero_of(model) == 0.0
    assert distributed.start(torch.device('cpu')) == torch.device('cpu')


def test_devices_that_cannot_do_it_are_named(monkeypatch):
    for key, value in (('RANK', '0'), ('WORLD_SIZE', '4'), ('LOCAL_RANK', '0'), ('LOCAL_WORLD_SIZE', '4')):
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match='mps'):
        distributed.start(torch.device('mps'))
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    with pytest.raises(UserError, match='nproc_per_node=4: this machine has 2'):
        distributed.start(torch.device('cuda'))
