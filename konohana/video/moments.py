"""The frames of chosen moments of a video file."""

import math

import av

from konohana.errors import UserError
from konohana.video.source import Reducer, Source

NEAR = 8.0  # seconds: to a moment that is no farther from the one before, reading on is faster than seeking
BEFORE = 0.01  # seconds before a moment at which the file is opened
EXACT = 0.002  # seconds that a frame's time may be off: containers round


def frames_at(path, times, hw=None, begin=None, seek=True):
    """Yield (time, picture) of the frames that begin at these moments, or are the next to begin.

    Args:
        path: the video. times: seconds, ascending, none twice.
        hw: height and width of the pictures, None for those of the frames.
        begin: the file's time that is 0 of `times`, see `Source.origin`; None for that of the whole file.
        seek: False reads the whole file up to the last moment, where recordings are joined (`Source.joined`).

    Yields:
        (time, uint8 H x W x 3 RGB); moments at which there is no frame any more are left out.

    Raises:
        UserError: the video cannot be read.
    """
    if begin is None and times:
        with Source(path) as source:
            begin = source.origin
    reduce = Reducer(hw)
    for part in _neighbours(times, NEAR if seek else math.inf):
        yield from _part(path, part, reduce, float(begin), seek)


def _neighbours(times, near):
    """Split ascending times where seeking is faster than reading on."""
    times = list(times)
    cuts = [i for i in range(1, len(times)) if times[i] - times[i - 1] > near]
    return [times[a:b] for a, b in zip([0, *cuts], [*cuts, len(times)], strict=True) if b > a]


def _part(path, times, reduce, begin, seek):
    """The frames of neighbouring moments: the file is opened a little before the first."""
    waiting = list(times)
    try:
        source = Source(path, max(0.0, times[0] - BEFORE), seek=seek)
    except UserError:
        with Source(path):  # it can be read, so there is nothing from here on
            return
    with source:
        unit, shift = source.prepare(source.picture, exact=False), float(source.origin) - begin
        for item in source.items():
            if isinstance(item, av.VideoFrame) and float(item.pts * unit) + shift > waiting[0] - EXACT:
                yield waiting.pop(0), reduce(item)
                if not waiting:
                    return
