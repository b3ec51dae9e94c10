"""The flagship under torchvision's contract."""

import torch
from torch import nn

from konohana.detectors.base import Detector
from konohana.detectors.konohana.assigner import TaskAlignedAssigner
from konohana.detectors.konohana.criterion import detection_losses
from konohana.detectors.konohana.lite0 import start_from_lite0
from konohana.detectors.konohana.naming import look_again, resized_crops
from konohana.detectors.konohana.network import (
    ACTIVATIONS,
    ATTENTIONS,
    STRIDE,
    Backbone,
    Neck,
    Res2Depthwise,
    make_tower,
    size_of,
)
from konohana.detectors.konohana.postprocess import postprocess
from konohana.detectors.konohana.second_look import SecondLook, crop, second_look_loss
from konohana.detectors.transform import FrameTransform
from konohana.errors import UserError


class Konohana(Detector):
    """The flagship detector, under torchvision's contract.

    Args:
        n_classes: number of names; label 0 is background, labels 1 .. n_classes are names.
        img_hw: (height, width) that frames are resized to inside (short and long side, aspect ratio kept).
        use_res2block: Res2Net's split instead of the depthwise convolution in the stride-1 blocks.
        attention: what weighs channels in the blocks marked in BLOCKS, a name in ATTENTIONS.
        activation: between layers, a name in ACTIVATIONS.
        second_look: a second small network that names the found boxes from their own pixels, see `SecondLook`.
        large: a wider neck and deeper towers.

    Training: `model(images, targets)` -> dict of scalar losses `loss_objectness`, `loss_quality`, `loss_box`,
    `loss_name`, and with a second look `loss_second_look`. `images` is a list of float tensors 3 x H x W, RGB, 0 to 1,
    of any size; each target has `boxes` (n x 4; x1, y1, x2, y2 in pixels), `labels` (n, int64) and maybe `ignored`
    (m x 4: nothing is learned there).

    Evaluation: `model(images)` -> list of dicts `boxes` (n x 4, in pixels of the image given), `labels` (n), `scores`
    (n, 0 to 1, descending), `probabilities` (n x n_classes, of the names) and, with a second look, `embeddings`
    (n x 64, see `naming.look_again`). `model(images, with_maps=True)` adds `objectness` and `quality`, maps h x w, 0 to
    1.

    Raises:
        UserError: an attention or activation that does not exist.
    """

    resizable = True
    channels_last = True  # halves the time of depthwise convolutions on a CPU
    class_layers = ('name_layer.', 'second_look.centres', 'second_look.caution')
    seldom = ('second_look',)  # `second_look_loss` wants two people
    maps = ('objectness', 'quality')
    unlabelled = 'background'
    has_raw_outputs = True
    takes_bytes = True
    only_second_look = False  # see `learn_only_second_look`
    teachers = None  # in training, a `training.teachers.Teachers` or none

    # See `postprocess`.
    score_threshold = 0.05
    nms_threshold = 0.5
    vote_threshold = 0.7
    max_detections = 100

    def __init__(
        self, n_classes, img_hw=(360, 640), use_res2block=False, attention='se', activation='relu6', second_look=False,
        large=False,
    ):  # fmt: skip
        super().__init__()
        for name, value, known in (('attention', attention, ATTENTIONS), ('activation', activation, ACTIVATIONS)):
            if value not in known:
                raise UserError(f'{name}={value!r}: there is no such choice. Known: {", ".join(known)}.')
        self.n_classes = n_classes
        self.transform = FrameTransform(img_hw, size_divisible=STRIDE)
        self.backbone = Backbone(use_res2block, attention, activation)
        channels, depth = size_of(large)
        self.neck = Neck(channels, activation)
        self.find_tower = make_tower(channels, depth, activation)
        self.name_tower = make_tower(channels, depth, activation)
        self.find_layer = nn.Conv2d(channels, 6, 1)  # objectness, quality, left, top, right, bottom
        self.name_layer = nn.Conv2d(channels, n_classes, 1)
        self.distance_scale = nn.Parameter(torch.ones(()))
        self.second_look = SecondLook(n_classes, activation) if second_look else None
        self.looks_again = second_look
        self.assigner = TaskAlignedAssigner()
        for layer in (self.find_layer, self.name_layer):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.find_layer.bias[0] = -4.6  # objectness starts at 1 %: nearly every cell is background (RetinaNet)
            self.find_layer.bias[2:] = 2.0  # boxes start about 15 cells wide, in the middle of the real ones

    def raw_outputs(self, batch):
        """Normalised N x 3 x H x W -> dict of maps N x c x H/8 x W/8, as logits: `find` (6), `name` (n_classes)."""
        x = self.neck(self.backbone(batch))
        find, name = self.find_tower(x), self.name_tower(x)
        # bfloat16 would round the sides of boxes to one or two parts in a hundred.
        with torch.autocast(find.device.type, enabled=False):
            dtype = self.find_layer.weight.dtype  # float32, or what the whole model was turned into
            return {'find': self.find_layer(find.to(dtype)), 'name': self.name_layer(name.to(dtype))}

    def decode(self, maps):
        """Maps of `raw_outputs` -> predictions per anchor point (P = h * w points, row by row).

        Returns dict of `objectness` and `quality` (N x P logits), `names` (N x P x n_classes logits),
        `boxes` (N x P x 4; x1, y1, x2, y2 in pixels of the batch), `points` (P x 2; x, y in pixels).
        """
        find = maps['find'].float()
        h, w = find.shape[2:]
        ys = (torch.arange(h, device=find.device) + 0.5) * STRIDE
        xs = (torch.arange(w, device=find.device) + 0.5) * STRIDE
        points = torch.stack(torch.meshgrid(xs, ys, indexing='xy'), dim=-1).reshape(-1, 2)
        find = find.flatten(2).transpose(1, 2)
        # exp as in FCOS; the clamp (e^6 cells is eight frames wide) keeps an early outlier finite in half precision.
        distances = (find[..., 2:] * self.distance_scale).clamp(max=6.0).exp() * STRIDE
        return {
            'objectness': find[..., 0],
            'quality': find[..., 1],
            'names': maps['name'].float().flatten(2).transpose(1, 2),
            'boxes': torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1),
            'points': points,
        }

    def forward(self, images, targets=None, with_maps=False, pictures=None):
        if self.training and self.only_second_look:
            self.check(images, targets)
            batch, targets = self.transform(images, targets)
            return {'loss_second_look': second_look_loss(self.second_look, batch.tensors, targets)}
        return super().forward(images, targets, with_maps, pictures)

    def learn_only_second_look(self):
        """From now on training changes the second look alone; all else stays as it is.

        Raises:
            UserError: there is no second look.
        """
        if self.second_look is None:
            raise UserError('only_second_look=True: there is none. Set second_look=True.')
        self.only_second_look = True
        self.requires_grad_(False)
        self.second_look.requires_grad_(True)

    def features(self, crops):
        return self.backbone(crops * 2 - 1)[-1].mean(dim=(2, 3))

    def load_pretrained(self, pretrained):
        """Start from EfficientNet-Lite0's ImageNet weights (`pretrained='backbone'`) -> what was done, as text."""
        if pretrained != 'backbone':
            raise UserError(
                f"pretrained={pretrained!r}: the default network has 'backbone' (EfficientNet-Lite0's ImageNet "
                "weights). init_from='weights/net.pt' starts from the shipped weights."
            )
        if self.second_look is not None:
            start_from_lite0(self.second_look)
        return start_from_lite0(self.backbone)

    def start_rest(self, left):
        if not any(key.startswith('second_look.stem') for key in left):
            return ''
        try:
            start_from_lite0(self.second_look)
        except UserError as error:
            return f' Its second look starts from scratch ({error}).'
        return " Its second look starts from EfficientNet-Lite0's ImageNet weights (Apache-2.0)."

    def ignore_unlabelled(self):
        """Learn nothing where the network sees somebody far from all labels, see `detection_losses`."""
        self.unlabelled = 'ignore'

    def adapt_weights(self, state):
        """Weights of the plain network for a Res2 one: each group's convolution takes its channels' kernels.

        State dict -> state dict; one that needs no change comes back as it is.
        """
        adapted = dict(state)
        for i, block in enumerate(self.backbone.blocks):
            plain = f'backbone.blocks.{i}.depthwise.'
            if not isinstance(block.depthwise, Res2Depthwise) or f'{plain}0.weight' not in state:
                continue
            for key in [key for key in state if key.startswith(plain)]:
                part = key.removeprefix(plain)
                value = adapted.pop(key)
                groups = value.chunk(Res2Depthwise.GROUPS) if value.ndim else [value] * Res2Depthwise.GROUPS
                for g, group in enumerate(groups[1:]):
                    adapted[f'{plain}convs.{g}.{part}'] = group
        return adapted

    def postprocess(self, predictions, sizes):
        """Predictions of `decode` for N images of `sizes` (height, width) -> N detections, see `postprocess`."""
        return [
            postprocess(
                *(predictions[key][i] for key in ('objectness', 'quality', 'names', 'boxes')),
                size,
                score_threshold=self.score_threshold,
                nms_threshold=self.nms_threshold,
                vote_threshold=self.vote_threshold,
                max_detections=self.max_detections,
            )
            for i, size in enumerate(sizes)
        ]

    def losses(self, outputs, targets, sizes, batch=None):
        taught = None if self.teachers is None else self.teachers(batch)
        losses = detection_losses(self.decode(outputs), targets, self.assigner, sizes, self.unlabelled, taught)
        if self.second_look is not None:
            losses['loss_second_look'] = second_look_loss(self.second_look, batch, targets)
        return losses

    def detections(self, outputs, sizes, original_sizes, with_maps=False):
        detections = self.postprocess(self.decode(outputs), sizes)
        if with_maps:
            for i, (height, width) in enumerate(sizes):
                rows, columns = (
                    (height + STRIDE - 1) // STRIDE,
                    (width + STRIDE - 1) // STRIDE,
                )  # exact in an exported graph too
                shown = outputs['find'][i, :2, :rows, :columns].float().sigmoid()
                detections[i].update(zip(self.maps, shown, strict=True))
        return self.transform.postprocess(detections, sizes, original_sizes)

    def look(self, picture, boxes):
        """3 x H x W, RGB, uint8 or float 0 to 1, and n x 4 boxes in its pixels -> (embeddings n x 64, logits)."""
        # In an exported graph boxes are no numbers that could cut out slices; on a GPU each slice would wait for them.
        if torch.jit.is_tracing() or picture.device.type != 'cpu':
            crops = crop(as_floats(picture), boxes)
        else:
            crops = as_floats(resized_crops(picture, boxes))
        return self.second_look(crops)

    def look_again(self, detections, images, pictures):
        if self.second_look is None:
            return detections
        return [
            look_again(found, image.shape[-2:], picture, self.look, self.looks_at_everyone)
            for found, image, picture in zip(detections, images, pictures, strict=True)
        ]


def as_floats(image):
    """uint8, or float 0 to 1 -> float 0 to 1."""
    return image.float() / 255 if image.dtype == torch.uint8 else image
