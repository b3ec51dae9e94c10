"""Detectors on the CPU by faster runtimes than PyTorch: the same detections from the same weights file.

The runtime computes a graph that goes from the frame as bytes to the detections. It knows the hash of the weights that
it was made of, so it is used for these alone:

- `net.onnx`, which tools/quantize.py writes beside `net.pt` and which the shipped weights have; in 8-bit integers;
- else `.net.<key>.onnx`, which is written once beside the weights, or in the user's cache folder where it cannot be
  written there.

Where there is such a graph, PyTorch is not even imported.
"""

import base64
import contextlib
import hashlib
import re
from pathlib import Path

import numpy as np

from konohana import files
from konohana.checkpoint import hash_of
from konohana.data.images import fit_size
from konohana.errors import UserError, installed
from konohana.onnx import metadata
from konohana.onnx.graph_detector import MOST_CROPS, GraphDetector, check_contract
from konohana.onnx.sessions import RUNTIMES, first_run

SHIPPED = files.shipped_folder()
VERSION = 4  # of the graph: another number, and graphs written before are written again
NAMES = ('auto', 'torch', *reversed(RUNTIMES))


def check(backend, variable='backend'):
    """UserError if there is no such backend, naming the variable that it stands in; else its name."""
    if backend not in NAMES:
        raise UserError(f'{variable}={backend!r}: there is no such choice. Known: {", ".join(NAMES)}.')
    return backend


def runtimes(backend='auto'):
    """Names of the installed runtimes that `backend` means, the fastest first.

    Raises:
        UserError: the runtime that it names is not installed.
    """
    names = [name for name in RUNTIMES if backend in ('auto', name) and installed(name)]
    if not names and backend != 'auto':
        raise UserError(
            f"backend={backend!r}: it is not installed: pip install {backend} onnx. Or take backend='auto'."
        )
    return names


def at_hand(path, backend='auto'):
    """The detector of a weights file, from a graph that is there already.

    Args:
        path: the weights file. backend: 'onnxruntime' or 'openvino'; 'auto' takes the fastest that is installed.

    Returns:
        a `GraphDetector`, or None without a graph that works.

    Raises:
        UserError: there is no such weights file; or the runtime that `backend` names is not installed.
    """
    names, weights = runtimes(backend), hash_of(path)
    graphs = list(_graphs(Path(path), weights))
    for name in names:
        for graph in graphs:
            with contextlib.suppress(UserError):
                return started(name, files.read_bytes(graph), graph, weights)
    return None


def accelerate(model, content, path, backend='auto'):
    """A detector that another runtime computes, on the CPU. Its graph is made and kept.

    Args:
        model: the detector, on the CPU in evaluation mode; its batch norms may be folded in place.
        content: of its weights file, see `checkpoint.load`. path, backend: see `at_hand`.

    Returns:
        a `GraphDetector`; None where the detector gives masks or cannot be exported, or 'auto' finds nothing faster.
        One line says so if `backend` names a runtime.

    Raises:
        UserError: the runtime that `backend` names is not installed, or does not take the graph.
    """
    from konohana.detectors.fusing import fuse_batch_norms
    from konohana.onnx import export

    path, names, data = Path(path), runtimes(backend), None
    if names and (model.wants_masks or not model.has_raw_outputs):
        if backend != 'auto':
            print(f'backend={backend!r}: {path}: this detector is computed by torch, it cannot be exported for others.')
        return None
    weights = hash_of(path) if names else ''
    for name in names:
        try:
            data = data or export.export_frames(fuse_batch_norms(model), content, weights)
            fast = started(name, data, 'the exported network', weights)
        except UserError as error:
            if backend != 'auto':
                raise UserError(f'backend={backend!r}: {error}') from None
        else:
            _keep(data, path, weights)
            return fast
    return None


def started(name, data, path, weights=None):
    """The detector of a graph, after its first frame.

    Args:
        name: the runtime. data: the graph's bytes. path: the graph, for messages.
        weights: the hash of the weights that it has to be made of, or None for any.

    Raises:
        UserError: it cannot be run, is of other weights, or does not keep the contract.
    """
    session = RUNTIMES[name](data, path)
    about = metadata.read(session.metadata, path)
    if not about['frames'] or (weights and about['weights'] != weights):
        raise UserError(f'{path}: it is the graph of other weights.')
    return of_session(session, about)


def of_session(session, about):
    """The detector of a graph that is open: what `started` does once its metadata are read."""
    height, width = fit_size(*about['img_hw'], about['img_hw'])
    with first_run(session):
        session.usual = {(1, height, width, 3)}
        look = _look_of(session, about['second_look']) if about['second_look'] else None
        model = GraphDetector(session, about, look)
        with first_run(look) if look else contextlib.nullcontext():
            model.try_look()
            (found,) = model.detect([np.zeros((height, width, 3), np.uint8)], with_maps=True)
        check_contract(found, model.class_names, (height, width))
        if not all(np.isfinite(found[key]).all() for key in (*found, *model.maps)):
            raise UserError(f'{session.path}: its network gives NaN or infinity. Export or copy it again.')
    return model


def _look_of(session, how):
    """The graph of a second look in the metadata of another, which is open."""
    look, side = type(session)(base64.b64decode(how['graph']), session.path), how['side']
    look.usual = {(n, side, side, 3) for n in range(1, MOST_CROPS + 1)}
    return look


def _graphs(path, weights):
    """The graphs of a weights file that are there: those beside it and the shipped ones, then one that was kept.

    weights: its hash.
    """
    shipped = (SHIPPED / name for name in ('net.onnx', 'net_det3.onnx'))
    for graph in (path.with_suffix('.onnx'), *shipped):
        # The metadata name the weights: seen here without opening a graph of others.
        if graph.is_file() and weights.encode() in files.read_bytes(graph):
            yield graph
    for folder in _folders(path):
        if (folder / _name_of(path, weights)).is_file():
            yield folder / _name_of(path, weights)


def _name_of(path, weights):
    """The name under which the graph of a weights file, whose hash is `weights`, is kept."""
    return f'.{path.stem}.{hashlib.sha256(f"{VERSION} {weights}".encode()).hexdigest()[:16]}.onnx'


def _folders(path):
    """Folders in which the graph of a weights file may be kept, the preferred one first."""
    return path.parent, files.cache_folder()


def _keep(data, path, weights):
    """Write the graph of a weights file where it can be written; without such a place it is made again next time."""
    beside, cache = _folders(path)
    name = _name_of(path, weights)
    try:
        files.write_bytes(beside / name, data)
    except UserError:
        with contextlib.suppress(UserError):
            files.write_bytes(cache / name, data)
        return
    # Those of weights that were here before.
    for old in beside.iterdir():
        if old.name != name and re.fullmatch(re.escape(f'.{path.stem}.') + r'(look\.)?[0-9a-f]{16}\.onnx', old.name):
            with contextlib.suppress(OSError):
                old.unlink()
