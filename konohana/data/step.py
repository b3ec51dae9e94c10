"""What a step of augmentation is: a decision and a change of pixels, apart, so that batches change on any device.

A sample is a pair of a picture (tv_tensors.Image, uint8, 3 x H x W, RGB) and a target: `boxes` (BoundingBoxes, n x 4;
x1, y1, x2, y2), `labels` (n, int64), `ignored` (BoundingBoxes, m x 4) and, for detectors that learn masks, `masks`
(Mask, uint8 n x H x W). All randomness is torch's.
"""

import torch
from torchvision import tv_tensors


class Step:
    """A random change of samples. `step(image, target)` gives the same, changed.

    `draw(target)` decides by chance what happens -> (that, or None for nothing; the target, changed). It needs no
    pixel, and takes the size of the picture from the target's boxes.

    `apply(images, drawn)` changes pixels: uint8 n x 3 x H x W, or a list of 3 x H x W, all on one device, and what was
    drawn for each (None for nothing) -> the same in either form. It may change a tensor n x 3 x H x W in place. On a
    GPU it waits for nothing.
    """

    def __call__(self, image, target):
        drawn, target = self.draw(target)
        if drawn is None:
            return image, target
        (image,) = self.apply([image.as_subclass(torch.Tensor)], [drawn])
        return tv_tensors.Image(image), target


class Steps(Step):
    """Several steps, one after the other.

    Args:
        steps: list of `Step`.
    """

    def __init__(self, steps):
        self.steps = steps

    def draw(self, target):
        drawn = []
        for step in self.steps:
            one, target = step.draw(target)
            drawn.append(one)
        return drawn, target

    def apply(self, images, drawn):
        for step, of_step in zip(self.steps, zip(*drawn, strict=True), strict=True):
            if any(one is not None for one in of_step):
                images = step.apply(images, of_step)
        return images


def boxes_of(boxes, img_hw):
    """n x 4 boxes of a picture of `img_hw`, (height, width), as tv_tensors."""
    return tv_tensors.BoundingBoxes(boxes.reshape(-1, 4), format='XYXY', canvas_size=tuple(img_hw))


def stacked(images):
    """A list of n 3 x H x W of one size, or n x 3 x H x W -> n x 3 x H x W, which may be changed in place."""
    return images if isinstance(images, torch.Tensor) else torch.stack(images)
