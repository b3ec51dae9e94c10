"""Detectors by name. Each keeps torchvision's contract, so everything else is written once for all of them."""

from konohana.detectors.konohana import Konohana
from konohana.settings import UserError

DETECTORS = {'konohana': Konohana}


def build(detector, n_classes, img_hw, **options):
    """Make a detector with new weights.

    Args:
        detector: a name in `DETECTORS`. n_classes: number of names (background not counted).
        img_hw: (height, width) frames are resized to inside. options: the detector's own variables.

    Raises:
        UserError: unknown name (the known ones are listed), an image size that makes no sense.
    """
    if detector not in DETECTORS:
        raise UserError(f'detector={detector!r}: there is no such detector. Known: {", ".join(DETECTORS)}.')
    if len(img_hw) != 2 or not all(isinstance(side, int) and 32 <= side <= 8192 for side in img_hw):
        raise UserError(f'img_hw={tuple(img_hw)}: height and width are whole numbers from 32 to 8192, like (360, 640).')
    return DETECTORS[detector](n_classes, tuple(img_hw), **options)
