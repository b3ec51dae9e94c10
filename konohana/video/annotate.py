"""Annotating a video: ffmpeg decodes, a detector looks at every frame, ffmpeg encodes; the rest is copied.

Three steps, each one ffmpeg process, so that no failure of the last costs the work of the ones before:

1. `FrameReader` decodes the picture to raw RGB on a pipe, at one constant rate.
2. `VideoWriter` encodes the annotated frames to a temporary file that holds the picture only. NUT, ffmpeg's own
   container, because it keeps exact times (Matroska rounds to milliseconds) and stays readable if the run dies.
3. The picture is joined with everything else of the source (sound, subtitles, fonts, chapters, tags) without coding it
   again where the container allows it, under a temporary name, and renamed when complete.

Times: ffmpeg shifts a file so that it starts at 0, by rules that depend on the streams chosen. `-copyts` switches that
off; the offsets are then given here, from one number: `VideoInfo.origin`, the source time that becomes 0.
"""

import os
import re
import subprocess
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import torch

from konohana.detectors.transform import fit_size
from konohana.drawing import draw_detections
from konohana.errors import UserError
from konohana.progress import progress_bar

CONTAINERS = {'.mkv': 'matroska', '.mp4': 'mp4', '.m4v': 'mp4', '.mov': 'mov'}

# A child in its own group: Ctrl-C reaches Python only, which then ends the children in order.
if os.name == 'nt':
    _OWN_GROUP = {'creationflags': subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
else:
    _OWN_GROUP = {'start_new_session': True}

# What ffmpeg's `scale` calls the YCbCr matrices that frames are tagged with.
_MATRICES = {
    'bt709': 'bt709',
    'smpte170m': 'bt601',
    'bt470bg': 'bt601',
    'fcc': 'fcc',
    'smpte240m': 'smpte240m',
    'bt2020nc': 'bt2020',
    'bt2020c': 'bt2020',
}
_STANDARD_RATES = [Fraction(n, d) for n, d in ((24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (50, 1))]
_STANDARD_RATES.append(Fraction(60000, 1001))


@dataclass
class Stream:
    """One stream of a file. kind: Video, Audio, Subtitle, Attachment, Data; codec and text as ffmpeg prints them."""

    index: int
    kind: str
    codec: str
    text: str
    language: str = ''
    tags: dict = field(default_factory=dict)

    @property
    def cover(self):
        """Whether this is a still picture that belongs to the file, not a video track."""
        return self.kind == 'Video' and 'attached pic' in self.text

    def __str__(self):
        return f'{self.kind.lower()} track {self.index} ({self.codec}{", " * bool(self.language)}{self.language})'


@dataclass
class VideoInfo:
    """A video file as `probe` finds it.

    path; streams (all of them, in file order); video (the stream that is annotated); width, height in pixels after
    turning by the rotation tag; sar (width of a pixel / its height, Fraction, None if untold); rate (frames per second,
    Fraction, constant); interlaced ('', 'tff' or 'bff'); colour ({range, space, primaries, trc} tags, 'unknown' if
    untold); pix_fmt; start (seconds into the file from which is read); origin (source time in seconds that becomes 0);
    offset (seconds from origin to the first frame); duration (seconds from origin to the end, None if untold).
    """

    path: Path
    streams: list
    video: Stream
    width: int
    height: int
    sar: Fraction | None
    rate: Fraction
    interlaced: str
    colour: dict
    pix_fmt: str
    start: float
    origin: float
    offset: float
    duration: float | None

    @property
    def matrix(self):
        """Name of the YCbCr matrix; untagged video is taken as players take it, by its size."""
        return _MATRICES.get(self.colour['space'], 'bt709' if self.height >= 720 or self.width >= 1280 else 'bt601')

    @property
    def range(self):
        """'full' or 'limited' values of Y, Cb and Cr."""
        return 'full' if self.colour['range'] == 'pc' and self.colour['space'] != 'gbr' else 'limited'


def _command(arguments, level='error'):
    try:
        ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(f'ffmpeg: not found ({error}). Install the package imageio-ffmpeg again.') from None
    return [ffmpeg, '-hide_banner', '-nostdin', '-loglevel', level, *map(str, arguments)]


def _ffmpeg(arguments, level='error'):
    """Run ffmpeg to its end; returns (exit status, text it printed on stderr)."""
    done = subprocess.run(
        _command(arguments, level),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        **_OWN_GROUP,
    )
    return done.returncode, done.stderr.decode('utf-8', 'replace')


def _last_line(text):
    """The last line of ffmpeg's stderr that says something, without the address in front."""
    idle = re.compile(r'[a-z_0-9]+=|Conversion failed|Error opening (in|out)put file|At least one output|Exiting')
    lines = [re.sub(r'^(\[[^]]*\] )+', '', line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not idle.match(line)]
    return lines[-1] if lines else 'no message'


def _streams(text):
    """The streams in what `ffmpeg -i` prints."""
    streams = []
    for line in text.splitlines():
        found = re.match(r'\s*Stream #0:(\d+)(?:\[\w+\])?(?:\(([^)]*)\))?: (\w+)(?:: (.*))?$', line)
        tag = re.match(r'\s+([\w-]+)\s*: (.*)$', line)
        if found:
            index, language, kind, rest = found.groups()
            codec = re.match(r'\w*', rest or '').group() or 'unknown'
            streams.append(Stream(int(index), kind, codec, rest or '', language or ''))
        elif streams and tag:
            streams[-1].tags.setdefault(tag[1].lower(), tag[2])
    return streams


def _seconds(text):
    hours, minutes, seconds = text.split(':')
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _constant_rate(guess, average):
    """The rate to decode at, from ffmpeg's guess (Fraction, the rate on whose grid all frames lie) and the average.

    The guess is exact for video of constant rate. It is the field rate for some interlaced video, and a rate that no
    frame pair really has (119.88) for a mix of rates.
    """
    if not guess:
        return Fraction(average or 25).limit_denominator(1001)
    if average and abs(guess / (2 * average) - 1) < 0.02:
        return guess / 2
    if average and guess > 61 and guess > 1.1 * average:
        return next((r for r in _STANDARD_RATES if r >= 0.99 * average), guess)
    return guess


def probe(path, start=0.0):
    """What a video file holds, from what ffmpeg prints about the file and about the first decoded frame.

    Args:
        path: video file.
        start: seconds into the file; the first frame from there on is looked at.

    Returns:
        VideoInfo.

    Raises:
        UserError: no such file, a folder, no video, nothing that can be decoded, or nothing after `start`.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f'{path}: is a folder, not a video. Name one file.')
    if not path.is_file():
        raise UserError(f'{path}: no such file. Set video_in to a video.')
    if not path.stat().st_size:
        raise UserError(f'{path}: is empty (0 bytes). Copy or download it again.')

    text = _ffmpeg(['-i', path], 'info')[1]
    form = re.search(r'^Input #0, (.+), from ', text, re.M)
    streams = _streams(text)
    if not form or not streams:
        raise UserError(f'{path}: not a video, or cut off beyond use (ffmpeg: {_last_line(text)}).')
    if re.search(r'_pipe|image2|tty|gif', form[1]):
        raise UserError(f'{path}: is a picture or text ({form[1]}), not a video.')
    video = next((s for s in streams if s.kind == 'Video' and not s.cover), None)
    if not video:
        kinds = ', '.join(sorted({'cover picture' if s.cover else s.kind.lower() for s in streams}))
        raise UserError(f'{path}: has no video stream, only {kinds}.')

    # -copyts: the time of the first frame as the file has it, comparable with the container's start.
    seek = ['-ss', start] if start else []
    first = _ffmpeg(
        [
            *seek,
            '-copyts',
            '-i',
            path,
            '-map',
            f'0:{video.index}',
            '-frames:v',
            1,
            '-vf',
            'showinfo',
            '-f',
            'null',
            '-',
        ],
        'info',
    )[1]
    frame = re.search(r'\] n: *0 .*?pts_time:(\S+).*? fmt:(\w+).*? sar:(\d+)/(\d+) s:(\d+)x(\d+) i:(\w)', first)
    if not frame:
        if start:
            raise UserError(f'{path}: no picture at start={start:g} seconds or after; choose an earlier start.')
        raise UserError(f'{path}: no frame of its video can be decoded (ffmpeg: {_last_line(first)}).')
    time, pix_fmt, sar_w, sar_h, width, height, scan = frame.groups()
    guess = re.search(r'config in .*frame_rate: *(\d+)/(\d+)', first)
    guess = Fraction(int(guess[1]), int(guess[2])) if guess and int(guess[2]) else None
    average = re.search(r'([\d.]+)(k?) fps', video.text)
    average = float(average[1]) * (1000 if average[2] else 1) if average else None
    colour = {
        name: (re.search(rf'color_{name}:(\w[\w-]*)', first) or ('', 'unknown'))[1]
        for name in ('range', 'space', 'primaries', 'trc')
    }

    container = re.search(r'Duration: (\S+?),(?: start: (-?[\d.]+))?', text)
    # A start just below 0 is the run-in of a sound decoder; players drop it, and the picture starts at 0.
    origin = start + max(0.0, float((container and container[2]) or 0))
    duration = None
    if container and container[1] != 'N/A':
        duration = _seconds(container[1]) - start
    # Matroska often tells the end of each track, which is better where the sound is longer.
    told = next((v for k, v in video.tags.items() if re.match(r'duration(-\w+)?$', k) and v.count(':') == 2), None)
    if told and re.fullmatch(r'\d+:\d+:[\d.]+', told):
        duration = _seconds(told) - origin
    first_time = float(time) if re.fullmatch(r'-?[\d.]+', time) else origin
    return VideoInfo(
        path=path,
        streams=streams,
        video=video,
        width=int(width),
        height=int(height),
        sar=Fraction(int(sar_w), int(sar_h)) if int(sar_w) and int(sar_h) else None,
        rate=_constant_rate(guess, average),
        interlaced={'T': 'tff', 'B': 'bff'}.get(scan, ''),
        colour=colour,
        pix_fmt=pix_fmt,
        start=start,
        origin=origin,
        offset=first_time - origin,
        duration=duration,
    )


class _Process:
    """An ffmpeg process; its stderr goes to a file, which cannot fill up and block it as a pipe would."""

    def __init__(self, arguments, **pipes):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(_command(arguments), stderr=self.log, **_OWN_GROUP, **pipes)

    def messages(self):
        self.log.seek(0)
        return self.log.read().decode('utf-8', 'replace')

    def kill(self):
        """End the process now; its pipes are at their end then, so that no thread waits on them for ever."""
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def _scale(info, kernel):
    """ffmpeg's conversion between RGB and YCbCr, by fields where the picture consists of fields.

    One colour sample of YCbCr serves 2 x 2 pixels. Repeated for reading (`neighbor`) and averaged for writing (`area`),
    it survives unchanged where nothing is drawn; smoother kernels blur colours and are slower. Without accurate_rnd
    the picture gets one level darker, without full_chroma_int colours lose accuracy.
    """
    return f'scale=flags={kernel}+accurate_rnd+full_chroma_int:interl={int(bool(info.interlaced))}'


class FrameReader(_Process):
    """The frames of a video from `info.start` on, decoded by ffmpeg: upright, RGB, at the constant rate `info.rate`.

    info: VideoInfo; seconds: length to read, 0 = to the end. After the last frame: `repeated` and `dropped` tell how
    many frames were added and left out to hold the rate, `error` is ffmpeg's last message, '' if it had none.
    """

    def __init__(self, info, seconds=0.0):
        self.shape = (info.height, info.width, 3)
        self.frames = self.repeated = self.dropped = 0
        self.error = ''
        # The first frame at 0: half a frame off the rate's grid, frames would be doubled and dropped by rounding.
        colour = '' if info.colour['space'] == 'gbr' else f':in_color_matrix={info.matrix}:in_range={info.range}'
        filters = f'{_scale(info, "neighbor")}{colour},format=rgb24,setpts=PTS-STARTPTS'
        super().__init__(
            [
                *(['-ss', info.start] if info.start else []),
                *('-i', info.path, '-map', f'0:{info.video.index}', '-vf', filters),
                *('-fps_mode', 'cfr', '-r', info.rate, *(['-t', seconds] if seconds else [])),
                *('-progress', 'pipe:2', '-f', 'rawvideo', 'pipe:1'),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )

    def read(self):
        """The next frame, uint8 H x W x 3 RGB, or None at the end."""
        frame = np.empty(self.shape, np.uint8)
        if self.process.stdout.readinto(memoryview(frame).cast('B')) == frame.nbytes:
            self.frames += 1
            return frame
        self.process.wait()
        messages = self.messages()
        for name, key in (('repeated', 'dup_frames'), ('dropped', 'drop_frames')):
            counts = re.findall(rf'^{key}=(\d+)', messages, re.M)
            setattr(self, name, int(counts[-1]) if counts else 0)
        self.error = _last_line(messages).replace('no message', '')
        return None


class VideoWriter(_Process):
    """Encodes frames to H.264 in a NUT file that holds the picture only, with the source's rate, shape and colours.

    path: file to write; info: VideoInfo of the source; crf: x264's quality, 0 (lossless) to 51. Frames of odd width or
    height are coded as yuv444p, which keeps the size; yuv420p has one colour sample for 2 x 2 pixels.
    """

    def __init__(self, path, info, crf=18):
        self.path = path
        self.frames = 0
        # The tags of the source, so that every player guesses the same for both; RGB has a matrix only from here on.
        tags = info.colour
        space = {'bt601': 'smpte170m'}.get(info.matrix, info.matrix) if tags['space'] == 'gbr' else tags['space']
        filters = [
            f'{_scale(info, "area")}:out_color_matrix={info.matrix}:out_range={info.range}',
            f'format={"yuv444p" if info.width % 2 or info.height % 2 else "yuv420p"}',
            f'setparams=field_mode={info.interlaced or "prog"}:range={info.range}:colorspace={space}'
            f':color_primaries={tags["primaries"]}:color_trc={tags["trc"]}',
            *([f'setsar={info.sar}'] if info.sar else []),
        ]
        super().__init__(
            [
                *('-f', 'rawvideo', '-pix_fmt', 'rgb24', '-video_size', f'{info.width}x{info.height}'),
                *('-framerate', info.rate, '-i', 'pipe:0', '-vf', ','.join(filters)),
                *('-c:v', 'libx264', '-preset', 'veryfast', '-crf', crf),
                *(['-flags', '+ildct+ilme'] if info.interlaced else []),
                # NUT stores no decoding times, so the first frame may stay at 0 though B-frames precede it.
                *('-avoid_negative_ts', 'disabled', '-f', 'nut', '-y', path),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )

    def _fail(self):
        self.kill()
        raise UserError(
            f'{self.path}: writing the video failed (ffmpeg: {_last_line(self.messages())}). Is the disk full?'
        )

    def write(self, frame):
        """Append a frame, uint8 H x W x 3 RGB. Raises UserError with ffmpeg's message when the encoder has ended."""
        try:
            self.process.stdin.write(memoryview(np.ascontiguousarray(frame)).cast('B'))
        except (OSError, ValueError):
            self.process.wait()
            self._fail()
        self.frames += 1

    def close(self):
        """Encode what is left and complete the file. Raises UserError as `write` does."""
        try:
            self.process.stdin.close()
        except OSError:
            pass
        if self.process.wait():
            self._fail()


def _plan(info, container, folder):
    """How each stream beside the annotated one is kept: (ffmpeg arguments, lines about what is not kept as it is).

    ffmpeg itself is asked, by writing one second to `folder`: what a container can hold differs between its versions.
    """
    form = CONTAINERS[container]

    def accepted(streams, codec):
        maps = [argument for s in streams for argument in ('-map', f'0:{s.index}')]
        end = ['-c', codec, '-f', form, '-y', folder / 'trial']
        return not _ffmpeg(['-t', 1, '-i', info.path, *maps, *end])[0]

    arguments, attached, notes, lost = [], [], [], {}
    number = dict(Video=1, Audio=0, Subtitle=0, Attachment=0, Data=0)
    recode = {'Audio': 'aac', 'Subtitle': 'ass' if form == 'matroska' else 'mov_text'}
    # What ffmpeg calls bin_data (text) are MP4's chapters, which are kept as chapters.
    others = [s for s in info.streams if s is not info.video and not s.text.startswith('bin_data (text')]
    tracks = [s for s in others if s.kind in number and (s.kind != 'Video' or (s.cover and form != 'matroska'))]
    whole = not tracks or accepted(tracks, 'copy')
    for s in others:
        codec = 'copy'
        if s in tracks and not whole and not accepted([s], 'copy'):
            codec = recode.get(s.kind)
            if codec and accepted([s], codec):
                style = ', which loses its styling' if codec == 'mov_text' and s.codec in ('ass', 'ssa') else ''
                notes.append(f'{s}: {container} cannot hold it as it is, written as {codec}{style}')
            else:
                codec = None
        if s in tracks and codec:
            letter = s.kind[0].lower().replace('a', 't' if s.kind == 'Attachment' else 'a')
            arguments += ['-map', f'1:{s.index}', f'-c:{letter}:{number[s.kind]}', codec]
            if s.cover:
                arguments += [f'-disposition:v:{number[s.kind]}', 'attached_pic']
            number[s.kind] += 1
        elif s.cover and form == 'matroska':
            # Matroska's covers are attachments; mapped as video, ffmpeg would make a film of it.
            file = folder / f'cover{s.index}'
            if not _ffmpeg(['-i', info.path, '-map', f'0:{s.index}', '-c', 'copy', '-f', 'image2pipe', '-y', file])[0]:
                attached.append((file, {'mjpeg': 'jpeg'}.get(s.codec, s.codec), s.tags.get('filename')))
        else:
            lost.setdefault(s.kind, []).append(s)
    for file, kind, name in attached:
        tag = f'-metadata:s:t:{number["Attachment"]}'
        name = name or f'cover.{kind.replace("jpeg", "jpg")}'
        arguments += ['-attach', file, tag, f'mimetype=image/{kind}', tag, f'filename={name}']
        number['Attachment'] += 1
    for kind, streams in lost.items():
        names = ', '.join(dict.fromkeys(f'{s.codec}{" " * bool(s.language)}{s.language}' for s in streams))
        hint = '' if kind in ('Video', 'Data') or form == 'matroska' else '; .mkv may hold it'
        notes.append(
            f'not kept in {container}: {len(streams)} {kind.lower()} stream{"s" * (len(streams) > 1)} ({names}){hint}'
        )
    return arguments, notes


def _join(info, picture, path, others, limit=None):
    """Write `path`: the picture, and of the source the streams that `others` maps, chapters and tags.

    limit: seconds after which everything ends, None = where the source ends. Raises UserError.
    """
    tags = [
        f'{key}={value}' for key, value in (('language', info.video.language), ('title', info.video.tags.get('title')))
    ]
    code, messages = _ffmpeg(
        [
            *('-copyts', '-itsoffset', f'{info.offset:.6f}', '-i', picture),
            *(['-ss', info.start] if info.start else []),
            *('-itsoffset', f'{-info.origin:.6f}', '-i', info.path),
            *('-map', '0:v:0', '-c', 'copy', *others, '-map_metadata', 1, '-map_chapters', 1),
            *(a for tag in tags if not tag.endswith(('=', '=None')) for a in ('-metadata:s:v:0', tag)),
            # A part of the video: copied sound begins with the picture, not at the key frame before it.
            *(['-copypriorss', 0] if info.start else []),
            *(['-t', f'{limit:.6f}'] if limit else []),
            *('-max_muxing_queue_size', 9999, '-f', CONTAINERS[path.suffix.lower()], '-y', path),
        ]
    )
    if code:
        raise UserError(f'{path}: joining picture and sound failed (ffmpeg: {_last_line(messages)}). Is the disk full?')


def _notes(info):
    """Lines about what the coding changes."""
    notes = []
    if info.width % 2 or info.height % 2:
        notes.append(f'odd size {info.width}x{info.height}: coded as yuv444p, which some TVs and browsers cannot play')
    if re.search(r'(9|10|12|14|16|48|64)(le|be)$', info.pix_fmt):
        notes.append(f'more than 8 bits per colour ({info.pix_fmt}): written with 8')
    if 'Closed Captions' in info.video.text:
        notes.append('closed captions inside the picture stream: not kept')
    return notes


def _detect(model, frames, hw, device, threshold):
    """Detections of uint8 H x W x 3 frames, boxes in pixels of the frames; the model sees the frames at size `hw`.

    Masks stay at that size, and what will not be drawn is dropped here: masks of full size would fill the memory.
    """
    frame_h, frame_w = frames[0].shape[:2]
    if hw != (frame_h, frame_w):
        frames = [cv2.resize(frame, hw[::-1], interpolation=cv2.INTER_AREA) for frame in frames]
    with torch.inference_mode():
        # To the device as bytes, a quarter of the floats.
        found = model([torch.from_numpy(frame).to(device).permute(2, 0, 1).float().div(255) for frame in frames])
    scale = np.array([frame_w / hw[1], frame_h / hw[0]] * 2, np.float32)
    detections = []
    for d in found:
        scores = torch.as_tensor(d['scores'])
        shown = scores >= threshold
        boxes = torch.as_tensor(d['boxes'])[shown].cpu().float().numpy().reshape(-1, 4) * scale
        detections.append({'boxes': boxes, 'scores': scores[shown].cpu().float().numpy()})
        for key in ('labels', 'masks'):
            if key in d:
                detections[-1][key] = torch.as_tensor(d[key])[shown].cpu().numpy()
    return detections


def _model_size(info, model):
    """(height, width) at which the model sees the frames: square pixels, reduced to the size that it works at.

    Reducing bytes here is several times as fast as reducing floats in the model, which then leaves the frame as it is.
    A frame smaller than the model's size is left to the model.
    """
    width, height = max(1, round(info.width * float(info.sar or 1))), info.height
    fit = fit_size(height, width, getattr(model, 'img_hw', None) or (height, width))
    return min(fit, (height, width))


def annotate_video(
    model,
    video_in,
    video_out,
    threshold=0.5,
    batch_size=4,
    label_names=None,
    crf=18,
    start=0.0,
    seconds=0.0,
    font=None,
    class_names=None,
    progress=True,
    window=None,
):
    """Write a copy of a video in which every frame shows the detections of a model.

    Reading, the model, and drawing with encoding overlap, one thread each; at most five batches are in memory.

    Args:
        model: callable, list of float 3 x H x W RGB 0..1 tensors -> list of {boxes n x 4 x1, y1, x2, y2 in pixels,
            labels n (k names class_names[k - 1]), scores n and maybe masks n x H x W}. If it has `img_hw` (height,
            width), larger frames are reduced to about that size for it; if it has `parameters()`, inputs are put on
            their device.
        video_in: file of any kind that ffmpeg reads.
        video_out: file to write, .mkv, .mp4, .m4v or .mov. Its folder is created.
        threshold: detections of a lower score are not drawn, 0..1.
        batch_size: frames per call of the model.
        label_names: {class name: other spelling to draw}.
        crf: x264's quality, 0 (lossless) to 51 (worst); 18 looks like the source.
        start, seconds: part of the video, in seconds; seconds=0 is all that follows.
        font: path of a font file for the labels.
        class_names: names of the classes; None takes `model.class_names`.
        progress: show a progress bar and print what could not be kept.
        window: a `window.Window` that shows each annotated frame, or None.

    Returns:
        dict: video_out (Path), frames, seconds (length), rate (Fraction), width, height, notes (list of lines about
        what is not as in the source).

    Raises:
        UserError: video_in cannot be used, video_out cannot be written, or a value makes no sense.

    When the model fails or the user presses Ctrl-C, what was annotated until then is kept as `<name>_partial<.ext>`
    and the exception goes on.
    """
    video_in, video_out = Path(video_in).absolute(), Path(video_out).absolute()
    if batch_size < 1 or not 0 <= crf <= 51 or start < 0 or seconds < 0:
        raise UserError(
            f'batch_size={batch_size}, crf={crf}, start={start}, seconds={seconds}: batch_size is at least 1, crf 0 to '
            '51, start and seconds are at least 0.'
        )
    if video_out.suffix.lower() not in CONTAINERS:
        raise UserError(f'{video_out}: unknown kind of video {video_out.suffix!r}; use {", ".join(CONTAINERS)}.')
    if video_out.is_dir():
        raise UserError(f'{video_out}: is a folder; video_out names a file.')
    info = probe(video_in, start)
    if video_out.exists() and video_out.samefile(video_in):
        raise UserError(f'{video_out}: video_out is video_in itself; name another file.')
    class_names = model.class_names if class_names is None else class_names
    try:
        video_out.parent.mkdir(parents=True, exist_ok=True)
        # All that is unfinished lies in a folder beside the result, on the same disk, and goes with it.
        scratch = tempfile.TemporaryDirectory(
            prefix='unfinished_', dir=video_out.parent, ignore_cleanup_errors=os.name == 'nt'
        )
    except OSError as error:
        raise UserError(
            f'{video_out}: cannot write there ({error.strerror or error}). Choose another folder.'
        ) from None
    with scratch as folder:
        return _annotate(
            *(model, info, video_out, Path(folder), threshold, batch_size, label_names, crf, seconds, font),
            *(class_names, progress, window),
        )


def _annotate(
    model,
    info,
    video_out,
    folder,
    threshold,
    batch_size,
    label_names,
    crf,
    seconds,
    font,
    class_names,
    progress,
    window,
):
    """`annotate_video` once its arguments are checked; `folder` takes the unfinished files."""
    ext = video_out.suffix
    picture, joined = folder / 'picture.nut', folder / f'joined{ext}'
    partial = video_out.with_name(f'{video_out.stem}_partial{ext}')
    device = next(model.parameters()).device if hasattr(model, 'parameters') else 'cpu'
    hw = _model_size(info, model)
    expected = max(0.0, (info.duration or 0) - info.offset)
    if seconds:
        expected = min(expected or seconds, seconds)
    total = max(1, round(expected * info.rate))
    notes = []

    def tell(*lines):
        notes.extend(lines)
        for line in lines if progress else ():
            print(line)

    def read_batch():
        frames = (reader.read() for _ in range(batch_size))
        return [frame for frame in frames if frame is not None]

    def write_batch(frames, found):
        drawn = []
        for frame, detections in zip(frames, found, strict=True):
            frame = draw_detections(frame, detections, class_names, label_names, threshold, font)
            writer.write(frame)
            if window:
                drawn.append(frame)
        return drawn

    def finish_oldest():
        """Wait for the batch that was drawn first; windows are for the main thread, so it is shown here."""
        for frame in writing.popleft().result():
            window.show(frame)

    def end():
        """Seconds from the origin to the end of the last frame written."""
        return info.offset + float(writer.frames / info.rate)

    others, lost = _plan(info, ext.lower(), folder)
    tell(*_notes(info), *lost)
    reader, writer = FrameReader(info, seconds), VideoWriter(picture, info, crf)
    try:
        with (
            ThreadPoolExecutor(1) as readers,
            ThreadPoolExecutor(1) as writers,
            reader,  # its end, whatever happens, ends the thread that waits for it
            progress_bar(info.path.name, total, progress, 'frames') as bar,
        ):
            writing = deque()
            upcoming = readers.submit(read_batch)
            while frames := upcoming.result():
                upcoming = readers.submit(read_batch)
                writing.append(writers.submit(write_batch, frames, _detect(model, frames, hw, device, threshold)))
                if len(writing) > 2:
                    finish_oldest()
                bar.update(min(writer.frames, total))
            while writing:
                finish_oldest()
            bar.max_value = max(1, writer.frames)
        writer.close()
        if not writer.frames:
            raise UserError(f'{info.path}: no frame could be decoded (ffmpeg: {reader.error or "no message"}).')
        if reader.repeated + reader.dropped:
            tell(
                f'variable frame rate or gaps: written at a constant {info.rate} fps, in step with the sound '
                f'({reader.repeated} frames repeated, {reader.dropped} left out)'
            )
        length = float(writer.frames / info.rate)
        why = f' (ffmpeg: {reader.error})' if reader.error else ''
        if expected - length > 0.5:
            tell(
                f'{info.path.name}: the picture ends after {writer.frames} frames, {length:.1f} of {expected:.1f} s; '
                f'the rest is missing or damaged, or the sound is longer{why}'
            )
        elif why:
            tell(f'{info.path.name}: has damaged parts{why}')
        try:
            _join(info, picture, joined, others, end() if seconds else None)
        except UserError as error:
            _join(info, picture, joined, [])
            joined.replace(partial)
            raise UserError(f'{error} The annotated picture without sound is kept in {partial}.') from None
    except (Exception, KeyboardInterrupt) as error:
        # All frames that have their detections are drawn by now. `_fail` has ended an encoder that failed.
        if writer.process.poll() is None and writer.frames:
            writer.close()
            _join(info, picture, joined, others, end())
            joined.replace(partial)
            print(f'Stopped ({type(error).__name__}) after {writer.frames} frames: these are kept in {partial}.')
        raise
    finally:
        writer.kill()
    try:
        joined.replace(video_out)
    except OSError as error:
        kept = video_out.with_name(f'{video_out.stem}_new{ext}')
        joined.replace(kept)
        raise UserError(f'{video_out}: cannot be replaced ({error.strerror}); the result is {kept}.') from None
    return {
        'video_out': video_out,
        'frames': writer.frames,
        'seconds': length,
        'rate': info.rate,
        'width': info.width,
        'height': info.height,
        'notes': notes,
    }
