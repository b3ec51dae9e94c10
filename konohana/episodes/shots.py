"""Where one shot ends and the next begins, by PySceneDetect; and which frames repeat the one before."""

import cv2
import numpy as np

from konohana.errors import UserError

SIDE = 160  # pixels: frames are compared at this width
BLOCK = 8  # pixels of the small frame over which a difference is averaged, so that codec noise averages out
SAME = 3.0  # grey levels, of 255: a frame none of whose blocks differs more repeats the one before


def compared_size(width, height, sar=None):
    """(height, width) at which frames of a video are compared, with square pixels: `SIDE` wide, or as they are.

    `ShotFinder` and `Repeats` take frames of any size. Frames that come at this one save them their resizing.
    """
    width = max(1, round(width * float(sar or 1)))
    return min((max(1, round(SIDE * height / width)), SIDE), (height, width))


class ShotFinder:
    """Finds cuts in frames that come one after another: `add(frame)` for each, then `starts`.

    PySceneDetect's adaptive detector (https://www.scenedetect.com): a frame begins a shot where its difference to the
    one before stands out among its neighbours', so that a fast pan is no cut.

    Args:
        fps: frames a second, about.
    """

    def __init__(self, fps):
        try:
            from scenedetect import FrameTimecode
            from scenedetect.detectors import AdaptiveDetector
        except ImportError:
            raise UserError('Finding shots needs PySceneDetect: pip install scenedetect-headless') from None
        self.detector = AdaptiveDetector(min_scene_len=max(2, round(fps / 4)))
        self.timecode, self.fps, self.n_frames, self.cuts = FrameTimecode, float(fps), 0, []

    def add(self, frame):
        """A frame, uint8 H x W x 3 RGB."""
        small = cv2.resize(
            frame, (SIDE, max(1, round(SIDE * frame.shape[0] / frame.shape[1]))), interpolation=cv2.INTER_AREA
        )
        self.cuts += self.detector.process_frame(self.timecode(self.n_frames, self.fps), small[..., ::-1])
        self.n_frames += 1

    @property
    def starts(self):
        """Numbers of the frames that begin a shot, ascending; the first is 0."""
        cuts = self.cuts + self.detector.post_process(self.timecode(max(self.n_frames - 1, 0), self.fps))
        return sorted({0, *(cut.frame_num for cut in cuts)})


class Repeats:
    """Tells whether a frame repeats the one before, as animation drawn on twos and threes does: `repeats(frame)`."""

    def __init__(self, same=SAME):
        self.same, self.before = same, None

    def __call__(self, frame):
        """uint8 H x W x 3 RGB -> bool; the first frame repeats nothing.

        A frame is compared with the last that did not repeat, so that a slow pan does not creep through.
        """
        height = max(1, round(SIDE * frame.shape[0] / frame.shape[1]))
        small = cv2.resize(frame, (SIDE, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        if self.before is not None and self.before.shape == small.shape:
            difference = np.abs(cv2.blur(small, (BLOCK, BLOCK)) - cv2.blur(self.before, (BLOCK, BLOCK)))
            if difference.max() <= self.same:
                return True
        self.before = small
        return False
