"""Annotates a webcam's pictures live and records them.

A detector may be slower than the camera. It always gets the newest picture, and the recording repeats pictures so that
it plays in real time.
"""

import threading
import time
from fractions import Fraction
from pathlib import Path

import cv2

from konohana import files
from konohana.drawing import draw_detections
from konohana.errors import UserError
from konohana.progress import progress_bar
from konohana.video.detecting import detect, model_size
from konohana.video.source import LIMITED, Picture, rgb_to_yuv
from konohana.video.writer import VideoWriter, check_encoding, check_target, pixel_format

PATIENCE = 10.0  # seconds without a picture after which the camera counts as gone


def camera_number(video_in):
    """The camera that `video_in` names (0, '0', '1' ...), None where it is a file's name."""
    text = str(video_in).strip()
    return int(text) if text.isascii() and text.isdigit() else None


class Camera:
    """A camera's newest picture. A thread reads all pictures, so that none waits in the driver.

    number: 0 is the first camera. Raises UserError if there is no such camera, or it gives no picture.
    """

    def __init__(self, number):
        self.number = number
        # OpenCV prints a dozen lines about a missing camera.
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            self.capture = cv2.VideoCapture(number)
            frame = self._first()
        except cv2.error:
            frame = None
        finally:
            cv2.utils.logging.setLogLevel(level)
        if frame is None:
            raise UserError(
                f'video_in={number}: no camera of this number gives pictures. Is it plugged in, allowed for this '
                'program, and not used by another? Further cameras are video_in=1, 2 ...; for a file, name it.'
            )
        self.height, self.width = frame.shape[:2]
        rate = self.capture.get(cv2.CAP_PROP_FPS)
        # Some drivers give 0, or the rate of their clock.
        self.rate = Fraction(round(rate)) if 5 <= rate <= 120 else Fraction(30)
        self.frame, self.gone = frame, False
        self.news = threading.Condition()
        self.thread = threading.Thread(target=self._take, daemon=True)
        self.thread.start()

    def _first(self):
        """The first picture, as OpenCV gives it; None if there is none. Some cameras need a moment to wake up."""
        for _ in range(10 if self.capture.isOpened() else 0):
            good, frame = self.capture.read()
            if good:
                return frame
            time.sleep(0.2)
        self.capture.release()
        return None

    def _take(self):
        while not self.gone:
            good, frame = self.capture.read()
            with self.news:
                self.gone = self.gone or not good
                self.frame = frame if good else None
                self.news.notify()

    def read(self):
        """The newest picture not read yet, uint8 H x W x 3 RGB; waits for it. None if the camera gives no more."""
        with self.news:
            self.news.wait_for(lambda: self.frame is not None or self.gone, timeout=PATIENCE)
            frame, self.frame = self.frame, None
        return None if frame is None else cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.gone = True
        self.thread.join(PATIENCE)
        self.capture.release()


def annotate_camera(
    model,
    number,
    video_out,
    threshold=0.3,
    label_names=None,
    crf=18,
    seconds=0.0,
    font=None,
    window=None,
    progress=True,
    codec='h264',
    preset='',
    hwaccel='',
    overwrite=False,
):
    """Annotate and record a webcam until you close the window or press Ctrl-C, or `seconds` are over.

    Args:
        model: see `video.annotate_video`. number: 0 is the first camera.
        video_out: file to write, .mkv, .mp4, .m4v or .mov, at the camera's own rate, without sound.
        threshold, label_names, crf, font, codec, preset, hwaccel, overwrite: see `video.annotate_video`.
        seconds: length, 0 for no end.
        window: a `window.Window` that shows each annotated picture, or None.
        progress: show how many pictures were seen.

    Returns:
        dict: video_out (Path), frames (in the recording), seen (pictures that the model looked at), seconds (length of
        the recording), rate (Fraction).

    Raises:
        UserError: no such camera, or video_out cannot be written.

    If the model fails, the disk is full or you press Ctrl-C again while the file is completed, the recording so far is
    kept as `<name>_partial<.ext>`.
    """
    video_out = Path(video_out).absolute()
    check_target(video_out)
    check_encoding(codec, crf, preset)
    files.claim(video_out, (), overwrite, 'video_out')
    draw = {'class_names': model.class_names, 'label_names': label_names, 'threshold': threshold, 'font': font}
    with Camera(number) as camera:
        size = camera.width, camera.height
        picture = Picture(*size, pixel_format('rgb24', codec, *size), range=LIMITED)
        encoding = {'codec': codec, 'crf': crf, 'preset': preset, 'hwaccel': hwaccel}
        with VideoWriter(video_out, picture, camera.rate, 1 / camera.rate, **encoding) as writer:
            writer.start()
            recording = _Recording(model, camera, writer, picture, seconds, draw)
            try:
                recording.run(window, progress)
                if not recording.seen:
                    raise UserError(f'camera {number}: gave no picture, so nothing is recorded.')
                writer.flush()
                writer.finish()
            except (Exception, KeyboardInterrupt) as error:
                writer.keep(error)
                raise
    return {
        'video_out': video_out,
        'frames': writer.frames,
        'seen': recording.seen,
        'seconds': float(writer.frames / camera.rate),
        'rate': camera.rate,
    }


class _Recording:
    """One run of `annotate_camera`, once everything is open."""

    def __init__(self, model, camera, writer, picture, seconds, draw):
        self.model, self.camera, self.writer, self.picture, self.draw = model, camera, writer, picture, draw
        self.seconds = seconds
        self.hw = model_size(camera.width, camera.height, None, model)
        self.seen, self.length, self.last = 0, 0.0, None

    def run(self, window, progress):
        """Record until the window closes, the time is over, the camera stops or Ctrl-C."""
        total = max(1, round(self.seconds * self.camera.rate)) if self.seconds else None
        name = f'camera {self.camera.number}'
        try:
            with progress_bar(name, total, progress, 'frames') as bar:
                while not (window and window.closed) and (not self.seconds or self.length < self.seconds):
                    frame = self.camera.read()
                    if frame is None:
                        print(f'{name}: gives no more pictures.')
                        break
                    frame = self._annotated(frame)
                    if window:
                        window.show(frame)
                    self._record(frame)
                    # The last picture may stand for one frame more than `seconds` holds when rounded.
                    bar.update(min(self.writer.frames, total or self.writer.frames))
        except KeyboardInterrupt:
            print('Stopped: the recording ends here.')

    def _annotated(self, frame):
        hw = frame.shape[:2]
        small = frame if hw == self.hw else cv2.resize(frame, self.hw[::-1], interpolation=cv2.INTER_AREA)
        (found,) = detect(self.model, [small], hw, self.draw['threshold'])
        return draw_detections(frame, found, **self.draw)

    def _record(self, frame):
        """Write a picture once for each frame that is due since the last picture."""
        now = time.monotonic()
        # After a computer has slept, one picture does not fill an hour.
        self.length += 1 / self.camera.rate if self.last is None else min(now - self.last, PATIENCE)
        self.seen, self.last = self.seen + 1, now
        due = min(self.length, self.seconds or self.length) * self.camera.rate
        while self.writer.frames < due:
            coded = rgb_to_yuv(frame, self.picture)
            coded.pts, coded.time_base, coded.duration = self.writer.frames, self.writer.time_base, 1
            self.writer.write(coded)
