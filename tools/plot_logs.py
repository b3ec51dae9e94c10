"""Curves of one or several training runs as one picture: python tools/plot_logs.py runs="['logs/net','logs/try 2']"

It reads TensorBoard's event files, so runs that are still going on are welcome.
"""

import fnmatch
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana import files
from konohana.errors import UserError
from konohana.settings import override, require, resolve, run
from konohana.training import curves

runs = []  # folders with event files, several or one; [] takes every run in logs
keys = []  # what to draw, a panel each, like ['train/*', 'val/AP']; [] takes train/loss, val/AP50 and val/AP
against = 'epoch'  # 'epoch', 'iteration' or 'minutes'
smooth = 0.0  # smoothing of curves of a hundred points or more, 0 (none) to 1, as in TensorBoard
picture_out = 'logs/curves.png'  # file to write: .png, .jpg, .svg or .pdf

MANY = 100  # points of a curve from which on it is smoothed: figures on val are fewer, and stand for themselves

ENDINGS = ('png', 'jpg', 'svg', 'pdf')


def main():
    require(override(globals()), smooth=(0, 0.9999))
    if against not in ('epoch', 'iteration', 'minutes'):
        raise UserError(f"against={against!r}: it is 'epoch', 'iteration' or 'minutes'.")
    tools = Path(__file__).resolve().parent  # relative paths start at its parent, the repository's root
    target = resolve(tools, picture_out)
    ending = target.suffix.lower().lstrip('.').replace('jpeg', 'jpg')
    if ending not in ENDINGS:
        raise UserError(f'picture_out={picture_out}: the ending is one of {", ".join(ENDINGS)}.')

    scalars = {}
    for folder in find_runs([resolve(tools, folder) for folder in runs] or [resolve(tools, 'logs')]):
        scalars[folder] = curves.read_events(folder)
    known = sorted({key for values in scalars.values() for key in values})
    patterns = keys or ['train/loss', 'val/AP50', 'val/AP']
    chosen = [key for pattern in patterns for key in known if fnmatch.fnmatchcase(key, pattern)]
    if not chosen:
        raise UserError(f'keys={patterns}: nothing of this kind was logged. There is: {", ".join(known)}.')
    names = labels(scalars)
    panels = {key: {} for key in chosen}
    for key in panels:
        for folder, values in scalars.items():
            if key in values:
                x, y = positions(values, values[key], folder), values[key][:, 2]
                if len(y) >= MANY:
                    y = smoothed(y, smooth)
                panels[key][names[folder]] = np.stack([x, y], axis=1)
    if len(scalars) == 1:
        # A legend is drawn for several curves; of a single run its name still says which it is.
        (name,) = names.values()
        panels = {f'{key} ({name})': value for key, value in panels.items()}
    files.write_bytes(target, curves.draw(panels, against, ending))
    print(f'{len(panels)} panels of {len(scalars)} runs: {target}')


def find_runs(folders):
    """The folders with event files in and below `folders`, sorted; UserError for one that has none."""
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f'{folder}: there is no such folder.')
        here = sorted({file.parent for file in folder.rglob('events.out.tfevents.*')})
        if not here:
            raise UserError(
                f"{folder}: no run there (no TensorBoard event files). Train first, or name a run's folder."
            )
        found += here
    return list(dict.fromkeys(found))


def labels(folders):
    """{folder: its name, with as many parents as it takes to tell all of them apart}."""
    folders = list(folders)
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = {folder: '/'.join(folder.parts[-depth:]) for folder in folders}
        if len(set(names.values())) == len(names):
            break
    return names


def positions(values, rows, folder):
    """Where the points of `rows` (see `curves.read_events`) lie along the x axis."""
    if against == 'iteration':
        return rows[:, 0]
    if against == 'minutes':
        return (rows[:, 1] - min(of_key[0, 1] for of_key in values.values())) / 60
    if 'epoch' not in values:
        raise UserError(f'{folder}: no epoch was logged there yet. Use against=iteration.')
    marks = np.concatenate([[[0, 0]], values['epoch'][:, [0, 2]]])
    # The epoch at the present moment of a run goes on as fast as the one before.
    slope = (marks[-1] - marks[-2])[1] / max((marks[-1] - marks[-2])[0], 1)
    beyond = np.clip(rows[:, 0] - marks[-1, 0], 0, None)
    return np.interp(rows[:, 0], marks[:, 0], marks[:, 1]) + beyond * slope


def smoothed(values, weight):
    """Exponential moving average of a curve, without its start's pull towards zero; a single number stays as it is."""
    average, total, result = 0.0, 0.0, []
    for value in values:
        if not np.isfinite(value):
            result.append(value)
            continue
        average, total = weight * average + (1 - weight) * value, weight * total + (1 - weight)
        result.append(average / total)
    return np.array(result)


if __name__ == '__main__':
    run(main)
