"""Parts of a video as files of their own: encoded again exactly, copied at key frames, or as a small copy to preview.

Times are seconds from the beginning of the video, as `video.source.Source` counts them.
"""

import itertools
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av

from konohana import files
from konohana.errors import UserError
from konohana.video.copying import Copies, accepted, chapters_within, copied, recoder, tags, why_not_copied
from konohana.video.source import ANY_TAGS, LIMITED, Source, is_cover, matrix_of, reason, starts_within
from konohana.video.writer import CONTAINERS, VideoWriter, encoded

BEFORE = (10, 60, math.inf)  # seconds before a part at which the search for its key frame begins
REORDERED = 32  # packets after which no picture comes that is shown before them
LATE = 3  # seconds that the packets of sound may lie behind the picture's in a file
PREVIEW = {'codec': 'h264', 'crf': 28, 'preset': 'veryfast'}
PREVIEW_HEIGHT = 360
PREVIEW_SOUND = 96000  # bits a second


def encode_part(video_in, target, start, seconds, advance=None, hwaccel='', pix_fmt='', tag='', seek=True, **encoding):
    """Encode a part of a video again, from the first frame at `start` or after to the last before its end.

    Each frame keeps its time, less that of the first. Sound, subtitles and fonts are copied.

    Args:
        video_in: file. target: file to write, see `writer.CONTAINERS`. start, seconds: the part.
        advance: function that is called with the number of frames so far. tag: text for the file's tag `description`.
        hwaccel, pix_fmt, encoding: see `annotate_video`. seek: see `Source`.

    Returns:
        number of frames.

    Raises:
        UserError: the video cannot be read, or the target not be written.
    """
    with Source(video_in, start, seconds, hwaccel, seek) as source:
        source.start_at_first_frame()
        picture = encoded(source.picture, encoding['codec'], pix_fmt)
        unit = source.prepare(picture, CONTAINERS[target.suffix.lower()] != 'matroska')
        with VideoWriter(target, picture, source.rate, unit, hwaccel=hwaccel, hdr=source.hdr, **encoding) as writer:
            handles = Copies(source, writer).handles
            writer.container.metadata['description'] = tag
            return _write_all(source, writer, handles, advance)


def write_preview(video_in, target, start=0.0, seconds=0.0, advance=None):
    """Write a small H.264 copy of a video with AAC sound, which any browser plays; see `encode_part`."""
    with Source(video_in, start, seconds) as source:
        was = source.picture
        scale = min(1.0, PREVIEW_HEIGHT / was.height)
        width, height = (max(2, 2 * round(side * scale / 2)) for side in (was.width * float(was.sar or 1), was.height))
        picture = replace(was, width=width, height=height, pix_fmt='yuv420p', sar=None, interlaced=False)
        picture = replace(picture, range=LIMITED, matrix=matrix_of(was.matrix, was.width, was.height))
        unit = source.prepare(picture, exact=True)
        with VideoWriter(target, picture, source.rate, unit, faststart=True, **PREVIEW) as writer:
            return _write_all(source, writer, _first_sound(source, writer), advance)


def _write_all(source, writer, handles, advance):
    writer.start()
    for item in source.items():
        if isinstance(item, av.VideoFrame):
            writer.write(item)
            if advance:
                advance(writer.frames)
        elif item.stream.index in handles:
            writer.copy(item, handles[item.stream.index])
    writer.flush(handles.values())
    writer.finish()
    return writer.frames


def _first_sound(source, writer):
    """{stream index: handle} that encodes the first sound track as AAC with two channels."""
    sound = next((s for s in source.container.streams.audio if s.codec_context), None)
    if sound is None:
        return {}
    out = writer.container.add_stream('aac', rate=48000, bit_rate=PREVIEW_SOUND, layout='stereo')
    return {sound.index: recoder(sound, out)}


def copy_part(video_in, target, start, seconds, tag=''):
    """Copy a part of a video as it is: it begins at the last key frame up to `start`, and ends once all is shown.

    Sound, subtitles, fonts and chapters of the part are copied with it; what the container cannot hold is left out.

    Args:
        video_in: file. target: file to write, see `writer.CONTAINERS`. start, seconds: the part.
        tag: text for the file's tag `description`.

    Returns:
        seconds of the video at which the copy begins.

    Raises:
        UserError: the video cannot be read, or the target not be written.
    """
    target = Path(target)
    form = CONTAINERS[target.suffix.lower()]
    with Source(video_in) as source, files.replacing(target, remember=True) as temporary:
        if why := why_not_copied(source, form):
            raise UserError(f'{video_in}: cannot be copied into {target.suffix}, as its video {why}: take cut=exact.')
        begin = source.origin + Fraction(start)
        part = _key_frames(source, begin, begin + Fraction(seconds))
        try:
            _copy(source, part, temporary, form, tag)
        except av.FFmpegError as error:
            raise UserError(f'{target}: cannot be written (FFmpeg: {reason(error)}).') from None
        return float(part.begin - source.origin)


def description_of(path):
    """The tag that `encode_part` and `copy_part` wrote; '' where there is none, or no video."""
    try:
        with av.open(str(path), **ANY_TAGS) as container:
            return {key.lower(): value for key, value in container.metadata.items()}.get('description', '')
    except (av.FFmpegError, OSError, ValueError):
        return ''


@dataclass
class _Part:
    """What is copied: `n_packets` of the video from its key frame at `begin` on, and others up to `end` (seconds)."""

    begin: Fraction
    end: Fraction | float
    n_packets: int


def _key_frames(source, begin, end):
    """The `_Part` that covers `begin` to `end`, in seconds of the file."""
    for before in BEFORE:
        packets = _video_packets(source, begin - before, end)
        keys = [i for i, (moment, key) in enumerate(packets) if key and moment <= begin]
        if keys:
            break
    if not keys:
        raise UserError(f'{source.path}: has no key frame before second {float(begin - source.origin):.1f}.')
    # Pictures that follow a key frame but are shown before it need one that is not copied.
    key = packets[keys[-1]][0]
    moments = [moment for moment, _ in packets[keys[-1] :] if moment >= key]
    latest = list(itertools.accumulate(moments, max))
    soonest = list(itertools.accumulate(reversed(moments), min))[::-1]
    # Packets are in the order of decoding: the copy ends where all that is to come is shown later.
    for n in range(1, len(moments)):
        if soonest[n] >= end and latest[n - 1] < soonest[n]:
            return _Part(key, soonest[n], n)
    return _Part(key, math.inf, len(moments))


def _video_packets(source, since, end):
    """(seconds, is it a key frame) of the video's packets from about `since` to beyond `end`, in their order."""
    _seek(source, since)
    found, after = [], 0
    for packet in source.container.demux(source.video):
        moment = _moment(packet)
        if packet.size and moment is not None:
            found.append((moment, packet.is_keyframe))
            after += packet.dts is None or packet.dts * packet.time_base >= end
        if after > REORDERED:
            break
    return found


def _seek(source, seconds):
    begin = Fraction(source.container.start_time or 0, av.time_base)
    source.container.seek(int(max(seconds, begin) * av.time_base))


def _moment(packet):
    ticks = packet.dts if packet.pts is None else packet.pts
    return None if ticks is None else ticks * packet.time_base


def _copy(source, part, path, form, tag):
    streams = [s for s in source.container.streams if not is_cover(s) and accepted(s, form)]
    options = {'avoid_negative_ts': 'disabled', **({} if form == 'matroska' else {'movflags': '+faststart'})}
    with av.open(str(path), 'w', format=form, container_options=options) as out:
        out.metadata.update({**tags(source.container.metadata), 'description': tag})
        handles = {}
        for stream in streams:
            _, handle = copied(stream, out, form)
            if stream.type != 'attachment':
                handles[stream.index] = handle
        out.set_chapters(chapters_within(source.container.chapters(), part.begin, part.end - part.begin))
        for packet in _packets_of(source, part, [s for s in streams if s.index in handles]):
            shift = round(part.begin / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
            out.mux(handles[packet.stream.index](packet))


def _packets_of(source, part, streams):
    """The packets of a `_Part`, with the file's times."""
    _seek(source, part.begin - BEFORE[0])
    n_copied = 0
    for packet in source.container.demux(streams):
        moment = _moment(packet)
        if not packet.size or moment is None:
            continue
        if packet.stream is source.video:
            begun = n_copied or (packet.is_keyframe and moment == part.begin)
            if begun and moment >= part.begin and n_copied < part.n_packets:
                n_copied += 1
                yield packet
        elif moment < part.end and starts_within(packet, part.begin):
            yield packet
        if moment > part.end + LATE:
            return
