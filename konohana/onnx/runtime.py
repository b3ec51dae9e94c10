"""Detectors from ONNX files, run by onnxruntime."""

import json
from pathlib import Path

import torch
from torch import nn
from torchvision.ops import box_iou

from konohana.detectors import build
from konohana.detectors.base import Detector
from konohana.errors import UserError
from konohana.onnx.export import FORMAT, _optional


def load(path, device=''):
    """A detector from a file that `export` wrote, under the same contract as the one it was made from.

    Args:
        path: an .onnx file. device: 'cpu', 'cuda', or '' for the fastest there is, of what onnxruntime offers; pictures
            and detections are on the CPU in any case.

    Returns:
        a module in evaluation mode, see `inference.load`. A file without post-processing gives the detector itself, in
        which onnxruntime computes the `raw_outputs`; one with it gives an `OnnxDetector`.

    Raises:
        UserError: onnxruntime is absent, there is no such device or file, or it is damaged or of another program.
    """
    path = Path(path)
    session = _session(path, device)
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        metadata = {key: json.loads(value) for key, value in metadata.items()}
        if metadata['format'] != FORMAT:
            raise UserError(f'{path}: written by another version of this program. Export it again.')
        img_hw, class_names = tuple(metadata['img_hw']), metadata['class_names']
        # Only the file with post-processing does without the network: made on 'meta' it takes neither memory nor time.
        with torch.device('meta' if metadata['post_processing'] else 'cpu'):
            model = build(metadata['detector'], len(class_names), img_hw, **metadata['options'])
        model.eval().requires_grad_(False)
        if metadata['post_processing']:
            model = OnnxDetector(session, model.transform)
        else:
            for name, p in model.named_parameters():
                # The others are in the file; here they would only fill memory.
                kept = metadata['parameters'].get(name)
                p.data = torch.empty(0) if kept is None else torch.tensor(kept)
            names = [output.name for output in session.get_outputs()]
            model.raw_outputs = lambda batch: dict(zip(names, _run(session, batch), strict=True))
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f'{path}: {error}') from None
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError):
        raise UserError(
            f'{path}: not a file of this program: its metadata do not say which detector it is. '
            'Write one from a weights file by tools/export_onnx.py.'
        ) from None
    model.class_names, model.img_hw = class_names, img_hw
    return model


class OnnxDetector(Detector):
    """A detector whose ONNX file includes the post-processing; see `load`.

    Args:
        session: onnxruntime.InferenceSession. transform: the detector's own, which resizes the pictures.
    """

    def __init__(self, session, transform):
        super().__init__()
        self.session, self.transform = session, transform
        self.names = [output.name for output in session.get_outputs()]
        self.nothing = nn.Parameter(torch.empty(0), requires_grad=False)  # says on which device pictures are wanted
        self.eval()

    def backbone_parameters(self):
        return []

    def forward(self, images, targets=None, with_maps=False):
        """List of float 3 x H x W RGB in 0 .. 1 -> list of detections, one picture after the other."""
        return [self.detect(image) for image in images]

    def detect(self, image):
        resized, _ = self.transform.resize(image)
        found = dict(zip(self.names, _run(self.session, resized[None]), strict=True))
        (height, width), (seen_height, seen_width) = image.shape[-2:], resized.shape[-2:]
        found['boxes'] = found['boxes'] * torch.tensor([width / seen_width, height / seen_height] * 2)
        if 'masks' in found and (height, width) != (seen_height, seen_width):
            if len(found['masks']):
                masks = nn.functional.interpolate(found['masks'][:, None].float(), (height, width), mode='bilinear')
                found['masks'] = masks[:, 0] > 0.5
            else:
                found['masks'] = torch.zeros(0, height, width, dtype=torch.bool)  # interpolate takes no empty batch
        return found


def _run(session, tensor):
    """The outputs of a session with one input, as tensors on the CPU."""
    outputs = session.run(None, {session.get_inputs()[0].name: tensor.detach().cpu().contiguous().numpy()})
    return [torch.from_numpy(output) for output in outputs]


def _session(path, device):
    """onnxruntime's session of a file; UserError as `load` says."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f'{path}: there is no such weights file.') from None
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}).') from None
    onnxruntime = _optional('onnxruntime', f'{path}: an ONNX file')
    cuda = 'CUDAExecutionProvider' in onnxruntime.get_available_providers()
    kind = device.partition(':')[0]
    if kind not in ('', 'cpu', 'cuda') or (kind == 'cuda' and not cuda):
        raise UserError(
            f"device={device!r}: onnxruntime does not run there. Use 'cpu', or for CUDA the package onnxruntime-gpu."
        )
    providers = ['CUDAExecutionProvider'] if cuda and kind != 'cpu' else []
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3  # errors alone
    # Threads that wait busily for the next picture would slow all that happens in between: video, another detector.
    settings.add_session_config_entry('session.intra_op.allow_spinning', '0')
    try:
        return onnxruntime.InferenceSession(data, settings, providers=[*providers, 'CPUExecutionProvider'])
    except Exception as error:
        # onnxruntime's exceptions have no common class of their own.
        reason = ' '.join(str(error).split())[:150]
        raise UserError(f'{path}: damaged, or not an ONNX file ({reason}). Export or copy it again.') from None


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
    free = torch.ones(len(found['boxes']), dtype=torch.bool)
    if 'masks' in expected:
        a, b = (detections['masks'].flatten(1).float() for detections in (expected, found))
        common = a @ b.T
        overlaps = common / (a.sum(dim=1)[:, None] + b.sum(dim=1) - common).clamp(min=1)
    else:
        overlaps = box_iou(expected['boxes'], found['boxes'])
        # Boxes clipped at the picture's edge may be empty; these overlap not even with themselves.
        same = (expected['boxes'][:, None] - found['boxes']).abs().amax(dim=2) < 0.01
        overlaps = overlaps.masked_fill(same, 1.0)
    for i, label in enumerate(expected['labels']):
        candidates = free & (found['labels'] == label) & (overlaps[i] >= 0.9)
        if not candidates.any():
            largest['unmatched'] += 1
            continue
        # Several may lie at the very same place; the score tells them apart.
        apart = (found['scores'] - expected['scores'][i]).abs()
        j = (overlaps[i] - apart).masked_fill(~candidates, -torch.inf).argmax()
        free[j] = False
        largest['box'] = max(largest['box'], float((found['boxes'][j] - expected['boxes'][i]).abs().max()))
        largest['score'] = max(largest['score'], float(apart[j]))
        if 'masks' in expected:
            wrong = (found['masks'][j] != expected['masks'][i]).float().mean()
            largest['mask'] = max(largest['mask'], float(wrong))
    largest['unmatched'] += int(free.sum())
    return largest
