"""The one form in which labels travel, whatever file they come from."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# Labelling tools disagree on whether the first pixel is 0 or 1: so far outside, a box is clipped without a word.
EDGE_TOLERANCE = 2.0


@dataclass
class Sample:
    """One picture and its labels. Boxes are float32 n x 4, x1, y1, x2, y2 in pixels (x2, y2 exclusive).

    What Pascal VOC does not know comes from COCO files, see coco.py: `masks` has a compressed RLE (masks.py) for each
    box, or None where an object has none; `ignored_names` the only name for which a region is not counted, or None for
    all; `ignored_masks` the region's own shape, or None for its whole box.
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
    image_id: int | str | None = None  # as the data set counts its pictures
    categories: dict | None = None  # name -> id of all classes of the data set, in its order

    @property
    def has_masks(self):
        """Whether every object has a mask (a frame without objects lacks none)."""
        return len(self.boxes) == 0 or (self.masks is not None and all(mask is not None for mask in self.masks))


def along(low, high, side):
    """Whether low..high (from 1, inclusive) lies within 1..side, give or take; a side of 0 is not known."""
    side = side or math.inf
    return low >= 1 - EDGE_TOLERANCE and high <= side + EDGE_TOLERANCE and high > 0 and low - 1 < side


def clipped(boxes, frame):
    """List of boxes -> float32 n x 4, cut at the picture's edges (as far as its size is known)."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4).clip(min=0)
    if frame.width and frame.height:
        boxes = np.minimum(boxes, np.array([frame.width, frame.height] * 2, np.float32))
    return boxes
