"""Names and boxes as an ASS subtitle track: the video stays untouched, and players switch the labels on and off."""

from collections import deque
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from konohana import files
from konohana.drawing import class_colour, text_size
from konohana.errors import UserError, printable
from konohana.video.copying import (
    accepted,
    attach_cover,
    copied,
    describe,
    is_text,
    tags,
    text_recoder,
    why_not_copied,
)
from konohana.video.source import ANY_TAGS, Source, Steady, is_cover

STILL = 1.5  # pixels of a picture 360 high: a box that moves less is not drawn anew
LAYER_BOX, LAYER_NAME = 0, 1
TITLE = 'Who is who'  # of the track


def pysubs2_module():
    """The package pysubs2; UserError where it is not installed."""
    try:
        import pysubs2
    except ImportError:
        raise UserError("labels_as='subtitles' needs pysubs2: pip install pysubs2") from None
    return pysubs2


def steps(index, track):
    """A track's box as it stands still and moves on: list of (from, to, box), seconds and x1, y1, x2, y2 in pixels."""
    borders = index.borders
    still = STILL * index.hw[0] / 360
    found = []
    for frame, box in zip(track['frames'], track['boxes'], strict=True):
        if found and np.abs(found[-1][2] - box).max() < still:
            found[-1][1] = borders[frame + 1]
        else:
            found.append([borders[frame], borders[frame + 1], box])
    return found


def write_subtitles(path, index, spell=None):
    """Write an `Index` as .ass, at the video's own size and times.

    Args:
        spell: {class name: other spelling}, or None.

    Raises:
        UserError: pysubs2 is not installed; the file cannot be written.
    """
    pysubs2 = pysubs2_module()
    height, width = index.hw
    size = text_size(index.hw)
    subs = pysubs2.SSAFile()
    subs.info.update({'PlayResX': str(width), 'PlayResY': str(height), 'ScaledBorderAndShadow': 'yes'})
    subs.styles['Default'].fontsize = round(1.3 * size)
    subs.styles['Default'].outline = max(1, size / 10)
    subs.styles['Default'].shadow = 0
    for track in index.tracks:
        red, green, blue = class_colour(index.class_names.index(track['name']))
        colour = f'&H{blue:02X}{green:02X}{red:02X}&'
        name = _plain(str((spell or {}).get(track['name'], track['name'])))
        field = name.replace(',', ' ')  # a comma ends it
        for begin, end, box in steps(index, track):
            x1, y1, x2, y2 = (round(float(value)) for value in np.clip(box, 0, (width, height, width, height)))
            outline = rf'{{\an7\pos(0,0)\p1\1a&HFF&\bord{max(1, size // 7)}\3c{colour}}}'
            outline += f'm {x1} {y1} l {x2} {y1} {x2} {y2} {x1} {y2}'
            label = rf'{{\an1\pos({x1},{max(y1, 2 * size)})\1c{colour}\3c&H000000&}}{name}'
            for layer, text in ((LAYER_BOX, outline), (LAYER_NAME, label)):
                times = {'start': round(begin * 1000), 'end': round(end * 1000)}
                subs.append(pysubs2.SSAEvent(text=text, layer=layer, name=field, **times))
    subs.sort()
    files.write_text(path, subs.to_string('ass'), remember=True)


def _plain(name):
    """A name that ASS shows as it is: braces begin commands, a backslash a line break."""
    return ' '.join(name.split()).replace('\\', '\u29f5').replace('{', '(').replace('}', ')')


def check_video(video_in):
    """UserError where a copy cannot hold the video as it is, which is to be known before a detector looks at it."""
    with Source(video_in) as source:
        if why := why_not_copied(source, 'matroska'):
            raise UserError(
                f"{printable(video_in)}: cannot be copied into .mkv, as its video {why}: take labels_as='picture'."
            )


def mux(video_in, ass, target, start=0.0, overwrite=False, chapters=()):
    """Copy a video with a subtitle file added as a track of its own; nothing is coded anew.

    Args:
        video_in: file or URL. ass: the subtitle file. target: .mkv to write. start: second of the video at
            which the subtitle file's times begin.
        chapters: written where the video has none, as PyAV's `set_chapters` takes them.

    Raises:
        UserError: `target` is no .mkv (no other container holds ASS), or cannot be written.
    """
    target = Path(target)
    if target.suffix.lower() != '.mkv':
        raise UserError(f"{target}: labels_as='subtitles' writes .mkv, as only Matroska holds them. Change the ending.")
    files.claim(target, [video_in], overwrite, 'video_out')
    with files.replacing(target, remember=True) as temporary:
        try:
            _copy_with(video_in, ass, temporary, start, chapters)
        except av.FFmpegError as error:
            raise UserError(f'{target}: cannot be written (FFmpeg: {error.strerror}).') from None


def is_labelled_copy(path):
    """Whether a video has a track of labels: it is the whole episode then, and no annotated part of it."""
    try:
        with av.open(str(path), **ANY_TAGS) as container:
            return any(stream.metadata.get('title') == TITLE for stream in container.streams.subtitles)
    except (av.FFmpegError, OSError, ValueError):
        return False


def _copy_with(video_in, ass, path, start, chapters):
    covers = _covers(video_in)
    with (
        av.open(str(video_in), **ANY_TAGS) as source,
        av.open(str(ass)) as labels,
        av.open(str(path), 'w', format='matroska', container_options={'avoid_negative_ts': 'disabled'}) as out,
    ):
        out.metadata.update(tags(source.metadata))
        handles, steady = _tracks(source, out, covers), Steady()
        track = out.add_stream_from_template(labels.streams[0], opaque=True)
        track.metadata.update(title=TITLE, language='und')
        # What a viewer calls 0, as `video.source` has it.
        begin = max(Fraction(0), Fraction(source.start_time or 0, av.time_base))
        out.set_chapters(source.chapters() or [_later(chapter, begin) for chapter in chapters])
        waiting = [_shifted(packet, begin + Fraction(start)) for packet in labels.demux() if packet.size]
        waiting = deque(sorted(waiting, key=lambda packet: packet.pts))
        for packet in source.demux([s for s in source.streams if s.index in handles]):
            steady(packet)
            moment = packet.dts if packet.dts is not None else packet.pts
            if not packet.size or moment is None:
                continue
            # Labels lie between the packets, so that a player finds both at one place.
            while waiting and waiting[0].pts * waiting[0].time_base <= moment * packet.time_base:
                _write(out, waiting.popleft(), track)
            out.mux(handles[packet.stream.index](packet))
        for packet in waiting:
            _write(out, packet, track)


def _tracks(source, out, covers):
    """Add a video's tracks to the file that is written; returns {stream index: handle}, see `video.copying`."""
    handles, lost = {}, []
    for stream in source.streams:
        if is_cover(stream):
            attach_cover(out, stream, covers[stream.index])
            continue
        if accepted(stream, 'matroska'):
            _, handle = copied(stream, out, 'matroska')
        elif is_text(stream):
            _, handle = text_recoder(stream, out, 'matroska')
        else:
            lost += [] if stream.type == 'data' else [describe(stream)]
            continue
        if stream.type != 'attachment':
            handles[stream.index] = handle
    if lost:
        print(f'not kept in mkv: {", ".join(lost)}')
    return handles


def _covers(video_in):
    """{stream index: bytes} of a file's cover pictures, which come before all else."""
    with av.open(str(video_in), **ANY_TAGS) as source:
        wanted = {s.index for s in source.streams if is_cover(s)}
        found = {}
        for packet in source.demux([s for s in source.streams if s.index in wanted]) if wanted else ():
            found.setdefault(packet.stream.index, bytes(packet))
            if set(found) == wanted:
                break
        return found


def _write(out, packet, stream):
    packet.stream = stream
    out.mux(packet)


def _later(chapter, seconds):
    shift = round(seconds / chapter['time_base'])
    return {**chapter, 'start': chapter['start'] + shift, 'end': chapter['end'] + shift}


def _shifted(packet, seconds):
    shift = round(seconds / packet.time_base)
    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
    return packet
