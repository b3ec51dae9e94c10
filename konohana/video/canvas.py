"""Drawing on YCbCr frames: pixels without drawing keep their values, bit for bit.

Labels are drawn in RGB by `drawing.draw_detections`; only the pixels that it changes are written into the frame's
planes. A chroma sample of changed and unchanged pixels becomes their average.
"""

import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from konohana.drawing import draw_detections
from konohana.video.source import FULL, Reducer, matrix_of, rgb_to_yuv

# Shares of red and blue in brightness (ITU-T H.273).
KR_KB = {1: (0.2126, 0.0722), 4: (0.3, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
KR_KB[5] = KR_KB[6] = (0.299, 0.114)
# Boxes and tags are opaque, so they are drawn on a canvas of a colour that none of them has.
BLANK = (1, 2, 3)


def to_yuv_matrix(matrix, full):
    """3 x 3 matrix from RGB 0..255 to Y, Cb, Cr of 8 bits without their offsets."""
    kr, kb = KR_KB[matrix]
    kg = 1 - kr - kb
    rows = np.array([(kr, kg, kb), (-kr, -kg, 1 - kb), (1 - kr, -kg, -kb)])
    scale = np.array([255, 255, 255] if full else [219, 224, 224]) / [1, 2 - 2 * kb, 2 - 2 * kr] / 255
    return rows * scale[:, None]


class Canvas:
    """Draws detections on frames of one `picture`: planar YCbCr of 8 to 16 bits, 4:2:0, 4:2:2 or 4:4:4, in place.

    style: dict of further arguments of `draw_detections`.
    """

    def __init__(self, picture, style):
        self.style, self.picture, self.interlaced = style, picture, picture.interlaced
        full = picture.range == FULL
        matrix = matrix_of(picture.matrix, picture.width, picture.height)
        self.matrix = to_yuv_matrix(matrix, full).astype(np.float32)
        self.offset = np.array([0 if full else 16, 128, 128], np.float32)
        self.blank = np.empty((picture.height, picture.width, 3), np.uint8)
        self.blank[:] = BLANK
        self.to_rgb, self.reformat = Reducer(), VideoReformatter().reformat

    def draw(self, frame, detections):
        """Draw on `frame` (PyAV's VideoFrame); a frame without detections is neither changed nor copied."""
        if not len(detections['boxes']):
            return
        see_through = 'masks' in detections
        below = self.to_rgb(frame) if see_through else self.blank
        drawn = draw_detections(below, detections, **self.style)
        same = (
            cv2.inRange(cv2.absdiff(drawn, below), (0, 0, 0), (0, 0, 0))
            if see_through
            else cv2.inRange(drawn, BLANK, BLANK)
        )
        if same.all():
            return
        frame.make_writable()  # the decoder may still refer to the original
        if see_through and not self.interlaced:
            self._put_areas(frame, cv2.bitwise_not(same), drawn)
        else:
            where = np.flatnonzero(same == 0)
            self._put_pixels(frame, where, drawn.reshape(-1, 3).take(where, 0))

    def _put_areas(self, frame, touched, drawn):
        """Write the changed areas of a drawn picture into the frame: fast for many pixels."""
        coded = rgb_to_yuv(drawn, self.picture, self.reformat)
        bits = frame.format.components[0].bits
        for target, source in zip(frame.planes, coded.planes, strict=True):
            target, source = _plane(target, bits), _plane(source, bits)
            if target.shape != touched.shape:
                touched = cv2.resize(touched, target.shape[::-1], interpolation=cv2.INTER_AREA)
            np.copyto(target, source, where=touched > 0)

    def _put_pixels(self, frame, touched, colours):
        """Write single pixels, by index, into the frame: fast for few pixels, and exact for interlaced frames."""
        bits = frame.format.components[0].bits
        values = (colours.astype(np.float32) @ self.matrix.T + self.offset) * (1 << bits - 8)
        top = (1 << bits) - 1
        rows, columns = np.divmod(touched.astype(np.int32), np.int32(frame.width))
        planes = [_plane(plane, bits) for plane in frame.planes]
        planes[0][rows, columns] = np.rint(values[:, 0]).clip(0, top)
        height, width = planes[1].shape
        across, down = frame.width > width, frame.height > height
        if down and self.interlaced:
            rows = rows // 4 * 2 + rows % 2  # a line of colour serves two lines of its own field
        elif down:
            rows = rows >> 1
        begin = rows.min() * width
        samples = rows * width + (columns >> 1 if across else columns) - begin
        pixels = (1 + across) * (1 + down)
        share = np.bincount(samples)
        where = np.flatnonzero(share)
        share = share[where] / pixels
        y, x = np.divmod(where + begin, width)
        for plane, value in zip(planes[1:3], values.T[1:], strict=True):
            mean = np.bincount(samples, value)[where] / pixels
            plane[y, x] = np.rint(mean + plane[y, x] * (1 - share)).clip(0, top)


def _plane(plane, bits):
    kind = np.dtype(np.uint8 if bits == 8 else '<u2')
    return np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width]
