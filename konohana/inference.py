"""From a weights file to a detector ready for use."""

import ctypes
import os
import sys
from pathlib import Path

from konohana import checkpoint, files
from konohana.detectors import build
from konohana.errors import UserError, installed
from konohana.onnx import backends, runtime


def pick_device(device=''):
    """The torch.device of a name.

    Args:
        device: 'cuda', 'cuda:1', 'mps', 'cpu', ...; '' takes the fastest there is.

    Raises:
        UserError: there is no such device, or PyTorch cannot use it.
    """
    import torch  # where it is used: who only runs a graph needs no PyTorch

    if not device:
        if torch.cuda.is_available():
            device = 'cuda'
        else:
            device = 'mps' if torch.backends.mps.is_available() else 'cpu'
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # 'meta' has tensors, but without values
    except Exception as error:
        # Each kind of device has its own exceptions, down to ImportError.
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150].rstrip('.')
        raise UserError(
            f"device={device!r}: it cannot be used here ({reason}). Use 'cpu', or '' for the fastest there is."
        ) from None
    return chosen


def default_weights(root=None, use_res2block=False):
    """The weights to use when none are named.

    Args:
        root: a folder. The weights are those you trained there (`root/net.pt`), or else `root/weights/net.pt`. None
            gives the shipped weights.
        use_res2block: the weights with Res2Net's blocks, `net_det3.pt`, instead of `net.pt`.

    Returns:
        the path of the weights file.
    """
    name = weights_name(use_res2block)
    if root is None:
        return files.shipped_folder() / name
    trained = Path(root) / name
    return trained if trained.is_file() else Path(root) / 'weights' / name


def weights_name(use_res2block):
    """The name of the weights file, as people know it."""
    return 'net_det3.pt' if use_res2block else 'net.pt'


def load(path=None, device='', fuse=True, backend='auto'):
    """Load a detector for use.

    Args:
        path: a weights file of `_train.py`, or an .onnx file of `tools/export_onnx.py` (see `runtime.load`). None loads
            the shipped weights.
        device: 'cpu', 'cuda', 'mps', or '' for the fastest there is.
        fuse: fold batch norms into convolutions (faster, the same results within rounding). False is for torch alone.
        backend: what computes the network on a CPU: 'openvino', 'onnxruntime' or 'torch'. 'auto' takes the fastest that
            is installed; it is torch on a GPU, and for what only torch can (masks, torchvision's detectors). A runtime
            needs the detector as an ONNX graph, which is made once: see `onnx.backends`. With it PyTorch is not even
            imported. The environment variable KONOHANA_BACKEND says what to take instead of 'auto'.

    Returns:
        the detector in evaluation mode, under torchvision's contract: `model([image, ...])` with float tensors
        3 x H x W, RGB, 0 to 1, of any size -> list of dicts of `boxes` (n x 4; x1, y1, x2, y2 in pixels of that image),
        `labels` (n; k names `model.class_names[k - 1]`) and `scores` (n, 0 to 1, descending).
        `model.detect([frame, ...])` does the same with uint8 arrays H x W x 3 and gives arrays, without PyTorch where
        another runtime computes. Also `model.class_names`, `model.img_hw` and `model.backend`.

    Raises:
        UserError: see `checkpoint.load`; weights that do not fit their detector; no such device.
    """
    path = default_weights() if path is None else path
    model = _loaded(path, device, fuse, backend)
    model.weights_path = Path(path)
    return model


def _loaded(path, device, fuse, backend):
    """What `load` returns, of a path that is known."""
    backends.check(backend)
    if Path(path).suffix.lower() == '.onnx':
        if backend == 'torch':
            print(f'backend={backend!r}: {path} is an ONNX file, so another runtime computes it.')
        return runtime.load(path, device, backend)
    if backend == 'auto':
        backend = backends.check(os.environ.get('KONOHANA_BACKEND', 'auto'), 'KONOHANA_BACKEND')
    named, by_graph = backend not in ('auto', 'torch'), fuse and backend != 'torch'
    device = str(device)
    if not device and (named or not _has_gpu()):
        device = 'cpu'
    if device != 'cpu':
        _need_torch(path)
        device = str(pick_device(device))
    if device == 'cpu' and by_graph and (fast := backends.at_hand(path, backend)):
        return fast
    _need_torch(path)
    content = checkpoint.load(path)
    model = from_checkpoint(content, path).eval()
    if device == 'cpu' and by_graph and (fast := backends.accelerate(model, content, path, backend)):
        return fast
    if device != 'cpu' and named:
        print(f'backend={backend!r}: it computes on the CPU alone; torch does it on {device}.')
    return on_device(model, pick_device(device), fuse)


def on_device(model, device, fuse=True):
    """A detector ready for use by torch on a device; see `load`."""
    import torch

    from konohana.detectors.fusing import fuse_batch_norms

    if fuse:
        fuse_batch_norms(model)
    layout = torch.channels_last if model.channels_last else torch.contiguous_format
    return model.to(device, memory_format=layout).requires_grad_(False)


def _need_torch(path):
    """UserError where PyTorch is not installed."""
    if not installed('torch'):
        raise UserError(
            f'{path}: without PyTorch only weights with a graph beside them, such as the shipped ones, are used, on '
            'the CPU by OpenVINO or onnxruntime. For all others: pip install -r requirements.txt'
        )


def _has_gpu():
    """Whether PyTorch may find a GPU. Without a driver it need not be imported, which takes seconds, to know."""
    if not installed('torch'):
        return False
    if sys.platform == 'darwin' or Path('/dev/kfd').exists():  # Apple's and AMD's
        return True
    try:
        ctypes.CDLL('nvcuda.dll' if sys.platform == 'win32' else 'libcuda.so.1')
    except OSError:
        return False
    return True


def from_checkpoint(content, path):
    """Build the detector that a weights file describes, with its weights.

    Args:
        content: what `checkpoint.load` returns. path: the file, for messages.

    Returns:
        the detector, in training mode, with `class_names` and `img_hw`.

    Raises:
        UserError: naming `path`: there is no such detector, or the weights do not fit it.
    """
    class_names, img_hw = list(content['class_names']), tuple(content['img_hw'])
    try:
        model = build(content['detector'], len(class_names), img_hw, **content.get('options', {}))
        model.load_state_dict(content['model'])
    except UserError as error:
        raise UserError(f'{path}: {error}') from None
    except Exception as error:
        # Options that the detector does not know can go wrong anywhere inside it.
        raise UserError(f'{path}: its weights do not fit its detector ({files.reason(error)[:200]}).') from None
    model.class_names, model.img_hw = class_names, img_hw
    return model
