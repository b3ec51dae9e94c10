"""From a list of pictures of any size to a batch and back, for all PyTorch detectors."""

import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as TF

from konohana import masks
from konohana.data.images import fit_size


class FrameTransform(GeneralizedRCNNTransform):
    """torchvision's transform, resizing with antialiasing.

    Pictures are resized to `fit_size`, unless they have that size already. By default values go from 0 .. 1 to
    -1 .. 1. The smaller pictures of a batch are padded at the right and at the bottom. `postprocess` scales boxes and
    masks back to the picture's pixels.

    Without antialiasing, as in torchvision, a 1080p frame becomes 360 rows by skipping two of three.

    Args:
        img_hw: (height, width) in pixels.
        size_divisible: the batch's height and width are padded to multiples of it.
        mean, std: normalization, RGB.

    Attributes:
        resizes: False leaves pictures as they are, for callers that resize them first (see `onnx.export`).
    """

    def __init__(self, img_hw, size_divisible, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)):
        super().__init__(min(img_hw), max(img_hw), list(mean), list(std), size_divisible=size_divisible)
        self.resizes = True

    def set_size(self, img_hw):
        """Resize to `img_hw` (height, width in pixels) from now on."""
        self.min_size, self.max_size = (min(img_hw),), max(img_hw)

    def size_of(self, height, width):
        """Height and width in pixels of a picture in the network, given those of the file."""
        return fit_size(height, width, (self.min_size[-1], self.max_size))

    def resize(self, image, target=None):
        """3 x H x W and its target -> the same, resized; also resizes `ignored` boxes and `masks`."""
        if not self.resizes:
            return image, target
        height, width = image.shape[-2:]
        size = list(self.size_of(height, width))
        if size == [height, width]:
            return image, target
        image = TF.resize(image, size, antialias=True)
        if target is None:
            return image, target
        target = dict(target)
        ratio = torch.tensor([size[1] / width, size[0] / height] * 2, device=image.device)
        for key in ('boxes', 'ignored'):
            if key in target:
                target[key] = target[key] * ratio
        if 'masks' in target:
            target['masks'] = masks.resize(target['masks'], size)
        return image, target
