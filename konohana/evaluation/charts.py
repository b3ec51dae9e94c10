"""What went wrong in a test as pictures: a confusion matrix, precision against recall, F1 against thresholds."""

import io
import math

import numpy as np

from konohana.drawing import class_colour
from konohana.evaluation.mistakes import THRESHOLDS
from konohana.fonts import for_charts, name_ticks

CELL = 0.42  # inches: a row of the confusion matrix
MOST_COUNTS = 45  # names: counts are written into cells up to this
PANEL = (2.5, 2.2)  # inches: one name's precision against recall
DPI = 110


def _figure(width, height):
    from matplotlib.figure import Figure  # optional, see `report.write_report`

    # Without pyplot: no window system is touched, and no figure stays open.
    return Figure((width, height), dpi=DPI, layout='constrained')


def _png(figure):
    file = io.BytesIO()
    figure.savefig(file, format='png')
    return file.getvalue()


def confusion_chart(counts, names, font=None):
    """A confusion matrix as PNG bytes: labelled names down, given names across, each row shaded by its shares.

    Args:
        counts: see `mistakes.confusion`. names: of the classes; those that occur nowhere are left out.
        font: path of a font file to prefer, or None.
    """
    n = len(names)
    used = np.array([i for i in range(n + 1) if i == n or counts[i].any() or counts[:, i].any()])
    counts = counts[np.ix_(used, used)]
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = 1.8 + CELL * len(used) * (1 if len(used) <= MOST_COUNTS else 0.4)
    figure = _figure(side + 0.4, side)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    size = 9 if len(used) <= MOST_COUNTS else 5
    shown = [names[i] for i in used[:-1]]
    for axis, extra in ((axes.yaxis, 'nobody there'), (axes.xaxis, 'missed')):
        name_ticks(axis, for_charts([*shown, extra], font), size)
    axes.tick_params(axis='x', labelrotation=90)
    if len(used) <= MOST_COUNTS:
        for i, k in zip(*counts.nonzero(), strict=True):
            colour = 'white' if shares[i, k] > 0.55 else 'black'
            axes.text(k, i, str(counts[i, k]), ha='center', va='center', color=colour, fontsize=8)
    axes.set_xticks(np.arange(len(used) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(used) + 1) - 0.5, minor=True)
    axes.grid(which='minor', color='0.85', linewidth=0.5)
    axes.tick_params(which='minor', length=0)
    axes.axhline(len(used) - 1.5, color='black', linewidth=1)
    axes.axvline(len(used) - 1.5, color='black', linewidth=1)
    axes.set_ylabel('labelled')
    axes.set_xlabel('given')
    return _png(figure)


def precision_recall_chart(curves, names, objects, threshold, font=None):
    """Precision against recall at IoU 0.5, a panel for each class, as PNG bytes. A dot marks the threshold.

    Args:
        curves: see `coco_metrics.precision_recall`. objects: {class name: number of objects}.
        names: {class name: how to show it}, in the order of the classes.
    """
    there = [name for name in names if name in curves]
    columns = min(5, max(1, math.ceil(len(there) ** 0.5)))
    rows = max(1, -(-len(there) // columns))
    figure = _figure(max(PANEL[0] * columns, 3), PANEL[1] * rows + 0.3)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    recalls = np.linspace(0, 1, 101)
    numbers = {name: i for i, name in enumerate(names)}
    for panel, name, (text, face) in zip(axes.flat, there, for_charts([names[k] for k in there], font), strict=False):
        precision, scores = curves[name]
        colour = np.array(class_colour(numbers[name])) / 255
        panel.fill_between(recalls, precision, color=colour, alpha=0.35, linewidth=0)
        panel.plot(recalls, precision, color='0.25', linewidth=1.3)
        above = np.flatnonzero(scores >= threshold)
        if len(above):
            panel.plot(recalls[above[-1]], precision[above[-1]], 'o', color='black', markersize=5)
        title = f'{text}  {precision.mean():.2f}  ({objects[name]})'
        panel.set_title(title, fontproperties=face, fontsize=10)
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1.03)
        panel.grid(alpha=0.3)
    for panel in axes.flat[len(there) :]:
        panel.set_axis_off()
    figure.supxlabel(f'recall   (name, AP50, objects; the dot is threshold {threshold:g})', fontsize=10)
    figure.supylabel('precision', fontsize=10)
    return _png(figure)


def f1_chart(found, named, best, threshold):
    """F1 against thresholds as PNG bytes.

    Args:
        found, named: F1 at `THRESHOLDS` of finding, and of finding and naming rightly.
        best: (threshold, F1) of the highest point of `named`. threshold: the one that is used.
    """
    figure = _figure(6.4, 4.2)
    axes = figure.add_subplot()
    axes.plot(THRESHOLDS, found, color='C0', linewidth=1.5, label='found, whatever the name')
    axes.plot(THRESHOLDS, named, color='C1', linewidth=1.5, label='found and rightly named')
    axes.axvline(threshold, color='0.6', linestyle=':', linewidth=1.2, label=f'threshold used: {threshold:g}')
    axes.plot(*best, 'o', color='C1', markersize=7, label=f'best: {best[1]:.3f} at {best[0]:.2f}')
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel('threshold')
    axes.set_ylabel('F1')
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return _png(figure)
