"""From a list of pictures of any size to a batch and back, for all PyTorch detectors."""

import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as TF

from konohana import masks
from konohana.data.images import fit_size


class FrameTransform(GeneralizedRCNNTransform):
    """torchvision's transform, resizing with antialiasing.

    Pictures are float, 0 to 1, or uint8: those are resized as bytes, in a fraction of the time. They are resized to
    `fit_size`, unless they have that size already. By default values go from 0 .. 1 to -1 .. 1. The smaller pictures of
    a batch are padded at the right and at the bottom. `postprocess` scales boxes and masks back to the picture's
    pixels.

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

    def forward(self, images, targets=None):
        """List of pictures and their targets -> (`ImageList` of the normalized batch, list of targets or None)."""
        pairs = [self.resize(*pair) for pair in zip(images, targets or [None] * len(images), strict=True)]
        images = [self.normalize(image) for image, _ in pairs]
        batch = ImageList(self.batch_images(images, self.size_divisible), [tuple(image.shape[1:]) for image in images])
        return batch, [target for _, target in pairs] if targets is not None else None

    def normalize(self, image):
        """3 x H x W, uint8 or float 0 to 1 -> normalized floats. In place where it can be: a large picture is slow."""
        mean, std = (self._of_channels(values, image) for values in (self.image_mean, self.image_std))
        if image.dtype == torch.uint8:
            return image.float().div_(255).sub_(mean).div_(std)
        return (image - mean) / std

    @staticmethod
    def _of_channels(values, image):
        if len(set(values)) == 1:
            return values[0]  # a tensor would have to be moved to the device for each picture
        dtype = image.dtype if image.is_floating_point() else torch.float32
        return torch.tensor(values, dtype=dtype, device=image.device)[:, None, None]

    def batch_images(self, images, size_divisible=32):
        """List of normalized pictures -> N x 3 x height x width, padded where they need it."""
        sizes = {tuple(image.shape[1:]) for image in images}
        if len(sizes) > 1 or torch.jit.is_tracing() or any(side % size_divisible for side in next(iter(sizes))):
            return super().batch_images(images, size_divisible)
        return torch.stack(images) if len(images) > 1 else images[0][None]

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
