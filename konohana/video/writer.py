"""Writing a video: encodes frames and copies other packets. The file can be played however writing ends.

Used for annotated files, recordings of a camera and toy episodes. The file is written as `unfinished_<name>` and
renamed once it is complete.
"""

import contextlib
import errno
import itertools
import os
import re
import struct
from collections import deque
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
from av.codec.context import Flags
from av.codec.hwaccel import HWAccel

from konohana import files
from konohana.errors import UserError, count, printable
from konohana.video.source import FULL, reason

CONTAINERS = {'.mkv': 'matroska', '.mp4': 'mp4', '.m4v': 'mp4', '.mov': 'mov'}
# Encoder, its default preset, its worst crf.
CODECS = {'h264': ('libx264', 'veryfast', 51), 'hevc': ('libx265', 'veryfast', 51), 'av1': ('libsvtav1', '10', 63)}
SPEEDS = 'ultrafast superfast veryfast faster fast medium slow slower veryslow placebo'.split()
# Encoders on a device, and their option for crf. Presets are the device's own.
DEVICE_ENCODERS = {'cuda': ('nvenc', 'cq'), 'qsv': ('qsv', 'global_quality'), 'vaapi': ('vaapi', 'qp'),
                   'videotoolbox': ('videotoolbox', '')}  # fmt: skip
# Error numbers of the disk.
DISK = {getattr(errno, name, None) for name in 'ENOSPC EFBIG EDQUOT EIO EROFS EPIPE EBADF ENODEV'.split()}
REFUSED = 1000  # damaged packets to leave out, at most
HELD = 2000  # packets that may wait for the picture before them
LONGEST = 2**31 - 1  # ticks of a track's clock between two packets in MP4; FFmpeg ends the process where there are more


def pixel_format(source, codec, width, height):
    """The pixel format to encode a video of format `source` in: its own depth and colour samples where possible."""
    form = av.VideoFormat(source, width, height)
    deep = '10le' if form.components[0].bits > 8 else ''
    wanted = '420'
    if not form.is_rgb and len(form.components) >= 3 and '_' not in source:
        across, down = form.chroma_width(8) == 4, form.chroma_height(8) == 4
        wanted = {(True, True): '420', (True, False): '422', (False, False): '444'}.get((across, down), '420')
    if (width % 2 and wanted != '444') or (height % 2 and wanted == '420'):
        wanted = '444'
    known = {f.name for f in av.Codec(CODECS[codec][0], 'w').video_formats or ()}
    tries = [f'yuv{wanted}p{deep}', f'yuv{wanted}p', f'yuv420p{deep}', 'yuv420p']
    return next((name for name in tries if name in known), 'yuv420p')


def encoded(picture, codec, pix_fmt):
    """`picture` with the pixel format, range and matrix of the result."""
    form = pix_fmt or pixel_format(picture.pix_fmt, codec, picture.width, picture.height)
    full = picture.range == FULL or 'yuvj' in picture.pix_fmt
    rgb = av.VideoFormat(picture.pix_fmt).is_rgb
    if rgb:  # RGB has a matrix and a limited range only from here on
        matrix = 1 if picture.height >= 720 or picture.width >= 1280 else 6
        return replace(picture, pix_fmt=form, range=1, matrix=matrix, chroma='')
    chroma = picture.chroma if '420' in picture.pix_fmt and '420' in form else ''
    return replace(picture, pix_fmt=form, range=FULL if full else picture.range, chroma=chroma)


def check_encoding(codec, crf, preset='', pix_fmt=''):
    """Raise UserError if a value is out of range or the codec does not support it."""
    if codec not in CODECS:
        raise UserError(f'codec={codec!r}: use {", ".join(map(repr, CODECS))}.')
    encoder, _, worst = CODECS[codec]
    if not 0 <= crf <= worst:
        raise UserError(f'crf={crf}: it is 0 (best) to {worst} (worst) for codec={codec!r}.')
    try:
        known = [f.name for f in av.Codec(encoder, 'w').video_formats or ()]
    except (av.FFmpegError, ValueError):
        raise UserError(
            f'codec={codec!r}: this build of PyAV has no {encoder}; reinstall av, or codec="h264".'
        ) from None
    presets = SPEEDS if codec != 'av1' else [str(number) for number in range(14)]
    if preset and preset not in presets:
        raise UserError(f"preset={preset!r}: codec={codec!r} takes {', '.join(presets)}, or '' for a fast one.")
    drawable = [name for name in known if name.startswith('yuv') and name.removesuffix('10le').endswith('p')]
    drawable = [name for name in drawable if not name.startswith(('yuvj', 'yuva'))]
    if pix_fmt and pix_fmt not in drawable:
        raise UserError(f"pix_fmt={pix_fmt!r}: codec={codec!r} takes {', '.join(drawable)}, or '' for the source's.")


def check_target(path):
    """Raise UserError if `path` is a folder or its ending is not that of a video that can be written."""
    if path.suffix.lower() not in CONTAINERS:
        raise UserError(f'{path}: unknown kind of video {path.suffix!r}; use {", ".join(CONTAINERS)}.')
    if path.is_dir():
        raise UserError(f'{path}: is a folder; video_out names a file.')


class VideoWriter:
    """Encodes frames into a video file; other streams are added to `container` before `start`.

    path: the finished file, whose ending selects the container. picture: `source.Picture`. rate (Fraction, frames per
    second, for the encoder) and time_base (seconds, of the frames' times). codec 'h264', 'hevc' or 'av1'; crf, its
    quality; preset, '' for a fast one; hwaccel: FFmpeg's name of a device that encodes; hdr: frames' side data of HDR.
    source: the video that is copied, for messages about what is wrong in it; '' where there is none.
    faststart: MP4 that plays while it loads; such a file cannot be read before it is finished.

    Use it as a context manager. `finish` renames the file to `path`; `keep` completes what is written so far as
    `<name>_partial`. Without either, nothing is left.
    """

    def __init__(
        self, path, picture, rate, time_base, codec='h264', crf=18, preset='', hwaccel='', hdr=None, source='',
        faststart=False,
    ):  # fmt: skip
        self.path, self.frames, self.end, self.source = Path(path), 0, Fraction(0), source
        self.form = CONTAINERS[self.path.suffix.lower()]
        self.notes, self.held, self.refused, self.complete = [], deque(), 0, False
        self.unfinished, self.lock = _unfinished(self.path)
        # Keep times: Matroska would shift all of them for the priming of an audio decoder, which is below 0.
        # MP4 is written in fragments, readable however writing ends; a complete file becomes a plain MP4.
        options = {'avoid_negative_ts': 'disabled'}
        if self.form != 'matroska':
            options['movflags'] = '+faststart' if faststart else '+hybrid_fragmented+delay_moov'
        self.container = av.open(str(self.unfinished), 'w', format=self.form, container_options=options)
        self.time_base, self._last, self._moments = time_base, None, {}
        try:
            self.stream = self._add_encoder(picture, rate, codec, crf, preset, hwaccel, hdr)
        except BaseException:
            self.discard()
            raise

    def _add_encoder(self, picture, rate, codec, crf, preset, hwaccel, hdr):
        encoder, usual, _ = CODECS[codec]
        os.environ.setdefault('SVT_LOG', '1')  # otherwise SVT-AV1 prints twenty lines
        options = {'preset': preset or usual}
        stream = None
        if hwaccel:
            stream = self._add_device_encoder(codec, crf, hwaccel, rate)
        if stream is None:
            options.update(_more_options(encoder, crf, hdr or {}))
            stream = self.container.add_stream(encoder, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, picture.pix_fmt
        context = stream.codec_context
        if picture.chroma:
            context.options = {**context.options, 'chroma_sample_location': picture.chroma}
        stream.time_base = context.time_base = self.time_base
        stream.thread_type = 'FRAME'  # PyAV's own choice makes x264 cut frames into slices: slower and larger
        if picture.sar:
            context.sample_aspect_ratio = picture.sar
        context.color_range, context.colorspace = picture.range, picture.matrix
        context.color_primaries, context.color_trc = picture.primaries, picture.transfer
        self.fields = picture.interlaced and codec == 'h264'
        context.flags |= Flags.frame_duration
        if self.fields:
            context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        if codec == 'hevc' and self.form != 'matroska':
            context.codec_tag = 'hvc1'  # required by Apple's players
        return stream

    def _add_device_encoder(self, codec, crf, hwaccel, rate):
        """The encoder of a device, None if it cannot be opened."""
        kind, quality = DEVICE_ENCODERS.get(hwaccel, ('', ''))
        name = f'{codec}_{kind}'
        try:
            trial = av.CodecContext.create(name, 'w')
            trial.width, trial.height, trial.pix_fmt, trial.time_base = 640, 480, 'yuv420p', Fraction(1, 25)
            trial.open()
            device = HWAccel(hwaccel) if kind == 'vaapi' else None
            options = {quality: str(crf)} if quality else {}
            return self.container.add_stream(name, rate=rate, options=options, hwaccel=device)
        except (av.FFmpegError, ValueError, RuntimeError, NotImplementedError) as error:
            why = reason(error)
            self.notes.append(f'hwaccel={hwaccel!r}: does not encode {codec} here ({why}); the processor does')
            return None

    def start(self):
        """Write the file's header; after it no stream can be added."""
        try:
            self.container.start_encoding()
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from None

    def _failed(self, error):
        if error.errno in DISK or not self.source:
            return UserError(f'{self.path}: writing the video failed ({reason(error)}). Is the disk full?')
        return UserError(
            f'{self.source}: what follows {float(self.end):.1f} s cannot be written to {self.path} (FFmpeg: '
            f'{reason(error)}). It is damaged there, or its size is too large for the encoder.'
        )

    def write(self, frame):
        """Encode a frame (PyAV's VideoFrame, in the picture's size and pixel format, with a time)."""
        if self._last is not None and frame.pts <= self._last:
            frame.pts = self._last + 1
        self._last = frame.pts
        end = (frame.pts + (frame.duration or 1)) * frame.time_base
        with self._telling():
            self._mux(list, self.stream.encode(frame))
            self.frames += 1
            self.end = end
            self._release(end)

    def mux(self, packets):
        """Write packets of a stream that the caller encodes."""
        with self._telling():
            self.container.mux(packets)

    def copy(self, packet, handle):
        """Take a packet of another stream; `handle(packet)` gives the packets to write once the picture is that far."""
        moment = packet.dts if packet.pts is None else packet.pts
        self.held.append((None if moment is None else moment * packet.time_base, packet, handle))
        if len(self.held) > HELD:
            self._write_held(self.held.popleft())

    def _release(self, end):
        waiting = deque()
        for item in self.held:
            if item[0] is None or item[0] < end:
                self._write_held(item)
            else:
                waiting.append(item)
        self.held = waiting

    def _write_held(self, item):
        with self._telling():
            self._mux(item[2], item[1])

    def _mux(self, handle, argument):
        """Write the packets that `handle(argument)` gives; one that is damaged in the source is left out."""
        try:
            for packet in handle(argument):
                if self._jumps(packet):
                    self.refused += 1
                else:
                    self.container.mux(packet)
        except av.FFmpegError as error:
            self.refused += 1
            if error.errno in DISK or self.refused > REFUSED:
                raise

    def _jumps(self, packet):
        """Whether a copied packet comes too long after the one before it for MP4; UserError for one of the picture."""
        if self.form == 'matroska' or packet.dts is None or packet.time_base is None:
            return False
        moment = packet.dts * packet.time_base
        gap = moment - self._moments.get(packet.stream.index, moment)
        jumps = gap > LONGEST * packet.stream.time_base
        if jumps and packet.stream is self.stream:
            raise UserError(
                f'{self.source or self.path}: its times jump by {float(gap) / 3600:.1f} hours after '
                f'{float(self._moments[packet.stream.index]):.1f} s, which {self.path.suffix} cannot hold. '
                'It may be damaged there; video_out may end in .mkv.'
            )
        if not jumps:
            self._moments[packet.stream.index] = moment
        return jumps

    @contextlib.contextmanager
    def _telling(self):
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from None

    def flush(self, handles=(), whole=True):
        """Complete the file. whole: also write the packets that still wait. handles: those of `copy`, to flush."""
        with self._telling():
            for item in self.held if whole else ():
                self._write_held(item)
            for handle in handles:
                self._mux(handle, None)
            self._mux(list, self.stream.encode(None))
            self.container.close()
        self.complete = whole

    def finish(self, remember=True):
        """Rename the complete file to `path`; `remember` it as an output of this program (see `files`)."""
        self._rename(self.path, remember)

    def _rename(self, path, remember=True):
        self.lock.close()  # Windows cannot rename an open file
        try:
            with self.unfinished.open('rb+') as file:
                os.fsync(file.fileno())
            os.replace(self.unfinished, path)
        except OSError as error:
            kept = _free(path, '_new')
            os.replace(self.unfinished, kept)
            raise UserError(f'{path}: cannot be replaced ({error.strerror}); the result is {kept}.') from None
        if remember:
            files.written(path)

    def keep(self, why, handles=()):
        """After an exception `why`: complete the frames so far as `<name>_partial`, if the disk allows it.

        Where all of it is written already and only the name is missing, it gets that.
        """
        if self.complete and self.unfinished.exists():
            self.finish()
        if not self.frames or self.complete:
            return
        with contextlib.suppress(UserError, av.FFmpegError, OSError):
            self.flush(handles, whole=False)
        with contextlib.suppress(av.FFmpegError, OSError):
            self.container.close()
        if not self.unfinished.exists() or not self.unfinished.stat().st_size:
            return
        partial = _free(self.path, '_partial')
        self._rename(partial)
        print(f'{stopped(why)} after {count(self.frames, "frame")}, kept in {printable(partial)}.')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.discard()

    def discard(self):
        """Close everything, and remove what is written unless `finish` or `keep` has renamed it."""
        with contextlib.suppress(av.FFmpegError, OSError):
            self.container.close()
        self.lock.close()
        with contextlib.suppress(OSError):
            self.unfinished.unlink(missing_ok=True)


def _more_options(encoder, crf, hdr):
    """Options for the encoder beside its preset: the quality, and HDR."""
    # x264's crf=0 is lossless for 8 bits only.
    options = {'qp': '0'} if encoder == 'libx264' and crf == 0 else {'crf': str(crf)}
    parameters = _hdr_parameters(encoder, hdr)
    if encoder == 'libx265':
        parameters += ['log-level=none', *(['lossless=1'] if crf == 0 else [])]
    if parameters:
        options[f'{encoder.removeprefix("lib")}-params'] = ':'.join(parameters)
    return options


def _hdr_parameters(encoder, hdr):
    """Parameters with HDR metadata: the mastering display (SMPTE ST 2086) and content light levels."""
    display, light = hdr.get('MASTERING_DISPLAY_METADATA'), hdr.get('CONTENT_LIGHT_LEVEL')
    values = []
    if display and len(display) >= 88:
        n = struct.unpack('=22i', display[:88])
        if n[20] and n[21]:
            r, g, b, white = (tuple(round(n[i + k] / n[i + k + 1] * 50000) for k in (0, 2)) for i in (0, 4, 8, 12))
            low, high = (round(n[i] / n[i + 1] * 10000) for i in (16, 18))
            name = {'libx264': 'mastering-display', 'libx265': 'master-display'}.get(encoder)
            points = ''.join(f'{k}({x},{y})' for k, (x, y) in (('G', g), ('B', b), ('R', r), ('WP', white)))
            values.append((name, f'{points}L({high},{low})'))
    if light and len(light) >= 8:
        name = {'libx264': 'cll', 'libx265': 'max-cll'}.get(encoder)
        values.append((name, '{},{}'.format(*struct.unpack('=2I', light[:8]))))
    return [f'{name}={value}' for name, value in values if name]


def stopped(why):
    """What an exception that ends the work is called where its results are kept."""
    return 'Stopped' if isinstance(why, KeyboardInterrupt) else 'Stopped by an error'


def _unfinished(path):
    """(path to write to, open file that holds its lock). Removes what a killed run left under this name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in sorted(path.parent.iterdir()):
            if re.fullmatch(rf'unfinished_\d+_{re.escape(path.name)}', left.name):
                _remove_left(left)
        unfinished = path.with_name(f'unfinished_{os.getpid()}_{path.name}')
        lock = unfinished.open('ab')
    except OSError as error:
        raise UserError(f'{path}: cannot write there ({error.strerror or error}). Choose another folder.') from None
    _lock(lock)
    return unfinished, lock


def _free(path, ending):
    """`path` with `ending` after its stem, and a number if this program did not write the file of that name."""
    for number in itertools.count(1):
        free = path.with_name(f'{path.stem}{ending}{number if number > 1 else ""}{path.suffix}')
        if not free.exists() or files.written_here(free):
            return free


def _lock(file):
    """Lock `file`; returns whether no other process holds it. The lock ends with its process, however that ends."""
    try:
        import fcntl
    except ImportError:  # on Windows an open file cannot be removed anyway
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_left(left):
    """Remove a file that a killed run left, unless another run is writing it."""
    with contextlib.suppress(OSError):
        with left.open('ab') as file:
            mine = _lock(file)
        if mine:
            left.unlink()
            print(f'{printable(left)}: left by a run that was killed; removed.')
