"""Drawing on YCbCr frames: pixels without drawing keep their values, bit for bit.

Boxes and labels are opaque rectangles, `drawing.strokes`, and each is painted into the frame's planes, in colours that
are converted once. A chroma sample of changed and unchanged pixels becomes their average. Masks are drawn in RGB, and
what they change is taken from there.
"""

from dataclasses import replace

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from konohana import drawing
from konohana.video.source import FULL, Reducer, matrix_of, rgb_to_yuv

# Shares of red and blue in brightness (ITU-T H.273).
KR_KB = {1: (0.2126, 0.0722), 4: (0.3, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
KR_KB[5] = KR_KB[6] = (0.299, 0.114)
KEPT = 1000  # colours and labels whose converted values are kept
TOUCHED = 255


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
        self.style, self.picture = style, picture
        full, form = picture.range == FULL, av.VideoFormat(picture.pix_fmt)
        self.matrix = to_yuv_matrix(matrix_of(picture.matrix, picture.width, picture.height), full)
        self.offset = np.array([0 if full else 16, 128, 128])
        self.bits = form.components[0].bits
        self.sampling = 8 // form.chroma_width(8), 8 // form.chroma_height(8)  # pixels to a sample, across and down
        # Cb and Cr are painted here at the picture's size, and averaged from here into a frame's samples.
        hw = -(-picture.height // 4) * 4, -(-picture.width // 2) * 2
        self.chroma, self.touched = np.zeros((2, *hw), _kind(self.bits)), np.zeros(hw, np.uint8)
        # In an interlaced picture the lines that share chroma are those of one field.
        self.fields = (slice(0, None, 2), slice(1, None, 2)) if picture.interlaced else (slice(0, None, 1),)
        self.to_rgb, self.reformat, self.converted = Reducer(), VideoReformatter().reformat, {}

    def draw(self, frame, detections):
        """Draw on `frame` (PyAV's VideoFrame); a frame without detections is neither changed nor copied."""
        if not len(detections['boxes']):
            return
        if 'masks' in detections:
            self._draw_masks(frame, detections)
            return
        strokes = drawing.strokes((frame.height, frame.width), detections, **self.style)
        if strokes:
            frame.make_writable()  # the decoder may still refer to the original
            self._paint(_planes(frame, self.bits), strokes)

    def _paint(self, planes, strokes):
        """Paint opaque rectangles into planes."""
        for (x1, y1, x2, y2), paint in strokes:
            self.touched[y1:y2, x1:x2] = TOUCHED
            for plane, values in zip((planes[0], *self.chroma), self._converted(paint), strict=True):
                plane[y1:y2, x1:x2] = values
        for (x1, y1, x2, y2), _ in strokes:
            for field in self.fields:
                top, bottom = (-((field.start - y) // field.step) for y in (y1, y2))
                chroma = [plane[field] for plane in planes[1:3]]
                _average(chroma, self.chroma[:, field], self.touched[field], (x1, top, x2, bottom), self.sampling)

    def _converted(self, paint):
        """Y, Cb and Cr of a colour, as numbers, or of a tag, as arrays."""
        key = paint if isinstance(paint, tuple) else id(paint)
        if key not in self.converted:
            if len(self.converted) >= KEPT:
                self.converted.clear()
            values = (np.asarray(paint) @ self.matrix.T + self.offset) * (1 << self.bits - 8)
            values = np.rint(values).clip(0, (1 << self.bits) - 1).astype(_kind(self.bits))
            # The tag is kept too: as long as it is there, no other has its id.
            self.converted[key] = paint, np.ascontiguousarray(np.moveaxis(values, -1, 0))
        return self.converted[key][1]

    def _draw_masks(self, frame, detections):
        """Draw what the picture shows through: all of it in RGB, of which the changed areas are converted."""
        below = self.to_rgb(frame)
        drawn = drawing.draw_detections(below, detections, **self.style)
        touched = cv2.bitwise_not(cv2.inRange(cv2.absdiff(drawn, below), (0, 0, 0), (0, 0, 0)))
        if not touched.any():
            return
        frame.make_writable()
        matrix = matrix_of(self.picture.matrix, *drawn.shape[1::-1])
        for field in self.fields:
            part = np.ascontiguousarray(drawn[field])
            coded = rgb_to_yuv(part, replace(self.picture, height=len(part), matrix=matrix), self.reformat)
            planes = [plane[field] for plane in _planes(frame, self.bits)]
            _put_areas(planes, _planes(coded, self.bits), np.ascontiguousarray(touched[field]))


def _average(planes, painted, touched, rectangle, sampling):
    """Put a rectangle's painted chroma into planes; a sample of painted and other pixels becomes their average.

    Args:
        planes: Cb and Cr, H / sampling[1] x W / sampling[0]. painted: Cb and Cr of each pixel, 2 x H x W.
        touched: H x W, TOUCHED where a pixel is painted and not yet put; what is put becomes 0.
        rectangle: x1, y1, x2, y2 in pixels. sampling: pixels to a sample, across and down.
    """
    across, down = sampling
    x1, y1, x2, y2 = rectangle
    columns = slice(x1 // across, -(-x2 // across))
    rows = slice(y1 // down, min(-(-y2 // down), len(planes[0])))  # of 486 lines the last has no chroma of its field
    pixels = slice(rows.start * down, rows.stop * down), slice(columns.start * across, columns.stop * across)
    where = touched[pixels]
    if not where.any():
        return
    for plane, values in zip(planes, painted, strict=True):
        samples = plane[rows, columns]
        mixed = cv2.resize(samples, where.shape[::-1], interpolation=cv2.INTER_NEAREST)
        np.copyto(mixed, values[pixels], where=where > 0)
        samples[:] = cv2.resize(mixed, samples.shape[::-1], interpolation=cv2.INTER_AREA)
    where[:] = 0


def _put_areas(planes, drawn, touched):
    """Write the touched areas of drawn planes into others; touched: H x W, in pixels."""
    for plane, values in zip(planes, drawn, strict=True):
        if plane.shape != touched.shape:
            touched = cv2.resize(touched, plane.shape[::-1], interpolation=cv2.INTER_AREA)
        np.copyto(plane, values[: len(plane)], where=touched > 0)


def _kind(bits):
    return np.dtype(np.uint8 if bits == 8 else '<u2')


def _planes(frame, bits):
    """A frame's planes as arrays that share its memory."""
    planes = (np.frombuffer(plane, _kind(bits)).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes)
    return list(planes)
