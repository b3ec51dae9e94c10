"""Files of weights: what is in them, how they are written so that no crash loses them, how they are read safely.

A weights file is a dict: `model` (state dict), `detector` (its name), `options` (the detector's own variables),
`class_names`, `img_hw`, and what is good to know: `epoch`, `figures`.
"""

import contextlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import torch

from konohana.errors import UserError

OLDER_FORMAT = bytes.fromhex('80028a0a6cfc9c46f9206aa85019')  # how files of torch.save began before they were zip files


def save(content, path):
    """torch.save to a temporary name beside `path`, then rename: the file is the old one or the new one, never half.

    Raises UserError when it cannot be written (no space, no permission).
    """
    path = Path(path)
    temporary = path.with_name(path.name + '.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open('wb') as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f'{path}: cannot be written ({error}). Is there space and permission?') from None


def load(path, needed=('model', 'detector', 'class_names', 'img_hw'), foreign=False):
    """Read a file that `save` wrote, on the CPU, with weights_only=True (no code in it is run).

    Args:
        needed: keys the file must have.
        foreign: whether the file is another program's, perhaps in torch.save's format of before 2020.

    Raises:
        UserError: missing, truncated, no checkpoint at all, one with code in it, or not of this program.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f'{path}: there is no such weights file.') from None
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}).') from None
    older = foreign and data.startswith(OLDER_FORMAT)
    if not older and not zipfile.is_zipfile(io.BytesIO(data)):
        why = 'truncated' if data[:2] == b'PK' else 'not a PyTorch weights file'
        raise UserError(f'{path}: {why}. Copy or train it again.')
    try:
        if not older:
            # torch.load does not compare checksums: a flipped bit would be a wrong weight.
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                damaged = archive.testzip()
            if damaged:
                raise zipfile.BadZipFile(f'wrong checksum of {damaged}')
        content = torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
    except pickle.UnpicklingError:
        hint = 'Save its weights alone.' if foreign else 'Only files that _train.py wrote are loaded.'
        raise UserError(
            f'{path}: it holds more than weights (Python objects, maybe code) and is refused. {hint}'
        ) from None
    except (RuntimeError, EOFError, ValueError, LookupError, OSError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f'{path}: damaged ({reason}). Copy or train it again.') from None
    missing = [key for key in needed if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f'{path}: not a file of this program: it has no {", ".join(missing)}.')
    return content


def fit_weights(model, state, skip=()):
    """Load what fits of `state` (a state dict) into `model`: names and shapes must agree.

    A detector may translate the weights of its variants first (`adapt_weights`).

    Args:
        skip: names that start with one of these are left alone.

    Returns:
        sorted list of the names in the model that were left as they are.
    """
    state = model.adapt_weights(state)
    own = model.state_dict()
    fitting = {
        key: value
        for key, value in state.items()
        if key in own and own[key].shape == value.shape and not key.startswith(tuple(skip))
    }
    model.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))
