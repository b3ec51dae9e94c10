"""What every detector is, and what it declares about itself. Scripts and training read only this."""

from torch import nn

from konohana.errors import UserError


class Detector(nn.Module):
    """A detector under torchvision's contract.

    Training: `model(images, targets)` -> dict of scalar losses. Evaluation: `model(images)` -> list of dicts of
    `boxes`, `labels`, `scores` and maybe `masks`; `model(images, with_maps=True)` adds the maps named in `maps`.
    `images` is a list of float tensors 3 x H x W, RGB, 0 to 1, of any size; each target has `boxes` (n x 4; x1, y1,
    x2, y2 in pixels), `labels` (n, int64; 1 is the first class) and maybe `ignored` (m x 4: nothing is learned there)
    and `masks`.

    A subclass has a `transform` (a `FrameTransform`), and sets what differs from these defaults:

    Attributes:
        wants_masks: it learns masks, so targets need them.
        resizable: `model.transform.set_size(img_hw)` may be called during training.
        channels_last: it is faster in this memory format.
        class_layers: prefixes of the weights that start anew for another list of classes.
        maps: names of the maps (h x w, 0 to 1) that `with_maps=True` adds to each detection.
        has_raw_outputs: `raw_outputs` is its network alone: no transform, no post-processing.
        class_names, img_hw: set when a weights file is loaded.
    """

    wants_masks = False
    resizable = False
    channels_last = False
    class_layers = ()
    maps = ()
    has_raw_outputs = False
    class_names = ()
    img_hw = None

    def raw_outputs(self, batch):
        """Normalized, padded batch N x 3 x H x W -> dict of the network's output maps, each N x c x h x w.

        Raises:
            NotImplementedError: `has_raw_outputs` is False.
        """
        raise NotImplementedError

    def backbone_parameters(self):
        """The parameters that published weights start, as a list: they learn at `backbone_lr` times the rate."""
        return list(self.backbone.parameters())

    def adapt_weights(self, state):
        """Translate the weights of a variant of this detector: state dict -> state dict that fits this one."""
        return state

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
