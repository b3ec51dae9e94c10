"""Who is on screen, for players: a WebVTT track beside the video, and chapters that name who is in each scene."""

import bisect
import itertools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from konohana import files
from konohana.episodes.index import seconds_on_screen
from konohana.episodes.timeline import spans_of

SHORTEST = 15.0  # seconds: a scene of less becomes a part of the one before or after
PART = 0.2  # of a scene that somebody is on screen to be named as in it
MILLISECOND = Fraction(1, 1000)


def cues(index):
    """Who is on screen from when to when: list of (from, to, list of names), without the moments of nobody."""
    spans = spans_of(index)
    moments = sorted({moment for times in spans.values() for span in times for moment in span})
    found = []
    for begin, end in itertools.pairwise(moments):
        # Of somebody's times, the last one that has begun.
        last = {name: times[bisect.bisect(times, begin, key=lambda span: span[0]) - 1] for name, times in spans.items()}
        names = [name for name, (a, b) in last.items() if a <= begin and end <= b]
        if names:
            found.append((begin, end, names))
    return found


def write_vtt(path, index, spell=None, start=0.0):
    """Write who is on screen as WebVTT, which players show as a subtitle track.

    Args:
        spell: {class name: other spelling}, or None. start: second of the video at which the index begins.
    """
    lines = ['WEBVTT', '']
    for begin, end, names in cues(index):
        text = ', '.join(_plain((spell or {}).get(name, name)) for name in names)
        lines += [f'{_clock(begin + start)} --> {_clock(end + start)} line:0', text, '']
    files.write_text(path, '\n'.join(lines), remember=True)


def _on_one_line(name):
    return ' '.join(str(name).split())


def _plain(name):
    """A name as WebVTT shows it."""
    return _on_one_line(name).replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')


def _clock(seconds):
    minutes, milliseconds = divmod(round(seconds * 1000), 60000)
    return f'{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}.{milliseconds % 1000:03}'


@dataclass
class _Part:
    """Frames `first` to `last` (not included): their `length` in seconds, and `present`, seconds of each name."""

    first: int
    last: int
    length: float
    present: np.ndarray

    @property
    def cast(self):
        return set(np.flatnonzero(self.present >= max(PART * self.length, 1e-9)).tolist())

    @property
    def named(self):
        """Who is told to be there, the longest on screen first: of many who pass by, the first two."""
        order = [k for k in np.argsort(-self.present, kind='stable').tolist() if self.present[k] > 0]
        return [k for k in order if k in self.cast] or order[:2]

    def joined(self, other):
        return _Part(self.first, other.last, self.length + other.length, self.present + other.present)

    def likeness(self, other):
        either = self.cast | other.cast
        return len(self.cast & other.cast) / len(either) if either else 1.0


def scenes(index, shortest=SHORTEST):
    """The scenes of an episode and who is in each: list of (from, to, list of names).

    A scene is a row of shots with the same people. One of under `shortest` seconds is joined to that neighbour whose
    people are more alike.
    """
    lengths, present = index.frame_seconds, seconds_on_screen(index)
    names, there = list(present), np.array(list(present.values())).reshape(len(present), len(index.times))
    parts = []
    for a, b in itertools.pairwise([*index.shots, len(index.times)]):
        part = _Part(a, b, float(lengths[a:b].sum()), (there[:, a:b] * lengths[a:b]).sum(1))
        if parts and parts[-1].cast == part.cast:
            parts[-1] = parts[-1].joined(part)
        else:
            parts.append(part)
    while len(parts) > 1:
        short = min(range(len(parts)), key=lambda i: parts[i].length)
        if parts[short].length >= shortest:
            break
        first = [i for i in (short - 1, short) if 0 <= i < len(parts) - 1]
        best = max(first, key=lambda i: parts[i].likeness(parts[i + 1]))
        parts[best : best + 2] = [parts[best].joined(parts[best + 1])]
    ends = np.append(index.times, index.times[-1:] + lengths[-1:])
    return [(float(ends[p.first]), float(ends[p.last]), [names[k] for k in p.named]) for p in parts]


def chapters(index, spell=None, start=0.0):
    """`scenes` as chapters, as PyAV's `set_chapters` takes them; see `write_vtt`."""
    return [
        {
            'id': number,
            'start': round((begin + start) * 1000),
            'end': round((end + start) * 1000),
            'time_base': MILLISECOND,
            'metadata': {'title': ', '.join(_on_one_line((spell or {}).get(n, n)) for n in names) or '(nobody)'},
        }
        for number, (begin, end, names) in enumerate(scenes(index))
    ]


def write_chapters(path, index, spell=None, start=0.0):
    """Write `chapters` as FFmpeg's metadata, which mpv takes: mpv --chapters-file=... video; see `write_vtt`."""
    lines = [';FFMETADATA1']
    for chapter in chapters(index, spell, start):
        # FFmpeg reads a backslash before the line's end as if the line went on.
        title = chapter['metadata']['title'].replace('\\', '\u29f5')
        title = ''.join('\\' + c if c in '=;#' else c for c in title)
        lines += [
            '[CHAPTER]',
            'TIMEBASE=1/1000',
            f'START={chapter["start"]}',
            f'END={chapter["end"]}',
            f'title={title}',
        ]
    files.write_text(path, '\n'.join([*lines, '']), remember=True)
