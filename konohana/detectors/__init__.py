"""Detectors by name. Each is a `base.Detector`, so everything else is written once for all of them."""

import functools
import importlib
import inspect

from konohana.errors import UserError

# Name -> (module of this package, class or function there), imported on use. The arguments are
# (n_classes, img_hw, **options). torchvision's detectors have torchvision's own names, see `names`.
DETECTORS = {
    'konohana': ('konohana.detector', 'Konohana'),
    'yolof': ('yolof', 'YOLOF'),
    'solov2_light_r18': ('solov2', 'solov2_light_r18'),
    'solov2_light_r34': ('solov2', 'solov2_light_r34'),
    'solov2_r50': ('solov2', 'solov2_r50'),
}


def names():
    """All names that `build` takes: those in `DETECTORS`, then torchvision's."""
    from konohana.detectors.torchvision_detectors import box_detectors

    return [*DETECTORS, *box_detectors()]


def _maker(detector):
    """The class or function that makes a detector; UserError for an unknown name."""
    if not isinstance(detector, str):
        raise UserError(f'detector={detector!r:.100}: it is the name of a detector, like {next(iter(DETECTORS))!r}.')
    if detector in DETECTORS:
        module, name = DETECTORS[detector]
        return getattr(importlib.import_module(f'konohana.detectors.{module}'), name)
    from konohana.detectors.torchvision_detectors import TorchvisionDetector, refuse_others

    refuse_others(detector, names())
    return functools.partial(TorchvisionDetector, detector)


def build(detector, n_classes, img_hw, **options):
    """Make a detector with new weights.

    Args:
        detector: a name in `names()`.
        n_classes: number of classes, background not counted.
        img_hw: (height, width) in pixels that frames are resized to, aspect ratio kept.
        options: the detector's own variables, see `options_of`.

    Returns:
        a `base.Detector` in training mode.

    Raises:
        UserError: an unknown name (the message lists the known ones), an img_hw out of range, an option that this
            detector does not have, or one of the wrong type or out of range.
    """
    maker = _maker(detector)
    known = _options(maker)
    for name, value in options.items():
        if name not in known:
            raise UserError(f'{name}={value!r:.100}: detector={detector!r} has no such option.')
        if type(value) is not type(known[name]):
            raise UserError(f'{name}={value!r:.100}: it takes a value like {known[name]!r}.')
    if len(img_hw) != 2 or not all(type(side) is int and 32 <= side <= 8192 for side in img_hw):
        raise UserError(f'img_hw={tuple(img_hw)}: height and width are whole numbers from 32 to 8192, like (360, 640).')
    return maker(n_classes, tuple(img_hw), **options)


def options_of(detector, settings):
    """The options of a detector, by name.

    Args:
        settings: dict that may hold them, such as a script's variables. An option that is not in it has the detector's
            default; anything else in it is left out.

    Returns:
        dict for `build(detector, n_classes, img_hw, **options)`.
    """
    return {name: settings.get(name, default) for name, default in _options(_maker(detector)).items()}


def idle_options(detector, settings):
    """Options of the other detectors in `DETECTORS` that somebody has set, and that this one does not have.

    Args:
        settings: dict that may hold them, such as a script's variables.

    Returns:
        dict of those that are not at their defaults. A second look is wanted by default, so it is never among them.
    """
    own = _options(_maker(detector))
    others = {name: default for other in DETECTORS for name, default in _options(_maker(other)).items()}
    return {
        name: settings[name]
        for name, default in others.items()
        if name not in own and name != 'second_look' and settings.get(name, default) != default
    }


def _options(maker):
    """{name: default} of every argument after (n_classes, img_hw)."""
    _, _, *options = inspect.signature(maker).parameters.values()
    return {option.name: option.default for option in options}
