"""Reading and writing Label Studio's JSON: boxes, polygons, brushes, bitmasks and ellipses.

<split>.json, tasks as exported under "JSON", with the pictures in <split>/, images/<split>/, images/ or beside it.
An uploaded picture may have its name of before: Label Studio puts eight characters before it, and _ for a space.

The format: https://labelstud.io/guide/task_format
"""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import numpy as np

from konohana import files, masks
from konohana.data.images import OTHER_ENDINGS, PICTURE_ENDINGS
from konohana.data.shapes import (
    CROWD,
    USUAL,
    Shape,
    box_of,
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
    read_all,
    read_json,
    shapes_of,
    shown,
    turned,
    upright,
    with_regions,
)
from konohana.errors import UserError

HOLDS = ('masks', 'own boxes', 'boxes', 'crowds', 'difficult')  # of what not every form can hold, see shapes.lost
CONFIG = 'label_config.xml'  # what a project's labelling interface is to be
LOCAL = '/data/local-files/?d='  # how tasks name files of Label Studio's LOCAL_FILES_DOCUMENT_ROOT
ADDRESSES = ('://', '/data/upload/', '/data/local-files/')  # what has one of these is no plain path
GEOMETRY = ('x', 'points', 'rle', 'imageDataURL', 'vertices')  # what a result's value holds that belongs to a place


def splits(root):
    """Names of the splits that a folder has in this form, sorted; none where it is not labelled in this form."""
    root = Path(root)
    with files.reading(root):
        paths = [path for path in files.entries(root) if path.suffix.lower() == '.json'] if root.is_dir() else []
        found = {path.stem for path in paths if _is_list(path)}
        # Beside them, one that is called like a split is a damaged one: reading it says so, nobody misses its pictures.
        return sorted(found | {path.stem for path in paths if found and path.stem in USUAL and path.is_file()})


def _is_list(path):
    """Whether a JSON file is a list of Label Studio's tasks."""
    if not path.is_file():
        return False
    with path.open('rb') as file:
        if not file.read(100).lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'['):
            return False
    content = read_json(path)
    first = content[0] if content else None
    return isinstance(first, dict) and ('data' in first or ('image' in first and 'id' in first))


def find_split(root, split):
    """The JSON file of a split; UserError naming the splits that are there if this one is not."""
    return Path(root) / f'{pick_split(root, split, splits(root))}.json'


def label_files(root, split):
    """The files that hold the labels of a split."""
    return [find_split(root, split)]


def read_split(root, split, ignore_class=None, progress=True):
    """Read a split and check every picture and region; see `yolo.read_split`."""
    path = find_split(root, split)
    tasks = read_json(path)
    if not isinstance(tasks, list) or not tasks:
        raise UserError(f'{path}: it is no list of tasks. Export it from Label Studio again, as "JSON".')
    if any(isinstance(task, dict) and 'data' not in task for task in tasks):
        raise UserError(f'{path}: this is no "JSON" of Label Studio ("JSON-MIN"?). Export it as "JSON".')
    folders = [Path(root) / place for place in (path.stem, f'images/{path.stem}', 'images', '')]
    with files.reading(root):
        there = [place for folder in folders if folder.is_dir() for place in files.entries(folder)]
    uploads = {_as_uploaded(place.name): place for place in reversed(there)}

    def read(item):
        number, task = item
        what = f'{path}: task {shown(task.get("id", number)) if isinstance(task, dict) else number}'
        try:
            results, picture = _results(task), _picture_of(folders, uploads, task)
        except ValueError as error:
            return None, [f'{what}: {error}.']
        frame = opened(picture)
        regions = _regions_of(results)
        said = [(result.get('original_width'), result.get('original_height')) for result in regions]
        wrong = next(filter(None, (other_size(frame, *sides, path.name) for sides in said)), None)
        if wrong:
            return frame, [wrong]
        flags = _flags(results)
        found, problems = checked_shapes(
            regions,
            lambda result: read_region(result, flags, (frame.height, frame.width)),
            lambda _, result: f'{what}: region {shown(result.get("id"))} ({shown(", ".join(_labels(result)))})',
        )
        fill(frame, found, ignore_class)
        return frame, problems

    frames, problems = read_all(split, list(enumerate(tasks, start=1)), read, progress)
    paths = [frame.path for frame in frames]
    twice = {place for place in paths if paths.count(place) > 1} if len(set(paths)) < len(paths) else set()
    problems += [f'{path}: {place.name} has two tasks. Keep one of them.' for place in sorted(twice)]
    return [frame for frame in frames if frame.path not in twice], problems


def _results(task):
    """The results of a task's only annotation. ValueError: what is wrong with the task."""
    if not isinstance(task, dict) or not isinstance(task.get('data'), dict):
        raise ValueError('it is no task: it has no "data"')
    annotations = task.get('annotations', task.get('completions'))
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise ValueError('it has no list "annotations"')
    done = [one for one in annotations if not one.get('was_cancelled')]
    best = [one for one in done if one.get('ground_truth')]
    done = best if len(best) == 1 else done
    if len(done) != 1:
        raise ValueError(f'it has {len(done)} annotations. Keep one, without regions where nobody is in the picture')
    results = done[0].get('result')
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise ValueError('its annotation has no list "result"')
    return results


def _as_uploaded(name):
    """What Label Studio, which is made with Django, makes of an uploaded file's name."""
    return re.sub(r'[^-\w.]', '', name.strip().replace(' ', '_'))


def _picture_of(folders, uploads, task):
    """Where the picture of a task is. ValueError where the task names none.

    Args:
        folders: in which it may be. uploads: {name as Label Studio changes it: file} of what is in them.
    """
    texts = [_path_in(text) for text in task['data'].values() if isinstance(text, str)]
    name = next((text for text in texts if Path(text).suffix.lower() in PICTURE_ENDINGS + OTHER_ENDINGS), None)
    if name is None:
        raise ValueError('its "data" names no picture')
    parts = [part for part in name.replace('\\', '/').split('/') if part]
    own = re.sub('^[0-9a-f]{8}-', '', parts[-1])
    names = ['/'.join(parts[i:]) for i in range(len(parts))] + [own]
    places = [folder / name for name in names for folder in folders]
    with files.reading(places[0]):
        return next((place for place in places if place.is_file()), uploads.get(own, folders[0] / parts[-1]))


def _path_in(address):
    """The path in an address: of a web page, of a bucket, of an upload, or ?d=path of a local file."""
    # Label Studio may itself be in a folder of a web site.
    if not address.startswith('/data/') and not any(part in address for part in ADDRESSES):
        return address
    address = urlsplit(address)
    local = parse_qs(address.query).get('d')
    return local[0] if local else unquote(address.path)


def _value(result):
    return result['value'] if isinstance(result.get('value'), dict) else {}


def _regions_of(results):
    """The results that are regions, one for each.

    Label Studio repeats a region's place in whatever else is known of it: choices, a rating, <Labels> that stand apart
    from <Rectangle>. The result with its labels is taken, or else one in which something is chosen.
    """
    regions = [result for result in results if _has_labels(result) or any(key in _value(result) for key in GEOMETRY)]
    for says in (_has_labels, _labels):
        said = {str(result.get('id')) for result in regions if says(result)}
        regions = [result for result in regions if says(result) or str(result.get('id')) not in said]
    return regions


def _has_labels(result):
    return str(result.get('type')).endswith('labels') and bool(_labels(result))


def _labels(result):
    """The labels of a region: rectanglelabels, polygonlabels, brushlabels, ellipselabels, labels."""
    found = _value(result).get(str(result.get('type')))
    return [str(label) for label in found] if isinstance(found, list) else []


def _flags(results):
    """{id of a region as text: set of what is chosen for it}."""
    flags = {}
    for result in results:
        if result.get('type') == 'choices' and isinstance(_value(result).get('choices'), list):
            flags.setdefault(str(result.get('id')), set()).update(map(str, _value(result)['choices']))
    return flags


def read_region(result, flags, hw):
    """One result with a place -> `Shape`. ValueError: what is wrong with it. flags: see `_flags`."""
    labels = _labels(result)
    if len(labels) != 1:
        raise ValueError(f'it has {len(labels)} labels. Give it one')
    if result.get('image_rotation'):
        raise ValueError('the picture was turned in Label Studio. Turn it back')
    box, mask = _geometry(_value(result), hw)
    chosen = flags.get(str(result.get('id')), set())
    group = result.get('parentID') or result.get('id')
    return Shape(named(labels[0]), box, mask, 'difficult' in chosen, CROWD in chosen, shown(group) if group else None)


def _geometry(value, hw):
    """(box, mask or None) of the value of a result, whose places are in percent of the picture."""
    height, width = hw
    if 'rle' in value:
        return placed(_brush(value['rle'], hw), 0, 0, hw)
    if 'imageDataURL' in value:
        return placed(_bitmask(value['imageDataURL'], hw), 0, 0, hw)
    if 'points' in value:
        points = value['points'] if isinstance(value['points'], list) else []
        if not all(isinstance(p, list) and len(p) == 2 and all(map(masks.is_number, p)) for p in points):
            raise ValueError('its points are not a list of [x, y]')
        return polygon([(x * width / 100, y * height / 100) for x, y in points], hw)
    keys = ('x', 'y', 'radiusX', 'radiusY') if 'radiusX' in value else ('x', 'y', 'width', 'height')
    if 'radiusX' not in value and 'height' not in value:
        raise ValueError('it has no box. Draw a rectangle, a polygon, an ellipse or with the brush')
    if not all(masks.is_number(value.get(key)) for key in (*keys, *(['rotation'] if 'rotation' in value else []))):
        raise ValueError(f'its {", ".join(keys)} are not all numbers')
    x, y, w, h = (value[key] * side / 100 for key, side in zip(keys, (width, height) * 2, strict=True))
    if 'radiusX' in value:
        return ellipse(x, y, w, h, value.get('rotation', 0), hw)
    if not value.get('rotation'):
        return box_of(x, y, x + w, y + h, hw), None
    # Label Studio turns a rectangle about its upper left corner.
    return upright(turned([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], x, y, value['rotation']), hw), None


def _bitmask(url, hw):
    """A bitmask, a picture of black on nothing as a data URL -> H x W of bools."""
    pixels = png_of(str(url).partition(',')[2], 'RGBA', hw)
    if pixels.shape[:2] != tuple(hw):
        raise ValueError(f'its mask is {pixels.shape[1]} x {pixels.shape[0]}, the picture {hw[1]} x {hw[0]}')
    return pixels[:, :, 3] > 0


def _brush(rle, hw):
    """A brush's RLE -> H x W of 0 and 1. https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack

    Bits: 32 of how many values, 5 of a value's size less 1, four times 4 of the sizes of lengths less 1; then runs:
    1 bit whether a value is repeated, 2 bits which size of length, the length less 1, and the value or values. The
    values are RGBA; pixels with any opacity are inside.
    """
    if not isinstance(rle, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in rle):
        raise ValueError('its rle is not a list of bytes')
    bits, place = (np.unpackbits(np.array(rle, np.uint8)) + 48).tobytes().decode(), 0

    def take(count):
        nonlocal place
        place += count
        if place > len(bits):
            raise ValueError('its rle ends too early')
        return int(bits[place - count : place], 2)

    n_values, size = take(32), take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    height, width = hw
    if n_values != height * width * 4:
        raise ValueError(f'its rle has {n_values} values, the picture of {width} x {height} has {height * width * 4}')
    values, done = np.zeros(n_values, np.uint32), 0
    while done < n_values:
        repeated, length = take(1), take(lengths[take(2)]) + 1
        if repeated:
            values[done : done + length] = take(size)
        else:
            end = min(done + length, n_values)
            values[done:end] = [take(size) for _ in range(end - done)]
        done += length
    return (values.reshape(height, width, 4)[:, :, 3] > 0).astype(np.uint8)


def picture_folder(root, split):
    """Where the pictures of a split lie in the layout that `write` writes."""
    return Path(root) / split


def write(root, samples, class_names, ignore_class):
    """The label files of a dataset in this form, with a labelling interface to import; see `yolo.write`."""
    root, result = Path(root), {}
    for split, frames in samples.items():
        tasks = [
            {
                'id': number,
                'data': {'image': LOCAL + quote(f'{root.name}/{split}/{frame.path.name}')},
                'annotations': [{'id': number, 'was_cancelled': False, 'result': _regions(frame, ignore_class)}],
            }
            for number, frame in enumerate(frames, start=1)
        ]
        result[root / f'{split}.json'] = json.dumps(tasks, ensure_ascii=False, indent=1) + '\n'
    result[root / CONFIG] = _config(with_regions(class_names, samples, ignore_class))
    result[root / 'classes.txt'] = ''.join(f'{name}\n' for name in class_names)
    return result


def _regions(frame, ignore_class):
    """The results of a frame's annotation. A mask with a box of its own is the child of that box."""
    results, parents = [], {}
    common = {'to_name': 'image', 'original_width': frame.width, 'original_height': frame.height, 'image_rotation': 0}
    for number, (shape, group) in enumerate(grouped(shapes_of(frame, ignore_class)), start=1):
        key = f'r{number}'
        parent = {'parentID': parents[group]} if group in parents else {}
        if group:
            parents.setdefault(group, key)
        results.append({'id': key, **common, **_region(shape, frame), **parent})
        chosen = [flag for flag, value in (('difficult', shape.difficult), (CROWD, shape.crowd)) if value]
        if chosen:
            choices = {'from_name': 'flags', 'type': 'choices', 'value': {'choices': chosen}}
            results.append({'id': key, **common, **choices})
    return results


def _region(shape, frame):
    if shape.mask is None:
        x1, y1, x2, y2 = shape.box
        sides = {'x': x1 / frame.width, 'y': y1 / frame.height}
        sides.update(width=(x2 - x1) / frame.width, height=(y2 - y1) / frame.height)
        value = {**{key: round(100 * part, 6) for key, part in sides.items()}, 'rotation': 0}
        return {'from_name': 'box', 'type': 'rectanglelabels', 'value': {**value, 'rectanglelabels': [shape.name]}}
    values = masks.to_polygon(shape.mask)
    sides = (100 / frame.width, 100 / frame.height)
    points = [
        [round(v * s, 6) for v, s in zip(p, sides, strict=True)] for p in zip(values[::2], values[1::2], strict=True)
    ]
    value = {'points': points, 'closed': True, 'polygonlabels': [shape.name]}
    return {'from_name': 'mask', 'type': 'polygonlabels', 'value': value}


def _config(names):
    """The labelling interface with these names, as XML."""
    view = ET.Element('View')
    ET.SubElement(view, 'Image', name='image', value='$image')
    for tag, name in (('RectangleLabels', 'box'), ('PolygonLabels', 'mask')):
        labels = ET.SubElement(view, tag, name=name, toName='image')
        for label in names:
            ET.SubElement(labels, 'Label', value=label)
    choices = ET.SubElement(view, 'Choices', name='flags', toName='image', perRegion='true', choice='multiple')
    for flag in ('difficult', CROWD):
        ET.SubElement(choices, 'Choice', value=flag)
    ET.indent(view)
    return ET.tostring(view, encoding='unicode') + '\n'
