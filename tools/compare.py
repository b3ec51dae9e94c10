"""Does my idea work? Train variants one after another and compare them: python tools/compare.py

Name your variants below. Each is trained by _train.py with the same data, budget and seed, in a folder of its own; then
table.md and chart.png say how good, how large and how fast each is. Ctrl-C saves; run it again to go on: variants that
are done are not trained again. What you add to the list is trained then, beside what is there.
"""

import io
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import _train
from konohana import checkpoint, files, inference
from konohana.data.images import load_image
from konohana.data.reading import read_frames
from konohana.detectors.fusing import fuse_batch_norms
from konohana.errors import UserError
from konohana.evaluation import cost
from konohana.fonts import find_font
from konohana.interrupts import StopRequest
from konohana.settings import Settings, override, read, require, resolve, run
from konohana.training import curves
from konohana.training.run import is_finished

ROOT = Path(__file__).resolve().parent.parent

# Each variant's name, and the variables of _train.py that are different in it.
variants = {
    'flagship': {},
    'Res2': {'use_res2block': True},
    'coordinate attention': {'attention': 'coordinate'},
    'YOLOF, ResNet18': {'detector': 'yolof', 'backbone': 'resnet18'},
}
common = {}  # variables of _train.py for all variants, e.g. {'img_hw': (180, 320), 'batch_size': 8}

konohana_dataset_path = 'toy_show'  # the dataset they learn; what they are judged by is its split val
max_minutes = 30.0  # minutes that each variant trains, evaluation not counted; 0 for n_epoch
n_epoch = 10  # how often each frame is seen, if max_minutes is 0
seed = 0  # of all variants
device = ''  # 'cuda', 'mps', 'cpu', or '' for the fastest there is
n_runs = 30  # timed runs of each variant
compare_out = 'logs/compare'  # folder of table.md, chart.png and a folder for each variant
progress = True  # show progress bars

BEGUN = 'compare.json'  # in a variant's folder: the variables it was begun with
FREE = ('device', 'progress', 'num_workers', 'save_minutes', 'vram_limit_gib', 'checkpoint_path', 'log_path')
COLUMNS = ('AP', 'AP50', 'M parameters', 'GMAC', 'ms a picture', 'epochs', 'minutes')


def settings_of(name, changes):
    """All of _train.py's variables for a variant, checked, as a dict. `changes`: those that are not as they stand."""
    if not name or name != name.strip(' .') or set(name) & set('/\\:*?"<>|'):
        raise UserError(f'variants: {name!r} becomes the name of a folder, so without / \\ : * ? " < > |.')
    if not isinstance(changes, dict):
        raise UserError(f"variants: {name!r} is to be followed by a dictionary, like {{'attention': 'coordinate'}}.")
    values = {
        **common,
        **{
            'konohana_dataset_path': resolve(ROOT / '_train.py', konohana_dataset_path),
            'n_epoch': n_epoch,
            'seed': seed,
        },
        **{'max_minutes': max_minutes, 'device': device, 'progress': progress},
        **changes,
        **{'log_path': resolve(ROOT / '_train.py', compare_out), 'run_name': name},
    }
    try:
        return vars(read(vars(_train), [f'{key}={value}' for key, value in values.items()], _train.ALIASES))
    except UserError as error:
        raise UserError(f'variant {name!r}: {error}') from None


def check_begun(folder, settings):
    """Write down what a variant is begun with; UserError if it was begun with something else."""
    file = folder / BEGUN
    settings = json.loads(json.dumps({key: value for key, value in settings.items() if key not in FREE}))
    if file.is_file():
        try:
            begun = json.loads(file.read_text(encoding='utf-8'))
        except (ValueError, OSError) as error:
            raise UserError(f'{file}: damaged ({error}). Delete {folder} to train this variant anew.') from None
        # Variables that _train.py has gained since then do not count.
        other = [key for key, value in settings.items() if begun.get(key, value) != value]
        if other:
            shown = ', '.join(f'{key}={begun[key]!r} then and {settings[key]!r} now' for key in other)
            raise UserError(
                f'{folder}: this variant was begun with other variables ({shown}). Give the new one a name of its own, '
                'delete that folder, or write to another one (compare_out, or accuracy_out of accuracy.py).'
            )
    else:
        files.write_bytes(file, json.dumps(settings, ensure_ascii=False, indent=1).encode())


def state_of(folder, settings):
    """How far a variant is: `optim.pt`'s content, {} where training has not begun."""
    file = folder / inference.weights_name(settings['use_res2block']).replace('net', 'optim')
    return checkpoint.load(file, needed=('epoch', 'iteration', 'minutes', 'figures')) if file.is_file() else {}


def train(name, settings):
    """Train a variant from where it is to the end of its budget, as a user would.

    Raises:
        UserError: _train.py stopped with an error (which it has printed).
        KeyboardInterrupt: it was stopped.
    """
    changed = [f'{key}={value}' for key, value in settings.items() if value != getattr(_train, key)]
    with StopRequest() as stop:
        # A Ctrl-C in a terminal goes to both: _train.py saves, and here it is remembered until that is done.
        status = subprocess.Popen([sys.executable, str(ROOT / '_train.py'), *changed], stdin=subprocess.DEVNULL).wait()
    if stop.requested or status == 130:
        raise KeyboardInterrupt
    if status:
        raise UserError(f'variant {name!r}: _train.py ended with status {status}; why, it says above.')


def result_of(folder, state):
    """A trained variant's row of the table, without what is measured of the network."""
    rows = curves.History(folder, state['iteration']).rows
    return {
        **{key: state['figures'].get(key, math.nan) for key in ('AP', 'AP50')},
        'epochs': rows[-1]['epoch'] if rows else state['epoch'],
        'minutes': state['minutes'],
    }


def measure(rows, settings):
    """Add what the networks cost to the rows of trained variants: parameters, multiply-adds, time.

    Args:
        rows: dict of name -> row, changed in place. settings: dict of name -> its variables.
    """
    models = {}
    for name in rows:
        own = settings[name]
        file = resolve(ROOT / '_train.py', compare_out) / name / inference.weights_name(own['use_res2block'])
        models[name] = inference.load(file, device, fuse=False)
        rows[name]['M parameters'] = cost.count_parameters(models[name]) / 1e6
        rows[name]['GMAC'] = cost.count_macs(models[name], own['img_hw']) / 1e9
        fuse_batch_norms(models[name])
    own = settings[next(iter(rows))]
    (frames,), _ = read_frames(own['konohana_dataset_path'], [own['val_split']], own['ignore_class'], progress)
    picture = torch.from_numpy(load_image(frames[len(frames) // 2].path)).permute(2, 0, 1).float() / 255
    times = cost.time_models(models, picture.to(inference.pick_device(device)), n_runs)
    for name, seconds in times.items():
        rows[name]['ms a picture'] = statistics.median(seconds) * 1e3


def table(rows, failed):
    """The comparison as Markdown. `failed`: {name: why}."""
    budget = f'{max_minutes:g} minutes' if max_minutes else f'{n_epoch} epochs'
    lines = [
        f'# {Path(konohana_dataset_path).name}, {budget} each, seed {seed}',
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
        f'forward and post-processing on {inference.pick_device(device)}, median of {n_runs} runs, the variants taking '
        'turns. Each was trained once: to tell a small difference from luck, run this with another seed (and another '
        'compare_out).',
    ]
    return '\n'.join(lines) + '\n'


def shown(column, value):
    """A value as text."""
    digits = {'AP': 3, 'AP50': 3, 'M parameters': 2, 'GMAC': 2}.get(column, 1)
    return '–' if value is None or math.isnan(value) else f'{value:.{digits}f}'


def chart(rows):
    """The comparison as bars, one panel for each figure -> bytes of a PNG file; UserError without matplotlib."""
    try:
        from matplotlib import font_manager
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError('The chart is drawn by matplotlib, which is not installed: pip install matplotlib') from None
    panels = COLUMNS[:5]
    names = [name if len(name) <= 28 else f'{name[:25]}...' for name in rows]
    found = find_font(''.join(sorted(set(''.join(names)))))
    if not found:  # the table has them as they are
        names = [name.encode('ascii', 'replace').decode() for name in names]
    font = font_manager.FontProperties(fname=found and found[0], size=10)
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
        axes.set_yticks(range(len(names)), names, fontproperties=font)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[['top', 'right', 'bottom']].set_visible(False)
    axes.invert_yaxis()
    file = io.BytesIO()
    figure.savefig(file, format='png')
    return file.getvalue()


def main():
    require(override(globals()), n_runs=(1, None), max_minutes=(0, None), n_epoch=(1, None))
    if not variants:
        raise UserError("variants={}: name at least one, like {'flagship': {}}.")
    out = resolve(ROOT / '_train.py', compare_out)
    # All variants are checked before the first one trains for hours.
    settings = {name: settings_of(name, changes) for name, changes in variants.items()}
    for name, own in settings.items():
        if not own['val_split']:
            raise UserError(f"variant {name!r}: val_split='': there is nothing to compare by. Name the split.")
        check_begun(out / name, own)

    rows, failed = {}, {}
    for i, (name, own) in enumerate(settings.items(), start=1):
        state = state_of(out / name, own)
        if not is_finished(state, Settings(**own)):
            print(f'[{i}/{len(settings)}] {name}')
            try:
                train(name, own)
            except UserError as error:
                print(f'Problem: {error}')
                failed[name] = error
                continue
            state = state_of(out / name, own)
        if not is_finished(state, Settings(**own)):
            raise KeyboardInterrupt  # _train.py alone was stopped
        rows[name] = result_of(out / name, state)
        files.write_bytes(out / 'table.md', table(rows, failed).encode())
    if rows:
        measure(rows, settings)
        files.write_bytes(out / 'table.md', table(rows, failed).encode())
        print(table(rows, failed))
        files.write_bytes(out / 'chart.png', chart(rows))
        print(f'Table and chart: {out / "table.md"}, {out / "chart.png"}')
    if failed:
        raise UserError(f'Not trained: {", ".join(failed)}. Mend what is said above and run this again.')


if __name__ == '__main__':
    run(main)
