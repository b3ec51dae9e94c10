"""Does my idea work? Train variants one after another and compare them: python tools/compare.py

Name your variants below. _train.py trains each with the same data, budget and seed, in its own folder. Then table.md
and chart.png show the accuracy, size and speed of each. Ctrl-C saves; run it again to resume. Finished variants are not
trained again, so you can add variants to the list.
"""

import io
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# PyTorch and what needs it are imported where they are used, so that --help answers at once.
import _train
from konohana import files
from konohana.errors import UserError
from konohana.interrupts import StopRequest
from konohana.settings import read, require, run

variants = {  # each variant's name, and the variables of _train.py that differ in it
    'flagship': {},
    'Res2': {'use_res2block': True},
    'coordinate attention': {'attention': 'coordinate'},
    'YOLOF, ResNet18': {'detector': 'yolof', 'backbone': 'resnet18'},
}
common = {}  # variables of _train.py for all variants, e.g. {'img_hw': (180, 320), 'batch_size': 8}

konohana_dataset_path = 'toy_show'  # the dataset to train on; its split val is evaluated
max_minutes = 30.0  # minutes of training for each variant, without evaluation; 0 for n_epoch
n_epoch = 10  # epochs of training for each variant, if max_minutes is 0
seed = 0  # of all variants
device = ''  # 'cuda', 'mps', 'cpu', or '' for the fastest there is
n_runs = 30  # timed runs of each variant
compare_out = 'logs/compare'  # folder of table.md, chart.png and a folder for each variant
overwrite = False  # replace an existing table.md or chart.png that this program did not write
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent
BEGUN = 'compare.json'  # in a variant's folder: the variables that its training started with
FREE = (
    'device',
    'progress',
    'num_workers',
    'keep_frames',
    'save_minutes',
    'vram_limit_gib',
    'checkpoint_path',
    'log_path',
)
COLUMNS = ('AP', 'AP50', 'M parameters', 'GMAC', 'ms a picture', 'epochs', 'minutes')


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_runs=(1, None), max_minutes=(0, None), n_epoch=(1, None))
    if not settings.variants:
        raise UserError("variants={}: name at least one, like {'flagship': {}}.")
    out = settings.path(settings.compare_out)
    for name in ('table.md', 'chart.png'):
        files.claim(out / name, [], settings.overwrite, 'compare_out')
    base = {
        'few_frames': False,  # the same budget for all
        **settings.common,
        'konohana_dataset_path': settings.path(settings.konohana_dataset_path),
        **{key: getattr(settings, key) for key in ('n_epoch', 'seed', 'max_minutes', 'device', 'progress')},
    }
    # All variants are checked before the first one trains for hours.
    chosen = {name: settings_of(name, changes, base, out) for name, changes in settings.variants.items()}
    for name, own in chosen.items():
        check_begun(out / name, own)
    rows, failed = train_all(chosen, out, settings)
    if rows:
        measure(rows, chosen, out, settings)
        text = table(rows, failed, settings)
        files.write_text(out / 'table.md', text, remember=True)
        print(text)
        files.write_bytes(out / 'chart.png', chart(rows), remember=True)
        print(f'Table and chart: {out / "table.md"}, {out / "chart.png"}')
    if failed:
        raise UserError(f'Not trained: {", ".join(failed)}. Fix the errors above and run this again.')


def settings_of(name, changes, base, out):
    """All variables of _train.py for a variant, checked.

    Args:
        name: the variant's name. changes: the variables that differ in it.
        base: dict of variables of all variants. out: the parent of the variants' folders.
    """
    if not name or name != name.strip(' .') or set(name) & set('/\\:*?"<>|'):
        raise UserError(f'variants: {name!r} becomes the name of a folder: leave out / \\ : * ? " < > |.')
    if not isinstance(changes, dict):
        raise UserError(f"variants: {name!r} takes a dictionary of variables, like {{'attention': 'coordinate'}}.")
    from konohana.detectors import options_of

    values = {**base, **changes, 'log_path': out, 'run_name': name}
    try:
        own = read(vars(_train), [f'{key}={value}' for key, value in values.items()], _train.ALIASES)
        _train.check(own)
        options_of(own.detector, vars(own))
        if not own.val_split:
            raise UserError("val_split='': there is nothing to compare by. Name the split.")
    except UserError as error:
        raise UserError(f'variant {name!r}: {error}') from None
    return own


def check_begun(folder, own):
    """Record the variables that a variant's training starts with; UserError if it started with others."""
    file = folder / BEGUN
    now = json.loads(json.dumps({key: value for key, value in vars(own).items() if key not in FREE}))
    if not file.is_file():
        files.write_text(file, json.dumps(now, ensure_ascii=False, indent=1))
        return
    try:
        begun = dict(json.loads(file.read_text(encoding='utf-8')))
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f'{file}: damaged ({error}). Delete {folder} to train this variant again.') from None
    # Ignore variables that _train.py has gained or renamed since then.
    # What the data decide now was decided by the variables then, and a run that is resumed keeps it.
    left_open = {key for key in ('img_hw', 'group_by_aspect') if now[key] in ([], None)}
    other = [key for key, value in now.items() if key not in left_open and begun.get(key, value) != value]
    if other:
        shown = ', '.join(f'{key}={begun[key]!r} then and {now[key]!r} now' for key in other)
        raise UserError(
            f'{folder}: this variant started with other variables ({shown}). Give the new one its own name, '
            'delete that folder, or write to another one (compare_out, or accuracy_out of accuracy.py).'
        )


def train_all(chosen, out, settings):
    """Train the variants that are not finished, one after another -> (rows of the table, {name: why it failed})."""
    from konohana.training.run import is_finished

    rows, failed = {}, {}
    for i, (name, own) in enumerate(chosen.items(), start=1):
        if not is_finished(state_of(out / name, own), own):
            print(f'[{i}/{len(chosen)}] {name}')
            try:
                train(name, own)
            except UserError as error:
                print(f'Problem: {error}')
                failed[name] = error
                continue
        state = state_of(out / name, own)
        if not is_finished(state, own):
            raise KeyboardInterrupt  # Ctrl-C reached _train.py only
        rows[name] = result_of(out / name, state)
        files.write_text(out / 'table.md', table(rows, failed, settings), remember=True)
    return rows, failed


def state_of(folder, own):
    """A variant's progress: the content of `optim.pt`, {} if training has not started."""
    from konohana import checkpoint, inference

    file = folder / inference.weights_name(own.use_res2block).replace('net', 'optim')
    return checkpoint.load(file, needed=('epoch', 'iteration', 'minutes', 'figures')) if file.is_file() else {}


def train(name, own):
    """Train a variant to the end of its budget, from the start or from where it stopped, as a user does.

    Raises:
        UserError: _train.py stopped with an error (which it has printed).
        KeyboardInterrupt: it was stopped.
    """
    with StopRequest() as stop:
        # Ctrl-C in a terminal goes to both processes: _train.py saves, and this one waits until that is done.
        command = [sys.executable, str(ROOT / '_train.py'), *arguments_of(own)]
        status = subprocess.Popen(command, stdin=subprocess.DEVNULL).wait()
    if stop.requested or status == 130:
        raise KeyboardInterrupt
    if status:
        raise UserError(f'variant {name!r}: _train.py ended with status {status}; see its message above.')


def arguments_of(own):
    """The command line of _train.py for a variant's variables."""
    return [f'{key}={value}' for key, value in vars(own).items() if value != getattr(_train, key)]


def result_of(folder, state):
    """A trained variant's row of the table, without the columns that `measure` adds."""
    from konohana.training import curves

    rows = curves.History(folder, state['iteration']).rows
    return {
        **{key: state['figures'].get(key, math.nan) for key in ('AP', 'AP50')},
        'epochs': rows[-1]['epoch'] if rows else state['epoch'],
        'minutes': state['minutes'],
    }


def measure(rows, chosen, out, settings):
    """Add the cost of the networks to the rows of trained variants: parameters, multiply-adds, time.

    Args:
        rows: dict of name -> row, changed in place. chosen: dict of name -> its variables. out: `compare_out`.
    """
    import torch

    from konohana import inference
    from konohana.data.images import load_image
    from konohana.data.reading import read_frames
    from konohana.detectors.fusing import fuse_batch_norms
    from konohana.evaluation import cost

    models = {}
    for name in rows:
        own = chosen[name]
        file = out / name / inference.weights_name(own.use_res2block)
        models[name] = inference.load(file, settings.device, fuse=False)
        rows[name]['M parameters'] = cost.count_parameters(models[name]) / 1e6
        rows[name]['GMAC'] = cost.count_macs(models[name], models[name].img_hw) / 1e9
        fuse_batch_norms(models[name])
    own = chosen[next(iter(rows))]
    (frames,), _ = read_frames(own.konohana_dataset_path, [own.val_split], own.ignore_class, settings.progress)
    picture = torch.from_numpy(load_image(frames[len(frames) // 2].path)).permute(2, 0, 1).float() / 255
    times = cost.time_models(models, picture.to(inference.pick_device(settings.device)), settings.n_runs)
    for name, seconds in times.items():
        rows[name]['ms a picture'] = statistics.median(seconds) * 1e3


def table(rows, failed, settings):
    """The comparison as Markdown. `failed`: {name: why}."""
    from konohana import inference

    budget = f'{settings.max_minutes:g} minutes' if settings.max_minutes else f'{settings.n_epoch} epochs'
    lines = [
        f'# {Path(settings.konohana_dataset_path).name}, {budget} each, seed {settings.seed}',
        '',
        '| variant | ' + ' | '.join(COLUMNS) + ' |',
        '|---|' + '---:|' * len(COLUMNS),
    ]
    for name, row in rows.items():
        lines.append(f'| {name} | ' + ' | '.join(shown(column, row.get(column)) for column in COLUMNS) + ' |')
    lines += [f'| {name} | {" | ".join(["failed"] * len(COLUMNS))} |' for name in failed]
    lines += [
        '',
        'AP and AP50 on val, of the averaged weights at the end. GMAC: multiply-adds for a picture of img_hw. Time: '
        f'network and post-processing on {inference.pick_device(settings.device)}, median of {settings.n_runs} runs in '
        'which the variants take turns. Each variant was trained once: to tell a small difference from luck, run this '
        'with another seed and another compare_out.',
    ]
    return '\n'.join(lines) + '\n'


def shown(column, value):
    """A value of a column as text."""
    digits = {'AP': 3, 'AP50': 3, 'M parameters': 2, 'GMAC': 2}.get(column, 1)
    return '–' if value is None or math.isnan(value) else f'{value:.{digits}f}'


def chart(rows):
    """The comparison as bars, one panel for each column -> bytes of a PNG file; UserError without matplotlib."""
    from konohana.fonts import for_charts, name_ticks

    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError('Drawing the chart needs matplotlib: pip install matplotlib') from None
    panels = COLUMNS[:5]
    names = for_charts([name if len(name) <= 28 else f'{name[:25]}...' for name in rows], noun='variant')
    # Without pyplot: no window system is touched, and no figure stays open.
    figure = Figure((3.0 + 2.2 * len(panels), 1.1 + 0.42 * len(rows)), dpi=110, layout='constrained')
    for k, (axes, column) in enumerate(zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True)):
        values = [row.get(column, math.nan) for row in rows.values()]
        known = [value for value in values if not math.isnan(value)]
        axes.barh(range(len(names)), [0 if math.isnan(v) else v for v in values], 0.62, color='C0' if k < 2 else 'C1')
        for y, value in enumerate(values):
            axes.text(value if known and value == value else 0, y, f' {shown(column, value)}', va='center', fontsize=9)
        axes.set_xlim(0, 1.3 * max([*known, 1e-9]))
        axes.set_title(column, fontsize=11)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[['top', 'right', 'bottom']].set_visible(False)
    axes.invert_yaxis()
    name_ticks(figure.axes[0].yaxis, names, 10)  # the panels share it
    file = io.BytesIO()
    figure.savefig(file, format='png')
    return file.getvalue()


if __name__ == '__main__':
    run(main)
