"""The scenes in which several characters are on screen together, in one episode or in many."""

import difflib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from konohana.cast import ROMANISED
from konohana.episodes.index import Index, seconds_on_screen
from konohana.episodes.timeline import clock, runs
from konohana.errors import UserError, count, printable

PAUSE = 1.0  # seconds: a scene goes on over a pause no longer than this


@dataclass
class Episode:
    """An episode that is searched.

    Attributes:
        index: its `Index`. name: begins the names of its clips.
        video: the file that clips are cut out of. start: second of it at which the index begins; None for an annotated
            file, which begins with the index's first frame. joined: see `Index`, where that file is the index's own.
    """

    index: Index
    name: str
    video: Path | str
    start: float | None = 0.0
    joined: bool = False


@dataclass
class Scene:
    """A scene of an `Episode`, `begin` to `end` in seconds of its index."""

    episode: Episode
    begin: float
    end: float


def wanted_names(text, class_names, spell=None):
    """'Yuzu, Satsuki' -> names in `class_names`, whichever way they are spelled; UserError for one that is none."""
    spellings = {name: name for name in class_names}
    for name in class_names:
        for other in (ROMANISED.get(name), (spell or {}).get(name)):
            if other:
                spellings.setdefault(str(other), name)
    known = {**{key.lower(): name for key, name in spellings.items()}, **spellings}  # of 'Al' and 'AL' each is found
    parts = text.replace('，', ',').replace('、', ',').split(',')
    names = []
    for part in [text] if text in spellings else filter(None, map(str.strip, parts)):  # a name may have a comma
        name = known.get(part) or known.get(part.lower())
        if name is None:
            close = difflib.get_close_matches(part.lower(), known, n=1)
            hint = f' Did you mean {close[0]}?' if close else ''
            raise UserError(f'find={text}: nobody is called {part!r}.{hint} Names: {", ".join(spellings)}.')
        names.append(name)
    if not names:
        raise UserError(f'find={text}: it names nobody. Write names, separated by commas.')
    return list(dict.fromkeys(names))


def scenes_with(index, names):
    """When all of `names` are on screen: list of (from, to) in seconds, pauses of up to `PAUSE` included."""
    present = seconds_on_screen(index)
    nowhere = np.zeros(len(index.times), bool)
    together = np.logical_and.reduce([present.get(name, nowhere) for name in names])
    borders = index.borders
    scenes = []
    for a, b in runs(together):
        if scenes and borders[a] - scenes[-1][1] <= PAUSE:
            scenes[-1] = (scenes[-1][0], float(borders[b]))
        else:
            scenes.append((float(borders[a]), float(borders[b])))
    return scenes


def find_scenes(episodes, text, spell=None):
    """Find and print the scenes in which all names of `text`, like 'Yuzu, Satsuki', are on screen.

    Args:
        episodes: list of `Episode`. spell: {class name: other spelling}, or None.

    Returns:
        (names found, list of `Scene`).
    """
    names = wanted_names(text, list(dict.fromkeys(n for e in episodes for n in e.index.class_names)), spell)
    scenes = [Scene(e, *times) for e in episodes for times in scenes_with(e.index, names)]
    total = sum(scene.end - scene.begin for scene in scenes)
    print(f'{", ".join(map(printable, names))}: {count(len(scenes), "scene")}, {clock(total)} together')
    for scene in scenes:
        title = f'{printable(scene.episode.index.video)}: ' if len(episodes) > 1 else ''
        print(f'  {title}{clock(scene.begin)} to {clock(scene.end)}')
    return names, scenes
