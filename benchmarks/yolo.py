"""YOLOs of ultralytics (https://github.com/ultralytics/ultralytics), with the interface of this project's detectors."""

import torch
from torch import nn
from torchvision.transforms.v2 import functional as TF

from konohana.data.images import fit_size
from konohana.detectors.base import Detector
from konohana.errors import UserError


class Yolo(Detector):
    """An untrained YOLO of ultralytics with its own post-processing.

    Args:
        name: the network, like 'yolo11n'. fuse: fold batch norms into convolutions.

    Raises:
        UserError: ultralytics is not installed, or has no such network.
    """

    stride = 32
    limits = {}  # noqa: RUF012 (arguments of the post-processing besides ultralytics' defaults)
    channels_last = True  # as for the detectors here: it halves the time of depthwise convolutions on a CPU

    def __init__(self, name, fuse):
        super().__init__()
        try:
            from ultralytics import YOLO
            from ultralytics.utils.nms import non_max_suppression
        except ImportError:
            raise UserError(f'detector={name!r} needs a recent ultralytics: pip install ultralytics') from None
        try:
            self.network = YOLO(f'{name}.yaml', task='detect', verbose=False).model.eval()
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f'detector={name!r}: ultralytics has no such network ({error}).') from None
        if fuse:
            self.network.fuse(verbose=False)
        self.postprocess = non_max_suppression

    def forward(self, images, targets=None, with_maps=False):
        """List of float 3 x H x W, RGB, 0 to 1, all of one size -> list of detections."""
        batch = torch.stack(list(images))
        height, width = batch.shape[-2:]
        # Its networks take sides that are multiples of 32; its own loader pads with grey, too.
        batch = nn.functional.pad(batch, (0, -width % self.stride, 0, -height % self.stride), value=114 / 255)
        if self.channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        found = self.postprocess(self.network(batch), **self.limits)
        return [{'boxes': f[:, :4], 'scores': f[:, 4], 'labels': f[:, 5].long() + 1} for f in found]


class BytesYolo(nn.Module):
    """The network of a `Yolo` for other runtimes: uint8 n x H x W x 3 -> what its post-processing takes."""

    def __init__(self, yolo):
        super().__init__()
        self.network, self.stride = yolo.network, yolo.stride

    def forward(self, frames):
        batch = frames.permute(0, 3, 1, 2).float() / 255
        height, width = batch.shape[-2:]
        padding = (0, -width % self.stride, 0, -height % self.stride)
        found = self.network(nn.functional.pad(batch, padding, value=114 / 255))
        return found if isinstance(found, torch.Tensor) else found[0]


class TrainedYolo(Yolo):
    """A YOLO with trained weights. It gives as many boxes, down to as low scores, as the other detectors.

    It resizes pictures of any size, like the other detectors; boxes are in pixels of the picture given.

    Args:
        name: the network. weights: ultralytics' weights file. img_hw: height and width that it was trained at.
    """

    limits = {'conf_thres': 0.001, 'iou_thres': 0.7, 'max_det': 100, 'multi_label': True}  # noqa: RUF012

    def __init__(self, name, weights, img_hw):
        super().__init__(name, fuse=False)
        from ultralytics import YOLO

        self.network = YOLO(str(weights), task='detect').model.float().eval().requires_grad_(False)
        self.img_hw = img_hw
        self.eval()  # in training mode ultralytics' networks return something else

    def forward(self, images, targets=None, with_maps=False):
        detections = []
        for image in images:
            height, width = image.shape[-2:]
            size = fit_size(height, width, self.img_hw)
            resized = image if size == (height, width) else TF.resize(image, list(size), antialias=True)
            (found,) = super().forward([resized])
            found['boxes'] = found['boxes'] * found['boxes'].new_tensor([width / size[1], height / size[0]] * 2)
            detections.append(found)
        return detections
