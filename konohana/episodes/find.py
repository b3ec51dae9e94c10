"""The scenes in which several characters are on screen together."""

import difflib

import numpy as np

from konohana.cast import ROMANISED
from konohana.episodes.index import seconds_on_screen
from konohana.episodes.timeline import runs
from konohana.errors import UserError

PAUSE = 1.0  # seconds: a scene goes on over a pause no longer than this


def wanted_names(text, class_names, spell=None):
    """'Yuzu, Satsuki' -> names in `class_names`, whichever way they are spelled; UserError for one that is none."""
    spellings = {name: name for name in class_names}
    for name in class_names:
        for other in (ROMANISED.get(name), (spell or {}).get(name)):
            if other:
                spellings.setdefault(str(other), name)
    by_lower = {key.lower(): name for key, name in spellings.items()}
    names = []
    for part in filter(None, (part.strip() for part in text.replace('，', ',').replace('、', ',').split(','))):
        if part.lower() not in by_lower:
            close = difflib.get_close_matches(part.lower(), by_lower, n=1)
            hint = f' Did you mean {close[0]}?' if close else ''
            raise UserError(f'find={text}: nobody is called {part!r}.{hint} Names: {", ".join(spellings)}.')
        names.append(by_lower[part.lower()])
    return list(dict.fromkeys(names))


def scenes_with(index, names):
    """When all of `names` are on screen: list of (from, to) in seconds, pauses of up to `PAUSE` included."""
    present = seconds_on_screen(index)
    nowhere = np.zeros(len(index.times), bool)
    together = np.logical_and.reduce([present.get(name, nowhere) for name in names])
    ends = np.append(index.times, index.times[-1:] + index.frame_seconds[-1:])
    scenes = []
    for a, b in runs(together):
        if scenes and ends[a] - scenes[-1][1] <= PAUSE:
            scenes[-1] = (scenes[-1][0], float(ends[b]))
        else:
            scenes.append((float(ends[a]), float(ends[b])))
    return scenes
