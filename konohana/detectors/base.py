"""What every detector is, and what it declares about itself. Scripts and training read only this."""

import numpy as np
import torch
from torch import nn

from konohana.data.images import as_picture, check_planes
from konohana.errors import UserError
from konohana.own_cast import NamedByCast


class Detector(NamedByCast, nn.Module):
    """A detector under torchvision's contract.

    Training: `model(images, targets)` -> dict of scalar losses. Evaluation: `model(images)` -> list of dicts of
    `boxes`, `labels`, `scores` and maybe `masks` or `probabilities` (n x classes); `model(images, with_maps=True)`
    adds the maps named in `maps`.
    `images` is a list of float tensors 3 x H x W, RGB, 0 to 1, of any size; each target has `boxes` (n x 4; x1, y1,
    x2, y2 in pixels), `labels` (n, int64; 1 is the first class) and maybe `ignored` (m x 4: nothing is learned there)
    and `masks`. `model(images, pictures=...)` takes the second look, of a detector that has one, at larger versions of
    the same pictures.

    A subclass has a `transform` (a `FrameTransform`) and three methods, `raw_outputs`, `losses` and `detections`, or a
    `forward` of its own. It sets what differs from these defaults:

    Attributes:
        wants_masks: it learns masks, so targets need them.
        resizable: `model.transform.set_size(img_hw)` may be called during training.
        channels_last: it is faster in this memory format.
        class_layers: prefixes of the weights that start anew for another list of classes.
        seldom: names of its parts that a training step may pass over, depending on the targets.
        maps: names of the maps (h x w, 0 to 1) that `with_maps=True` adds to each detection.
        has_raw_outputs: `raw_outputs` is its network alone: no transform, no post-processing.
        takes_bytes: pictures may also be uint8, 0 to 255.
        looks_again: names come from a second look at each person too, and detections have `embeddings`.
        backend: what computes its network: 'torch', 'onnxruntime' or 'openvino'.
        class_names, img_hw: set when a weights file is loaded.
    """

    wants_masks = False
    resizable = False
    channels_last = False
    class_layers = ()
    seldom = ()
    maps = ()
    has_raw_outputs = False
    takes_bytes = False
    looks_again = False
    backend = 'torch'
    class_names = ()
    img_hw = None

    def forward(self, images, targets=None, with_maps=False, pictures=None):
        self.check(images, targets)
        if not (len(images) or self.training):
            return []
        sizes = [tuple(image.shape[-2:]) for image in images]
        batch, targets = self.transform(images, targets)
        batch.tensors = batch.tensors.to(next(self.parameters()).dtype)  # of `model.half()`, say
        if self.channels_last:
            batch.tensors = batch.tensors.contiguous(memory_format=torch.channels_last)
        outputs = self.raw_outputs(batch.tensors)
        if self.training:
            return self.losses(outputs, targets, batch.image_sizes, batch.tensors)
        detections = self.detections(outputs, batch.image_sizes, sizes, with_maps)
        return self.named(self.look_again(detections, images, images if pictures is None else pictures))

    @property
    def device(self):
        """The device that its weights are on."""
        return next(self.parameters()).device

    @torch.inference_mode()
    def detect(self, frames, with_maps=False, pictures=None):
        """Detections of frames as arrays; in evaluation mode.

        Args:
            frames: list of uint8 H x W x 3 arrays, RGB, of any size; Pillow's RGB pictures do, too.
            with_maps: whether to add `maps`. pictures: larger versions of the same for the second look, or None.

        Returns:
            list of dicts of arrays, as `model(images)` gives them as tensors.

        Raises:
            ValueError: a frame is no such picture, or has no pixel.
        """
        images = [self._image(frame) for frame in frames]
        larger = {} if pictures is None else {'pictures': [self._image(picture) for picture in pictures]}
        detections = self(images, with_maps=with_maps, **larger) if images else []
        return [{key: values.cpu().numpy() for key, values in found.items()} for found in detections]

    def _image(self, frame):
        """uint8 H x W x 3 array -> 3 x H x W tensor on the detector's device, float 0 to 1 unless it takes bytes."""
        # Bytes are moved to the device: a quarter of the floats.
        frame = np.require(as_picture(frame), requirements=('C', 'W'))  # PyTorch warns of arrays that are read-only
        image = torch.from_numpy(frame).to(self.device).permute(2, 0, 1)
        return image if self.takes_bytes else image.float() / 255

    def check(self, images, targets):
        """Check what the detector is called with.

        Raises:
            ValueError: a picture is no tensor 3 x H x W, or, in training, there are no targets.
            UserError: masks are missing.
        """
        for image in images:
            check_planes(image, torch.Tensor)
        if not self.training:
            return
        if not targets:
            raise ValueError('targets are needed in training mode')
        if self.wants_masks and any('masks' not in target for target in targets):
            raise UserError(
                'This detector learns masks, and the data has only boxes. Use data with masks, such as '
                'konohana_dataset_path=toy_show_coco, or a detector of boxes such as fasterrcnn_resnet50_fpn_v2.'
            )

    def raw_outputs(self, batch):
        """The network alone: normalized, padded batch N x 3 x H x W -> dict of its output maps, each N x c x h x w.

        Raises:
            NotImplementedError: `has_raw_outputs` is False.
        """
        raise NotImplementedError

    def losses(self, outputs, targets, sizes, batch=None):
        """Losses of a batch.

        Args:
            outputs: of `raw_outputs`. targets: N dicts, in pixels of the batch.
            sizes: N pairs (height, width) of the images within the batch.
            batch: N x 3 x H x W, what `raw_outputs` was given; the flagship's second look cuts its crops out of it.

        Returns:
            dict of scalars.
        """
        raise NotImplementedError

    def detections(self, outputs, sizes, original_sizes, with_maps=False):
        """Detections of a batch.

        Args:
            outputs: of `raw_outputs`. sizes: N pairs (height, width) of the images within the batch.
            original_sizes: N pairs (height, width) of the images as given.
            with_maps: whether to add `maps`.

        Returns:
            N dicts, in pixels of the images as given.
        """
        raise NotImplementedError

    def look_again(self, detections, images, pictures):
        """Detections whose names a second look has settled, of a detector that takes one; else as they are.

        Args:
            detections: N dicts, in pixels of the images. images: N pictures as given.
            pictures: N pictures of the same, at a higher resolution where there is one: 3 x H x W, uint8 or float.
        """
        return detections

    def features(self, crops):
        """How people look to the network: crops of one person each, N x 3 x h x w, RGB, 0 to 1 -> N x d.

        None where the detector does not say.
        """
        return None

    def backbone_parameters(self):
        """The parameters that published weights start, as a list: they learn at `backbone_lr` times the rate."""
        return list(self.backbone.parameters())

    def ignore_unlabelled(self):
        """Take somebody whom nobody labelled for nothing to learn from, instead of background.

        Raises:
            UserError: this detector cannot.
        """
        raise UserError("unlabelled='ignore': only detector=konohana learns so. Leave it 'background'.")

    def adapt_weights(self, state):
        """Translate the weights of a variant of this detector: state dict -> state dict that fits this one."""
        return state

    def start_rest(self, left):
        """Start what another file's weights left alone from published weights, where there are any.

        Args:
            left: names of the weights that the file did not have.

        Returns:
            what was done, as one sentence after a space; '' for nothing.
        """
        return ''

    def load_pretrained(self, pretrained):
        """Start from published weights.

        Args:
            pretrained: True for weights of the whole detector, 'backbone' for ImageNet's weights of its backbone.

        Returns:
            what was done, as one line of text.

        Raises:
            UserError: there are none.
        """
        raise UserError(f'pretrained={pretrained!r}: no weights are published for this detector. Leave it None.')


def descending(scores):
    """The order of scores (n), best first; of equal ones the first comes first."""
    # PyTorch's ONNX exporter does not know `stable`; the TopK that it writes for a sort is stable in any case.
    return scores.argsort(descending=True) if torch.jit.is_tracing() else scores.argsort(descending=True, stable=True)
