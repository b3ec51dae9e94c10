"""Draw the curves of training runs as one picture: python tools/plot_logs.py runs="['logs/net','logs/try 2']"

Reads TensorBoard's event files, so a run may still be in progress.
"""

import fnmatch
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana import files
from konohana.errors import UserError
from konohana.settings import read, require, require_one_of, run
from konohana.training import curves

runs = []  # folders with event files, several or one; [] takes every run in logs
keys = []  # what to draw, one panel each, like ['train/*', 'val/AP']; [] takes train/loss, val/AP50 and val/AP
against = 'epoch'  # 'epoch', 'iteration' or 'minutes'
smooth = 0.0  # smoothing of curves with 100 points or more, 0 (none) to 1, as in TensorBoard
picture_out = 'logs/curves.png'  # file to write: .png, .jpg, .svg or .pdf
overwrite = False  # replace an existing file that this program did not write

ROOT = Path(__file__).resolve().parent.parent
MANY = 100  # curves with fewer points are not smoothed: metrics on val are few
ENDINGS = ('png', 'jpg', 'svg', 'pdf')


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, smooth=(0, 0.9999))
    require_one_of(settings, against=('epoch', 'iteration', 'minutes'))
    target = settings.path(settings.picture_out)
    ending = target.suffix.lower().lstrip('.').replace('jpeg', 'jpg')
    if ending not in ENDINGS:
        raise UserError(f'picture_out={settings.picture_out}: use one of the endings {", ".join(ENDINGS)}.')
    files.claim(target, [], settings.overwrite, 'picture_out')

    scalars = {
        folder: curves.read_events(folder)
        for folder in find_runs([settings.path(f) for f in settings.runs or ['logs']])
    }
    panels = panels_of(scalars, settings)
    files.write_bytes(target, curves.draw(panels, settings.against, ending), remember=True)
    print(f'{len(panels)} panels of {len(scalars)} runs: {target}')


def panels_of(scalars, settings):
    """The panels: {folder: {key: rows}} (see `curves.read_events`) -> {title: {name of a run: n x 2}}."""
    known = sorted({key for values in scalars.values() for key in values})
    patterns = settings.keys or ['train/loss', 'val/AP50', 'val/AP']
    chosen = [key for pattern in patterns for key in known if fnmatch.fnmatchcase(key, pattern)]
    if not chosen:
        raise UserError(f'keys={patterns}: no run has logged these. Logged keys: {", ".join(known)}.')
    names = labels(scalars)
    panels = {key: {} for key in chosen}
    for key in panels:
        for folder, values in scalars.items():
            if key in values:
                x, y = positions(values, values[key], folder, settings.against), values[key][:, 2]
                if len(y) >= MANY:
                    y = smoothed(y, settings.smooth)
                panels[key][names[folder]] = np.stack([x, y], axis=1)
    if len(scalars) == 1:
        # Only several curves get a legend; the name of a single run goes into the title.
        (name,) = names.values()
        panels = {f'{key} ({name})': value for key, value in panels.items()}
    return panels


def find_runs(folders):
    """The folders in and below `folders` that have event files, sorted; UserError for one without any."""
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
    """{folder: its name, with as many parents as make it unique}."""
    folders = list(folders)
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = {folder: '/'.join(folder.parts[-depth:]) for folder in folders}
        if len(set(names.values())) == len(names):
            break
    return names


def positions(values, rows, folder, against):
    """The x positions of the points of `rows` (see `curves.read_events`)."""
    if against == 'iteration':
        return rows[:, 0]
    if against == 'minutes':
        return (rows[:, 1] - min(of_key[0, 1] for of_key in values.values())) / 60
    if 'epoch' not in values:
        raise UserError(f'{folder}: this run has not finished an epoch yet. Use against=iteration.')
    marks = np.concatenate([[[0, 0]], values['epoch'][:, [0, 2]]])
    # The unfinished epoch is taken to go as fast as the one before it.
    slope = (marks[-1] - marks[-2])[1] / max((marks[-1] - marks[-2])[0], 1)
    beyond = np.clip(rows[:, 0] - marks[-1, 0], 0, None)
    return np.interp(rows[:, 0], marks[:, 0], marks[:, 1]) + beyond * slope


def smoothed(values, weight):
    """Exponential moving average of a curve, corrected for its start at zero (as in Adam). NaN and infinity stay."""
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
