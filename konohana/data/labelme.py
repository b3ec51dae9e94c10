"""Reading and writing LabelMe's and X-AnyLabeling's JSON: a file for each picture, beside it.

<split>/0001.jpg  <split>/0001.json      or both directly in the dataset's folder: the split 'all'

The formats: https://github.com/wkentaro/labelme and https://github.com/CVHub520/X-AnyLabeling
"""

import json
import math
from pathlib import Path

from konohana import files, masks
from konohana.data.images import OTHER_ENDINGS, PICTURE_ENDINGS
from konohana.data.shapes import (
    ALL,
    CROWD,
    Shape,
    around,
    checked_shapes,
    ellipse,
    fill,
    grouped,
    named,
    opened,
    other_size,
    pick_split,
    placed,
    png_of,
    polygon,
    read_json,
    read_pairs,
    shapes_of,
    shown,
    upright,
)
from konohana.errors import UserError

HOLDS = ('masks', 'own boxes', 'boxes', 'crowds', 'difficult')  # of what not every form can hold, see shapes.lost
N_LOOKED_AT = 3  # JSON files of a folder, to know whether it is in this form


def splits(root):
    """Names of the splits that a folder has in this form, sorted; none where it is not labelled in this form."""
    return sorted(_folders(Path(root)))


def _folders(root):
    with files.reading(root):
        if not root.is_dir():
            return {}
        found = {path.name: path for path in files.entries(root) if path.is_dir() and _holds_labels(path)}
        return {**found, ALL: root} if _holds_labels(root) else found


def _holds_labels(folder):
    """Whether one of the first JSON files of a folder has `shapes`."""
    for path in sorted(path for path in files.entries(folder) if path.suffix.lower() == '.json')[:N_LOOKED_AT]:
        try:
            content = read_json(path)
        except UserError:
            continue
        if isinstance(content, dict) and isinstance(content.get('shapes'), list):
            return True
    return False


def find_split(root, split):
    """List of (picture, JSON) of a split. Neither file need exist.

    Raises:
        UserError: no such split, or a folder that cannot be read.
    """
    folders = _folders(Path(root))
    folder = folders[pick_split(root, split, sorted(folders))]
    with files.reading(folder):
        paths = sorted(files.entries(folder))
    pairs = [(p, p.with_suffix('.json')) for p in paths if p.suffix.lower() in PICTURE_ENDINGS + OTHER_ENDINGS]
    alone = {path for path in paths if path.suffix.lower() == '.json'} - {label for _, label in pairs}
    return pairs + [(_picture_of(path), path) for path in sorted(alone)]


def _picture_of(path):
    """The picture that a JSON without one of its own name names, relative to itself, or in images/ beside its folder.

    X-AnyLabeling leaves out where the picture is when its labels go to a folder of their own.
    """
    try:
        named_there = _load(path)['imagePath']
    except UserError:
        return path.with_suffix('.jpg')  # what is wrong with it is said when it is read
    name, beside = named_there.replace('\\', '/'), path.parent.parent / 'images'
    places = path.parent / name, beside / name, beside / path.parent.name / name
    with files.reading(places[0]):
        return next((place for place in places if place.is_file()), places[0])


def _load(path):
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get('shapes'), list):
        raise UserError(f'{path}: not of LabelMe or X-AnyLabeling: it has no list "shapes". Remove or export it again.')
    if not isinstance(content.get('imagePath'), str) or not content['imagePath']:
        raise UserError(f'{path}: it names no picture under "imagePath". Save it again.')
    return content


def label_files(root, split):
    """The files that hold the labels of a split."""
    return [label for _, label in find_split(root, split)]


def read_split(root, split, ignore_class=None, progress=True):
    """Read a split and check every picture and shape; see `yolo.read_split`."""
    pairs = find_split(root, split)

    def read(pair):
        picture, label = pair
        with files.reading(label):
            if not label.exists():
                raise UserError(f'{label}: the annotation is missing. A frame without characters needs one too.')
        content, frame = _load(label), opened(picture)
        wrong = other_size(frame, content.get('imageWidth'), content.get('imageHeight'), label.name)
        if wrong:
            return frame, [wrong]
        found, problems = checked_shapes(
            content['shapes'],
            lambda shape: read_shape(shape, (frame.height, frame.width)),
            lambda number, shape: f'{label}: shape {number} ({_label_of(shape)})',
        )
        fill(frame, found, ignore_class)
        return frame, problems

    return read_pairs(split, pairs, read, progress)


def _label_of(shape):
    return shown(shape.get('label')) if isinstance(shape, dict) else 'no object'


def read_shape(shape, hw):
    """One of `shapes` -> `Shape`. ValueError: what is wrong with it."""
    if not isinstance(shape, dict):
        raise ValueError('it is no JSON object')
    name, points = named(shape.get('label')), shape.get('points')
    if not isinstance(points, list) or not all(map(_is_point, points)) or not points:
        raise ValueError('its points are not a list of [x, y]')
    kind = shape.get('shape_type') or 'polygon'  # LabelMe's first versions drew nothing else
    mask = None
    if kind in ('rectangle', 'rotation', 'oriented_rectangle'):  # the last two are X-AnyLabeling's and LabelMe's
        if len(points) not in (2, 4):
            raise ValueError(f'a rectangle has 2 or 4 points, this one has {len(points)}')
        box = (around if kind == 'rectangle' else upright)(points, hw)
    elif kind in ('polygon', 'quadrilateral'):
        box, mask = polygon(points, hw)
    elif kind == 'circle' and len(points) == 2:
        centre, radius = points[0], math.dist(*points)
        box, mask = ellipse(*centre, radius, radius, 0, hw)
    elif kind == 'mask':
        box, mask = _mask(shape.get('mask'), points, hw)
    else:
        raise ValueError(f'a {shown(kind)} has no box. Draw a rectangle or a polygon')
    flags = shape.get('flags') if isinstance(shape.get('flags'), dict) else {}
    difficult = shape.get('difficult') is True or flags.get('difficult') is True
    group = shape.get('group_id')
    group = group if isinstance(group, (int, str)) else None
    return Shape(name, box, mask, difficult, flags.get(CROWD) is True, group)


def _is_point(point):
    return isinstance(point, list) and len(point) == 2 and all(map(masks.is_number, point))


def _mask(text, points, hw):
    """LabelMe's mask: a PNG of a part of the picture in base64, with its upper left point."""
    return placed(png_of(text, 'L', hw) > 0, *map(round, points[0]), hw)


def picture_folder(root, split):
    """Where the pictures of a split lie in the layout that `write` writes."""
    return Path(root) / split


def write(root, samples, class_names, ignore_class):
    """The label files of a dataset in this form; see `yolo.write`. Masks become polygons, which both tools edit."""
    result = {Path(root) / 'classes.txt': ''.join(f'{name}\n' for name in class_names)}
    for frames in samples.values():
        for frame in frames:
            content = {
                'version': '5.5.0',
                'flags': {},
                'shapes': [_shape(*one) for one in grouped(shapes_of(frame, ignore_class))],
                'imagePath': files.in_unicode(frame.path.name),
                'imageData': None,
                'imageHeight': frame.height,
                'imageWidth': frame.width,
            }
            result[frame.path.with_suffix('.json')] = json.dumps(content, ensure_ascii=False, indent=1) + '\n'
    return result


def _shape(shape, group):
    if shape.mask is None:
        x1, y1, x2, y2 = (round(value, 3) for value in shape.box)
        kind, points = 'rectangle', [[x1, y1], [x2, y2]]
    else:
        values = masks.to_polygon(shape.mask)
        kind, points = 'polygon', [list(point) for point in zip(values[::2], values[1::2], strict=True)]
    flags = {CROWD: True} if shape.crowd else {}
    return {
        'label': shape.name, 'points': points, 'group_id': group, 'description': '', 'shape_type': kind, 'flags': flags,
        'difficult': bool(shape.difficult),
    }  # fmt: skip
