"""Detectors of which PyTorch computes a part, and a graph in onnxruntime the network: what `export` writes."""

import numpy as np
import torch
from torch import nn

from konohana.detectors import build
from konohana.detectors.base import Detector
from konohana.errors import UserError
from konohana.onnx.graph_detector import check_contract


def of_session(session, about):
    """The detector of an open graph.

    Args:
        session: a `sessions.OnnxRuntime`. about: its metadata, see `metadata.read`.

    Raises:
        UserError: its options are none of its detector. Exception: it does something else than its metadata say.
    """
    if about['post_processing']:
        # Only its transform is needed: made on 'meta' the network takes neither memory nor time.
        with torch.device('meta'):
            model = OnnxDetector(_built(about), session)
    else:
        model = OnnxNetwork(_with_parameters(_built(about), about['parameters']), session)
    model.class_names, model.img_hw = about['class_names'], tuple(about['img_hw'])
    model.backend = 'onnxruntime'
    model.eval().requires_grad_(False)
    with torch.inference_mode():
        (found,) = model([torch.zeros(3, 64, 64)])
    check_contract(found, model.class_names, (64, 64))
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


class OnnxDetector(Detector):
    """A detector whose ONNX file includes the post-processing.

    Args:
        model: the detector it was made from, of which only the `transform` is used. session: a `sessions.OnnxRuntime`.
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
        self.check(images, targets)
        return self.named([self.detect_one(image) for image in images])

    def detect_one(self, image):
        """Float 3 x H x W, RGB, 0 to 1 -> its detections as tensors, in pixels of it."""
        resized, _ = self.transform.resize(image)
        found = _run(self.session, resized[None])
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
        model: the detector it was made from, with the parameters of its post-processing.
        session: a `sessions.OnnxRuntime`.
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
        outputs = _run(self.session, batch)
        if not all(values.isfinite().all() for values in outputs.values()):
            raise UserError(f'{self.session.path}: its network gives NaN or infinity. Export or copy it again.')
        return outputs

    def detections(self, outputs, sizes, original_sizes, with_maps=False):
        return self.model.detections(outputs, sizes, original_sizes, with_maps)


def _run(session, tensor):
    """A session's outputs for a tensor: dict of tensors."""
    outputs = session.run(np.ascontiguousarray(tensor.detach().cpu().numpy()))
    return {name: torch.from_numpy(values) for name, values in outputs.items()}
