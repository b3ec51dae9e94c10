"""Reading and writing data labelled for YOLO, as ultralytics lays it out: boxes, or polygons as masks.

data.yaml (names; train, val, test: folders, lists of folders, or .txt files that list pictures)
images/<split>/  labels/<split>/      or      <split>/images/  <split>/labels/      or      images/  labels/
obj.names  <split>.txt, which lists pictures with their labels beside them      (CVAT's "YOLO 1.1")
pictures and .txt side by side, in the dataset's folder or in <split>/          (labelImg)
labels/  and pictures in another folder                                         (X-AnyLabeling)

One .txt a picture, one line an object: `class x y w h` (centre and size) or `class x1 y1 x2 y2 x3 y3 ...`, 0 to 1. A
picture without .txt holds nobody. The format: https://docs.ultralytics.com/datasets/detect/
"""

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from konohana import files, masks
from konohana.data import voc
from konohana.data.images import OTHER_ENDINGS, PICTURE_ENDINGS
from konohana.data.shapes import (
    ALL,
    Shape,
    box_of,
    checked_shapes,
    fill,
    named,
    opened,
    pick_split,
    polygon,
    read_pairs,
    same_split,
    shapes_of,
    shown,
    to_number,
)
from konohana.errors import UserError, printable

HOLDS = ('masks',)  # of what not every form can hold, see shapes.lost
SPLITS = ('train', 'val', 'valid', 'test')  # keys of data.yaml
NAME_FILES = ('classes.txt', 'obj.names', 'labels/classes.txt', 'train/classes.txt', 'labels/train/classes.txt')
# labelImg writes one into each folder, each with its numbers; the last is Roboflow's.
OF_A_SPLIT = ('{}/classes.txt', 'labels/{}/classes.txt', '{}/_darknet.labels')
MAX_TEXT = 10_000_000  # bytes of a label file
ENDINGS = PICTURE_ENDINGS + OTHER_ENDINGS


def splits(root):
    """Names of the splits that a folder has in this form, sorted; none where it is not labelled in this form."""
    return sorted(_sources(Path(root)))


def _config(root):
    """(path, content) of the YAML file that describes the data, (None, {}) where there is none."""
    with files.reading(root):
        found = sorted(path for path in files.entries(root) if path.suffix.lower() in ('.yaml', '.yml'))
    for path in sorted(found, key=lambda path: path.stem != 'data'):
        content = _load(path)
        if isinstance(content, dict) and 'names' in content and _named_splits(content):
            return path, content
    return None, {}


def _named_splits(content):
    """The keys of a data.yaml that are splits: the usual ones, and others as `write` and CVAT write them."""
    own = {key: (f'images/{key}', f'{key}.txt') for key in content}
    return [key for key, value in content.items() if value and (key in SPLITS or value in own[key])]


def _load(path):
    try:
        # All scalars as text: a class may be called `no` or `3`.
        return yaml.load(files.read_text(path, MAX_TEXT), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f'{path}: broken YAML ({files.reason(error)}). Correct it.') from None


def _sources(root, asked=None):
    """{split: list of folders of pictures, or of .txt files that list pictures} of a folder in this form, else {}.

    Roboflow names a split test whether there is one or not, and ultralytics does not miss it: only whoever asks for it
    hears that its folder is missing.
    """
    with files.reading(root):
        if not root.is_dir():
            return {}
        path, content = _config(root)
        if path:
            found = {}
            for split in _named_splits(content):
                optional = split == 'test' and asked != 'test'
                with contextlib.suppress(UserError) if optional else contextlib.nullcontext():
                    found[split] = _listed(root, path, content, split)
            return found
        if (root / 'images').is_dir() and (root / 'labels').is_dir() and _holds(root / 'labels', '.txt'):
            inside = [folder.name for folder in files.entries(root / 'images') if folder.is_dir()]
            lists = {name: [root / f'{name}.txt'] for name in SPLITS if (root / f'{name}.txt').is_file()}
            return {name: [root / 'images' / name] for name in inside} or lists or {ALL: [root / 'images']}
        if (root / 'obj.names').is_file():
            lists = [path for path in files.entries(root) if path.suffix == '.txt' and path.name != 'classes.txt']
            return {path.stem: [path] for path in lists}
        found = {
            folder.name: [folder / 'images']
            for folder in files.entries(root)
            if (folder / 'images').is_dir() and (folder / 'labels').is_dir() and _holds(folder / 'labels', '.txt')
        }
        return found or _loose(root)


def _loose(root):
    """{split: list of one `Loose`} of a folder as labelImg and X-AnyLabeling leave it.

    It stays that of another form where pictures have XML or JSON files: people export .txt beside what else they have.
    """
    if voc.undivided(root):
        return {}
    folders = sorted(path for path in files.entries(root) if path.is_dir())
    labels, others = root / 'labels', [folder for folder in folders if folder.name != 'labels']
    # Of folders without any label nobody knows whether they belong to the data.
    around = (root, *others) if labels in folders else ()
    labelled = [folder for folder in around if Loose([folder], labels).is_labelled()]
    if labelled:
        return {ALL: [Loose(labelled, labels)]}
    places = [(folder.name, Loose([folder], folder)) for folder in others]
    return {split: [loose] for split, loose in (*places, (ALL, Loose([root], root))) if loose.is_labelled()}


@dataclass
class Loose:
    """Folders of pictures, and the one with their .txt files, which may hold other texts besides."""

    folders: list
    labels: Path

    def pairs(self):
        """List of (picture, label file)."""
        pictures = [p for folder in self.folders for p in sorted(files.entries(folder)) if p.suffix.lower() in ENDINGS]
        return [(picture, self.labels / f'{picture.stem}.txt') for picture in pictures]

    def without_picture(self):
        """The same of label files that have no picture."""
        alone = {path for path in files.entries(self.labels) if path.suffix.lower() == '.txt'}
        alone -= {label for _, label in self.pairs()}
        return [(self.folders[0] / f'{path.stem}.jpg', path) for path in sorted(alone) if _is_label(path)]

    def is_labelled(self):
        """Whether a picture has a .txt with boxes, and none has XML or JSON."""
        pairs = self.pairs()
        inside = [path for folder in self.folders for path in files.entries(folder)]
        others = {path.stem for path in inside if path.suffix.lower() in ('.json', '.xml')}
        return not any(picture.stem in others for picture, _ in pairs) and any(_is_label(path) for _, path in pairs)


def _is_label(path):
    """Whether the first line of a .txt is a box or a polygon; people keep descriptions beside pictures, too."""
    try:
        lines = files.read_text(path, MAX_TEXT).split('\n') if path.is_file() else []
    except UserError:
        return False
    numbers = next((line.split() for line in lines if line.strip()), [])
    return len(numbers) > 4 and not any(math.isnan(to_number(text)) for text in numbers)


def _holds(folder, ending):
    return any(path.suffix.lower() == ending for path in _all_in(folder))


def _all_in(folder):
    """The files in a folder and its sub-folders, which may be links."""
    found = [Path(inner) / name for inner, _, names in os.walk(folder, followlinks=True) for name in names]
    return [path for path in found if not path.name.startswith('._')]


def _listed(root, path, content, split):
    """What data.yaml lists for a split, as paths that exist; UserError for one that does not."""
    given = content[split] if isinstance(content[split], list) else [content[split]]
    base = content.get('path')
    bases = [root / base, root] if isinstance(base, str) else [root]
    found = []
    for text in given:
        if not isinstance(text, str):
            raise UserError(f'{path}: {split}: {shown(text)} is no path of a folder or of a list of pictures.')
        # Roboflow writes ../train/images for train/images.
        places = [folder / name for folder in bases for name in (text, text.removeprefix('../'))]
        there = next((place for place in places if place.exists()), None)
        if there is None:
            raise UserError(f'{path}: {split}: {printable(text)}: there is no such folder or list. Correct the path.')
        found.append(there)
    return found


def class_list(root, split=ALL):
    """(file that names the classes, list of names in the order of their numbers) of a split.

    Raises:
        UserError: there is none, or a faulty one.
    """
    root = Path(root)
    path, content = _config(root)
    if path:
        names = content['names']
        if isinstance(names, dict):
            names = _by_number(path, names)
    else:
        places = *(name.format(split) for name in OF_A_SPLIT), *NAME_FILES
        path = next((root / name for name in places if (root / name).is_file()), None)
        if path is None:
            raise UserError(
                f'{root}: nothing there names the classes. Write classes.txt there, with the name of class 0 on the '
                'first line, of class 1 on the second, and so on; or data.yaml.'
            )
        # An empty line between others counts: the line says the number.
        names = [line.strip() for line in files.read_text(path, MAX_TEXT).rstrip().splitlines()]
        if not names:
            raise UserError(f'{path}: the file is empty. Write one class name on each line.')
    if not isinstance(names, list) or not names:
        raise UserError(f'{path}: it names no class under "names". List them: names: [a, b].')
    for number, name in enumerate(names):
        try:
            names[number] = named(name)
        except ValueError as error:
            raise UserError(f'{path}: class {number} ({shown(name)}): {error}.') from None
    return path, names


def _by_number(path, names):
    """{'0': name, '1': name, ...} -> list of names."""
    if sorted(names, key=str) != sorted(map(str, range(len(names)))):
        raise UserError(f'{path}: the numbers of the classes under "names" are not 0, 1, 2 and so on. Correct them.')
    return [names[str(number)] for number in range(len(names))]


def find_split(root, split):
    """List of (picture, label file) of a split; the label file need not exist.

    Raises:
        UserError: no such split, no picture, no label file at all, a folder or list that cannot be read.
    """
    root = Path(root)
    sources = _sources(root, split)
    split = pick_split(root, split, sorted(sources))
    pairs = []
    for source in sources[split]:
        if isinstance(source, Loose):
            with files.reading(root):
                pairs += source.pairs() + source.without_picture()
            continue
        with files.reading(source):
            pictures = _pictures_in(source) if source.is_dir() else _pictures_listed(root, source)
            pairs += [(picture, _label_of(picture, root)) for picture in pictures]
            if source.is_dir():
                pairs += _without_picture(source, root, {label for _, label in pairs})
    if not pairs:
        raise UserError(f'{sources[split][0]}: no pictures there.')
    with files.reading(root):
        if not any(label.is_file() for _, label in pairs):
            raise UserError(f'{root}: no picture of the split {split!r} has a label file, such as {pairs[0][1]}.')
    return list(dict.fromkeys(pairs))


def _pictures_in(folder):
    return sorted(path for path in _all_in(folder) if path.suffix.lower() in ENDINGS)


def _pictures_listed(root, source):
    """The pictures that a .txt lists, relative to itself; CVAT writes data/ for the folder of the dataset."""
    lines = [line.strip() for line in files.read_text(source, MAX_TEXT).splitlines() if line.strip()]
    places = [(source.parent / line, root / line, root / line.removeprefix('data/')) for line in lines]
    return [next((place for place in some if place.is_file()), some[0]) for some in places]


def _label_of(picture, root):
    """images/ -> labels/ (the last of that name, in the dataset's folder where it is there), the ending -> .txt."""
    parts = list(picture.parts)
    first = len(root.parts) if picture.is_relative_to(root) else 0
    for i in range(len(parts) - 2, first - 1, -1):
        if parts[i] == 'images':
            parts[i] = 'labels'
            break
    return Path(*parts).with_suffix('.txt')


def _without_picture(source, root, labels):
    """Pairs of the label files that have no picture: they must not be passed over."""
    folder = _label_of(source / 'x', root).parent
    there = {path for path in _all_in(folder) if path.suffix.lower() == '.txt' and path.name != 'classes.txt'}
    return [(source / path.relative_to(folder).with_suffix('.jpg'), path) for path in sorted(there - labels)]


def label_files(root, split):
    """The files that hold the labels of a split."""
    return [label for _, label in find_split(root, split)]


def read_object(line, names, hw):
    """One line of a label file -> `Shape`. ValueError: what is wrong with it.

    Args:
        names: list of the classes' names. hw: (height, width) of the picture.
    """
    values = [to_number(text) for text in line.split()]
    if any(value != value for value in values):
        raise ValueError(f'{shown(line)!r} is not made of plain numbers')
    label, *rest = values
    if label != int(label) or not 0 <= label < len(names):
        raise ValueError(f'its class {label:g} is none of 0 to {len(names) - 1}')
    name, (height, width) = names[int(label)], hw
    if len(rest) == 4:
        x, y, w, h = rest[0] * width, rest[1] * height, rest[2] * width, rest[3] * height
        return Shape(name, box_of(x - w / 2, y - h / 2, x + w / 2, y + h / 2, hw))
    if len(rest) < 6 or len(rest) % 2:
        raise ValueError(
            f'it has {len(values)} numbers: a box has 5 (class x y w h), a polygon 7, 9, 11 or more (class x1 y1 ...)'
        )
    points = [(x * width, y * height) for x, y in zip(rest[::2], rest[1::2], strict=True)]
    return Shape(name, *polygon(points, hw))


def read_split(root, split, ignore_class=None, progress=True):
    """Read a split and check every picture and line.

    Returns:
        (list of `Sample`, list of problems). A frame with a problem is not in the first list.

    Raises:
        UserError: see `find_split` and `class_list`.
    """
    pairs = find_split(root, split)
    _, names = class_list(root, same_split(split, splits(root)))
    categories = {}
    for number, name in enumerate(names):
        if name != ignore_class:
            categories.setdefault(name, number)

    def read(pair):
        picture, label = pair
        frame = opened(picture)
        frame.categories = categories
        with files.reading(label):
            text = files.read_text(label, MAX_TEXT) if label.exists() else ''
        lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        found, problems = checked_shapes(
            lines,
            lambda item: read_object(item[1], names, (frame.height, frame.width)),
            lambda _, item: f'{label}: line {item[0]}',
        )
        fill(frame, found, ignore_class)
        return frame, problems

    return read_pairs(split, pairs, read, progress)


def picture_folder(root, split):
    """Where the pictures of a split lie in the layout that `write` writes."""
    return Path(root) / 'images' / split


def write(root, samples, class_names, ignore_class):
    """The label files of a dataset in this form.

    Args:
        root: the dataset's folder.
        samples: {split: list of `Sample`}, whose paths are in `picture_folder`.
        class_names: names of the classes in their order.
        ignore_class: the name of ignored regions.

    Returns:
        {path: text}.
    """
    root = Path(root)
    names = list(class_names)
    result = {}
    for frames in samples.values():
        for frame in frames:
            shapes = shapes_of(frame, ignore_class, crowds=False)
            names += [shape.name for shape in shapes if shape.name not in names]
            # ultralytics takes no file with both boxes and polygons.
            as_polygons = any(shape.mask is not None for shape in shapes)
            lines = [_line(shape, names.index(shape.name), frame, as_polygons) for shape in shapes]
            result[_label_of(frame.path, root)] = ''.join(f'{line}\n' for line in lines)
    content = {split: str(PurePosixPath('images', split)) for split in samples}
    content['names'] = dict(enumerate(names))
    result[root / 'data.yaml'] = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    return result


def _line(shape, label, frame, as_polygon):
    x1, y1, x2, y2 = shape.box
    if as_polygon:
        points = masks.to_polygon(shape.mask) if shape.mask is not None else [x1, y1, x2, y1, x2, y2, x1, y2]
    else:
        points = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    sides = (frame.width, frame.height)
    return ' '.join([str(label), *(f'{value / sides[i % 2]:.7g}' for i, value in enumerate(points))])
