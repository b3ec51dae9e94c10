"""YOLOF: one map of stride 32 and no pyramid (Chen et al. 2021, You Only Look One-level Feature, 2103.09460).

    backbone's last map -> dilated encoder (a wider receptive field) -> two towers -> classes, boxes, objectness

Each cell has five square anchors of 32 to 512 pixels. Two things replace the pyramid: dilated convolutions put objects
of all sizes into one map, and uniform matching gives each object, large or small, the same number of anchors. Layers
and hyperparameters are those of MMDetection 3.x (https://github.com/open-mmlab/mmdetection), so you can convert its
weights with tools/convert_mmdet.py.
"""

import math
import re

import torch
from torch import nn
from torchvision.ops import (
    batched_nms,
    box_area,
    box_convert,
    box_iou,
    clip_boxes_to_image,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from konohana import distributed
from konohana.boxes import intersection, points_in_boxes
from konohana.detectors.backbones import make_backbone
from konohana.detectors.base import Detector, descending
from konohana.errors import UserError

STRIDE = 32  # of the one map
ANCHORS = (32, 64, 128, 256, 512)  # sides in pixels; all are centred on a cell's top left corner
CHANNELS, MIDDLE_CHANNELS = 512, 128  # of the encoder, and inside of its blocks
DILATIONS = (2, 4, 6, 8)
TOWERS = {'name': 2, 'box': 4}  # convolutions
CENTRE_CLAMP = 32  # pixels that a box's centre may be away from its anchor's
LARGEST_SCALE = math.log(1000 / 16)  # of a box's side to its anchor's, as a logarithm (Faster R-CNN's)
LARGEST_LOGIT = math.log(1e8)  # of classes and objectness where they are multiplied

MATCHED = 4  # nearest anchors, and nearest predictions, that learn an object
TOO_FAR = 0.15  # IoU; a matched anchor that overlaps its object less learns nothing
CLOSE_ENOUGH = 0.7  # IoU; a prediction that overlaps any object more is not background
MOSTLY = 0.5  # a prediction with more than this share of its area in one ignored region learns nothing


class ConvNorm(nn.Sequential):
    """Convolution, batch norm, maybe ReLU: N x c_in x H x W -> N x c_out x H x W."""

    def __init__(self, c_in, c_out, kernel, dilation=1, bias=False, act=True):
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2 * dilation, dilation=dilation, bias=bias),
            nn.BatchNorm2d(c_out),
            *([nn.ReLU(inplace=True)] if act else []),
        )


class DilatedBlock(nn.Sequential):
    """Residual bottleneck with a dilated 3x3 convolution, N x CHANNELS x H x W -> the same shape."""

    def __init__(self, dilation):
        super().__init__(
            ConvNorm(CHANNELS, MIDDLE_CHANNELS, 1),
            ConvNorm(MIDDLE_CHANNELS, MIDDLE_CHANNELS, 3, dilation),
            ConvNorm(MIDDLE_CHANNELS, CHANNELS, 1),
        )

    def forward(self, x):
        return x + super().forward(x)


class DilatedEncoder(nn.Module):
    """Projector and residual blocks, N x c_in x H x W -> N x CHANNELS x H x W."""

    def __init__(self, c_in):
        super().__init__()
        self.lateral = ConvNorm(c_in, CHANNELS, 1, bias=True, act=False)
        self.smooth = ConvNorm(CHANNELS, CHANNELS, 3, bias=True, act=False)
        self.blocks = nn.Sequential(*(DilatedBlock(dilation) for dilation in DILATIONS))
        for layer in (self.lateral[0], self.smooth[0]):
            nn.init.kaiming_uniform_(layer.weight, a=1)  # Caffe2's Xavier initialisation
            nn.init.zeros_(layer.bias)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)

    def forward(self, x):
        return self.blocks(self.smooth(self.lateral(x)))


class Decoder(nn.Module):
    """Two towers; N x CHANNELS x H x W -> class logits N x (5 * n_classes) x H x W, boxes N x (5 * 4) x H x W.

    Objectness comes from the box tower and has no label of its own: it is multiplied into the class probabilities, as
    logits, and learns from their loss.
    """

    def __init__(self, n_classes):
        super().__init__()
        self.n_classes = n_classes
        self.name_tower, self.box_tower = (
            nn.Sequential(*(ConvNorm(CHANNELS, CHANNELS, 3, bias=False) for _ in range(depth)))
            for depth in TOWERS.values()
        )
        self.name_layer = nn.Conv2d(CHANNELS, len(ANCHORS) * n_classes, 3, padding=1)
        self.box_layer = nn.Conv2d(CHANNELS, len(ANCHORS) * 4, 3, padding=1)
        self.object_layer = nn.Conv2d(CHANNELS, len(ANCHORS), 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.constant_(self.name_layer.bias, -math.log(99))  # 1 %: nearly every anchor is background (RetinaNet)

    def forward(self, x):
        seen = self.box_tower(x)
        # In float32: the exponentials below overflow in half precision.
        names, objectness = self.name_layer(self.name_tower(x)).float(), self.object_layer(seen).float()
        names = names.unflatten(1, (len(ANCHORS), self.n_classes))
        objectness = objectness[:, :, None]
        # The logit of sigmoid(names) * sigmoid(objectness); beyond the clamp it is too high, as in MMDetection.
        either = (1 + names.clamp(max=LARGEST_LOGIT).exp() + objectness.clamp(max=LARGEST_LOGIT).exp()).log()
        return (names + objectness - either).flatten(1, 2), self.box_layer(seen)


class YOLOF(Detector):
    """YOLOF, called like torchvision's detectors.

    Args:
        n_classes: number of classes without the background; labels are 1 .. n_classes, 0 is the background.
        img_hw: (height, width) in pixels to which frames are resized (short and long side, aspect ratio kept).
        backbone: a network of torchvision or timm with a map of stride 32, see `backbones.make_backbone`.

    Training: `model(images, targets)` -> dict of scalar losses `loss_name` (focal, Lin et al. 2017, 1708.02002) and
    `loss_box` (GIoU, Rezatofighi et al. 2019, 1902.09630). `images` is a list of float tensors 3 x H x W, RGB, 0 to 1,
    of any size; each target has `boxes` (n x 4; x1, y1, x2, y2 in pixels), `labels` (n, int64) and optionally
    `ignored` (m x 4; nothing is learned there). A box with a side of less than about a third of the smallest anchor's
    (32 pixels after resizing) matches no anchor and is not learned.

    Evaluation: `model(images)` -> list of dicts `boxes` (n x 4, in pixels of the image given), `labels` (n), `scores`
    (n, 0 to 1, descending).
    """

    resizable = True
    class_layers = ('decoder.name_layer.',)
    has_raw_outputs = True
    takes_bytes = True

    score_threshold = 0.05  # detections must score higher to take part in NMS
    n_before_nms = 1000  # the highest-scoring detections that take part in NMS
    nms_threshold = 0.6  # two boxes of one class with a higher IoU are one object
    max_detections = 100

    def __init__(self, n_classes, img_hw=(360, 640), backbone='resnet50'):
        super().__init__()
        self.n_classes = n_classes
        self.backbone = make_backbone(backbone, (STRIDE,))
        self.transform = self.backbone.transform(img_hw, STRIDE)
        self.encoder = DilatedEncoder(self.backbone.channels[0])
        self.decoder = Decoder(n_classes)

    def load_pretrained(self, pretrained):
        """Start from published weights; returns what was done, as one line of text.

        Args:
            pretrained: 'backbone': ImageNet's weights of the backbone.

        Raises:
            UserError: `pretrained` is True (weights of the whole network come only from tools/convert_mmdet.py); see
                `Backbone.load_imagenet`.
        """
        if pretrained != 'backbone':
            raise UserError(
                'pretrained=True: there are no weights of the whole YOLOF to download. Set '
                "pretrained='backbone', or convert MMDetection's with tools/convert_mmdet.py and set init_from='...'."
            )
        return self.backbone.load_imagenet()

    def raw_outputs(self, batch):
        """Normalised N x 3 x H x W, both sides multiples of 32 -> the two maps N x c x H/32 x W/32.

        Returns:
            dict of `cls` (c = 5 * n_classes, anchor by anchor: class logits, objectness multiplied in) and `reg`
            (c = 5 * 4, anchor by anchor: offset of the centre from the anchor's, in sides of the anchor; logarithm of
            width and height, in sides of the anchor).
        """
        (features,) = self.backbone(batch)
        names, boxes = self.decoder(self.encoder(features))
        return {'cls': names, 'reg': boxes}

    def decode(self, maps):
        """Maps of `raw_outputs` -> predictions per anchor (P = h * w * 5; cells row by row, anchors from the smallest).

        Returns dict of `names` (N x P x n_classes logits), `boxes` (N x P x 4; x1, y1, x2, y2 in pixels of the batch),
        `anchors` (P x 4, likewise).
        """
        height, width = maps['reg'].shape[2:]
        device = maps['reg'].device
        ys = torch.arange(height, device=device, dtype=torch.float32) * STRIDE
        xs = torch.arange(width, device=device, dtype=torch.float32) * STRIDE
        sides = torch.tensor(ANCHORS, device=device, dtype=torch.float32)
        y, x, side = (part.flatten() for part in torch.meshgrid(ys, xs, sides, indexing='ij'))
        centres, sides = torch.stack([x, y], dim=-1), side[:, None].expand(-1, 2)

        def per_anchor(values, parts):
            values = values.float().unflatten(1, (len(ANCHORS), parts))
            return values.permute(0, 3, 4, 1, 2).flatten(1, 3)

        offsets = per_anchor(maps['reg'], 4)
        moved = centres + (offsets[..., :2] * sides).clamp(-CENTRE_CLAMP, CENTRE_CLAMP)
        half = sides * offsets[..., 2:].clamp(max=LARGEST_SCALE).exp() / 2
        return {
            'names': per_anchor(maps['cls'], self.n_classes),
            'boxes': torch.cat([moved - half, moved + half], dim=-1),
            'anchors': torch.cat([centres - sides / 2, centres + sides / 2], dim=-1),
        }

    def losses(self, outputs, targets, sizes, batch=None):
        return yolof_losses(self.decode(outputs), targets, sizes)

    def detections(self, outputs, sizes, original_sizes, with_maps=False):
        predictions = self.decode(outputs)
        detections = [
            self.postprocess(names, boxes, size)
            for names, boxes, size in zip(predictions['names'], predictions['boxes'], sizes, strict=True)
        ]
        return self.transform.postprocess(detections, sizes, original_sizes)

    def postprocess(self, names, boxes, size):
        """One image's predictions (P anchors) -> its detections: threshold, highest scores, NMS per class."""
        scores = names.sigmoid().flatten()
        kept = (scores > self.score_threshold).nonzero()[:, 0]
        kept = kept[descending(scores[kept])[: self.n_before_nms]]
        scores, labels, boxes = scores[kept], kept % self.n_classes, boxes[kept // self.n_classes]
        boxes = clip_boxes_to_image(boxes, size)
        # Cells in a batch's padding may predict boxes that lie outside the picture.
        inside = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        scores, labels, boxes = scores[inside], labels[inside], boxes[inside]
        kept = batched_nms(boxes, scores, labels, self.nms_threshold)[: self.max_detections]
        return {'boxes': boxes[kept], 'labels': labels[kept] + 1, 'scores': scores[kept]}


@torch.no_grad()
def uniform_matching(boxes, anchors, targets):
    """Which anchors learn which objects of one image: the same number for each, whatever its size.

    For each object the `MATCHED` nearest predictions and the `MATCHED` nearest anchors (L1 distance of centre and
    size). An anchor may be in both lists, and in those of several objects.

    Args:
        boxes: P x 4 predicted. anchors: P x 4. targets: n x 4 objects. All x1, y1, x2, y2 in the same pixels.

    Returns:
        index, owner: pairs of anchor and object (both int64, of equal length, at most 2 * MATCHED * n).
        owner_of: P int64; the object whose class the anchor learns, -1 for background, -2 for nothing: the anchor is
            matched but too far away, or its prediction is close to an object that other anchors learn.
    """
    owner_of = torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    if not len(targets):
        return owner_of[:0], owner_of[:0], owner_of
    owner_of[box_iou(boxes, targets).amax(dim=1) > CLOSE_ENOUGH] = -2
    shapes = box_convert(targets, 'xyxy', 'cxcywh')
    nearest = [
        torch.cdist(box_convert(found, 'xyxy', 'cxcywh'), shapes, p=1)
        .topk(min(MATCHED, len(anchors)), dim=0, largest=False)
        .indices
        for found in (boxes, anchors)
    ]
    index = torch.cat(nearest)  # 8 x n
    owner = torch.arange(len(targets), device=anchors.device).expand_as(index)
    index, owner = index.flatten(), owner.flatten()
    overlap = box_iou(anchors, targets)[index, owner]
    owner_of[index] = -2
    near = overlap >= TOO_FAR
    index, owner, overlap = index[near], owner[near], overlap[near]
    # An anchor learns one class: that of the object it overlaps most.
    most = overlap.new_zeros(len(anchors)).scatter_reduce(0, index, overlap, 'amax')
    best = overlap == most[index]
    owner_of.scatter_reduce_(0, index[best], owner[best], 'amax')
    return index, owner, owner_of


def yolof_losses(predictions, targets, sizes):
    """Losses of a batch.

    Args:
        predictions: `YOLOF.decode`'s dict for N images and P anchors.
        targets: N dicts of `boxes` (n x 4), `labels` (n; 1 is the first class) and optionally `ignored` (m x 4), in
            pixels of the batch. sizes: N (height, width) of the pictures without padding.

    Returns:
        dict of scalars: `loss_name` over all anchors except those that learn nothing, `loss_box` over the matched
        pairs; both divided by the number of anchors in the batch that learn an object.
    """
    anchors = predictions['anchors']
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    soft_targets, counted, found, true = [], [], [], []
    for names, boxes, target, (height, width) in zip(
        predictions['names'], predictions['boxes'], targets, sizes, strict=True
    ):
        # Cells in the padding do not count.
        inside = ((centres[:, 0] < width) & (centres[:, 1] < height)).nonzero()[:, 0]
        index, owner, owner_of = uniform_matching(boxes[inside], anchors[inside], target['boxes'])
        ignored = target.get('ignored', target['boxes'][:0])
        background = owner_of == -1
        hidden = points_in_boxes(centres[inside], ignored) | mostly_inside(
            clip_boxes_to_image(boxes[inside], (height, width)), ignored
        )
        learns = (owner_of >= 0) | (background & ~hidden)
        count = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
        count[inside[learns]] = True
        soft_target = torch.zeros_like(names)
        matched = owner_of >= 0
        soft_target[inside[matched], target['labels'][owner_of[matched]] - 1] = 1
        counted.append(count)
        soft_targets.append(soft_target)
        found.append(boxes[inside[index]])
        true.append(target['boxes'][owner])
    soft_targets, counted = torch.stack(soft_targets), torch.stack(counted)
    total = distributed.normaliser(soft_targets.sum(), len(targets))
    focal = sigmoid_focal_loss(predictions['names'], soft_targets, alpha=0.25, gamma=2)
    box = generalized_box_iou_loss(torch.cat(found), torch.cat(true))
    return {'loss_name': (focal * counted[..., None]).sum() / total, 'loss_box': box.sum() / total}


@torch.no_grad()
def mostly_inside(boxes, regions):
    """P x 4 boxes, m x 4 regions -> P bool: more than `MOSTLY` of the box lies in one of the regions."""
    return (intersection(boxes[:, None], regions) > MOSTLY * box_area(boxes)[:, None]).any(dim=1)


# MMDetection's names and ours; the first rule that fits is applied.
MMDET_NAMES = (
    (r'backbone\.', 'backbone.body.'),
    (r'neck\.lateral_conv\.', 'encoder.lateral.0.'),
    (r'neck\.lateral_norm\.', 'encoder.lateral.1.'),
    (r'neck\.fpn_conv\.', 'encoder.smooth.0.'),
    (r'neck\.fpn_norm\.', 'encoder.smooth.1.'),
    (r'neck\.dilated_encoder_blocks\.(\d)\.conv1\.', r'encoder.blocks.\1.0.'),
    (r'neck\.dilated_encoder_blocks\.(\d)\.conv2\.', r'encoder.blocks.\1.1.'),
    (r'neck\.dilated_encoder_blocks\.(\d)\.conv3\.', r'encoder.blocks.\1.2.'),
    (r'bbox_head\.cls_subnet\.(\d)\.', r'decoder.name_tower.\1.'),
    (r'bbox_head\.bbox_subnet\.(\d)\.', r'decoder.box_tower.\1.'),
    (r'bbox_head\.cls_score\.', 'decoder.name_layer.'),
    (r'bbox_head\.bbox_pred\.', 'decoder.box_layer.'),
    (r'bbox_head\.object_pred\.', 'decoder.object_layer.'),
)
MMDET_OPTIONS = {'backbone': 'resnet50_caffe'}  # what its published weights are for


def convert_mmdet_state(state):
    """State dict of MMDetection 3.x's YOLOF -> the same weights under our names; a name without a rule stays.

    They are for `YOLOF(n_classes, backbone='resnet50_caffe')`, see `MMDET_OPTIONS`.
    """
    converted = {}
    for key, value in state.items():
        for pattern, ours in MMDET_NAMES:
            if re.match(pattern, key):
                key = re.sub(pattern, ours, key, count=1)
                if not key.startswith('backbone.'):
                    key = key.replace('.conv.', '.0.').replace('.bn.', '.1.')
                break
        converted[key] = value
    return converted
