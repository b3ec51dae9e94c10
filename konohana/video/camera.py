"""A webcam's pictures, annotated while they are seen, and recorded.

A detector may be slower than the camera: it always gets the newest picture, and the recording repeats pictures so that
it runs at the speed of life.
"""

import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

import cv2

from konohana.drawing import draw_detections
from konohana.errors import UserError
from konohana.progress import progress_bar
from konohana.video.annotate import (
    CONTAINERS,
    Stream,
    VideoInfo,
    VideoWriter,
    _detect,
    _ffmpeg,
    _last_line,
    _model_size,
)

PATIENCE = 10.0  # seconds without a picture after which the camera counts as gone


def camera_number(video_in):
    """The camera that `video_in` names (0, '0', '1' ...), None where it is a file's name."""
    text = str(video_in).strip()
    return int(text) if text.isascii() and text.isdigit() else None


class Camera:
    """A camera's newest picture. A thread takes what comes, so that none waits in the driver and gets old.

    number: 0 is the first camera. Raises UserError where there is none, or it gives no picture.
    """

    def __init__(self, number):
        self.number = number
        # OpenCV's own words about a camera that is not there come in a dozen lines.
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
        # Some drivers say 0, or a rate of their clock.
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
        """The newest picture that was not given yet, uint8 H x W x 3 RGB; None when the camera gives no more."""
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
):
    """Annotate what a webcam sees, until the window is closed, Ctrl-C is pressed or `seconds` are over, and record it.

    Args:
        model: see `video.annotate_video`. number: 0 is the first camera.
        video_out: file to write, .mkv, .mp4, .m4v or .mov, at the camera's own rate, without sound.
        threshold, label_names, crf, font: see `video.annotate_video`.
        seconds: length, 0 for no end.
        window: a `window.Window` that shows each annotated picture, or None.
        progress: show how many pictures were seen.

    Returns:
        dict: video_out (Path), frames (in the recording), seen (pictures that the model looked at), seconds (length of
        the recording), rate (Fraction).

    Raises:
        UserError: no such camera, or video_out cannot be written.
    """
    video_out = Path(video_out).absolute()
    if video_out.suffix.lower() not in CONTAINERS:
        raise UserError(f'{video_out}: unknown kind of video {video_out.suffix!r}; use {", ".join(CONTAINERS)}.')
    if video_out.is_dir():
        raise UserError(f'{video_out}: is a folder; video_out names a file.')
    device = next(model.parameters()).device if hasattr(model, 'parameters') else 'cpu'
    with Camera(number) as camera:
        info = VideoInfo(
            *(Path(f'camera {number}'), [], Stream(0, 'Video', 'rawvideo', '')),
            *(camera.width, camera.height, None, camera.rate, ''),
            colour=dict.fromkeys(('range', 'space', 'primaries', 'trc'), 'unknown'),
            pix_fmt='rgb24', start=0.0, origin=0.0, offset=0.0, duration=None,
        )  # fmt: skip
        hw = _model_size(info, model)
        try:
            video_out.parent.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(
                prefix='unfinished_', dir=video_out.parent, ignore_cleanup_errors=True
            )
        except OSError as error:
            raise UserError(
                f'{video_out}: cannot write there ({error.strerror or error}). Choose another folder.'
            ) from None
        with scratch as folder, VideoWriter(Path(folder) / 'picture.nut', info, crf) as writer:
            seen, length, last = 0, 0.0, None
            try:
                total = round(seconds * camera.rate) or None
                with progress_bar(f'camera {number}', total, progress, 'frames') as bar:
                    while not (window and window.closed) and (not seconds or length < seconds):
                        frame = camera.read()
                        if frame is None:
                            print(f'camera {number}: gives no more pictures.')
                            break
                        (found,) = _detect(model, [frame], hw, device, threshold)
                        frame = draw_detections(frame, found, model.class_names, label_names, threshold, font)
                        if window:
                            window.show(frame)
                        now = time.monotonic()
                        # A computer that slept does not make an hour of one picture.
                        length += 1 / camera.rate if last is None else min(now - last, PATIENCE)
                        seen, last = seen + 1, now
                        due = min(length, seconds or length) * camera.rate
                        while writer.frames < due:
                            writer.write(frame)
                        bar.update(writer.frames)
            except KeyboardInterrupt:
                print('Stopped: the recording ends here.')
            if not seen:
                raise UserError(f'camera {number}: gave no picture, nothing is recorded.')
            writer.close()
            joined = Path(folder) / f'joined{video_out.suffix}'
            form = CONTAINERS[video_out.suffix.lower()]
            code, words = _ffmpeg(['-i', writer.path, '-map', 0, '-c', 'copy', '-f', form, '-y', joined])
            if code:
                raise UserError(f'{video_out}: writing failed (ffmpeg: {_last_line(words)}). Is the disk full?')
            joined.replace(video_out)
    return {
        'video_out': video_out,
        'frames': writer.frames,
        'seen': seen,
        'seconds': float(writer.frames / camera.rate),
        'rate': camera.rate,
    }
