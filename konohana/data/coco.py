"""Reading data labelled as COCO instances: boxes, masks, crowds.

annotations/instances_<split>.json (or instances_<split>2017.json), pictures in <split>/ or <split>2017/ (or images/, or
wherever `file_name` leads from the data set's folder). The format: https://cocodataset.org/#format-data
"""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from konohana import masks
from konohana.data.images import load_image
from konohana.data.sample import Sample, along, clipped
from konohana.errors import UserError
from konohana.progress import progress_bar


def is_coco(root):
    """Whether a folder holds COCO instances."""
    return any(Path(root, 'annotations').glob('instances_*.json'))


def find_split(root, split):
    """The annotation file of a split; UserError naming the splits that are there if this one is not."""
    folder = Path(root, 'annotations')
    for name in (split, f'{split}2017'):
        if (folder / f'instances_{name}.json').is_file():
            return folder / f'instances_{name}.json'
    there = ', '.join(sorted(path.stem.removeprefix('instances_') for path in folder.glob('instances_*.json')))
    raise UserError(
        f'{folder / f"instances_{split}.json"}: there is no split {split!r}. Splits there: {there or "none"}.'
    )


def _load(path):
    """The JSON as a dict whose `images`, `annotations` and `categories` are lists of dicts."""
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except UnicodeDecodeError:
        raise UserError(f'{path}: not UTF-8 text. Save it as UTF-8.') from None
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: broken JSON ({error}). Export or copy it again.') from None
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}).') from None
    for key in ('images', 'annotations', 'categories'):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f'{path}: not COCO instances: it has no list {key!r} of objects. Export it again.')
    if not content['images']:
        raise UserError(f'{path}: the split is empty: no picture is listed under "images".')
    return content


def _is_id(value):
    return type(value) in (int, float, str)


def read_categories(path, categories):
    """The list `categories` of a file -> dict of id -> name, in the order of the ids.

    Exporters write a class and its supercategory under one name: such ids are one class.

    Raises:
        UserError: a category without id or name, an id that stands there twice.
    """
    names = {}
    for number, category in enumerate(categories, start=1):
        key, name = category.get('id'), category.get('name')
        if not _is_id(key) or not isinstance(name, str) or not name.strip():
            raise UserError(f'{path}: category {number} lacks an id or a name.')
        if key in names:
            raise UserError(f'{path}: category id {key} stands there twice ({names[key]}, {name.strip()}).')
        names[key] = name.strip()
    if not names:
        raise UserError(f'{path}: no class is listed under "categories".')
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _numbers(values, count):
    """Whether `values` is a list of `count` finite numbers."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )


def read_object(annotation, hw):
    """One row of `annotations` -> ((x1, y1, x2, y2), compressed RLE or None).

    A missing `bbox` is taken from the mask. A polygon too small to fill any pixel leaves an empty mask: COCO has some.

    Args:
        annotation: dict with `bbox` (x, y, width, height) and `segmentation`.
        hw: (height, width) of the picture.

    Raises:
        ValueError: what is wrong with it, as text.
    """
    height, width = hw
    segmentation, bbox, mask = annotation.get('segmentation'), annotation.get('bbox'), None
    if segmentation not in (None, [], [[]], {}):
        try:
            mask = masks.from_segmentation(segmentation, hw)
        except ValueError as error:
            raise ValueError(f'its segmentation is malformed: {error}') from None
        if isinstance(segmentation, dict) and masks.area([mask]) == [0]:
            raise ValueError('its mask is empty')
    if bbox in (None, []) and mask is not None and masks.area([mask]) != [0]:
        return masks.bounding_box(mask), mask
    if not _numbers(bbox, 4):
        raise ValueError('it has no bbox of four finite numbers')
    x1, y1, x2, y2 = bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]
    shown = f'bbox x {bbox[0]:g}, y {bbox[1]:g}, width {bbox[2]:g}, height {bbox[3]:g}'
    if bbox[2] <= 0 or bbox[3] <= 0:
        raise ValueError(f'{shown} is {"inverted" if min(bbox[2:]) < 0 else "empty"}')
    # `along` counts from 1, both ends included, as VOC does.
    if not (along(x1 + 1, x2, width) and along(y1 + 1, y2, height)):
        raise ValueError(f'{shown} reaches outside the picture of {width} x {height}')
    return (x1, y1, x2, y2), mask


def _read_frame(path, image, picture, annotations, names, ignore_class):
    """(Sample, problems) of one picture, which is decoded once to know that it can be.

    Args:
        path: the JSON file. image: its row of `images`. picture: where the picture should be.
        annotations: the rows of `annotations` that belong to it. names: dict of category id -> name.
    """
    frame, problems = Sample(picture, image_id=image['id']), []
    try:
        frame.height, frame.width = load_image(picture).shape[:2]
    except UserError as error:
        return frame, [str(error)]
    says = [image.get(key) for key in ('width', 'height')]
    if any(value is not None and value != true for value, true in zip(says, (frame.width, frame.height), strict=True)):
        return frame, [
            f'{picture}: the picture is {frame.width} x {frame.height}, but {path.name} says {says[0]} x {says[1]}. '
            'Label it again at its present size.'
        ]
    boxes, ignored = [], []
    frame.masks, frame.ignored_names, frame.ignored_masks = [], [], []
    for annotation in annotations:
        category = annotation.get('category_id')
        name = names.get(category) if _is_id(category) else None
        what = f'{path}: annotation {annotation.get("id")} of {image["file_name"]}'
        if name is None:
            known = ', '.join(map(str, list(names)[:10])) + (' ...' if len(names) > 10 else '')
            problems.append(f'{what}: its category_id {category} is none of the categories ({known}).')
            continue
        try:
            box, mask = read_object(annotation, (frame.height, frame.width))
        except ValueError as error:
            problems.append(f'{what} ({name}): {error}.')
            continue
        if name == ignore_class or annotation.get('iscrowd'):
            ignored.append(box)
            frame.ignored_names.append(None if name == ignore_class else name)
            frame.ignored_masks.append(mask)
        else:
            boxes.append(box)
            frame.names.append(name)
            frame.masks.append(mask)
    frame.boxes, frame.ignored = clipped(boxes, frame), clipped(ignored, frame)
    frame.difficult = np.zeros(len(boxes), bool)
    return frame, problems


def _sorted_out(path, content):
    """Which annotations belong to which picture, and what is wrong with that.

    Returns:
        (dict of image id -> row of `images`, dict of image id -> rows of `annotations`, set of image ids that cannot be
        used, list of problems).
    """
    images, rows, file_names, bad, problems = {}, {}, {}, set(), []
    for number, image in enumerate(content['images'], start=1):
        key, name = image.get('id'), image.get('file_name')
        if not _is_id(key) or not isinstance(name, str) or not name:
            problems.append(f'{path}: picture {number} lacks an id or a file_name.')
        elif key in images:
            problems.append(f'{path}: image id {key} stands there twice ({images[key]["file_name"]}, {name}).')
            bad.add(key)
        elif name in file_names:
            problems.append(f'{path}: {name} is listed twice, under the ids {file_names[name]} and {key}.')
            bad.update((file_names[name], key))
            images[key] = image
        else:
            images[key], file_names[name] = image, key
    owner = {}
    for number, annotation in enumerate(content['annotations'], start=1):
        key, of = annotation.get('id', f'number {number}'), annotation.get('image_id')
        if not _is_id(of) or of not in images:
            problems.append(f'{path}: annotation {key} belongs to image id {of}, which is not listed under "images".')
        elif not _is_id(key):
            problems.append(f'{path}: annotation number {number}: its id {key} is neither a number nor text.')
            bad.add(of)
        elif key in owner:
            both = ', '.join(dict.fromkeys(images[i]['file_name'] for i in (owner[key], of)))
            problems.append(f'{path}: annotation id {key} stands there twice ({both}).')
            bad.update((owner[key], of))
        else:
            owner[key] = of
            rows.setdefault(of, []).append(annotation)
    return images, rows, bad, problems


def read_split(root, split, ignore_class=None, progress=True):
    """Read a split and check every picture, object and mask.

    Args:
        root: the data set's folder. split: such as 'train'.
        ignore_class: category whose objects mark regions not to be counted for any class. Crowds (`iscrowd`) are not
            counted for their own class.

    Returns:
        (list of `Sample` in the file's order, list of problems). A frame with a problem is not in the first list.

    Raises:
        UserError: no such split, or a file that cannot be used at all: no JSON, no COCO, faulty categories, no picture.
    """
    path = find_split(root, split)
    content = _load(path)
    names = read_categories(path, content['categories'])
    # The first id of a name stands for it. All frames share this one dict.
    categories = {}
    for key, name in names.items():
        if name != ignore_class:
            categories.setdefault(name, key)
    images, rows, bad, problems = _sorted_out(path, content)
    root = Path(root)
    folders = [root / name for name in (split, f'{split}2017', 'images') if (root / name).is_dir()] + [root]

    def read(image):
        places = [folder / image['file_name'] for folder in folders]
        picture = next((place for place in places if place.is_file()), places[0])
        return _read_frame(path, image, picture, rows.get(image['id'], []), names, ignore_class)

    frames = []
    with ThreadPoolExecutor() as pool, progress_bar(f'Checking {split}', len(images), shown=progress) as bar:
        for done, (frame, found) in enumerate(pool.map(read, images.values()), start=1):
            problems.extend(found)
            if not found and frame.image_id not in bad:
                frame.categories = categories
                frames.append(frame)
            bar.update(done)
    return frames, problems
