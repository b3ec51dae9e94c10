"""The casts of the toy show: the first, whom the shipped weights know, and any number of others drawn from a seed.

Another cast is a show that no weights know: other names, hair, clothes and builds in the same rooms and gardens. Use it
to try what you do with a show of your own. Colours are RGB in 0 .. 255.
"""

import colorsys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from konohana.errors import UserError
from konohana.toy.figures import INK, LOOKS, OTHER, PLAIN, SKIN, WHITE, clothing, other_look

NAMES = (
    ('Aoi', 'Akira', 'Asuka', 'Arata'),
    ('Botan', 'Benio', 'Banri', 'Bunta'),
    ('Chiaki', 'Chie', 'Chiyo', 'Choji'),
    ('Daichi', 'Daigo', 'Denji', 'Dai'),
    ('Emi', 'Eiko', 'Etsu', 'Eri'),
    ('Fuyu', 'Fumi', 'Fuji', 'Fuku'),
    ('Goro', 'Genta', 'Gaku', 'Gin'),
    ('Hana', 'Haru', 'Hina', 'Hiro'),
)
STRANGER = 'other'
BEAST, ANIMAL = 6, 7  # places in NAMES of the one with fur, and of the one on four legs

# What people are dealt, each thing once.
EXTRAS = (
    ('drills',), ('high_bun', 'glasses'), ('hairband',), ('ponytail',), ('side_ribbons', 'ahoge'), ('hat',),
    ('bun', 'nape_ribbon'), ('tassels', 'cords'), ('stray', 'glasses'), ('beard',),
)  # fmt: skip
LENGTHS = (-0.07, 0.0, 0.1, 0.3, 0.55, 0.8)
FRINGES = ('spiky', 'blunt', 'parted', 'swept', 'bare', 'spiky')
FORMS = ('dress', 'jinbei', 'robe', 'hakama', 'kimono', 'dress')
SKINS = (SKIN, (244, 212, 184), (224, 184, 150), (176, 128, 96))


@dataclass(frozen=True)
class Cast:
    """The characters of a toy show: `looks` (name -> what differs from figures.PLAIN), `stranger` (the name of all
    others) and `fancy` (part of the strangers with hair of a bright colour)."""

    looks: dict
    stranger: str = STRANGER
    fancy: float = 0.0

    @property
    def names(self):
        """All names in the order of a dataset's classes."""
        return (*self.looks, self.stranger)

    def choose_look(self, rng, name):
        """Choose what a character looks like.

        Args:
            rng: numpy Generator.
            name: one of `names`. A stranger gets a new look each time. Some characters have a second look, which they
                get one time in five.

        Returns:
            dict with the keys of `figures.PLAIN`.
        """
        look = PLAIN | (other_look(rng, self.fancy) if name == self.stranger else self.looks[name])
        if 'second' in look and rng.random() < 0.2:
            look |= look['second']
        return look


FIRST = Cast(LOOKS, OTHER, fancy=0.3)


@lru_cache
def cast_of(number):
    """The cast of a number: 0 is the first show's, any other whole number from 1 on draws eight characters.

    Raises:
        UserError: not such a number.
    """
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 0:
        raise UserError(f'toy show: cast {number!r} is not a whole number from 0 on.')
    return _drawn(np.random.default_rng((int(number), 18))) if number else FIRST


def _drawn(rng):
    """A cast whose hair and clothes lie evenly round the circle of hues, so that no two look alike."""
    n = len(NAMES)
    names = [group[int(rng.integers(len(group)))] for group in NAMES]
    hues = (rng.uniform() + np.arange(n) / n + rng.uniform(-0.02, 0.02, n)) % 1
    hair, cloth = rng.permutation(hues), rng.permutation(hues)
    people = BEAST
    dealt = {
        'extras': [EXTRAS[i] for i in rng.permutation(len(EXTRAS))[:people]],
        'length': rng.permutation(LENGTHS),
        'fringe': rng.permutation(FRINGES),
        'form': rng.permutation(FORMS),
        'tall': rng.permutation(np.linspace(2.5, 3.9, people)),
        'bright': rng.permutation(np.linspace(0.35, 1.0, people)),
    }
    looks = {}
    for i, name in enumerate(names):
        one = {key: values[i] for key, values in dealt.items()} if i < people else {}
        make = {BEAST: _beast, ANIMAL: _animal}.get(i, _person)
        looks[name] = make(rng, float(hair[i]), float(cloth[i]), **one)
    return Cast(looks)


def _colour(hue, saturation, value):
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _person(rng, hair, cloth, extras, length, fringe, form, tall, bright):
    main = _colour(cloth, rng.uniform(0.45, 0.85), rng.uniform(0.55, 0.95))
    second = _colour(cloth + rng.choice((0.4, 0.5, 0.6)), rng.uniform(0.3, 0.8), rng.uniform(0.4, 0.95))
    return {
        'hair': _colour(hair, rng.uniform(0.45, 0.75), bright), 'eye': _colour(hair + 0.5, 0.6, 0.6),
        'skin': SKINS[int(rng.integers(len(SKINS)))], 'extras': tuple(extras), 'ribbon': second,
        'length': float(length), 'fringe': str(fringe), 'locks': float(rng.uniform(0.4, 2.0)),
        'wavy': float(rng.choice((0, 0, 0.1))), 'tall': float(tall), 'broad': float(rng.uniform(0.85, 1.25)),
        'outfits': (
            clothing(main, second, second, WHITE, second, str(form), sleeve=0.5),
            clothing(second, main, main, WHITE, main, 'kimono', flowers=_colour(cloth + 0.15, 0.4, 0.9)),
        ),
    }  # fmt: skip


def _beast(rng, hair, cloth):
    """Fur all over, a muzzle, broad shoulders."""
    main, second = _colour(cloth, 0.7, 0.75), _colour(cloth + 0.5, 0.6, 0.5)
    ears = str(rng.choice(('long', 'round', 'fox')))
    return {
        'kind': 'beast', 'hair': _colour(hair, 0.4, 0.75), 'eye': INK,
        'ears': ears, 'muzzle': _colour(hair, 0.12, 0.97), 'tail': 'hair', 'tall': 3.2, 'broad': 1.5,
        'outfits': (clothing(main, second, second, WHITE, second, 'jinbei'),),
    }  # fmt: skip


def _animal(rng, hair, cloth):
    """An animal on four legs, with a mane."""
    return {
        'kind': 'boar', 'hair': _colour(cloth, 0.75, 0.7), 'skin': _colour(hair, 0.35, 0.92), 'eye': INK,
        'muzzle': _colour(cloth, 0.3, 0.95),
    }  # fmt: skip
