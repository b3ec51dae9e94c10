"""What the readers and writers of label files share: from the shapes that people draw to a `Sample` and back."""

import base64
import io
import json
import math
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from konohana import files, masks
from konohana.boxes import fits
from konohana.data.images import load_image
from konohana.data.sample import Sample, check_name, place
from konohana.errors import UserError, printable
from konohana.progress import progress_bar

SAME_SPLIT = {'val': ('val', 'valid', 'validation', 'test'), 'valid': ('valid', 'val', 'validation', 'test')}
DIVIDED = ('train', 'val', 'valid', 'validation', 'test')  # splits, in small letters
ALL = 'all'  # the only split of a folder that is not divided into splits
USUAL = (*DIVIDED, ALL, 'default')  # the last is CVAT's and X-AnyLabeling's word for all
CROWD = 'is_crowd'  # the flag, in forms that hold flags of any name, of a region not counted for its own class
HALF_A_PIXEL = 0.5

# float() would take 1_0, nan, full-width digits and a no-break space too.
NUMBER = re.compile(r'[ \t\r\n]*([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)[ \t\r\n]*', re.ASCII)


@dataclass
class Shape:
    """One object or ignored region: its box (x1, y1, x2, y2 in pixels) and its mask as compressed RLE or None.

    Shapes of one name and one `group` (not None) are one object: a box and its mask, or the parts of a mask.
    """

    name: str
    box: tuple
    mask: dict | None = None
    difficult: bool = False
    crowd: bool = False
    group: object = None


def shown(value):
    """Any value of a label file, as a short text for a message."""
    return printable(str(value))[:40]


def read_json(path):
    """The content of a JSON file; UserError: it cannot be read, or is none."""
    text = files.read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: broken JSON ({error}). Export or copy it again.') from None


def to_number(text):
    """The number that a text is; nan where it is none, or none that is finite."""
    match = NUMBER.fullmatch(text)
    value = float(match[1]) if match else math.nan
    return value if math.isfinite(value) else math.nan


def same_split(split, there):
    """The one of the splits `there` that is meant by `split`, None where there is none.

    'val' may be called 'valid', 'validation' or 'test', and all of them as CVAT calls them: Train, Validation, Test.
    """
    names = SAME_SPLIT.get(split, (split,))
    return next((one for name in names for one in (name, name.capitalize()) if one in there), None)


def pick_split(where, split, there):
    """The one of the splits `there` that is meant by `split`, see `same_split`, or UserError."""
    found = same_split(split, there)
    if found is not None:
        return found
    raise no_split(where, split, there)


def no_split(where, split, there):
    """The UserError of a split that is none of those `there`."""
    there = sorted(there)
    shown = printable(', '.join(there)) or 'none'
    hint = ''
    if len(there) == 1 and there[0].lower() not in DIVIDED:
        quote = '"' if ' ' in shown else ''
        given = f'split={shown}{quote}'
        hint = (
            f' The data are not divided: all of them are {quote}train_{given} val_split= to _train.py, and '
            f'{quote}{given} to _test.py; tools/check_dataset.py with split=episode divides them.'
        )
    return UserError(f'{where}: there is no split {split!r}. Splits there: {shown}.{hint}')


def named(name):
    """A class name from a file, without the spaces around it. ValueError: what is wrong with it."""
    if not isinstance(name, str):
        raise ValueError(f'its name is {shown(name)}, which is no text')
    check_name(name.strip())
    return name.strip()


def box_of(x1, y1, x2, y2, hw):
    """Corners in pixels -> (x1, y1, x2, y2). ValueError where they are no box, or none of the picture of `hw`."""
    text = f'box {x1:g}, {y1:g}, {x2:g}, {y2:g} (x1, y1, x2, y2)'
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f'{text} is {"inverted" if x2 < x1 or y2 < y1 else "empty"}')
    if not fits((x1, y1, x2, y2), hw):
        raise ValueError(f'{text} {outside(hw)}')
    return x1, y1, x2, y2


def outside(hw):
    """What is wrong with a box that is too far beyond a picture of `hw`, see `boxes.fits`."""
    return f'is more than half outside the picture of {hw[1]} x {hw[0]}'


def around(points, hw):
    """The box around points [(x, y), ...]; see `box_of`."""
    xs, ys = zip(*points, strict=True)
    return box_of(min(xs), min(ys), max(xs), max(ys), hw)


def upright(corners, hw):
    """The box around a turned rectangle, whose corners may lie beyond the picture of `hw`; see `box_of`."""
    height, width = hw
    return around([(min(max(x, 0), width), min(max(y, 0), height)) for x, y in corners], hw)


def polygon(points, hw):
    """Points [(x, y), ...] in pixels -> (box around them, mask as compressed RLE).

    Raises:
        ValueError: fewer than three points, or a polygon that is empty or, by half or more, outside the picture.
    """
    if len(points) < 3:
        raise ValueError(f'a polygon needs three points or more, this one has {len(points)}')
    box = around(points, hw)
    values = [float(value) for point in points for value in point]
    return box, masks.from_segmentation([values], hw)


def ellipse(cx, cy, rx, ry, angle, hw):
    """An ellipse, turned by an angle in degrees -> (box, mask); see `polygon`.

    The tools let it reach beyond the picture, as they do with turned rectangles: it is cut there.
    """
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    points = list(zip((cx + rx * np.cos(angles)).tolist(), (cy + ry * np.sin(angles)).tolist(), strict=True))
    points = masks.cut_at_edges(turned(points, cx, cy, angle), hw)
    if not points:
        raise ValueError(f'it lies outside the picture of {hw[1]} x {hw[0]}')
    return polygon(points, hw)


def turned(points, cx, cy, angle):
    """Points [(x, y), ...] turned about (cx, cy) by an angle in degrees, clockwise as one sees it."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return [(cx + (x - cx) * cos - (y - cy) * sin, cy + (x - cx) * sin + (y - cy) * cos) for x, y in points]


def placed(part, x, y, hw):
    """A mask (2-D array) whose upper left pixel is at (x, y) -> (its box, the mask of the whole picture as RLE)."""
    (height, width), bottom, right = hw, y + part.shape[0], x + part.shape[1]
    if not fits((x, y, right, bottom), hw):
        raise ValueError(f'its mask {outside(hw)}')
    whole, top, left = np.zeros((1, height, width), np.uint8), max(0, y), max(0, x)
    whole[0, top:bottom, left:right] = part[top - y : height - y, left - x : width - x]
    mask = masks.encode(whole)[0]
    if masks.area([mask]) == [0]:
        raise ValueError('its mask is empty')
    return masks.bounding_box(mask), mask


def png_of(text, mode, hw):
    """A PNG in base64, no larger than the picture of `hw` -> array of its pixels in a mode of Pillow's."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=['PNG']) as image:
            if image.width > hw[1] or image.height > hw[0]:
                raise ValueError('larger than the picture')
            return np.array(image.convert(mode))
    except Exception as error:
        # Whatever a damaged PNG makes Pillow raise.
        raise ValueError(f'its mask cannot be read ({printable(files.reason(error))[:80]})') from None


def cut_out(mask):
    """Compressed RLE -> (uint8 array of the part within its bounding box, x, y of its upper left pixel)."""
    x1, y1, x2, y2 = map(int, masks.bounding_box(mask))
    return masks.decode([mask], mask['size'])[0, y1:y2, x1:x2].numpy(), x1, y1


def opened(picture):
    """A `Sample` of a picture without labels, which is decoded once to know that it can be; UserError if not."""
    height, width = load_image(picture).shape[:2]
    return Sample(picture, height, width)


def other_size(frame, width, height, file):
    """The line about a label file that says another size than the picture has; None where it says the same or none."""
    if all(not said or said == true for said, true in ((width, frame.width), (height, frame.height))):
        return None
    return (
        f'{frame.path}: the picture is {frame.width} x {frame.height}, but {file} says {shown(width)} x '
        f'{shown(height)}. Label it again at its present size.'
    )


def checked_shapes(items, read, line):
    """Read objects one by one: list of items -> (list of `Shape`, list of problems).

    Args:
        read: function of an item -> `Shape`, or None for what is no object; ValueError says what is wrong.
        line: function of (number from 1 on, item) -> text that names the object in a problem.
    """
    found, problems = [], []
    for number, item in enumerate(items, start=1):
        try:
            shape = read(item)
        except ValueError as error:
            problems.append(f'{line(number, item)}: {error}.')
            continue
        if shape is not None:
            found.append(shape)
    return found, problems


def fill(frame, shapes, ignore_class):
    """Put shapes into a `Sample` whose size is known."""
    boxes, ignored, difficult = [], [], []
    frame.masks, frame.ignored_names, frame.ignored_masks = [], [], []
    for shape in joined(shapes):
        if shape.name == ignore_class or shape.crowd:
            ignored.append(shape.box)
            frame.ignored_names.append(None if shape.name == ignore_class else shape.name)
            frame.ignored_masks.append(shape.mask)
        else:
            boxes.append(shape.box)
            frame.names.append(shape.name)
            frame.masks.append(shape.mask)
            difficult.append(shape.difficult)
    place(frame, boxes, ignored)
    frame.difficult = np.array(difficult, bool)


def joined(shapes):
    """List of `Shape` -> list without groups: masks of a group are one object, whose box is that of the group."""
    groups, result = {}, []
    for shape in shapes:
        if shape.group is None:
            result.append(shape)
        else:
            groups.setdefault((shape.name, shape.group), []).append(shape)
    for group in groups.values():
        boxes, parts = [s for s in group if s.mask is None], [s for s in group if s.mask is not None]
        if not parts or len(boxes) > 1:
            result.extend(boxes)
        if parts:
            whole = boxes if len(boxes) == 1 else parts
            corners = np.array([shape.box for shape in whole], float)
            box = (*corners[:, :2].min(axis=0).tolist(), *corners[:, 2:].max(axis=0).tolist())
            mask = coco_mask.merge([part.mask for part in parts]) if len(parts) > 1 else parts[0].mask
            flags = any(s.difficult for s in group), any(s.crowd for s in group)
            result.append(Shape(parts[0].name, box, mask, *flags))
    return result


def read_all(split, items, read, progress):
    """Read the frames of a split in threads: function `read` of an item -> (Sample, problems).

    Returns:
        (list of `Sample`, list of problems). A frame with a problem is not in the first list.
    """
    frames, problems = [], []
    with ThreadPoolExecutor() as pool, progress_bar(f'Checking {split}', len(items), shown=progress) as bar:
        for done, (frame, found) in enumerate(pool.map(lambda item: _safely(read, item), items), start=1):
            problems.extend(found)
            if not found:
                frames.append(frame)
            bar.update(done)
    return frames, problems


def read_pairs(split, pairs, read, progress):
    """`read_all` of (picture, label file) pairs, where each picture is to have a label file of its own.

    One that several have, like 1.jpg and 1.png, is a problem of all of them.
    """
    owners = {}
    for picture, label in pairs:
        owners.setdefault(label, []).append(picture)
    shared = {label: pictures for label, pictures in owners.items() if len(pictures) > 1}
    frames, problems = read_all(split, pairs, read, progress)
    wrong = {picture for pictures in shared.values() for picture in pictures}
    for label, pictures in shared.items():
        names = ', '.join(picture.name for picture in pictures)
        problems.append(f'{label}: it belongs to {len(pictures)} frames of the split ({names}). Keep one of them.')
    return [frame for frame in frames if frame.path not in wrong], problems


def _safely(read, item):
    try:
        return read(item)
    except UserError as error:
        return None, [str(error)]


def shapes_of(sample, ignore_class, crowds=True):
    """All objects of a sample, then all its ignored regions, as a list of `Shape`.

    Without `crowds`, for forms that cannot hold them, regions ignored for one class only become ignored for all.
    """
    n, m = len(sample.boxes), len(sample.ignored)
    rows = zip(sample.names, sample.boxes.tolist(), sample.masks or [None] * n, sample.difficult.tolist(), strict=True)
    found = [Shape(name, tuple(box), mask, difficult) for name, box, mask, difficult in rows]
    regions = zip(
        sample.ignored_names or [None] * m, sample.ignored.tolist(), sample.ignored_masks or [None] * m, strict=True
    )
    for name, box, mask in regions:
        crowd = crowds and name is not None
        found.append(Shape(name if crowd else ignore_class, tuple(box), mask, crowd=crowd))
    return [shape if shape.mask is None or masks.area([shape.mask])[0] else _without_mask(shape) for shape in found]


def _without_mask(shape):
    return Shape(shape.name, shape.box, None, shape.difficult, shape.crowd)


def with_regions(class_names, samples, ignore_class):
    """The names that a form has to list: those of the classes, and `ignore_class` where regions are ignored.

    samples: {split: list of `Sample`}.
    """
    there = any(len(frame.ignored) for part in samples.values() for frame in part)
    return [*class_names, *([ignore_class] if there and ignore_class not in class_names else [])]


def box_differs(shape):
    """Whether the box of a shape with a mask is another than that of the mask, by more than half a pixel."""
    return bool(np.abs(np.subtract(shape.box, masks.bounding_box(shape.mask))).max() > HALF_A_PIXEL)


def grouped(shapes):
    """List of (`Shape`, number of its group or None), for forms in which a mask has no box of its own.

    A mask whose box is another becomes two shapes of one group, first the box, then the mask.
    """
    result, number = [], 0
    for shape in shapes:
        if shape.mask is not None and box_differs(shape):
            number += 1
            result += [(_without_mask(shape), number), (shape, number)]
        else:
            result.append((shape, None))
    return result


def lost(samples, form, holds, ignore_class):
    """One line for each kind of thing that a form cannot hold and that some sample has.

    Args:
        form: its name, for the lines. holds: of 'masks', 'own boxes' (a mask whose box is another), 'boxes' (an object
            without mask beside one with), 'crowds' (regions not counted for one class) and 'difficult', what it holds.
    """
    count = Counter()
    for sample in samples:
        shapes = shapes_of(sample, ignore_class)
        with_mask = [shape for shape in shapes if shape.mask is not None]
        count['masks'] += len(with_mask)
        count['difficult'] += sum(shape.difficult for shape in shapes)
        count['crowds'] += sum(shape.crowd for shape in shapes)
        if 'masks' in holds:
            count['own boxes'] += sum(map(box_differs, with_mask))
            count['boxes'] += len(shapes) - len(with_mask) if with_mask else 0
    what = {
        'masks': 'masks: only their boxes are written',
        'own boxes': 'boxes that differ from those of their masks: the masks are written, boxes follow from them',
        'boxes': 'boxes beside masks in one picture: they are written as masks of four corners',
        'difficult': 'difficult flags: the objects are written as any others',
        'crowds': f'regions ignored for one class only: they are written as {ignore_class}, ignored for all',
    }
    return [f'{form} cannot hold {count[key]} {text}.' for key, text in what.items() if count[key] and key not in holds]
