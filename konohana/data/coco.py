"""Reading and writing data labelled as COCO instances: boxes, masks, crowds.

annotations/instances_<split>.json (or instances_<split>2017.json), pictures in <split>/ or <split>2017/ (or images/, or
images/<split>/ as CVAT has them, or wherever `file_name` leads from the dataset's folder)
annotations/<split>.json, or the JSON files in the dataset's folder itself
result.json, annotations.json or labels.json   (Label Studio, labelme2coco.py, FiftyOne), the split 'all'
<split>/_annotations.coco.json              (Roboflow), with the pictures

The format: https://cocodataset.org/#format-data
"""

import functools
import json
from pathlib import Path

from konohana import files, masks
from konohana.boxes import fits
from konohana.data.sample import check_name
from konohana.data.shapes import (
    ALL,
    USUAL,
    Shape,
    checked_shapes,
    fill,
    no_split,
    opened,
    other_size,
    outside,
    read_all,
    read_json,
    same_split,
    shapes_of,
)
from konohana.errors import UserError, printable

START = 'instances_'  # of the names of annotation files
OF_ALL = ('annotations', 'labels')  # file names without their ending, of data that are not divided
KEYS = ('bbox', 'segmentation', 'iscrowd')  # of an annotation; in capitals they would pass for missing
HOLDS = ('masks', 'own boxes', 'boxes', 'crowds', 'difficult')  # of what not every form can hold, see shapes.lost


def splits(root):
    """Names of the splits that a folder has as COCO instances, sorted; UserError where it cannot be read."""
    return sorted(_sources(Path(root)))


def _sources(root):
    """{split: JSON file}."""
    folder = root / 'annotations'
    with files.reading(folder):
        paths = [path for path in files.entries(folder) if path.suffix == '.json'] if folder.is_dir() else []
        found = {path.stem[len(START) :]: path for path in paths if path.name.startswith(START)}
    with files.reading(root):
        found = found or {path.parent.name: path for path in root.glob('*/_annotations.coco.json')}
        result = root / 'result.json'
        return found or ({ALL: result} if result.is_file() and _is_instances(result) else {})


def loose(root):
    """{split: JSON file} of files under other names that people give. They may lie beside data in another form."""
    root, names = Path(root), (*OF_ALL, *USUAL, *(START + split for split in USUAL))
    with files.reading(root):
        paths = [place / f'{name}.json' for place in (root / 'annotations', root) for name in names]
        own = {path.stem.removeprefix(START): path for path in paths if path.is_file() and _is_instances(path)}
    return {ALL if split in OF_ALL else split: path for split, path in own.items()}


def _is_instances(path):
    about = path.stat()
    return _holds_instances(path, about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=64)
def _holds_instances(path, changed, size):
    """`_is_instances` of a file as it is: each question about the folder asks it again, and some files are large."""
    with path.open('rb') as file:
        if not file.read(100).lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'{'):
            return False
    try:
        content = read_json(path)
    except UserError:
        return False
    return isinstance(content, dict) and 'images' in content and 'categories' in content


def find_split(root, split):
    """The annotation file of a split; UserError naming the splits that are there if this one is not."""
    return _find(Path(root), split)[1]


def _find(root, split):
    """(name of a split as it is there, annotation file); see `find_split`."""
    there = _sources(root) or loose(root)
    name = split if split in there else f'{split}2017'
    name = name if name in there else same_split(split, there)
    if name is None:
        raise no_split(root / 'annotations' / f'instances_{split}.json', split, there)
    return name, there[name]


def _load(path):
    """The JSON as a dict whose `images`, `annotations` and `categories` are lists of dicts."""
    content = read_json(path)
    for key in ('images', 'annotations', 'categories'):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f'{path}: not COCO instances: it has no list {key!r} of objects. Export it again.')
    if not content['images']:
        raise UserError(f'{path}: the split is empty: no picture is listed under "images".')
    return content


def _is_id(value):
    return masks.is_number(value) or type(value) is str


def _shown(value):
    """Any value of a JSON file, as a short text for a message."""
    return printable(value if isinstance(value, str) else json.dumps(value))[:40]


def read_categories(path, categories):
    """The list `categories` of a file -> dict of id -> name, in the order of the ids.

    Exporters write a class and its supercategory under one name: such ids are one class.

    Raises:
        UserError: a category without id or name, a name that is too long or has control characters, a duplicated id.
    """
    names = {}
    for number, category in enumerate(categories, start=1):
        key, name = category.get('id'), category.get('name')
        if not _is_id(key) or not isinstance(name, str) or not name.strip():
            raise UserError(f'{path}: category {number} lacks an id or a name.')
        name = name.strip()
        try:
            check_name(name)
        except ValueError as error:
            raise UserError(f'{path}: category {number} ({_shown(name)}): {error}.') from None
        if key in names:
            raise UserError(f'{path}: category id {_shown(key)} is duplicated ({_shown(names[key])}, {_shown(name)}).')
        names[key] = name
    if not names:
        raise UserError(f'{path}: no class is listed under "categories".')
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _labelled_with(content):
    """The categories of a file without the one that Roboflow puts before them: their group, which labels nothing."""
    used = [row.get('category_id') for row in content['annotations']]
    groups = [row.get('supercategory') for row in content['categories'] if row.get('supercategory') != row.get('name')]
    return [row for row in content['categories'] if row.get('name') not in groups or row.get('id') in used]


def read_object(annotation, names, hw):
    """One row of `annotations` -> `Shape`.

    A missing `bbox` is taken from the mask. A polygon too small to fill any pixel leaves an empty mask: COCO has some.

    Args:
        annotation: dict with `category_id`, `bbox` (x, y, width, height), `segmentation` and `iscrowd`.
        names: dict of category id -> name. hw: (height, width) of the picture.

    Raises:
        ValueError: what is wrong with it, as text.
    """
    name = _name_of(annotation, names)
    if name is None:
        known = ', '.join(map(_shown, list(names)[:10])) + (' ...' if len(names) > 10 else '')
        raise ValueError(f'its category_id {_shown(annotation.get("category_id"))} is none of the categories ({known})')
    wrong = sorted(key for key in annotation if key not in KEYS and key.lower() in KEYS)
    if wrong:
        raise ValueError(f'its {_shown(wrong[0])} is to be spelt {wrong[0].lower()}')
    crowd = annotation.get('iscrowd')
    crowd = 0 if crowd is None else crowd
    if type(crowd) not in (int, float, bool) or crowd not in (0, 1):
        raise ValueError(f'its iscrowd is {json.dumps(crowd)[:20]}, not 0 or 1')
    mask = _read_mask(annotation.get('segmentation'), hw)
    return Shape(name, _read_box(annotation.get('bbox'), mask, hw), mask, _is_difficult(annotation), bool(crowd))


def _name_of(annotation, names):
    """The name of an annotation's category; None where it is none of `names`."""
    category = annotation.get('category_id')
    return names.get(category) if _is_id(category) else None


def _is_difficult(annotation):
    """COCO has no such flag; CVAT and Datumaro write it under `attributes`, X-AnyLabeling as `ignore`."""
    attributes = annotation.get('attributes')
    flagged = isinstance(attributes, dict) and attributes.get('difficult') in (True, 'true')
    return flagged or annotation.get('ignore') in (1, True)


def _read_mask(segmentation, hw):
    """Compressed RLE of what stands under `segmentation`, None for nothing; see `read_object`."""
    if isinstance(segmentation, list):
        # Masks that became polygons have parts of a pixel or two: points and lines, which hold nothing.
        segmentation = [part for part in segmentation if not isinstance(part, list) or len(part) not in (0, 2, 4)]
    if segmentation in (None, [], {}):
        return None
    try:
        mask = masks.from_segmentation(segmentation, hw)
    except ValueError as error:
        raise ValueError(f'its segmentation is malformed: {error}') from None
    if isinstance(segmentation, dict) and masks.area([mask]) == [0]:
        raise ValueError('its mask is empty')
    return mask


def _read_box(bbox, mask, hw):
    """(x1, y1, x2, y2) of what stands under `bbox`, or of the mask where that is missing; see `read_object`."""
    if bbox in (None, []) and mask is not None and masks.area([mask]) != [0]:
        return masks.bounding_box(mask)
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(masks.is_number, bbox)):
        raise ValueError('it has no bbox of four finite numbers')
    x, y, w, h = map(float, bbox)
    shown = f'bbox x {x:g}, y {y:g}, width {w:g}, height {h:g}'
    if w <= 0 or h <= 0:
        raise ValueError(f'{shown} is {"inverted" if min(w, h) < 0 else "empty"}')
    if not fits((x, y, x + w, y + h), hw):
        raise ValueError(f'{shown} {outside(hw)}')
    return x, y, x + w, y + h


def _read_frame(path, image, picture, annotations, names, ignore_class):
    """(Sample, problems) of one picture, which is decoded once to know that it can be.

    Args:
        path: the JSON file. image: its row of `images`. picture: where the picture should be.
        annotations: the rows of `annotations` that belong to it. names: dict of category id -> name.
    """
    frame = opened(picture)
    frame.image_id = image['id']
    wrong = other_size(frame, image.get('width'), image.get('height'), path.name)
    if wrong:
        return frame, [wrong]

    def line(_, annotation):
        name = _name_of(annotation, names)
        of = printable(image['file_name']) + (f' ({name})' if name else '')
        return f'{path}: annotation {_shown(annotation.get("id"))} of {of}'

    hw = frame.height, frame.width
    found, problems = checked_shapes(annotations, lambda annotation: read_object(annotation, names, hw), line)
    fill(frame, found, ignore_class)
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
            both = printable(f'{images[key]["file_name"]}, {name}')
            problems.append(f'{path}: image id {_shown(key)} is duplicated ({both}).')
            bad.add(key)
        elif name in file_names:
            ids = f'{_shown(file_names[name])} and {_shown(key)}'
            problems.append(f'{path}: {printable(name)} is listed twice, under the ids {ids}.')
            bad.update((file_names[name], key))
            images[key] = image
        else:
            images[key], file_names[name] = image, key
    owner = {}
    for number, annotation in enumerate(content['annotations'], start=1):
        key, of = annotation.get('id', f'number {number}'), annotation.get('image_id')
        if not _is_id(of) or of not in images:
            problems.append(
                f'{path}: annotation {_shown(key)} belongs to image id {_shown(of)}, which "images" does not list.'
            )
        elif not _is_id(key):
            problems.append(f'{path}: annotation number {number}: its id {_shown(key)} is neither a number nor text.')
            bad.add(of)
        elif key in owner:
            both = printable(', '.join(dict.fromkeys(images[i]['file_name'] for i in (owner[key], of))))
            problems.append(f'{path}: annotation id {_shown(key)} is duplicated ({both}).')
            bad.update((owner[key], of))
        else:
            owner[key] = of
            rows.setdefault(of, []).append(annotation)
    return images, rows, bad, problems


def read_split(root, split, ignore_class=None, progress=True):
    """Read a split and check every picture, object and mask.

    Args:
        root: the dataset's folder. split: such as 'train'.
        ignore_class: category whose objects mark regions not to be counted for any class. Crowds (`iscrowd`) are not
            counted for their own class.

    Returns:
        (list of `Sample` in the file's order, list of problems). A frame with a problem is not in the first list.

    Raises:
        UserError: no such split, or a file that cannot be used at all: no JSON, no COCO, faulty categories, no picture.
    """
    root = Path(root)
    own_name, path = _find(root, split)
    content = _load(path)
    names = read_categories(path, _labelled_with(content))
    # The first id of a name stands for it. All frames share this one dict.
    categories = {}
    for key, name in names.items():
        if name != ignore_class:
            categories.setdefault(name, key)
    images, rows, bad, problems = _sorted_out(path, content)
    folders = _picture_folders(root, split, own_name)

    def read(image):
        places = [folder / image['file_name'].replace('\\', '/') for folder in folders]
        with files.reading(places[0]):
            picture = next((place for place in places if place.is_file()), places[0])
            frame, found = _read_frame(path, image, picture, rows.get(image['id'], []), names, ignore_class)
        frame.categories = categories
        return frame, found

    frames, more = read_all(split, list(images.values()), read, progress)
    return [frame for frame in frames if frame.image_id not in bad], problems + more


def _picture_folders(root, split, own_name):
    """Where the pictures of a split may be. own_name: of the split as it is there."""
    places = [root / place for place in (split, f'{split}2017', own_name, f'images/{own_name}', 'images')]
    with files.reading(root):
        there = [folder for folder in places if folder.is_dir()]
        # X-AnyLabeling writes annotations/ beside a folder of any name.
        return [*there, root] if there else [root, *sorted(path for path in files.entries(root) if path.is_dir())]


def label_files(root, split):
    """The files that hold the labels of a split."""
    return [find_split(root, split)]


def picture_folder(root, split):
    """Where the pictures of a split lie in the layout that `write` writes."""
    return Path(root) / split


def write(root, samples, class_names, ignore_class):
    """The label files of a dataset in this form; see `yolo.write`."""
    names, result = list(class_names), {}
    for split, frames in samples.items():
        images, annotations = [], []
        for number, frame in enumerate(frames, start=1):
            size = {'height': frame.height, 'width': frame.width}
            images.append({'id': number, 'file_name': frame.path.name, **size})
            for shape in shapes_of(frame, ignore_class):
                if shape.name not in names:
                    names.append(shape.name)
                ids = {'id': len(annotations) + 1, 'image_id': number, 'category_id': names.index(shape.name) + 1}
                annotations.append({**ids, **_annotation(shape)})
        result[Path(root) / 'annotations' / f'instances_{split}.json'] = images, annotations
    categories = [{'id': number, 'name': name} for number, name in enumerate(names, start=1)]
    return {
        path: json.dumps({'images': images, 'annotations': annotations, 'categories': categories}, ensure_ascii=False)
        for path, (images, annotations) in result.items()
    }


def _annotation(shape):
    """`Shape` -> a row of `annotations`, without ids."""
    x1, y1, x2, y2 = (round(value, 3) for value in shape.box)
    row = {'bbox': [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)], 'iscrowd': int(shape.crowd)}
    if shape.mask is None:
        row.update(area=round((x2 - x1) * (y2 - y1), 3), segmentation=[])
    else:
        counts = shape.mask['counts'].decode('ascii')
        row.update(area=masks.area([shape.mask])[0], segmentation={'size': shape.mask['size'], 'counts': counts})
    if shape.difficult:
        row['attributes'] = {'difficult': True}
    return row
