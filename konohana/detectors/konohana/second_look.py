"""The second look: who somebody is, from the found box's own pixels.

The detector names a character from a map whose cells see whole scenes at an eighth of the frame's size. It finds people
of an unseen episode, but knows their clothes rather than them. So each found box is cut out of the picture at the
picture's own resolution and looked at again by a small network, whose answer is mixed with the detector's.

Its blocks are EfficientNet-Lite0's first ones, so that it starts from ImageNet's weights. It ends in an embedding of
unit length; each class is a direction among the embeddings, and its logit is the cosine with it (Wang et al. 2017,
NormFace, https://arxiv.org/abs/1704.06369). So people may also be told apart by their embeddings alone.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import clip_boxes_to_image, roi_align

from konohana.cast import SHARED_NAMES
from konohana.detectors.konohana.network import BLOCKS, ConvNorm, InvertedResidual

SIDE = 128  # height and width of a crop in pixels
N_BLOCKS = 11  # of network.BLOCKS, down to stride 32
EMBEDDING = 64  # length of an embedding
SCALE = 12.0  # logits are cosines times this
CAUTION = 1.0  # added to the logits of names that several people may have, such as "other"
MARGIN = 0.1  # of the box's width and height, which the crop shows more at each side

# Training
LABEL_SMOOTHING = 0.1
JITTER = 0.12  # of the box's width and height; boxes' sides are moved by at most so much
RECOLOURED = 0.3  # probability that the lower part of a crop gets other colours
UNCLOTHED = 0.2  # probability that the lower part of a crop is erased
ERASED = 0.4  # probability that a rectangle of a crop is erased
ERASED_SIZE = (0.0, 0.6), (0.3, 1.0)  # where its sides lie, as parts of SIDE


class SecondLook(nn.Module):
    """Crops -> embeddings and logits.

    Args:
        n_classes: number of names. activation: a name in network.ACTIVATIONS.

    `forward(crops)`: N x 3 x SIDE x SIDE, RGB, 0 to 1 (see `crop`) -> embeddings (N x EMBEDDING, of unit length),
    logits (N x n_classes).

    In use, names that several people may have (cast.SHARED_NAMES) are a little more likely than training says: an
    episode's strangers are seldom those of the training frames, and look less like them than the cast like itself.
    """

    def __init__(self, n_classes, activation='relu6'):
        super().__init__()
        channels = 32
        self.stem = nn.Sequential(ConvNorm(3, channels, 6, 4, act=activation))
        self.blocks = nn.ModuleList()
        for kernel, stride, expanded, c_out, _ in BLOCKS[:N_BLOCKS]:
            block = InvertedResidual(channels, kernel, stride, expanded, c_out, 'none', False, activation)
            self.blocks.append(block)
            channels = c_out
        self.top = ConvNorm(channels, 384, act=activation)
        self.embed = nn.Sequential(nn.Linear(384, EMBEDDING, bias=False), nn.BatchNorm1d(EMBEDDING))
        self.centres = nn.Parameter(torch.randn(n_classes, EMBEDDING) * 0.1)
        self.register_buffer('caution', torch.zeros(n_classes))

    def set_names(self, class_names):
        """Set what to add to the logits in use, see above.

        class_names: list of n_classes names; label k names class_names[k - 1].
        """
        self.caution.copy_(torch.tensor([CAUTION * (name in SHARED_NAMES) for name in class_names]))

    def forward(self, crops):
        x = self.stem((crops * 2 - 1).to(self.centres.dtype))
        for block in self.blocks:
            x = block(x)
        embeddings = F.normalize(self.embed(self.top(x).mean(dim=(2, 3))), dim=1)
        logits = F.linear(embeddings, F.normalize(self.centres, dim=1)) * SCALE
        return embeddings, logits if self.training else logits + self.caution


def crop(image, boxes):
    """Cut boxes out of a picture, squashed to squares.

    Args:
        image: 3 x H x W, float, RGB. boxes: n x 4 (x1, y1, x2, y2 in pixels of it).

    Returns:
        n x 3 x SIDE x SIDE, in the range of `image`: each box with MARGIN around it, as far as the picture reaches.
    """
    # Every pixel of the region counts: roi_align takes as many samples as it needs.
    return roi_align(image[None], [regions(boxes, *image.shape[-2:])], SIDE, aligned=True)


def regions(boxes, height, width):
    """n x 4 boxes of a picture of this size -> n x 4: what a crop shows of it."""
    around = MARGIN * (boxes[:, 2:] - boxes[:, :2])
    return clip_boxes_to_image(torch.cat([boxes[:, :2] - around, boxes[:, 2:] + around], dim=1), (height, width))


def second_look_loss(second_look, batch, targets):
    """What the second look has to learn from a batch: the names of the labelled boxes, wherever they lie.

    Args:
        second_look: a `SecondLook` in training mode.
        batch: N x 3 x H x W, normalized to -1 .. 1. targets: N dicts of `boxes` (n x 4, in pixels of the batch) and
            `labels` (n; 1 is the first name).

    Returns:
        a scalar: cross-entropy with label smoothing, the mean over all boxes. 0 where there are fewer than two (batch
        norm needs two).
    """
    crops = [crop(image, jittered(target['boxes'])) for image, target in zip(batch, targets, strict=True)]
    labels = torch.cat([target['labels'] for target in targets]) - 1
    if len(labels) < 2:
        return sum(parameter.sum() for parameter in second_look.parameters()) * 0.0
    _, logits = second_look(augmented(torch.cat(crops) / 2 + 0.5))
    return F.cross_entropy(logits.float(), labels, label_smoothing=LABEL_SMOOTHING)


def jittered(boxes):
    """Boxes (n x 4) whose sides are moved at random, as a detector's are."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + sides * (torch.randn_like(boxes) * JITTER / 2).clamp(-JITTER, JITTER)


def augmented(crops):
    """Crops (N x 3 x SIDE x SIDE, 0 to 1) as other episodes might show them: other clothes, something in front.

    The lower part of some crops, where the clothes are, gets other colours or none; of others a rectangle is erased.
    """
    n, device = len(crops), crops.device
    chance = torch.rand(n, 1, 1, 1, device=device)
    colour = torch.rand(n, 3, 1, 1, device=device)
    lower = between(n, (0.45, 0.75), (1.0, 1.0), device)[:, None, :, None]
    rectangle = between(n, *ERASED_SIZE, device)[:, None, :, None] & between(n, *ERASED_SIZE, device)[:, None, None, :]
    swapped = crops[:, torch.randperm(3, device=device)] * (0.6 + 0.8 * colour)
    crops = torch.where(lower & (chance < RECOLOURED), swapped.clamp(max=1), crops)
    erased = torch.where(chance > 1 - UNCLOTHED, lower, rectangle & (chance > 1 - UNCLOTHED - ERASED))
    return torch.where(erased, colour, crops)


def between(n, first, last, device):
    """For each of n crops the rows or columns from a random one to another: n x SIDE, bool.

    first, last: lowest and highest place of the first and of the last, as parts of SIDE. A last one below the first
    leaves none.
    """
    low, high = (torch.empty(n, 1, device=device).uniform_(*place) * SIDE for place in (first, last))
    places = torch.arange(SIDE, device=device) + 0.5
    return (places >= low) & (places <= high)
