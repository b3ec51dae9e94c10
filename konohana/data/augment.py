"""Augmentation of training frames, on torchvision.transforms.v2 and its tensors.

A sample is a pair of a picture (tv_tensors.Image, uint8, 3 x H x W, RGB) and a target: `boxes` (BoundingBoxes, n x 4;
x1, y1, x2, y2), `labels` (n, int64), `ignored` (BoundingBoxes, m x 4) and, for detectors that learn masks, `masks`
(Mask, uint8 n x H x W). All randomness is torch's.
"""

import torch
from torchvision import transforms, tv_tensors
from torchvision.ops import box_area, clip_boxes_to_image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from konohana.boxes import intersection
from konohana.errors import UserError
from konohana.masks import resize

GREY = 127  # what is beyond the edge of a picture: 0 after normalisation

# A character of whom less is left after a crop is neither learned nor counted as background.
MIN_VISIBLE = 0.25

MAX_SCALE = 10  # a frame is resized before it is cut: beyond, it fills the memory


class ScaleShift:
    """Scale a frame at random and put it at random into a window of `img_hw`, cutting or padding with grey.

    Scale jitter in the sense of Ghiasi et al. 2021 (2012.07177): 1 makes the frame just fit the window, aspect ratio
    kept. Characters cut down to less than a quarter become ignored regions. (None for `scale` fits the frame, centred.)
    Masks go the same way; a character whose mask has no pixel left is treated as one cut down. With `turn` the window
    lies or stands as the picture does.
    """

    def __init__(self, img_hw, scale=(0.75, 1.6), shift=True, turn=False):
        self.img_hw, self.scale, self.shift, self.turn = img_hw, scale, shift, turn

    def __call__(self, image, target):
        window_h, window_w = self.img_hw
        height, width = image.shape[-2:]
        if self.turn and (height > width) != (window_h > window_w):
            window_h, window_w = window_w, window_h
        window = (window_h, window_w)
        scale = 1.0
        if self.scale is not None:
            # Evenly in the logarithm: half as large is as likely as twice as large.
            low, high = torch.tensor(self.scale).log()
            scale = float(torch.empty(()).uniform_(float(low), float(high)).exp()) if high > low else float(low.exp())
        scale *= min(window_h / height, window_w / width)
        new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = self._offset(window_h - new_h), self._offset(window_w - new_w)

        masks = target.get('masks')
        if (new_h, new_w) != (height, width):
            image = TF.resize(image, [new_h, new_w], antialias=True)
            if masks is not None:
                masks = resize(masks, (new_h, new_w))
        if (top, left, new_h, new_w) != (0, 0, window_h, window_w):
            padding = [max(0, left), max(0, top), max(0, window_w - left - new_w), max(0, window_h - top - new_h)]
            part = (max(0, -top), max(0, -left), min(window_h, new_h), min(window_w, new_w))
            image = TF.pad(TF.crop(image, *part), padding, fill=GREY)[..., :window_h, :window_w]
            if masks is not None:
                masks = TF.pad(TF.crop(masks, *part), padding)[..., :window_h, :window_w]

        ratio = torch.tensor([new_w / width, new_h / height] * 2)
        offset = torch.tensor([left, top] * 2, dtype=torch.float32)
        whole = target['boxes'].as_subclass(torch.Tensor) * ratio + offset
        cut = clip_boxes_to_image(whole, window)
        visible = box_area(cut) / box_area(whole).clamp(min=1e-6)
        large = (cut[:, 2:] - cut[:, :2]).amin(dim=1) >= 1 if len(cut) else torch.zeros(0, dtype=torch.bool)
        keep = (visible >= MIN_VISIBLE) & large
        if masks is not None:
            keep &= masks.bool().flatten(1).any(dim=1)
        slivers = cut[~keep & (visible > 0)]
        ignored = clip_boxes_to_image(target['ignored'].as_subclass(torch.Tensor) * ratio + offset, window)
        target = {
            'boxes': _boxes(cut[keep], window),
            'labels': target['labels'][keep],
            'ignored': _boxes(torch.cat([ignored[box_area(ignored) > 0], slivers]), window),
        }
        if masks is not None:
            target['masks'] = tv_tensors.Mask(masks[keep])
        return tv_tensors.Image(image), target

    def _offset(self, room):
        """Where the frame starts in the window, given how much larger (or, below 0, smaller) the window is."""
        if not self.shift or room == 0:
            return room // 2
        low, high = min(0, room), max(0, room)
        return int(torch.randint(low, high + 1, ()))


def _boxes(boxes, img_hw):
    return tv_tensors.BoundingBoxes(boxes.reshape(-1, 4), format='XYXY', canvas_size=tuple(img_hw))


GEOMETRIC = ('ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate')  # of TrivialAugment's operations


class PhotometricTrivialAugment(v2.TrivialAugmentWide):
    """TrivialAugment (Müller and Hutter 2021, 2103.10158) without its geometric operations.

    Shearing and turning would leave boxes that no longer fit their characters. The target is handed through.
    """

    _AUGMENTATION_SPACE = {  # noqa: RUF012 (torchvision's own attribute)
        name: how for name, how in v2.TrivialAugmentWide._AUGMENTATION_SPACE.items() if name not in GEOMETRIC
    }

    def forward(self, image, target):
        # Given boxes, torchvision's transform refuses, whatever its operations.
        return super().forward(image), target


class Erase:
    """Random erasing (Zhong et al. 2017, 1708.04896): a rectangle of the picture turns grey.

    Characters of whom less than a quarter is left become ignored regions, as those that `ScaleShift` cuts off.

    Args:
        p: probability. scale: lowest and highest part of the picture's area. ratio: of height to width.
    """

    def __init__(self, p, scale=(0.02, 0.2), ratio=(0.3, 3.3)):
        self.p, self.scale, self.ratio = p, scale, ratio

    def __call__(self, image, target):
        if torch.rand(()) >= self.p:
            return image, target
        top, left, height, width, _ = transforms.RandomErasing.get_params(image, self.scale, self.ratio, [GREY])
        if (height, width) == tuple(image.shape[-2:]):  # no rectangle of this kind fits a very flat picture
            return image, target
        grey = torch.full((3, height, width), GREY, dtype=image.dtype)
        image = TF.erase(image, top, left, height, width, grey)
        boxes, ignored = (target[key].as_subclass(torch.Tensor) for key in ('boxes', 'ignored'))
        erased = intersection(boxes, torch.tensor([left, top, left + width, top + height]))
        keep = erased <= (1 - MIN_VISIBLE) * box_area(boxes)
        img_hw = tuple(image.shape[-2:])
        target = {
            **target,
            'boxes': _boxes(boxes[keep], img_hw),
            'labels': target['labels'][keep],
            'ignored': _boxes(torch.cat([ignored, boxes[~keep]]), img_hw),
        }
        if 'masks' in target:
            target['masks'] = tv_tensors.Mask(target['masks'].as_subclass(torch.Tensor)[keep])
        return image, target


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
    """The augmentation of a training sample; picture and target in, the same at `img_hw` out.

    Args:
        img_hw: (height, width) of the result.
        flip: probability of mirroring left and right.
        scale: lowest and highest scale, above 0 and at most `MAX_SCALE`; 1 just fits the window. None for no scaling.
        shift: whether the frame is put at a random place of the window.
        colour: strength of brightness, contrast and saturation jitter, 0 for none.
        hue: jitter of the hue, 0 to 0.5. The cast is told apart by colour, and it costs three times all the rest.
        random_erasing: probability that a rectangle is erased.
        trivial_augment: one random photometric change of random strength, instead of `colour` and `hue`.
        turn: pictures higher than wide get an upright window: the same two sides, the other way round.

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
        steps.append(v2.RandomHorizontalFlip(flip))
    if trivial_augment:
        steps.append(PhotometricTrivialAugment())
    elif colour or hue:
        steps.append(v2.RandomApply([v2.ColorJitter(colour, colour, colour, hue)], p=0.8))
        steps.append(v2.RandomGrayscale(0.02))
    if random_erasing:
        steps.append(Erase(random_erasing))
    return v2.Compose(steps)


def mosaic(samples, img_hw):
    """Four samples of size `img_hw` -> one of the same size: a quarter of each around a random centre.

    Bochkovskiy et al. 2020 (YOLOv4, 2004.10934). Every sample fills its part of the window, scaled to cover it.
    """
    height, width = img_hw
    centre_y = int(height * float(torch.empty(()).uniform_(0.35, 0.65)))
    centre_x = int(width * float(torch.empty(()).uniform_(0.35, 0.65)))
    canvas = torch.full((3, height, width), GREY, dtype=torch.uint8)
    parts = {'boxes': [], 'labels': [], 'ignored': [], 'masks': []}
    corners = [(0, 0), (0, centre_x), (centre_y, 0), (centre_y, centre_x)]
    for (top, left), (image, target) in zip(corners, samples, strict=True):
        bottom = centre_y if top == 0 else height
        right = centre_x if left == 0 else width
        part_hw = (bottom - top, right - left)
        # Scale 1 just fits; covering the part takes the larger of the two ratios.
        fit = sorted((part_hw[0] / image.shape[-2], part_hw[1] / image.shape[-1]))
        cover = fit[1] / fit[0]
        image, target = ScaleShift(part_hw, (cover, cover))(image, target)
        canvas[:, top:bottom, left:right] = image
        move = torch.tensor([left, top] * 2, dtype=torch.float32)
        parts['labels'].append(target['labels'])
        for key in ('boxes', 'ignored'):
            parts[key].append(target[key].as_subclass(torch.Tensor) + move)
        if 'masks' in target:
            parts['masks'].append(TF.pad(target['masks'], [left, top, width - right, height - bottom]))
    whole = {
        'boxes': _boxes(torch.cat(parts['boxes']), img_hw),
        'labels': torch.cat(parts['labels']),
        'ignored': _boxes(torch.cat(parts['ignored']), img_hw),
    }
    if parts['masks']:
        whole['masks'] = tv_tensors.Mask(torch.cat(parts['masks']))
    return tv_tensors.Image(canvas), whole
