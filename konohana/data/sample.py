"""The one form in which labels travel, whatever file they come from."""

import contextlib
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from konohana.boxes import EDGE_TOLERANCE
from konohana.errors import printable

MAX_NAME = 200  # characters of a class name; longer ones make the lines that show them unreadable


_tolerance = {'pixels': EDGE_TOLERANCE}  # by which a label may reach beyond its picture, see `beyond_edges`


@dataclass
class Sample:
    """One picture and its labels. Boxes are float32 n x 4, x1, y1, x2, y2 in pixels (x2, y2 exclusive).

    `difficult` (n bool) marks objects that Pascal VOC neither demands to be found nor counts as mistakes. What VOC does
    not have comes from COCO files, see coco.py: `masks` holds a compressed RLE (masks.py) for each box, or None for an
    object without; `ignored_names` the only class for which a region is not counted, or None for all classes;
    `ignored_masks` the region's own shape, or None for its whole box.
    """

    path: Path
    height: int = 0
    width: int = 0
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    names: list = field(default_factory=list)
    difficult: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    ignored: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))  # regions not to be counted
    masks: list | None = None
    ignored_names: list | None = None
    ignored_masks: list | None = None
    image_id: int | str | None = None  # as the dataset counts its pictures
    categories: dict | None = None  # name -> id of all classes of the dataset, in its order

    @property
    def has_masks(self):
        """Whether every object has a mask (a frame without objects lacks none)."""
        return len(self.boxes) == 0 or (self.masks is not None and all(mask is not None for mask in self.masks))


def check_name(name):
    """Raise ValueError if a class name is empty, too long or has control characters; the text says what is wrong."""
    if not name:
        raise ValueError('give it a name')
    if len(name) > MAX_NAME:
        raise ValueError(f'its name has {len(name)} characters; shorten it to {MAX_NAME} at most')
    if printable(name) != name:
        raise ValueError('its name has control characters; rename it')


def fits(low, high, side):
    """Whether low..high (pixels, high exclusive) lies within 0..side, give or take; a side of 0 is not known."""
    side = side or math.inf
    return low >= -_tolerance['pixels'] and high <= side + _tolerance['pixels'] and high > 0 and low < side


def edge_tolerance():
    """Pixels by which a label may reach beyond its picture, see `beyond_edges`."""
    return _tolerance['pixels']


@contextlib.contextmanager
def beyond_edges():
    """While the block runs, labels are read, and cut, that reach beyond their picture by any length. Not for threads
    that read at the same time and are to refuse them.
    """
    _tolerance['pixels'] = math.inf
    try:
        yield
    finally:
        _tolerance['pixels'] = EDGE_TOLERANCE


def clipped(boxes, frame):
    """List of boxes -> float32 n x 4, cut at the picture's edges (as far as its size is known)."""
    boxes = np.array(boxes, float).reshape(-1, 4)
    return boxes.clip(0, [frame.width or math.inf, frame.height or math.inf] * 2).astype(np.float32)
