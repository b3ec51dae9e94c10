"""Augmentation of training frames: what happens to a sample between the file and the network, see `step.Step`."""

from dataclasses import dataclass

import torch
from torchvision import transforms, tv_tensors
from torchvision.ops import box_area, clip_boxes_to_image
from torchvision.transforms.v2 import functional as TF

from konohana.boxes import intersection
from konohana.data.colour import Colour, PhotometricTrivialAugment
from konohana.data.step import Step, Steps, boxes_of, stacked
from konohana.errors import UserError
from konohana.masks import resize

GREY = 127  # what is beyond the edge of a picture: 0 after normalisation

# A character of whom less is left after a crop is neither learned nor counted as background.
MIN_VISIBLE = 0.25

MAX_SCALE = 10  # a frame is resized before it is cut: beyond, it fills the memory


@dataclass
class Place:
    """Where a frame goes in a window: the frame's new size, its corner there, and the window's size, in pixels."""

    hw: tuple
    top: int
    left: int
    window: tuple


class ScaleShift(Step):
    """Scale a frame at random and put it at random into a window, cut and padded with grey.

    This is the scale jitter of Ghiasi et al. 2021 (2012.07177). A character cut down to less than a quarter, or to a
    mask without a pixel, becomes an ignored region.

    Args:
        img_hw: (height, width) of the window.
        scale: lowest and highest scale; at 1 the frame just fits the window, aspect ratio kept. None is 1.
        shift: put the frame at a random place instead of the middle.
        turn: turn the window upright for pictures higher than wide.
    """

    def __init__(self, img_hw, scale=(0.75, 1.6), shift=True, turn=False):
        self.img_hw, self.scale, self.shift, self.turn = img_hw, scale, shift, turn

    def draw(self, target):
        height, width = target['boxes'].canvas_size
        window = tuple(self.img_hw)
        if self.turn and (height > width) != (window[0] > window[1]):
            window = window[::-1]
        scale = self._random_scale() * min(window[0] / height, window[1] / width)
        new_hw = new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (self._offset(side - new) for side, new in zip(window, new_hw, strict=True))
        masks = target.get('masks')
        if masks is not None:
            masks = masks if new_hw == (height, width) else resize(masks, new_hw)
            masks = _into_window(masks, top, left, window)
        ratio = torch.tensor([new_w / width, new_h / height] * 2)
        offset = torch.tensor([left, top] * 2, dtype=torch.float32)
        boxes, ignored = (target[key].as_subclass(torch.Tensor) * ratio + offset for key in ('boxes', 'ignored'))
        return Place(new_hw, top, left, window), _cut_target(boxes, target['labels'], ignored, masks, window)

    def apply(self, images, drawn):
        # The only step that takes pictures of different sizes; afterwards they are of one.
        return torch.stack([placed(image, place) for image, place in zip(images, drawn, strict=True)])

    def _random_scale(self):
        if self.scale is None:
            return 1.0
        # Evenly in the logarithm: half as large is as likely as twice as large.
        low, high = torch.tensor(self.scale).log()
        return float(torch.empty(()).uniform_(float(low), float(high)).exp()) if high > low else float(low.exp())

    def _offset(self, room):
        """Where the frame starts in the window, given how much larger (or, below 0, smaller) the window is."""
        if not self.shift or room == 0:
            return room // 2
        low, high = min(0, room), max(0, room)
        return int(torch.randint(low, high + 1, ()))


def placed(image, place):
    """uint8 3 x h x w at its `Place` in a window: 3 x H x W."""
    if place.hw != tuple(image.shape[-2:]):
        image = TF.resize(image, place.hw, antialias=True)
    return _into_window(image, place.top, place.left, place.window, GREY)


def _into_window(pixels, top, left, window, fill=0):
    """Pixels (... x h x w) with their corner at (top, left) of a window (height, width), cut and padded."""
    height, width = pixels.shape[-2:]
    window_h, window_w = window
    if (top, left, height, width) == (0, 0, window_h, window_w):
        return pixels
    padding = [max(0, left), max(0, top), max(0, window_w - left - width), max(0, window_h - top - height)]
    part = TF.crop(pixels, max(0, -top), max(0, -left), min(window_h, height), min(window_w, width))
    return TF.pad(part, padding, fill=fill)[..., :window_h, :window_w]


def _cut_target(boxes, labels, ignored, masks, window):
    """The target of boxes (n x 4) and ignored regions (m x 4) that may reach outside of the window (height, width)."""
    cut, ignored = clip_boxes_to_image(boxes, window), clip_boxes_to_image(ignored, window)
    visible = box_area(cut) / box_area(boxes).clamp(min=1e-6)
    keep = (visible >= MIN_VISIBLE) & (cut[:, 2] - cut[:, 0] >= 1) & (cut[:, 3] - cut[:, 1] >= 1)
    if masks is not None:
        keep &= masks.bool().flatten(1).any(dim=1)
    slivers = cut[~keep & (visible > 0)]
    target = {
        'boxes': boxes_of(cut[keep], window),
        'labels': labels[keep],
        'ignored': boxes_of(torch.cat([ignored[box_area(ignored) > 0], slivers]), window),
    }
    if masks is not None:
        target['masks'] = tv_tensors.Mask(masks[keep])
    return target


class Flip(Step):
    """Flip left and right, with probability `p`."""

    def __init__(self, p):
        self.p = p

    def draw(self, target):
        if torch.rand(()) >= self.p:
            return None, target
        flipped = {key: target[key] if key == 'labels' else TF.horizontal_flip(target[key]) for key in target}
        return True, flipped

    def apply(self, images, drawn):
        images = stacked(images)
        for i, flips in enumerate(drawn):
            if flips:
                images[i] = images[i].flip(-1)
        return images


class Erase(Step):
    """Random erasing (Zhong et al. 2017, 1708.04896): a rectangle of the picture turns grey.

    A character of whom less than a quarter is left becomes an ignored region.

    Args:
        p: probability, 0 to 1.
        scale: lowest and highest area of the rectangle, as a part of the picture's.
        ratio: lowest and highest ratio of height to width.
    """

    def __init__(self, p, scale=(0.02, 0.2), ratio=(0.3, 3.3)):
        self.p, self.scale, self.ratio = p, scale, ratio

    def draw(self, target):
        if torch.rand(()) >= self.p:
            return None, target
        img_hw = target['boxes'].canvas_size
        only_size = torch.empty((3, *img_hw), device='meta')
        *corner, height, width, _ = transforms.RandomErasing.get_params(only_size, self.scale, self.ratio, [GREY])
        if (height, width) == img_hw:  # no rectangle of this kind fits a very flat picture
            return None, target
        top, left = corner
        boxes, ignored = (target[key].as_subclass(torch.Tensor) for key in ('boxes', 'ignored'))
        erased = intersection(boxes, torch.tensor([left, top, left + width, top + height]))
        keep = erased <= (1 - MIN_VISIBLE) * box_area(boxes)
        target = {
            **target,
            'boxes': boxes_of(boxes[keep], img_hw),
            'labels': target['labels'][keep],
            'ignored': boxes_of(torch.cat([ignored, boxes[~keep]]), img_hw),
        }
        if 'masks' in target:
            target['masks'] = tv_tensors.Mask(target['masks'].as_subclass(torch.Tensor)[keep])
        return (top, left, height, width), target

    def apply(self, images, drawn):
        images = stacked(images)
        for image, rectangle in zip(images, drawn, strict=True):
            if rectangle:
                top, left, height, width = rectangle
                image[:, top : top + height, left : left + width] = GREY
        return images


def training_transform(
    img_hw,
    flip=0.5,
    scale=(0.75, 1.6),
    shift=True,
    colour=0.4,
    hue=0.0,
    random_erasing=0.0,
    trivial_augment=False,
    turn=False,
):
    """The augmentation of a training sample, as a `Step` whose pictures come out at `img_hw`.

    Args:
        img_hw: (height, width) of the result.
        flip: probability of flipping left and right.
        scale: lowest and highest scale, above 0 and at most `MAX_SCALE`; 1 just fits the window. None for no scaling.
        shift: put the frame at a random place of the window.
        colour: strength of brightness, contrast and saturation jitter, 0 for none.
        hue: jitter of the hue, 0 to 0.5. Characters are told apart by colour; and it takes three times as long as all
            the rest.
        random_erasing: probability of erasing a rectangle, see `Erase`.
        trivial_augment: apply one random photometric change of random strength, instead of `colour` and `hue`.
        turn: give pictures higher than wide an upright window, `img_hw` the other way round.

    Raises:
        UserError: `scale` is out of range.
    """
    if scale is not None and not 0 < scale[0] <= scale[1] <= MAX_SCALE:
        raise UserError(
            f'scale={tuple(scale)}: it takes the lowest and the highest factor, above 0 and at most {MAX_SCALE}, like '
            '(0.75, 1.6).'
        )
    steps = [ScaleShift(img_hw, scale, shift, turn)]
    if flip:
        steps.append(Flip(flip))
    if trivial_augment:
        steps.append(PhotometricTrivialAugment())
    elif colour or hue:
        steps.append(Colour(colour, hue))
    if random_erasing:
        steps.append(Erase(random_erasing))
    return Steps(steps)


class Mosaic:
    """Mosaic (YOLOv4, Bochkovskiy et al. 2020, 2004.10934): four samples around a random centre, one in each corner.

    Each is scaled to cover its part of the window. As a `Step` it draws and changes apart, but of four samples.
    """

    def __call__(self, samples, img_hw):
        """Four (image, target), and (height, width) of the window -> (image, target) of that size."""
        images, targets = zip(*samples, strict=True)
        drawn, target = self.draw(targets, img_hw)
        return tv_tensors.Image(self.apply([image.as_subclass(torch.Tensor) for image in images], drawn)), target

    def draw(self, targets, img_hw):
        """Four targets and (height, width) of the window -> (a `Place` in the window for each, the target)."""
        height, width = img_hw
        centre_y = int(height * float(torch.empty(()).uniform_(0.35, 0.65)))
        centre_x = int(width * float(torch.empty(()).uniform_(0.35, 0.65)))
        places, parts = [], {'boxes': [], 'labels': [], 'ignored': [], 'masks': []}
        corners = [(0, 0), (0, centre_x), (centre_y, 0), (centre_y, centre_x)]
        for (top, left), target in zip(corners, targets, strict=True):
            part_hw = ((height if top else centre_y) - top, (width if left else centre_x) - left)
            # Scale 1 just fits; covering the part takes the larger of the two ratios.
            fit = sorted(part / own for part, own in zip(part_hw, target['boxes'].canvas_size, strict=True))
            cover = fit[1] / fit[0]
            place, target = ScaleShift(part_hw, (cover, cover)).draw(target)
            places.append((top, left, place))
            move = torch.tensor([left, top] * 2, dtype=torch.float32)
            parts['labels'].append(target['labels'])
            for key in ('boxes', 'ignored'):
                parts[key].append(target[key].as_subclass(torch.Tensor) + move)
            if 'masks' in target:
                below, right = height - top - part_hw[0], width - left - part_hw[1]
                parts['masks'].append(TF.pad(target['masks'], [left, top, right, below]))
        whole = {
            'boxes': boxes_of(torch.cat(parts['boxes']), img_hw),
            'labels': torch.cat(parts['labels']),
            'ignored': boxes_of(torch.cat(parts['ignored']), img_hw),
        }
        if parts['masks']:
            whole['masks'] = tv_tensors.Mask(torch.cat(parts['masks']))
        return places, whole

    def apply(self, images, places):
        """Four pictures (uint8 3 x h x w) and what was drawn for them -> one, uint8 3 x H x W."""
        parts = [placed(image, place) for image, (_, _, place) in zip(images, places, strict=True)]
        top, left, _ = places[-1]
        height, width = parts[-1].shape[-2:]
        canvas = parts[0].new_empty((3, top + height, left + width))
        for part, (top, left, _) in zip(parts, places, strict=True):
            canvas[:, top : top + part.shape[-2], left : left + part.shape[-1]] = part
        return canvas
