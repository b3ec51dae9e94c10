"""Half precision in training: float16 on CUDA, bfloat16 on CPUs that have matrix units for it (Intel's AMX)."""

import torch
from torch import nn
from torch.ops import aten


def half_type(device):
    """torch.device -> the dtype of half precision in training, None for float32 only."""
    if device.type == 'cuda':
        return torch.float16
    # bfloat16 was not measured on CPUs without matrix units. (PyTorch has no public function to tell them apart.)
    has_amx = getattr(torch.cpu, '_is_amx_tile_supported', lambda: False)
    return torch.bfloat16 if device.type == 'cpu' and has_amx() else None


def autocast(device, enabled=True):
    """The context in which to compute losses. enabled: False for single precision."""
    half = half_type(device) if enabled else None
    return torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None)


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution in bfloat16 that computes in float32 those gradients that are slow in bfloat16 in oneDNN.

    On the CPU a depthwise kernel's gradient took some nine times as long in bfloat16 as in float32, and the input's was
    slow where the stride is not 1: together more than half of the flagship's training step.
    """

    @staticmethod
    def forward(ctx, x, weight, stride, padding, dilation, groups):
        ctx.save_for_backward(x, weight)
        ctx.how = (None, stride, padding, dilation, False, (0, 0), groups)
        return aten.convolution(x, weight.to(x.dtype), *ctx.how)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        quick = set(ctx.how[1]) == {1}
        of_x, of_weight, _ = aten.convolution_backward(
            gradient.float(), x.float(), weight.float(), *ctx.how, (not quick, True, False)
        )
        if quick:
            of_x = aten.convolution_backward(gradient, x, weight.to(x.dtype), *ctx.how, (True, False, False))[0]
        return of_x.to(x.dtype), of_weight.to(weight.dtype), None, None, None, None


class DepthwiseConv2d(nn.Conv2d):
    """nn.Conv2d for one kernel a channel, see `_Depthwise`; in float32 it is nn.Conv2d."""

    def _conv_forward(self, x, weight, bias):
        if x.dtype != torch.bfloat16 or x.device.type != 'cpu' or not torch.is_grad_enabled():
            return super()._conv_forward(x, weight, bias)
        return _Depthwise.apply(x, weight, self.stride, self.padding, self.dilation, self.groups)


def quicken_depthwise(model):
    """Make depthwise convolutions of `model` fast to train in bfloat16 on a CPU, in place; weights do not change."""
    for layer in model.modules():
        plain = type(layer) is nn.Conv2d and layer.bias is None and layer.padding_mode == 'zeros'
        if plain and layer.groups == layer.in_channels > 1 and not isinstance(layer.padding, str):
            layer.__class__ = DepthwiseConv2d
