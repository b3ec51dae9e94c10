"""Augmentation of training frames, on torchvision.transforms.v2 and its tensors.

A sample is a pair of a picture (tv_tensors.Image, uint8, 3 x H x W, RGB) and a target: `boxes` (BoundingBoxes, n x 4;
x1, y1, x2, y2), `labels` (n, int64) and `ignored` (BoundingBoxes, m x 4). All randomness is torch's.
"""

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

GREY = 127  # what is beyond the edge of a picture: 0 after normalisation

# A character of whom less is left after a crop is neither learned nor counted as background.
MIN_VISIBLE = 0.25


class ScaleShift:
    """Scale a frame at random and put it at random into a window of `img_hw`, cutting or padding with grey.

    Scale jitter in the sense of Ghiasi et al. 2021 (2012.07177): 1 makes the frame just fit the window, aspect ratio
    kept. Characters cut down to less than a quarter become ignored regions. (None for `scale` fits the frame, centred.)
    """

    def __init__(self, img_hw, scale=(0.6, 1.6), shift=True):
        self.img_hw, self.scale, self.shift = img_hw, scale, shift

    def __call__(self, image, target):
        window_h, window_w = self.img_hw
        height, width = image.shape[-2:]
        scale = 1.0
        if self.scale is not None:
            # Evenly in the logarithm: half as large is as likely as twice as large.
            low, high = torch.tensor(self.scale).log()
            scale = float(torch.empty(()).uniform_(float(low), float(high)).exp()) if high > low else float(low.exp())
        scale *= min(window_h / height, window_w / width)
        new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = self._offset(window_h - new_h), self._offset(window_w - new_w)

        if (new_h, new_w) != (height, width):
            image = TF.resize(image, [new_h, new_w], antialias=True)
        if (top, left, new_h, new_w) != (0, 0, window_h, window_w):
            padding = [max(0, left), max(0, top), max(0, window_w - left - new_w), max(0, window_h - top - new_h)]
            image = TF.crop(image, max(0, -top), max(0, -left), min(window_h, new_h), min(window_w, new_w))
            image = TF.pad(image, padding, fill=GREY)[..., :window_h, :window_w]

        ratio = torch.tensor([new_w / width, new_h / height] * 2)
        offset = torch.tensor([left, top] * 2, dtype=torch.float32)
        whole = target['boxes'].as_subclass(torch.Tensor) * ratio + offset
        cut = _cut(whole, self.img_hw)
        visible = _area(cut) / _area(whole).clamp(min=1e-6)
        large = (cut[:, 2:] - cut[:, :2]).amin(dim=1) >= 1 if len(cut) else torch.zeros(0, dtype=torch.bool)
        keep = (visible >= MIN_VISIBLE) & large
        slivers = cut[~keep & (visible > 0)]
        ignored = _cut(target['ignored'].as_subclass(torch.Tensor) * ratio + offset, self.img_hw)
        target = {
            'boxes': _boxes(cut[keep], self.img_hw),
            'labels': target['labels'][keep],
            'ignored': _boxes(torch.cat([ignored[_area(ignored) > 0], slivers]), self.img_hw),
        }
        return tv_tensors.Image(image), target

    def _offset(self, room):
        """Where the frame starts in the window, given how much larger (or, below 0, smaller) the window is."""
        if not self.shift or room == 0:
            return room // 2
        low, high = min(0, room), max(0, room)
        return int(torch.randint(low, high + 1, ()))


def _cut(boxes, img_hw):
    height, width = img_hw
    return torch.stack(
        [
            boxes[:, 0].clamp(0, width),
            boxes[:, 1].clamp(0, height),
            boxes[:, 2].clamp(0, width),
            boxes[:, 3].clamp(0, height),
        ],
        dim=1,
    )


def _area(boxes):
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


def _boxes(boxes, img_hw):
    return tv_tensors.BoundingBoxes(boxes.reshape(-1, 4), format='XYXY', canvas_size=tuple(img_hw))


def training_transform(img_hw, flip=0.5, scale=(0.6, 1.6), shift=True, colour=0.4, hue=0.0):
    """The augmentation of a training sample; picture and target in, the same at `img_hw` out.

    Args:
        img_hw: (height, width) of the result.
        flip: probability of mirroring left and right.
        scale: lowest and highest scale, 1 just fits the window; None for no scaling.
        shift: whether the frame is put at a random place of the window.
        colour: strength of brightness, contrast and saturation jitter, 0 for none.
        hue: jitter of the hue, 0 to 0.5. The cast is told apart by colour, and it costs three times all the rest.
    """
    steps = [ScaleShift(img_hw, scale, shift)]
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if colour or hue:
        steps.append(v2.RandomApply([v2.ColorJitter(colour, colour, colour, hue)], p=0.8))
        steps.append(v2.RandomGrayscale(0.02))
    return v2.Compose(steps)


def mosaic(samples, img_hw):
    """Four samples of size `img_hw` -> one of the same size: a quarter of each around a random centre.

    Bochkovskiy et al. 2020 (YOLOv4, 2004.10934). Every sample fills its part of the window, scaled to cover it.
    """
    height, width = img_hw
    centre_y = int(height * float(torch.empty(()).uniform_(0.35, 0.65)))
    centre_x = int(width * float(torch.empty(()).uniform_(0.35, 0.65)))
    canvas = torch.full((3, height, width), GREY, dtype=torch.uint8)
    parts = {'boxes': [], 'labels': [], 'ignored': []}
    corners = [(0, 0), (0, centre_x), (centre_y, 0), (centre_y, centre_x)]
    for (top, left), (image, target) in zip(corners, samples, strict=True):
        bottom = centre_y if top == 0 else height
        right = centre_x if left == 0 else width
        part_hw = (bottom - top, right - left)
        # Scale 1 just fits; covering the part takes the larger of the two ratios.
        fit = sorted((part_hw[0] / height, part_hw[1] / width))
        cover = fit[1] / fit[0]
        image, target = ScaleShift(part_hw, (cover, cover))(image, target)
        canvas[:, top:bottom, left:right] = image
        move = torch.tensor([left, top] * 2, dtype=torch.float32)
        parts['labels'].append(target['labels'])
        for key in ('boxes', 'ignored'):
            parts[key].append(target[key].as_subclass(torch.Tensor) + move)
    return tv_tensors.Image(canvas), {
        'boxes': _boxes(torch.cat(parts['boxes']), img_hw),
        'labels': torch.cat(parts['labels']),
        'ignored': _boxes(torch.cat(parts['ignored']), img_hw),
    }
