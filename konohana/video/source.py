"""Reading a video file: packets to copy and decoded frames, in the file's order, with times that start at 0.

Times: a file may start anywhere (a TV recording at 26 hours), and its streams at different times.
`Source.origin` is the file's time that becomes 0; it is subtracted from everything that `Source.items` yields.
"""

import itertools
import math
import re
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.logging
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.format import Flags
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from konohana.errors import UserError, printable

# In 4:2:0 one chroma sample covers 2 x 2 pixels. With averaging it stays the same if pixels are doubled and halved.
# swscale's numbers of AREA, ACCURATE_RND and FULL_CHR_H_INT: PyAV 17, the last for Python 3.10, has no names for them.
ACCURATE = 0x20 | 0x40000 | 0x2000
QUICK = 0x20  # AREA alone
MATRICES = (1, 4, 5, 6, 7, 9)  # YCbCr matrices (ITU-T H.273) that can be computed; 10 is computed as 9
UNKNOWN = 2  # of matrices, primaries and transfers
LIMITED, FULL = 1, 2
CHROMA = ('left', 'center', 'topleft', 'top', 'bottomleft', 'bottom')  # FFmpeg's names of chroma_sample_location
HDR = ('MASTERING_DISPLAY_METADATA', 'CONTENT_LIGHT_LEVEL')
JUMP = 1  # seconds backwards in a stream's times that mean another recording begins
LOOKS = 64  # places of a file at which its times are looked at
AFTER = 3  # seconds of the file to read after the end of a part, for packets that come late
TIMELESS = 300  # frames without a time that may wait for the first frame with one
# Tags that are no UTF-8 must not end a run. From PyAV 19 on they need no setting: it keeps their bytes as surrogates.
ANY_TAGS = {'metadata_errors': 'replace'} if int(av.__version__.partition('.')[0]) < 19 else {}
CLOCK = re.compile(r'(\d{1,5}):(\d{1,5}):(\d{1,5}(?:\.\d{1,12})?)').fullmatch
# FFmpeg's filters that show a frame upright, by its tag's degrees and whether it is mirrored, as by some front cameras.
UPRIGHT = {
    **{(90, False): [('transpose', '2')], (180, False): [('hflip', ''), ('vflip', '')]},
    **{(270, False): [('transpose', '1')], (0, True): [('vflip', '')], (90, True): [('transpose', '3')]},
    **{(180, True): [('hflip', '')], (270, True): [('transpose', '0')]},
}
PATIENCE = (20.0, 30.0)  # seconds to open a stream URL, and without data


@dataclass(frozen=True)
class Picture:
    """The properties that all frames of a video share.

    width, height (pixels, upright); pix_fmt (FFmpeg's name of the pixel format); sar (width of a pixel / its height,
    Fraction, None if unknown); interlaced (whether frames are two fields); range, matrix, primaries, transfer (numbers
    of ITU-T H.273, range 1 is limited, 2 full; 0 or 2 is unknown); chroma (where its samples lie, one of `CHROMA`, ''
    is unknown).
    """

    width: int
    height: int
    pix_fmt: str = 'yuv420p'
    sar: Fraction | None = None
    interlaced: bool = False
    range: int = 0
    matrix: int = UNKNOWN
    primaries: int = UNKNOWN
    transfer: int = UNKNOWN
    chroma: str = ''


def matrix_of(matrix, width, height):
    """The YCbCr matrix to compute with; if there is none, by the video's size, as players choose it."""
    matrix = {10: 9}.get(matrix, matrix)
    return matrix if matrix in MATRICES else (1 if height >= 720 or width >= 1280 else 6)


def is_url(path):
    """Whether `path` names a stream rather than a file: rtsp://..., https://..."""
    return bool(re.match(r'[a-z][a-z0-9+.-]+://', str(path)))


def reason(error):
    """FFmpeg's message of an error, without the name of the file."""
    return getattr(error, 'strerror', None) or str(error)


def _check_file(path):
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f'{path}: is a folder, not a video. Name one file.')
        if not path.exists():
            raise UserError(f'{path}: no such file. Set video_in to a video.')
        if not path.is_file():
            raise UserError(f'{path}: is not a regular file. Set video_in to a video.')
        if not path.stat().st_size:
            raise UserError(f'{path}: is empty (0 bytes). Copy or download it again.')
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}).') from None


def _accelerator(hwaccel):
    if not hwaccel:
        return None
    if hwaccel not in hwdevices_available():
        known = ', '.join(sorted(hwdevices_available())) or 'none'
        raise UserError(
            f"hwaccel={hwaccel!r}: this FFmpeg does not support it. It supports: {known}; '' uses the processor."
        )
    return HWAccel(hwaccel, allow_software_fallback=True)


def _open(path, hwaccel):
    """(the opened container, lines about settings that do not work here); UserError if it is no video."""
    accelerator, notes = _accelerator(hwaccel), []
    url = is_url(path)
    if not url:
        _check_file(path)
    options = {**ANY_TAGS, 'timeout': PATIENCE if url else None}
    try:
        if accelerator:
            try:
                return av.open(str(path), hwaccel=accelerator, **options), notes
            except (av.FFmpegError, RuntimeError, NotImplementedError) as error:
                notes.append(f'hwaccel={hwaccel!r}: does not decode here ({reason(error)}); the processor does')
        return av.open(str(path), **options), notes
    except av.error.InvalidDataError as error:
        raise UserError(f'{path}: not a video, or cut off beyond use (FFmpeg: {reason(error)}).') from None
    except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
        what = 'cannot be opened' if url else 'cannot be read as a video'
        raise UserError(f'{path}: {what} (FFmpeg: {reason(error)}).') from None


def side_data_of(frame):
    """{FFmpeg's name: bytes} of what a frame carries beside its picture."""
    found = {}
    for item in frame.side_data:
        if not hasattr(item, 'type'):  # from PyAV 19 on these are the types
            item = frame.side_data[item]
        found[item.type.name] = bytes(item)
    return found


def _is_mirrored(frame):
    """Whether a frame's tag mirrors it; `frame.rotation` is 180 then of one that is mirrored left to right."""
    matrix = side_data_of(frame).get('DISPLAYMATRIX', b'')
    a, b, _, c, d = struct.unpack('=5i', matrix[:20]) if len(matrix) >= 20 else (1, 0, 0, 0, 1)
    return a * d < b * c


def has_times(container):
    """Whether a file says when its pictures are shown: in a raw stream they are counted from its beginning."""
    return not container.format.flags & Flags.no_timestamps.value


def is_cover(stream):
    """Whether a stream is a still picture that belongs to the file, not a video track."""
    return stream.type == 'video' and bool(stream.disposition & Disposition.attached_pic)


def _video_stream(container, path):
    form = container.format.name
    if re.search(r'_pipe|image2|tty', form) and not is_url(path):
        raise UserError(f'{path}: is a picture or text ({form}), not a video.')
    tracks = [s for s in container.streams.video if not is_cover(s)]
    if not tracks:
        kinds = sorted({'cover picture' if is_cover(s) else s.type for s in container.streams})
        raise UserError(f'{path}: has no video stream, only {", ".join(kinds) or "nothing"}.')
    if tracks[0].codec_context is None:
        raise UserError(f'{path}: its video is of a kind that this FFmpeg cannot decode.')
    return tracks[0]


def _chroma_of(container, stream):
    """Where the chroma samples of a video lie, '' if it does not say.

    PyAV has no attribute for it, but FFmpeg's description of a file says it to those who want to know much. Nothing may
    be decoded yet: what a decoder's thread says meanwhile waits for Python, and Python, where it closes the file next,
    waits for that thread, for ever (https://github.com/PyAV-Org/PyAV/issues/751).
    """
    level = av.logging.get_level()
    av.logging.set_level(av.logging.VERBOSE)
    av.logging.set_libav_level(av.logging.VERBOSE)
    try:
        text = container.dumps_format()
    finally:
        av.logging.set_libav_level(av.logging.INFO)  # FFmpeg's default
        av.logging.set_level(level)
    described = re.search(rf'Stream #0:{stream.index}\b.*: Video: .*?[(, ]({"|".join(CHROMA)})\),', text)
    return described[1] if described else ''


def _rate(stream):
    """Frames per second, for the encoder and for estimates; each frame has its own time."""
    for rate in (stream.guessed_rate, stream.average_rate):
        if rate and 0 < rate <= 240:
            return Fraction(rate)
    return Fraction(25)


def _exactly(seconds):
    """Seconds as a Fraction: 0.2 becomes 1/5, of which the float is a little more."""
    return Fraction(seconds).limit_denominator(10**6)


def _stated_end(container, stream):
    """The file's time in seconds at which the video ends according to its metadata, None if it does not say."""
    stated = [value for key, value in stream.metadata.items() if key.upper().startswith('DURATION')]
    found = next(filter(None, map(CLOCK, stated)), None)  # Matroska: the end of each track
    if found:
        return int(found[1]) * 3600 + int(found[2]) * 60 + Fraction(found[3])
    if stream.duration and stream.time_base:
        return (stream.start_time or 0) * stream.time_base + stream.duration * stream.time_base
    if container.duration:
        return Fraction((container.start_time or 0) + container.duration, av.time_base)
    return None


class Source:
    """A video file or stream, opened, with its first frame decoded.

    path: file or URL; start: seconds into it; seconds: length, 0 for all that follows; hwaccel: FFmpeg's name of a
    device that decodes, '' for none; seek: False reads the file from its beginning to get to `start`, as it has to be
    where it is `joined`; None finds out whether it is. Raises UserError if no video can be decoded, or there is none
    from `start` on.

    Attributes: container and video (PyAV's), picture (`Picture`, in the source's own pixel format until `prepare`),
    bits (per colour), hdr ({kind of side data: bytes}), rate, covers ({stream index: bytes}), origin, offset (seconds
    from origin to the first frame), expected (seconds of picture, 0 if unknown), damaged (packets that could not be
    decoded), broken ('' or why reading ended early), notes.
    """

    def __init__(self, path, start=0.0, seconds=0.0, hwaccel='', seek=None):
        self.path = path
        self.name = printable(str(path).rstrip('/').rpartition('/')[2] if is_url(path) else Path(path).name)
        self.container, self.notes = _open(path, hwaccel)
        self.damaged, self.broken, self.covers = 0, '', {}
        self._steady, self._timeless, self._is_joined = Steady(), [], False
        self._graph, self._graph_key, self._reformat = None, None, VideoReformatter().reformat
        self._size, self._last, self._since, self._until = None, None, -math.inf, math.inf
        try:
            self.video = _video_stream(self.container, path)
            self.video.thread_type = 'AUTO'
            self._chroma = _chroma_of(self.container, self.video)
            self.rate = _rate(self.video)
            begin = Fraction(self.container.start_time or 0, av.time_base)
            # A start just below 0 is the priming of an audio decoder; players skip it, and the picture starts at 0.
            self.origin = max(Fraction(0), begin) + _exactly(start)
            if start:
                self._since = self.origin - Fraction(1, 10**6)
                if seek is None:
                    self._is_joined = jumps_back(path)
                    seek = not self._is_joined
                if seek:
                    self._seek()
            self._items = self._read()
            self._ahead = self._until_first_frame(start)
            self._measure(start, seconds)
        except BaseException:
            self.close()
            raise

    def _seek(self):
        if not has_times(self.container):
            return
        # In a transport stream FFmpeg seeks to any packet: start earlier, to have a key frame before the origin.
        margin = 4 if self.container.format.name in ('mpegts', 'mpeg') else 0
        try:
            self.container.seek(int((self.origin - margin) * av.time_base))
        except (av.FFmpegError, OverflowError):
            pass  # a file that cannot seek is read from its start

    def _until_first_frame(self, start):
        """The items up to and including the first frame, from which the video's properties are read."""
        ahead = []
        for item in self._items:
            ahead.append(item)
            if isinstance(item, av.VideoFrame):
                return ahead
        if start:
            raise UserError(f'{self.path}: no picture at start={start:g} seconds or after; choose an earlier start.')
        why = f' (FFmpeg: {self.broken})' if self.broken else ''
        raise UserError(f'{self.path}: no frame of its video can be decoded{why}.')

    def _measure(self, start, seconds):
        first, stream = self._ahead[-1], self.video
        context = stream.codec_context
        sar = stream.sample_aspect_ratio or context.sample_aspect_ratio
        if sar and first.rotation % 180:
            sar = 1 / sar
        first = self._upright(first)
        rgb = first.format.is_rgb
        self.picture = Picture(
            *(first.width, first.height, first.format.name, sar or None),
            interlaced=bool(
                first.interlaced_frame or getattr(context, 'field_order', 0) > 1
            ),  # PyAV 17 has no field_order
            range=FULL if 'yuvj' in first.format.name else first.color_range,
            matrix=UNKNOWN if rgb else first.colorspace,
            primaries=first.color_primaries,
            transfer=first.color_trc,
            chroma=self._chroma,
        )
        self.bits = first.format.components[0].bits
        self.hdr = {name: data for name, data in side_data_of(first).items() if name in HDR}
        moment = first.pts * first.time_base
        if not start:
            self.origin = min(self.origin, moment)
        self.offset = moment - self.origin
        self._first = moment
        end = _stated_end(self.container, stream)
        self.expected = max(Fraction(0), end - moment) if end else Fraction(0)
        if seconds:
            self._until = self.origin + _exactly(seconds)
            if moment >= self._until:
                at = start + float(self.offset)
                raise UserError(f'{self.path}: no picture within seconds={seconds:g}; the next one is at {at:.2f} s.')
            self.expected = min(self.expected or _exactly(seconds), _exactly(seconds))

    def prepare(self, picture, exact):
        """Choose how `items` converts frames: to `picture`'s size, pixel format and matrix.

        exact: the result stores times finer than milliseconds. Matroska rounds to milliseconds, so times within one
        millisecond of a constant rate are moved back onto it. Returns the unit of the frames' times in seconds.
        """
        self.picture, unit = picture, self.video.time_base
        self._snap = exact and unit == Fraction(1, 1000)
        self._unit = Fraction(1, math.lcm(1000, self.rate.numerator)) if self._snap else unit
        return self._unit

    def start_at_first_frame(self):
        """Make the first frame's time 0, and leave out the sound before it."""
        self.origin, self.offset = self._first, Fraction(0)
        self._since = self.origin - Fraction(1, 10**6)

    @property
    def joined(self):
        """Whether the file's times are known to jump back, see `Steady`: it cannot be entered at any second then."""
        return self._is_joined or any(self._steady.shifts.values())

    @property
    def length(self):
        """Seconds from the origin to the end of the part that is read, infinite where all is."""
        return self._until - self.origin

    def items(self):
        """Yield packets to copy and frames, in the file's order, converted as `prepare` says, minus the origin."""
        for item in itertools.chain(self._ahead, self._items):
            if isinstance(item, av.VideoFrame):
                moment = item.pts * item.time_base
                if moment < self._until:
                    yield self._finished(item, moment)
            elif self._wanted(item):
                self._rebase(item)
                yield item
        self._ahead = []

    def _wanted(self, packet):
        return is_cover(packet.stream) or (self._moment(packet) < self._until and starts_within(packet, self._since))

    def _moment(self, packet):
        moment = packet.dts if packet.pts is None else packet.pts
        return -math.inf if moment is None else moment * packet.time_base

    def _rebase(self, packet):
        shift = round(self.origin / packet.time_base)
        if not is_cover(packet.stream):
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift

    def _demux(self):
        packets = self.container.demux()
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                self.broken = reason(error)
                return
            except IndexError:  # raised by PyAV at the end of a damaged file with tracks that appear late
                return
            if packet is None:
                return
            if packet.size and is_cover(packet.stream):
                self.covers[packet.stream.index] = bytes(packet)
            elif packet.size:
                self._steady(packet)
                yield packet

    def _read(self):
        """Other packets and decoded frames from `_since` on to a little after `_until`."""
        over = False
        for packet in self._demux():
            if packet.stream is not self.video:
                yield packet
            elif not over:
                for frame in self._decode(packet):
                    over = over or frame.pts * frame.time_base >= self._until
                    if not over:
                        yield frame
            if over and packet.dts is not None and packet.dts * packet.time_base > self._until + AFTER:
                return
        if not over:
            yield from self._decode(None)

    def _decode(self, packet):
        try:
            frames = self.video.decode(packet)
        except av.FFmpegError as error:
            self.damaged += 1
            if self.damaged == 1 and packet is not None and self._last is None:
                self.broken = reason(error)
            return
        for frame in self._timed(frames, packet is None):
            self._last = frame.pts
            if frame.pts * frame.time_base >= self._since:
                self.broken = ''
                yield frame

    def _timed(self, frames, last):
        """Frames that all have times. Matroska's demuxer gives no times below 0; those frames go before the rest."""
        for frame in frames:
            frame.time_base = self.video.time_base
            known = frame.pts is not None or frame.dts is not None or self._last is not None
            if not known and len(self._timeless) < TIMELESS:
                self._timeless.append(frame)
                continue
            if frame.pts is None:
                frame.pts = self._next_pts(frame)  # AVI and raw streams have decoding times only, or none
            yield from self._placed(frame.pts)
            yield frame
        if last and self._timeless:
            yield from self._placed(len(self._timeless) * self._step())

    def _placed(self, pts):
        """Give the waiting frames times before `pts`, that of the next frame."""
        waiting, self._timeless = self._timeless, []
        for number, frame in enumerate(waiting):
            frame.pts = pts - (len(waiting) - number) * self._step()
            yield frame

    def _step(self):
        return max(1, round(1 / self.rate / self.video.time_base))

    def _next_pts(self, frame):
        after = 0 if self._last is None else self._last + self._step()
        if frame.dts is None:
            return after
        return frame.dts if self._last is None else max(frame.dts, self._last + 1)

    def _upright(self, frame):
        """A frame turned and mirrored as its tag says."""
        how = UPRIGHT.get((round(frame.rotation) % 360, _is_mirrored(frame)))
        if not how:
            return frame
        key = (how, frame.width, frame.height, frame.format.name)
        if key != self._graph_key:
            self._graph, self._graph_key = av.filter.Graph(), key
            size = {'width': frame.width, 'height': frame.height, 'format': frame.format, 'time_base': frame.time_base}
            graph = self._graph
            filters = [graph.add(*one) for one in how]
            graph.link_nodes(graph.add_buffer(**size), *filters, graph.add('buffersink')).configure()
        self._graph.push(frame)
        return self._graph.pull()

    def _finished(self, frame, moment):
        """The frame to draw on and encode."""
        duration = frame.duration * frame.time_base
        frame = self._converted(self._upright(frame))
        frame.time_base = self._unit
        frame.pts = round((self._exact(moment) - self.origin) / self._unit)
        frame.duration = round(duration / self._unit)
        frame.pict_type = 0  # the encoder chooses its own key frames
        return frame

    def _exact(self, moment):
        if not self._snap:
            return moment
        on_grid = self._first + round((moment - self._first) * self.rate) / self.rate
        return on_grid if abs(on_grid - moment) <= Fraction(1, 1000) else moment

    def _converted(self, frame):
        wanted = self.picture
        size, form = (frame.width, frame.height), frame.format.name
        self._watch(size)
        matrix = matrix_of(frame.colorspace, *size)
        same = size == (wanted.width, wanted.height) and form == wanted.pix_fmt
        if same and matrix == matrix_of(wanted.matrix, *size) and frame.color_range in (0, wanted.range or 0):
            return frame
        return convert(
            *(self._reformat, frame, wanted.width, wanted.height, wanted.pix_fmt),
            dst_colorspace=matrix_of(wanted.matrix, wanted.width, wanted.height),
            dst_color_range=wanted.range or LIMITED,
        )

    def _watch(self, size):
        if self._size not in (None, size):
            (w, h), wanted = size, self.picture
            self.notes.append(
                f'the size changes to {w}x{h}: scaled to {wanted.width}x{wanted.height}, the size at the start'
            )
        self._size = size

    def close(self):
        """Close the file."""
        self._items = self._ahead = ()
        self.container.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def jumps_back(path):
    """Whether the times of a file jump back somewhere, as where recordings are joined, by some moments in its order."""
    if is_url(path):
        return False
    moments = []
    try:
        with av.open(str(path), **ANY_TAGS) as container:
            # Other files have one clock, and a table of their key frames.
            for part in range(LOOKS) if container.format.flags & Flags.ts_discont.value else ():
                container.seek(container.size * part // LOOKS, unsupported_byte_offset=True)
                packets = container.demux(_video_stream(container, path))
                packet = next((packet for packet in packets if packet.dts is not None), None)
                moments += [packet.dts * packet.time_base] if packet else []
    except (av.FFmpegError, OSError):
        pass  # what can be known of it is
    return any(after < before - JUMP for before, after in itertools.pairwise(moments))


class Steady:
    """Shifts times that jump back, where recordings are joined: the second continues where the first ends.

    Call it with each packet of a file, in their order.
    """

    def __init__(self):
        self.shift, self.shifts, self.lasts, self.end = Fraction(0), {}, {}, -math.inf

    def __call__(self, packet):
        if packet.dts is None:
            return
        index, moment = packet.stream.index, packet.dts * packet.time_base
        gapless = packet.stream.type in ('audio', 'video')  # lines of text overlap, and some are shown for minutes
        shift = self.shifts.get(index, self.shift)
        last = self.lasts.get(index, -math.inf)
        if moment + shift < last - JUMP:
            if gapless and moment + self.shift < last - JUMP:
                self.shift = self.end - moment
            shift = self.shift
        self.shifts[index] = shift
        self.lasts[index] = max(moment + shift, last)
        if gapless:
            self.end = max(self.end, moment + shift + packet.duration * packet.time_base)
        ticks = round(shift / packet.time_base)
        if ticks:
            packet.dts += ticks
            packet.pts = None if packet.pts is None else packet.pts + ticks


def starts_within(packet, since):
    """Whether a packet of a part that begins at `since` (seconds) belongs to it.

    Text that is shown already when the part begins is made to begin with it.
    """
    moment = packet.dts if packet.pts is None else packet.pts
    if moment is None:
        return since == -math.inf
    late = since - moment * packet.time_base
    if late <= 0:
        return True
    context = getattr(packet.stream, 'codec_context', None)
    ticks = math.ceil(late / packet.time_base) if context and packet.stream.type == 'subtitle' else 0
    if not ticks or not context.codec.text_sub or ticks >= packet.duration:
        return False
    packet.duration -= ticks
    packet.pts = packet.dts = moment + ticks
    return True


def convert(reformat, frame, width, height, pix_fmt, **to):
    """`frame` in another size or pixel format by swscale; `reformat` (a VideoReformatter's) keeps tables between calls.

    swscale rejects unknown matrices, transfers and primaries. Transfers and primaries do not matter here.
    """
    tags = frame.colorspace, frame.color_trc, frame.color_primaries
    full = frame.color_range == FULL or 'yuvj' in frame.format.name or frame.format.is_rgb
    if not frame.format.is_rgb:
        frame.colorspace = matrix_of(frame.colorspace, frame.width, frame.height)
    frame.color_trc = frame.color_primaries = UNKNOWN
    try:
        to.setdefault('interpolation', ACCURATE)
        return reformat(frame, width, height, pix_fmt, src_color_range=FULL if full else LIMITED, threads=1, **to)
    finally:
        frame.colorspace, frame.color_trc, frame.color_primaries = tags


class Reducer:
    """Frames as uint8 H x W x 3 RGB of one size, `hw` (height, width; None leaves the size).

    interpolation: swscale's flags. `QUICK` is for looking at: its chroma is less exact, at a third of the time.
    """

    def __init__(self, hw=None, interpolation=ACCURATE):
        self.hw, self.reformat, self.interpolation = hw, VideoReformatter().reformat, interpolation

    def __call__(self, frame):
        h, w = self.hw or (frame.height, frame.width)
        how = {'dst_color_range': FULL, 'interpolation': self.interpolation}
        return convert(self.reformat, frame, w, h, 'rgb24', **how).to_ndarray()


def rgb_to_yuv(image, picture, reformat=None):
    """A frame to encode from uint8 H x W x 3 RGB, in `picture`'s pixel format, matrix and range; see `convert`."""
    frame = av.VideoFrame.from_ndarray(image, format='rgb24')
    return convert(
        *(reformat or VideoReformatter().reformat, frame, picture.width, picture.height, picture.pix_fmt),
        dst_colorspace=matrix_of(picture.matrix, picture.width, picture.height),
        dst_color_range=picture.range or LIMITED,
    )
