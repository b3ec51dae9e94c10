"""Curves of training runs as a picture, and where their numbers are kept.

A run's folder of logs has TensorBoard's event files, with a value for each iteration, and `curves.jsonl`, with one line
for each epoch: small enough to be read and rewritten as a whole after every epoch, which event files are not.
"""

import io
import json
import math
from pathlib import Path

import numpy as np

from konohana import files
from konohana.cast import ROMANISED
from konohana.errors import UserError
from konohana.fonts import find_font, no_formula

PANEL_SIZE = (6.4, 4.2)  # inches, at 110 dots per inch
N_MARKED = 40  # a curve of no more points shows them
LINE_STYLES = ('-', '--', ':', '-.')


# Losses' names in earlier versions -> their names now, under which their curves continue.
FORMER_LOSSES = {'loss_confidence': 'loss_objectness'}


class History:
    """The losses and metrics of a run, epoch by epoch, in `curves.jsonl`, and `curves.png` made of them.

    Args:
        folder: where the files are; the run's folder of logs.
        iteration: where the run resumes; rows that a killed run wrote beyond it are dropped.

    Each of `rows` is a dict of `epoch` (parts of epochs count), `iteration`, `losses` (name -> mean over the epoch)
    and, where there was an evaluation, `AP` (mAP@0.5:0.95) and `AP50` (mAP@0.5).

    Raises:
        UserError: a damaged file.
    """

    def __init__(self, folder, iteration=0):
        self.file, self.picture = Path(folder) / 'curves.jsonl', Path(folder) / 'curves.png'
        self.rows = []
        if iteration and self.file.is_file():
            try:
                rows = [json.loads(line) for line in self.file.read_text(encoding='utf-8').splitlines() if line.strip()]
                self.rows = [self._checked(row) for row in rows if row['iteration'] <= iteration]
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
                raise UserError(
                    f'{self.file}: damaged ({error}). Move it away; the curves then start from here.'
                ) from None

    @staticmethod
    def _checked(row):
        """A row in the form that `add` writes now; ValueError for one that it cannot have written."""
        losses = {FORMER_LOSSES.get(name, name): value for name, value in row['losses'].items()}
        numbers = (
            row['epoch'],
            row['iteration'],
            *losses.values(),
            *(row[key] for key in ('AP', 'AP50') if key in row),
        )
        if not all(isinstance(number, (int, float)) for number in numbers):
            raise ValueError('a value is not a number')
        return {**row, 'losses': losses}

    def add(self, epoch, iteration, losses, metrics=None):
        """Add an epoch and write the file. `metrics`: of `evaluation.evaluate`, or None."""
        row = {'epoch': epoch, 'iteration': iteration, 'losses': losses}
        for key in ('AP', 'AP50'):
            if metrics and not math.isnan(metrics[key]):
                row[key] = metrics[key]
        # A run killed just after it wrote this epoch down writes it again.
        self.rows = [row for row in self.rows if row['iteration'] < iteration] + [row]
        files.write_text(self.file, ''.join(json.dumps(row) + '\n' for row in self.rows))

    def draw(self):
        """Write `curves.png`: losses beside mAP@0.5 and mAP@0.5:0.95, against epochs. UserError without matplotlib."""
        names = dict.fromkeys(name for row in self.rows for name in row['losses'])
        losses = {}
        for name in names:
            title = 'all together' if name == 'loss' else name.removeprefix('loss_').replace('_', ' ')
            losses[title] = [(row['epoch'], row['losses'][name]) for row in self.rows if name in row['losses']]
        quality = {
            title: [(row['epoch'], row[key]) for row in self.rows if key in row]
            for key, title in (('AP50', 'mAP@0.5'), ('AP', 'mAP@0.5:0.95'))
        }
        panels = {'Losses (training)': losses, 'mAP (val)': quality}
        files.write_bytes(self.picture, draw(panels, 'epoch'))


def read_events(folder):
    """The scalars in the TensorBoard event files directly in `folder`.

    Returns:
        dict of key -> array of n rows (iteration, seconds since 1970, value), in the order of iterations. Iterations
        that were logged again after a resume count once.
    """
    from tensorboard.backend.event_processing import event_accumulator

    every = {event_accumulator.SCALARS: 0, event_accumulator.IMAGES: 1}
    events = event_accumulator.EventAccumulator(str(folder), size_guidance=every)
    events.Reload()
    scalars = {
        key: np.array([(event.step, event.wall_time, event.value) for event in events.Scalars(key)])
        for key in events.Tags()[event_accumulator.SCALARS]
    }
    for former, name in FORMER_LOSSES.items():
        before = scalars.pop(f'train/{former}', None)
        if before is not None:
            scalars[f'train/{name}'] = np.concatenate([before, scalars.get(f'train/{name}', before[:0])])
    return scalars


def draw(panels, x_title, ending='png'):
    """Draw curves in panels, two beside each other.

    Args:
        panels: dict of title -> dict of label -> (list of (x, y), or array of such rows); values that are not finite
            leave a gap.
        x_title: what x is. ending: 'png', 'jpg', 'svg' or 'pdf'.

    Returns:
        bytes of the picture file.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib import font_manager
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError('Drawing curves needs matplotlib: pip install matplotlib') from None
    font, spell = font_manager.FontProperties(), str
    texts = ''.join([*panels, *(label for curves in panels.values() for label in curves)])
    if not texts.isascii():
        found = find_font(''.join(sorted(set(texts))))
        font, spell = (font_manager.FontProperties(fname=found[0]), str) if found else (font, _latin)
    columns = min(2, len(panels))
    n_rows = -(-len(panels) // columns)
    # Without pyplot: no window system is touched, and no figure stays open.
    figure = Figure((PANEL_SIZE[0] * columns, PANEL_SIZE[1] * n_rows), dpi=110, layout='constrained')
    for i, (title, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(n_rows, columns, i)
        curves = {spell(label): np.asarray(points, np.float64).reshape(-1, 2) for label, points in curves.items()}
        _draw_panel(axes, curves, font)
        axes.set_title(no_formula(spell(title)), fontproperties=font, fontsize=12)
        axes.set_xlabel(x_title)
    file = io.BytesIO()
    figure.savefig(file, format=ending)
    return file.getvalue()


def _draw_panel(axes, curves, font):
    """Draw one panel. curves: dict of label -> n x 2 array of (x, y). font: of the legend."""
    for k, (label, points) in enumerate(curves.items()):
        axes.plot(
            *points.T,
            color=f'C{k % 10}',
            linestyle=LINE_STYLES[k // 10 % len(LINE_STYLES)],
            marker='o' if len(points) <= N_MARKED else None,
            markersize=3.5,
            linewidth=1.5,
            label=no_formula(label),
        )
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    xs, ys = np.concatenate([np.zeros((0, 2)), *curves.values()]).T
    ys = ys[np.isfinite(ys)]
    if not len(ys):
        axes.text(0.5, 0.5, 'nothing yet', transform=axes.transAxes, ha='center', color='grey')
    elif ys.min() >= 0:
        # Start at 0, so that heights of shares such as mean average precision can be compared.
        axes.set_ylim(bottom=0)
    if len(xs) and xs.max() > 0:
        axes.set_xlim(0, xs.max() * 1.02)
        # Ticks at whole epochs, except in a run so short that only parts of epochs tell points apart.
        axes.xaxis.get_major_locator().set_params(integer=xs.max() >= 3)
    if len(ys) and len(curves) > 1:
        axes.legend(prop=font, fontsize=9, frameon=False)


def _latin(text):
    """A text in letters that every font has; the cast's names as in `cast.ROMANISED`, what is unknown as '?'."""
    for name, romanised in ROMANISED.items():
        text = text.replace(name, romanised)
    return text.encode('ascii', 'replace').decode()
