"""The indexes of several episodes as one page: screen time by character and episode, meetings, first appearances."""

import os
import re
from pathlib import Path

import numpy as np

from konohana import pages
from konohana.episodes.index import seconds_on_screen


def season_data(indexes, title, spell=None, beside=None):
    """What the page shows, as a dict that JSON can hold.

    Args:
        indexes: list of `Index`, in the order of the episodes. title: of the page.
        spell: {class name: other spelling}, or None.
        beside: the episodes' own pages, relative addresses or '', or None.
    """
    present = [seconds_on_screen(index) for index in indexes]
    names = list(dict.fromkeys(name for index in indexes for name in index.class_names))
    time = np.array([[_seconds(i, p.get(name)) for i, p in zip(indexes, present, strict=True)] for name in names])
    time = time.reshape(len(names), len(indexes))
    order = [k for k in np.argsort(-time.sum(axis=1), kind='stable') if time[k].sum() > 0]
    names = [names[k] for k in order]
    meetings = [
        [
            sum(_seconds(i, p[a] & p[b]) if a in p and b in p else 0.0 for i, p in zip(indexes, present, strict=True))
            for b in names
        ]
        for a in names
    ]
    shown = [str((spell or {}).get(name, name)) for name in names]
    first = []
    for name, text in zip(names, shown, strict=True):
        k = next(k for k, p in enumerate(present) if name in p)
        first.append((k, float(indexes[k].times[present[k][name].argmax()]), text))
    return {
        'title': title,
        'seconds': float(sum(index.frame_seconds.sum() for index in indexes)),
        'episodes': [
            {'name': index.video, 'short': short, 'page': pages.address(page) if page else ''}
            for index, short, page in zip(indexes, short_names(indexes), beside or [''] * len(indexes), strict=True)
        ],
        'names': shown,
        'time': time[order].round(3).tolist(),
        'meetings': np.round(meetings, 3).tolist(),
        'first': [(text, indexes[k].video, round(seconds, 3)) for k, seconds, text in sorted(first)],
    }


def short_names(indexes):
    """The episodes' names without the words that all of them begin with: columns have no room for more."""
    names = [index.video for index in indexes]
    same = os.path.commonprefix(names)  # noqa: RUF071  letter by letter is what is meant
    common = re.sub(r'\w+$', '', same) if len(set(names)) > 1 else ''
    return [f'…{name[len(common) :]}' if common else name for name in names]


def _seconds(index, there):
    return 0.0 if there is None else float(index.frame_seconds[there].sum())


def write_season(path, indexes, title, spell=None, beside=None):
    """Write the page of a season; see `season_data`."""
    data = season_data(indexes, title, spell, beside)
    pages.write_page(path, Path(__file__).with_suffix('.html'), data, title)
