"""From a weights file to a detector ready for use."""

import copy
from collections import Counter
from pathlib import Path

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from konohana import checkpoint, onnx_file
from konohana.detectors import build
from konohana.settings import UserError


def pick_device(device=''):
    """'cuda', 'cuda:1', 'mps', 'cpu' -> torch.device; '' takes the fastest there is. UserError if it is not there."""
    if not device:
        if torch.cuda.is_available():
            device = 'cuda'
        else:
            device = 'mps' if torch.backends.mps.is_available() else 'cpu'
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device={device!r} is not there. Use 'cpu', or '' for the fastest there is.") from None
    return chosen


def default_weights(root, use_res2block=False):
    """The weights to use when none are named: what the user trained (`net.pt` in `root`), else the shipped ones."""
    name = weights_name(use_res2block)
    trained = Path(root) / name
    return trained if trained.is_file() else Path(root) / 'weights' / name


def weights_name(use_res2block):
    """The name of the weights file, as people know it."""
    return 'net_det3.pt' if use_res2block else 'net.pt'


def load(path, device='', fuse=True):
    """Load a detector for use.

    Args:
        path: a weights file of `_train.py`, or a shipped one; or an .onnx file of `tools/export_onnx.py`, which
            onnxruntime computes (see `onnx_file.load`).
        device: 'cpu', 'cuda', 'mps', or '' for the fastest there is.
        fuse: fold batch norms into convolutions (faster, the same results within rounding).

    Returns:
        the detector in evaluation mode, under torchvision's contract: `model([image, ...])` with float tensors
        3 x H x W, RGB, 0 to 1, of any size -> list of dicts of `boxes` (n x 4; x1, y1, x2, y2 in pixels of that image),
        `labels` (n; k names `model.class_names[k - 1]`) and `scores` (n, 0 to 1, descending). Also
        `model.class_names` and `model.img_hw`.

    Raises:
        UserError: see `checkpoint.load`; weights that do not fit their detector; no such device.
    """
    if Path(path).suffix.lower() == '.onnx':
        return onnx_file.load(path, device)
    device = pick_device(device)
    content = checkpoint.load(path)
    model = from_checkpoint(content, path).eval()
    if fuse:
        fuse_batch_norms(model)
    layout = torch.channels_last if getattr(model, 'channels_last', False) else torch.contiguous_format
    return model.to(device, memory_format=layout).requires_grad_(False)


def from_checkpoint(content, path):
    """Build the detector a checkpoint describes and load its weights; UserError naming `path` where they do not fit."""
    try:
        img_hw = tuple(int(side) for side in content['img_hw'])
        class_names = [str(name) for name in content['class_names']]
        model = build(content['detector'], len(class_names), img_hw, **content.get('options', {}))
        model.load_state_dict(content['model'])
    except UserError as error:
        raise UserError(f'{path}: {error}') from None
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(f'{path}: its weights do not fit its detector ({reason[:200]}).') from None
    model.class_names, model.img_hw = class_names, img_hw
    return model


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
