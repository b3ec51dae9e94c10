"""What an ONNX file says about its detector: written by `export`, read and checked by `runtime`."""

import importlib
import json

from konohana import checkpoint
from konohana.errors import UserError, printable

FORMAT = 'konohana.1'  # another version of this program may write another


def optional(package, why):
    """Import a package that only ONNX files need; UserError saying what to install where it is absent."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f'{why} needs the package {package}: pip install {package}') from None


def describe(model, detector, options, post_processing, parameters=None, frames=None):
    """The metadata of a file.

    Args:
        model: the detector, with `class_names` and `img_hw`.
        detector, options: what `detectors.build` made it from.
        post_processing: whether the file includes it.
        parameters: {name: nested list}, learned numbers that only the post-processing uses; for a file without it.
        frames: of a file that takes frames as bytes: dict of `weights` (SHA-256 of the weights file) and `second_look`
            (None, or a dict of `graph` (base64), `side`, `margin` and `embedding`).

    Returns:
        dict of text.
    """
    transform = model.transform
    metadata = {
        'format': FORMAT,
        'detector': detector,
        'options': options,
        'class_names': model.class_names,
        'img_hw': model.img_hw,
        'post_processing': post_processing,
        'mean': transform.image_mean,
        'std': transform.image_std,
        'size_divisible': transform.size_divisible,
    }
    if not post_processing:
        metadata['parameters'] = parameters
    if frames:
        metadata.update(frames=True, maps=model.maps, **frames)
    return {key: json.dumps(value) for key, value in metadata.items()}


def read(texts, path):
    """Check the metadata of a file.

    Args:
        texts: dict of text, as `describe` returns it. path: the file, for messages.

    Returns:
        dict of `detector`, `options`, `class_names`, `img_hw`, `post_processing` (bool), and `parameters` (dict) of a
        file without post-processing. `frames` says whether it takes frames as bytes, with `maps`, `weights` and
        `second_look` then. Whether the detector has these options and parameters is not checked here.

    Raises:
        UserError: they are missing, of another program or version, or of wrong types.
    """
    try:
        metadata = {key: json.loads(text) for key, text in texts.items()}
    except (ValueError, RecursionError):
        metadata = {}
    if not isinstance(metadata.get('format'), str):
        raise UserError(
            f'{path}: not a file of this program: its metadata do not say which detector it is. '
            'Write one from a weights file with tools/export_onnx.py.'
        )
    if metadata['format'] != FORMAT:
        raise UserError(f'{path}: another version of this program wrote it. Export it again.')
    wrong = checkpoint.wrong_description(metadata)
    if not wrong and not isinstance(metadata.get('post_processing'), bool):
        wrong = 'post_processing: neither true nor false'
    if not wrong and not metadata['post_processing'] and not isinstance(metadata.get('parameters'), dict):
        wrong = 'parameters: not a dict of numbers'
    wrong = wrong or _wrong_frames(metadata)
    if wrong:
        raise UserError(f'{path}: its metadata cannot be used: {printable(wrong)}. Export it again.')
    return metadata


def _wrong_frames(metadata):
    """What is wrong with what the metadata say of frames as bytes, '' for nothing. Adds `frames` where it lacks."""
    if metadata.setdefault('frames', False) is False:
        return ''
    maps, look = metadata.get('maps'), metadata.get('second_look')
    if not isinstance(maps, list) or not all(isinstance(name, str) for name in maps):
        return 'maps: not a list of names'
    if not isinstance(metadata.get('weights'), str):
        return 'weights: not a hash'
    kinds = {'graph': str, 'side': int, 'margin': float, 'embedding': int}
    fine = look is None or (isinstance(look, dict) and all(type(look.get(key)) is kind for key, kind in kinds.items()))
    return '' if fine and (look is None or 0 < look['side'] <= 1024) else 'second_look: not what describes one'
