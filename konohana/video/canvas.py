"""Drawing on YCbCr frames: what is not drawn on keeps its values, bit for bit.

Labels are drawn in RGB by `drawing.draw_detections`; only the pixels that it touches are converted and put into the
frame's planes. A colour sample that serves touched and untouched pixels becomes their average.
"""

import numpy as np

from konohana.drawing import draw_detections
from konohana.video.source import FULL, Reducer, matrix_of

# Shares of red and blue in brightness (ITU-T H.273).
KR_KB = {1: (0.2126, 0.0722), 4: (0.3, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
KR_KB[5] = KR_KB[6] = (0.299, 0.114)
# Boxes and tags cover what is below them, so they are drawn on a canvas of a colour that none of them has.
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

    style: the arguments of `draw_detections` behind the detections.
    """

    def __init__(self, picture, style):
        self.style, self.interlaced = style, picture.interlaced
        full = picture.range == FULL
        self.matrix = to_yuv_matrix(matrix_of(picture.matrix, picture.width, picture.height), full)
        self.offset = np.array([0 if full else 16, 128, 128])
        self.blank = np.empty((picture.height, picture.width, 3), np.uint8)
        self.blank[:] = BLANK
        self.to_rgb = Reducer()

    def draw(self, frame, detections):
        """Draw on `frame` (PyAV's VideoFrame); one without detections is left as it is, not even copied."""
        if not len(detections['boxes']):
            return
        below = self.to_rgb(frame) if 'masks' in detections else self.blank
        drawn = draw_detections(below, detections, **self.style)
        # Words of 32 bits where the array allows it would be faster; three comparisons of bytes are fast enough.
        touched = np.flatnonzero((drawn != below).any(2))
        if not len(touched):
            return
        frame.make_writable()  # the decoder may still refer to the original
        self._put(frame, touched, drawn.reshape(-1, 3)[touched])

    def _put(self, frame, touched, colours):
        bits = frame.format.components[0].bits
        values = (colours @ self.matrix.T + self.offset) * (1 << bits - 8)
        top = (1 << bits) - 1
        rows, columns = np.divmod(touched, frame.width)
        planes = [_plane(plane, bits) for plane in frame.planes]
        planes[0][rows, columns] = np.round(values[:, 0]).clip(0, top)
        across, down = frame.width > planes[1].shape[1], frame.height > planes[1].shape[0]
        if down and self.interlaced:
            rows = rows // 4 * 2 + rows % 2  # a line of colour serves two lines of its own field
        elif down:
            rows = rows // 2
        width = planes[1].shape[1]
        begin = rows.min() * width
        samples = rows * width + (columns // 2 if across else columns) - begin
        share = np.bincount(samples) / ((1 + across) * (1 + down))
        where = np.flatnonzero(share)
        for plane, value in zip(planes[1:3], values.T[1:], strict=True):
            mean = np.bincount(samples, value)[where] / ((1 + across) * (1 + down))
            y, x = np.divmod(where + begin, width)
            mixed = mean + plane[y, x] * (1 - share[where])
            plane[y, x] = np.round(mixed).clip(0, top)


def _plane(plane, bits):
    kind = np.dtype(np.uint8 if bits == 8 else '<u2')
    return np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width]
