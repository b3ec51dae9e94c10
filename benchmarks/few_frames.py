"""Trained from little: how far a few labelled frames lead, by several ways: python benchmarks/few_frames.py

Draws a few frames of a dataset's train, the same each time, trains each way on them for the same processor time on the
same number of threads, and judges all on val by the same metrics: konohana_dataset_path=my_show takes yours.
Where ultralytics is installed, its YOLOs train too, from their .yaml. Only boxes and names are learned. Ctrl-C
saves; run it again to go on: finished trainings are not repeated, so you may add ways, numbers of frames and seeds.
"""

import contextlib
import itertools
import sys
import time
import types
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# PyTorch and what needs it are imported where they are used, so that --help answers at once.
import _train
from benchmarks import accuracy
from konohana import files
from konohana.errors import UserError
from konohana.settings import read, require, require_whole, run
from tools import compare

ways = {  # each way's name, and its variables of _train.py; the name alone, with None, for a YOLO of ultralytics
    'shipped weights': {'init_from': 'weights/net.pt'},
    'ImageNet': {'pretrained': 'backbone'},
    'nothing': {},
    'yolo11n': None,
    'yolo26n': None,
}
n_frames = [20, 60, 200, 0]  # how many frames to train on, each a part of the table; 0 for all
seeds = [0]  # each way is trained once with each of them
konohana_dataset_path = 'toy_show'  # the dataset's folder, with the splits train and val
minutes = 4.0  # minutes of processor time for each training: one thread that nothing disturbs takes as long
threads = 1  # threads of each training
batch_size = 16  # frames in a batch
yolo_size = 480  # sides of the YOLOs' squares, of as many pixels as ours have; ours take their shape from the data
few_frames_out = 'logs/few_frames'  # folder of few_frames.md and a folder for each training
overwrite = False  # replace an existing few_frames.md that this program did not write
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ('AP', 'AP50', 'found AP50', 'found AP75')


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    check(settings)
    out = settings.path(settings.few_frames_out)
    files.claim(out / 'few_frames.md', [], settings.overwrite, 'few_frames_out')
    for name, changes in settings.ways.items():  # before the first one trains
        if changes is not None:
            compare.settings_of(name, changes, {}, out)
    import torch

    torch.set_num_threads(settings.threads)
    (train, val), class_names = accuracy.read_data(settings)
    rows = []
    for n in dict.fromkeys(min(n or len(train), len(train)) for n in settings.n_frames):
        frames = drawn(train, n), val
        data = accuracy.yolo_dataset(out / f'{n} frames', *frames, class_names)
        for seed, (name, changes) in itertools.product(settings.seeds, settings.ways.items()):
            print(f'{n} frames, {name}, seed {seed}')
            folder = out / f'{n} frames' / f'{settings.minutes:g} minutes, seed {seed}' / name
            if changes is None:
                row = row_of_yolo(name, folder, data, frames, class_names, seed, settings)
            else:
                row = row_of_own(changes, folder, data, seed, settings)
            rows.append({'frames': n, 'way': name, 'seed': seed, **row})
            files.write_text(out / 'few_frames.md', table(rows, len(val), settings), remember=True)
    print(table(rows, len(val), settings))
    print(f'Table: {out / "few_frames.md"}')


def check(settings):
    """Raise UserError naming the first variable whose value makes no sense."""
    require(settings, minutes=(0.001, None), threads=(1, 1024), batch_size=(2, None), yolo_size=(32, None))
    if not settings.ways:
        raise UserError("ways={}: name at least one, like {'nothing': {}}.")
    require_whole(settings, n_frames=0, seeds=0)


def drawn(frames, n):
    """n of the frames, the same each time: by name, in turns from those whose first label is this or that character.

    Args:
        frames: list of `Sample`. n: how many; all where there are fewer.

    Returns:
        list of `Sample`, in the order of their names. Frames with nobody take turns, too.
    """
    frames = sorted(frames, key=lambda frame: frame.path.name)
    queues = {}
    for frame in frames:
        queues.setdefault(frame.names[0] if frame.names else '', []).append(frame)
    turns = [(turn, name, frame) for name, queue in queues.items() for turn, frame in enumerate(queue)]
    taken = sorted(turns, key=lambda entry: entry[:2])[:n]
    return sorted((frame for *_, frame in taken), key=lambda frame: frame.path.name)


def row_of_own(changes, folder, data, seed, settings):
    """Train a detector of this project to the end of its time, unless it is there -> row of the table.

    Args:
        changes: its variables of `_train.py`. folder: of the training. data: data.yaml of its frames.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped it.
    """
    from konohana.training.run import is_finished

    base = {
        **{'konohana_dataset_path': data.parent, 'max_minutes': settings.minutes, 'eval_every': 10**9, 'seed': seed},
        **{'batch_size': settings.batch_size, 'device': 'cpu', 'num_workers': 0, 'progress': settings.progress},
    }
    own = compare.settings_of(folder.name, changes, base, folder.parent)
    compare.check_begun(folder, own)
    if not is_finished(compare.state_of(folder, own), own):
        with processor_clock():
            _train.main(compare.arguments_of(own))
    state = compare.state_of(folder, own)
    if not is_finished(state, own):
        raise KeyboardInterrupt
    return {**accuracy.row_of(state['figures']), 'epochs': compare.result_of(folder, state)['epochs']}


def row_of_yolo(name, folder, data, frames, class_names, seed, settings):
    """Train a YOLO of ultralytics, unless it is there -> row of the table; see `row_of_own`.

    It gets its own AdamW, a step for each batch and no warm-up. Its defaults, a step for 64 pictures and 100 batches of
    warm-up, would leave it next to nothing of so short a training.
    """
    own = types.SimpleNamespace(minutes=settings.minutes, batch_size=settings.batch_size, seed=seed)
    own.img_hw, own.progress = (settings.yolo_size, settings.yolo_size), settings.progress
    options = {'workers': 0, 'nbs': settings.batch_size, 'warmup_epochs': 0, 'optimizer': 'AdamW', 'momentum': 0.9}
    options['lr0'] = round(0.01 / (4 + len(class_names)), 6)  # as ultralytics' optimizer='auto' has it
    with processor_clock():
        return accuracy.evaluate_yolo(name, folder, frames, class_names, own, 'cpu', data, **options)[1]


@contextlib.contextmanager
def processor_clock():
    """Both trainers count the processor time of this process, which does not grow while others keep it waiting."""
    from konohana.training import engine

    clock = types.SimpleNamespace(time=time.process_time, monotonic=time.process_time)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(engine, 'time', clock))
        with contextlib.suppress(ImportError):  # then the training says so
            from ultralytics.engine import trainer

            stack.enter_context(mock.patch.object(trainer, 'time', clock))
        yield


def table(rows, n_val, settings):
    """The rows as Markdown."""
    lines = [
        f'{Path(settings.konohana_dataset_path).name}: {settings.minutes:g} minutes of processor time each, threads: '
        f'{settings.threads}; judged on {n_val} frames of val.',
        '',
        '| frames | from | seed | ' + ' | '.join(COLUMNS) + ' | epochs |',
        '|---:|---|---:|' + '---:|' * (len(COLUMNS) + 1),
    ]
    for row in rows:
        metrics = ' | '.join(f'{row[column]:.3f}' for column in COLUMNS)
        lines.append(f'| {row["frames"]} | {row["way"]} | {row["seed"]} | {metrics} | {row["epochs"]:.1f} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    run(main)
