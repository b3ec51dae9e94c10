"""SOLOv2: instance masks without boxes (Wang et al. 2020, https://arxiv.org/abs/2003.10152).

The picture is divided into grids of 40, 36, 24, 16 and 12 cells a side, the fine ones for small objects. Each cell
classifies the object whose centre lies in it (`cate`) and predicts the 1x1 convolution (`kernel`) that turns the shared
map of features (`mask_feats`, stride 4) into that object's mask:

    pyramid, five levels -> resized to the five grids -> towers of convolutions -> categories, kernels
    pyramid, four levels -> upsampled to stride 4, summed                       -> mask features
    mask features convolved with the kernels of the likely cells -> masks -> matrix NMS

Layers and hyperparameters are those of MMDetection 3.x (https://github.com/open-mmlab/mmdetection), so you can convert
its weights with tools/convert_mmdet.py. "Light" takes smaller pictures and has half the depth and half the channels.
"""

import math
import re
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import FeaturePyramidNetwork, sigmoid_focal_loss
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from konohana import distributed
from konohana.boxes import points_in_boxes
from konohana.detectors.backbones import make_backbone
from konohana.detectors.base import Detector, descending

GRIDS = (40, 36, 24, 16, 12)  # cells a side
LEAST_AREAS = (8, 8, 16, 32, 32)  # a mask of each grid must have more pixels than this, at stride 4
MASK_STRIDE = 4  # pixels of the batch per pixel of the mask features, a side
PYRAMID_CHANNELS = 256
SIZE_DIVISIBLE = 32  # what the batch's height and width are padded to

# Which grids learn an object, by the square root of its box's area in pixels of the batch: small objects in the first.
SCALES = ((0, 96), (48, 192), (96, 384), (192, 768), (384, math.inf))
SCALES_LIGHT = ((0, 56), (28, 112), (56, 224), (112, 448), (224, math.inf))
CENTRE = 0.2  # share of a box's sides: the cells in this part around the centre of mass learn the object

WEIGHTS = {'loss_category': 1.0, 'loss_mask': 3.0}


class ConvGroupNorm(nn.Sequential):
    """Convolution, group norm of 32 groups, ReLU: N x c_in x H x W -> N x c_out x H x W."""

    def __init__(self, c_in, c_out, kernel=3):
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False),
            nn.GroupNorm(32, c_out),
            nn.ReLU(inplace=True),
        )


def with_coordinates(x):
    """N x c x H x W -> N x (c + 2) x H x W: where each pixel lies across and down, from -1 to 1 (CoordConv)."""
    n, _, height, width = x.shape
    across = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype).expand(n, 1, height, width)
    down = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)[:, None].expand(n, 1, height, width)
    return torch.cat([x, across, down], dim=1)


def resize(x, size):
    """Bilinear, N x c x H x W -> N x c x size; a map of that size already comes back as it is."""
    # A traced network (ONNX) takes maps of any size, so it always interpolates.
    if tuple(x.shape[-2:]) == tuple(size) and not torch.jit.is_tracing():
        return x
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=False)


class MaskBranch(nn.Module):
    """Four levels of the pyramid (strides 4 to 32) -> mask features N x c_out x H/4 x W/4.

    Level k goes through k convolutions, each followed by doubling (the first level through one, without); their sum
    through a last one. The coarsest level also gets coordinates, so that objects that look alike get different masks.
    """

    def __init__(self, c_out, width=128):
        super().__init__()
        self.levels = nn.ModuleList()
        for level in range(4):
            c_in = PYRAMID_CHANNELS + (2 if level == 3 else 0)
            convs = [ConvGroupNorm(c_in, width)] + [ConvGroupNorm(width, width) for _ in range(level - 1)]
            self.levels.append(nn.ModuleList(convs))
        self.last = ConvGroupNorm(width, c_out, kernel=1)

    def forward(self, pyramid):
        total = self.levels[0][0](pyramid[0])
        for level in range(1, 4):
            x = with_coordinates(pyramid[level]) if level == 3 else pyramid[level]
            for conv in self.levels[level]:
                x = F.interpolate(conv(x), scale_factor=2.0, mode='bilinear', align_corners=False)
            total = total + x
        return self.last(total)


class SOLOv2(Detector):
    """SOLOv2, called like torchvision's detectors.

    Args:
        n_classes: number of classes without the background; labels are 1 .. n_classes, 0 is the background.
        img_hw: (height, width) in pixels to which pictures are resized (short and long side, aspect ratio kept).
        backbone: see `backbones.make_backbone`. depth, width: convolutions and channels of the two towers.
        mask_channels: of the mask features. scales: see `SCALES`.
        frozen_stages: 1 keeps a ResNet's stem and first stage as they are while training, 2 the second stage too,
            0 trains all.
        norm_eval: the backbone's batch norms stay in evaluation mode while training.

    Training: `model(images, targets)` -> dict of scalar losses `loss_category` and `loss_mask`. `images` is a list of
    float tensors 3 x H x W, RGB, 0 to 1, of any size; each target has `boxes` (n x 4; x1, y1, x2, y2 in pixels),
    `labels` (n, int64), `masks` (n x H x W, 0 or 1) and optionally `ignored` (m x 4; no category is learned there).
    A target without masks raises UserError.

    Evaluation: `model(images)` -> list of dicts `boxes` (n x 4, the masks' boxes, in pixels of the image given),
    `labels` (n), `scores` (n, 0 to 1, descending) and `masks` (n x H x W bool, of the size of the image given).
    """

    wants_masks = True
    class_layers = ('cate_layer.',)
    has_raw_outputs = True
    takes_bytes = True

    score_threshold = 0.1  # cells must score higher in a category to have their masks computed
    mask_threshold = 0.5  # pixels with a higher probability belong to the mask
    n_candidates = 2000  # the highest-scoring cells have their masks computed, at most this many
    n_before_nms = 500  # the highest-scoring masks that take part in NMS
    nms_kernel, nms_sigma = 'gaussian', 2.0  # see `matrix_nms`
    final_threshold = 0.05  # lowest score after NMS
    max_detections = 100

    def __init__(
        self,
        n_classes,
        img_hw=(448, 768),
        backbone='resnet18',
        depth=2,
        width=256,
        mask_channels=128,
        scales=SCALES_LIGHT,
        frozen_stages=1,
        norm_eval=True,
    ):
        super().__init__()
        self.n_classes, self.scales = n_classes, scales
        self.backbone = make_backbone(backbone, (4, 8, 16, 32), frozen_stages, norm_eval)
        self.transform = self.backbone.transform(img_hw, SIZE_DIVISIBLE)
        self.neck = FeaturePyramidNetwork(self.backbone.channels, PYRAMID_CHANNELS, LastLevelMaxPool())
        self.mask_branch = MaskBranch(mask_channels)
        rest = [ConvGroupNorm(width, width) for _ in range(depth - 1)]
        self.cate_tower = nn.Sequential(ConvGroupNorm(PYRAMID_CHANNELS, width), *rest)
        rest = [ConvGroupNorm(width, width) for _ in range(depth - 1)]
        self.kernel_tower = nn.Sequential(ConvGroupNorm(PYRAMID_CHANNELS + 2, width), *rest)
        self.cate_layer = nn.Conv2d(width, n_classes, 3, padding=1)
        self.kernel_layer = nn.Conv2d(width, mask_channels, 3, padding=1)
        for part in (self.mask_branch, self.cate_tower, self.kernel_tower, self.cate_layer, self.kernel_layer):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(self.kernel_layer.bias)
        nn.init.constant_(self.cate_layer.bias, -math.log(99))  # 1 %: nearly every cell is background (RetinaNet)

    def raw_outputs(self, batch):
        """Normalised N x 3 x H x W, both sides multiples of 32 -> dict of the network's outputs.

        `mask_feats` (N x mask_channels x H/4 x W/4), and for grid i of S = `GRIDS[i]` cells a side `kernel_i`
        (N x mask_channels x S x S) and `cate_i` (N x n_classes x S x S, logits).
        """
        levels = OrderedDict((str(i), x) for i, x in enumerate(self.backbone(batch)))
        pyramid = list(self.neck(levels).values())
        maps = {'mask_feats': self.mask_branch(pyramid)}
        # Resize both ends of the pyramid to their neighbours first: straight to its grid, the finest would skip pixels.
        pyramid[0] = resize(pyramid[0], pyramid[1].shape[-2:])
        pyramid[4] = resize(pyramid[4], pyramid[3].shape[-2:])
        for i, (x, cells) in enumerate(zip(pyramid, GRIDS, strict=True)):
            # Add coordinates before resizing: resized ones no longer reach -1 and 1.
            x = resize(with_coordinates(x), (cells, cells))
            maps[f'kernel_{i}'] = self.kernel_layer(self.kernel_tower(x))
            maps[f'cate_{i}'] = self.cate_layer(self.cate_tower(x[:, :-2]))
        return maps

    def decode(self, maps):
        """Maps of `raw_outputs` -> (scores, kernels) per cell, grid after grid and row by row (P cells).

        `scores` is N x P x n_classes, 0 to 1, and 0 for a cell if an upper or left neighbour scores higher; `kernels`
        is N x P x mask_channels.
        """
        scores, kernels = [], []
        for i in range(len(GRIDS)):
            score = maps[f'cate_{i}'].float().sigmoid()
            best = F.max_pool2d(score, 2, stride=1, padding=1)[:, :, :-1, :-1]
            scores.append((score * (score == best)).flatten(2).transpose(1, 2))
            kernels.append(maps[f'kernel_{i}'].flatten(2).transpose(1, 2))
        return torch.cat(scores, dim=1), torch.cat(kernels, dim=1)

    def postprocess(self, scores, kernels, mask_feats):
        """One image's cells (P x n_classes, P x c) and mask features (c x h x w) -> its instances after NMS.

        Returns dict of `labels` (n), `scores` (n, descending) and `soft_masks` (n x h x w, 0 to 1). A score is
        the category's, times the mean probability of the mask's pixels, times the decay of matrix NMS.
        """
        cells, labels = (scores > self.score_threshold).nonzero(as_tuple=True)
        chosen = descending(scores[cells, labels])[: self.n_candidates]
        cells, labels = cells[chosen], labels[chosen]
        soft = torch.matmul(kernels[cells].float(), mask_feats.flatten(1).float()).sigmoid()
        masks = soft > self.mask_threshold
        areas = masks.sum(dim=1)
        least = torch.cat([torch.full((n * n,), area) for n, area in zip(GRIDS, LEAST_AREAS, strict=True)])
        keep = areas > least.to(areas.device)[cells]
        cells, labels, soft, masks, areas = (x[keep] for x in (cells, labels, soft, masks, areas))
        sure = (soft * masks).sum(dim=1) / areas
        values = scores[cells, labels] * sure
        keep = descending(values)[: self.n_before_nms]
        values = matrix_nms(masks[keep], labels[keep], values[keep], self.nms_kernel, self.nms_sigma)
        order = descending(values)[: self.max_detections]
        order = order[values[order] >= self.final_threshold]
        keep, values = keep[order], values[order]
        soft = soft[keep].reshape(-1, mask_feats.shape[1], mask_feats.shape[2])  # unflatten would fix the sizes in ONNX
        return {'labels': labels[keep] + 1, 'scores': values, 'soft_masks': soft}

    def finish(self, found, size, original_size):
        """Instances of `postprocess` -> detections at the size of the image given.

        Args:
            size: (height, width) of the image inside the batch. original_size: those of the image given.
        """
        soft = found.pop('soft_masks')
        batch_hw = (soft.shape[1] * MASK_STRIDE, soft.shape[2] * MASK_STRIDE)
        # All masks of a large picture as floats would fill the memory. A traced network (ONNX) cannot loop over them.
        parts = [soft] if torch.jit.is_tracing() else soft.split(16)
        masks = [
            resize(resize(part[None], batch_hw)[:, :, : size[0], : size[1]], original_size)[0] > self.mask_threshold
            for part in parts
            if len(part)
        ]
        masks = torch.cat(masks) if masks else soft.new_zeros((0, *original_size), dtype=torch.bool)
        # Drop masks that lie in the batch's padding or vanish when the picture is reduced.
        there = masks.flatten(1).any(dim=1)
        masks = masks[there]
        return {'boxes': mask_boxes(masks), **{key: value[there] for key, value in found.items()}, 'masks': masks}

    def detections(self, outputs, sizes, original_sizes, with_maps=False):
        scores, kernels = self.decode(outputs)
        return [
            self.finish(self.postprocess(scores[i], kernels[i], outputs['mask_feats'][i]), size, original)
            for i, (size, original) in enumerate(zip(sizes, original_sizes, strict=True))
        ]

    def load_pretrained(self, pretrained):
        """Start from published weights; returns what was done, as one line of text.

        Args:
            pretrained: 'backbone' or True: ImageNet weights of the backbone. For weights of the whole network, convert
                MMDetection's with tools/convert_mmdet.py.

        Raises:
            UserError: see `Backbone.load_imagenet`.
        """
        return self.backbone.load_imagenet()

    def losses(self, maps, targets, sizes, batch=None):
        """Losses of a batch: `loss_category` (focal, Lin et al. 2017, 1708.02002) and `loss_mask` (dice), weighted.

        Args:
            maps: of `raw_outputs`. targets: of each image `boxes`, `labels`, `masks` and optionally `ignored`, in
                pixels of the batch. sizes: not used, since padding is background.
        """
        batch_hw = tuple(side * MASK_STRIDE for side in maps['mask_feats'].shape[-2:])
        device = maps['mask_feats'].device
        logits = torch.cat([maps[f'cate_{i}'].flatten(2).transpose(1, 2) for i in range(len(GRIDS))], dim=1).float()
        kernels = torch.cat([maps[f'kernel_{i}'].flatten(2).transpose(1, 2) for i in range(len(GRIDS))], dim=1)
        centres = cell_centres(batch_hw, device)
        wanted, counted = torch.zeros_like(logits), torch.ones(logits.shape[:2], dtype=torch.bool, device=device)
        dice = []
        for i, target in enumerate(targets):
            cells, objects = self.assign(target, batch_hw)
            counted[i] = ~points_in_boxes(centres, target.get('ignored', target['boxes'][:0]))
            counted[i, cells] = True
            wanted[i, cells, target['labels'][objects] - 1] = 1.0
            if len(cells):
                features = maps['mask_feats'][i]
                true = shrink_masks(target['masks'], features.shape[-2:])[objects]
                dice.append(dice_loss(torch.matmul(kernels[i, cells], features.flatten(1)), true.flatten(1)))
        category = sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0) * counted[..., None]
        # Without any object there is no mask to learn, but every parameter still has a gradient (of zero).
        dice = torch.cat(dice) if dice else (maps['mask_feats'].sum() + kernels.sum()).float()[None] * 0.0
        n_cells = distributed.normaliser(wanted.sum(), len(targets))
        return {
            'loss_category': WEIGHTS['loss_category'] * category.sum() / n_cells,
            'loss_mask': WEIGHTS['loss_mask'] * dice.sum() / n_cells,
        }

    @torch.no_grad()
    def assign(self, target, batch_hw):
        """Which cells of one image learn which object.

        The grids of an object's scale learn it, in the cells that the middle part of its box touches once that is
        moved to the mask's centre of mass; at most three by three. A cell that several objects claim learns the
        smallest.

        Args:
            target: `boxes` (n x 4) and `masks` (n x H x W), in pixels of the batch. batch_hw: its (height, width).

        Returns:
            cells: k int64, indices of cells in the order of `decode`, ascending. objects: k int64, what each learns.
        """
        boxes, masks = target['boxes'], target['masks']
        owner, first = {}, 0
        if len(boxes):
            sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
            scales = sides.prod(dim=1).sqrt().tolist()
            centres = centres_of_mass(masks)
            # As fractions of the batch's sides: times S they are in cells of a grid of S.
            whole = torch.tensor([batch_hw[1], batch_hw[0]], device=boxes.device)
            middle = (centres / whole).tolist()
            half = (sides / 2 * CENTRE / whole).tolist()
            largest_first = sorted(range(len(boxes)), key=lambda i: -scales[i])
        for cells, (low, high) in zip(GRIDS, self.scales, strict=True):
            for i in largest_first if len(boxes) else ():
                if not low <= scales[i] <= high or math.isnan(middle[i][0]):
                    continue
                (columns, rows) = (self._span(m, h, cells) for m, h in zip(middle[i], half[i], strict=True))
                owner.update({first + row * cells + column: i for row in rows for column in columns})
            first += cells * cells
        numbers = sorted(owner)
        return (
            torch.tensor(numbers, dtype=torch.int64, device=boxes.device),
            torch.tensor([owner[n] for n in numbers], dtype=torch.int64, device=boxes.device),
        )

    @staticmethod
    def _span(middle, half, cells):
        """Cells from `middle - half` to `middle + half` (in 0 .. 1), no further than one from the middle's own."""
        own = min(int(middle * cells), cells - 1)
        low = max(own - 1, int(max(0.0, middle - half) * cells))
        high = min(own + 1, int((middle + half) * cells), cells - 1)
        return range(low, high + 1)


def cell_centres(batch_hw, device=None):
    """Centres of all cells as P x 2 (x, y in pixels of the batch), in the order of `SOLOv2.decode`."""
    points = []
    for cells in GRIDS:
        part = (torch.arange(cells, device=device) + 0.5) / cells
        points.append(torch.stack(torch.meshgrid(part * batch_hw[1], part * batch_hw[0], indexing='xy'), -1))
    return torch.cat([p.reshape(-1, 2) for p in points])


def centres_of_mass(masks):
    """n x H x W -> n x 2 (x, y); nan for an empty mask."""
    masks = masks.float()
    columns, rows = masks.sum(dim=1), masks.sum(dim=2)
    x = (columns * (torch.arange(columns.shape[1], device=masks.device) + 0.5)).sum(dim=1)
    y = (rows * (torch.arange(rows.shape[1], device=masks.device) + 0.5)).sum(dim=1)
    return torch.stack([x, y], dim=1) / columns.sum(dim=1, keepdim=True)


def shrink_masks(masks, size):
    """n x H x W masks of a picture -> n x size at a quarter, float 0 or 1: whether half of the pixels or more are set.

    A mask too thin to keep any pixel that way keeps every pixel that it touches. A picture that is smaller than the
    batch (`size` times four) is padded at the right and at the bottom.
    """
    height, width = (side * MASK_STRIDE for side in size)
    padded = F.pad(masks.float(), (0, width - masks.shape[2], 0, height - masks.shape[1]))
    parts = F.avg_pool2d(padded, MASK_STRIDE)
    shrunk = parts >= 0.5
    lost = ~shrunk.flatten(1).any(dim=1)
    return torch.where(lost[:, None, None], parts > 0, shrunk).float()


def dice_loss(logits, masks):
    """Dice loss of V-Net (Milletari et al. 2016, 1606.04797), squares in the denominator as SOLO has it.

    k x P logits, k x P masks (0 or 1) -> k losses, 0 (the same) to 1 (nothing in common).
    """
    soft = logits.float().sigmoid()
    common = 2 * (soft * masks).sum(dim=1)
    return 1 - common / (soft.square().sum(dim=1) + masks.square().sum(dim=1) + 2e-3)


def matrix_nms(masks, labels, scores, kernel='gaussian', sigma=2.0):
    """Matrix NMS (SOLOv2, section 3.5): lowers the scores of masks that better masks of the same label cover.

    The decay of mask j is the least, over the better masks i of its label, of f(iou of i and j) / f(the largest iou of
    i with masks better than itself), so a mask that is itself covered counts little. f(u) is
    exp(-sigma * u^2) for the gaussian kernel and 1 - u for the linear one.

    Args:
        masks: n x ... bool, of one picture. labels: n. scores: n, 0 to 1, in any order; of equal ones the first counts
            as better.
        kernel: 'gaussian' or 'linear'.

    Returns:
        n lowered scores, in the order given. ValueError for another kernel.
    """
    if kernel not in ('gaussian', 'linear'):
        raise ValueError(f"kernel={kernel!r}: it is 'gaussian' or 'linear'")
    if len(scores) == 0:
        return scores
    order = descending(scores)
    flat, labels = masks[order].flatten(1).float(), labels[order]
    common, areas = flat @ flat.T, flat.sum(dim=1)
    union = areas[:, None] + areas[None, :] - common
    iou = common / union.clamp(min=1)
    # Row i, column j: i is better than j and of its label.
    iou = (iou * (labels[:, None] == labels[None, :])).triu(diagonal=1)
    covered = iou.amax(dim=0)[:, None]
    if kernel == 'gaussian':
        decay = torch.exp(sigma * (covered.square() - iou.square()))
    else:
        decay = (1 - iou) / (1 - covered).clamp(min=1e-6)
    lowered = scores[order] * decay.amin(dim=0)
    return torch.empty_like(scores).scatter_(0, order, lowered)


def mask_boxes(masks):
    """n x H x W bool, none empty -> n x 4 float boxes; x1, y1, x2, y2 in pixels, x2 and y2 exclusive."""
    columns, rows = masks.any(dim=1).int(), masks.any(dim=2).int()
    first = (columns.argmax(dim=1), rows.argmax(dim=1))
    last = (masks.shape[2] - columns.flip(1).argmax(dim=1), masks.shape[1] - rows.flip(1).argmax(dim=1))
    return torch.stack([*first, *last], dim=1).float()


def solov2_light_r18(n_classes, img_hw=(448, 768), frozen_stages=1, norm_eval=True):
    """SOLOv2-light on a ResNet-18; see `SOLOv2`."""
    return SOLOv2(n_classes, img_hw, 'resnet18', frozen_stages=frozen_stages, norm_eval=norm_eval)


def solov2_light_r34(n_classes, img_hw=(448, 768), frozen_stages=1, norm_eval=True):
    """SOLOv2-light on a ResNet-34; see `SOLOv2`."""
    return SOLOv2(n_classes, img_hw, 'resnet34', frozen_stages=frozen_stages, norm_eval=norm_eval)


def solov2_r50(n_classes, img_hw=(800, 1333), frozen_stages=1, norm_eval=True):
    """SOLOv2 on a ResNet-50; see `SOLOv2`."""
    return SOLOv2(n_classes, img_hw, 'resnet50', 4, 512, 256, SCALES, frozen_stages, norm_eval)


# MMDetection's names and ours; the first rule that fits is applied.
MMDET_NAMES = (
    (r'neck\.lateral_convs\.(\d)\.conv\.', r'neck.inner_blocks.\1.0.'),
    (r'neck\.fpn_convs\.(\d)\.conv\.', r'neck.layer_blocks.\1.0.'),
    (r'mask_head\.cls_convs\.(\d)\.', r'cate_tower.\1.'),
    (r'mask_head\.kernel_convs\.(\d)\.', r'kernel_tower.\1.'),
    (r'mask_head\.conv_cls\.', 'cate_layer.'),
    (r'mask_head\.conv_kernel\.', 'kernel_layer.'),
    (r'mask_head\.mask_feature_head\.convs_all_levels\.(\d)\.conv(\d)\.', r'mask_branch.levels.\1.\2.'),
    (r'mask_head\.mask_feature_head\.conv_pred\.', 'mask_branch.last.'),
    (r'backbone\.', 'backbone.body.'),
)


def convert_mmdet_state(state):
    """State dict of MMDetection 3.x's SOLOv2 -> the same weights under our names; a name without a rule stays."""
    converted = {}
    for key, value in state.items():
        for pattern, ours in MMDET_NAMES:
            if re.match(pattern, key):
                key = re.sub(pattern, ours, key, count=1)
                if not key.startswith(('backbone.', 'neck.')):
                    key = re.sub(r'\.(conv|gn)\.', lambda part: {'conv': '.0.', 'gn': '.1.'}[part[1]], key)
                break
        converted[key] = value
    return converted
