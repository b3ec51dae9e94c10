"""Pasting characters that are cut out of training frames into other training frames.

Simple copy-paste in the sense of Ghiasi et al. 2021 (2012.07177): a character is learned before more backgrounds and
beside more neighbours, and the rare more often. Data with masks are cut along them; of data with boxes alone the masks
are found by GrabCut (Rother et al. 2004), which does well on flat colours with drawn outlines.
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from konohana import masks
from konohana.boxes import intersection
from konohana.data.images import load_image
from konohana.data.step import Step, boxes_of
from konohana.progress import progress_bar

SMALLEST = 24  # pixels: a character with a shorter side is not cut out
GRABCUT_SIDE = 96  # GrabCut works on crops brought to this many pixels on the longer side: some 10 ms for one
FILL = (0.3, 0.92)  # a mask with a lower or higher part of its box has missed the outline
OVERLAP = 0.15  # part of a box that others may cover, or they would be pasted along with it
CUT_OFF = 3.0  # pixels: a side so near the frame's edge is taken for cut off there
COVERED = 0.5  # part of a character of the frame that may disappear behind a pasted one
SCALE = (0.6, 1.3)  # of a pasted character, by the frames' heights
SOLID = 128  # of 255: what covers so much of a pixel hides it
TRIES = 4  # places that are tried for a character


@dataclass
class CutOut:
    """A character that can be pasted."""

    path: Path  # of the frame
    height: int  # of the frame
    name: str
    box: tuple  # x1, y1, x2, y2 in whole pixels
    rle: dict  # its mask within the box, see masks.py
    cut: tuple  # whether the left, the top, the right and the bottom side are at the frame's edge


def grabcut_mask(image, box):
    """The mask of whoever fills a box, found from the box alone.

    Args:
        image: uint8 H x W x 3. box: x1, y1, x2, y2 in whole pixels of it.

    Returns:
        uint8 array of the box's height and width, 1 inside the outline.
    """
    x1, y1, x2, y2 = box
    # A margin shows GrabCut what the background looks like; where the box ends at the frame's edge there is none.
    margin = max(4, round(0.15 * max(x2 - x1, y2 - y1)))
    left, top = max(0, x1 - margin), max(0, y1 - margin)
    crop = image[top : y2 + margin, left : x2 + margin]
    scale = min(1.0, GRABCUT_SIDE / max(crop.shape[:2]))
    small = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else crop
    trimap = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    a, b, c, d = (round(value * scale) for value in (x1 - left, y1 - top, x2 - left, y2 - top))
    trimap[b:d, a:c] = cv2.GC_PR_FGD
    if not (trimap == cv2.GC_BGD).any():
        return np.ones((y2 - y1, x2 - x1), np.uint8)  # the box is the whole frame: no background to learn from
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(small), trimap, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK
    )
    found = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    # Specks go, holes close: the largest piece is the character.
    n, pieces, stats, _ = cv2.connectedComponentsWithStats(found)
    if n > 1:
        found = (pieces == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)
    found = cv2.morphologyEx(found, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    found = cv2.resize(found.astype(np.float32), (crop.shape[1], crop.shape[0]), interpolation=cv2.INTER_LINEAR) >= 0.5
    return found[y1 - top : y2 - top, x1 - left : x2 - left].astype(np.uint8)


def _alone(boxes, i):
    """Whether the other boxes (of n x 4) cover little of box i."""
    x1, y1, x2, y2 = boxes[i]
    others = torch.from_numpy(np.delete(boxes, i, axis=0))
    return bool(intersection(torch.from_numpy(boxes[i]), others).sum() <= OVERLAP * (x2 - x1) * (y2 - y1))


def cut_out(frame, load_picture=load_image):
    """A `Sample`, and a function that loads a picture by its path -> list of `CutOut`: who can be pasted elsewhere."""
    found, image = [], None
    taken = np.concatenate([frame.boxes, frame.ignored])
    for i, (box, name) in enumerate(zip(frame.boxes, frame.names, strict=True)):
        x1, y1, x2, y2 = box
        cut = (x1 < CUT_OFF, y1 < CUT_OFF, x2 > frame.width - CUT_OFF, y2 > frame.height - CUT_OFF)
        # Whoever is cut off on two opposite sides fits no other frame, and a head that is cut off may hang nowhere.
        if min(x2 - x1, y2 - y1) < SMALLEST or cut[1] or (cut[0] and cut[2]) or not _alone(taken, i):
            continue
        image = np.asarray(load_picture(frame.path)) if image is None else image
        height, width = image.shape[:2]
        whole = (max(0, round(x1)), max(0, round(y1)), min(width, round(x2)), min(height, round(y2)))
        if frame.masks is not None and frame.masks[i] is not None:
            mask = masks.decode([frame.masks[i]], (height, width))[0].numpy()
            mask = mask[whole[1] : whole[3], whole[0] : whole[2]]
        else:
            mask = grabcut_mask(image, whole)
            # What GrabCut found must reach all sides of the box, or it is a part of the character.
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            if not len(rows) or len(rows) < 0.9 * len(mask) or len(columns) < 0.9 * mask.shape[1]:
                continue
        if FILL[0] <= mask.mean() <= FILL[1]:
            found.append(CutOut(frame.path, height, name, whole, masks.encode(mask[None])[0], cut))
    return found


@dataclass
class Pasted:
    """A character that was drawn to be pasted: which, at what size and place, mirrored or not, and its outline."""

    one: CutOut
    left: int
    top: int
    flip: bool
    alpha: np.ndarray | torch.Tensor  # uint8 h x w, 255 inside the outline; for `apply` where the pictures are


class Paste(Step):
    """Paste up to two characters into a frame; classes with few cut-outs come more often.

    It comes before all other augmentation. `cut_outs` lists what can be pasted.

    Args:
        frames: list of `Sample` to cut out of. A character without a mask takes some 20 ms.
        class_names: list of names in the order of their labels.
        p: probability, 0 to 1.
        progress: show a progress bar.
        load_picture: function of a frame's path that gives its picture, uint8 H x W x 3, an array or a tensor on the
            device where pictures are changed.
    """

    def __init__(self, frames, class_names, p, progress=True, load_picture=load_image):
        self.p, self.load_picture = p, load_picture
        self.label_of = {name: i for i, name in enumerate(class_names, start=1)}
        self.cut_outs = []
        with ThreadPoolExecutor() as pool, progress_bar('Cutting out characters', len(frames), progress) as bar:
            for i, found in enumerate(pool.map(lambda frame: cut_out(frame, load_picture), frames), start=1):
                self.cut_outs += found
                bar.update(i)
        counts = Counter(one.name for one in self.cut_outs)
        # The share of a class grows with the root of its number.
        self.weights = torch.tensor([counts[one.name] ** -0.5 for one in self.cut_outs])

    def draw(self, target):
        if not self.cut_outs or torch.rand(()) >= self.p:
            return None, target
        drawn = []
        for i in torch.multinomial(self.weights, int(torch.randint(1, 3, ())), replacement=True).tolist():
            pasted = self._draw_one(target, self.cut_outs[i])
            if pasted:
                drawn.append(pasted)
                target = _with_object(target, self.label_of[pasted.one.name], pasted)
        return drawn or None, target

    def apply(self, images, drawn):
        return [self._pasted(image, ones) if ones else image for image, ones in zip(images, drawn, strict=True)]

    def _pasted(self, image, ones):
        """uint8 3 x H x W and list of `Pasted` -> a copy of the picture with all of them."""
        image = image.clone()
        for pasted in ones:
            x1, y1, x2, y2 = pasted.one.box
            pixels = torch.as_tensor(self.load_picture(pasted.one.path))[y1:y2, x1:x2].permute(2, 0, 1)
            height, width = pasted.alpha.shape
            pixels = TF.resize(pixels, [height, width], antialias=True)
            pixels = pixels.flip(-1) if pasted.flip else pixels
            alpha = torch.as_tensor(pasted.alpha).float() / 255
            window = image[:, pasted.top : pasted.top + height, pasted.left : pasted.left + width]
            window.copy_((window + (pixels.float() - window) * alpha).round())
        return image

    def _draw_one(self, target, one):
        """The `CutOut` at a random size and place, as `Pasted`; None where no place is found."""
        height, width = target['boxes'].canvas_size
        x1, y1, x2, y2 = one.box
        low, high = np.log(SCALE)
        scale = float(torch.empty(()).uniform_(low, high).exp()) * height / one.height
        new_h, new_w = max(1, round((y2 - y1) * scale)), max(1, round((x2 - x1) * scale))
        if new_h > height or new_w > width:
            return None
        flip = bool(torch.rand(()) < 0.5)
        # 255 for 1: resized as bytes.
        alpha = cv2.resize(
            masks.decode([one.rle], (y2 - y1, x2 - x1))[0].numpy() * 255,
            (new_w, new_h),
            interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
        )
        alpha = cv2.flip(alpha, 1) if flip else alpha
        solid = torch.from_numpy(alpha >= SOLID)
        place = self._free_place(target, solid, (height, width), one.cut, flip) if solid.any() else None
        return Pasted(one, *place, flip, alpha) if place else None

    def _free_place(self, target, solid, img_hw, cut, flip):
        """A random place (left, top) for `solid` (bool h x w) in a picture; None where none leaves the others visible.

        What was cut off at an edge of its frame (`cut`) goes to that edge.
        """
        room_h, room_w = (side - own for side, own in zip(img_hw, solid.shape, strict=True))
        cut_left, _, cut_right, cut_bottom = cut
        if flip:
            cut_left, cut_right = cut_right, cut_left
        for _ in range(TRIES):
            left, top = (int(torch.randint(room + 1, ())) for room in (room_w, room_h))
            left = 0 if cut_left else room_w if cut_right else left
            top = room_h if cut_bottom else top
            if self._leaves_others(target, solid, left, top):
                return left, top
        return None

    def _leaves_others(self, target, solid, left, top):
        """Whether enough of each character of the frame stays visible behind `solid` (bool h x w)."""
        height, width = solid.shape
        for i, (x1, y1, x2, y2) in enumerate(target['boxes'].tolist()):
            a, b = max(0, round(x1) - left), max(0, round(y1) - top)
            c, d = min(width, round(x2) - left), min(height, round(y2) - top)
            if c <= a or d <= b:
                continue
            behind, whole = solid[b:d, a:c], (x2 - x1) * (y2 - y1)
            if 'masks' in target:
                mask = target['masks'][i].as_subclass(torch.Tensor).bool()
                behind = behind & mask[top + b : top + d, left + a : left + c]
                whole = int(mask.sum())
            if int(behind.sum()) > COVERED * whole:
                return False
        return True


def _with_object(target, label, pasted):
    """The target with one more object, which is `Pasted`, in front of the others."""
    img_hw = target['boxes'].canvas_size
    left, top, (height, width) = pasted.left, pasted.top, pasted.alpha.shape
    box = torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32)
    target = {
        **target,
        'boxes': boxes_of(torch.cat([target['boxes'].as_subclass(torch.Tensor), box]), img_hw),
        'labels': torch.cat([target['labels'], torch.tensor([label])]),
    }
    if 'masks' in target:
        own = torch.zeros((1, *img_hw), dtype=torch.uint8)
        own[0, top : top + height, left : left + width] = torch.from_numpy(pasted.alpha >= SOLID)
        before = target['masks'].as_subclass(torch.Tensor) * (1 - own)
        target['masks'] = tv_tensors.Mask(torch.cat([before, own]))
    return target
