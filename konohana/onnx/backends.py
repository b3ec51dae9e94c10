"""Detectors on the CPU by faster runtimes than PyTorch: the same detections from the same weights file.

The runtime computes the network, from the frame as bytes to the maps of `raw_outputs`; the detector itself makes
detections of them. The graph is written once, as `.<weights>.<key>.onnx` beside the weights, or in the user's cache
folder where it cannot be written there. The key is a hash of the weights and of what writes the graph.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import threading
from pathlib import Path

import torch
from torchvision.transforms.v2 import functional as TF

from konohana import files
from konohana.detectors.base import Detector
from konohana.detectors.fusing import fuse_batch_norms
from konohana.detectors.konohana.naming import resized_crops
from konohana.detectors.konohana.second_look import SIDE
from konohana.errors import UserError, printable
from konohana.onnx import export, metadata, runtime

VERSION = 1  # of the graph: another number, and graphs written before are written again
NAMES = ('auto', 'torch', 'onnxruntime', 'openvino')


def check(backend):
    """UserError if there is no such backend; else its name."""
    if backend not in NAMES:
        raise UserError(f'backend={backend!r}: there is no such choice. Known: {", ".join(NAMES)}.')
    return backend


def accelerate(model, path, backend='auto'):
    """A detector whose network another runtime computes, on the CPU.

    Args:
        model: the detector, on the CPU in evaluation mode; its batch norms may be folded in place.
        path: its weights file.
        backend: 'onnxruntime' or 'openvino'; 'auto' takes the fastest that is installed and works.

    Returns:
        an `Accelerated` detector; `model` itself where it gives masks or cannot be exported, or 'auto' finds nothing
        faster. One line says so if `backend` names a runtime.

    Raises:
        UserError: the runtime that `backend` names is not installed, or does not take the graph.
    """
    wanted = [name for name in OPENERS if backend in ('auto', name) and installed(name)]
    if not wanted and backend != 'auto':
        raise UserError(
            f"backend={backend!r}: it is not installed: pip install {backend} onnx. Or take backend='auto'."
        )
    if not wanted:
        return model
    if model.wants_masks or not model.has_raw_outputs:
        _say(backend, f'{path}: this detector is computed by torch, it cannot be exported for other runtimes.')
        return model
    for name in wanted:
        try:
            return Accelerated(model, name, *_opened(model, Path(path), name))
        except UserError as error:
            if backend != 'auto':
                raise UserError(f'backend={backend!r}: {error}') from None
    return model


def installed(name):
    """Whether a runtime can be imported, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # it is known not to be there
        return False


def _say(backend, line):
    """Print a line for who has named a runtime and does not get it."""
    if backend != 'auto':
        print(line)


class Accelerated(Detector):
    """A detector whose network another runtime computes, picture by picture; the contract is the detector's own.

    Pictures may be uint8, and float ones are rounded to 8 bits: the graph takes bytes.

    Args:
        model: the detector, on the CPU. backend: the runtime's name. run: function of a uint8 tensor 1 x h x w x 3 ->
            dict of the maps of `raw_outputs`. run_look: the same of a crop -> dict of `embeddings` and `logits`, of a
        detector that takes a second look.
    """

    takes_bytes = True

    def __init__(self, model, backend, run, run_look=None):
        super().__init__()
        self.model, self.backend, self.run, self.run_look = model, backend, run, run_look
        self.looks_again = model.looks_again
        self.transform, self.maps = model.transform, model.maps
        self.class_names, self.img_hw = model.class_names, model.img_hw
        self.lock = threading.Lock()  # a runtime's request is for one thread at a time
        self.eval().requires_grad_(False)

    def backbone_parameters(self):
        return self.model.backbone_parameters()

    @torch.inference_mode()
    def forward(self, images, targets=None, with_maps=False, pictures=None):
        """List of 3 x H x W RGB, uint8 or float 0 to 1 -> list of detections."""
        if self.training:
            raise ValueError(f"{self.backend} does not train: load the weights with backend='torch'")
        pictures = images if pictures is None else pictures
        return self.named([self.detect_one(*pair, with_maps) for pair in zip(images, pictures, strict=True)])

    def detect_one(self, image, picture, with_maps=False):
        """One picture, and the same again, maybe larger -> its detections."""
        given, original, size = image, tuple(image.shape[-2:]), list(self.transform.size_of(*image.shape[-2:]))
        if size != list(original):
            image = TF.resize(image, size, antialias=True)
        frame = as_bytes(image).cpu().permute(1, 2, 0).contiguous()[None]
        with self.lock:
            outputs = self.run(frame)
        detections = self.model.detections(outputs, [tuple(size)], [original], with_maps)
        return self.model.look_again(detections, [given], [picture], self.look)[0]

    def look(self, picture, boxes):
        """The second look of the runtime, see `Konohana.look`."""
        crops = as_bytes(resized_crops(picture.cpu(), boxes)).permute(0, 2, 3, 1)
        with self.lock:
            found = [self.run_look(crop.contiguous()[None]) for crop in crops]
        return tuple(torch.cat([one[key] for one in found]) for key in ('embeddings', 'logits'))


def as_bytes(image):
    """A picture as uint8, of uint8 or float 0 to 1."""
    return image if image.dtype == torch.uint8 else (image * 255).round().clamp(0, 255).byte()


def _opened(model, path, name):
    """A runtime's functions that compute a detector's network and, if it takes one, its second look (else None)."""
    run = _from_graph(
        path, '', lambda graph: _started(name, graph, model), lambda: export.export_frames(fuse_batch_norms(model))
    )
    if not model.looks_again:
        return run, None
    return run, _from_graph(
        *(path, 'look.'),
        lambda graph: _started_look(name, graph),
        lambda: export.export_look(fuse_batch_norms(model)),
    )


def _from_graph(path, part, start, make):
    """What `start` makes of a graph: of the one that is kept, or, if there is none or it is damaged, of a new one.

    path: the weights file. part: which of its graphs, '' for the network. start: function of bytes. make: function that
    gives the graph's bytes.
    """
    kept = _kept(path, part)
    if kept:
        with contextlib.suppress(UserError):
            return start(files.read_bytes(kept))
    data = make()
    run = start(data)
    _keep(data, path, part)
    return run


def _name_of(path, part=''):
    """The name of a graph of a weights file."""
    made_by = f'{VERSION} {torch.__version__}'.encode()
    return f'.{path.stem}.{part}{hashlib.sha256(made_by + files.read_bytes(path)).hexdigest()[:16]}.onnx'


def _folders(path):
    """Folders in which the graphs of a weights file may be, the preferred one first."""
    cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return path.parent, Path(cache).expanduser() / 'konohana'


def _kept(path, part=''):
    """A graph of a weights file that was written before, or None."""
    candidates = (folder / _name_of(path, part) for folder in _folders(path))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _keep(data, path, part=''):
    """Write a graph of a weights file where it can be written; without such a place it is made again next time."""
    beside, cache = _folders(path)
    name = _name_of(path, part)
    try:
        files.write_bytes(beside / name, data)
    except UserError:
        with contextlib.suppress(UserError):
            files.write_bytes(cache / name, data)
        return
    # Those of weights that were here before.
    for old in beside.iterdir():
        if old.name != name and re.fullmatch(re.escape(f'.{path.stem}.{part}') + r'[0-9a-f]{16}\.onnx', old.name):
            with contextlib.suppress(OSError):
                old.unlink()


def _onnxruntime(graph, usual):
    """onnxruntime's function of a graph: uint8 1 x h x w x 3 -> dict of its outputs, all tensors."""
    return runtime.Session(graph, 'the exported network', 'cpu').run


@functools.cache
def _core(openvino):
    """OpenVINO's core, one for the process and never let go.

    Its CPU plug-in gives the thread that loads it a stack for signal handlers and frees it with the last core, in
    whatever thread that happens: then the next signal, a Ctrl-C say, ends the process by a segmentation fault.
    """
    return openvino.Core()


def _openvino(graph, usual):
    """OpenVINO's function of a graph, see `_onnxruntime`. usual: (height, width) of most frames."""
    openvino = metadata.optional('openvino', "backend='openvino'")
    config = {
        'INFERENCE_PRECISION_HINT': 'f32',  # bfloat16 is slower where there are no AMX units, and less exact
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
        'PERFORMANCE_HINT': 'LATENCY',
        'ENABLE_CPU_PINNING': False,  # other programs have a right to the cores
    }
    requests = {}

    def request_for(size):
        if size not in requests:
            core = _core(openvino)
            network = core.read_model(graph)
            network.reshape([1, *(size or (-1, -1)), 3])
            requests[size] = core.compile_model(network, 'CPU', config).create_infer_request()
        return requests[size]

    def run(frame):
        # Of a known size it is a tenth faster; one that takes any size serves all the others.
        request = request_for(usual if frame.shape[1:3] == usual else None)
        request.infer([frame.numpy()], share_inputs=True)
        outputs = request.model_outputs
        return {output.get_any_name(): torch.tensor(request.get_tensor(output).data) for output in outputs}

    return run


def _started(name, graph, model):
    """A runtime's function of a detector's graph, after the first frame; UserError if it cannot, or the maps differ."""
    size = tuple(model.transform.size_of(*model.img_hw))
    with _first_run():
        run = OPENERS[name](graph, size)
        outputs = run(torch.zeros(1, *size, 3, dtype=torch.uint8))
        model.detections(outputs, [size], [size])
        _check_finite(outputs)
    return run


def _started_look(name, graph):
    """A runtime's function of the graph of a second look; see `_started`."""
    with _first_run():
        run = OPENERS[name](graph, (SIDE, SIDE))
        outputs = run(torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8))
        _check_finite({key: outputs[key] for key in ('embeddings', 'logits')})
    return run


@contextlib.contextmanager
def _first_run():
    """What goes wrong in the block as a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Each runtime has exceptions of its own.
        reason = printable(' '.join(str(error).split())[:150])
        raise UserError(f'the exported network cannot be computed ({reason}).') from None


def _check_finite(outputs):
    if not all(values.isfinite().all() for values in outputs.values()):
        raise UserError('the exported network gives NaN or infinity.')


OPENERS = {'openvino': _openvino, 'onnxruntime': _onnxruntime}  # the fastest first, see docs/speed.md
