"""torchvision's detectors by name, called like the detectors of this project.

Faster R-CNN (Ren et al. 2015, 1506.01497) and its second version (Li et al. 2021, 2111.11429), Mask R-CNN (He et al.
2017, 1703.06870), RetinaNet (Lin et al. 2017, 1708.02002), FCOS (Tian et al. 2019, 1904.01355), SSD (Liu et al. 2015,
1512.02325) and SSDlite (Howard et al. 2019, 1905.02244): networks, losses and post-processing are torchvision's. This
module adds the head for your classes, the size of frames and published weights.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torchvision.models import detection

from konohana import checkpoint
from konohana.detectors import hub
from konohana.detectors.base import Detector
from konohana.detectors.transform import FrameTransform
from konohana.errors import UserError

# ImageNet weights of the backbones of torchvision's detectors, by a part of the detector's name.
BACKBONE_WEIGHTS = {
    'resnet50': models.ResNet50_Weights.IMAGENET1K_V1,
    'mobilenet_v3_large': models.MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    'vgg16': models.VGG16_Weights.IMAGENET1K_FEATURES,
}

SSD300_SMALLEST = 268  # pixels; with a smaller side no input is left for its last convolution


def box_detectors():
    """Names of torchvision's detectors that detect boxes with classes, some with masks, and no keypoints."""
    return [name for name in models.list_models(module=detection) if not name.startswith('keypoint')]


def refuse_others(detector, known):
    """Raise UserError unless `detector` is in `box_detectors()`; `known`: the names that the message lists."""
    if detector in box_detectors():
        return
    if detector in models.list_models(module=detection):
        raise UserError(f'detector={detector!r}: it detects keypoints, which the labels do not have.')
    raise UserError(f'detector={detector!r}: there is no such detector. Known: {", ".join(known)}.')


class FixedTransform(FrameTransform):
    """`FrameTransform` for SSD, whose anchors are made for one size: it fits a picture into height x width.

    It keeps the aspect ratio, as in training frames, and pads the rest; torchvision stretches the picture instead.
    """

    def __init__(self, img_hw, mean, std):
        super().__init__(img_hw, 1, mean, std)
        self.img_hw = img_hw

    def size_of(self, height, width):
        scale = min(self.img_hw[0] / height, self.img_hw[1] / width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def batch_images(self, images, size_divisible=1):
        """List of 3 x H x W -> N x 3 x height x width, empty at the right and at the bottom."""
        # Pad and stack: written into a tensor, the pictures would become constants of a traced network (ONNX).
        height, width = self.img_hw
        return torch.stack([F.pad(i, (0, width - i.shape[2], 0, height - i.shape[1])) for i in images])


class TorchvisionDetector(Detector):
    """One of torchvision's detectors, with the interface of `Detector`.

    Args:
        detector: a name in `box_detectors()`.
        n_classes: number of classes without the background; labels are 1 .. n_classes, 0 is the background.
        img_hw: (height, width) in pixels to which frames are resized: short and long side, aspect ratio kept; SSD and
            SSDlite fit frames into exactly this window. Resizing is antialiased, unlike torchvision's.

    Training: `model(images, targets)` -> dict of scalar losses under torchvision's names. It uses the targets' `boxes`,
    `labels` and, for Mask R-CNN, `masks` (n x H x W); a frame may have no objects. torchvision's losses have no
    `ignored` regions: objects there are learned as background.

    Evaluation: `model(images)` -> list of dicts `boxes` (n x 4; x1, y1, x2, y2 in pixels of the image given), `labels`
    (n), `scores` (n, 0 to 1, descending) and, for Mask R-CNN, `masks` (n x H x W, bool).

    Raises:
        UserError: ssd300_vgg16 at less than 268 pixels; training SSDlite on a single frame, or Mask R-CNN on targets
            without masks.
    """

    channels_last = True
    takes_bytes = True

    def __init__(self, detector, n_classes, img_hw=(360, 640)):
        super().__init__()
        self.detector, self.n_classes = detector, n_classes
        if detector == 'ssd300_vgg16' and min(img_hw) < SSD300_SMALLEST:
            raise UserError(f'img_hw={img_hw}: {detector} needs at least {SSD300_SMALLEST} pixels, like (300, 300).')
        self.wants_masks = detector.startswith('maskrcnn')
        # All of them count the background as a class, though FCOS and RetinaNet do not use its output.
        self.model = models.get_model(detector, weights=None, weights_backbone=None, num_classes=n_classes + 1)
        for module in self.model.modules():
            # SSDlite's 0.03 is for long training: after a hundred batches the averages still hold initial values.
            # The averaged weights that are tested smooth them anyway.
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
        usual = self.model.transform
        if isinstance(self.model, detection.ssd.SSD):
            self.model.transform = FixedTransform(img_hw, usual.image_mean, usual.image_std)
            if tuple(img_hw) != (usual.fixed_size[1], usual.fixed_size[0]):
                # The anchors' steps in pixels hold for the default size only; None computes them from the maps.
                self.model.anchor_generator.steps = None
        else:
            self.model.transform = FrameTransform(img_hw, usual.size_divisible, usual.image_mean, usual.image_std)

    @property
    def transform(self):
        """What resizes and normalises frames; a `FrameTransform`."""
        return self.model.transform

    def backbone_parameters(self):
        return list(self.model.backbone.parameters())

    @property
    def class_layers(self):
        """Prefixes of the weights whose shape depends on the number of classes."""
        names = [
            'roi_heads.box_predictor',
            'roi_heads.mask_predictor.mask_fcn_logits',
            'head.classification_head.cls_logits',
        ]
        if isinstance(self.model, detection.ssd.SSD):
            for i, layer in enumerate(self.model.head.classification_head.module_list):
                # SSDlite has a depthwise convolution before the classifying one.
                last = f'.{len(layer) - 1}' if isinstance(layer, nn.Sequential) else ''
                names.append(f'head.classification_head.module_list.{i}{last}')
        return tuple(f'model.{name}.' for name in names)

    def forward(self, images, targets=None, with_maps=False, pictures=None):
        self.check(images, targets)
        if not self.training:
            return [self._contracted(found) for found in self.model(images)] if len(images) else []
        if len(images) == 1 and self.detector.startswith('ssdlite'):
            # Its coarsest maps have a single cell, and batch norm needs more than one value for a variance.
            raise UserError(f'detector={self.detector!r} cannot train on a single frame. Set batch_size=2 or more.')
        wanted = ('boxes', 'labels', 'masks') if self.wants_masks else ('boxes', 'labels')
        targets = [{key: target[key].as_subclass(torch.Tensor) for key in wanted} for target in targets]
        return self.model(images, targets)

    def _contracted(self, found):
        """torchvision's detections of one image -> detections as in the class's documentation."""
        # An untrained FCOS or RetinaNet may predict the background as a class. Of boxes in the padding beside a picture
        # nothing is left within it.
        keep = (found['labels'] > 0) & (found['boxes'][:, 2:] > found['boxes'][:, :2]).all(dim=1)
        detections = {key: found[key][keep] for key in ('boxes', 'labels', 'scores')}
        if 'masks' in found:
            detections['masks'] = found['masks'][keep, 0] > 0.5
        return detections

    def load_pretrained(self, pretrained):
        """Start from torchvision's published weights.

        Args:
            pretrained: True for the detector's COCO weights (all but the class layers), 'backbone' for ImageNet's.

        Returns:
            what was done, as one line of text.

        Raises:
            UserError: see `hub.state_dict`.
        """
        if pretrained == 'backbone':
            weights = next(enum for name, enum in BACKBONE_WEIGHTS.items() if name in self.detector)
            hub.state_dict(weights)  # raises a clear error if the file is missing; the next line reads it
            donor = models.get_model(self.detector, weights=None, weights_backbone=weights, num_classes=2)
            state = {key: value for key, value in donor.state_dict().items() if key.startswith('backbone.')}
        else:
            weights = models.get_model_weights(self.detector).DEFAULT
            state = hub.state_dict(weights)
        state = {f'model.{key}': value for key, value in state.items()}
        left = checkpoint.fit_weights(self, state, skip=self.class_layers)
        # Frozen batch norms, with which the oldest of these weights were trained, do not count batches.
        left = [key for key in left if not key.endswith('num_batches_tracked')]
        return f'Starting from {weights} ({len(state)} tensors); new are {parts(left)}.'


def parts(keys):
    """Names of weights -> the modules they belong to, shortened to three levels, as text."""
    modules = dict.fromkeys('.'.join(key.removeprefix('model.').split('.')[:-1][:3]) for key in keys)
    return ', '.join(modules) or 'none'
