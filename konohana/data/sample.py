"""The one form in which labels travel, whatever file they come from."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from konohana.boxes import reaches_beyond
from konohana.errors import printable

MAX_NAME = 200  # characters of a class name; longer ones make the lines that show them unreadable


@dataclass
class Sample:
    """One picture and its labels. Boxes are float32 n x 4, x1, y1, x2, y2 in pixels (x2, y2 exclusive).

    `difficult` (n bool) marks objects that Pascal VOC neither demands to be found nor counts as mistakes. What VOC does
    not have comes from COCO files, see coco.py: `masks` holds a compressed RLE (masks.py) for each box, or None for an
    object without; `ignored_names` the only class for which a region is not counted, or None for all classes;
    `ignored_masks` the region's own shape, or None for its whole box. `cut` holds (number, x1, y1, x2, y2) of each box
    that reached beyond the picture, as it was before; those of `ignored` are counted on behind those of `boxes`.
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
    cut: list = field(default_factory=list)
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


def place(frame, boxes, ignored):
    """Give a sample its boxes and ignored regions, lists of (x1, y1, x2, y2), cut at the edges of its picture."""
    frame.boxes, frame.ignored = clipped(boxes, frame), clipped(ignored, frame)
    hw = frame.height, frame.width
    frame.cut = [(i, *box) for i, box in enumerate([*boxes, *ignored]) if reaches_beyond(box, hw)]


def clipped(boxes, frame):
    """List of boxes -> float32 n x 4, cut at the picture's edges (as far as its size is known)."""
    boxes = np.array(boxes, float).reshape(-1, 4)
    return boxes.clip(0, [frame.width or math.inf, frame.height or math.inf] * 2).astype(np.float32)
