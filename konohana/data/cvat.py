"""Reading and writing "CVAT for images 1.1" (XML): boxes, polygons, masks and ellipses.

<split>/annotations.xml  <split>/images/      one task, exported and unpacked, for each split
annotations.xml  images/                      one export whose pictures name their subset, or all in one split 'all'
<split>.xml  images/

The format: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/
"""

import html
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from konohana import files
from konohana.data.images import with_ending
from konohana.data.sample import Sample
from konohana.data.shapes import (
    ALL,
    CROWD,
    USUAL,
    Shape,
    box_of,
    checked_shapes,
    cut_out,
    ellipse,
    fill,
    grouped,
    named,
    opened,
    other_size,
    pick_split,
    placed,
    polygon,
    read_all,
    shapes_of,
    shown,
    to_number,
    turned,
    upright,
    with_regions,
)
from konohana.data.voc import parse_xml
from konohana.errors import UserError

HOLDS = ('masks', 'own boxes', 'boxes', 'crowds', 'difficult')  # of what not every form can hold, see shapes.lost
MAX_XML = 1 << 30  # bytes
FLAGS = ('difficult', CROWD)


def splits(root):
    """Names of the splits that a folder has in this form, sorted; none where it is not labelled in this form."""
    return sorted(_sources(Path(root)))


def _sources(root):
    """{split: (XML file, subset of its pictures, None for all)}."""
    with files.reading(root):
        if not root.is_dir():
            return {}
        found = {}
        for path in sorted(path for path in files.entries(root) if path.suffix.lower() == '.xml'):
            if _is_cvat(path):
                for subset in _subsets(path):
                    found[subset or (ALL if path.stem == 'annotations' else path.stem)] = path, subset
        for folder in sorted(path for path in files.entries(root) if path.is_dir()):
            if _is_cvat(folder / 'annotations.xml'):
                found[folder.name] = folder / 'annotations.xml', None
        if found:
            _add_damaged(root, found)
        return found


def _add_damaged(root, found):
    """Add files to `found` that are called like splits: they are damaged, and reading them says so."""
    there = {path for path, _ in found.values()}
    for split in USUAL:
        for path in (root / split / 'annotations.xml', root / f'{split}.xml'):
            if path not in there and path.is_file():
                found.setdefault(split, (path, None))


def _is_cvat(path):
    if not path.is_file():
        return False
    with path.open('rb') as file:
        return bool(re.search(rb'<annotations[\s>]', file.read(4096)))


def _subsets(path):
    """The subsets that the pictures of a file name, [None] where none does."""
    found = re.findall(rb'<image\s[^>]*?\bsubset="([^"]+)"', files.read_bytes(path, MAX_XML))
    return [html.unescape(name.decode(errors='replace')) for name in dict.fromkeys(found)] or [None]


def find_split(root, split):
    """(XML file, subset) of a split; UserError naming the splits that are there if this one is not."""
    sources = _sources(Path(root))
    return sources[pick_split(root, split, sorted(sources))]


def label_files(root, split):
    """The files that hold the labels of a split."""
    return [find_split(root, split)[0]]


def read_split(root, split, ignore_class=None, progress=True):
    """Read a split and check every picture and shape; see `yolo.read_split`."""
    path, subset = find_split(root, split)
    content = parse_xml(path, MAX_XML)
    if content.find('track') is not None:
        raise UserError(f'{path}: this is "CVAT for video", with tracks. Export it as "CVAT for images 1.1".')
    images = [image for image in content.iter('image') if subset is None or image.get('subset') == subset]
    if not images:
        raise UserError(f'{path}: no picture is listed there.')
    labels = [(element.text or '').strip() for element in content.findall('./meta//labels/label/name')]
    names = [name for name in dict.fromkeys(labels) if name and name != ignore_class]
    categories = {name: number for number, name in enumerate(names, start=1)} or None

    def read(image):
        frame = opened(_picture_of(path, Path(root), split, image))
        frame.categories = categories
        hw = frame.height, frame.width
        sides = [to_number(image.get(side, '')) for side in ('width', 'height')]
        wrong = other_size(frame, *(None if math.isnan(side) else int(side) for side in sides), path.name)
        if wrong:
            return frame, [wrong]
        found, problems = checked_shapes(
            list(image),
            lambda item: read_shape(item, hw),
            lambda number, item: (
                f'{path}: {shown(image.get("name"))}: <{shown(item.tag)}> number {number} ({shown(item.get("label"))})'
            ),
        )
        fill(frame, found, ignore_class)
        return frame, problems

    twice = _duplicated(images)
    frames, problems = read_all(split, images, read, progress)
    frames = [frame for frame in frames if frame.path.name not in twice]
    return frames, problems + [f'{path}: {shown(name)} is listed twice. Keep one of them.' for name in twice]


def _duplicated(images):
    names = [Path(image.get('name', '')).name for image in images if '/' not in image.get('name', '')]
    return sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []


def _picture_of(path, root, split, image):
    """Where the picture of an <image> is: beside the XML, in images/, in images/<subset>/ or in <split>/."""
    name = image.get('name')
    if not name:
        raise UserError(f'{path}: an <image> has no name.')
    name = name.replace('\\', '/')
    folders = [path.parent / 'images', path.parent / 'images' / image.get('subset', ''), path.parent, root / split]
    places = [folder / name for folder in folders]
    with files.reading(places[0]):
        whole = next((place for place in places if place.is_file()), None)
        # The frames of a video have no ending here.
        return whole or next(filter(None, map(with_ending, places)), places[0])


def _values(element, *keys):
    """Attributes as numbers; ValueError where one is missing or none."""
    values = [to_number(element.get(key, '')) for key in keys]
    for key, value in zip(keys, values, strict=True):
        if math.isnan(value):
            raise ValueError(f'its {key} is {shown(element.get(key))!r}, which is no number')
    return values


def read_shape(element, hw):
    """An element of <image> -> `Shape`, None for a tag of the whole picture. ValueError: what is wrong with it."""
    if element.tag == 'tag':
        return None
    readers = {'box': _box, 'polygon': _polygon, 'ellipse': _ellipse, 'mask': _mask}
    if element.tag not in readers:
        raise ValueError('it has no box. Draw a rectangle, a polygon, an ellipse or a mask')
    name = named(element.get('label', ''))
    box, mask = readers[element.tag](element, hw)
    flags = {item.get('name'): (item.text or '').strip().lower() in ('true', '1') for item in element.iter('attribute')}
    return Shape(name, box, mask, *(flags.get(flag, False) for flag in FLAGS), group=element.get('group_id') or None)


def _box(element, hw):
    x1, y1, x2, y2 = _values(element, 'xtl', 'ytl', 'xbr', 'ybr')
    if not element.get('rotation'):
        return box_of(x1, y1, x2, y2, hw), None
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    return upright(turned(corners, (x1 + x2) / 2, (y1 + y2) / 2, *_values(element, 'rotation')), hw), None


def _polygon(element, hw):
    points = [[to_number(value) for value in point.split(',')] for point in element.get('points', '').split(';')]
    if any(len(point) != 2 or math.isnan(sum(point)) for point in points):
        raise ValueError(f'its points are {shown(element.get("points"))!r}, not x,y;x,y;...')
    return polygon(points, hw)


def _ellipse(element, hw):
    cx, cy, rx, ry = _values(element, 'cx', 'cy', 'rx', 'ry')
    angle = _values(element, 'rotation')[0] if element.get('rotation') else 0.0
    return ellipse(cx, cy, rx, ry, angle, hw)


def _mask(element, hw):
    """A mask: lengths of runs of 0s and 1s in turn, along the rows of a rectangle."""
    left, top, width, height = map(int, _values(element, 'left', 'top', 'width', 'height'))
    runs = [to_number(run) for run in element.get('rle', '').split(',')]
    if any(math.isnan(run) or run < 0 or run != int(run) for run in runs):
        raise ValueError('its rle is not made of whole numbers from 0 on')
    if not (0 < width <= hw[1] and 0 < height <= hw[0]) or sum(runs) != width * height:
        raise ValueError(f'its rle has {sum(runs):g} pixels, but its rectangle is {width} x {height}')
    pixels = np.repeat(np.arange(len(runs)) % 2, np.array(runs, int)).reshape(height, width)
    return placed(pixels, left, top, hw)


def picture_folder(root, split):
    """Where the pictures of a split lie in the layout that `write` writes."""
    return Path(root) / split / 'images'


def write(root, samples, class_names, ignore_class):
    """The label files of a dataset in this form: a task for each split; see `yolo.write`."""
    result = {}
    for split, frames in samples.items():
        content = ET.Element('annotations')
        ET.SubElement(content, 'version').text = '1.1'
        task = ET.SubElement(ET.SubElement(content, 'meta'), 'task')
        for tag, text in (('name', split), ('size', len(frames)), ('mode', 'annotation')):
            ET.SubElement(task, tag).text = str(text)
        labels = ET.SubElement(task, 'labels')
        for name in with_regions(class_names, samples, ignore_class):
            _write_label(labels, name)
        for number, frame in enumerate(frames):
            _write_image(content, number, frame, ignore_class)
        ET.indent(content)
        text = ET.tostring(content, encoding='unicode')
        result[Path(root) / split / 'annotations.xml'] = f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'
    return result


def _write_label(labels, name):
    label = ET.SubElement(labels, 'label')
    for tag, text in (('name', name), ('type', 'any')):
        ET.SubElement(label, tag).text = text
    attributes = ET.SubElement(label, 'attributes')
    for flag in FLAGS:
        attribute = ET.SubElement(attributes, 'attribute')
        for tag, text in (
            ('name', flag), ('mutable', 'False'), ('input_type', 'checkbox'), ('default_value', 'false'),
            ('values', 'false'),
        ):  # fmt: skip
            ET.SubElement(attribute, tag).text = text


def _write_image(content, number, frame: Sample, ignore_class):
    size = {'width': str(frame.width), 'height': str(frame.height)}
    image = ET.SubElement(content, 'image', {'id': str(number), 'name': frame.path.name, **size})
    for shape, group in grouped(shapes_of(frame, ignore_class)):
        common = {'label': shape.name, 'source': 'manual', 'occluded': '0'}
        if shape.mask is None:
            corners = zip(('xtl', 'ytl', 'xbr', 'ybr'), shape.box, strict=True)
            tag, geometry = 'box', {key: f'{value:.2f}' for key, value in corners}
        else:
            part, x, y = cut_out(shape.mask)
            ends = np.flatnonzero(np.diff(part.ravel(), prepend=0, append=2))
            runs = ', '.join(map(str, np.diff(ends, prepend=0).tolist()))
            places = zip(('left', 'top', 'width', 'height'), (x, y, *part.shape[::-1]), strict=True)
            tag, geometry = 'mask', {'rle': runs, **{key: str(value) for key, value in places}}
        more = {'group_id': str(group)} if group else {}
        element = ET.SubElement(image, tag, {**common, **geometry, 'z_order': '0', **more})
        for flag, value in zip(FLAGS, (shape.difficult, shape.crowd), strict=True):
            ET.SubElement(element, 'attribute', {'name': flag}).text = str(bool(value)).lower()
