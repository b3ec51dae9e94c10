"""torchvision's published weights, downloaded once and kept in torch.hub's folder."""

import pickle
import socket
from pathlib import Path

import torch

from konohana import files
from konohana.errors import UserError

TIMEOUT = 30  # seconds without an answer until a download gives up


def folder():
    """The folder of the files: `checkpoints` in torch.hub's folder, which the variable TORCH_HOME sets."""
    return Path(torch.hub.get_dir()) / 'checkpoints'


def state_dict(weights, progress=True):
    """The state dict of a member of one of torchvision's weight enums, such as `ResNet50_Weights.IMAGENET1K_V1`.

    It is read from the file in `folder()`, which is downloaded if it is missing (and its checksum compared).

    Raises:
        UserError: the file cannot be downloaded (the message says from where, and where to put it) or is damaged.
    """
    file = folder() / weights.url.rpartition('/')[2]
    missing = not file.is_file()
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(TIMEOUT)
        return weights.get_state_dict(progress=progress, check_hash=True, weights_only=True, map_location='cpu')
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError, RuntimeError, OSError) as error:
        reason = files.reason(error)[:150]
    finally:
        socket.setdefaulttimeout(timeout)
    if missing and not file.is_file():
        raise UserError(
            f'{file.name}: these weights are not on this computer and cannot be downloaded ({reason}). Download '
            f'{weights.url} elsewhere and put the file into {file.parent}.'
        )
    raise UserError(f'{file}: damaged ({reason}). Delete it and run again, or download it again from {weights.url}.')
