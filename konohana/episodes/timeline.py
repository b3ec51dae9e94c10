"""An episode's index as a picture: a row for each character, shots and chapters marked, screen time beside it."""

import io

import numpy as np

from konohana import files
from konohana.drawing import class_colour
from konohana.episodes.index import seconds_on_screen
from konohana.errors import UserError
from konohana.fonts import for_charts, name_ticks

JOINED = 0.5  # seconds: a shorter gap does not interrupt somebody's presence
ROW = 0.32  # inches
LONGEST_TEXT = 40  # characters of a name or a title
MARKED_SHOTS = 400  # more cuts than that would make a grey wall


def clock(seconds):
    """Seconds -> '1:02:03' or '2:03'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


def runs(present):
    """Bool array -> list of (first, last + 1) of its runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], present, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def spans_of(index):
    """{name: list of [from, to]} in seconds, the longest on screen first; gaps of up to `JOINED` seconds are closed."""
    borders = index.borders
    found = {}
    for name, there in seconds_on_screen(index).items():
        spans = found[name] = []
        for a, b in runs(there):
            if spans and borders[a] - spans[-1][1] <= JOINED:
                spans[-1][1] = round(float(borders[b]), 3)
            else:
                spans.append([round(float(borders[a]), 3), round(float(borders[b]), 3)])
    return found


def _shortened(text):
    text = str(text)
    return text if len(text) <= LONGEST_TEXT else f'{text[: LONGEST_TEXT - 3]}...'


def write_timeline(path, index, spell=None, font=None):
    """Write the timeline of an `Index` as a PNG.

    Args:
        spell: {class name: other spelling}, or None. font: path of a font file to prefer, or None.

    Raises:
        UserError: matplotlib is not installed; the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError:
        raise UserError('The timeline is drawn by matplotlib, which is not installed: pip install matplotlib') from None
    present = seconds_on_screen(index)
    lengths, borders = index.frame_seconds, index.borders
    whole = max(float(lengths.sum()), 1e-9)
    figure = Figure((12, 1.2 + ROW * max(len(present), 1)), dpi=110, layout='constrained')
    axes = figure.add_subplot()
    for row, (name, there) in enumerate(present.items()):
        spans = [(borders[a], borders[b] - borders[a]) for a, b in runs(there)]
        colour = np.array(class_colour(index.class_names.index(name))) / 255
        axes.broken_barh(spans, (row - 0.38, 0.76), facecolors=[colour])
    if len(index.shots) <= MARKED_SHOTS:
        for start in index.shots[1:]:
            axes.axvline(index.times[start], color='0.85', linewidth=0.5, zorder=0)
    chapters = [(seconds, title) for seconds, title in index.chapters if seconds < borders[-1]]
    titles = for_charts([_shortened(title) for _, title in chapters], font, 'chapter')
    for (seconds, _), (title, face) in zip(chapters, titles, strict=True):
        axes.axvline(seconds, color='0.3', linewidth=1, linestyle='--', zorder=0)
        style = {'fontproperties': face, 'fontsize': 8}
        axes.annotate(title, (seconds, 1.01), xycoords=('data', 'axes fraction'), **style)
    names = for_charts([_shortened((spell or {}).get(name, name)) for name in present], font)
    labels = []
    for (name, face), there in zip(names, present.values(), strict=True):
        seconds = float(lengths[there].sum())
        labels.append((f'{name}   {clock(seconds)}   {seconds / whole:.0%}', face))
    name_ticks(axes.yaxis, labels, 10)
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    axes.set_xlim(borders[0], borders[-1])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value)))
    axes.spines[['top', 'right']].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format='png')
    files.write_bytes(path, file.getvalue(), remember=True)
