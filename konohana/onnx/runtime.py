"""Detectors from ONNX files, run by onnxruntime."""

import functools
from pathlib import Path

import torch
from torch import nn
from torchvision.ops import box_iou

from konohana import checkpoint
from konohana.detectors import build
from konohana.detectors.base import Detector
from konohana.errors import UserError, printable
from konohana.onnx import metadata

# A file of a few bytes can ask for any amount of memory. This is what all ONNX files together get on the CPU.
MEMORY_LIMIT = 4 * 2**30


def load(path, device=''):
    """A detector from a file that `export` wrote, under the same contract as the one it was made from.

    Args:
        path: an .onnx file.
        device: 'cpu', 'cuda', or '' for the fastest there is, of what onnxruntime offers. Pictures and detections are
            on the CPU in any case.

    Returns:
        a `Detector` in evaluation mode, see `inference.load`.

    Raises:
        UserError: onnxruntime is not installed, there is no such device or file, or the file is damaged, of another
            program, has metadata that do not fit its network, holds NaN, or needs more than `MEMORY_LIMIT`.
    """
    path = Path(path)
    data = checkpoint.read_bytes(path)
    session = Session(data, path, device)
    about = metadata.read(session.metadata, path)
    _refuse_nan(data, path)
    try:
        if about['post_processing']:
            # Only its transform is needed: made on 'meta' the network takes neither memory nor time.
            with torch.device('meta'):
                model = OnnxDetector(_built(about), session)
        else:
            model = OnnxNetwork(_with_parameters(_built(about), about['parameters']), session)
        model.class_names, model.img_hw = about['class_names'], tuple(about['img_hw'])
        model.backend = 'onnxruntime'
        _try_out(model.eval().requires_grad_(False))
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f'{path}: {error}') from None
    except Exception as error:
        # Whatever comes of a network that does something else than its metadata say.
        reason = printable(' '.join(str(error).split())[:150]) or type(error).__name__
        raise UserError(f'{path}: its network does not fit its metadata ({reason}). Export it again.') from None
    return model


def _built(about):
    return build(about['detector'], len(about['class_names']), tuple(about['img_hw']), **about['options'])


def _with_parameters(model, parameters):
    """A detector with the parameters that only its post-processing uses; the others are in the file, here empty."""
    for name, parameter in model.named_parameters():
        values = torch.empty(0)
        if name in parameters:
            values = torch.tensor(parameters[name], dtype=parameter.dtype)
            if values.shape != parameter.shape or not values.isfinite().all():
                raise ValueError(f'{name} has other numbers')
        parameter.data = values
    return model


@torch.inference_mode()
def _try_out(model):
    """Run a detector once on an empty picture; raise an exception where it does not keep the contract."""
    (found,) = model([torch.zeros(3, 64, 64)])
    shapes = {'boxes': (4,), 'labels': (), 'scores': (), **({'masks': (64, 64)} if 'masks' in found else {})}
    for name, shape in shapes.items():
        values = found[name]
        if values.shape != (len(found['boxes']), *shape) or not values.isfinite().all():
            raise ValueError(f'{name} of shape {tuple(values.shape)}')
    if len(found['labels']) and not 1 <= found['labels'].min() <= found['labels'].max() <= len(model.class_names):
        raise ValueError('labels that are no classes')


class OnnxDetector(Detector):
    """A detector whose ONNX file includes the post-processing.

    Args:
        model: the detector it was made from, of which only the `transform` is used. session: a `Session`.
    """

    def __init__(self, model, session):
        super().__init__()
        self.session, self.transform = session, model.transform
        self.looks_again = 'embeddings' in session.names
        self.nothing = nn.Parameter(torch.empty(0, device='cpu'), requires_grad=False)  # pictures are wanted on the CPU

    def backbone_parameters(self):
        return []

    def forward(self, images, targets=None, with_maps=False, pictures=None):
        """List of float 3 x H x W, RGB, 0 to 1 -> list of detections, one picture after the other.

        A second look is in the file; it looks at the pictures as the network sees them, and `pictures` are not used.
        """
        return self.named([self.detect_one(image) for image in images])

    def detect_one(self, image):
        resized, _ = self.transform.resize(image)
        found = self.session.run(resized[None])
        (height, width), (seen_height, seen_width) = image.shape[-2:], resized.shape[-2:]
        found['boxes'] = found['boxes'] * torch.tensor([width / seen_width, height / seen_height] * 2)
        if 'masks' in found and (height, width) != (seen_height, seen_width):
            if len(found['masks']):
                masks = nn.functional.interpolate(found['masks'][:, None].float(), (height, width), mode='bilinear')
                found['masks'] = masks[:, 0] > 0.5
            else:
                found['masks'] = torch.zeros(0, height, width, dtype=torch.bool)  # interpolate takes no empty batch
        return found


class OnnxNetwork(Detector):
    """A detector whose network is in an ONNX file; transform and post-processing are PyTorch's.

    Args:
        model: the detector it was made from, with the parameters of its post-processing. session: a `Session`.
    """

    has_raw_outputs = True

    def __init__(self, model, session):
        super().__init__()
        if not model.has_raw_outputs:
            raise ValueError('this detector has no raw outputs')
        self.model, self.session = model, session
        self.transform, self.maps = model.transform, model.maps

    def backbone_parameters(self):
        return []

    def raw_outputs(self, batch):
        outputs = self.session.run(batch)
        if not all(values.isfinite().all() for values in outputs.values()):
            raise UserError(f'{self.session.path}: its network gives NaN or infinity. Export or copy it again.')
        return outputs

    def detections(self, outputs, sizes, original_sizes, with_maps=False):
        return self.model.detections(outputs, sizes, original_sizes, with_maps)


class Session:
    """onnxruntime with a file's network.

    Args:
        data: the file's bytes. path: the file, for messages. device: see `load`.

    Raises:
        UserError: see `load`.
    """

    def __init__(self, data, path, device):
        self.path = path
        onnxruntime = metadata.optional('onnxruntime', f'{path}: an ONNX file')
        cuda = 'CUDAExecutionProvider' in onnxruntime.get_available_providers()
        kind = device.partition(':')[0]
        if kind not in ('', 'cpu', 'cuda') or (kind == 'cuda' and not cuda):
            raise UserError(
                f"device={device!r}: onnxruntime does not run there. Use 'cpu', or for CUDA the package "
                'onnxruntime-gpu.'
            )
        providers = ['CUDAExecutionProvider'] if cuda and kind != 'cpu' else []
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 4  # nothing: errors come as exceptions
        # Threads that wait busily for the next picture would slow everything in between: video, another detector.
        settings.add_session_config_entry('session.intra_op.allow_spinning', '0')
        _limit_memory()
        settings.add_session_config_entry('session.use_env_allocators', '1')
        try:
            self.session = onnxruntime.InferenceSession(data, settings, providers=[*providers, 'CPUExecutionProvider'])
            self.entry = self.session.get_inputs()[0].name
            self.names = [output.name for output in self.session.get_outputs()]
            self.metadata = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:
            # onnxruntime's exceptions have no common class of their own.
            reason = printable(' '.join(str(error).split())[:150])
            raise UserError(f'{path}: damaged, or not an ONNX file ({reason}). Export or copy it again.') from None

    def run(self, tensor):
        """The network's outputs for its input: dict of tensors on the CPU, by name."""
        try:
            outputs = self.session.run(None, {self.entry: tensor.detach().cpu().contiguous().numpy()})
        except Exception as error:
            reason = ' '.join(str(error).split())
            if 'Available memory' in reason:
                reason = f'more memory than {MEMORY_LIMIT / 2**30:g} GiB; a smaller batch_size needs less'
            raise UserError(
                f'{self.path}: onnxruntime cannot run it on {tuple(tensor.shape)} ({printable(reason[-200:])}).'
            ) from None
        return {name: torch.from_numpy(values) for name, values in zip(self.names, outputs, strict=True)}


@functools.cache
def _limit_memory():
    """Make onnxruntime's memory on the CPU one pool of `MEMORY_LIMIT`, for all sessions that ask for it."""
    onnxruntime = metadata.optional('onnxruntime', 'An ONNX file')
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    pool = onnxruntime.OrtArenaCfg({'max_mem': MEMORY_LIMIT})
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo('Cpu', *kind), pool)


def _refuse_nan(data, path):
    """UserError for a weight that is NaN. The package onnx reads weights; without it they are not looked at."""
    try:
        onnx = metadata.optional('onnx', '')
    except UserError:
        return
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
