"""An episode's index as one self-contained HTML page: it opens from disk, without a server and without the network."""

import os
from pathlib import Path

import numpy as np

from konohana import pages
from konohana.cast import ROMANISED
from konohana.drawing import class_colour
from konohana.episodes.index import seconds_on_screen
from konohana.episodes.timeline import spans_of

N_PICTURES = 8  # of each character, evenly spread over the episode
PICTURE_HEIGHT = 120  # pixels
BROWSER_ENDINGS = ('.mp4', '.m4v', '.webm', '.mov', '.mkv')  # what a browser may play


def picture_moments(index):
    """{name: list of (frame, box, row)}: where each character is seen best, evenly spread over the episode.

    Where `index.portraits` has pictures, nearly the best of these.

    Args:
        index: an `Index`.

    Returns:
        dict of at most `N_PICTURES` moments for each name, in their order; boxes are x1, y1, x2, y2, `row` is the
        detection's.
    """
    moments = {}
    for track in index.tracks:
        rows, areas = track['rows'], (track['boxes'][:, 2:] - track['boxes'][:, :2]).clip(0).prod(1)
        taken = np.array([row in index.portraits for row in rows.tolist()])
        best = int(np.where(taken if taken.any() else rows >= 0, areas, -1).argmax())
        quality = bool(taken.any()), track['probability'] * areas[best] ** 0.5
        moments.setdefault(track['name'], []).append(
            (int(track['frames'][best]), track['boxes'][best], int(rows[best]), quality)
        )
    chosen = {}
    for name, found in moments.items():
        found.sort(key=lambda moment: moment[0])
        parts = np.array_split(np.arange(len(found)), min(N_PICTURES, len(found)))
        best = [max(part, key=lambda i: found[i][3]) for part in parts]
        chosen[name] = [found[i][:3] for i in best]
    return chosen


def portrait_of(frame, box):
    """A part of a frame (uint8 H x W x 3 RGB) as a data URL; box: x1, y1, x2, y2 in its pixels."""
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    x1, y1 = min(max(0, x1), frame.shape[1] - 1), min(max(0, y1), frame.shape[0] - 1)
    return pages.data_url(frame[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)], PICTURE_HEIGHT)


def write_page(path, index, video, spell=None, pictures=None, offset=0.0, preview=None):
    """Write the page of an `Index`.

    Args:
        video: path of the file that is played: the annotated one, or the source.
        spell: {class name: other spelling}, or None.
        pictures: {name: list of (frame, data URL)}, see `picture_moments` and `portrait_of`; or None.
        offset: second of that file at which the index begins.
        preview: path of a small copy of the index's part, which is played instead; or None.
    """
    path, video = Path(path), Path(video)
    lengths, borders = index.frame_seconds, index.borders
    characters, spans = [], spans_of(index)
    for name, there in seconds_on_screen(index).items():
        characters.append(
            {
                **{'name': name, 'shown': str((spell or {}).get(name, name)), 'spans': spans[name]},
                'latin': ROMANISED.get(name, ''),
                'seconds': round(float(lengths[there].sum()), 3),
                'colour': '#{:02x}{:02x}{:02x}'.format(*class_colour(index.class_names.index(name))),
                'pictures': [(float(index.times[f]), url) for f, url in (pictures or {}).get(name, ())],
            }
        )
    beside = video.name if video.parent.resolve() == path.parent.resolve() else str(video.resolve())
    data = {
        **{
            'video': index.video,
            'file': os.fsencode(beside).decode(errors='replace'),
            'start': float(borders[0]),
            'end': float(borders[-1]),
        },
        'player': pages.address(beside) if video.suffix.lower() in BROWSER_ENDINGS else '',
        **{'offset': offset, 'playerOffset': offset},
        'shots': [round(float(index.times[s]), 3) for s in index.shots],
        'chapters': list(index.chapters),
        'characters': characters,
    }
    if preview:
        data.update(player=pages.address(Path(preview).name), playerOffset=0.0)
    pages.write_page(path, Path(__file__).with_suffix('.html'), data, index.video)
