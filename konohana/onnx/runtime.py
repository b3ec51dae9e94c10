"""Detectors from ONNX files."""

import math
from pathlib import Path

import numpy as np

from konohana import checkpoint
from konohana.boxes import iou
from konohana.errors import UserError, installed, printable
from konohana.onnx import backends, metadata
from konohana.onnx.sessions import RUNTIMES, OnnxRuntime, first_run


def load(path, device='', backend='auto'):
    """A detector from an ONNX file, under the same contract as the one it was made from.

    Args:
        path: an .onnx file of `export`. One that takes frames as bytes needs no PyTorch.
        device: 'cpu', 'cuda', or '' for the fastest there is, of what the runtime offers. Pictures and detections are
            on the CPU in any case.
        backend: 'onnxruntime', or 'openvino' for a file that takes frames as bytes. 'auto' takes onnxruntime, which
            limits the memory that a file from elsewhere may ask for, and OpenVINO where that is not installed.

    Returns:
        a detector in evaluation mode, see `inference.load`.

    Raises:
        UserError: no runtime is installed, there is no such device or file, or the file is damaged, of another program,
            has metadata that do not fit its network, holds NaN, has no end, or needs more than `sessions.MEMORY_LIMIT`.
    """
    path = Path(path)
    data = checkpoint.read_bytes(path)
    name = backend if backend in RUNTIMES else 'onnxruntime'
    if backend == 'auto' and not installed('onnxruntime') and installed('openvino'):
        name = 'openvino'
    session = RUNTIMES[name](data, path, device)
    about = metadata.read(session.metadata, path)
    _refuse_nan(data, path)
    if about['frames']:
        return backends.of_session(session, about)
    if name == 'openvino':
        print(f'{path}: it takes no frames as bytes, so onnxruntime computes it.')
        session = OnnxRuntime(data, path, device)
    from konohana.onnx import network  # here, because it needs PyTorch

    with first_run(session):
        return network.of_session(session, about)


def _refuse_nan(data, path):
    """UserError for a weight that is NaN. The package onnx reads weights; without it they are not looked at."""
    if not installed('onnx'):
        return
    onnx = metadata.optional('onnx', 'Reading weights')
    for tensor in onnx.load_from_string(data).graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind == 'f' and (values != values).any():
            raise UserError(f'{path}: its weights {printable(tensor.name[:100])} hold NaN. Export or copy it again.')


def differences(expected, found):
    """How far the detections of one picture are from those of another run of the same detector.

    Each detection is compared with the one of the same name that is most alike, since equal scores have no order.

    Args:
        expected, found: dicts of `boxes`, `labels`, `scores` and maybe `masks`.

    Returns:
        dict of `box` (pixels), `score`, `mask` (share of pixels): the largest differences, 0 where there are none; and
        `unmatched`: how many of both have no counterpart whose box (mask, where there are masks) overlaps theirs by an
        IoU of 0.9 or more.
    """
    largest = {'box': 0.0, 'score': 0.0, 'mask': 0.0, 'unmatched': 0}
    expected, found = ({key: np.asarray(values) for key, values in one.items()} for one in (expected, found))
    free = np.ones(len(found['boxes']), bool)
    if 'masks' in expected:
        # Not -1 for the pixels: of no masks NumPy cannot tell how many they are.
        pixels = math.prod(expected['masks'].shape[1:])
        a, b = (one['masks'].reshape(-1, pixels).astype(np.float32) for one in (expected, found))
        common = a @ b.T
        overlaps = common / (a.sum(1)[:, None] + b.sum(1) - common).clip(min=1)
    else:
        # Boxes clipped at the picture's edge may be empty; these overlap not even with themselves.
        same = np.abs(expected['boxes'][:, None] - found['boxes']).max(2) < 0.01
        overlaps = np.where(same, 1.0, iou(expected['boxes'], found['boxes']))
    for i, label in enumerate(expected['labels']):
        candidates = free & (found['labels'] == label) & (overlaps[i] >= 0.9)
        if not candidates.any():
            largest['unmatched'] += 1
            continue
        # Several may lie at the very same place; the score tells them apart.
        apart = np.abs(found['scores'] - expected['scores'][i])
        j = np.where(candidates, overlaps[i] - apart, -np.inf).argmax()
        free[j] = False
        largest['box'] = max(largest['box'], float(np.abs(found['boxes'][j] - expected['boxes'][i]).max()))
        largest['score'] = max(largest['score'], float(apart[j]))
        if 'masks' in expected:
            wrong = (found['masks'][j] != expected['masks'][i]).mean()
            largest['mask'] = max(largest['mask'], float(wrong))
    largest['unmatched'] += int(free.sum())
    return largest
