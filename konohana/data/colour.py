"""Augmentation of colours."""

from itertools import zip_longest

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from konohana.data.step import Step, stacked

KINDS = ('brightness', 'contrast', 'saturation', 'hue')  # in torchvision's order
P_COLOUR, P_GREY = 0.8, 0.02  # probabilities of any jitter, and of a grey picture
RED, GREEN, BLUE = 0.2989, 0.587, 0.114  # of grey


class Colour(Step):
    """torchvision's colour jitter, mostly, and rarely a grey picture.

    What is done to a picture is as in torchvision's `ColorJitter` and `RandomGrayscale`, in random order and rounded
    down after each; but whole batches are changed at once, each picture in its own way.

    Args:
        strength: of brightness, contrast and saturation, 0 to 1. hue: of the hue, 0 to 0.5.
    """

    def __init__(self, strength, hue=0.0):
        self.ranges = dict.fromkeys(KINDS[:3], (max(0.0, 1 - strength), 1 + strength)) if strength else {}
        if hue:
            self.ranges['hue'] = (-hue, hue)

    def draw(self, target):
        drawn = []
        if torch.rand(()) < P_COLOUR:
            order = torch.randperm(len(KINDS)).tolist()
            factors = {kind: float(torch.empty(()).uniform_(*ends)) for kind, ends in self.ranges.items()}
            drawn = [(KINDS[i], factors[KINDS[i]]) for i in order if KINDS[i] in factors]
        if torch.rand(()) < P_GREY:
            drawn.append(('saturation', 0.0))
        return drawn or None, target

    def apply(self, images, drawn):
        pixels = stacked(images).float()
        changes = list(zip_longest(*(one or () for one in drawn)))
        # What each change does, for all pictures of the batch, moves to the device at once.
        numbers = torch.tensor([[_coefficients(*(one or ('', 1.0))) for one in change] for change in changes])
        numbers = numbers.to(pixels.device, non_blocking=True)[..., None, None, None]
        for change, (keep, of_grey, of_mean) in zip(changes, numbers.transpose(1, 2), strict=True):
            kinds = {one[0] for one in change if one}
            if 'hue' in kinds:
                _shift_hues(pixels, change)
            if kinds & {'contrast', 'saturation'}:
                red, green, blue = pixels.unbind(1)
                grey = red.mul(RED).add_(green, alpha=GREEN).add_(blue, alpha=BLUE).floor_()[:, None]
                other = grey.mean((-2, -1), keepdim=True) * of_mean
                if 'saturation' in kinds:
                    other = grey.mul_(of_grey).add_(other)
                pixels.mul_(keep).add_(other).clamp_(0, 255).floor_()
            elif 'brightness' in kinds:
                pixels.mul_(keep).clamp_(0, 255).floor_()
        return pixels.to(torch.uint8)


def _coefficients(kind, factor):
    """What is left of a picture, and what is added: of its grey version, and of that one's mean."""
    if kind in ('', 'hue'):
        return 1.0, 0.0, 0.0
    rest = 1.0 - factor
    return factor, rest if kind == 'saturation' else 0.0, rest if kind == 'contrast' else 0.0


def _shift_hues(pixels, change):
    for picture, one in zip(pixels, change, strict=True):
        if one and one[0] == 'hue':
            picture.copy_(TF.adjust_hue(picture.to(torch.uint8), one[1]))


GEOMETRIC = ('ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate')  # of TrivialAugment's operations


class Photometric(v2.TrivialAugmentWide):
    """TrivialAugment without its geometric operations, after which boxes no longer fit their characters."""

    _AUGMENTATION_SPACE = {  # noqa: RUF012 (torchvision's own attribute)
        name: how for name, how in v2.TrivialAugmentWide._AUGMENTATION_SPACE.items() if name not in GEOMETRIC
    }


class PhotometricTrivialAugment(Step):
    """TrivialAugment (Müller and Hutter 2021, 2103.10158) without its geometric operations.

    The target stays as it is.
    """

    def __init__(self):
        self.transform = Photometric()

    def draw(self, target):
        # torchvision draws where it changes pixels: by a seed of its own.
        return int(torch.randint(2**63 - 1, ())), target

    def apply(self, images, drawn):
        changed = []
        for image, seed in zip(images, drawn, strict=True):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                changed.append(self.transform(image))
        return torch.stack(changed)
