"""The figures of the toy show: how the cast looks, the pen, and how a figure is drawn from its look and pose.

Figures are filled curves in head units: 1 = half a head's width, origin at the head's centre, y down. Colours are RGB
in 0 .. 255. `PLAIN` lists the keys of a look, `scenes._plan_actor` those of a pose.
"""

import math
from functools import lru_cache

import cv2
import numpy as np

OTHER = '其他'

# ---------------------------------------------------------------------------------------------------------- the looks

SKIN, INK, WHITE = (253, 228, 208), (52, 40, 46), (250, 249, 245)
DARK_RED, PINK, GOLD = (116, 34, 44), (240, 168, 192), (214, 172, 82)


def clothing(top, skirt=None, obi=DARK_RED, cord=GOLD, collar=WHITE, form='kimono', flowers=None, sleeve=0.6):
    return {
        'top': top, 'skirt': skirt or top, 'obi': obi, 'cord': cord, 'collar': collar, 'form': form,
        'flowers': flowers, 'sleeve': sleeve,
    }  # fmt: skip


WORK = clothing(DARK_RED, obi=(128, 30, 40), cord=(150, 60, 66), sleeve=0.45)  # the inn's plain working dress
MIKO = clothing(WHITE, (198, 40, 38), obi=(206, 48, 44), cord=(170, 28, 30), form='hakama', sleeve=0.85)

# Defaults of a look. `length`: hair down the back, 0 = chin, 1 = the feet. `tall`: height in heads. `extras`: what is
# worn or grows besides.
PLAIN = {
    'kind': 'person', 'hair': (70, 56, 52), 'eye': (120, 84, 60), 'skin': SKIN, 'ears': None, 'fringe': 'spiky',
    'length': 0.0, 'wavy': 0.0, 'locks': 0.9, 'extras': (), 'ribbon': PINK, 'tail': None, 'tall': 3.4, 'broad': 1.0,
    'muzzle': WHITE, 'outfits': (clothing((90, 96, 120)),),
}  # fmt: skip

LOOKS = {
    '柚': {
        'hair': (236, 212, 156), 'eye': (196, 152, 70), 'ears': 'fox', 'length': 0.82, 'locks': 1.7, 'tail': 'hair',
        'extras': ('ahoge',), 'tall': 3.0,
        'outfits': (clothing(PINK, DARK_RED, obi=(74, 34, 52)), WORK, clothing((226, 160, 60), obi=(150, 40, 50),
                    flowers=(200, 60, 50), sleeve=0.9)),
    },
    '皋': {
        'hair': (88, 74, 146), 'eye': (216, 172, 52), 'ears': 'fox', 'length': 0.7, 'locks': 1.5, 'tail': 'hair',
        'extras': ('stray',), 'tall': 3.5,
        'outfits': (clothing((118, 102, 198), DARK_RED, obi=(70, 34, 60)), WORK,
                    clothing((84, 92, 200), obi=(120, 40, 60), flowers=(150, 170, 240), sleeve=0.8)),
    },
    '莲': {
        'hair': (244, 176, 190), 'eye': (84, 158, 156), 'ears': 'fox', 'length': 0.42, 'wavy': 0.13, 'locks': 1.5,
        'fringe': 'parted', 'extras': ('hairband',), 'ribbon': (226, 100, 150), 'tail': 'hair', 'tall': 3.2,
        'outfits': (clothing((242, 192, 224), obi=(84, 38, 52), cord=(240, 214, 110), flowers=(228, 110, 160)), WORK,
                    clothing((164, 136, 210), obi=(240, 200, 90), flowers=(232, 120, 170)),
                    clothing((202, 60, 140), obi=(110, 40, 110), flowers=(250, 170, 210), sleeve=0.9)),
    },
    '枣': {
        'hair': (138, 76, 66), 'eye': (112, 66, 44), 'ears': 'fox', 'locks': 0.5, 'length': -0.06,
        'tail': 'hair', 'tall': 3.5,
        'outfits': (clothing((118, 180, 152), (98, 156, 134), obi=(90, 146, 124), form='jinbei'),
                    clothing((40, 134, 146), (32, 112, 126), obi=(30, 100, 112), form='jinbei'),
                    clothing((54, 60, 120), obi=(40, 40, 70), sleeve=0.5)),
    },
    '樱': {
        'hair': (56, 42, 52), 'eye': (150, 62, 62), 'ears': 'fox', 'length': 0.62, 'locks': 1.5, 'fringe': 'blunt',
        'extras': ('side_ribbons', 'sleepy'), 'ribbon': (214, 44, 60), 'tail': 'hair', 'tall': 2.5, 'broad': 0.85,
        'outfits': (clothing((242, 150, 170), DARK_RED, obi=(66, 34, 50), flowers=(250, 208, 216)),
                    clothing((240, 150, 180), obi=(76, 60, 120), flowers=(246, 224, 140), sleeve=0.9)),
    },
    '桐': {
        'hair': (238, 206, 118), 'eye': (190, 142, 50), 'ears': 'fox', 'locks': 1.15, 'extras': ('bun', 'nape_ribbon'),
        'ribbon': (76, 74, 180), 'tail': (196, 142, 76), 'tall': 3.8, 'fringe': 'swept',
        'outfits': (clothing((78, 62, 150), obi=(196, 176, 228), cord=(222, 160, 60), flowers=(118, 104, 190)),
                    clothing((74, 60, 142), obi=(190, 170, 222), cord=(222, 160, 60)),),
    },
    '椿': {
        'kind': 'beast', 'hair': (208, 88, 76), 'eye': (200, 160, 60), 'ears': 'fox', 'muzzle': (246, 214, 176),
        'tail': 'hair', 'tall': 3.7, 'broad': 1.4, 'extras': ('fox_face', 'flame'),
        'outfits': (clothing((58, 40, 56), obi=(160, 104, 50), cord=(226, 186, 92), flowers=(206, 50, 60)),),
        # She also takes a human shape, with her colours and her kimono.
        'second': {'kind': 'person', 'hair': (238, 124, 124), 'fringe': 'parted', 'wavy': 0.08, 'length': 0.16,
                   'locks': 1.7, 'broad': 1.1, 'extras': ('high_bun', 'stray')},
    },
    '柊': {
        'hair': (226, 226, 238), 'eye': (124, 96, 186), 'ears': 'fox', 'length': 0.6, 'locks': 1.9, 'tail': 'hair',
        'extras': ('cords',), 'ribbon': (255, 252, 250), 'tall': 3.4,
        'outfits': (dict(MIKO, cord=(206, 40, 40), collar=(206, 50, 46)),
                    clothing(WHITE, obi=(244, 240, 232), cord=(206, 40, 40), collar=(206, 50, 46), sleeve=0.9)),
    },
    '菖': {
        'hair': (46, 46, 82), 'eye': (96, 72, 92), 'ears': 'fox', 'length': 0.9, 'locks': 2.4, 'fringe': 'bare',
        'extras': ('glasses', 'tassels', 'brow_dot'), 'ribbon': (250, 250, 250), 'tail': 'hair', 'tall': 3.8,
        'outfits': (MIKO,),
    },
    '八百比丘尼': {
        'hair': (196, 186, 176), 'eye': (122, 110, 112), 'extras': ('hood',), 'fringe': 'swept', 'locks': 0.4,
        'ribbon': (244, 242, 234), 'tall': 3.7, 'skin': (248, 228, 214),
        'outfits': (clothing((66, 56, 68), obi=(56, 46, 58), cord=(80, 70, 80), sleeve=0.8),),
    },
    '药店老板': {
        'kind': 'beast', 'hair': (228, 194, 142), 'eye': INK, 'ears': 'round', 'muzzle': (246, 236, 214),
        'tall': 2.9, 'broad': 2.0, 'extras': ('moustache',),
        'outfits': (clothing((66, 78, 128), obi=(40, 48, 88), cord=(48, 56, 96), collar=(54, 64, 108)),),
    },
    '瓜之介': {'kind': 'boar', 'hair': (136, 178, 122), 'skin': (246, 244, 236), 'muzzle': (244, 160, 152), 'eye': INK},
    '阿菊': {
        'hair': (142, 100, 192), 'eye': (140, 80, 52), 'fringe': 'parted', 'locks': 1.3, 'extras': ('drills',),
        'ribbon': (248, 222, 110), 'tall': 2.5, 'broad': 0.85,
        'outfits': (clothing((124, 188, 232), obi=(252, 252, 252), cord=(204, 48, 52), form='dress'),
                    clothing((124, 188, 232), obi=(252, 252, 252), cord=(204, 48, 52), form='dress'),
                    clothing((196, 36, 40), obi=(236, 188, 66), flowers=(246, 214, 120), sleeve=0.8)),
        # Before she is given her new dress she is a classic doll: black hair, red kimono.
        'second': {'hair': (48, 38, 44), 'extras': (), 'fringe': 'blunt', 'length': 0.5, 'eye': (190, 40, 50),
                   'outfits': (clothing((196, 36, 40), obi=(236, 188, 66), flowers=(246, 214, 120), sleeve=0.9),)},
    },
}  # fmt: skip

FRINGES = ('spiky', 'blunt', 'parted', 'swept', 'bare')
HUMAN_HAIR = ((50, 44, 48), (74, 54, 46), (112, 78, 56), (150, 146, 146), (206, 202, 198), (60, 62, 70), (166, 116, 74))
FANCY_HAIR = ((92, 150, 98), (86, 136, 190), (226, 128, 56), (64, 168, 168), (150, 190, 90), (180, 60, 120))
FUR = ((128, 96, 72), (150, 150, 150), (96, 84, 84), (122, 160, 104), (240, 240, 240), (70, 60, 60), (190, 150, 60))


def other_look(rng, fancy=0.3):
    """A random character: hair with ears never has a colour of the cast, and only the cast has the cast's extras.

    Args:
        rng: numpy Generator.
        fancy: part of the people with hair of a bright colour, and with ears.

    Returns:
        dict with some of the keys of `PLAIN`.
    """

    def pick(values):
        return values[int(rng.integers(len(values)))]

    cloth = [tuple(int(v) for v in rng.integers(40, 236, 3)) for _ in range(4)]
    grey = tuple(int(np.mean(cloth[0]) * 0.6 + c * 0.4) for c in cloth[0])
    form = pick(('kimono', 'kimono', 'kimono', 'jinbei', 'hakama', 'robe'))
    outfit = clothing(
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
        fancy = rng.random() < fancy
        look |= {'hair': pick(FANCY_HAIR) if fancy else pick(HUMAN_HAIR), 'fringe': pick(FRINGES)}
        look |= {'ears': pick(('round', 'long', 'fox', None)) if fancy else None, 'wavy': pick((0, 0, 0.08))}
        look |= {'length': float(pick((-0.07, -0.07, 0, 0, 0.1, 0.3, 0.5))), 'locks': float(rng.uniform(0.3, 1.3))}
        look['extras'] = pick(((), (), ('bun',), ('high_bun',), ('ponytail',), ('glasses',), ('hat',), ('beard',)))
        look['tail'] = 'hair' if fancy and rng.random() < 0.5 else None
        look['skin'] = pick((SKIN, (244, 212, 184), (224, 184, 150)))
        if look['fringe'] == 'blunt' and sum(look['hair']) < 200:
            look['fringe'] = 'bare'  # the doll's old look is hers alone
    return look


# ------------------------------------------------------------------------------------------------------------- the pen


@lru_cache
def _spline(count, closed):
    """Indices and weights of a Catmull-Rom spline through `count` points, six steps from one to the next."""
    t = np.linspace(0, 1, 6, endpoint=False)[:, None]
    weights = 0.5 * np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2])
    index = np.arange(count if closed else count - 1)[:, None] + np.arange(-1, 3)
    return (index % count if closed else index.clip(0, count - 1)), weights


def _curve(points, closed):
    """A smooth line through points (n x 2); a point given twice makes a corner."""
    index, weights = _spline(len(points), closed)
    line = (weights @ points[index]).reshape(-1, 2)
    return line if closed else np.vstack([line, points[-1:]])


class Pen:
    """Draws shapes, given in the figure's own units, into the picture, and the silhouette into `mask`.

    `image` (uint8, H x W x 3, RGB) and `mask` (uint8, H x W) are drawn into. `matrix` (2 x 3) maps the figure's
    units to pixels; `gain` (a number or 3) multiplies colours; `value` is what a shape writes into the mask: 1 for the
    figure, 0 for things in front of it that are not part of it. Colours are RGB in 0 .. 255.
    """

    def __init__(self, image, mask, matrix, gain=1.0, value=1):
        self.image, self.mask, self.matrix, self.gain, self.value = image, mask, matrix, gain, value
        self.pixels = math.sqrt(abs(np.linalg.det(matrix[:, :2])))  # how many pixels one unit is
        self.line = max(1, min(4, round(self.pixels * 0.035)))

    def moved(self, x=0.0, y=0.0, turn=0.0, scale=(1.0, 1.0), value=None):
        """A pen for the same picture whose origin lies at (x, y), turned by `turn` radians and scaled (x, y)."""
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
        """A filled closed curve through points (n x 2).

        `fill` is its colour; `smooth` False leaves the corners; `outline` is the edge's darkness against the fill (0 =
        black, 1 = the fill), None for no edge.
        """
        pixels = self._pixels(points, smooth)
        cv2.fillPoly(self.image, pixels, self._colour(fill), cv2.LINE_AA, 3)
        cv2.fillPoly(self.mask, pixels, self.value, cv2.LINE_8, 3)
        if outline is not None:
            dark = self._colour(np.asarray(fill) * outline)
            cv2.polylines(self.image, pixels, True, dark, self.line, cv2.LINE_AA, 3)
            cv2.polylines(self.mask, pixels, True, self.value, self.line, cv2.LINE_8, 3)

    def stroke(self, points, colour, width=0.04, smooth=True):
        """An open line through points (n x 2); `width` in units, at least a pixel."""
        pixels, width = self._pixels(points, smooth, closed=False), max(1, round(width * self.pixels))
        cv2.polylines(self.image, pixels, False, self._colour(colour), width, cv2.LINE_AA, 3)
        cv2.polylines(self.mask, pixels, False, self.value, width, cv2.LINE_8, 3)

    def oval(self, x, y, rx, ry, fill, outline=None):
        """A filled ellipse about (x, y) with radii rx and ry; `fill` and `outline` as in `shape`."""
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


CIRCLE = np.array([(math.cos(a), math.sin(a)) for a in np.arange(8) * math.pi / 4])  # 8 x 2, radius 1


def mirror(points):
    """A closed outline (2n x 2) from its right half (n x 2, x from the middle), listed from the top to the bottom."""
    points = np.asarray(points, float)
    return np.vstack([points, points[::-1] * (-1, 1)])


def shade(colour, k):
    """A darker (k < 1) or lighter (k from 1 to 2, towards white) colour: RGB in 0 .. 255 in, a float array out."""
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
    lash = shade(np.asarray(look['hair']) * .3 + np.asarray(INK) * .7, .9)
    if pen.pixels < 7:
        pen.oval(x, y, rx, ry * (.9 if mood in ('open', 'shock') else .35), shade(look['eye'], .6))
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
        pen.oval(x, iy, rx * .72, ih * .98, shade(look['eye'], .62))
        pen.oval(x, iy + ih * .3, rx * .6, ih * .62, shade(look['eye'], 1.12))
        pen.oval(x, iy, rx * .3, ih * .42, shade(look['eye'], .28))
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
            pen.stroke(brow + (x, .02), shade(look['hair'], .6), .045)
            if pose['blush']:
                pen.oval(x + side * .06, .6, .15 * wide, .07, np.asarray(skin) * (1, .84, .84))
    if pen.pixels < 7:
        return
    mx = .95 * math.sin(yaw * FULL_TURN * .9)
    pen.stroke([(mx - .01, .5), (mx + .03, .54)], shade(skin, .72), .04)
    mouth, wide = pose['mouth'], .16 * max(.5, math.cos(yaw * FULL_TURN))
    if mouth > .25:
        pen.shape([(mx - wide, .71), (mx - wide, .71), (mx + wide, .71), (mx + wide, .71),
            (mx + wide * .6, .72 + .2 * mouth), (mx - wide * .6, .72 + .2 * mouth)], (196, 84, 84))
    else:
        pen.stroke([(mx - wide, .73), (mx, .73 + pose['smile'] * .06), (mx + wide, .73)], shade(skin, .5), .045)


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
    points = mirror(half)
    below = np.clip(points[:, 1:], 0, None)
    points[:, :1] = points[:, :1] * (1 - .28 * yaw * (below > .1)) + (shift * np.clip(below, 0, 1) + sway * below * .1)
    pen.shape(points, look['hair'] if pose['back'] else shade(look['hair'], .86))
    if pen.pixels > 10:
        for x in (-.55, -.15, .3, .68) if pose['back'] else ():
            line = [(x * .5, -.9), (x, .1), (x * 1.1 + sway * .1, end * .7), (x + sway * end * .1, end - .2)]
            pen.stroke(line, shade(look['hair'], .72), .03)


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
        pen.shape(shine, shade(hair, 1.35), outline=None)


def _animal_ear(pen, look, side, pose):
    """One ear on top of the head; the inside shows from the front only."""
    x = side * .62 * math.cos(pose['yaw'] * FULL_TURN) - .1 * pose['yaw']
    ear = pen.moved(x, -.72, side * (.3 + pose['ear']) * math.cos(pose['yaw'] * .9), (side, 1))
    hair, inside = look['hair'], shade(look['hair'], 1.55 if np.mean(look['hair']) < 150 else 1.35)
    if look['ears'] == 'fox':
        outer, inner = [(-.4, .1), (-.26, -.5), (.02, -1.02), (.05, -1.02), (.32, -.55), (.42, .12)], .62
    elif look['ears'] == 'round':
        outer, inner = [(-.3, .0), (-.34, -.3), (0, -.55), (.34, -.3), (.3, .0)], .6
    else:
        outer, inner = [(-.22, .1), (-.28, -.9), (0, -1.6), (.28, -.9), (.22, .1)], .6
    outer = np.array(outer)
    ear.shape(outer, hair)
    if not pose['back'] and ear.pixels > 5:
        ear.shape(outer * inner + (0, -.06), inside if look['kind'] == 'person' else shade(hair, .7), outline=None)


def _bow(pen, x, y, size, colour):
    """A ribbon tied in a bow."""
    bow = pen.moved(x, y, scale=(size, size))
    for side in (-1, 1):
        bow.shape([(side * .1, .1), (side * .5, 1.0), (side * .75, .85), (side * .2, 0)], shade(colour, .85))
        bow.shape([(0, 0), (side * .8, -.55), (side * 1.0, 0), (side * .8, .45)], colour)
    bow.oval(0, 0, .22, .24, shade(colour, .9), .6)


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
        pen.oval(x, -.05, .5, .5, shade(hair, .9), .6)
        _bow(pen, x * 1.1, .42, .36, look['ribbon'])
    if 'high_bun' in look['extras']:
        pen.oval(back * .6, -1.2, .55, .42, shade(hair, .92), .6)


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
        pen.stroke([(0, -1.0), (0, 1.0)], shade(hair, .7), .04)
    if back:
        if 'bun' in extras:
            pen.oval(0, -.15, .6, .58, shade(hair, .95), .6)
            pen.stroke([(-.3, -.2), (0, -.4), (.3, -.1), (0, .15), (-.2, -.05)], shade(hair, .7), .05)
            _bow(pen, .05, .55, .36, ribbon)
        if 'ponytail' in extras:
            pen.shape([(-.2, -.4), (.2, -.4), (.35, .6), (.1 + pose['sway'] * .2, 1.8), (-.3, .6)], shade(hair, .9))
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
                ring = np.array([x, .3]) + CIRCLE * (.34 * wide, .3)
                pen.stroke(np.vstack([ring, ring[:1]]), (110, 60, 60), .05)
    if 'beard' in extras:
        x = _turned(.0, yaw)
        pen.shape([(x - .5, .75), (x, .68), (x + .4, .75), (x + .25, 1.25), (x, 1.45), (x - .3, 1.2)], shade(hair,
            1.2))
    if 'hat' in extras:
        colour = look['outfits'][0]['obi']
        pen.shape([(-1.3, -.45), (-.75, -.65), (-.6, -1.25), (.6, -1.25), (.75, -.65), (1.3, -.45), (0, -.35)], colour)


def _hood(pen, look, pose):
    """The nun's white hood: around the face (from the front) or over all of the head (from behind)."""
    cloth, yaw = look['ribbon'], pose['yaw']
    pen.shape(mirror([(0, -1.22), (.7, -1.05), (1.12, -.4), (1.14, .4), (1.2, 1.2), (1.35, 1.9), (.6, 2.05)]), cloth)
    if pose['back']:
        pen.stroke([(-.5, .9), (.1, 1.0), (.6, .85)], shade(cloth, .8), .04)
        return
    hole = np.array(mirror([(0, -.72), (.5, -.62), (.72, -.2), (.7, .4), (.4, .88), (.1, .96)])) + (.22 * yaw, 0)
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
    pen.shape(mirror([(0, -1.0), (.6, -.9), (.95, -.4), (1.02, .2), (1.2, .48), (.95, .6), (.9, .8), (.45, jaw),
        (.1, jaw + .08)]), fur)
    if pose['back']:
        return
    if 'mask' in look['extras']:
        pen.shape(mirror([(x, -.05), (.5 + x * .4, -.1), (.78 + x * .2, .2), (.4 + x * .4, .42), (x, .3)]),
            shade(fur, .5), outline=None)
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
        pen.shape([(x - .5, .85), (x, .8), (x + .5, .85), (x + .3, 1.25), (x, 1.4), (x - .3, 1.25)], shade(muzzle,
            1.2), outline=.8)
    elif pose['mouth'] > .25:
        pen.oval(x * 1.3, .8, .16, .1 * pose['mouth'] + .04, (170, 70, 70))
    else:
        pen.stroke([(x * 1.4 - .2, .76), (x * 1.45, .7), (x * 1.4 + .2, .76)], shade(fur, .4), .04)


def _arm(pen, look, outfit, side, angles, body):
    """One arm with its sleeve, and where the palm is; angles in radians from straight down, outwards positive."""
    form, top, thick = outfit['form'], outfit['top'], .27 * math.sqrt(body['w'])
    skin = shade(look['hair'], .95) if look['kind'] == 'beast' else look['skin']
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
    pen.stroke([hand - down * .2, low], shade(outfit['collar'], .9), .07)
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
        (-1.6 + s * .3, base + .7)], shade(colour, 1.5), outline=None)


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
        pen.stroke([(-.5 * w, at(.97)), (.1 * w, at(.88)), (.6 * w, at(.96))], shade(skirt, .7), .04)
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
        fold = shade(skirt, .68)
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
                pen.oval(fx * w, at(fy), .14, .13, shade(outfit['flowers'], .85 + .2 * (k % 2)))
    if not back and look['kind'] == 'person':
        pen.shape([(-.24, .7), (.24, .7), (.3, 1.35), (-.3, 1.35)], shade(look['skin'], .86), False)
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
            pen.stroke([(-.44, 1.12), (mid - .08, 1.86), (mid * .6 + .2 * wt, obi_top)], shade(top, .7), .04, False)
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
        pen.shape([(leg - .24, 1.3), (leg + .24, 1.3), (leg + .2, 2.3), (leg - .2, 2.3)], shade(white, .93), False,
            .75)
    pen.shape([(.6, -.5), (.95, .6), (.7, 1.7), (-.6, 2.0), (-long - .7, 1.7), (-long - 1.1, .8), (-long - .6, -.1),
        (-.5, -.5)], white, outline=.7)
    for side in (1, -1):
        ear = pen.moved(side * .55 * (1 - .5 * yaw) - .2 * yaw, -.7, side * (.75 + pose['ear']), (side, 1))
        ear.shape([(-.2, .1), (-.32, -.7), (0, -1.5), (.3, -.7), (.2, .1)], white, outline=.7)
        if not pose['back']:
            ear.shape([(-.08, 0), (-.14, -.7), (0, -1.2), (.14, -.7), (.08, 0)], (240, 204, 196), outline=None)
    pen.shape(mirror([(0, -.95), (.65, -.8), (1.05, -.2), (1.1, .4), (.8, .85), (.3, 1.02)]), white, outline=.7)
    if pose['back']:
        pen.shape([(-.1, -1.1), (.2, -1.0), (.25, .4), (.15, 1.7), (-.15, 1.7), (-.2, .3)], green)
        pen.shape(np.array([(0, .1), (-.35, -.3), (-.05, -.9), (.25, -.35)]) + (.1 + s * .2, 1.9), green)
        return
    pen.shape([(x - .35, -.75), (x - .1, -1.3), (x, -1.0), (x + .3, -1.35), (x + .3, -.8), (x + .05, -.5)], green)
    pen.oval(x * 1.4, .42, .4, .3, nose, .65)
    for side in (-1, 1):
        pen.oval(x * 1.5 + side * .13, .42, .06, .09, shade(nose, .6))
        ex = x * 1.1 + side * .55 * (1 - .25 * yaw)
        if ex > 1.0:
            continue
        pen.oval(ex * .95, -.28, .13, .08, green)
        if pose['mood'] in ('happy', 'shut'):
            pen.stroke([(ex - .14, .1), (ex, .04), (ex + .14, .1)], INK, .07)
        else:
            pen.oval(ex, .06, .13, .17, (70, 40, 52))
            pen.oval(ex - .04, .0, .05, .06, (255, 255, 255))


def draw_figure(pen, actor, pose):
    """Draw one figure into the pen's picture and mask.

    Args:
        pen: its origin is the centre of the head, its unit half a head's width.
        actor: dict of `look` (as `casts.Cast.choose_look`'s), `outfit` (one of the look's), `held` (what is in the
            hand, or None) and `held_colour`.
        pose: dict with the keys that `scenes._plan_actor` sets, from `back` to `ear`.
    """
    look, outfit = actor['look'], actor['outfit']
    if look['kind'] == 'boar':
        return _boar(pen.moved(turn=pose['tilt'] * .4), look, pose)
    foot = head_to_floor(look, pose['sit'])
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
    palms = []
    for side, angles in arms if not pose['back'] else ():
        if side < 0 or pose['yaw'] <= .6:
            palms.append(_arm(pen, look, outfit, side, angles, body))
    if person and pose['back'] and not hood:
        _extras_behind(head, look, pose)
        _back_hair(head, look, pose, foot)
    (_person_head if person else _beast_head)(head, look, pose)
    if palms and actor['held']:
        _held(pen, actor['held'], palms[0], actor['held_colour'])


def _neck(tilt):
    """Where the head's centre goes when the head is tilted about the neck."""
    return .8 * math.sin(tilt), .8 - .8 * math.cos(tilt)


def head_to_floor(look, sit):
    """y of the soles (or of the floor under a sitting figure, `sit` True) below the head's centre, in head units."""
    if look['kind'] == 'boar':
        return 2.3
    full = 2 * look['tall'] - 1
    return 1.2 + (full - 1.2) * .62 if sit else full
