"""Training as a user runs it: it learns, it resumes after any interruption, it stops with one clear line."""

import copy
import errno
import json
import math
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import run_in_process
from tensorboard.summary.writer.record_writer import RecordWriter

import _train
from konohana import checkpoint, detectors, files
from konohana.data import voc
from konohana.data.augment import training_transform
from konohana.data.dataset import Frames, collate
from konohana.data.reading import class_names_of
from konohana.data.sampler import EpochBatches
from konohana.detectors.base import Detector
from konohana.detectors.konohana import network
from konohana.errors import UserError
from konohana.evaluation.predict import predict_dataset
from konohana.evaluation.summary import evaluate
from konohana.interrupts import StopRequest
from konohana.settings import read
from konohana.toy import writer
from konohana.training import curves, engine, logs
from konohana.training.choices import choose, shape_of
from konohana.training.engine import train_one_epoch, train_step
from konohana.training.memory import cap_gpu_memory, out_of_memory_explained
from konohana.training.run import Run, is_finished
from konohana.training.schedule import Ema, learning_rate, load_optimizer, make_optimizer, set_learning_rate

posix_signals = pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGINT for a single child process')


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """Twelve toy frames to train on, four to evaluate on, small."""
    folder = tmp_path_factory.mktemp('data') / 'show'
    writer.write_voc(folder, n_train=12, n_val=4, hw=(90, 160))
    return folder


def command(dataset, run, *overrides):
    places = (f'konohana_dataset_path={dataset}', f'checkpoint_path={run}', f'log_path={run / "logs"}')
    return '_train.py', *places, 'img_hw=64,96', 'batch_size=4', 'num_workers=0', 'paste=0', *overrides


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Curves are not drawn, which takes longer than a training here; test_curves draws them."""
    monkeypatch.setattr(curves.History, 'draw', lambda self: None)


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
    assert 'n_epoch=2 makes only 6 steps with so few frames; n_epoch=667 makes 2000.' in done.stdout
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
    process = start_script(*command(dataset, killed, *overrides, 'num_workers=1'))
    wait_for(killed / 'iter.txt', '2', process)
    process.kill()
    process.communicate()
    assert int((killed / 'iter.txt').read_text()) < 9
    done = train(dataset, killed, *overrides)
    assert done.returncode == 0 and 'Resuming at epoch' in done.stdout, done.stdout + done.stderr
    assert (killed / 'iter.txt').read_text() == (straight / 'iter.txt').read_text()
    assert same_weights(straight / 'net.pt', killed / 'net.pt')


@posix_signals
def test_a_polite_kill_of_all_processes_saves_and_meanwhile_no_second_training_starts(
    train, start_script, dataset, tmp_path
):
    """As job schedulers do it: SIGTERM to the training and to the processes that load its frames."""
    overrides = ('n_epoch=500', 'eval_every=1000')
    process = start_script(*command(dataset, tmp_path, *overrides, 'num_workers=1'), start_new_session=True)
    wait_for(tmp_path / 'iter.txt', '3', process)
    second = train(dataset, tmp_path, *overrides)
    assert second.returncode == 2 and len(second.stderr.strip().splitlines()) == 1, second.stderr
    assert f'{tmp_path / "net.pt"}: another training is writing it' in second.stderr and 'run_name' in second.stderr
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and 'Stopped at iteration' in out and not err, err
    saved = checkpoint.load(tmp_path / 'optim.pt', needed=('iteration',))['iteration']
    assert f'Stopped at iteration {saved} ' in out


def test_runs_of_two_folders_do_not_share_their_logs(train, dataset, tmp_path):
    folder = tmp_path / 'logs' / 'net'
    with logs.Log(folder):
        done = train(dataset, tmp_path, 'n_epoch=1')
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert f'{folder}: another training is writing it' in done.stderr and 'run_name' in done.stderr
    assert not (folder / 'curves.jsonl').exists()
    assert train(dataset, tmp_path, 'n_epoch=1', 'val_split=').returncode == 0


def test_who_is_unlabelled_is_left_out_by_the_detector_that_can(train, dataset, tmp_path):
    done = train(dataset, tmp_path, 'n_epoch=1', 'unlabelled=ignore')
    assert done.returncode == 0 and 'val AP' in done.stdout, done.stderr
    for overrides, text in (
        (('detector=yolof', 'backbone=resnet18'), "unlabelled='ignore': only detector=konohana"),
        (('unlabelled=nobody',), "unlabelled='nobody': it is one of 'background', 'ignore'."),
    ):
        done = train(dataset, tmp_path / 'other', 'n_epoch=1', 'unlabelled=ignore', *overrides)
        assert done.returncode == 2 and done.stderr.startswith(f'Error: {text}'), done.stderr


@pytest.mark.parametrize(
    ('sizes', 'img_hw', 'grouped'),
    [
        ([(360, 640)] * 3 + [(1080, 1920), (480, 854)], (360, 640), False),
        ([(480, 640)] * 5, (416, 552), False),
        ([(640, 480)] * 3 + [(480, 640)] * 2, (552, 416), True),
        ([(1920, 1080)] * 5, (640, 360), False),
        ([(500, 500)] * 5, (480, 480), False),
        ([(816, 1920)] * 99 + [(1920, 816)], (312, 736), False),  # one of a hundred is no group
        ([(10, 8000)], (152, 1520), False),
    ],
)
def test_the_data_say_at_which_shape_they_are_learned(sizes, img_hw, grouped):
    assert shape_of([SimpleNamespace(height=h, width=w) for h, w in sizes]) == (img_hw, grouped)


def test_pictures_of_all_shapes_train_and_resume_as_they_began(train, tmp_path):
    for name, hw in (('wide', (96, 128)), ('upright', (128, 96))):
        writer.write_voc(tmp_path / name, n_train=6, n_val=2, hw=hw)
    two = (f'extra_dataset_path={tmp_path / "upright"}', 'img_hw=()', 'val_split=', 'small_part=0')
    done = train(tmp_path / 'wide', tmp_path, 'n_epoch=1', *two)
    assert done.returncode == 0, done.stderr
    line = 'These pictures are learned at 552 x 416; upright and wide ones get batches of their own'
    assert line in done.stdout and checkpoint.load(tmp_path / 'net.pt')['img_hw'] == [416, 552]
    # A run of an earlier version, which fitted nothing to its data, goes on as it was.
    state = checkpoint.load(tmp_path / 'optim.pt', needed=('order',))
    state['order']['group_by_aspect'], state['description']['img_hw'] = False, [64, 96]
    checkpoint.save(state, tmp_path / 'optim.pt')
    done = train(tmp_path / 'wide', tmp_path, 'n_epoch=2', *two)
    assert done.returncode == 0 and 'Resuming at epoch 2' in done.stdout, done.stderr
    assert 'learned at 96 x 64 (img_hw' in done.stdout and checkpoint.load(tmp_path / 'net.pt')['img_hw'] == [64, 96]


@pytest.mark.parametrize('wrong', ['img_hw=360,', "img_hw='a','b'", 'img_hw=360.0,640.0', 'group_by_aspect=often'])
def test_a_shape_that_is_none_is_one_line(train, dataset, tmp_path, wrong):
    done = train(dataset, tmp_path, wrong)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert wrong.partition('=')[0] in done.stderr


def chosen(n_frames, *overrides, begun=None):
    """The variables that `choose` changed for `n_frames` frames of 640x360."""
    settings = read(vars(_train), overrides)
    before = dict(vars(settings))
    choose(settings, [SimpleNamespace(height=360, width=640)] * n_frames, begun)
    return {name: value for name, value in vars(settings).items() if value != before[name]}


def test_few_frames_from_trained_weights_are_shown_more_often(capsys):
    shape = {'img_hw': (360, 640), 'group_by_aspect': False}
    few = ('init_from=weights/net.pt',)
    assert chosen(60, *few) == {**shape, 'n_epoch': 80, 'eval_every': 10}
    line = 'For so few frames: n_epoch=80, eval_every=10 (few_frames=False'
    assert capsys.readouterr().out.startswith(line)
    # What is set stays, and a run of minutes has no epochs to choose.
    assert chosen(60, *few, 'n_epoch=30') == {**shape, 'eval_every': 4}
    assert chosen(60, *few, 'max_minutes=10') == {**shape, 'eval_every': 10}
    assert chosen(60, *few, 'batch_size=8', 'accumulate=2')['n_epoch'] == 80
    capsys.readouterr()
    assert chosen(60, *few, 'max_minutes=10', 'val_split=') == shape
    # Many frames, a start from nothing and runs of earlier versions are as they were; nothing is said.
    old = {'order': {'group_by_aspect': False}, 'description': {'img_hw': [360, 640]}}
    for given, begun in (((300, *few), None), ((60,), None), ((60, *few, 'few_frames=False'), None), ((60, *few), old)):
        assert {**chosen(*given, begun=begun), 'few_frames': 0} == {**shape, 'few_frames': 0}
    assert not capsys.readouterr().out
    again = {**old, 'order': {'group_by_aspect': False, 'few_frames': True}}
    assert chosen(60, *few, begun=again)['n_epoch'] == 80
    assert chosen(60, *few, 'few_frames=False', begun=again) == shape


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
    assert 'the class layer starts from scratch' in done.stdout
    left = 'name_layer.bias, name_layer.weight, second_look.caution, second_look.centres'
    assert f'Not taken from it: {left}.' in done.stdout
    old, new = (checkpoint.load(tmp_path / k / 'net.pt') for k in 'ab')
    assert new['class_names'] == ['raccoon'] and new['model']['name_layer.bias'].shape == (1,)
    key = 'find_layer.weight'
    torch.testing.assert_close(old['model'][key], new['model'][key])


def test_a_loss_that_is_not_finite_names_the_pictures(train, dataset, tmp_path):
    done = train(dataset, tmp_path, 'n_epoch=20', 'lr=1e18', 'warmup_epochs=0.0', 'clip_norm=1e18')
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


@pytest.fixture(scope='module')
def trained(tmp_path_factory, dataset):
    """Function (folder) -> a copy there of the files of a run of one epoch."""
    folder = tmp_path_factory.mktemp('trained') / 'run'
    name, *arguments = command(dataset, folder, 'n_epoch=1', 'device=cpu', 'progress=False')
    done = run_in_process(name, arguments, folder.parent)
    assert done.returncode == 0, done.stderr
    return lambda copy: Path(shutil.copytree(folder, copy, dirs_exist_ok=True))


@pytest.fixture
def ctrl_c_at(monkeypatch):
    """Function (iteration): Ctrl-C arrives once, while the batch after this iteration is computed."""
    step = engine.train_step

    def arrange(iteration):
        def interrupted(run, *given):
            if run.iteration == iteration:
                monkeypatch.setattr(engine, 'train_step', step)
                os.kill(os.getpid(), signal.SIGINT)
            return step(run, *given)

        monkeypatch.setattr(engine, 'train_step', interrupted)

    return arrange


def rows_of(folder):
    return [json.loads(line) for line in (folder / 'logs/net/curves.jsonl').read_text('utf-8').splitlines()]


@posix_signals
def test_ctrl_c_in_the_last_batch_of_an_epoch_does_not_skip_its_evaluation(train, ctrl_c_at, dataset, tmp_path):
    overrides = ('n_epoch=2', 'eval_every=1')
    ctrl_c_at(2)
    done = train(dataset, tmp_path, *overrides)
    assert done.returncode == 0 and 'Stopped at iteration 3' in done.stdout and 'val AP' not in done.stdout
    ctrl_c_at(5)  # in the last epoch as well
    done = train(dataset, tmp_path, *overrides)
    assert done.stdout.count('val AP') == 1 and 'Stopped at iteration 6' in done.stdout
    state = checkpoint.load(tmp_path / 'optim.pt', needed=('epoch',))
    assert state['epoch'] == 2 and not is_finished(state, SimpleNamespace(max_minutes=0.0, n_epoch=2))
    done = train(dataset, tmp_path, *overrides)
    assert done.stdout.count('val AP') == 1 and 'Epoch 2/2' in done.stdout and 'Done.' in done.stdout
    assert [(row['epoch'], 'AP' in row) for row in rows_of(tmp_path)] == [(1.0, True), (2.0, True)]
    assert 'AP' in checkpoint.load(tmp_path / 'net.pt')['figures'] and (tmp_path / 'net_best.pt').is_file()
    assert 'Raise n_epoch' in train(dataset, tmp_path, *overrides).stdout


@posix_signals
def test_a_stop_while_gradients_are_accumulated_changes_nothing(train, ctrl_c_at, dataset, tmp_path):
    """The step that is being gathered for is made before the run stops: what is resumed is what went straight on."""
    overrides = ('n_epoch=1', 'batch_size=2', 'accumulate=4', 'eval_every=9', 'val_split=')
    assert train(dataset, tmp_path / 'straight', *overrides).returncode == 0
    ctrl_c_at(1)
    done = train(dataset, tmp_path / 'stopped', *overrides)
    assert 'Stopped at iteration 4 ' in done.stdout, done.stdout + done.stderr
    assert train(dataset, tmp_path / 'stopped', *overrides).returncode == 0
    assert same_weights(tmp_path / 'straight' / 'net.pt', tmp_path / 'stopped' / 'net.pt')


def test_saves_come_only_where_the_optimizer_has_made_a_step(train, dataset, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Run, 'save', lambda run: saved.append(run.iteration))
    assert train(dataset, tmp_path, 'n_epoch=1', 'batch_size=2', 'accumulate=4', 'save_minutes=0', 'val_split=')
    assert saved == [4, 6, 6]


def test_best_weights_of_an_earlier_run_are_not_replaced(train, trained, dataset, tmp_path):
    trained(tmp_path)
    for name in ('net.pt', 'optim.pt', 'iter.txt'):
        (tmp_path / name).unlink()
    before = (tmp_path / 'net_best.pt').read_bytes()
    done = train(dataset, tmp_path, 'n_epoch=1')
    assert 'net_best.pt of an earlier run is now net_best_old.pt.' in done.stdout, done.stderr
    assert (tmp_path / 'net_best_old.pt').read_bytes() == before and (tmp_path / 'net_best.pt').is_file()
    # Those of this run are.
    (tmp_path / 'net_best_old.pt').unlink()
    done = train(dataset, tmp_path, 'n_epoch=2')
    assert done.returncode == 0 and 'net_best' not in done.stdout.replace('best on val', '').split('Done.')[0]
    assert not (tmp_path / 'net_best_old.pt').exists()


@pytest.mark.parametrize('writes', [0, 9])
def test_logs_that_cannot_be_written_are_one_line_each(train, dataset, tmp_path, monkeypatch, writes):
    """The disk of log_path is full, or becomes so while TensorBoard's thread writes to it; the weights have another."""
    full = OSError(errno.ENOSPC, 'No space left on device')
    write, left = RecordWriter.write, [writes]

    def write_some(self, data):
        left[0] -= 1
        if left[0] < 0:
            raise full
        write(self, data)

    replacing = files.replacing

    def replacing_some(path, *given, **options):
        if 'logs' in Path(path).parts:
            raise UserError(f'{path}: cannot be written (No space left on device).')
        return replacing(path, *given, **options)

    monkeypatch.setattr(RecordWriter, 'write', write_some)
    monkeypatch.setattr(files, 'replacing', replacing_some)
    done = train(dataset, tmp_path, 'n_epoch=2')
    assert done.returncode == 0 and 'Done.' in done.stdout, done.stderr
    lines = done.stderr.strip().splitlines()
    wanted = ['Warning: no TensorBoard logs', 'Warning: no curves.jsonl']
    assert sorted(line.split(';')[0] for line in lines) == wanted, done.stderr
    assert all('No space left' in line for line in lines)
    assert checkpoint.load(tmp_path / 'net.pt')['epoch'] == 2


def test_a_network_whose_table_was_edited_is_named_with_what_to_move(train, trained, dataset, tmp_path, monkeypatch):
    trained(tmp_path)
    monkeypatch.setattr(network, 'BLOCKS', (*network.BLOCKS[:-1], (3, 1, 1152, 192, True)))
    done = train(dataset, tmp_path, 'n_epoch=2')
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    for words in ('the network has changed', 'blocks.14.depthwise', '1152 x 1 x 5 x 5', '3 x 3', 'net.pt and optim.pt'):
        assert words in done.stderr, done.stderr


DAMAGE = {
    'no optimizer': lambda state: state.pop('optimizer'),
    'optimizer is a list': lambda state: state.update(optimizer=[]),
    'no groups': lambda state: state.update(optimizer={'state': {}}),
    'groups are text': lambda state: state['optimizer'].update(param_groups='groups'),
    'groups have gone': lambda state: state['optimizer']['param_groups'].pop(),
    'decay is text': lambda state: state['optimizer']['param_groups'][0].update(weight_decay='much'),
    'decay is nan': lambda state: state['optimizer']['param_groups'][0].update(weight_decay=math.nan),
    'averages are of another shape': lambda state: state['optimizer']['state'][3].update(exp_avg=torch.zeros(7)),
    'averages are a number': lambda state: state['optimizer']['state'][3].update(exp_avg=1.0),
    'no averages': lambda state: state['optimizer']['state'][3].clear(),
    'averages are nan': lambda state: state['optimizer']['state'][3]['exp_avg'].fill_(math.nan),
    'squares are negative': lambda state: state['optimizer']['state'][3]['exp_avg_sq'].fill_(-1.0),
    'a step before the first': lambda state: state['optimizer']['state'][3].update(step=torch.tensor(-1.0)),
    'states are text': lambda state: state['optimizer'].update(state='all'),
    'random is short': lambda state: state.update(random=torch.zeros(3, dtype=torch.uint8)),
    'random is float': lambda state: state.update(random=torch.zeros(5056)),
    'order is a list': lambda state: state.update(order=[1]),
    'best is text': lambda state: state.update(best='good'),
    'ended is text': lambda state: state.update(ended={'loss': 'low'}),
    'far in an epoch': lambda state: state.update(batches_done=10**9),
    'scaler is a list': lambda state: state.update(scaler=[2.0]),
    'no detector': lambda state: state['description'].pop('detector'),
    'model is of nothing': lambda state: state.update(model={}),
}


@pytest.fixture(scope='module')
def resumable(trained, tmp_path_factory):
    """(a `Run` to resume, its untouched state): in a folder with the files of a run of one epoch."""
    folder = trained(tmp_path_factory.mktemp('resumable') / 'run')
    state = torch.load(folder / 'optim.pt', weights_only=True)
    about = state['description']
    model = detectors.build('konohana', len(about['class_names']), tuple(about['img_hw']), **about['options'])
    scaler = torch.amp.GradScaler('cpu', enabled=False)
    run = Run(folder, model, Ema(model), make_optimizer(model, 1e-3, 0.05), scaler, about, state['order'])
    return run, state


@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_or_forged_optim_is_one_line(resumable, damage):
    run, state = resumable
    forged = copy.deepcopy(state)
    damage(forged)
    torch.save(forged, run.optim_file)
    with pytest.raises(UserError, match=r'optim\.pt: ') as caught:
        run.resume(n_batches=3)
    assert '\n' not in str(caught.value)


def test_resuming_with_another_detector_speaks_of_that_alone(train, dataset, trained, tmp_path):
    folder = trained(tmp_path / 'run')
    state = torch.load(folder / 'optim.pt', weights_only=True)
    state['description'].update(detector='yolof', options={'backbone': 'resnet18'})
    torch.save(state, folder / 'optim.pt')
    done = train(dataset, folder, 'n_epoch=2')
    assert done.returncode == 2 and 'detector=yolof' in done.stderr and 'second look' not in done.stdout, done


def test_what_a_resumed_run_does_not_take_over_is_said(train, dataset, trained, tmp_path):
    folder = trained(tmp_path / 'run')
    same = train(dataset, folder, 'n_epoch=2', 'eval_every=9')
    assert same.returncode == 0 and 'goes on with' not in same.stdout, same
    weights = tmp_path / 'start.pt'
    shutil.copy(folder / 'net.pt', weights)
    other = train(dataset, folder, 'n_epoch=3', 'weight_decay=0.1', 'backbone_lr=0.5', f'init_from={weights}')
    assert 'weight_decay=0.1: this run began with 0.05' in other.stdout, other
    assert 'backbone_lr=0.5: this run began with 1' in other.stdout, other


def test_a_variable_of_another_detector_is_said(train, dataset, tmp_path):
    done = train(dataset, tmp_path, 'n_epoch=1', 'detector=yolof', 'backbone=resnet18', 'large=True', 'batch_size=2')
    assert done.returncode == 0 and "large=True is not used: detector='yolof' has no such option." in done.stdout, done
    assert done.stdout.count('is not used') == 1, done


def test_weights_to_start_from_that_are_none_are_said_before_the_data_are_read(train, tmp_path):
    done = train(tmp_path / 'nowhere', tmp_path / 'run', f'init_from={tmp_path / "missing.pt"}')
    assert done.returncode == 2 and 'missing.pt' in done.stderr and 'nowhere' not in done.stderr, done


def test_no_best_weights_are_promised_where_there_are_none(train, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, 'evaluate', lambda *given: {**evaluate(*given), 'AP': math.nan})
    done = train(dataset, tmp_path, 'n_epoch=1')
    assert done.returncode == 0 and 'net_best.pt' not in done.stdout, done
    assert not (tmp_path / 'net_best.pt').exists()


def test_resuming_to_learn_other_parts_of_the_network_says_so(resumable, monkeypatch):
    run, state = resumable
    torch.save(state, run.optim_file)
    only = copy.deepcopy(run.model).requires_grad_(False)
    only.neck.requires_grad_(True)
    monkeypatch.setattr(run, 'model', only)
    monkeypatch.setattr(run, 'optimizer', make_optimizer(only, 1e-3, 0.05))
    with pytest.raises(UserError, match='only_second_look'):
        run.resume(n_batches=3)


@pytest.mark.parametrize(
    'forged',
    [
        {'description': 5},
        {'description': {}},
        {'description': {'options': [], 'img_hw': [64, 96]}},
        {'description': {'options': {}, 'img_hw': [64]}},
        {'order': []},
    ],
    ids=str,
)
def test_a_forged_run_is_one_line_before_anything_is_chosen_from_it(train, dataset, trained, tmp_path, forged):
    folder = trained(tmp_path / 'run')
    optim = folder / 'optim.pt'
    torch.save({**torch.load(optim, weights_only=True), **forged}, optim)
    done = train(dataset, folder, 'n_epoch=2')
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'optim.pt: ' in done.stderr, done


def test_a_run_of_the_cpu_goes_on_with_a_loss_scale(resumable, monkeypatch):
    """On CUDA gradients are scaled; a run that began on the CPU has no scale to go on from."""
    run, state = resumable
    torch.save(state, run.optim_file)
    monkeypatch.setattr(run, 'scaler', torch.amp.GradScaler('cpu', enabled=True))
    assert 'Resuming at epoch 2' in run.resume(n_batches=3)


class TorchvisionLike(Detector):
    """A detector whose backbone is not where the flagship has it."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.ModuleDict({'backbone': torch.nn.Linear(2, 3), 'head': torch.nn.Linear(3, 1)})

    def backbone_parameters(self):
        return list(self.model['backbone'].parameters())

    def step(self, optimizer):
        self.model['head'](self.model['backbone'](torch.ones(1, 2))).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_any_detectors_backbone_learns_at_its_own_rate():
    model = TorchvisionLike()
    optimizer = make_optimizer(model, 1.0, 0.0, backbone_lr=0.25)
    set_learning_rate(optimizer, 0.4)
    rates = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    parts = model.model
    assert {rates[id(p)] for p in parts['backbone'].parameters()} == {0.1}
    assert {rates[id(p)] for p in parts['head'].parameters()} == {0.4}
    weights = parts['backbone'].weight.detach().clone(), parts['head'].weight.detach().clone()
    model.step(optimizer)  # AdamW's first step is as long as the rate
    torch.testing.assert_close((parts['backbone'].weight - weights[0]).abs(), torch.full((3, 2), 0.1))
    torch.testing.assert_close((parts['head'].weight - weights[1]).abs(), torch.full((1, 3), 0.4))


def test_an_optimizer_of_before_backbones_had_groups_goes_on():
    """Earlier versions put the parameters of torchvision's detectors into two groups: with decay, then without."""
    torch.manual_seed(0)
    old = TorchvisionLike()
    decayed, others = ([p for p in old.parameters() if (p.ndim > 1) == more] for more in (True, False))
    groups = [{'params': p, 'weight_decay': d, 'lr_factor': 1.0} for p, d in ((decayed, 0.1), (others, 0.0))]
    optimizer = torch.optim.AdamW(groups, lr=0.2)
    old.step(optimizer)
    new = copy.deepcopy(old)
    resumed = make_optimizer(new, 0.2, 0.1, backbone_lr=0.25)
    load_optimizer(resumed, new, copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        old.step(optimizer)
        new.step(resumed)
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))


def test_a_single_frame_of_32_pixels_is_one_line(train, dataset, tmp_path):
    done = train(dataset, tmp_path, 'n_epoch=1', 'img_hw=32,32', 'batch_size=1')
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert 'Batch norm' in done.stderr and 'batch_size (2 at least' in done.stderr


@pytest.mark.parametrize(
    'overrides',
    [
        ('lr=0.0', 'warmup_epochs=0.0', 'weight_decay=0.0', 'backbone_lr=0.0', 'ema_decay=0.0', 'clip_norm=1e-6'),
        ('max_minutes=1e-9', 'accumulate=1000000000', 'n_epoch=1000000000', 'eval_every=1000000000', 'ema_decay=1.0'),
        ('img_hw=32,32', 'batch_size=1000000', 'small_part=1.0', 'scale=0.01,10', 'mosaic=True', 'random_erasing=1.0'),
        (
            'calm_part=1.0',
            'augment=False',
            'group_by_aspect=True',
            f'seed={2**63 - 1}',
            'repeat_rare=1.0',
            'warmup_epochs=1e9',
        ),
    ],
)
def test_odd_values_train(train, dataset, tmp_path, overrides):
    done = train(dataset, tmp_path, 'n_epoch=1', 'val_split=', *overrides)
    assert done.returncode == 0 and 'Done.' in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    'override',
    [
        *('n_epoch=0', f'n_epoch={10**400}', 'lr=-1', 'scale=1,1e7', 'scale=2,1', 'scale=nan,1', 'clip_norm=0'),
        *(
            'checkpoint_path=',
            'log_path=',
            'run_name=a/b',
            'run_name=..',
            'run_name=a\0',
            f'run_name={"a" * 300}',
            'train_split=',
            'pretrained=all',
            'device=meta',
        ),
    ],
)
def test_values_that_make_no_sense_are_one_line(train, dataset, tmp_path, override):
    done = train(dataset, tmp_path, override)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert override.partition('=')[0] in done.stderr and not (tmp_path / 'net.pt').exists()


def test_eight_frames_are_learned_by_heart(tmp_path):
    """The whole chain can learn: from nothing, AP50 on the frames it saw soon is above 0.95."""
    writer.write_voc(tmp_path, n_train=8, n_val=0, hw=(90, 160), seed=1)
    frames, problems = voc.read_split(tmp_path, 'train', progress=False)
    assert not problems
    names = class_names_of(tmp_path, frames)
    torch.manual_seed(0)
    hw = (64, 112)
    data = Frames(frames, names, training_transform(hw, flip=0, scale=(1.0, 1.0), colour=0.0))
    loader = torch.utils.data.DataLoader(data, batch_sampler=EpochBatches(8, 8), collate_fn=collate)
    model = detectors.build('konohana', len(names), hw).to(memory_format=torch.channels_last)
    ema = Ema(model, decay=0.8)
    optimizer = make_optimizer(model, 6e-3, 0.0)
    scaler = torch.amp.GradScaler('cpu', enabled=False)
    run = Run(tmp_path / 'run', model, ema, optimizer, scaler, {}, {})
    settings = SimpleNamespace(
        **{'lr': 6e-3, 'n_epoch': 90, 'warmup_epochs': 5.0, 'accumulate': 1, 'clip_norm': 10.0, 'amp': False},
        **{'max_minutes': 0.0, 'save_minutes': 99.0, 'progress': False},
    )
    first = last = None
    with StopRequest() as stop:
        for _ in range(settings.n_epoch):
            last, _ = train_one_epoch(run, loader, torch.device('cpu'), settings, stop, lambda *_: None)
            first = first or last
    assert last['loss'] < first['loss'] / 3
    metrics = evaluate(frames, predict_dataset(ema.model, Frames(frames, names), progress=False), names)
    assert metrics['AP50'] > 0.95, metrics


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
    with pytest.raises(UserError, match='vram_limit_gib'):
        cap_gpu_memory(torch.device('cuda'), 0.3)


def test_out_of_gpu_memory_is_one_line_with_numbers_and_variables(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'max_memory_reserved', lambda _: 2.4 * 2**30)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda _: SimpleNamespace(total_memory=8 * 2**30))
    for kept in ('no', 'gpu'):
        settings = SimpleNamespace(batch_size=64, img_hw=(360, 640), vram_limit_gib=3.0, keep_frames=kept)
        with (
            pytest.raises(UserError, match=r'batch_size=64 .*3.0 GiB .*held 2.90.*8.0.*accumulate') as caught,
            out_of_memory_explained(torch.device('cuda'), settings),
        ):
            raise torch.cuda.OutOfMemoryError('CUDA out of memory.')
        assert '\n' not in str(caught.value) and ('keep_frames=ram' in str(caught.value)) == (kept == 'gpu')


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
    # The minutes were over in the third epoch, as the bar said too.
    assert is_finished({}, settings) is False and '1.0 of 1 minutes, epoch 3' in run.position(settings)
