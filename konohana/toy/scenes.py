"""The scenes of the toy show: backgrounds, clutter, things in front, and shots of figures before them.

`_plan_shot` makes all random choices of a shot; `draw_shot` then draws it at a time t in seconds. So the same code
makes still frames and moving shots. Pictures are drawn at twice the size and reduced. Scenes are
drawn in frame heights: x from 0 to `w`, the width in heights, y from 0 at the top to 1.
"""

import math

import cv2
import numpy as np

from konohana.toy.casts import FIRST
from konohana.toy.figures import CIRCLE, INK, WHITE, Pen, draw_figure, head_to_floor, mirror, shade

# The points of one curve stay together on a line.
# fmt: off
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
    for light in np.linspace(.66, 1.14, count):
        r = size * rng.uniform(.6, 1.5) * (1.35 - .65 * (light - .66) / .48)
        colour = shade(colours[int(rng.integers(len(colours)))], light * rng.uniform(.94, 1.06))
        pen.oval(rng.uniform(x0, x1), rng.uniform(y0, y1) - .3 * size * (light - .66), r * rng.uniform(.9, 1.6),
            r * .8, colour)


GREENS = ((96, 142, 76), (70, 118, 66), (130, 166, 88), (54, 92, 58))
AUTUMN = ((206, 70, 40), (226, 132, 44), (190, 48, 44), (236, 180, 70))
BLOSSOM = ((246, 200, 216), (240, 176, 200), (252, 226, 232), (150, 130, 110))


def _room(rng, pen, w):
    wall = shade(((214, 190, 148), (196, 176, 150), (156, 116, 76), (226, 214, 190))[int(rng.integers(4))],
        rng.uniform(.6, 1.1))
    floor = rng.uniform(.62, .95)
    pen.shape([(0, 0), (w, 0), (w, 2), (0, 2)], wall, False, None)
    wood = shade((96, 62, 42), rng.uniform(.6, 1.3))
    x, bright = rng.uniform(-.3, 0), rng.uniform(.75, 1.0)
    while x < w:
        width = rng.uniform(.3, .6)
        kind = rng.random()
        if kind < .55:  # shoji
            pen.shape([(x, .1), (x + width, .1), (x + width, floor), (x, floor)], shade((250, 244, 228), bright),
                False, None)
            columns, rows = int(rng.integers(2, 5)), int(rng.integers(4, 8))
            for i in range(columns + 1):
                pen.stroke([(x + width * i / columns, .1), (x + width * i / columns, floor)], wood, .008, False)
            for i in range(rows + 1):
                y = .1 + (floor - .1) * i / rows
                pen.stroke([(x, y), (x + width, y)], wood, .008, False)
        elif kind < .75:  # painted sliding door
            pen.shape([(x, .1), (x + width, .1), (x + width, floor), (x, floor)], shade(wall, .85), False, None)
            pen.oval(x + width * .85, floor * .6, .02, .03, wood)
            _foliage(rng, pen, x + .05, x + width - .05, floor * .5, floor * .9, (shade(wall, .7), (150, 60, 50)), 8,
                .04)
        elif kind < .85:  # hanging scroll
            pen.shape([(x + .1, .12), (x + .26, .12), (x + .26, .5), (x + .1, .5)], (236, 228, 206), False, .6)
            pen.stroke([(x + .18, .18), (x + .14, .3), (x + .2, .42)], INK, .012)
        x += width
        pen.shape([(x - .02, 0), (x + .025, 0), (x + .025, floor), (x - .02, floor)], wood, False, None)
    pen.shape([(0, .07), (w, .07), (w, .11), (0, .11)], wood, False, None)
    mat = shade((188, 176, 112), rng.uniform(.6, 1.05)) if rng.random() < .7 else shade(wood, 1.2)
    pen.shape([(0, floor), (w, floor), (w, 2), (0, 2)], mat, False, None)
    vanish = rng.uniform(.2, .8) * w
    for i in range(-6, 14):
        x = i * .25
        pen.stroke([(vanish + (x - vanish) * .9, floor), (vanish + (x - vanish) * 3, floor + .8)], shade(mat, .75),
            .008, False)
    for k in (.06, .2):
        pen.stroke([(0, floor + k), (w, floor + k)], shade(mat, .72), .01, False)


def _corridor(rng, pen, w):
    wood, vx, vy = shade((126, 84, 54), rng.uniform(.5, 1.3)), rng.uniform(.25, .75) * w, rng.uniform(.3, .5)
    d = rng.uniform(.08, .25)
    end = [(vx - d, vy - d), (vx + d, vy - d), (vx + d, vy + d), (vx - d, vy + d)]
    light = shade((240, 226, 190), rng.uniform(.7, 1.0))
    pen.shape([(0, 0), end[0], end[3], (0, 1.3)], shade(light, .85), False, None)
    pen.shape([(w, 0), end[1], end[2], (w, 1.3)], shade(wood, .8), False, None)
    pen.shape([(0, 0), (w, 0), end[1], end[0]], shade(wood, .6), False, None)
    pen.shape([(0, 1.3), end[3], end[2], (w, 1.3)], wood, False, None)
    pen.shape(end, light if rng.random() < .5 else shade(wood, .45), False, .6)
    for x in np.linspace(-1.5, w + 1.5, 16):
        pen.stroke([(vx + (x - vx) * d * .7, vy + d), (x, 1.3)], shade(wood, .75), .006, False)
    for f in (.15, .3, .5, .8):
        for side, x0 in ((0, .0), (1, w)):
            x = (end[0][0] if side == 0 else end[1][0]) * (1 - f) + x0 * f
            pen.stroke([(x, (vy - d) * (1 - f)), (x, (vy + d) * (1 - f) + 1.3 * f)], shade(wood, .5), .012 + .03 * f,
                False)


def _garden(rng, pen, w):
    leaves = (GREENS, GREENS, AUTUMN, BLOSSOM)[int(rng.integers(4))]
    horizon = rng.uniform(.4, .7)
    hill = shade((110, 150, 150), rng.uniform(.8, 1.2))
    for k in range(2):
        xs = np.linspace(-.2, w + .2, 7)
        ys = horizon - .1 - rng.uniform(0, .22, 7) * (1 - .5 * k)
        pen.shape(np.vstack([np.stack([xs, ys], 1), [(w + .2, 1.5), (-.2, 1.5)]]), shade(hill, 1 - .15 * k),
            outline=None)
    _foliage(rng, pen, -.1, w + .1, horizon - .35, horizon, leaves, 46, .09)
    ground = shade(((150, 170, 96), (196, 178, 140), (226, 230, 236))[int(rng.integers(3))], rng.uniform(.8, 1.05))
    pen.shape([(-.1, horizon), (w + .1, horizon), (w + .1, 2), (-.1, 2)], ground, False, None)
    pen.shape([(w * .45, horizon), (w * .55, horizon), (w * .9, 1.4), (w * .2, 1.4)], shade(ground, 1.3), False, None)
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
    stone = shade((196, 186, 170), rng.uniform(.6, 1.05))
    pen.shape([(-.1, ground), (w + .1, ground), (w + .1, 2), (-.1, 2)], stone, False, None)
    for k in range(6):
        pen.stroke([(0, ground + .02 + k * k * .014), (w, ground + .02 + k * k * .014)], shade(stone, .85), .006,
            False)
    x = -rng.uniform(0, .5)
    while x < w:
        width, wood = rng.uniform(.5, 1.0), shade((120, 84, 60), rng.uniform(.5, 1.2))
        wall = shade((230, 216, 190), rng.uniform(.7, 1.0)) if rng.random() < .5 else wood
        pen.shape([(x, .1), (x + width, .1), (x + width, ground), (x, ground)], wall, False, None)
        for k in range(int(width / .045)):
            if wall is wood or k % 4 == 0:
                pen.stroke([(x + k * .045, .15), (x + k * .045, ground)], shade(wood, .7), .006, False)
        door = x + width * rng.uniform(.15, .5)
        pen.shape([(door, ground - .42), (door + .32, ground - .42), (door + .32, ground), (door, ground)],
            shade(wood, .35), False, None)
        cloth = rng.integers(40, 220, 3)
        for k in range(4):
            pen.shape([(door + k * .08, ground - .43), (door + k * .08 + .075, ground - .43),
                (door + k * .08 + .075, ground - .28), (door + k * .08, ground - .28)], cloth, False, .8)
        roof = shade((84, 90, 104), rng.uniform(.6, 1.2))
        pen.shape([(x - .06, .2), (x + .04, .02), (x + width - .04, .02), (x + width + .06, .2)], roof, False, .6)
        for k in range(int(width / .06)):
            pen.stroke([(x + k * .06 + .04, .03), (x + k * .06, .2)], shade(roof, .7), .006, False)
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
            pen.oval(x + rng.normal(0, s * 1.8), y + rng.normal(0, s * .35), s * 1.2, s * .7, shade((250, 252, 254),
                rng.uniform(.93, 1)))


def _fancy(rng, pen, w):
    """The empty backgrounds of moods: bokeh, rays, flowers, stripes."""
    kind, colour = int(rng.integers(4)), rng.integers(120, 256, 3)
    cx, cy = rng.uniform(0, w), rng.uniform(0, 1)
    for i in range(30):
        x, y, r = rng.uniform(0, w), rng.uniform(0, 1), rng.uniform(.02, .12)
        if kind == 0:
            pen.oval(x, y, r, r, shade(colour, rng.uniform(.9, 1.5)))
        elif kind == 1:
            a = i / 30 * 2 * math.pi + rng.uniform(0, .1)
            ray = [(cx, cy), (cx + 3 * math.cos(a), cy + 3 * math.sin(a)), (cx + 3 * math.cos(a + .09),
                cy + 3 * math.sin(a + .09))]
            pen.shape(ray, colour, False, None)
        elif kind == 2:
            for k in range(5):
                pen.oval(x + r * .5 * math.cos(k * 1.257), y + r * .5 * math.sin(k * 1.257), r * .36, r * .36,
                    shade(colour, 1.3 if i % 2 else .95))
        else:
            pen.stroke([(x, -.1), (x + rng.normal(0, .03), 1.3)], colour, rng.uniform(.004, .03), False)


def _steam(rng, pen, w):
    """The open-air bath: rocks round grey water."""
    pen.shape([(-.1, .55), (w + .1, .55), (w + .1, 2), (-.1, 2)], shade((130, 158, 168), rng.uniform(.6, 1.1)),
        False, None)
    for _ in range(14):
        x, r = rng.uniform(0, w), rng.uniform(.06, .16)
        pen.shape(np.array([x, .55]) + CIRCLE * r * rng.uniform(.6, 1.2, (8, 1)), shade((110, 106, 104),
            rng.uniform(.5, 1.1)), outline=.7)
    _foliage(rng, pen, 0, w, .1, .4, GREENS, 20, .08)


def _clutter(rng, pen, w):
    """One thing that could be mistaken for a character: lantern, umbrella, doll, vase, fox statue, lucky daruma."""
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
            thing.stroke([(0, -1.2), (k, 0)], shade(colour, .7), .06)
        thing.stroke([(0, 0), (0, 2)], (110, 80, 60), .12)
    elif kind == 2:  # kokeshi doll
        thing.shape([(-.6, .8), (.6, .8), (.7, 2.6), (-.7, 2.6)], colour, False)
        thing.oval(0, 0, .9, .85, (244, 220, 190), .6)
        thing.shape([(-.9, -.1), (-.6, -.75), (0, -.9), (.6, -.75), (.9, -.1), (.3, -.4), (-.3, -.4)], INK)
        for k in (-.35, .35):
            thing.stroke([(k - .12, .15), (k + .12, .15)], INK, .08)
    elif kind == 3:
        thing.shape(mirror([(.3, -1.2), (.25, -.7), (.9, .2), (.6, 1.2), (.4, 1.3)]), colour)
        for k in (-.5, 0, .6):
            thing.stroke([(0, -1.1), (k, -2.4)], (80, 120, 70), .08)
            thing.oval(k, -2.5, .35, .32, (236, 140, 160), .7)
    elif kind == 4:  # stone fox
        stone = shade((190, 188, 182), rng.uniform(.8, 1))
        thing.shape(mirror([(0, -.6), (.3, -1.1), (.5, -.4), (.4, .2), (.8, 1.6), (.8, 2.0)]), stone)
        thing.shape([(-.4, .3), (.4, .3), (.3, .8), (-.3, .8)], (200, 50, 50))
    elif kind == 5:
        thing.oval(0, 0, 1.0, 1.0, (200, 44, 40), .6)
        thing.oval(0, -.1, .6, .5, (248, 226, 200))
        for k in (-.25, .25):
            thing.oval(k, -.1, .14, .16, INK)
    else:  # a kimono on a stand
        thing.shape([(-1.6, -1), (1.6, -1), (1.6, .3), (.7, .3), (.8, 2.2), (-.8, 2.2), (-.7, .3), (-1.6, .3)],
            colour, False)
        thing.stroke([(0, -1), (0, 2.2)], shade(colour, .7), .1)


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
    wood = shade((110, 70, 46), rng.uniform(.4, 1.3))
    if kind == 'table':
        y = rng.uniform(.78, .92)
        pen.shape([(-.1, y), (w + .1, y), (w + .1, y + .06), (-.1, y + .06)], wood, False, None)
        pen.shape([(-.1, y + .06), (w + .1, y + .06), (w + .1, 1.2), (-.1, 1.2)], shade(wood, .6), False, None)
        for _ in range(int(rng.integers(4))):
            x, s = rng.uniform(0, w), rng.uniform(.03, .07)
            pen.shape([(x - s, y - s), (x + s, y - s), (x + s * .7, y + .02), (x - s * .7, y + .02)], rng.integers(60,
                250, 3), False)
    elif kind == 'pillar':
        x, s = rng.uniform(0, w), rng.uniform(.03, .09)
        pen.shape([(x - s, -.1), (x + s, -.1), (x + s, 1.1), (x - s, 1.1)], wood, False, .6)
        pen.stroke([(x - s * .3, -.1), (x - s * .3, 1.1)], shade(wood, .8), .01, False)
    elif kind == 'plant':
        x0, green = rng.choice([-.05, w - .35, w * .4]), GREENS[int(rng.integers(4))]
        for _ in range(12):
            x, top, b = x0 + rng.uniform(0, .4), rng.uniform(.55, .9), rng.normal(0, .12)
            pen.shape([(x - .02, 1.1), (x - .03 + b * .5, (top + 1.1) / 2), (x + b, top), (x + b, top),
                (x + .03 + b * .5, (top + 1.1) / 2), (x + .02, 1.1)], shade(green, rng.uniform(.6, 1.1)))
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


def _plan_actor(rng, cast, name):
    """Choose a character's look and outfit, pose, what is in the hand, and movement."""
    look = cast.choose_look(rng, name)
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
    dim = 0.35 if rng.random() < 0.025 else rng.uniform(0.82, 1.05)  # now and then a character is against the light
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
        foot = head_to_floor(look, actor['pose']['sit'])
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


def _plan_shot(rng, hw, empty, cast):
    """Make all choices of a shot: characters, places, poses, background, light."""
    wide = hw[1] / hw[0]
    kind = ('close', 'bust', 'full', 'crowd')[int(rng.choice(4, p=(0.2, 0.36, 0.36, 0.08)))]
    most = {
        'close': (0.75, 0.25),
        'bust': (0.4, 0.45, 0.15),
        'full': (0.3, 0.38, 0.2, 0.12),
        'crowd': (0, 0, 0, 0.3, 0.3, 0.2, 0.1, 0.1),
    }
    count = 0 if empty else 1 + int(rng.choice(len(most[kind]), p=most[kind]))
    # The cast is drawn without repetition, strangers as often as they like.
    names = [str(name) for name in rng.permutation(list(cast.looks))[:count]]
    names = [cast.stranger if rng.random() < (0.14 if kind != 'crowd' else 0.4) else name for name in names]
    actors = _place(rng, [_plan_actor(rng, cast, name) for name in names], kind, wide)
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


def draw_shot(shot, t=0.0):
    """Draw a shot.

    Args:
        shot: as `shoot`'s.
        t: seconds into the shot, from 0 on.

    Returns:
        dict of `image`, `boxes`, `labels` and `masks` as `toy.draw_frame`'s, and `hidden`: indices into shot['actors']
        of those too hidden to be labelled.
    """
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
        draw_figure(pen, actor, pose)
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
            hidden.append(number - 1)
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
        image = cv2.multiply(image, np.tile(beam[None, :, None], (h, 1, 3)), dtype=cv2.CV_8U)
    return image


def shoot(rng, hw, cast=FIRST):
    """Plan a shot; characters too hidden to be labelled in its first frame are removed.

    Args:
        rng: numpy Generator.
        hw: height and width in pixels.
        cast: who may be in it (`casts.Cast`).

    Returns:
        (shot, frame): the shot as a dict for `draw_shot`, and its frame at t = 0. About one in twenty has no character.
    """
    empty = bool(rng.random() < 0.05)
    while True:
        shot = _plan_shot(rng, hw, empty, cast)
        frame = draw_shot(shot)
        while frame['hidden']:
            shot['actors'] = [actor for k, actor in enumerate(shot['actors']) if k not in frame['hidden']]
            frame = draw_shot(shot)
        if empty or frame['labels']:
            return shot, frame
