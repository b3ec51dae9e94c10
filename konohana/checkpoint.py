"""Files of weights: what is in them, how they are written so that no crash loses them, how they are read safely.

A weights file is a dict: `model` (state dict), `detector` (its name), `options` (the detector's own variables),
`class_names`, `img_hw`, and what is good to know: `epoch`, `figures`. `optim.pt` is written and read the same way.
Everything that is read is checked here, so that nothing else needs to ask whether a file holds what it should.
"""

import hashlib
import io
import pickle
import zipfile
from pathlib import Path

from konohana import files
from konohana.errors import UserError, printable

OLDER_FORMAT = bytes.fromhex('80028a0a6cfc9c46f9206aa85019')  # how files of torch.save began before they were zip files
MAX_BYTES = 8 * 2**30  # no weights file is larger; the whole file is read into memory
# torch.save does not compress. A file that claims to unpack to more than this and as much as its own size is a trap.
SPARE_BYTES = 2**30
MAX_CLASSES = 10_000


def save(content, path, remember=False):
    """torch.save a dict, whole or not at all.

    Args:
        content: the dict. path: the file. remember: see `files.replacing`.

    Raises:
        UserError: it cannot be written (no space, no permission).
    """
    import torch  # where it is used: who only runs a graph needs no PyTorch

    path = Path(path)
    try:
        with files.replacing(path, remember) as temporary, temporary.open('wb') as file:
            torch.save(content, file)
    except RuntimeError as error:
        # What torch makes of a full disk.
        raise UserError(f'{path}: cannot be written ({error}). Is there space and permission?') from None


def read_bytes(path):
    """The bytes of a weights file; see `files.read_bytes`."""
    return files.read_bytes(path, MAX_BYTES, 'weights file')


def hash_of(path):
    """SHA-256 of a weights file."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def short_hash_of(path):
    """The beginning of `hash_of`, by which results know the weights that they were made with."""
    return hash_of(path)[:16]


def load(path, needed=('model', 'detector', 'class_names', 'img_hw'), foreign=False):
    """Read a file that `save` wrote, on the CPU, with weights_only=True (no code in it is run).

    Args:
        needed: keys the file must have.
        foreign: whether the file is another program's, perhaps in torch.save's format of before 2020. What is in it is
            not checked.

    Raises:
        UserError: missing, truncated, no checkpoint at all, one with code in it, not of this program, or with content
            that this program does not write: weights that are no numbers, wrong types, ...
    """
    import torch

    path = Path(path)
    data = read_bytes(path)
    older = foreign and data.startswith(OLDER_FORMAT)
    if not older and not zipfile.is_zipfile(io.BytesIO(data)):
        why = 'truncated' if data[:2] == b'PK' else 'not a PyTorch weights file'
        what_to_do = 'Name the .pt file that it is of' if path.suffix.lower() == '.onnx' else 'Copy or train it again'
        raise UserError(f'{path}: {why}. {what_to_do}.')
    try:
        if not older:
            _check_archive(data)
        content = torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
        if not foreign:
            _check_tensors(content, len(data))
    except pickle.UnpicklingError:
        hint = 'Save its weights alone.' if foreign else 'Only files that _train.py wrote are loaded.'
        raise UserError(
            f'{path}: it holds more than weights (Python objects, maybe code) and is refused. {hint}'
        ) from None
    except Exception as error:
        # A damaged file can raise anything: zipfile, zlib, lzma, struct and torch have each their own exceptions.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f'{path}: damaged ({reason}). Copy or train it again.') from None
    missing = [key for key in needed if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f'{path}: not a file of this program: it has no {", ".join(missing)}.')
    if not foreign:
        _check(content, path)
    return content


def _check_archive(data):
    """Raise ValueError for a zip file that is damaged or unpacks to far more than it is."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        declared = sum(member.file_size for member in archive.infolist())
        if declared > len(data) + SPARE_BYTES:
            raise ValueError(f'{len(data)} bytes that claim to unpack to {declared}')
        # torch.load does not compare checksums: a flipped bit would be a wrong weight.
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f'wrong checksum of {damaged}')


def _check_tensors(content, size):
    """Raise ValueError where a file of `size` bytes gives far larger tensors: few bytes can be repeated in them."""
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(content))
    if claimed > 4 * size + SPARE_BYTES:
        raise ValueError(f'{size} bytes that claim to hold {claimed}')


def _check(content, path):
    """Raise UserError naming the first key whose value is not what this program writes under it."""
    for key, value in content.items():
        wrong = _CHECKS[key](value) if key in _CHECKS else ''
        if wrong:
            raise UserError(f'{path}: its {key} cannot be used: {printable(wrong)}. Copy or train it again.')


def _tensors(value):
    """All tensors in nested dicts and lists."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _wrong_state(state):
    """What is wrong with a state dict, '' for nothing."""
    import torch

    if not isinstance(state, dict):
        return 'not a dict of tensors'
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            return f'{name!r} is not a tensor'
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            return f'{name} is not a plain tensor'
        if value.is_floating_point() and not value.isfinite().all():
            return f'{name} holds NaN or infinity'
        if name.endswith('running_var') and (value < 0).any():
            return f'{name} holds a negative variance'
    return ''


def _wrong_options(options):
    plain = (bool, int, float, str, type(None))
    if isinstance(options, dict) and all(isinstance(k, str) and isinstance(v, plain) for k, v in options.items()):
        return ''
    return 'not a dict of plain values'


def _wrong_class_names(names):
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return 'not a list of texts'
    if not 0 < len(names) <= MAX_CLASSES:
        return f'{len(names)} names, where 1 to {MAX_CLASSES} are possible'
    if len(set(names)) < len(names):
        return f'{next(name for name in names if names.count(name) > 1)!r} is duplicated'
    for name in names:
        if not name.strip() or len(name) > 1000 or printable(name) != name:
            return f'{name[:50]!r} is not a name'
    return ''


def _wrong_img_hw(img_hw):
    if isinstance(img_hw, (list, tuple)) and len(img_hw) == 2 and all(type(s) is int for s in img_hw):
        return '' if all(32 <= side <= 8192 for side in img_hw) else f'{tuple(img_hw)} is not from 32 to 8192'
    return 'not a height and a width'


def _wrong_figures(figures):
    if not isinstance(figures, dict):
        return 'not a dict of numbers'
    values = [v for value in figures.values() for v in (value.values() if isinstance(value, dict) else [value])]
    names = [k for value in (figures, *figures.values()) if isinstance(value, dict) for k in value]
    fine = all(isinstance(v, (int, float)) for v in values) and all(isinstance(k, str) for k in names)
    return '' if fine else 'not a dict of numbers'


def wrong_description(description):
    """What is wrong with a dict of `detector`, `options`, `class_names` and `img_hw`, as text; '' for nothing."""
    if not isinstance(description, dict):
        return 'not a dict'
    for key in ('detector', 'options', 'class_names', 'img_hw'):
        wrong = _CHECKS[key](description[key]) if key in description else 'missing'
        if wrong:
            return f'{key}: {wrong}'
    return ''


def _wrong_count(count):
    return '' if type(count) is int and 0 <= count < 2**53 else 'not a whole number from 0 up'


def _wrong_minutes(minutes):
    fine = isinstance(minutes, (int, float)) and 0 <= minutes < 2**53
    return '' if fine else 'not a number from 0 up'


# Key -> function that says what is wrong with its value, '' for nothing.
_CHECKS = {
    **dict.fromkeys(('model', 'ema'), _wrong_state),
    'detector': lambda name: '' if isinstance(name, str) else 'not the name of a detector',
    'options': _wrong_options,
    'class_names': _wrong_class_names,
    'img_hw': _wrong_img_hw,
    'figures': _wrong_figures,
    'description': wrong_description,
    'minutes': _wrong_minutes,
    **dict.fromkeys(('epoch', 'iteration', 'batches_done', 'ema_updates'), _wrong_count),
}


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
