"""Detectors by name. Each is a `base.Detector`, so everything else is written once for all of them."""

import functools
import importlib
import inspect

from konohana.errors import UserError

# Name -> (module of this package, class or function there), imported when it is asked for. The arguments are
# (n_classes, img_hw, **options). torchvision's detectors are known by torchvision's own names, see `names`.
DETECTORS = {
    'konohana': ('konohana.detector', 'Konohana'),
    'yolof': ('yolof', 'YOLOF'),
    'solov2_light_r18': ('solov2', 'solov2_light_r18'),
    'solov2_light_r34': ('solov2', 'solov2_light_r34'),
    'solov2_r50': ('solov2', 'solov2_r50'),
}


def names():
    """All names that `build` knows: those of `DETECTORS`, then torchvision's."""
    from konohana.detectors.torchvision_detectors import box_detectors

    return [*DETECTORS, *box_detectors()]


def _maker(detector):
    """The class or function that makes a detector; UserError for a name that there is not."""
    if detector in DETECTORS:
        module, name = DETECTORS[detector]
        return getattr(importlib.import_module(f'konohana.detectors.{module}'), name)
    from konohana.detectors.torchvision_detectors import TorchvisionDetector, refuse_others

    refuse_others(detector, names())
    return functools.partial(TorchvisionDetector, detector)


def build(detector, n_classes, img_hw, **options):
    """Make a detector with new weights.

    Args:
        detector: a name in `names()`. n_classes: number of names (background not counted).
        img_hw: (height, width) frames are resized to inside. options: the detector's own variables.

    Raises:
        UserError: unknown name (the known ones are listed), an image size that makes no sense.
    """
    maker = _maker(detector)
    if len(img_hw) != 2 or not all(isinstance(side, int) and 32 <= side <= 8192 for side in img_hw):
        raise UserError(f'img_hw={tuple(img_hw)}: height and width are whole numbers from 32 to 8192, like (360, 640).')
    return maker(n_classes, tuple(img_hw), **options)


def options_of(detector, settings):
    """The options of a detector: every argument after (n_classes, img_hw), by name.

    Args:
        settings: dict that may hold them, such as a script's variables; what it lacks has the detector's own default,
            what the detector does not know is left out.

    Returns:
        dict for `build(detector, n_classes, img_hw, **options)`.
    """
    _, _, *options = inspect.signature(_maker(detector)).parameters.values()
    return {option.name: settings.get(option.name, option.default) for option in options}
