"""Published weights that torchvision names, fetched once and kept in torch.hub's folder."""

import pickle
import socket
from pathlib import Path

import torch

from konohana.errors import UserError

TIMEOUT = 30  # seconds without an answer after which the network counts as absent


def folder():
    """The folder where the files are kept, torch.hub's `checkpoints` (see TORCH_HOME in torch.hub's manual)."""
    return Path(torch.hub.get_dir()) / 'checkpoints'


def state_dict(weights, progress=True):
    """The state dict of a member of one of torchvision's weight enums, such as `ResNet50_Weights.IMAGENET1K_V1`.

    It is read from the file in `folder()`, fetched there first if it is missing (its checksum is compared then).

    Raises:
        UserError: no network and no file (which one, from where, and where to put it), or a damaged file.
    """
    file = folder() / weights.url.rpartition('/')[2]
    fetched = not file.is_file()
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(TIMEOUT)
        return weights.get_state_dict(progress=progress, check_hash=True, weights_only=True, map_location='cpu')
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError, RuntimeError, OSError) as error:
        reason = ' '.join(str(error).split())[:150] or type(error).__name__
    finally:
        socket.setdefaulttimeout(timeout)
    if fetched and not file.is_file():
        raise UserError(
            f'{file.name}: these weights are not here and cannot be fetched ({reason}). Fetch {weights.url} where '
            f'there is a network, and put the file into {file.parent}.'
        )
    raise UserError(f'{file}: damaged ({reason}). Delete it and run again, or fetch it anew from {weights.url}.')
