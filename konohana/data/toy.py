"""The toy show: a small show without end, drawn from a seed, with exact boxes and masks.

It stands in for data one may not share: the same fourteen names, worn by simplified figures with the cast's colours,
ears, hair and kimono, in rooms, corridors, gardens and streets. A fresh clone can train and test on it, and frames
of it mixed with real ones do no harm to a detector, since a figure looks roughly like the character it is named after.

Figures are drawn as filled curves in head units (1 = half a head's width, origin at the head's centre, y down) at
twice the size and reduced. Everything random about a frame is decided first (`_plan_shot`) and then drawn at a time
t in seconds (`_draw_shot`), so that the same code makes still frames and moving shots.
"""

import json
import math
import shutil
import subprocess
import tempfile
import wave
import xml.etree.ElementTree as ET
from functools import lru_cache
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import progressbar
from pycocotools import mask as coco_mask

from konohana.cast import CLASS_NAMES
from konohana.settings import UserError

OTHER = '其他'
VERSION = 1  # raise when the drawing changes: written into annotations, so that two versions are never mixed

# ---------------------------------------------------------------------------------------------------------- the looks

SKIN, INK, WHITE = (253, 228, 208), (52, 40, 46), (250, 249, 245)
DARK_RED, PINK, GOLD, VIOLET = (116, 34, 44), (240, 168, 192), (214, 172, 82), (98, 84, 172)


def _outfit(top, skirt=None, obi=DARK_RED, cord=GOLD, collar=WHITE, form='kimono', flowers=None, sleeve=0.6):
    return {
        'top': top, 'skirt': skirt or top, 'obi': obi, 'cord': cord, 'collar': collar, 'form': form,
        'flowers': flowers, 'sleeve': sleeve,
    }  # fmt: skip


WORK = _outfit(DARK_RED, obi=(128, 30, 40), cord=(150, 60, 66), sleeve=0.45)  # the inn's plain working dress
MIKO = _outfit(WHITE, (198, 40, 38), obi=(206, 48, 44), cord=(170, 28, 30), form='hakama', sleeve=0.85)

# What a look leaves out is taken from here. `length`: hair down the back, 0 = chin, 1 = the feet. `tall`: height in
# heads. `extras`: what is worn or grows besides.
PLAIN = {
    'kind': 'person', 'hair': (70, 56, 52), 'eye': (120, 84, 60), 'skin': SKIN, 'ears': None, 'fringe': 'spiky',
    'length': 0.0, 'wavy': 0.0, 'locks': 0.9, 'extras': (), 'ribbon': PINK, 'tail': None, 'tall': 3.4, 'broad': 1.0,
    'muzzle': WHITE, 'outfits': (_outfit((90, 96, 120)),),
}  # fmt: skip

LOOKS = {
    '柚': {
        'hair': (236, 212, 156), 'eye': (196, 152, 70), 'ears': 'fox', 'length': 0.82, 'locks': 1.7, 'tail': 'hair',
        'extras': ('ahoge',), 'tall': 3.0,
        'outfits': (_outfit(PINK, DARK_RED, obi=(74, 34, 52)), WORK, _outfit((226, 160, 60), obi=(150, 40, 50),
                    flowers=(200, 60, 50), sleeve=0.9)),
    },
    '皋': {
        'hair': (88, 74, 146), 'eye': (216, 172, 52), 'ears': 'fox', 'length': 0.7, 'locks': 1.5, 'tail': 'hair',
        'extras': ('stray',), 'tall': 3.5,
        'outfits': (_outfit((118, 102, 198), DARK_RED, obi=(70, 34, 60)), WORK,
                    _outfit((84, 92, 200), obi=(120, 40, 60), flowers=(150, 170, 240), sleeve=0.8)),
    },
    '莲': {
        'hair': (244, 176, 190), 'eye': (84, 158, 156), 'ears': 'fox', 'length': 0.42, 'wavy': 0.13, 'locks': 1.5,
        'fringe': 'parted', 'extras': ('hairband',), 'ribbon': (226, 100, 150), 'tail': 'hair', 'tall': 3.2,
        'outfits': (_outfit((242, 192, 224), obi=(84, 38, 52), cord=(240, 214, 110), flowers=(228, 110, 160)), WORK,
                    _outfit((164, 136, 210), obi=(240, 200, 90), flowers=(232, 120, 170)),
                    _outfit((202, 60, 140), obi=(110, 40, 110), flowers=(250, 170, 210), sleeve=0.9)),
    },
    '枣': {
        'hair': (138, 76, 66), 'eye': (112, 66, 44), 'ears': 'fox', 'locks': 0.5, 'length': -0.06,
        'tail': 'hair', 'tall': 3.5,
        'outfits': (_outfit((118, 180, 152), (98, 156, 134), obi=(90, 146, 124), form='jinbei'),
                    _outfit((40, 134, 146), (32, 112, 126), obi=(30, 100, 112), form='jinbei'),
                    _outfit((54, 60, 120), obi=(40, 40, 70), sleeve=0.5)),
    },
    '樱': {
        'hair': (56, 42, 52), 'eye': (150, 62, 62), 'ears': 'fox', 'length': 0.62, 'locks': 1.5, 'fringe': 'blunt',
        'extras': ('side_ribbons', 'sleepy'), 'ribbon': (214, 44, 60), 'tail': 'hair', 'tall': 2.5, 'broad': 0.85,
        'outfits': (_outfit((242, 150, 170), DARK_RED, obi=(66, 34, 50), flowers=(250, 208, 216)),
                    _outfit((240, 150, 180), obi=(76, 60, 120), flowers=(246, 224, 140), sleeve=0.9)),
    },
    '桐': {
        'hair': (238, 206, 118), 'eye': (190, 142, 50), 'ears': 'fox', 'locks': 1.15, 'extras': ('bun', 'nape_ribbon'),
        'ribbon': (76, 74, 180), 'tail': (196, 142, 76), 'tall': 3.8, 'fringe': 'swept',
        'outfits': (_outfit((78, 62, 150), obi=(196, 176, 228), cord=(222, 160, 60), flowers=(118, 104, 190)),
                    _outfit((74, 60, 142), obi=(190, 170, 222), cord=(222, 160, 60)),),
    },
    '椿': {
        'kind': 'beast', 'hair': (208, 88, 76), 'eye': (200, 160, 60), 'ears': 'fox', 'muzzle': (246, 214, 176),
        'tail': 'hair', 'tall': 3.7, 'broad': 1.4, 'extras': ('fox_face', 'flame'),
        'outfits': (_outfit((58, 40, 56), obi=(160, 104, 50), cord=(226, 186, 92), flowers=(206, 50, 60)),),
        # She also takes a human shape, with her colours and her kimono.
        'second': {'kind': 'person', 'hair': (238, 124, 124), 'fringe': 'parted', 'wavy': 0.08, 'length': 0.16,
                   'locks': 1.7, 'broad': 1.1, 'extras': ('high_bun', 'stray')},
    },
    '柊': {
        'hair': (226, 226, 238), 'eye': (124, 96, 186), 'ears': 'fox', 'length': 0.6, 'locks': 1.9, 'tail': 'hair',
        'extras': ('cords',), 'ribbon': (255, 252, 250), 'tall': 3.4,
        'outfits': (dict(MIKO, cord=(206, 40, 40), collar=(206, 50, 46)),
                    _outfit(WHITE, obi=(244, 240, 232), cord=(206, 40, 40), collar=(206, 50, 46), sleeve=0.9)),
    },
    '菖': {
        'hair': (46, 46, 82), 'eye': (96, 72, 92), 'ears': 'fox', 'length': 0.9, 'locks': 2.4, 'fringe': 'bare',
        'extras': ('glasses', 'tassels', 'brow_dot'), 'ribbon': (250, 250, 250), 'tail': 'hair', 'tall': 3.8,
        'outfits': (MIKO,),
    },
    '八百比丘尼': {
        'hair': (196, 186, 176), 'eye': (122, 110, 112), 'extras': ('hood',), 'fringe': 'swept', 'locks': 0.4,
        'ribbon': (244, 242, 234), 'tall': 3.7, 'skin': (248, 228, 214),
        'outfits': (_outfit((66, 56, 68), obi=(56, 46, 58), cord=(80, 70, 80), sleeve=0.8),),
    },
    '药店老板': {
        'kind': 'beast', 'hair': (228, 194, 142), 'eye': INK, 'ears': 'round', 'muzzle': (246, 236, 214),
        'tall': 2.9, 'broad': 2.0, 'extras': ('moustache',),
        'outfits': (_outfit((66, 78, 128), obi=(40, 48, 88), cord=(48, 56, 96), collar=(54, 64, 108)),),
    },
    '瓜之介': {'kind': 'boar', 'hair': (136, 178, 122), 'skin': (246, 244, 236), 'muzzle': (244, 160, 152), 'eye': INK},
    '阿菊': {
        'hair': (142, 100, 192), 'eye': (140, 80, 52), 'fringe': 'parted', 'locks': 1.3, 'extras': ('drills',),
        'ribbon': (248, 222, 110), 'tall': 2.5, 'broad': 0.85,
        'outfits': (_outfit((124, 188, 232), obi=(252, 252, 252), cord=(204, 48, 52), form='dress'),
                    _outfit((124, 188, 232), obi=(252, 252, 252), cord=(204, 48, 52), form='dress'),
                    _outfit((196, 36, 40), obi=(236, 188, 66), flowers=(246, 214, 120), sleeve=0.8)),
        # Before she is given her new dress she is a classic doll: black hair, red kimono.
        'second': {'hair': (48, 38, 44), 'extras': (), 'fringe': 'blunt', 'length': 0.5, 'eye': (190, 40, 50),
                   'outfits': (_outfit((196, 36, 40), obi=(236, 188, 66), flowers=(246, 214, 120), sleeve=0.9),)},
    },
}  # fmt: skip

FRINGES = ('spiky', 'blunt', 'parted', 'swept', 'bare')
HUMAN_HAIR = ((50, 44, 48), (74, 54, 46), (112, 78, 56), (150, 146, 146), (206, 202, 198), (60, 62, 70), (166, 116, 74))
FANCY_HAIR = ((92, 150, 98), (86, 136, 190), (226, 128, 56), (64, 168, 168), (150, 190, 90), (180, 60, 120))
FUR = ((128, 96, 72), (150, 150, 150), (96, 84, 84), (122, 160, 104), (240, 240, 240), (70, 60, 60), (190, 150, 60))


def _other_look(rng):
    """A random somebody: hair with ears never comes in a cast colour, and the cast's extras stay the cast's own."""

    def pick(values):
        return values[int(rng.integers(len(values)))]

    cloth = [tuple(int(v) for v in rng.integers(40, 236, 3)) for _ in range(4)]
    grey = tuple(int(np.mean(cloth[0]) * 0.6 + c * 0.4) for c in cloth[0])
    form = pick(('kimono', 'kimono', 'kimono', 'jinbei', 'hakama', 'robe'))
    outfit = _outfit(
        pick((grey, cloth[0])), pick((None, cloth[1])), cloth[2], cloth[3], pick((WHITE, cloth[3])), form,
        pick((None, None, cloth[3])), float(rng.uniform(0.4, 0.9)),
    )  # fmt: skip
    look = {'tall': float(rng.uniform(2.4, 3.9)), 'broad': float(rng.uniform(0.85, 1.25)), 'outfits': (outfit,)}
    look['eye'] = pick(((96, 70, 56), (60, 60, 70), (70, 110, 80), (80, 110, 160)))
    if rng.random() < 0.25:  # beasts: tanuki, badger, frog
        look |= {'kind': 'beast', 'hair': pick(FUR), 'ears': pick(('round', 'round', 'fox', 'long', None)), 'tall': 3.0}
        look |= {'muzzle': pick(((236, 220, 196), (200, 190, 180))), 'broad': float(rng.uniform(1.0, 1.6))}
        look['extras'] = pick(((), ('mask',), ('fox_face',), ('fox_face', 'mask')))
    else:
        fancy = rng.random() < 0.3
        look |= {'hair': pick(FANCY_HAIR) if fancy else pick(HUMAN_HAIR), 'fringe': pick(FRINGES)}
        look |= {'ears': pick(('round', 'long', 'fox', None)) if fancy else None, 'wavy': pick((0, 0, 0.08))}
        look |= {'length': float(pick((-0.07, -0.07, 0, 0, 0.1, 0.3, 0.5))), 'locks': float(rng.uniform(0.3, 1.3))}
        look['extras'] = pick(((), (), ('bun',), ('high_bun',), ('ponytail',), ('glasses',), ('hat',), ('beard',)))
        look['tail'] = 'hair' if fancy and rng.random() < 0.5 else None
        look['skin'] = pick((SKIN, (244, 212, 184), (224, 184, 150)))
        if look['fringe'] == 'blunt' and sum(look['hair']) < 200:
            look['fringe'] = 'bare'  # the doll's old look is hers alone
    return look


# ------------------------------------------------------------------------------------------------------------- drawing


@lru_cache
def _spline(count, closed, steps):
    """Indices and weights of a Catmull-Rom spline through `count` points."""
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    weights = 0.5 * np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2])
    index = np.arange(count if closed else count - 1)[:, None] + np.arange(-1, 3)
    return (index % count if closed else index.clip(0, count - 1)), weights


def _curve(points, closed=True, steps=6):
    """A smooth line through points (n x 2); a point given twice makes a corner."""
    index, weights = _spline(len(points), closed, steps)
    line = (weights @ points[index]).reshape(-1, 2)
    return line if closed else np.vstack([line, points[-1:]])


class Pen:
    """Draws shapes given in the figure's own units into the picture, and keeps the silhouette in `mask`.

    `matrix` (2 x 3) leads from the figure's units to pixels; `gain` (3) multiplies colours; `value` is what a shape
    writes into the mask: 1 for the figure, 0 for what stands in front of it without belonging to it.
    """

    def __init__(self, image, mask, matrix, gain=1.0, value=1):
        self.image, self.mask, self.matrix, self.gain, self.value = image, mask, matrix, gain, value
        self.pixels = math.sqrt(abs(np.linalg.det(matrix[:, :2])))  # how many pixels one unit is
        self.line = max(1, min(4, round(self.pixels * 0.035)))

    def moved(self, x=0.0, y=0.0, turn=0.0, scale=(1.0, 1.0), value=None):
        """A pen whose origin lies at (x, y), turned by `turn` radians and scaled."""
        c, s = math.cos(turn), math.sin(turn)
        inner = np.array([[c * scale[0], -s * scale[1], x], [s * scale[0], c * scale[1], y], [0, 0, 1]])
        return Pen(self.image, self.mask, self.matrix @ inner, self.gain, self.value if value is None else value)

    def _pixels(self, points, smooth, closed=True):
        points = np.asarray(points, float) @ self.matrix[:, :2].T + self.matrix[:, 2]
        points = _curve(points, closed) if smooth and len(points) > 2 else points
        return [np.round(points.clip(-8000, 8000) * 8).astype(np.int32)]

    def _colour(self, colour):
        return tuple(float(v) for v in np.clip(np.asarray(colour) * self.gain, 0, 255))

    def shape(self, points, fill, smooth=True, outline=0.55):
        """A filled closed curve; `outline` is its darkness against the fill, or None."""
        pixels = self._pixels(points, smooth)
        cv2.fillPoly(self.image, pixels, self._colour(fill), cv2.LINE_AA, 3)
        cv2.fillPoly(self.mask, pixels, self.value, cv2.LINE_8, 3)
        if outline is not None:
            dark = self._colour(np.asarray(fill) * outline)
            cv2.polylines(self.image, pixels, True, dark, self.line, cv2.LINE_AA, 3)
            cv2.polylines(self.mask, pixels, True, self.value, self.line, cv2.LINE_8, 3)

    def stroke(self, points, colour, width=0.04, smooth=True):
        """An open line; `width` in units."""
        pixels, width = self._pixels(points, smooth, closed=False), max(1, round(width * self.pixels))
        cv2.polylines(self.image, pixels, False, self._colour(colour), width, cv2.LINE_AA, 3)
        cv2.polylines(self.mask, pixels, False, self.value, width, cv2.LINE_8, 3)

    def oval(self, x, y, rx, ry, fill, outline=None):
        matrix = self.matrix
        centre = matrix[:, :2] @ (x, y) + matrix[:, 2]
        axes = np.hypot(*matrix[:, :2]) * (abs(rx), abs(ry))
        if np.abs(centre).max() > 8000 or axes.max() > 8000:
            return
        centre, axes = [int(v) for v in centre * 8], [max(4, int(v)) for v in axes * 8]
        angle = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
        cv2.ellipse(self.image, centre, axes, angle, 0, 360, self._colour(fill), -1, cv2.LINE_AA, 3)
        cv2.ellipse(self.mask, centre, axes, angle, 0, 360, self.value, -1, cv2.LINE_8, 3)
        if outline is not None:
            dark = self._colour(np.asarray(fill) * outline)
            cv2.ellipse(self.image, centre, axes, angle, 0, 360, dark, self.line, cv2.LINE_AA, 3)
            cv2.ellipse(self.mask, centre, axes, angle, 0, 360, self.value, self.line, cv2.LINE_8, 3)


_CIRCLE = np.array([(math.cos(a), math.sin(a)) for a in np.arange(8) * math.pi / 4])


def _mirror(points):
    """A closed outline from its right half, listed from the top to the bottom."""
    points = np.asarray(points, float)
    return np.vstack([points, points[::-1] * (-1, 1)])


def _shade(colour, k):
    """A darker (k < 1) or lighter (k > 1, towards white) colour."""
    colour = np.asarray(colour, float)
    return colour * k if k <= 1 else colour + (255 - colour) * (k - 1)


# The points of one curve stay together on a line.
# fmt: off
# --------------------------------------------------------------------------------------------------------- the figures

FACE_FRONT = np.array([(0, -.95), (.5, -.85), (.85, -.45), (.9, 0), (.86, .32), (.72, .62), (.42, .88), (.12, 1.0),
    (-.12, 1.0), (-.42, .88), (-.72, .62), (-.86, .32), (-.9, 0), (-.85, -.45), (-.5, -.85)])
FACE_SIDE = np.array([(0, -.95), (.45, -.88), (.8, -.5), (.88, -.05), (.84, .2), (1.0, .46), (.84, .66), (.7, .94),
    (.4, 1.0), (.05, .82), (-.2, .6), (-.5, .35), (-.7, 0), (-.8, -.45), (-.5, -.85)])
FULL_TURN = 1.05  # radians: how far a head with yaw = 1 is turned; the face is a profile then


def _turned(x, yaw):
    """x on the front of a unit sphere -> x after turning the head."""
    angle = np.arcsin(np.clip(x, -1, 1)) + yaw * FULL_TURN
    return np.sin(np.clip(angle, -math.pi / 2, math.pi / 2))


def _eye(pen, x, y, rx, ry, look, mood):
    """One eye, `mood`: open, happy, shut, sleepy, dots, shock."""
    lash = _shade(np.asarray(look['hair']) * .3 + np.asarray(INK) * .7, .9)
    if pen.pixels < 7:
        pen.oval(x, y, rx, ry * (.9 if mood in ('open', 'shock') else .35), _shade(look['eye'], .6))
        return
    if mood in ('happy', 'shut'):
        bend = -.5 if mood == 'happy' else .4
        pen.stroke([(x - rx, y), (x, y + bend * ry), (x + rx, y)], lash, .07)
    elif mood == 'dots':
        pen.oval(x, y, rx * .38, ry * .75, INK)
    elif mood == 'shock':
        pen.oval(x, y, rx, rx, (252, 252, 252), .25)
        pen.oval(x, y, rx * .3, rx * .3, INK)
    else:
        top = y - ry * (1.0 if mood == 'open' else .25)
        pen.shape([(x - rx, y - ry * .2), (x - rx * .6, top), (x + rx * .6, top), (x + rx, y - ry * .2),
            (x + rx * .7, y + ry), (x - rx * .7, y + ry)], (252, 250, 250), outline=None)
        iy, ih = (y + top + ry) / 2, (y + ry - top) / 2
        pen.oval(x, iy, rx * .72, ih * .98, _shade(look['eye'], .62))
        pen.oval(x, iy + ih * .3, rx * .6, ih * .62, _shade(look['eye'], 1.12))
        pen.oval(x, iy, rx * .3, ih * .42, _shade(look['eye'], .28))
        pen.oval(x - rx * .28, iy - ih * .45, rx * .24, ih * .24, (255, 255, 255))
        pen.stroke([(x - rx * 1.1, y - ry * .1), (x - rx * .6, top), (x + rx * .6, top), (x + rx * 1.1, y - ry * .1)],
            lash, .085)


def _face(pen, look, pose):
    """The face without hair, turned by pose['yaw'] in 0..1."""
    yaw, skin = pose['yaw'], look['skin']
    pen.shape(FACE_FRONT * (1 - yaw) + FACE_SIDE * yaw, skin)
    child = 1.0 + .07 * (3.5 - look['tall'])
    mood = 'sleepy' if 'sleepy' in look['extras'] and pose['mood'] == 'open' else pose['mood']
    for side in (-1, 1):
        angle = side * .46 + yaw * FULL_TURN
        if angle > 1.15:
            continue
        x, wide = .95 * math.sin(angle), max(.5, math.cos(angle))
        _eye(pen, x, .26, .23 * wide * child, .27 * child, look, mood)
        if pen.pixels > 10:
            slope = pose['frown'] * side
            brow = np.array([(-.2 * wide, -.17 - slope * .07), (0, -.21), (.2 * wide, -.17 + slope * .07)])
            pen.stroke(brow + (x, .02), _shade(look['hair'], .6), .045)
            if pose['blush']:
                pen.oval(x + side * .06, .6, .15 * wide, .07, np.asarray(skin) * (1, .84, .84))
    if pen.pixels < 7:
        return
    mx = .95 * math.sin(yaw * FULL_TURN * .9)
    pen.stroke([(mx - .01, .5), (mx + .03, .54)], _shade(skin, .72), .04)
    mouth, wide = pose['mouth'], .16 * max(.5, math.cos(yaw * FULL_TURN))
    if mouth > .25:
        pen.shape([(mx - wide, .71), (mx - wide, .71), (mx + wide, .71), (mx + wide, .71),
            (mx + wide * .6, .72 + .2 * mouth), (mx - wide * .6, .72 + .2 * mouth)], (196, 84, 84))
    else:
        pen.stroke([(mx - wide, .73), (mx, .73 + pose['smile'] * .06), (mx + wide, .73)], _shade(skin, .5), .045)


def _back_hair(pen, look, pose, foot):
    """Hair behind the shoulders: a mantle from the crown down to its length."""
    yaw, end = pose['yaw'], 1.15 + look['length'] * (foot - 1.2)
    wave, sway, shift = look['wavy'], pose['sway'], -.42 * yaw
    half = [(.0, -1.12), (.62, -.98), (1.04, -.42), (1.1, .2)]
    steps = max(2, round((end - .2) / .45))
    for i in range(1, steps):
        f = i / steps
        half.append((1.1 + .12 * math.sin(f * 3) + wave * (1 if i % 2 else -1), .2 + (end - .3) * f))
    half += [(.86, end), (.62, end - .22), (.4, end + .1), (.16, end - .16)]
    points = _mirror(half)
    below = np.clip(points[:, 1:], 0, None)
    points[:, :1] = points[:, :1] * (1 - .28 * yaw * (below > .1)) + (shift * np.clip(below, 0, 1) + sway * below * .1)
    pen.shape(points, look['hair'] if pose['back'] else _shade(look['hair'], .86))
    if pen.pixels > 10:
        for x in (-.55, -.15, .3, .68) if pose['back'] else ():
            line = [(x * .5, -.9), (x, .1), (x * 1.1 + sway * .1, end * .7), (x + sway * end * .1, end - .2)]
            pen.stroke(line, _shade(look['hair'], .72), .03)


def _fringe_edge(kind):
    """The lower edge of the hair over the forehead, from the left temple to the right one."""
    if kind == 'blunt':
        return [(-.97, .35), (-.86, .02), (-.86, .02), (-.45, .0), (0, -.02), (.45, .0), (.86, .02), (.86, .02),
            (.97, .35)]
    if kind == 'parted':
        return [(-.98, .5), (-.84, .05), (-.58, -.3), (-.24, -.56), (-.02, -.8), (.02, -.8), (.24, -.56), (.58, -.3),
            (.84, .05), (.98, .5)]
    if kind == 'bare':
        return [(-.98, .45), (-.86, -.25), (-.55, -.62), (-.1, -.76), (.1, -.76), (.55, -.62), (.86, -.25), (.98, .45)]
    if kind == 'swept':
        return [(-.98, .45), (-.8, .1), (-.55, -.12), (-.2, -.3), (.3, -.62), (.3, -.62), (.5, -.2), (.7, .16),
            (.78, -.1), (.98, .4)]
    return [(-.98, .4), (-.84, -.02), (-.66, .28), (-.52, -.16), (-.3, .22), (-.14, -.2), (.04, .26), (.2, -.2),
        (.42, .2), (.55, -.16), (.72, .26), (.84, -.02), (.98, .4)]


def _front_hair(pen, look, pose):
    """The side of the head, side locks and fringe, over the face."""
    yaw, hair, sway, wave = pose['yaw'], look['hair'], pose['sway'], look['wavy']
    edge = np.array(_fringe_edge(look['fringe']))
    edge[:, 0] = _turned(edge[:, 0], yaw)
    if yaw > .1:
        x = edge[0, 0] + .04
        pen.shape([(x, -.9), (-.5, -1), (-1, -.4), (-1, .4), (-.75, .95), (min(x, x * .4 - .15), .8), (x, .4)], hair,
            outline=None)
    for side in (-1, 1) if yaw < .5 else (-1,):
        x, end = _turned(side * .93, yaw), look['locks']
        bend = sway * .12 * end + side * .05
        pen.shape([(x - .17, -.3), (x - .2 + wave, .4), (x - .15 + bend - wave, end * .75), (x + bend, end),
            (x + bend, end), (x + .1 + bend - wave, end * .7), (x + .17 + wave, .3), (x + .14, -.3)], hair)
        if 'tassels' in look['extras']:
            pen.oval(x + bend, end * .72, .17, .14, WHITE, .6)
    arc = np.linspace(math.pi / 2, math.asin(max(-1, edge[0, 0])), 9)
    pen.shape(np.vstack([edge, np.stack([np.sin(arc) * 1.06, -np.cos(arc) * 1.1 - .02], 1)]), hair)
    if pen.pixels > 9:
        x = _turned(np.array([-.62, -.3, .1, .5]), yaw * .8)
        shine = np.stack([np.r_[x, x[::-1]], [-.56, -.66, -.68, -.6, -.52, -.58, -.56, -.5]], 1)
        pen.shape(shine, _shade(hair, 1.35), outline=None)


def _animal_ear(pen, look, side, pose):
    """One ear on top of the head; the inside shows from the front only."""
    x = side * .62 * math.cos(pose['yaw'] * FULL_TURN) - .1 * pose['yaw']
    ear = pen.moved(x, -.72, side * (.3 + pose['ear']) * math.cos(pose['yaw'] * .9), (side, 1))
    hair, inside = look['hair'], _shade(look['hair'], 1.55 if np.mean(look['hair']) < 150 else 1.35)
    if look['ears'] == 'fox':
        outer, inner = [(-.4, .1), (-.26, -.5), (.02, -1.02), (.05, -1.02), (.32, -.55), (.42, .12)], .62
    elif look['ears'] == 'round':
        outer, inner = [(-.3, .0), (-.34, -.3), (0, -.55), (.34, -.3), (.3, .0)], .6
    else:
        outer, inner = [(-.22, .1), (-.28, -.9), (0, -1.6), (.28, -.9), (.22, .1)], .6
    outer = np.array(outer)
    ear.shape(outer, hair)
    if not pose['back'] and ear.pixels > 5:
        ear.shape(outer * inner + (0, -.06), inside if look['kind'] == 'person' else _shade(hair, .7), outline=None)


def _bow(pen, x, y, size, colour):
    """A ribbon tied in a bow."""
    bow = pen.moved(x, y, scale=(size, size))
    for side in (-1, 1):
        bow.shape([(side * .1, .1), (side * .5, 1.0), (side * .75, .85), (side * .2, 0)], _shade(colour, .85))
        bow.shape([(0, 0), (side * .8, -.55), (side * 1.0, 0), (side * .8, .45)], colour)
    bow.oval(0, 0, .22, .24, _shade(colour, .9), .6)


def _extras_behind(pen, look, pose):
    """What lies behind the head: tails of hair, buns."""
    hair, sway, back = look['hair'], pose['sway'], -pose['yaw']
    if 'drills' in look['extras']:
        for side in (-1, 1):
            x = side * 1.2 * math.cos(pose['yaw'] * 1.1) + .1
            for i in range(5):
                pen.oval(x + side * .12 * math.sin(i * 1.7) + sway * i * .06, -.35 + i * .38, .42 - i * .05, .3, hair,
                    .6)
            _bow(pen, x - side * .12, -.72, .42, look['ribbon'])
    if 'ponytail' in look['extras']:
        pen.shape([(back, -.5), (back - .5, -.6), (back - .75 + sway * .1, .5), (back - .5 + sway * .2, 1.6),
            (back - .2, .4)], hair)
    if 'bun' in look['extras'] and not pose['back']:  # at the back of the head, a little to the side
        x = 1.3 * math.sin(math.radians(128 + 110 * pose['yaw']))
        pen.oval(x, -.05, .5, .5, _shade(hair, .9), .6)
        _bow(pen, x * 1.1, .42, .36, look['ribbon'])
    if 'high_bun' in look['extras']:
        pen.oval(back * .6, -1.2, .55, .42, _shade(hair, .92), .6)


def _extras_front(pen, look, pose):
    """Ribbons, glasses and the rest, over the hair."""
    yaw, extras, ribbon, hair = pose['yaw'], look['extras'], look['ribbon'], look['hair']
    back = pose['back']
    if 'ahoge' in extras:
        pen.shape([(-.05, -1.05), (-.02, -1.4), (.3 + pose['sway'] * .2, -1.55), (.5, -1.4), (.28, -1.42), (.1, -1.3),
            (.08, -1.05)], hair)
    if 'hairband' in extras:
        pen.stroke([(-.98, -.42), (-.6, -.92), (0, -1.12), (.6, -.92), (.98, -.42)], ribbon, .13)
        _bow(pen, .15 + .3 * yaw, -1.1, .34, ribbon)
    if 'side_ribbons' in extras:
        for side in (-1, 1):
            x = side * .98 * math.cos(yaw * 1.1)
            if not (side > 0 and yaw > .6):
                _bow(pen, x, .02, .36, ribbon)
    if 'drills' in extras and back:
        pen.stroke([(0, -1.0), (0, 1.0)], _shade(hair, .7), .04)
    if back:
        if 'bun' in extras:
            pen.oval(0, -.15, .6, .58, _shade(hair, .95), .6)
            pen.stroke([(-.3, -.2), (0, -.4), (.3, -.1), (0, .15), (-.2, -.05)], _shade(hair, .7), .05)
            _bow(pen, .05, .55, .36, ribbon)
        if 'ponytail' in extras:
            pen.shape([(-.2, -.4), (.2, -.4), (.35, .6), (.1 + pose['sway'] * .2, 1.8), (-.3, .6)], _shade(hair, .9))
        if 'hat' in extras:
            pen.shape([(-1.1, -.5), (-.7, -1.2), (.7, -1.2), (1.1, -.5)], look['outfits'][0]['obi'])
        return
    if 'stray' in extras:
        x = _turned(np.array([-.15, .1, .35, .42]), yaw)
        pen.stroke(np.stack([x, [-.7, .0, .4, .62]], 1), hair, .07)
    if 'cords' in extras:
        for side in (-1, 1):
            x = _turned(side * .9, yaw)
            for y in (.4, .62) if not (side > 0 and yaw > .5) else ():
                pen.stroke([(x - .2, y), (x + .2, y + .22)], ribbon, .06)
                pen.stroke([(x + .2, y), (x - .2, y + .22)], ribbon, .06)
    if 'brow_dot' in extras and pen.pixels > 6:
        pen.oval(_turned(.0, yaw), -.28, .07, .07, (206, 60, 56))
    if 'glasses' in extras:
        for side in (-1, 1):
            angle = side * .46 + yaw * FULL_TURN
            if angle < 1.15:
                x, wide = .95 * math.sin(angle), max(.5, math.cos(angle))
                ring = np.array([x, .3]) + _CIRCLE * (.34 * wide, .3)
                pen.stroke(np.vstack([ring, ring[:1]]), (110, 60, 60), .05)
    if 'beard' in extras:
        x = _turned(.0, yaw)
        pen.shape([(x - .5, .75), (x, .68), (x + .4, .75), (x + .25, 1.25), (x, 1.45), (x - .3, 1.2)], _shade(hair,
            1.2))
    if 'hat' in extras:
        colour = look['outfits'][0]['obi']
        pen.shape([(-1.3, -.45), (-.75, -.65), (-.6, -1.25), (.6, -1.25), (.75, -.65), (1.3, -.45), (0, -.35)], colour)


def _hood(pen, look, pose):
    """The nun's white hood: around the face (from the front) or over all of the head (from behind)."""
    cloth, yaw = look['ribbon'], pose['yaw']
    pen.shape(_mirror([(0, -1.22), (.7, -1.05), (1.12, -.4), (1.14, .4), (1.2, 1.2), (1.35, 1.9), (.6, 2.05)]), cloth)
    if pose['back']:
        pen.stroke([(-.5, .9), (.1, 1.0), (.6, .85)], _shade(cloth, .8), .04)
        return
    hole = np.array(_mirror([(0, -.72), (.5, -.62), (.72, -.2), (.7, .4), (.4, .88), (.1, .96)])) + (.22 * yaw, 0)
    pen.shape(hole, look['skin'])


def _person_head(pen, look, pose):
    if 'hood' in look['extras']:
        _hood(pen, look, pose)
        if not pose['back']:
            yaw = min(pose['yaw'], .5)
            inner = pen.moved(0, .08, scale=(.86, .86))
            _face(inner, look, dict(pose, yaw=yaw))
            x = .3 * yaw
            inner.shape([(-.8 + x, -.45), (.3 + x, -.8), (.8 + x, -.5), (.5 + x, -.2), (.1 + x, .1), (-.3 + x, .5),
                (-.25 + x, .1), (-.6 + x, .1)], look['hair'])
            inner.shape([(-1.0, -.4), (-.95, -1.02), (.95, -1.02), (1.0, -.4), (.5, -.58), (-.5, -.58)],
                look['ribbon'])
        return
    if not pose['back']:
        _face(pen, look, pose)
        _front_hair(pen, look, pose)
    for side in (1, -1) if look['ears'] else ():
        _animal_ear(pen, look, side, pose)
    _extras_front(pen, look, pose)


def _beast_head(pen, look, pose):
    """A furry head: fox (pointed muzzle) or bear (round, with white moustache and eyebrows), or a masked tanuki."""
    fur, muzzle, x, fox = look['hair'], look['muzzle'], .62 * pose['yaw'], 'fox_face' in look['extras']
    for side in (1, -1) if look['ears'] else ():
        _animal_ear(pen, look, side, pose)
    jaw = 1.0 if fox else .92
    pen.shape(_mirror([(0, -1.0), (.6, -.9), (.95, -.4), (1.02, .2), (1.2, .48), (.95, .6), (.9, .8), (.45, jaw),
        (.1, jaw + .08)]), fur)
    if pose['back']:
        return
    if 'mask' in look['extras']:
        pen.shape(_mirror([(x, -.05), (.5 + x * .4, -.1), (.78 + x * .2, .2), (.4 + x * .4, .42), (x, .3)]),
            _shade(fur, .5), outline=None)
    if fox:
        pen.shape([(x - .8, .75), (x - .5, .32), (x, .25), (x + .5, .32), (min(x + .8, 1.1), .75), (x, 1.08)], muzzle,
            outline=None)
        pen.shape([(x - .25, .2), (x + .25, .2), (x * 1.5 + .18, .62), (x * 1.5 - .18, .62)], fur, outline=None)
        if 'flame' in look['extras']:
            pen.oval(.5 * x, -.42, .08, .14, (250, 206, 90))
    else:
        pen.oval(x, .5, .46, .36, muzzle, .75)
    pen.oval(x * 1.5, .45 if not fox else .62, .17, .11, INK)
    for side in (-1, 1):
        ex = side * .42 * (1 - .3 * pose['yaw']) + .75 * x
        if abs(ex) > .92:
            continue
        mood = 'shut' if 'moustache' in look['extras'] and pose['mood'] == 'open' else pose['mood']
        _eye(pen, ex, .08, .17, .15, dict(look, hair=INK), mood)
        if 'moustache' in look['extras']:
            pen.shape([(ex - .22, -.14), (ex, -.3), (ex + .22, -.14), (ex, -.12)], WHITE, outline=.8)
            pen.shape([(x, .56), (x + side * .3, .5), (x + side * .62, .72), (x + side * .5, .95),
                (x + side * .2, .78)], WHITE, outline=.8)
    if 'moustache' in look['extras']:
        pen.shape([(x - .5, .85), (x, .8), (x + .5, .85), (x + .3, 1.25), (x, 1.4), (x - .3, 1.25)], _shade(muzzle,
            1.2), outline=.8)
    elif pose['mouth'] > .25:
        pen.oval(x * 1.3, .8, .16, .1 * pose['mouth'] + .04, (170, 70, 70))
    else:
        pen.stroke([(x * 1.4 - .2, .76), (x * 1.45, .7), (x * 1.4 + .2, .76)], _shade(fur, .4), .04)


def _arm(pen, look, outfit, side, angles, body):
    """One arm with its sleeve, and where the palm is; angles in radians from straight down, outwards positive."""
    form, top, thick = outfit['form'], outfit['top'], .27 * math.sqrt(body['w'])
    skin = _shade(look['hair'], .95) if look['kind'] == 'beast' else look['skin']
    upper, along = (np.array([side * math.sin(a), math.cos(a)]) for a in angles)
    shoulder = np.array([side * .66 * body['w'] * body['turn'], 1.48])
    elbow = shoulder + body['arm'] * upper
    hand = elbow + body['arm'] * .95 * along
    palm = hand + along * .16
    out = np.array([upper[1], -upper[0]]) * side  # across the upper arm, away from the body
    down = np.array([-along[1], along[0]])  # across the forearm: the side on which the sleeve hangs
    down *= math.copysign(1, down[1]) if abs(along[0]) > .3 else math.copysign(1, down[0] * side)
    pen.oval(*palm, thick * .75, thick * .75, skin, .65)
    if form in ('jinbei', 'dress'):
        bare = skin if form == 'jinbei' else (248, 248, 250)
        pen.shape([elbow + out * thick * .6, elbow - out * thick * .6, hand + down * .16, hand - down * .16], bare,
            False, .7)
        long, wide = (1.0, 1.2) if form == 'jinbei' else (.6, 1.6)
        cuff = shoulder + (elbow - shoulder) * long
        pen.shape([shoulder + out * .26, cuff + out * thick * wide, cuff - out * thick * wide, shoulder - out * .4],
            top)
        return palm
    pen.shape([shoulder + out * .28 - upper * .1, elbow + out * thick * .9, elbow - out * thick * 1.2,
        shoulder - out * .45], top)
    drop = outfit['sleeve'] * (.4 + .6 * abs(along[0])) + .12
    low, bag = hand + down * drop, elbow + down * max(thick, drop * .85) + along * .1
    pen.shape([elbow - down * thick * .85, hand - down * .22, hand - down * .22, low, low,
        low * .5 + bag * .5 + down * .08, bag], top)
    pen.stroke([hand - down * .2, low], _shade(outfit['collar'], .9), .07)
    if outfit['flowers'] is not None and pen.pixels > 6:
        for f, g in ((.3, .55), (.7, .75)):
            pen.oval(*(hand * (1 - f) + elbow * f + down * drop * g), .13, .12, outfit['flowers'])
    return palm


def _tail(pen, look, pose, foot):
    colour = look['hair'] if look['tail'] == 'hair' else look['tail']
    base, s = 1.2 + (foot - 1.2) * .5, pose['sway']
    pen.shape([(-.1, base), (-.9, base + .1), (-1.7 + s * .3, base - .1), (-2.2 + s * .4, base + .6),
        (-2.0 + s * .4, base + .7), (-1.5 + s * .2, base + 1.1), (-.7, base + .9), (0, base + .5)], colour)
    pen.shape([(-1.75 + s * .3, base + .1), (-2.2 + s * .4, base + .6), (-2.0 + s * .4, base + .7),
        (-1.6 + s * .3, base + .7)], _shade(colour, 1.5), outline=None)


def _body(pen, look, outfit, pose, foot):
    """Everything below the chin: legs, skirt, obi, chest, collar, arms."""
    back, yaw, form = pose['back'], pose['yaw'], outfit['form']
    w = look['broad'] * (.78 + .04 * look['tall'])
    turn = 1 - .3 * yaw

    def at(f):  # 0 = shoulders, 1 = soles
        return 1.2 + f * (foot - 1.2)

    body = {'w': w, 'turn': turn, 'arm': .2 * (2 * look['tall'] - 2.2) * .95 + .12}
    top, skirt, wt = outfit['top'], outfit['skirt'], w * turn
    sit, lean = pose['sit'], pose['walk']
    arms = ((-1, pose['arms'][0]), (1, pose['arms'][1]))
    if yaw > .6 or back:
        _arm(pen, look, outfit, 1, arms[1][1], body)
        if back:
            _arm(pen, look, outfit, -1, arms[0][1], body)
    obi_top, obi_low = at(.3 if not sit else .42), at(.46 if not sit else .7)
    if sit:
        knee = .35 * yaw
        pen.shape([(-.7 * wt, obi_top), (-1.0 * w, at(.85)), (-1.15 * w, at(1)), (0, at(1.06)),
            ((1.15 + knee) * w, at(1)), ((1.0 + knee) * w, at(.8)), (.7 * wt, obi_top)], skirt)
        pen.stroke([(-.5 * w, at(.97)), (.1 * w, at(.88)), (.6 * w, at(.96))], _shade(skirt, .7), .04)
    else:
        for side in (-1, 1):
            x = side * .3 * w + lean * side * .25
            if form in ('dress', 'jinbei'):
                calf = [(x - .17 * w, at(.55)), (x + .17 * w, at(.55)), (x + .14 * w, at(.96)), (x - .14 * w, at(.96))]
                pen.shape(calf, look['skin'] if form == 'jinbei' else (246, 244, 244), False)
                for k in range(4) if form == 'dress' else ():
                    pen.stroke([(x - .16 * w, at(.68 + .07 * k)), (x + .16 * w, at(.68 + .07 * k))], (88, 52, 58), .1)
            shoe = (176, 40, 44) if form == 'dress' else (246, 244, 240)
            pen.shape([(x - .24, at(.95)), (x + .22 + .15 * yaw, at(.95)), (x + .3 + .2 * yaw, at(1.0)),
                (x - .28, at(1.0))], shoe)
        hem, flare = {'hakama': (.93, 1.12), 'dress': (.68, 1.25), 'jinbei': (.66, .8), 'robe': (.97, .95)}.get(form,
            (.95, .72))
        flare += abs(lean) * .25
        h = at(hem)
        pen.shape([(-.62 * wt, obi_top), (-.78 * wt, at(.55)), (-flare * w, h), (0, h + .06), (flare * w, h),
            (.78 * wt, at(.55)), (.62 * wt, obi_top)], skirt)
        fold = _shade(skirt, .68)
        if pen.pixels > 5:
            if form == 'hakama':
                for k in (-.6, -.2, .2, .6):
                    pen.stroke([(k * .7 * w, obi_low), (k * flare * w * 1.05, h)], fold, .04)
            elif form == 'dress':
                pen.shape([(-.5 * wt, obi_low - .2), (.5 * wt, obi_low - .2), (.75 * w, at(.62)), (0, at(.66)),
                    (-.75 * w, at(.62))], outfit['obi'], outline=.8)
            elif form != 'jinbei' and not back:
                pen.stroke([(.25 * wt, obi_low), (.42 * wt, at(.7)), (.3 * w + lean * .2, h)], fold, .05)
        if outfit['flowers'] is not None and pen.pixels > 5:
            for k, (fx, fy) in enumerate(((-.4, .85), (.35, .8), (.05, .9), (-.15, .74), (.5, .9), (-.5, .66))):
                pen.oval(fx * w, at(fy), .14, .13, _shade(outfit['flowers'], .85 + .2 * (k % 2)))
    if not back and look['kind'] == 'person':
        pen.shape([(-.24, .7), (.24, .7), (.3, 1.35), (-.3, 1.35)], _shade(look['skin'], .86), False)
    chest = [(-.3, 1.12), (-.66 * wt, 1.2), (-.84 * wt, 1.5), (-.72 * wt, at(.2)), (-.64 * wt, obi_low),
        (.64 * wt, obi_low), (.72 * wt, at(.2)), (.84 * wt, 1.5), (.66 * wt, 1.2), (.3, 1.12)]
    if look['broad'] > 1.3:  # a belly
        chest[3], chest[6] = (-.92 * wt, at(.3)), (.92 * wt, at(.3))
    pen.shape(chest, top)
    mid = .35 * yaw * wt
    if form == 'dress':
        if not back:
            pen.shape([(-.45 * wt, 1.3), (.45 * wt, 1.3), (.4 * wt, obi_low), (-.4 * wt, obi_low)], outfit['obi'],
                outline=.8)
            _bow(pen, mid, 1.35, .28, outfit['cord'])
        pen.shape([(-.64 * wt, obi_top + .1), (.64 * wt, obi_top + .1), (.64 * wt, obi_low), (-.64 * wt, obi_low)],
            outfit['obi'], False, .8)
        if back:
            _bow(pen, 0, obi_low, .6, outfit['obi'])
    else:
        if not back:
            skin = look['skin'] if look['kind'] == 'person' else look['muzzle']
            pen.shape([(-.3, 1.08), (.3, 1.08), (mid + .02, 1.75)], skin, False, None)
            pen.stroke([(.34, 1.06), (mid, 1.85), (mid * .6 - .28 * wt, obi_top)], outfit['collar'], .17, False)
            pen.stroke([(-.34, 1.06), (mid, 1.8), (mid * .6 + .28 * wt, obi_top)], outfit['collar'], .17, False)
            pen.stroke([(-.44, 1.12), (mid - .08, 1.86), (mid * .6 + .2 * wt, obi_top)], _shade(top, .7), .04, False)
        else:
            pen.stroke([(-.34, 1.14), (0, 1.24), (.34, 1.14)], outfit['collar'], .13)
        if form not in ('jinbei', 'robe'):
            half = (.68 if look['broad'] <= 1.3 else .9) * wt
            low = obi_low if form != 'hakama' else obi_top * .5 + obi_low * .5
            pen.shape([(-half, obi_top), (half, obi_top), (half * .98, low), (-half * .98, low)], outfit['obi'], False)
            pen.stroke([(-half, (obi_top + low) / 2), (half, (obi_top + low) / 2)], outfit['cord'], .1, False)
            if form == 'hakama' and not back:
                _bow(pen, mid * .7, low, .34, outfit['obi'])
            if back and form == 'kimono':
                pen.shape([(-.46 * w, obi_top - .2), (.46 * w, obi_top - .2), (.42 * w, obi_low + .3),
                    (-.42 * w, obi_low + .3)], outfit['obi'], False)
                pen.stroke([(-.46 * w, (obi_top + obi_low) / 2), (.46 * w, (obi_top + obi_low) / 2)], outfit['cord'],
                    .1, False)
        elif form == 'robe':
            pen.stroke([(-.64 * wt, obi_top), (.64 * wt, obi_top)], outfit['obi'], .16, False)
        else:
            pen.stroke([(-.64 * wt, obi_low), (.64 * wt, obi_low)], outfit['obi'], .14, False)
    return arms, body


def _held(pen, kind, palm, colour):
    """A thing in the hand: drawn over the figure and taken out of its mask."""
    thing = pen.moved(*palm, value=0)
    if kind == 'broom':
        thing.stroke([(.3, -1.8), (-.2, 1.8)], (166, 124, 76), .12)
        thing.shape([(-.2, 1.6), (-.75, 2.9), (.3, 2.9), (0, 1.6)], (206, 164, 92))
    elif kind == 'tray':
        thing.shape([(-1.0, -.1), (1.0, -.1), (.9, .1), (-.9, .1)], (70, 30, 34), False)
        thing.shape([(-.3, -.45), (.2, -.45), (.15, -.1), (-.25, -.1)], (236, 232, 224), False)
    elif kind == 'fan':
        thing.shape([(0, .2), (-.7, -.7), (0, -1.0), (.7, -.7)], colour)
    elif kind == 'lantern':
        thing.stroke([(0, 0), (0, .5)], INK, .06)
        thing.oval(0, 1.0, .42, .55, (252, 222, 150), .6)
    else:
        thing.oval(0, -.05, .3, .28, colour, .6)


def _boar(pen, look, pose):
    """Urinosuke: a plump white boar with long ears, a green mane and a leaf for a tail. The origin is its head."""
    white, green, nose = look['skin'], look['hair'], look['muzzle']
    yaw, x, s = pose['yaw'], .45 * pose['yaw'], pose['sway']
    long = .5 + 1.6 * yaw
    if not pose['back']:
        pen.stroke([(-long - .8, .6), (-long - 1.5, .5 + s * .2), (-long - 1.9, -.1 + s * .3)], white, .14)
        tip = np.array([-long - 1.9, -.1 + s * .3])
        pen.shape(tip + [(0, .1), (-.35, -.3), (-.05, -.9), (.25, -.35)], green)
    for leg in (-long - .5, -long * .4 - .4, .1, .6):
        pen.shape([(leg - .24, 1.3), (leg + .24, 1.3), (leg + .2, 2.3), (leg - .2, 2.3)], _shade(white, .93), False,
            .75)
    pen.shape([(.6, -.5), (.95, .6), (.7, 1.7), (-.6, 2.0), (-long - .7, 1.7), (-long - 1.1, .8), (-long - .6, -.1),
        (-.5, -.5)], white, outline=.7)
    for side in (1, -1):
        ear = pen.moved(side * .55 * (1 - .5 * yaw) - .2 * yaw, -.7, side * (.75 + pose['ear']), (side, 1))
        ear.shape([(-.2, .1), (-.32, -.7), (0, -1.5), (.3, -.7), (.2, .1)], white, outline=.7)
        if not pose['back']:
            ear.shape([(-.08, 0), (-.14, -.7), (0, -1.2), (.14, -.7), (.08, 0)], (240, 204, 196), outline=None)
    pen.shape(_mirror([(0, -.95), (.65, -.8), (1.05, -.2), (1.1, .4), (.8, .85), (.3, 1.02)]), white, outline=.7)
    if pose['back']:
        pen.shape([(-.1, -1.1), (.2, -1.0), (.25, .4), (.15, 1.7), (-.15, 1.7), (-.2, .3)], green)
        pen.shape(np.array([(0, .1), (-.35, -.3), (-.05, -.9), (.25, -.35)]) + (.1 + s * .2, 1.9), green)
        return
    pen.shape([(x - .35, -.75), (x - .1, -1.3), (x, -1.0), (x + .3, -1.35), (x + .3, -.8), (x + .05, -.5)], green)
    pen.oval(x * 1.4, .42, .4, .3, nose, .65)
    for side in (-1, 1):
        pen.oval(x * 1.5 + side * .13, .42, .06, .09, _shade(nose, .6))
        ex = x * 1.1 + side * .55 * (1 - .25 * yaw)
        if ex > 1.0:
            continue
        pen.oval(ex * .95, -.28, .13, .08, green)
        if pose['mood'] in ('happy', 'shut'):
            pen.stroke([(ex - .14, .1), (ex, .04), (ex + .14, .1)], INK, .07)
        else:
            pen.oval(ex, .06, .13, .17, (70, 40, 52))
            pen.oval(ex - .04, .0, .05, .06, (255, 255, 255))


def _figure(pen, actor, pose):
    """Draw one figure; the pen's origin is the centre of its head."""
    look, outfit = actor['look'], actor['outfit']
    if look['kind'] == 'boar':
        return _boar(pen.moved(turn=pose['tilt'] * .4), look, pose)
    foot = _foot(look, pose['sit'])
    head = pen.moved(*_neck(pose['tilt']), turn=pose['tilt'])
    if look['tail'] and not pose['back']:
        _tail(pen, look, pose, foot)
    person, hood = look['kind'] == 'person', 'hood' in look['extras']
    if person and not pose['back'] and not hood:
        _back_hair(head, look, pose, foot)
        _extras_behind(head, look, pose)
    arms, body = _body(pen, look, outfit, pose, foot)
    if look['tail'] and pose['back']:
        _tail(pen.moved(scale=(.8, 1)), look, pose, foot)
    over = .6 < pose['yaw'] or pose['back']
    palms = [] if pose['back'] else [_arm(pen, look, outfit, s, a, body) for s, a in arms if not (s > 0 and over)]
    if person and pose['back'] and not hood:
        _extras_behind(head, look, pose)
        _back_hair(head, look, pose, foot)
    (_person_head if person else _beast_head)(head, look, pose)
    if palms and actor['held']:
        _held(pen, actor['held'], palms[0], actor['held_colour'])


def _neck(tilt):
    """Where the head's centre goes when the head is tilted about the neck."""
    return .8 * math.sin(tilt), .8 - .8 * math.cos(tilt)


def _foot(look, sit):
    """y of the soles (or of the floor under somebody sitting) below the head's centre."""
    if look['kind'] == 'boar':
        return 2.3
    full = 2 * look['tall'] - 1
    return 1.2 + (full - 1.2) * .62 if sit else full


# ----------------------------------------------------------------------------------------------------- the backgrounds


def _gradient(h, w, top, bottom):
    f = np.linspace(0, 1, h)[:, None, None]
    column = np.asarray(top, float) * (1 - f) + np.asarray(bottom, float) * f
    return np.repeat(column.astype(np.uint8), w, 1)


def _mottle(rng, image, cell, strength):
    """Soft irregular light and dark, in place: painted backgrounds are never flat."""
    h, w = image.shape[:2]
    cell = max(2, round(cell * h))
    noise = rng.normal(0, strength, (h // cell + 2, w // cell + 2)).astype(np.float32)
    noise = cv2.resize(noise, (w, h), interpolation=cv2.INTER_CUBIC)
    image[:] = cv2.add(image, cv2.merge([noise] * 3), dtype=cv2.CV_8U)


def _foliage(rng, pen, x0, x1, y0, y1, colours, count, size):
    """Leaves or flowers as tufts, the light ones on top of the dark ones."""
    for shade in np.linspace(.66, 1.14, count):
        r = size * rng.uniform(.6, 1.5) * (1.35 - .65 * (shade - .66) / .48)
        colour = _shade(colours[int(rng.integers(len(colours)))], shade * rng.uniform(.94, 1.06))
        pen.oval(rng.uniform(x0, x1), rng.uniform(y0, y1) - .3 * size * (shade - .66), r * rng.uniform(.9, 1.6),
            r * .8, colour)


GREENS = ((96, 142, 76), (70, 118, 66), (130, 166, 88), (54, 92, 58))
AUTUMN = ((206, 70, 40), (226, 132, 44), (190, 48, 44), (236, 180, 70))
BLOSSOM = ((246, 200, 216), (240, 176, 200), (252, 226, 232), (150, 130, 110))


def _room(rng, pen, w):
    wall = _shade(((214, 190, 148), (196, 176, 150), (156, 116, 76), (226, 214, 190))[int(rng.integers(4))],
        rng.uniform(.6, 1.1))
    floor = rng.uniform(.62, .95)
    pen.shape([(0, 0), (w, 0), (w, 2), (0, 2)], wall, False, None)
    wood = _shade((96, 62, 42), rng.uniform(.6, 1.3))
    x, bright = rng.uniform(-.3, 0), rng.uniform(.75, 1.0)
    while x < w:
        width = rng.uniform(.3, .6)
        kind = rng.random()
        if kind < .55:  # shoji
            pen.shape([(x, .1), (x + width, .1), (x + width, floor), (x, floor)], _shade((250, 244, 228), bright),
                False, None)
            columns, rows = int(rng.integers(2, 5)), int(rng.integers(4, 8))
            for i in range(columns + 1):
                pen.stroke([(x + width * i / columns, .1), (x + width * i / columns, floor)], wood, .008, False)
            for i in range(rows + 1):
                y = .1 + (floor - .1) * i / rows
                pen.stroke([(x, y), (x + width, y)], wood, .008, False)
        elif kind < .75:  # painted sliding door
            pen.shape([(x, .1), (x + width, .1), (x + width, floor), (x, floor)], _shade(wall, .85), False, None)
            pen.oval(x + width * .85, floor * .6, .02, .03, wood)
            _foliage(rng, pen, x + .05, x + width - .05, floor * .5, floor * .9, (_shade(wall, .7), (150, 60, 50)), 8,
                .04)
        elif kind < .85:  # hanging scroll
            pen.shape([(x + .1, .12), (x + .26, .12), (x + .26, .5), (x + .1, .5)], (236, 228, 206), False, .6)
            pen.stroke([(x + .18, .18), (x + .14, .3), (x + .2, .42)], INK, .012)
        x += width
        pen.shape([(x - .02, 0), (x + .025, 0), (x + .025, floor), (x - .02, floor)], wood, False, None)
    pen.shape([(0, .07), (w, .07), (w, .11), (0, .11)], wood, False, None)
    mat = _shade((188, 176, 112), rng.uniform(.6, 1.05)) if rng.random() < .7 else _shade(wood, 1.2)
    pen.shape([(0, floor), (w, floor), (w, 2), (0, 2)], mat, False, None)
    vanish = rng.uniform(.2, .8) * w
    for i in range(-6, 14):
        x = i * .25
        pen.stroke([(vanish + (x - vanish) * .9, floor), (vanish + (x - vanish) * 3, floor + .8)], _shade(mat, .75),
            .008, False)
    for k in (.06, .2):
        pen.stroke([(0, floor + k), (w, floor + k)], _shade(mat, .72), .01, False)


def _corridor(rng, pen, w):
    wood, vx, vy = _shade((126, 84, 54), rng.uniform(.5, 1.3)), rng.uniform(.25, .75) * w, rng.uniform(.3, .5)
    d = rng.uniform(.08, .25)
    end = [(vx - d, vy - d), (vx + d, vy - d), (vx + d, vy + d), (vx - d, vy + d)]
    light = _shade((240, 226, 190), rng.uniform(.7, 1.0))
    pen.shape([(0, 0), end[0], end[3], (0, 1.3)], _shade(light, .85), False, None)
    pen.shape([(w, 0), end[1], end[2], (w, 1.3)], _shade(wood, .8), False, None)
    pen.shape([(0, 0), (w, 0), end[1], end[0]], _shade(wood, .6), False, None)
    pen.shape([(0, 1.3), end[3], end[2], (w, 1.3)], wood, False, None)
    pen.shape(end, light if rng.random() < .5 else _shade(wood, .45), False, .6)
    for x in np.linspace(-1.5, w + 1.5, 16):
        pen.stroke([(vx + (x - vx) * d * .7, vy + d), (x, 1.3)], _shade(wood, .75), .006, False)
    for f in (.15, .3, .5, .8):
        for side, x0 in ((0, .0), (1, w)):
            x = (end[0][0] if side == 0 else end[1][0]) * (1 - f) + x0 * f
            pen.stroke([(x, (vy - d) * (1 - f)), (x, (vy + d) * (1 - f) + 1.3 * f)], _shade(wood, .5), .012 + .03 * f,
                False)


def _garden(rng, pen, w):
    leaves = (GREENS, GREENS, AUTUMN, BLOSSOM)[int(rng.integers(4))]
    horizon = rng.uniform(.4, .7)
    hill = _shade((110, 150, 150), rng.uniform(.8, 1.2))
    for k in range(2):
        xs = np.linspace(-.2, w + .2, 7)
        ys = horizon - .1 - rng.uniform(0, .22, 7) * (1 - .5 * k)
        pen.shape(np.vstack([np.stack([xs, ys], 1), [(w + .2, 1.5), (-.2, 1.5)]]), _shade(hill, 1 - .15 * k),
            outline=None)
    _foliage(rng, pen, -.1, w + .1, horizon - .35, horizon, leaves, 46, .09)
    ground = _shade(((150, 170, 96), (196, 178, 140), (226, 230, 236))[int(rng.integers(3))], rng.uniform(.8, 1.05))
    pen.shape([(-.1, horizon), (w + .1, horizon), (w + .1, 2), (-.1, 2)], ground, False, None)
    pen.shape([(w * .45, horizon), (w * .55, horizon), (w * .9, 1.4), (w * .2, 1.4)], _shade(ground, 1.3), False, None)
    _foliage(rng, pen, -.1, w + .1, horizon, horizon + .08, leaves, 18, .05)
    if rng.random() < .5:  # flowers
        colour = ((240, 120, 150), (130, 140, 220), (250, 220, 90), (250, 250, 250))[int(rng.integers(4))]
        _foliage(rng, pen, 0, w, horizon, 1.2, (colour,), 40, .014)
    for _ in range(int(rng.integers(3))):
        x, thick = rng.uniform(0, w), rng.uniform(.02, .06)
        pen.shape([(x - thick, 0), (x + thick, 0), (x + thick * 1.3, horizon + .1), (x - thick * 1.3, horizon + .1)],
            (92, 72, 60), False, .7)
        _foliage(rng, pen, x - .3, x + .3, -.1, .15, leaves, 14, .09)


def _street(rng, pen, w):
    ground = rng.uniform(.65, .85)
    stone = _shade((196, 186, 170), rng.uniform(.6, 1.05))
    pen.shape([(-.1, ground), (w + .1, ground), (w + .1, 2), (-.1, 2)], stone, False, None)
    for k in range(6):
        pen.stroke([(0, ground + .02 + k * k * .014), (w, ground + .02 + k * k * .014)], _shade(stone, .85), .006,
            False)
    x = -rng.uniform(0, .5)
    while x < w:
        width, wood = rng.uniform(.5, 1.0), _shade((120, 84, 60), rng.uniform(.5, 1.2))
        wall = _shade((230, 216, 190), rng.uniform(.7, 1.0)) if rng.random() < .5 else wood
        pen.shape([(x, .1), (x + width, .1), (x + width, ground), (x, ground)], wall, False, None)
        for k in range(int(width / .045)):
            if wall is wood or k % 4 == 0:
                pen.stroke([(x + k * .045, .15), (x + k * .045, ground)], _shade(wood, .7), .006, False)
        door = x + width * rng.uniform(.15, .5)
        pen.shape([(door, ground - .42), (door + .32, ground - .42), (door + .32, ground), (door, ground)],
            _shade(wood, .35), False, None)
        cloth = rng.integers(40, 220, 3)
        for k in range(4):
            pen.shape([(door + k * .08, ground - .43), (door + k * .08 + .075, ground - .43),
                (door + k * .08 + .075, ground - .28), (door + k * .08, ground - .28)], cloth, False, .8)
        roof = _shade((84, 90, 104), rng.uniform(.6, 1.2))
        pen.shape([(x - .06, .2), (x + .04, .02), (x + width - .04, .02), (x + width + .06, .2)], roof, False, .6)
        for k in range(int(width / .06)):
            pen.stroke([(x + k * .06 + .04, .03), (x + k * .06, .2)], _shade(roof, .7), .006, False)
        x += width + rng.uniform(0, .25)


def _night(rng, pen, w):
    for _ in range(40):
        pen.oval(rng.uniform(0, w), rng.uniform(0, .7), .003, .003, (230, 230, 250))
    if rng.random() < .6:
        pen.oval(rng.uniform(0, w), rng.uniform(.1, .4), .09, .09, (244, 240, 214))
    dark = (22, 26, 44)
    xs = np.linspace(-.2, w + .2, 9)
    pen.shape(np.vstack([np.stack([xs, .7 - rng.uniform(0, .2, 9)], 1), [(w + .2, 2), (-.2, 2)]]), (34, 42, 70),
        outline=None)
    for x in np.arange(-.2, w, .5):
        if rng.random() < .5:
            pen.shape([(x, .72), (x + .25, .55 - rng.uniform(0, .1)), (x + .5, .72), (x + .45, 1), (x + .05, 1)],
                dark, False, None)
            pen.shape([(x + .18, .78), (x + .3, .78), (x + .3, .9), (x + .18, .9)], (246, 196, 100), False, None)
    pen.shape([(-.1, .93), (w + .1, .93), (w + .1, 2), (-.1, 2)], (26, 34, 40), False, None)


def _clouds(rng, pen, w):
    for _ in range(int(rng.integers(2, 6))):
        x, y, s = rng.uniform(0, w), rng.uniform(0, .8), rng.uniform(.05, .14)
        for _ in range(9):
            pen.oval(x + rng.normal(0, s * 1.8), y + rng.normal(0, s * .35), s * 1.2, s * .7, _shade((250, 252, 254),
                rng.uniform(.93, 1)))


def _fancy(rng, pen, w):
    """The empty backgrounds of moods: bokeh, rays, flowers, stripes."""
    kind, colour = int(rng.integers(4)), rng.integers(120, 256, 3)
    cx, cy = rng.uniform(0, w), rng.uniform(0, 1)
    for i in range(30):
        x, y, r = rng.uniform(0, w), rng.uniform(0, 1), rng.uniform(.02, .12)
        if kind == 0:
            pen.oval(x, y, r, r, _shade(colour, rng.uniform(.9, 1.5)))
        elif kind == 1:
            a = i / 30 * 2 * math.pi + rng.uniform(0, .1)
            ray = [(cx, cy), (cx + 3 * math.cos(a), cy + 3 * math.sin(a)), (cx + 3 * math.cos(a + .09),
                cy + 3 * math.sin(a + .09))]
            pen.shape(ray, colour, False, None)
        elif kind == 2:
            for k in range(5):
                pen.oval(x + r * .5 * math.cos(k * 1.257), y + r * .5 * math.sin(k * 1.257), r * .36, r * .36,
                    _shade(colour, 1.3 if i % 2 else .95))
        else:
            pen.stroke([(x, -.1), (x + rng.normal(0, .03), 1.3)], colour, rng.uniform(.004, .03), False)


def _steam(rng, pen, w):
    """The open-air bath: rocks round grey water."""
    pen.shape([(-.1, .55), (w + .1, .55), (w + .1, 2), (-.1, 2)], _shade((130, 158, 168), rng.uniform(.6, 1.1)),
        False, None)
    for _ in range(14):
        x, r = rng.uniform(0, w), rng.uniform(.06, .16)
        pen.shape(np.array([x, .55]) + _CIRCLE * r * rng.uniform(.6, 1.2, (8, 1)), _shade((110, 106, 104),
            rng.uniform(.5, 1.1)), outline=.7)
    _foliage(rng, pen, 0, w, .1, .4, GREENS, 20, .08)


def _clutter(rng, pen, w):
    """One thing that could be taken for somebody: lantern, umbrella, doll, vase, fox statue, lucky daruma."""
    x, y, s, kind = rng.uniform(0, w), rng.uniform(.7, 1.05), rng.uniform(.05, .13), int(rng.integers(7))
    y = (rng.uniform(.1, .4) if rng.random() < .7 else y) if kind == 0 else y - (1.1, 2.1, 2.5, 1.2, 1.9, .9,
        2.1)[kind] * s
    thing = pen.moved(x, y, rng.normal(0, .04), (s, s))
    colour = rng.integers(60, 250, 3)
    if kind == 0:
        thing.oval(0, 0, .8, 1.0, ((236, 90, 70), (250, 226, 170))[int(rng.integers(2))], .6)
        for k in (-.5, 0, .5):
            thing.stroke([(-.75, k), (0, k + .06), (.75, k)], (120, 60, 50), .05)
        thing.shape([(-.4, -1.15), (.4, -1.15), (.4, -.9), (-.4, -.9)], INK, False)
    elif kind == 1:
        thing.shape([(-2, 0), (-1.2, -.9), (0, -1.2), (1.2, -.9), (2, 0), (1, -.1), (0, 0), (-1, -.1)], colour)
        for k in (-1.2, 0, 1.2):
            thing.stroke([(0, -1.2), (k, 0)], _shade(colour, .7), .06)
        thing.stroke([(0, 0), (0, 2)], (110, 80, 60), .12)
    elif kind == 2:  # kokeshi doll
        thing.shape([(-.6, .8), (.6, .8), (.7, 2.6), (-.7, 2.6)], colour, False)
        thing.oval(0, 0, .9, .85, (244, 220, 190), .6)
        thing.shape([(-.9, -.1), (-.6, -.75), (0, -.9), (.6, -.75), (.9, -.1), (.3, -.4), (-.3, -.4)], INK)
        for k in (-.35, .35):
            thing.stroke([(k - .12, .15), (k + .12, .15)], INK, .08)
    elif kind == 3:
        thing.shape(_mirror([(.3, -1.2), (.25, -.7), (.9, .2), (.6, 1.2), (.4, 1.3)]), colour)
        for k in (-.5, 0, .6):
            thing.stroke([(0, -1.1), (k, -2.4)], (80, 120, 70), .08)
            thing.oval(k, -2.5, .35, .32, (236, 140, 160), .7)
    elif kind == 4:  # stone fox
        stone = _shade((190, 188, 182), rng.uniform(.8, 1))
        thing.shape(_mirror([(0, -.6), (.3, -1.1), (.5, -.4), (.4, .2), (.8, 1.6), (.8, 2.0)]), stone)
        thing.shape([(-.4, .3), (.4, .3), (.3, .8), (-.3, .8)], (200, 50, 50))
    elif kind == 5:
        thing.oval(0, 0, 1.0, 1.0, (200, 44, 40), .6)
        thing.oval(0, -.1, .6, .5, (248, 226, 200))
        for k in (-.25, .25):
            thing.oval(k, -.1, .14, .16, INK)
    else:  # a kimono on a stand
        thing.shape([(-1.6, -1), (1.6, -1), (1.6, .3), (.7, .3), (.8, 2.2), (-.8, 2.2), (-.7, .3), (-1.6, .3)],
            colour, False)
        thing.stroke([(0, -1), (0, 2.2)], _shade(colour, .7), .1)


SCENES = (
    (_room, (214, 196, 160), (190, 170, 130)),
    (_room, (160, 130, 96), (120, 96, 70)),
    (_corridor, (120, 90, 60), (100, 70, 50)),
    (_garden, (150, 200, 240), (230, 240, 246)),
    (_garden, (190, 214, 232), (240, 236, 220)),
    (_street, (160, 206, 240), (236, 240, 240)),
    (_night, (16, 20, 52), (50, 60, 110)),
    (_clouds, (96, 166, 230), (220, 238, 250)),
    (_fancy, (250, 214, 226), (252, 244, 220)),
    (_fancy, (120, 170, 230), (236, 240, 250)),
    (_fancy, (252, 226, 130), (250, 246, 220)),
    (_steam, (120, 140, 150), (190, 200, 206)),
)


def _background(rng, hw):
    """A painted background, a fifth larger than the frame so that a camera can move over it."""
    h, w = round(hw[0] * 1.2), round(hw[1] * 1.2)
    scene, top, bottom = SCENES[int(rng.integers(len(SCENES)))]
    tint = rng.uniform(.85, 1.05, 3) * rng.uniform(.75, 1.03)
    image = _gradient(h, w, np.clip(top * tint, 0, 255), np.clip(bottom * tint, 0, 255))
    pen = Pen(image, np.zeros((h, w), np.uint8), np.array([[h / 1.2, 0, 0], [0, h / 1.2, 0]]), rng.uniform(.88, 1.06,
        3))
    wide = w / h * 1.2
    scene(rng, pen, wide)
    for _ in range(int(rng.integers(0, 4)) if scene is not _fancy else int(rng.random() < .1)):
        _clutter(rng, pen, wide)
    _mottle(rng, image, .12, rng.uniform(2, 8))
    if rng.random() < .55:
        image = cv2.GaussianBlur(image, (0, 0), h * float(rng.choice([.002, .004, .008, .016])))
    return image


def _foreground(rng, pen, kind, w):
    """Things between the camera and the figures; they hide what is behind them."""
    wood = _shade((110, 70, 46), rng.uniform(.4, 1.3))
    if kind == 'table':
        y = rng.uniform(.78, .92)
        pen.shape([(-.1, y), (w + .1, y), (w + .1, y + .06), (-.1, y + .06)], wood, False, None)
        pen.shape([(-.1, y + .06), (w + .1, y + .06), (w + .1, 1.2), (-.1, 1.2)], _shade(wood, .6), False, None)
        for _ in range(int(rng.integers(4))):
            x, s = rng.uniform(0, w), rng.uniform(.03, .07)
            pen.shape([(x - s, y - s), (x + s, y - s), (x + s * .7, y + .02), (x - s * .7, y + .02)], rng.integers(60,
                250, 3), False)
    elif kind == 'pillar':
        x, s = rng.uniform(0, w), rng.uniform(.03, .09)
        pen.shape([(x - s, -.1), (x + s, -.1), (x + s, 1.1), (x - s, 1.1)], wood, False, .6)
        pen.stroke([(x - s * .3, -.1), (x - s * .3, 1.1)], _shade(wood, .8), .01, False)
    elif kind == 'plant':
        x0, green = rng.choice([-.05, w - .35, w * .4]), GREENS[int(rng.integers(4))]
        for _ in range(12):
            x, top, b = x0 + rng.uniform(0, .4), rng.uniform(.55, .9), rng.normal(0, .12)
            pen.shape([(x - .02, 1.1), (x - .03 + b * .5, (top + 1.1) / 2), (x + b, top), (x + b, top),
                (x + .03 + b * .5, (top + 1.1) / 2), (x + .02, 1.1)], _shade(green, rng.uniform(.6, 1.1)))
    elif kind == 'branch':
        y0, left = rng.uniform(-.05, .15), rng.random() < .5
        leaves = (GREENS, AUTUMN, BLOSSOM)[int(rng.integers(3))]
        pen.stroke([(0 if left else w, y0), (w * (.25 if left else .75), y0 + .08)], (92, 70, 58), .02)
        _foliage(rng, pen, 0 if left else w * .68, w * .32 if left else w, y0 - .08, y0 + .16, leaves, 26, .03)
    elif kind == 'credits':  # strokes that look like columns of writing
        for _ in range(int(rng.integers(1, 5))):
            x, y = rng.uniform(.1, w - .1), rng.uniform(.1, .4)
            for k in range(int(rng.integers(4, 9))):
                for _ in range(4):
                    p = rng.uniform(-.014, .014, (2, 2)) + (x, y + k * .045)
                    pen.stroke(p, (255, 255, 255), .007, False)
    else:  # lattice
        x = rng.uniform(0, w)
        for k in range(4):
            pen.shape([(x + k * .12, -.1), (x + k * .12 + .025, -.1), (x + k * .12 + .025, 1.1), (x + k * .12, 1.1)],
                wood, False, .6)


FOREGROUNDS = ('table', 'table', 'pillar', 'plant', 'plant', 'branch', 'branch', 'credits', 'lattice')

# fmt: on
# ------------------------------------------------------------------------------------------------------------ the shots

ARMS = (
    ((0.25, 0.05), (0.25, 0.05)), ((0.3, -0.75), (0.3, -0.75)), ((0.5, -0.9), (0.2, 0.1)), ((0.35, -0.2), (0.35, -0.2)),
    ((1.1, 2.5), (0.3, 0.1)), ((2.2, 2.7), (2.2, 2.7)), ((0.9, 1.5), (0.9, 1.5)), ((0.6, -2.3), (0.6, -2.3)),
    ((0.7, 1.3), (0.25, -0.6)),
)  # fmt: skip
MOODS = ('open',) * 12 + ('happy',) * 3 + ('shut',) * 2 + ('dots', 'shock', 'sleepy')


def _plan_actor(rng, name):
    look = dict(PLAIN) | (_other_look(rng) if name == OTHER else LOOKS[name])
    if 'second' in look and rng.random() < 0.2:
        look |= look['second']
    outfits = look['outfits']
    turned = rng.random()
    arms = np.array(ARMS[int(rng.integers(len(ARMS)))]) + rng.normal(0, 0.12, (2, 2))
    pose = {
        'back': turned < 0.13,
        'yaw': float(rng.uniform(0.75, 1.0) if turned > 0.82 else min(0.6, abs(rng.normal(0.2, 0.2)))),
        'mood': MOODS[int(rng.integers(len(MOODS)))],
        'tilt': float(rng.normal(0, 0.1)),
        'mouth': float(rng.uniform(0, 1.3) if rng.random() < 0.4 else 0.0),
        'smile': float(rng.uniform(-0.6, 1.2)),
        'frown': float(rng.normal(0, 0.6)),
        'blush': bool(rng.random() < 0.5),
        'arms': arms if rng.random() < 0.5 else arms[::-1],
        'sit': bool(rng.random() < 0.18),
        'walk': float(rng.normal(0, 0.4) if rng.random() < 0.5 else 0.0),
        'sway': float(rng.normal(0, 0.5)),
        'ear': float(rng.normal(0.05, 0.1)),
    }
    held = ('broom', 'tray', 'fan', 'lantern', 'ball')[int(rng.integers(5))] if rng.random() < 0.15 else None
    dim = 0.35 if rng.random() < 0.025 else rng.uniform(0.82, 1.05)  # now and then somebody stands against the light
    return {
        'name': name, 'look': look, 'outfit': outfits[0 if rng.random() < 0.45 else int(rng.integers(len(outfits)))],
        'pose': pose, 'mirror': bool(rng.random() < 0.5), 'lean': float(rng.normal(0, 0.04)), 'held': held,
        'held_colour': rng.integers(80, 250, 3), 'gain': dim * rng.uniform(0.95, 1.05, 3),
        'phase': float(rng.uniform(0, 6.3)), 'speed': float(rng.normal(0, 0.06) if rng.random() < 0.5 else 0.0),
        'talks': bool(rng.random() < 0.5),
    }  # fmt: skip


def _place(rng, actors, kind, wide):
    """Give each figure a head centre `x`, `y` and a head radius `size`, in frame heights, far ones first."""
    count = len(actors)
    base = {'close': (0.2, 0.4), 'bust': (0.12, 0.2), 'full': (0.055, 0.11), 'crowd': (0.045, 0.085)}[kind]
    base, level = rng.uniform(*base), rng.uniform(0.4, 0.58) if kind == 'close' else rng.uniform(0.28, 0.46)
    ground, slots = rng.uniform(0.8, 1.06), rng.permutation(count)
    for slot, actor in zip(slots, actors, strict=True):
        look, size = actor['look'], base * rng.uniform(0.85, 1.18)
        foot = _foot(look, actor['pose']['sit'])
        if look['kind'] == 'boar' and kind != 'close':
            size *= rng.uniform(0.8, 1.2)
        x = (slot + 0.5 + rng.normal(0, 0.22)) / count * wide
        if count == 1:
            x = wide * rng.uniform(0.2, 0.8)
        elif kind in ('full', 'crowd'):
            size = min(size, 0.85 / foot)
            x = wide / 2 + (x - wide / 2) * rng.uniform(0.75, 1.0)
        if kind in ('close', 'bust'):
            y = level + (3.6 - look['tall']) * size * 0.5 if look['kind'] != 'boar' else max(level, 0.9 - 1.6 * size)
            depth = size
        else:
            depth = ground + rng.normal(0, 0.06)
            y = depth - foot * size
        actor.update(x=float(x), y=float(y), size=float(size), depth=float(depth))
    return sorted(actors, key=lambda actor: actor['depth'])


def _plan_shot(rng, hw, empty):
    """Decide everything about a shot: who, where, how, before what, in which light."""
    wide = hw[1] / hw[0]
    kind = ('close', 'bust', 'full', 'crowd')[int(rng.choice(4, p=(0.2, 0.36, 0.36, 0.08)))]
    most = {
        'close': (0.75, 0.25),
        'bust': (0.4, 0.45, 0.15),
        'full': (0.3, 0.38, 0.2, 0.12),
        'crowd': (0, 0, 0, 0.3, 0.3, 0.2, 0.1, 0.1),
    }
    count = 0 if empty else 1 + int(rng.choice(len(most[kind]), p=most[kind]))
    # The cast is drawn without repetition, 其他 as often as it likes.
    deck = [name for name in CLASS_NAMES if name != OTHER]
    cast = [str(name) for name in rng.permutation(deck)[:count]]
    cast = [OTHER if rng.random() < (0.14 if kind != 'crowd' else 0.4) else name for name in cast]
    actors = _place(rng, [_plan_actor(rng, name) for name in cast], kind, wide)
    light = np.ones(3), 0.0  # gain, haze
    mood = rng.random()
    if mood < 0.1:
        light = np.array((1.06, 0.94, 0.76)) * rng.uniform(0.7, 1.0), 0.0  # lamp or evening
    elif mood < 0.2:
        light = np.array((0.62, 0.7, 0.98)) * rng.uniform(0.55, 0.9), 0.0  # night
    elif mood < 0.26:
        light = rng.uniform(0.6, 0.8, 3), rng.uniform(40, 90)  # steam, memory, fade to white
    elif mood < 0.3:
        light = np.full(3, rng.uniform(0.45, 0.7)), 0.0  # dusk indoors
    elif mood < 0.6:
        light = rng.uniform(0.9, 1.08, 3), rng.uniform(-8, 14)
    return {
        'hw': hw, 'wide': wide, 'background': _background(rng, hw), 'actors': actors, 'light': light,
        'grey': bool(rng.random() < 0.03), 'beam': float(rng.normal(0, 0.3)) if rng.random() < 0.25 else 0.0,
        'blur': float(rng.uniform(0.3, 1.1)) * hw[0] / 360 if rng.random() < 0.25 else 0.0,
        'front': FOREGROUNDS[int(rng.integers(len(FOREGROUNDS)))] if rng.random() < 0.28 else None,
        'front_seed': int(rng.integers(2**31)), 'drift': rng.normal(0, 0.02, 2), 'zoom': float(rng.normal(0, 0.025)),
        'flakes': rng.uniform((0, 0, 0.004), (1, 1, 0.013), (24, 3)) if rng.random() < 0.12 else (),
        'flake_colour': BLOSSOM[0] if rng.random() < 0.6 else (AUTUMN[1] if rng.random() < 0.5 else WHITE),
    }  # fmt: skip


def _pose_at(actor, t):
    """The figure's pose t seconds into the shot: it sways, blinks, talks and walks, starting from its first pose."""
    pose, p = dict(actor['pose']), actor['phase']

    def wave(rate, phase=1):
        return math.sin(rate * t + phase * p) - math.sin(phase * p)

    pose['sway'] += 0.35 * wave(2.1)
    pose['tilt'] += 0.05 * wave(1.3, 2)
    pose['ear'] += 0.06 * wave(2.9)
    pose['yaw'] = min(1.0, max(0.0, pose['yaw'] + 0.08 * wave(0.9)))
    swing = 0.12 * wave(2.4)
    pose['arms'] = pose['arms'] + np.array([[swing, swing], [-swing, -swing]])
    if actor['speed']:
        pose['walk'] += 0.35 * wave(7)
    if actor['talks']:
        pose['mouth'] = min(1.2, abs(pose['mouth'] + wave(9)))
    if pose['mood'] == 'open' and (t + p) % 2.7 < 0.13:
        pose['mood'] = 'shut'
    return pose


def _draw_shot(shot, t=0.0):
    """Draw a shot at time t. Returns the frame's dict, with `hidden`: figures too hidden to be labelled."""
    (h, w), wide = shot['hw'], shot['wide']
    zoom = max(1.0, 1.06 * (1 + shot['zoom'] * t))
    scale = 2 * h * zoom  # pixels of the doubled canvas in one frame height
    shift = np.array([w, h]) - zoom * np.array([w, h]) + shot['drift'] * t * 2 * h
    camera = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    offset = shift / 2 - 0.1 * zoom * np.array([w, h])  # the background is 1.2 times the frame
    lay = np.array([[zoom, 0, offset[0]], [0, zoom, offset[1]]])
    canvas = cv2.warpAffine(shot['background'], lay, (w, h), borderMode=cv2.BORDER_REFLECT)
    canvas = cv2.resize(canvas, (2 * w, 2 * h))
    owner = np.zeros((2 * h, 2 * w), np.uint8)
    drawn, heads = [], []
    for number, actor in enumerate(shot['actors'], 1):
        pose = _pose_at(actor, t)
        bob = 0.02 * (math.sin(3 * t + actor['phase']) - math.sin(actor['phase']))
        mask = np.zeros_like(owner)
        stage = Pen(canvas, mask, camera, actor['gain'])
        size = actor['size']
        flip = -1 if actor['mirror'] else 1
        pen = stage.moved(
            actor['x'] + actor['speed'] * t * flip, actor['y'] + bob * size, actor['lean'], (flip * size, size)
        )
        _figure(pen, actor, pose)
        np.copyto(owner, number, where=mask.view(bool))
        drawn.append(cv2.countNonZero(mask))
        heads.append(pen.matrix @ np.vstack([np.mgrid[-1:2, -1:2].reshape(2, 9) * 0.6, np.ones(9)]))
    front = np.zeros_like(owner)
    stage = Pen(canvas, front, camera)
    if shot['front']:
        _foreground(np.random.default_rng(shot['front_seed']), stage, shot['front'], wide)
    for x, y, r in shot['flakes']:
        stage.oval((x * wide + 0.05 * t) % wide, (y + 0.12 * t * (1 + 30 * r)) % 1.0, r, r * 0.7, shot['flake_colour'])
    owner[front.view(bool)] = 0

    image = _lit(cv2.resize(canvas, (w, h), interpolation=cv2.INTER_AREA), shot)
    boxes, labels, masks, hidden = [], [], [], []
    taken = np.zeros((h, w), bool)
    for number, (actor, full, head) in enumerate(zip(shot['actors'], drawn, heads, strict=True), 1):
        own = (owner == number).view(np.uint8)
        # 252 divides by 4: half of a pixel's four samples or more make it the figure's.
        mask = (cv2.resize(own * 252, (w, h), interpolation=cv2.INTER_AREA) >= 126) & ~taken
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        spot = np.round(head).astype(int)
        inside = (spot[0] >= 0) & (spot[0] < 2 * w) & (spot[1] >= 0) & (spot[1] < 2 * h)
        seen = int((owner[spot[1][inside], spot[0][inside]] == number).sum())
        small = len(rows) == 0 or min(rows[-1] - rows[0], columns[-1] - columns[0]) < max(3, 0.045 * h)
        if small or seen < 4 or cv2.countNonZero(own) < 0.3 * full:
            hidden.append(actor)
            continue
        taken |= mask
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        labels.append(actor['name'])
        masks.append(mask)
    return {
        'image': image, 'boxes': np.array(boxes, np.float32).reshape(-1, 4), 'labels': labels,
        'masks': np.array(masks, bool).reshape(-1, h, w), 'hidden': hidden,
    }  # fmt: skip


def _lit(image, shot):
    """The light of the shot over the finished picture."""
    (gain, haze), (h, w) = shot['light'], shot['hw']
    if shot['blur'] > 0.15:
        image = cv2.GaussianBlur(image, (0, 0), shot['blur'])
    if shot['grey']:
        image = cv2.merge([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)] * 3)
    table = np.clip(np.arange(256)[:, None] * gain + haze, 0, 255).astype(np.uint8)
    image = cv2.LUT(image, table[None])
    if shot['beam']:
        beam = np.clip(1 + shot['beam'] * np.linspace(-1, 1, w, dtype=np.float32), 0.5, 1.5)
        image = cv2.multiply(
            image, np.ascontiguousarray(np.broadcast_to(beam[None, :, None], (h, w, 3))), dtype=cv2.CV_8U
        )
    return image


def _generator(seed):
    """The source of randomness for a seed; the length goes in too, since (8, 0) and 8 are one to a SeedSequence."""
    parts = tuple(seed) if isinstance(seed, (tuple, list, np.ndarray)) else (seed,)
    try:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((*parts, len(parts)))))
    except (TypeError, ValueError):
        raise UserError(f'toy show: seed {seed!r} is not a whole number from 0 on, nor a list of such.') from None


def _shoot(rng, hw):
    """A shot and its first frame; who would be too hidden to be labelled in it is sent off the stage."""
    empty = bool(rng.random() < 0.05)
    while True:
        shot = _plan_shot(rng, hw, empty)
        frame = _draw_shot(shot)
        while frame['hidden']:
            gone = [id(actor) for actor in frame['hidden']]
            shot['actors'] = [actor for actor in shot['actors'] if id(actor) not in gone]
            frame = _draw_shot(shot)
        if empty or frame['labels']:
            return shot, frame


def draw_frame(seed, hw=(360, 640)):
    """One frame of the toy show.

    Args:
        seed: an int, or a sequence of ints (such as (seed, split, index)), none negative. The same seed gives the
            same bytes; frames do not depend on one another.
        hw: height and width in pixels.

    Returns:
        dict of `image` (uint8, H x W x 3, RGB), `boxes` (float32, n x 4: x1, y1, x2, y2 in pixels, x2 and y2
        exclusive, tight about the visible pixels), `labels` (list of n names of cast.CLASS_NAMES) and `masks`
        (bool, n x H x W: the visible pixels of each figure, disjoint). About one frame in twenty holds
        nobody. Everybody in the frame is labelled: nobody is drawn who is mostly hidden or outside.

    Raises:
        UserError: a size below 32 pixels or a negative seed.
    """
    hw = _checked_size(hw)
    rng = _generator(seed)
    frame = _shoot(rng, hw)[1]
    del frame['hidden']
    return frame


def _checked_size(hw):
    h, w = (int(v) for v in hw)
    if h < 32 or w < 32:
        raise UserError(
            f'toy show: a frame of {h} x {w} pixels is too small; take at least 32 x 32, such as (360, 640).'
        )
    return h, w


# ------------------------------------------------------------------------------------------------------ writing it out

SPLITS = {'train': 0, 'val': 1}


def _write_file(path, data):
    """Write bytes under a temporary name and rename: a file is complete or not there."""
    part = path.with_name(path.name + '.part')
    part.write_bytes(data)
    part.replace(path)


def _jpeg(image):
    _, data = cv2.imencode('.jpg', image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    return data.tobytes()


def _make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{folder}: cannot be made a folder ({error.strerror}); choose another place.') from None


def _asked(n_train, n_val):
    """(split, number of frames) of the splits asked for."""
    if min(n_train, n_val) < 0:
        raise UserError(f'toy show: {n_train} frames to train and {n_val} to validate on cannot be; give 0 or more.')
    return [(split, count) for split, count in (('train', n_train), ('val', n_val)) if count]


def _stamp(seed, hw):
    return f'toy show {VERSION}, seed {seed}, {hw[0]} x {hw[1]}'


def _bar(count, split):
    return progressbar.ProgressBar(
        max_value=count, prefix=f'Drawing the toy show ({split}): ', redirect_stdout=True, enable_colors=False
    )


def _voc_xml(name, frame, stamp):
    """The frame's annotation as Pascal VOC XML (bytes)."""
    (h, w), root = frame['image'].shape[:2], ET.Element('annotation')

    def add(parent, tag, text=None):
        element = ET.SubElement(parent, tag)
        element.text = None if text is None else str(text)
        return element

    add(root, 'folder', 'imgs')
    add(root, 'filename', f'{name}.jpg')
    add(add(root, 'source'), 'database', stamp)
    size = add(root, 'size')
    for tag, value in (('width', w), ('height', h), ('depth', 3)):
        add(size, tag, value)
    add(root, 'segmented', 0)
    for (x1, y1, x2, y2), label in zip(frame['boxes'].astype(int), frame['labels'], strict=True):
        item = add(root, 'object')
        cut = x1 == 0 or y1 == 0 or x2 == w or y2 == h
        for tag, value in (('name', label), ('pose', 'Unspecified'), ('truncated', int(cut)), ('difficult', 0)):
            add(item, tag, value)
        box = add(item, 'bndbox')
        for tag, value in (('xmin', x1 + 1), ('ymin', y1 + 1), ('xmax', x2), ('ymax', y2)):
            add(box, tag, value)
    ET.indent(root, '\t')
    return ET.tostring(root, encoding='utf-8') + b'\n'


def write_voc(folder, n_train=1000, n_val=200, seed=0, hw=(360, 640)):
    """Write the toy show as a Pascal VOC data set: imgs/<id>.jpg, anns/<id>.xml, sets/train.txt, sets/val.txt.

    What is missing is drawn, what is there stays; so a run that was cut off is simply started again. The lists of
    ids in sets/ come last. A split with no frames asked for is left alone.

    Args:
        folder: where to; made when missing.
        n_train, n_val: frames of each split, 0 or more.
        seed: whole number from 0 on.
        hw: height and width of the frames in pixels.

    Raises:
        UserError: the folder holds a toy show of another seed or size.
    """
    folder, hw = Path(folder), _checked_size(hw)
    stamp = _stamp(seed, hw)
    for part in ('imgs', 'anns', 'sets'):
        _make_folder(folder / part)
    for split, count in _asked(n_train, n_val):
        names = [f'toy_{split}_{i:05d}' for i in range(count)]
        there = next((file for name in names if (file := folder / 'anns' / f'{name}.xml').is_file()), None)
        if there and stamp not in there.read_text(encoding='utf-8'):
            raise UserError(f'{there}: not of the {stamp}. Delete {folder} or choose another folder.')
        todo = [
            i for i, name in enumerate(names)
            if not ((folder / 'imgs' / f'{name}.jpg').is_file() and (folder / 'anns' / f'{name}.xml').is_file())
        ]  # fmt: skip
        if todo:
            with _bar(len(todo), split) as bar:
                for done, i in enumerate(todo, 1):
                    frame = draw_frame((seed, SPLITS[split], i), hw)
                    _write_file(folder / 'imgs' / f'{names[i]}.jpg', _jpeg(frame['image']))
                    _write_file(folder / 'anns' / f'{names[i]}.xml', _voc_xml(names[i], frame, stamp))
                    bar.update(done)
        _write_file(folder / 'sets' / f'{split}.txt', ('\n'.join(names) + '\n').encode())


def write_coco(folder, n_train=1000, n_val=200, seed=0, hw=(360, 640)):
    """Write the same frames as COCO with masks: train/<id>.jpg, val/<id>.jpg, annotations/instances_<split>.json.

    Masks are compressed RLE, categories are 1 .. 14 in the order of cast.CLASS_NAMES. A split whose annotations are
    complete is left alone, else it is drawn again.

    Args and errors: as `write_voc`.
    """
    folder, hw = Path(folder), _checked_size(hw)
    stamp = _stamp(seed, hw)
    _make_folder(folder / 'annotations')
    for split, count in _asked(n_train, n_val):
        path = folder / 'annotations' / f'instances_{split}.json'
        files = [folder / split / f'{i + 1:06d}.jpg' for i in range(count)]
        if path.is_file():
            try:
                there = json.loads(path.read_text(encoding='utf-8'))
                same = there['info']['description'] == stamp
            except (ValueError, KeyError, TypeError):
                same = False
            if not same:
                raise UserError(f'{path}: not of the {stamp}. Delete {folder} or choose another folder.')
            if len(there['images']) == count and all(file.is_file() for file in files):
                continue
        _make_folder(folder / split)
        images, annotations = [], []
        with _bar(count, split) as bar:
            for i, file in enumerate(files):
                frame = draw_frame((seed, SPLITS[split], i), hw)
                _write_file(file, _jpeg(frame['image']))
                images.append({'id': i + 1, 'file_name': file.name, 'height': hw[0], 'width': hw[1]})
                for label, (x1, y1, x2, y2), mask in zip(
                    frame['labels'], frame['boxes'].tolist(), frame['masks'], strict=True
                ):
                    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
                    annotations.append({
                        'id': len(annotations) + 1, 'image_id': i + 1, 'category_id': CLASS_NAMES.index(label) + 1,
                        'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': int(mask.sum()), 'iscrowd': 0,
                        'segmentation': {'size': list(hw), 'counts': rle['counts'].decode('ascii')},
                    })  # fmt: skip
                bar.update(i + 1)
        categories = [{'id': k, 'name': name} for k, name in enumerate(CLASS_NAMES, 1)]
        content = {
            'info': {'description': stamp},
            'images': images,
            'annotations': annotations,
            'categories': categories,
        }
        _write_file(path, json.dumps(content, ensure_ascii=False).encode('utf-8'))


def _melody(rng, seconds, rate=48000):
    """A plucked tune in the in scale, as a koto might play it: int16, samples x 2."""
    total = round(seconds * rate)
    sound = np.zeros((total + 3 * rate, 2))
    scale = 440 * 2 ** (np.array([-12, -11, -7, -5, -4, 0, 1, 5, 7, 8, 12]) / 12)
    step, note, t = 0.3, 5, 0.0
    ring = np.arange(2 * rate) / rate
    while t < seconds:
        note = int(np.clip(note + rng.integers(-2, 3), 0, len(scale) - 1))
        pluck = sum(
            np.sin(2 * math.pi * scale[note] * k * ring) * np.exp(-ring * (1.5 + 1.6 * k)) / k for k in range(1, 7)
        )
        side, start = rng.uniform(0.3, 0.7), round(t * rate)
        sound[start : start + len(pluck)] += pluck[:, None] * np.array([side, 1 - side])
        t += step * float(rng.choice([1, 1, 2, 2, 3]))
    sound = sound[:total]
    return np.round(sound / max(1e-6, np.abs(sound).max()) * 20000).astype('<i2')


def write_video(path, seconds=10, fps=24, hw=(360, 640), seed=0):
    """Write a short episode with sound: shots of two to four seconds in which figures and camera move.

    Args:
        path: .mp4 or .mkv; H.264 (yuv420p) with stereo AAC at 48 kHz.
        seconds, fps: above 0; the video has exactly round(seconds * fps) frames and sound of the same length.
        hw: height and width in pixels, both even.
        seed: whole number from 0 on.

    Returns:
        list of a dict per frame: `boxes` (float32, n x 4) and `labels` (list of n names), as `draw_frame`'s.

    Raises:
        UserError: a size, length, ending or folder that does not work, or ffmpeg's own complaint.
    """
    path, (h, w) = Path(path), _checked_size(hw)
    count = round(seconds * fps) if seconds > 0 and fps > 0 else 0
    if count < 1:
        raise UserError(f'{path}: {seconds} seconds at {fps} frames a second hold no frame; give more.')
    if h % 2 or w % 2:
        raise UserError(f'{path}: H.264 takes an even height and width, not {h} x {w}.')
    if path.suffix.lower() not in ('.mp4', '.mkv'):
        raise UserError(f'{path}: the name must end in .mp4 or .mkv.')
    _make_folder(path.parent)
    rng = _generator((seed, 2))
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(f'{path}: no ffmpeg to write it with ({error}); reinstall imageio-ffmpeg.') from None
    annotations = []
    with tempfile.TemporaryDirectory() as scratch:
        sound, log, made = (
            Path(scratch) / 'sound.wav',
            Path(scratch) / 'log.txt',
            Path(scratch) / f'made{path.suffix.lower()}',
        )
        with wave.open(str(sound), 'wb') as wav:
            wav.setnchannels(2)
            wav.setsampwidth(2)
            wav.setframerate(48000)
            wav.writeframes(_melody(rng, count / fps).tobytes())
        command = [
            program, '-y', '-loglevel', 'error', '-f', 'rawvideo', '-pix_fmt', 'rgb24',
            '-s', f'{w}x{h}', '-r', str(fps), '-i', '-', '-i', str(sound), '-c:v', 'libx264', '-preset', 'fast',
            '-crf', '20', '-pix_fmt', 'yuv420p', '-c:a', 'aac', '-b:a', '128k', str(made),
        ]  # fmt: skip
        with log.open('wb') as complaints:
            ffmpeg = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaints)
            try:
                end = 0
                for number in range(count):
                    if number == end:
                        start, end = end, end + max(1, round(rng.uniform(2, 4) * fps))
                        shot = _shoot(rng, (h, w))[0]
                    frame = _draw_shot(shot, (number - start) / fps)
                    ffmpeg.stdin.write(frame['image'].tobytes())
                    annotations.append({'boxes': frame['boxes'], 'labels': frame['labels']})
                ffmpeg.stdin.close()
            except (BrokenPipeError, OSError):
                pass  # ffmpeg gave up: its exit status and its words follow
            except BaseException:
                ffmpeg.kill()
                raise
            finally:
                ffmpeg.wait()
        if ffmpeg.returncode or len(annotations) < count:
            words = log.read_text(encoding='utf-8', errors='replace').strip().splitlines() or ['it stopped']
            raise UserError(f'{path}: ffmpeg could not write it: {words[-1]}')
        part = path.with_name(path.name + '.part')
        shutil.copyfile(made, part)
        part.replace(path)
    return annotations
