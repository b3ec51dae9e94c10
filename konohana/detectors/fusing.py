"""Batch norms folded into the convolutions before them, for a quicker network."""

import copy
from collections import Counter

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d


class _Tracer(fx.Tracer):
    """Writes down in which order a module calls its parts; convolutions and batch norms are not looked into."""

    def is_leaf_module(self, module, name):
        return isinstance(module, (nn.Conv2d, *NORMS)) or super().is_leaf_module(module, name)


NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


def fuse_batch_norms(model):
    """Fold batch norms into the convolutions before them, in place; for evaluation only, where results stay the same.

    Which convolution is before which batch norm is read from what the modules compute (torch.fx), not from their names
    or order: a pair is fused where nothing else uses the convolution's output. Modules that torch.fx cannot trace are
    taken part by part.

    Returns:
        the model.
    """
    # A module that stands at two places could be followed by two batch norms.
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    _fuse(model, uses)
    return model


def _fuse(module, uses):
    if not any(isinstance(part, NORMS) for part in module.modules()):
        return
    try:
        # A copy, because fx's stand-ins may be kept by a module that caches what it has computed.
        graph = _Tracer().trace(copy.deepcopy(module))
    except Exception:
        # Whatever a module's Python code raises when it is given stand-ins: its parts may still be traced.
        for part in module.children():
            _fuse(part, uses)
        return
    parts = dict(module.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == 'call_module')
    for node in graph.nodes:
        if node.op != 'call_module' or not isinstance(parts[node.target], NORMS):
            continue
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != 'call_module' or len(before.users) > 1:
            continue
        conv, norm = parts[before.target], parts[node.target]
        # Exactly nn.Conv2d: a subclass may compute its kernels from its weights.
        if type(conv) is not nn.Conv2d or getattr(norm, 'running_mean', None) is None:
            continue
        if any(calls[n.target] > 1 or uses[id(parts[n.target])] > 1 for n in (before, node)):
            continue
        if type(norm) in NORMS:
            rest = nn.Identity()
        elif hasattr(norm, 'drop') and hasattr(norm, 'act'):
            rest = nn.Sequential(norm.drop, norm.act)  # timm's BatchNormAct2d
        else:
            continue
        _replace(module, before.target, _fused(conv, norm))
        _replace(module, node.target, rest)


def _fused(conv, norm):
    """A convolution that does what `conv` and then the batch norm `norm` do."""
    fused = copy.deepcopy(conv)
    fused.weight, fused.bias = fuse_conv_bn_weights(
        *(conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    )
    return fused


def _replace(module, path, new):
    parent, _, name = path.rpartition('.')
    setattr(module.get_submodule(parent), name, new)
