"""Training as a user runs it: it learns, it resumes after any interruption, it stops with one clear line."""

import math
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from konohana import checkpoint, detectors
from konohana.data import voc
from konohana.data.augment import training_transform
from konohana.data.dataset import Frames, collate
from konohana.data.reading import class_names_of
from konohana.data.sampler import EpochBatches
from konohana.evaluation.predict import predict_dataset
from konohana.evaluation.summary import evaluate
from konohana.interrupts import StopRequest
from konohana.toy import writer
from konohana.training.engine import train_one_epoch, train_step
from konohana.training.memory import cap_gpu_memory, out_of_memory_explained
from konohana.training.run import Run, is_finished
from konohana.training.schedule import Ema, learning_rate, make_optimizer


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """Twelve toy frames to learn, four to judge by, small."""
    folder = tmp_path_factory.mktemp('data') / 'show'
    writer.write_voc(folder, n_train=12, n_val=4, hw=(90, 160))
    return folder


def command(dataset, run, *overrides):
    places = (f'konohana_dataset_path={dataset}', f'checkpoint_path={run}', f'log_path={run / "logs"}')
    return '_train.py', *places, 'img_hw=64,96', 'batch_size=4', 'num_workers=0', *overrides


@pytest.fixture
def train(run_script):
    """Function (dataset, folder of the run, *overrides) -> CompletedProcess of _train.py."""
    return lambda *given: run_script(*command(*given))


def same_weights(a, b):
    a, b = (checkpoint.load(path)['model'] for path in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_learns_writes_its_files_and_finishes(train, dataset, tmp_path):
    done = train(dataset, tmp_path, 'n_epoch=2', 'eval_every=1')
    assert done.returncode == 0, done.stderr
    assert 'Epoch 2/2' in done.stdout and 'val AP' in done.stdout
    assert 'n_epoch=2 makes only 6 steps of so few frames; n_epoch=667 makes 2000.' in done.stdout
    for name in ('net.pt', 'optim.pt', 'iter.txt', 'net_best.pt'):
        assert (tmp_path / name).is_file()
    assert (tmp_path / 'iter.txt').read_text().strip() == '6'
    content = checkpoint.load(tmp_path / 'net.pt')
    assert content['detector'] == 'konohana' and content['img_hw'] == [64, 96] and content['epoch'] == 2
    assert content['class_names'] == sorted(content['class_names']) and 'AP50' in content['figures']
    assert list((tmp_path / 'logs' / 'net').glob('events*'))
    assert not list(tmp_path.glob('*.tmp'))
    again = train(dataset, tmp_path, 'n_epoch=2')
    assert again.returncode == 0 and 'Raise n_epoch' in again.stdout and 'so few' not in again.stdout


def wait_for(path, text, process, seconds=120):
    """Wait until the file at `path` holds a number of at least `text`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        if path.is_file() and (path.read_text().strip() or '0') >= text:
            return
        time.sleep(0.02)
    raise AssertionError(f'{path} did not reach {text}')


def test_killed_anywhere_it_continues_the_same_curve(train, start_script, dataset, tmp_path):
    straight, killed = tmp_path / 'straight', tmp_path / 'killed'
    # Saving after every batch, so that the kill falls in the middle of an epoch.
    overrides = ('n_epoch=3', 'eval_every=9', 'save_minutes=0.0')
    assert train(dataset, straight, *overrides).returncode == 0
    process = start_script(*command(dataset, killed, *overrides))
    wait_for(killed / 'iter.txt', '4', process)
    process.kill()
    process.communicate()
    assert int((killed / 'iter.txt').read_text()) < 9
    done = train(dataset, killed, *overrides)
    assert done.returncode == 0 and 'Resuming at epoch' in done.stdout, done.stdout + done.stderr
    assert (killed / 'iter.txt').read_text() == (straight / 'iter.txt').read_text()
    assert same_weights(straight / 'net.pt', killed / 'net.pt')


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGINT for a single child process')
def test_ctrl_c_saves_and_says_so(start_script, dataset, tmp_path):
    process = start_script(*command(dataset, tmp_path, 'n_epoch=500', 'eval_every=1000', 'num_workers=1'))
    wait_for(tmp_path / 'iter.txt', '3', process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and 'Stopped at iteration' in out and 'Traceback' not in err
    saved = checkpoint.load(tmp_path / 'optim.pt', needed=('iteration',))['iteration']
    assert f'Stopped at iteration {saved} ' in out


def test_deleting_the_files_starts_afresh(train, dataset, tmp_path):
    assert train(dataset, tmp_path, 'n_epoch=1').returncode == 0
    for name in ('net.pt', 'optim.pt', 'iter.txt'):
        (tmp_path / name).unlink()
    done = train(dataset, tmp_path, 'n_epoch=1')
    assert done.returncode == 0 and 'Resuming' not in done.stdout and 'Epoch 1/1' in done.stdout


def test_net_without_optim_is_not_overwritten(train, dataset, tmp_path):
    assert train(dataset, tmp_path, 'n_epoch=1').returncode == 0
    (tmp_path / 'optim.pt').unlink()
    before = (tmp_path / 'net.pt').read_bytes()
    done = train(dataset, tmp_path, 'n_epoch=2')
    assert done.returncode == 2 and 'optim.pt' in done.stderr and 'init_from' in done.stderr
    assert (tmp_path / 'net.pt').read_bytes() == before


def test_res2_has_files_of_its_own_and_starts_from_plain_weights(train, dataset, tmp_path):
    assert train(dataset, tmp_path, 'n_epoch=1').returncode == 0
    done = train(dataset, tmp_path, 'n_epoch=1', 'use_res2block=True', f'init_from={tmp_path / "net.pt"}')
    assert done.returncode == 0, done.stderr
    assert 'Starting from' in done.stdout and 'Not taken' not in done.stdout
    for name in ('net_det3.pt', 'optim_det3.pt', 'iter_det3.txt', 'net_det3_best.pt'):
        assert (tmp_path / name).is_file()
    assert checkpoint.load(tmp_path / 'net_det3.pt')['options']['use_res2block'] is True


def test_another_class_list_makes_only_the_class_layer_anew(train, dataset, tmp_path, capsys):
    assert train(dataset, tmp_path / 'a', 'n_epoch=1').returncode == 0
    fewer = tmp_path / 'fewer'
    writer.write_voc(fewer, n_train=12, n_val=4, hw=(90, 160))
    for xml in (fewer / 'anns').glob('*.xml'):
        text = xml.read_text(encoding='utf-8')
        for name in checkpoint.load(tmp_path / 'a' / 'net.pt')['class_names']:
            text = text.replace(f'<name>{name}</name>', '<name>raccoon</name>')
        xml.write_text(text, encoding='utf-8')
    done = train(fewer, tmp_path / 'b', 'n_epoch=1', 'lr=0.0', f'init_from={tmp_path / "a" / "net.pt"}')
    assert done.returncode == 0, done.stderr
    assert 'the class layer starts anew' in done.stdout
    assert 'Not taken from there: name_layer.bias, name_layer.weight.' in done.stdout
    old, new = (checkpoint.load(tmp_path / k / 'net.pt') for k in 'ab')
    assert new['class_names'] == ['raccoon'] and new['model']['name_layer.bias'].shape == (1,)
    key = 'find_layer.weight'
    torch.testing.assert_close(old['model'][key], new['model'][key])


def test_a_loss_that_is_not_finite_names_the_pictures(train, dataset, tmp_path):
    done = train(dataset, tmp_path, 'n_epoch=20', 'lr=1e30', 'warmup_epochs=0.0', 'clip_norm=1e30')
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert 'not finite' in done.stderr and '.jpg' in done.stderr and len(done.stderr.strip().splitlines()) == 1
    if (tmp_path / 'net.pt').is_file():
        assert all(v.isfinite().all() for v in checkpoint.load(tmp_path / 'net.pt')['model'].values())


def test_resuming_with_other_classes_is_one_line(train, dataset, tmp_path):
    assert train(dataset, tmp_path, 'n_epoch=1').returncode == 0
    (dataset / 'classes.txt').write_text(
        '\n'.join([*class_names_of(dataset, voc.read_split(dataset, 'train', progress=False)[0]), 'new one']), 'utf-8'
    )
    try:
        done = train(dataset, tmp_path, 'n_epoch=2')
    finally:
        (dataset / 'classes.txt').unlink()
    assert done.returncode == 2 and 'class_names' in done.stderr and 'Traceback' not in done.stderr


def test_eight_frames_are_learned_by_heart(tmp_path):
    """The whole chain can learn: from nothing, AP50 on the frames it saw soon is above 0.95."""
    writer.write_voc(tmp_path, n_train=8, n_val=0, hw=(180, 320), seed=1)
    frames, problems = voc.read_split(tmp_path, 'train', progress=False)
    assert not problems
    names = class_names_of(tmp_path, frames)
    torch.manual_seed(0)
    hw = (96, 160)
    data = Frames(frames, names, training_transform(hw, flip=0, scale=(1.0, 1.0), colour=0.0))
    loader = torch.utils.data.DataLoader(data, batch_sampler=EpochBatches(8, 8), collate_fn=collate)
    model = detectors.build('konohana', len(names), hw).to(memory_format=torch.channels_last)
    ema = Ema(model, decay=0.8)
    optimizer = make_optimizer(model, 4e-3, 0.0)
    scaler = torch.amp.GradScaler('cpu', enabled=False)
    run = Run(tmp_path / 'run', model, ema, optimizer, scaler, {}, {})
    settings = SimpleNamespace(
        **{'lr': 4e-3, 'n_epoch': 140, 'warmup_epochs': 5.0, 'accumulate': 1, 'clip_norm': 10.0, 'amp': False},
        **{'max_minutes': 0.0, 'save_minutes': 99.0, 'progress': False},
    )
    first = last = None
    with StopRequest() as stop:
        for _ in range(settings.n_epoch):
            last, _ = train_one_epoch(run, loader, torch.device('cpu'), settings, stop, lambda *_: None)
            first = first or last
    assert last['loss'] < first['loss'] / 3
    figures = evaluate(frames, predict_dataset(ema.model, Frames(frames, names), progress=False), names)
    assert figures['AP50'] > 0.95, figures


def test_accumulating_two_halves_is_one_batch():
    """Two batches accumulated move the weights as their mean gradient does."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler('cpu', enabled=False)
    before = model.weight.detach().clone()

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, images, targets):
            return {'loss': self.inner(torch.stack(images)).mean()}

    run = Run('.', Wrapped(), Ema(Wrapped()), optimizer, scaler, {}, {})
    images = [torch.tensor([255, 0, 0], dtype=torch.uint8), torch.tensor([0, 255, 0], dtype=torch.uint8)]
    settings = SimpleNamespace(accumulate=2, clip_norm=1e9, amp=False)
    train_step(run, images[:1], [{}], torch.device('cpu'), settings, step=False)
    assert torch.equal(model.weight, before)
    train_step(run, images[1:], [{}], torch.device('cpu'), settings)
    torch.testing.assert_close(model.weight, before - 0.1 * torch.tensor([[0.5, 0.5, 0.0]]))


def test_learning_rate_warms_up_and_falls_to_a_hundredth():
    rates = [learning_rate(1.0, e, 10, 2.0) for e in (0, 1, 2, 6, 10)]
    assert rates[0] < 0.01 and rates[1] == 0.5 and rates[2] == 1.0 and 0.4 < rates[3] < 0.6
    assert math.isclose(rates[4], 0.01)


def test_ema_follows_at_first_and_lags_later():
    model = torch.nn.BatchNorm1d(2)
    ema = Ema(model, decay=0.9)
    with torch.no_grad():
        model.weight.fill_(3.0)
    model.num_batches_tracked.fill_(7)
    ema.update(model)
    first = float(ema.model.weight[0].detach())
    assert 2.5 < first < 3.0 and int(ema.model.num_batches_tracked) == 7
    ema.updates = 10_000
    with torch.no_grad():
        model.weight.fill_(13.0)
    ema.update(model)
    assert math.isclose(float(ema.model.weight[0]), first * 0.9 + 1.3, rel_tol=1e-5)


def test_memory_cap_needs_room_for_cuda_itself():
    cap_gpu_memory(torch.device('cpu'), 3.0)
    from konohana.errors import UserError

    with pytest.raises(UserError, match='vram_limit_gib'):
        cap_gpu_memory(torch.device('cuda'), 0.3)


def test_out_of_gpu_memory_is_one_line_with_numbers_and_variables(monkeypatch):
    from konohana.errors import UserError

    monkeypatch.setattr(torch.cuda, 'max_memory_reserved', lambda _: 2.4 * 2**30)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda _: SimpleNamespace(total_memory=8 * 2**30))
    settings = SimpleNamespace(batch_size=64, img_hw=(360, 640), vram_limit_gib=3.0)
    with (
        pytest.raises(UserError, match=r'batch_size=64 .*3.0 GiB .*held 2.90.*8.0.*accumulate') as caught,
        out_of_memory_explained(torch.device('cuda'), settings),
    ):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory.')
    assert '\n' not in str(caught.value)


def test_a_budget_of_minutes_ends_the_run_and_its_schedule(tmp_path, monkeypatch):
    """The learning rate follows the minutes used down to the end; a stop in between changes nothing."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(1, 1)

        def forward(self, images, targets):
            return {'loss': self.inner(torch.stack(images)).mean()}

    clock = [1000.0]

    def batches():
        for _ in range(4):
            clock[0] += 6.0  # a tenth of a minute each
            yield [torch.ones(1, dtype=torch.uint8)], [{'image_id': 0}]

    class Loader:
        dataset = SimpleNamespace(frames=[SimpleNamespace(path=Path('a.jpg'))])
        batch_sampler = EpochBatches(8, 2)

        def __iter__(self):
            return batches()

    monkeypatch.setattr(time, 'monotonic', lambda: clock[0])
    settings = SimpleNamespace(
        **{'lr': 1.0, 'n_epoch': 1, 'max_minutes': 1.0, 'warmup_epochs': 0.5, 'accumulate': 1, 'clip_norm': 1e9},
        **{'amp': False, 'save_minutes': 99.0, 'progress': False},
    )
    rates, epochs = [], []

    def begin():
        model = Model()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        scaler = torch.amp.GradScaler('cpu', enabled=False)
        description = {'detector': 'none', 'options': {}, 'class_names': ['a'], 'img_hw': [64, 96]}
        monkeypatch.setattr(detectors, 'options_of', lambda _, options: options)
        return Run(tmp_path, model, Ema(model), optimizer, scaler, description, {})

    def write(name, value, _):
        if name == 'train/learning_rate':
            rates.append(value)

    run = begin()
    while not run.finished(settings):
        stop = SimpleNamespace(requested=False)
        train_one_epoch(run, Loader(), torch.device('cpu'), settings, stop, write)
        epochs.append(run.epoch)
        run.save()
        clock[0] += 5000  # evaluation, or the night: it is not counted
        run = begin()
        assert 'Resuming' in run.resume()
    assert math.isclose(run.minutes, 1.0, abs_tol=1e-6) and len(rates) == 10 and epochs == [1, 2, 2]
    assert rates[:3] == [0.001, 0.5, max(rates)] and rates[2:] == sorted(rates[2:], reverse=True)
    expected = [0.01 + 0.99 * (1 + math.cos(math.pi * part)) / 2 for part in (0.2, 0.9)]
    assert math.isclose(rates[2], expected[0], rel_tol=1e-5) and math.isclose(rates[9], expected[1], rel_tol=1e-5)
    assert is_finished({}, settings) is False and '1.0 of 1 minutes, epoch 2' in run.position(settings)
