"""Everything in a video file besides the annotated picture: sound, subtitles, fonts, covers, chapters, tags.

Streams that the container can hold are copied packet by packet. Which ones these are differs between versions of
FFmpeg, so a trial header is written to memory. Other sound and text are encoded again, and a line says so.
"""

import io
import math
import re

import av
from av.bitstream import BitStreamFilterContext

from konohana.errors import printable
from konohana.video.source import has_times, is_cover

# Tags that describe the source's file rather than the show.
_OF_THE_FILE = re.compile(r'(?i)(DURATION|ENCODER|major_brand|minor_version|compatible_brands|vendor_id|NUMBER_OF_|BPS|'
                          r'_STATISTICS)')  # fmt: skip

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)


def accepted(stream, form):
    """Whether a container of this kind takes the stream as it is."""
    try:
        with av.open(io.BytesIO(), 'w', format=form) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
        return True
    except (av.FFmpegError, ValueError, RuntimeError):
        return False


def why_not_copied(source, form):
    """Why a container of the kind `form` cannot take the video of a `source.Source` as it is; '' where it can."""
    if not has_times(source.container):
        return 'has no times of its own'
    return '' if accepted(source.video, form) else f'is {codec_name(source.video)}'


def tags(metadata):
    """The tags of a stream or file that belong to the show."""
    return {key: value for key, value in metadata.items() if not _OF_THE_FILE.match(key)}


def describe(stream):
    """Like 'audio track 1 (flac, jpn)'."""
    language = stream.metadata.get('language', '')
    text = f'{stream.type} track {stream.index} ({codec_name(stream)}{", " * bool(language)}{language})'
    return printable(text)


def codec_name(stream):
    """The name of a stream's codec; for a font, its file extension."""
    if stream.type == 'attachment':
        return (stream.metadata.get('filename', '').rpartition('.')[2] or 'file').lower()
    context = getattr(stream, 'codec_context', None)
    return context.name if context else getattr(stream, 'name', None) or 'unknown'


def chapters_within(chapters, origin, length=math.inf):
    """A container's chapters in a part of it, with times from the part's beginning.

    origin: second of the file at which the part begins. length: of the part, in seconds.
    """
    kept = []
    for chapter in chapters:
        base = chapter['time_base']
        shift = round(origin / base)
        start, end = max(0, chapter['start'] - shift), chapter['end'] - shift
        if end > 0 and start * base < length:
            kept.append({**chapter, 'start': start, 'end': end if end * base <= length else round(length / base)})
    return kept


def like(out, stream):
    """Give the track `out` what the source's says of itself: its tags, and whether players choose it."""
    out.disposition = stream.disposition
    out.metadata.update(tags(stream.metadata))


def copied(stream, container, form):
    """A copy of a stream as a track of `container`, of the kind `form`: (track, handle that copies packets)."""
    out = container.add_stream_from_template(stream, opaque=True)
    like(out, stream)
    return out, copier(stream, out, form)


def copier(stream, out, form):
    """A handle (see `Copies`) that copies packets; times that do not rise, in damaged or joined files, are shifted."""
    last, rising = None, stream.type in ('audio', 'video')
    context = getattr(stream, 'codec_context', None)
    # AAC in transport streams has a header in each packet; MP4 stores it once.
    adts = form != 'matroska' and context and context.name in ('aac', 'aac_latm') and not context.extradata
    filters = BitStreamFilterContext('aac_adtstoasc', stream) if adts else None

    def handle(packet):
        nonlocal last
        if packet is None:
            return []
        if rising and packet.dts is not None:
            # MP4 needs at least one tick of its own clock between packets, which may be longer than the source's.
            tick = 1 if form == 'matroska' else max(1, math.ceil((out.time_base or 0) / packet.time_base))
            if last is not None and packet.dts < last + tick:
                packet.dts = last + tick
                packet.pts = packet.pts if packet.pts is None else max(packet.pts, packet.dts)
            last = packet.dts
        base = packet.time_base
        packets = filters.filter(packet) if filters else [packet]
        for new in packets:
            new.stream, new.time_base = out, base
        return packets

    return handle


def recoder(stream, out):
    """A handle (see `Copies`) that encodes sound again for the stream `out`."""

    def handle(packet):
        try:
            frames = stream.decode(packet)
        except av.FFmpegError:
            frames = []  # a damaged packet becomes a moment of silence
        written = [p for frame in frames for p in out.encode(frame)]
        return written + (out.encode(None) if packet is None else [])

    return handle


def is_text(stream):
    """Whether a stream is of subtitles as text, not as pictures."""
    return stream.type == 'subtitle' and bool(stream.codec_context) and stream.codec_context.codec.text_sub


def text_recoder(stream, container, form):
    """A new track of `container` for text that it cannot hold as it is, and its handle, see `Copies`."""
    out = container.add_stream('ass' if form == 'matroska' else 'mov_text')
    out.codec_context.subtitle_header = stream.codec_context.subtitle_header or _ASS_HEADER
    out.codec_context.time_base = out.time_base = stream.time_base
    like(out, stream)

    def handle(packet):
        if packet is None:
            return []
        try:
            found = stream.codec_context.decode2(packet)
        except av.FFmpegError:
            return []
        if not found:
            return []
        new = out.codec_context.encode_subtitle(found)
        new.stream, new.time_base = out, packet.time_base
        new.pts = new.dts = packet.pts
        new.duration = packet.duration
        return [new]

    return out, handle


def attach_cover(container, stream, data):
    """Add a cover picture, the `data` of the source's `stream`, to a Matroska file."""
    kind = {'mjpeg': 'jpeg'}.get(codec_name(stream), codec_name(stream))
    name = stream.metadata.get('filename') or f'cover.{kind.replace("jpeg", "jpg")}'
    container.add_attachment(name, f'image/{kind}', data)


class Copies:
    """The streams of `source` in the file that `writer` writes: `handles` {stream index: function} and `notes`.

    A handle takes a packet of the source (None at the end) and returns the packets to write. `chapters`, as
    `set_chapters` takes them, are written where the source has none.
    """

    def __init__(self, source, writer, chapters=()):
        self.source, self.writer, self.form = source, writer, writer.form
        self.handles, self.notes, self.lost = {}, [], {}
        self.container = writer.path.suffix.lower().lstrip('.')
        writer.container.metadata.update(tags(source.container.metadata))
        like(writer.stream, source.video)
        for stream in source.container.streams:
            if stream is not source.video and not self._made_again(stream):
                self._add(stream)
        self._chapters(chapters)
        self._say_lost()

    def _made_again(self, stream):
        """Whether a track is only MP4's way to write down chapters or a time code, which are kept as such."""
        if stream.type != 'data':
            return False
        chapters = self.source.container.chapters() and codec_name(stream) in ('bin_data', 'unknown')
        return bool(chapters) or 'timecode' in stream.metadata

    def _add(self, stream):
        if is_cover(stream) and self.form == 'matroska':
            self._attach_cover(stream)
        elif accepted(stream, self.form):
            self._copy(stream)
        elif stream.type == 'audio' and stream.codec_context:
            self._recode_sound(stream)
        elif is_text(stream):
            self._recode_text(stream)
        else:
            self.lost.setdefault(stream.type, []).append(stream)

    def _copy(self, stream):
        out, handle = copied(stream, self.writer.container, self.form)
        if stream.type != 'attachment':
            self.handles[stream.index] = handle
        if is_cover(stream) and stream.index in self.source.covers:
            picture = av.Packet(self.source.covers[stream.index])
            picture.stream, picture.pts, picture.dts, picture.is_keyframe = out, 0, 0, True
            self.writer.held.append((None, picture, lambda packet: [packet]))

    def _attach_cover(self, stream):
        data = self.source.covers.get(stream.index)
        if data is None:
            self.lost.setdefault('cover', []).append(stream)
            return
        attach_cover(self.writer.container, stream, data)

    def _recode_sound(self, stream):
        context = stream.codec_context
        rate = context.sample_rate if context.sample_rate in AAC_RATES else 48000
        out = self.writer.container.add_stream('aac', rate=rate)
        # If a file only gives the number of channels, assume the usual layout.
        usual = {1: 'mono', 2: 'stereo', 3: '3.0', 4: '4.0', 5: '5.0', 6: '5.1', 8: '7.1'}.get(
            context.layout.nb_channels
        )
        out.codec_context.layout = usual or 'stereo'
        out.bit_rate = 96000 * max(1, context.layout.nb_channels)
        like(out, stream)
        self.handles[stream.index] = recoder(stream, out)
        self.notes.append(f'{describe(stream)}: {self.container} cannot hold it as it is, written as aac; .mkv may')

    def _recode_text(self, stream):
        out, self.handles[stream.index] = text_recoder(stream, self.writer.container, self.form)
        codec = codec_name(out)
        style = ', which loses its styling' if codec_name(stream) in ('ass', 'ssa') and codec == 'mov_text' else ''
        hint = '' if self.form == 'matroska' else '; .mkv may'
        self.notes.append(
            f'{describe(stream)}: {self.container} cannot hold it as it is, written as {codec}{style}{hint}'
        )

    def _chapters(self, chapters):
        found = self.source.container.chapters()
        if found and chapters:
            self.notes.append('chapters: the video has its own, which are kept')
        kept = chapters_within(found, self.source.origin, self.source.length) if found else list(chapters)
        self.writer.container.set_chapters(kept)

    def _say_lost(self):
        for kind, streams in self.lost.items():
            names = [f'{codec_name(s)} {s.metadata.get("language", "")}'.strip() for s in streams]
            names = printable(', '.join(dict.fromkeys(names)))
            hint = '' if kind in ('video', 'data') or self.form == 'matroska' else '; .mkv may hold it'
            many = 's' * (len(streams) > 1)
            self.notes.append(f'not kept in {self.container}: {len(streams)} {kind} stream{many} ({names}){hint}')


# For text without a style of its own.
_ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Alignment, MarginL, MarginR, MarginV
Style: Default,Arial,16,&Hffffff,2,10,10,10
[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
