"""What every detector is, and what it declares about itself. Scripts and training read only this."""

from torch import nn

from konohana.errors import UserError


class Detector(nn.Module):
    """A detector under torchvision's contract.

    Training: `model(images, targets)` -> dict of scalar losses. Evaluation: `model(images)` -> list of dicts of
    `boxes`, `labels`, `scores` and maybe `masks`. `images` is a list of float tensors 3 x H x W, RGB, 0 to 1, of any
    size; each target has `boxes` (n x 4; x1, y1, x2, y2 in pixels), `labels` (n, int64; 1 is the first name) and maybe
    `ignored` (m x 4: nothing is learned there) and `masks`.

    A subclass sets what differs from these defaults:

    Attributes:
        wants_masks: it learns masks, so that targets need them.
        resizable: `model.transform.set_size(img_hw)` may be called while it trains.
        channels_last: it is quicker in this memory format.
        class_layers: prefixes of the weights that are made anew for another list of class names.
        maps: names of the maps (h x w in 0 to 1) that `model(images, with_maps=True)` adds to each detection.
        class_names, img_hw: set when a weights file is loaded.
    """

    wants_masks = False
    resizable = False
    channels_last = False
    class_layers = ()
    maps = ()
    class_names = ()
    img_hw = None

    def backbone_parameters(self):
        """The parameters that published weights start: those that learn at `backbone_lr` times the rate."""
        return list(self.backbone.parameters()) if hasattr(self, 'backbone') else []

    def adapt_weights(self, state):
        """Weights of a variant of this detector -> the same for this one; state dict -> state dict."""
        return state

    def load_pretrained(self, pretrained):
        """Start from published weights (True: of the whole, 'backbone': ImageNet's) -> what was done, as one line.

        Raises:
            UserError: there are none.
        """
        raise UserError(f'pretrained={pretrained!r}: no weights are published for this detector. Leave it None.')
