"""Annotating a video: a copy with boxes, in which every frame appears once, at its own time.

One process and four threads: reading (demux, decode, reduce each frame to the network's size), the network, drawing (on
the frame's own YCbCr planes) and encoding. Everything else in the file is copied. Only a few batches are in memory,
however long the video is.
"""

import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av

from konohana import files
from konohana.errors import UserError, count
from konohana.interrupts import patient
from konohana.progress import progress_bar
from konohana.video.canvas import Canvas
from konohana.video.copying import Copies
from konohana.video.detecting import NOTHING, detect, model_size
from konohana.video.source import Reducer, Source, is_url
from konohana.video.stages import Stages
from konohana.video.writer import CONTAINERS, VideoWriter, check_encoding, check_target, encoded

BATCHES_AHEAD = 2  # batches that may wait to be drawn
PACKETS_IN_BATCH = 1000  # packets to copy after which a batch is closed, however few frames it has


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
    codec='h264',
    preset='',
    pix_fmt='',
    hwaccel='',
    overwrite=False,
    detections=None,
    chapters=(),
):
    """Write a copy of a video in which every frame shows the detections of a model.

    Each frame of the source appears once, at its own time; pixels without drawing keep the source's values up to the
    encoder. Sound, subtitles, fonts, covers, chapters and tags are copied as far as the container can hold them.

    Args:
        model: callable, list of float 3 x H x W RGB 0..1 tensors -> list of {boxes n x 4 x1, y1, x2, y2 in pixels,
            labels n (k names class_names[k - 1]), scores n and maybe masks n x H x W}. Optional attributes: `img_hw`
            (height, width), to which larger frames are reduced; `parameters()`, whose device gets the inputs;
            `takes_bytes`, True for uint8 inputs, 0..255.
        video_in: file of any kind that FFmpeg reads, or the URL of a stream.
        video_out: file to write, .mkv, .mp4, .m4v or .mov. Its folder is created.
        threshold: detections of a lower score are not drawn, 0..1.
        batch_size: frames per call of the model.
        label_names: {class name: other spelling to draw}.
        crf: the encoder's quality, 0 (best) to 51 (worst), 63 for AV1; 18 looks like the source.
        start, seconds: part of the video, in seconds; seconds=0 is all that follows.
        font: path of a font file for the labels.
        class_names: names of the classes; None takes `model.class_names`.
        progress: show a progress bar and print what could not be kept.
        window: a `window.Window` that shows each annotated frame, or None.
        codec: 'h264', 'hevc' or 'av1'.
        preset: the encoder's preset, '' for a fast one.
        pix_fmt: pixel format to encode, like 'yuv420p'; '' keeps the source's depth and colour samples.
        hwaccel: device that decodes and encodes where it can, by FFmpeg's name: 'cuda', 'videotoolbox', 'vaapi', ...
        overwrite: replace a file at `video_out` that this program did not write.
        detections: iterable of the detections to draw in each frame, in order, instead of the model's: dicts as above,
            of arrays, boxes in pixels of the video. The model may then be None; set `class_names`.
        chapters: chapters to write where the video has none, as PyAV's `set_chapters` takes them.

    Returns:
        dict: video_out (Path), frames, seconds (length), rate (Fraction), width, height, notes (list of lines about
        what is not as in the source), stages (line: the rate of decoding, detecting, drawing and encoding).

    Raises:
        UserError: video_in cannot be read, video_out cannot be written, or a value is out of its range.

    If the model fails, the disk is full or you press Ctrl-C, the frames annotated so far are kept as
    `<name>_partial<.ext>` and the exception is raised again.
    """
    video_in, video_out = video_in if is_url(video_in) else Path(video_in).absolute(), Path(video_out).absolute()
    if batch_size < 1 or start < 0 or seconds < 0:
        raise UserError(
            f'batch_size={batch_size}, start={start}, seconds={seconds}: batch_size is at least 1, start and seconds '
            'are at least 0.'
        )
    check_encoding(codec, crf, preset, pix_fmt)
    check_target(video_out)
    with patient(), Source(video_in, start, seconds, hwaccel) as source:
        files.claim(video_out, [] if is_url(video_in) else [video_in], overwrite, 'video_out')
        picture = encoded(source.picture, codec, pix_fmt)
        unit = source.prepare(picture, CONTAINERS[video_out.suffix.lower()] != 'matroska')
        style = {
            'class_names': model.class_names if class_names is None else class_names,
            'label_names': label_names, 'threshold': threshold, 'font': font,
        }  # fmt: skip
        encoding = {'codec': codec, 'crf': crf, 'preset': preset, 'hwaccel': hwaccel, 'hdr': source.hdr}
        encoding['source'] = video_in
        with VideoWriter(video_out, picture, source.rate, unit, **encoding) as writer:
            work = _Annotation(model, source, writer, threshold, batch_size, style, progress, window, detections,
                               chapters)  # fmt: skip
            return work.run()


class _Annotation:
    """One run of `annotate_video`, once everything is open."""

    def __init__(self, model, source, writer, threshold, batch_size, style, progress, window, detections=None,
                 chapters=()):  # fmt: skip
        self.model, self.source, self.writer = model, source, writer
        self.threshold, self.batch_size, self.progress, self.window = threshold, batch_size, progress, window
        picture = source.picture
        self.hw = picture.height, picture.width
        self.canvas = Canvas(picture, style)
        if detections is None:
            self.known, self.reduce = None, Reducer(model_size(picture.width, picture.height, picture.sar, model))
        else:
            self.known, self.reduce = itertools.chain(detections, itertools.repeat(NOTHING)), lambda frame: ()
        self.to_rgb, self.notes, self.items = Reducer(), [], source.items()
        self.copies, self.stages = Copies(source, writer, chapters), Stages()

    def tell(self, *lines):
        """Add lines to the result's notes, and print them."""
        self.notes.extend(lines)
        for line in lines if self.progress else ():
            print(line)

    def run(self):
        """Annotate it all; returns what `annotate_video` returns."""
        self.tell(*self._differences(), *self.copies.notes, *self.writer.notes)
        handles = self.copies.handles.values()
        self.writer.start()
        try:
            self._loop()
            self.tell(*self._after())
            with self.stages.at('encode'):
                self.writer.flush(handles)
            self.writer.finish()
        except (Exception, KeyboardInterrupt) as error:
            # By now every frame that has detections is drawn.
            self.writer.keep(error, handles)
            raise
        picture = self.source.picture
        return {
            'video_out': self.writer.path,
            'frames': self.writer.frames,
            'seconds': self._length(),
            'rate': self.source.rate,
            'width': picture.width,
            'height': picture.height,
            'notes': self.notes,
            'stages': self.stages.text(self.writer.frames),
        }

    def _loop(self):
        total = max(1, round(self.source.expected * self.source.rate))
        with (
            ThreadPoolExecutor(1) as readers,
            ThreadPoolExecutor(1) as drawers,
            ThreadPoolExecutor(1) as writers,
            progress_bar(self.source.name, total, self.progress, 'frames') as bar,
        ):
            writing = deque()
            upcoming = readers.submit(self._read_batch)
            while batch := upcoming.result():
                upcoming = readers.submit(self._read_batch)
                drawing = drawers.submit(self._draw_batch, batch, self._detect(batch))
                writing.append(writers.submit(self._write_batch, drawing))
                if len(writing) > BATCHES_AHEAD:
                    self._finish_oldest(writing)
                bar.update(min(self.writer.frames, total))
            while writing:
                self._finish_oldest(writing)
            bar.max_value = max(1, self.writer.frames)

    def _read_batch(self):
        """Up to `batch_size` frames as (frame, picture for the model); the packets between them as (packet, None)."""
        with self.stages.at('decode'):
            return self._next_batch()

    def _next_batch(self):
        batch, frames = [], 0
        for item in self.items:
            frame = isinstance(item, av.VideoFrame)
            if not frame and item.stream.index not in self.copies.handles:
                continue  # of a track that the container cannot hold
            batch.append((item, self.reduce(item) if frame else None))
            frames += frame
            if frames == self.batch_size or len(batch) >= PACKETS_IN_BATCH:
                break
        return batch

    def _detect(self, batch):
        pictures = [picture for _, picture in batch if picture is not None]
        if self.known is not None:
            return list(itertools.islice(self.known, len(pictures)))
        with self.stages.at('detect'):
            return detect(self.model, pictures, self.hw, self.threshold) if pictures else []

    def _draw_batch(self, batch, found):
        """Draw on a batch's frames; returns the packets and frames, and pictures for the window."""
        found = iter(found)
        with self.stages.at('draw'):
            for item, picture in batch:
                if picture is not None:
                    self.canvas.draw(item, next(found))
        shown = [self.to_rgb(item) for item, picture in batch if picture is not None] if self.window else []
        return [item for item, _ in batch], shown

    def _write_batch(self, drawing):
        """Encode and copy what is drawn; returns pictures for the window."""
        items, shown = drawing.result()
        with self.stages.at('encode'):
            for item in items:
                if isinstance(item, av.VideoFrame):
                    self.writer.write(item)
                else:
                    self.writer.copy(item, self.copies.handles[item.stream.index])
        return shown

    def _finish_oldest(self, writing):
        """Wait for the batch that was drawn first; it is shown here, because windows need the main thread."""
        for picture in writing.popleft().result():
            self.window.show(picture)

    def _length(self):
        return float(self.writer.end - self.source.offset)

    def _differences(self):
        """Lines about what encoding changes."""
        picture = self.source.picture
        if (picture.width % 2 or picture.height % 2) and '444' in picture.pix_fmt:
            yield (
                f'odd size {picture.width}x{picture.height}: coded as {picture.pix_fmt}, which some TVs and browsers '
                'cannot play'
            )
        if picture.interlaced and not self.writer.fields:
            yield "interlaced: its frames are coded as whole pictures; codec='h264' keeps the fields"
        was = self.source.bits
        if was > av.VideoFormat(picture.pix_fmt).components[0].bits:
            yield f'{was} bits per colour: written as {picture.pix_fmt}'

    def _after(self):
        """Lines about damaged or missing parts of the source."""
        source = self.source
        yield from source.notes
        length, expected = self._length(), float(source.expected)
        why = f' (FFmpeg: {source.broken})' if source.broken else ''
        if expected - length > 0.5:
            yield (
                f'{source.name}: the picture ends after {count(self.writer.frames, "frame")}, {length:.1f} of '
                f'{expected:.1f} s; the rest is missing or damaged, or the sound is longer{why}'
            )
        elif source.damaged or why:
            yield f'{source.name}: has damaged parts: {count(source.damaged, "packet")} could not be decoded{why}'
        if self.writer.refused:
            refused = count(self.writer.refused, 'damaged packet is', 'damaged packets are')
            yield f'{source.name}: {refused}, mostly of sound, left out'
