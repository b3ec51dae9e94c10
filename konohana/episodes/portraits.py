"""Small pictures of people, taken while an episode is watched: its page shows some of them.

To read the video again for them would take a quarter of the time of watching it.
"""

import numpy as np

from konohana.boxes import iou
from konohana.episodes.page import portrait_of

SURE = 0.3  # score below which nobody's picture is taken
SAME = 0.4  # overlap with a box of the frame before, from which it is the same person if the name is, too
BETTER = 1.2  # a picture makes way for one that is worth so many times as much


class Portraits:
    """One picture of each person for as long as they stand in one place: nearly the largest and surest that there is.

    Attributes:
        taken: {number of the detection, counted over the episode: data URL}.
    """

    def __init__(self):
        self.taken, self.shot, self.before = {}, 0, []  # before: `_Seen` of the frame before

    def look(self, shot, first, found, picture, hw):
        """Take the pictures that are worth taking from a frame.

        Args:
            shot: number of its shot. first: number of its first detection.
            found: its `boxes` in pixels, `scores` and `probabilities`.
            picture: uint8 h x w x 3 RGB, of any size. hw: height and width in which the boxes are.
        """
        if shot != self.shot:
            self.shot, self.before = shot, []
        scale = np.array([picture.shape[1] / hw[1], picture.shape[0] / hw[0]] * 2)
        now = []
        for i in np.flatnonzero(found['scores'] >= SURE):
            box = found['boxes'][i]
            name, score = int(found['probabilities'][i].argmax()), float(found['scores'][i])
            seen = _Seen(box, name, first + int(i), score)
            earlier = self._earlier(seen)
            if earlier is None or seen.worth > BETTER * earlier.worth:
                self.taken[seen.number] = portrait_of(picture, box * scale)
                if earlier:
                    del self.taken[earlier.number]
            else:
                seen.number, seen.worth = earlier.number, earlier.worth
            now.append(seen)
        self.before = now

    def _earlier(self, seen):
        """The same person in the frame before, or None; each is taken once."""
        alike = [one for one in self.before if one.name == seen.name]
        if not alike:
            return None
        overlap = iou(seen.box[None], np.array([one.box for one in alike]))[0]
        if overlap.max() < SAME:
            return None
        found = alike[overlap.argmax()]
        self.before.remove(found)
        return found


class _Seen:
    """Somebody in a frame: `box`, `name` (index), and `number` and `worth` of the detection whose picture is kept."""

    def __init__(self, box, name, number, score):
        self.box, self.name, self.number = box, name, number
        self.worth = float((box[2:] - box[:2]).clip(0).prod()) * score**2  # who fades in is unsure at first
