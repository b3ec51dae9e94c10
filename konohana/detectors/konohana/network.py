"""The flagship's network: small, with a single output map of stride 8 that finds and names characters.

Blocks are MobileNetV3's inverted residuals (Howard et al. 2019, https://arxiv.org/abs/1905.02244). At strides 2 and 4
memory traffic costs the time, so one dense convolution goes to stride 4 at once and most layers come after it.
Predictions are FCOS's (Tian et al. 2019, https://arxiv.org/abs/1904.01355), per cell of the output map:

    objectness   is a character here, whoever it is
    quality      how well the box fits (IoU; instead of FCOS's centerness)
    distances    from the cell's anchor point to the box's left, top, right and bottom sides
    names        who it is, if there is a character

Finding (the first three) and naming have a tower each. The blocks are EfficientNet-Lite0's, so that training can start
from its ImageNet weights (see `lite0.py`).

To change the network, change the tables. To see it, run `python tools/draw_network.py`.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops.misc import SqueezeExcitation

# The stem: one dense convolution from the frame to stride 4.   kernel, stride, channels
STEM = ((6, 4, 32),)

# Inverted residuals.   kernel, stride, expanded channels, channels, attention (squeeze-and-excitation, if not chosen)
BLOCKS = (
    (3, 1, 32, 16, False),  # stride 4; nothing is expanded here
    (3, 2, 96, 24, False),  # stride 8
    (3, 1, 144, 24, False),
    (5, 2, 144, 40, False),  # stride 16
    (5, 1, 240, 40, False),
    (3, 2, 240, 80, False),  # stride 32
    (3, 1, 480, 80, False),
    (3, 1, 480, 80, False),
    (5, 1, 480, 112, False),
    (5, 1, 672, 112, False),
    (5, 1, 672, 112, False),
    (5, 2, 672, 192, False),  # stride 64
    (5, 1, 1152, 192, False),
    (5, 1, 1152, 192, False),
    (5, 1, 1152, 192, True),
)
FEATURES = (2, 4, 10, 14)  # blocks whose outputs are fused: strides 8, 16, 32, 64

NECK_CHANNELS = 96
TOWER_DEPTH = 2  # depthwise-separable 5x5 convolutions in each of the two towers
LARGE_NECK_CHANNELS = 160  # the same of the large network, whose backbone is no other
LARGE_TOWER_DEPTH = 4
STRIDE = 8  # of the output map


class AconC(nn.Module):
    """ACON-C (Ma et al. 2021, Activate or Not, 2009.04759): (p1 - p2) x * sigmoid(beta (p1 - p2) x) + p2 x.

    p1, p2 and beta are learned for each channel: from a line (beta = 0) to a maximum of two lines. It starts as SiLU,
    so weights of a network with another smooth activation are a useful start. N x c x H x W -> the same shape.
    """

    def __init__(self, channels):
        super().__init__()
        # Vectors, so that the optimizer does not let them decay.
        self.p1 = nn.Parameter(torch.ones(channels))
        self.p2 = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        p1, p2, beta = (p[:, None, None] for p in (self.p1, self.p2, self.beta))
        bent = (p1 - p2) * x
        return bent * (beta * bent).sigmoid() + p2 * x


# By the name of the variable `activation`: function of the number of channels.
ACTIVATIONS = {
    'relu6': lambda channels: nn.ReLU6(inplace=True),
    'hardswish': lambda channels: nn.Hardswish(inplace=True),
    'relu': lambda channels: nn.ReLU(inplace=True),
    'silu': lambda channels: nn.SiLU(inplace=True),
    'mish': lambda channels: nn.Mish(inplace=True),
    'gelu': lambda channels: nn.GELU(),
    'acon': AconC,
}


class CoordinateAttention(nn.Module):
    """Coordinate attention (Hou et al. 2021, 2103.02907): which channels count in which rows and in which columns.

    The means of all rows and of all columns go through one narrow 1x1 convolution; from it come a gate for each channel
    and row and one for each channel and column. N x c x H x W -> the same shape.
    """

    def __init__(self, channels, squeezed):
        super().__init__()
        self.conv = ConvNorm(channels, squeezed, act='hardswish')
        self.rows, self.columns = nn.Conv2d(squeezed, channels, 1), nn.Conv2d(squeezed, channels, 1)
        for layer in (self.rows, self.columns):
            # The gates start nearly open, so the block starts as one without them.
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, 3.0)

    def forward(self, x):
        height, width = x.shape[2:]
        rows, columns = x.mean(dim=3, keepdim=True), x.mean(dim=2, keepdim=True).transpose(2, 3)
        rows, columns = self.conv(torch.cat([rows, columns], dim=2)).split([height, width], dim=2)
        return x * self.rows(rows).sigmoid() * self.columns(columns.transpose(2, 3)).sigmoid()


def squeeze_and_excitation(channels, squeezed):
    """torchvision's layer (Hu et al. 2018, 1709.01507) with a gate that starts open: hardsigmoid(3) = 1."""
    layer = SqueezeExcitation(channels, squeezed, scale_activation=nn.Hardsigmoid)
    nn.init.zeros_(layer.fc2.weight)
    nn.init.constant_(layer.fc2.bias, 3.0)
    return layer


# By the name of the variable `attention`: function of the numbers of channels, outside and inside.
ATTENTIONS = {
    'se': squeeze_and_excitation,
    'coordinate': CoordinateAttention,
    'none': lambda channels, squeezed: nn.Identity(),
}


class ConvNorm(nn.Sequential):
    """Convolution and batch norm, N x c_in x H x W -> N x c_out x H/stride x W/stride, then maybe the activation.

    act: a name in ACTIVATIONS, None for no activation.
    """

    def __init__(self, c_in, c_out, kernel=1, stride=1, groups=1, act=None):
        layers = [
            nn.Conv2d(c_in, c_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(c_out, eps=1e-3),
        ]
        super().__init__(*layers, *([ACTIVATIONS[act](c_out)] if act else []))


class Res2Depthwise(nn.Module):
    """Res2Net's hierarchical split instead of a depthwise convolution (Gao et al. 2019, 1904.01169).

    The channels are split into four groups. The first passes unchanged; each further group is convolved after the
    result of the previous one is added to it, so groups have growing receptive fields. N x c x H x W -> the same shape.
    """

    GROUPS = 4

    def __init__(self, channels, kernel, act):
        super().__init__()
        width = channels // self.GROUPS
        self.convs = nn.ModuleList(
            ConvNorm(width, width, kernel, groups=width, act=act) for _ in range(self.GROUPS - 1)
        )

    def forward(self, x):
        first, *rest = x.chunk(self.GROUPS, dim=1)
        outputs = [first]
        for i, (conv, group) in enumerate(zip(self.convs, rest, strict=True)):
            outputs.append(conv(group if i == 0 else group + outputs[-1]))
        return torch.cat(outputs, dim=1)


class InvertedResidual(nn.Module):
    """MobileNetV3's block: 1x1 expansion, depthwise convolution, attention, linear 1x1 projection.

    N x c_in x H x W -> N x c_out x H/stride x W/stride; with a residual connection where the shapes agree.
    """

    def __init__(self, c_in, kernel, stride, expanded, c_out, attention, use_res2block, act):
        super().__init__()
        self.residual = stride == 1 and c_in == c_out
        self.expand = nn.Identity() if expanded == c_in else ConvNorm(c_in, expanded, act=act)
        if use_res2block and stride == 1:
            self.depthwise = Res2Depthwise(expanded, kernel, act)
        else:
            self.depthwise = ConvNorm(expanded, expanded, kernel, stride, groups=expanded, act=act)
        self.squeeze = ATTENTIONS[attention](expanded, expanded // 16)
        self.project = ConvNorm(expanded, c_out)

    def forward(self, x):
        y = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class Separable(nn.Sequential):
    """Depthwise 5x5 and pointwise convolution, N x c x H x W -> the same shape."""

    def __init__(self, channels, act):
        super().__init__(
            ConvNorm(channels, channels, 5, groups=channels),
            ConvNorm(channels, channels, act=act),
        )


class Backbone(nn.Module):
    """Stem and inverted residuals; N x 3 x H x W -> list of feature maps of strides 8, 16, 32 and 64."""

    def __init__(self, use_res2block=False, attention='se', activation='relu6'):
        super().__init__()
        channels, stem = 3, []
        for kernel, stride, c_out in STEM:
            stem.append(ConvNorm(channels, c_out, kernel, stride, act=activation))
            channels = c_out
        self.stem = nn.Sequential(*stem)
        self.blocks = nn.ModuleList()
        for kernel, stride, expanded, c_out, attentive in BLOCKS:
            chosen = attention if attentive else 'none'
            self.blocks.append(
                InvertedResidual(channels, kernel, stride, expanded, c_out, chosen, use_res2block, activation)
            )
            channels = c_out

    def forward(self, x):
        x = self.stem(x)
        features = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in FEATURES:
                features.append(x)
        return features


class Neck(nn.Module):
    """Feature pyramid's top-down half (Lin et al. 2017, 1612.03144), kept to one output.

    List of feature maps, finest first -> one map of `channels` at the finest size.
    """

    def __init__(self, channels, activation='relu6'):
        super().__init__()
        self.laterals = nn.ModuleList(ConvNorm(BLOCKS[i][3], channels) for i in FEATURES)
        self.smooths = nn.ModuleList(Separable(channels, activation) for _ in FEATURES)

    def forward(self, features):
        fused = None
        for feature, lateral, smooth in zip(features[::-1], self.laterals[::-1], self.smooths[::-1], strict=True):
            x = lateral(feature)
            if fused is not None:
                # Doubling and cutting keeps cell i of the coarse map over cells 2i and 2i + 1, at odd sizes too.
                up = F.interpolate(fused, scale_factor=2.0, mode='nearest')
                x = x + up[:, :, : x.shape[2], : x.shape[3]]
            fused = smooth(x)
        return fused


def make_tower(channels, depth, activation='relu6'):
    """A tower of the head, N x channels x H x W -> the same shape."""
    return nn.Sequential(*(Separable(channels, activation) for _ in range(depth)))


def size_of(large):
    """(channels of neck and head, convolutions in each tower) of the default network or of the large one."""
    return (LARGE_NECK_CHANNELS, LARGE_TOWER_DEPTH) if large else (NECK_CHANNELS, TOWER_DEPTH)
