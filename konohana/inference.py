"""From a weights file to a detector ready for use."""

from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from konohana import checkpoint
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
        path: a weights file of `_train.py`, or a shipped one.
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
    device = pick_device(device)
    content = checkpoint.load(path)
    model = from_checkpoint(content, path).eval()
    if fuse:
        fuse_batch_norms(model)
    return model.to(device, memory_format=torch.channels_last).requires_grad_(False)


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


def fuse_batch_norms(model):
    """Fold every batch norm that follows a convolution in an `nn.Sequential` into it, in place (evaluation only)."""
    for module in model.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for name, following in zip(list(module._modules)[:-1], list(module._modules)[1:], strict=True):
            conv, norm = module._modules[name], module._modules[following]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module._modules[name] = fuse_conv_bn_eval(conv, norm)
                module._modules[following] = nn.Identity()
    return model
