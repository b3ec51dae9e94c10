"""Reading and writing Pascal VOC XML (of X-AnyLabeling, CVAT, Label Studio), in the layouts people have.

imgs/  anns/  sets/<split>.txt
JPEGImages/  Annotations/  ImageSets/Main/<split>.txt        (VOCdevkit, CVAT)
train/  val/ (or valid/ or test/)                            (pictures and XML side by side)
Annotations/  and pictures in other folders                  (Label Studio, X-AnyLabeling), the split 'all'
pictures and XML side by side in the dataset's folder        the split 'all'
"""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
import numpy as np
from defusedxml import DefusedXmlException

from konohana import files
from konohana.boxes import fits
from konohana.data.images import PICTURE_ENDINGS, list_pictures, load_image, with_ending
from konohana.data.sample import Sample, check_name, place
from konohana.data.shapes import ALL, no_split, other_size, outside, read_pairs, same_split, shapes_of, to_number
from konohana.errors import UserError, printable

# (folder of pictures, folder of annotations, folder of <split>.txt)
LISTED_LAYOUTS = (('imgs', 'anns', 'sets'), ('JPEGImages', 'Annotations', 'ImageSets/Main'))

MAX_XML = 4_000_000  # bytes, some ten thousand objects
CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
SHAPES = (*CORNERS, 'bndbox', 'bbox', 'box', 'robndbox', 'polygon')  # what an object holds, whatever it is called
DIFFICULT = {'': False, '0': False, 'false': False, 'unspecified': False, '1': True, 'true': True}
HOLDS = ('difficult',)  # of what not every form can hold, see shapes.lost


def splits(root):
    """Names of the splits that a folder has in this form, sorted; none where it is not labelled in this form."""
    root = Path(root)
    with files.reading(root):
        for _, _, sets in LISTED_LAYOUTS:
            if (root / sets).is_dir():
                return sorted(path.stem for path in files.entries(root / sets) if path.suffix == '.txt')
        folders = [path for path in files.entries(root) if path.is_dir()] if root.is_dir() else []
        found = sorted(folder.name for folder in folders if _holds_pairs(folder))
        return sorted({*found, ALL}) if found and _holds_pairs(root) else found


def _holds_pairs(folder):
    """Whether pictures and XML files lie in a folder; annotations.xml is CVAT's."""
    endings = {path.suffix.lower() for path in files.entries(folder) if path.name != 'annotations.xml'}
    return '.xml' in endings and bool(endings & set(PICTURE_ENDINGS))


def undivided(root):
    """(folders of pictures, folder of XML files) of a dataset in this form that is not divided into splits, or None.

    Folders in other forms may look like it, since people export XML files beside what else they have.
    """
    root = Path(root)
    with files.reading(root):
        if not root.is_dir():
            return None
        if _holds_pairs(root):
            return [root], root
        xmls = root / 'Annotations'
        if not xmls.is_dir() or not _holds(xmls, ('.xml',)):
            return None
        folders = sorted(path for path in files.entries(root) if path.is_dir())
        return [folder for folder in folders if _holds(folder, PICTURE_ENDINGS)], xmls


def _holds(folder, endings):
    return any(path.suffix.lower() in endings for path in files.entries(folder))


def find_split(root, split):
    """The pictures and annotation files of a split, whichever layout the folder has.

    Returns:
        list of (picture, XML) paths. Nothing but the list is opened, and neither file need exist.

    Raises:
        UserError: no such folder, no known layout, no such split (those there are named), an empty split, a folder or
            list that cannot be read.
    """
    root = Path(root)
    with files.reading(root):
        if not root.is_dir():
            raise UserError(f'{root}: there is no such folder. Name the folder of your dataset.')
        for layout in LISTED_LAYOUTS:
            if (root / layout[2]).is_dir():
                return _listed_split(root, split, *layout)
        name = same_split(split, [path.name for path in files.entries(root) if path.is_dir()])
        if name:
            return _side_by_side([root / name], root / name)
        whole = undivided(root)
        if whole and split == ALL:
            return _side_by_side(*whole)
    there = splits(root) or ([ALL] if whole else [])
    if there:
        raise no_split(root, split, there)
    raise UserError(
        f'{root}: no dataset found there. It needs imgs/ anns/ sets/{split}.txt, or JPEGImages/ Annotations/ '
        f'ImageSets/Main/{split}.txt, or a folder {split}/ with pictures and XML files side by side; '
        f'or labels of COCO, YOLO, Label Studio, CVAT or LabelMe as docs/training.md shows.{_unread(root)}'
    )


def _unread(root):
    """A sentence that names what looks like other tools' label files in a folder, in which no form was recognised."""
    with files.reading(root):
        found = [p for kind in ('*.json', 'annotations.xml', '*/annotations.xml') for p in sorted(root.glob(kind))]
    names = ', '.join(path.relative_to(root).as_posix() for path in found[:3])
    more = f' and {len(found) - 3} more' if len(found) > 3 else ''
    return f' Broken, or of no known form: {names}{more}.' if found else ''


def _listed_split(root, split, pictures, annotations, sets):
    """(picture, XML) of each line of <sets>/<split>.txt."""
    there = sorted(path.stem for path in files.entries(root / sets) if path.suffix == '.txt')
    # VOCdevkit has a list of its own for val: one that is missing is not test.
    others = there if split == 'test' else [name for name in there if name.lower() != 'test']
    name = split if split in there else same_split(split, others)
    list_file = root / sets / f'{name or split}.txt'
    if name is None:
        raise no_split(list_file, split, there)
    lines = files.read_text(list_file).splitlines()
    # VOC's per-class lists have a second column (' -1', '  0' or '  1'), which a plain split does not need.
    names = [re.sub(r'( -1|  [01])$', '', line.strip()).strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f'{list_file}: the split is empty. Write one picture name (without ending) on each line.')
    for folder in (pictures, annotations):
        if not (root / folder).is_dir():
            raise UserError(f'{root / folder}: there is no such folder, but {list_file} needs it.')
    return [_listed_pair(root / pictures, root / annotations, name) for name in dict.fromkeys(names)]


def _listed_pair(pictures, annotations, name):
    """(picture, XML) of a line in <split>.txt, which may carry the picture's ending or not."""
    if Path(name).suffix.lower() in PICTURE_ENDINGS:
        return pictures / name, (annotations / name).with_suffix('.xml')
    return with_ending(pictures / name) or pictures / f'{name}.jpg', annotations / f'{name}.xml'


def _side_by_side(folders, annotations):
    """(picture, XML) of each picture in some folders, and of each XML without a picture: it must not be passed over."""
    pictures = [path for folder in folders for path in list_pictures(folder)]
    pairs = [(path, annotations / f'{path.stem}.xml') for path in pictures]
    xmls = {path for path in files.entries(annotations) if path.suffix.lower() == '.xml'}
    alone = sorted(xmls - {xml for _, xml in pairs})
    return pairs + [((folders or [annotations])[0] / f'{xml.stem}.jpg', xml) for xml in alone]


def parse_xml(path, limit):
    """The root of an XML file.

    Raises:
        UserError: missing, not readable, larger than `limit` bytes, not well-formed, with entities (bombs and external
            ones are refused by defusedxml).
    """
    try:
        return defusedxml.ElementTree.fromstring(files.read_bytes(path, limit))
    except ParseError as error:
        raise UserError(f'{path}: broken XML ({error}). Label the picture again or remove it from the split.') from None
    except DefusedXmlException as error:
        raise UserError(
            f'{path}: the XML defines entities ({type(error).__name__}), which no labelling tool does; refused.'
        ) from None


def _parse(path):
    """The root of a VOC XML file.

    Raises:
        UserError: missing, not readable, larger than `MAX_XML`, not well-formed, with entities (bombs and external ones
            are refused by defusedxml), or not Pascal VOC.
    """
    with files.reading(path):
        if not path.exists():
            raise UserError(
                f'{path}: the annotation is missing. A frame without characters needs an XML without objects.'
            )
        root = parse_xml(path, MAX_XML)
    if root.tag != 'annotation':
        raise UserError(f'{path}: not Pascal VOC: it starts with <{root.tag[:40]}>, not with <annotation>.')
    stray = _stray_object(root)
    if stray:
        raise UserError(f'{path}: <{stray[:40]}> holds a box but is no <object>, and only those are read. Rename it.')
    return root


def _stray_object(root):
    """The tag of the first element that holds a box but is no <object>: passed over, the frame would seem empty."""
    stack = [root]
    while stack:
        element = stack.pop()
        if element.tag == 'object':
            continue
        if element.tag.lower() == 'object' or any(child.tag.lower() in SHAPES for child in element):
            return element.tag
        stack.extend(reversed(element))
    return None


def _text(element, tag):
    """The text of the only child of this tag, '' where there is none.

    Raises:
        ValueError: there are several, or one in capitals, which would pass for missing.
    """
    found = [child for child in element if child.tag.lower() == tag]
    if len(found) > 1:
        raise ValueError(f'it has {len(found)} <{tag}>, but one is expected')
    if found and found[0].tag != tag:
        raise ValueError(f'<{found[0].tag}> is to be spelt <{tag}>')
    return found[0].text or '' if found else ''


def _read_size(root):
    """(height, width) that the file says, 0 for a side that it does not say. Raises ValueError: what is wrong."""
    _text(root, 'size')
    size = root.find('size')
    sides = [to_number(_text(size, key).strip() or '0') if size is not None else 0 for key in ('height', 'width')]
    if any(map(math.isnan, sides)):
        raise ValueError('the size is not made of numbers')
    return tuple(map(int, sides))


def _read_object(item, height, width):
    """<object> -> (box x1, y1, x2, y2, difficult). A `height` or `width` of 0 is not known.

    Raises:
        ValueError: what is wrong with it, as text.
    """
    check_name(_text(item, 'name').strip())
    _text(item, 'bndbox')
    box = item.find('bndbox')
    if box is None:
        raise ValueError('it has no <bndbox>')
    texts = [_text(box, key) for key in CORNERS]
    x1, y1, x2, y2 = map(to_number, texts)
    shown = 'box ' + ', '.join(f'{k} {printable(text.strip()[:20])}' for k, text in zip(CORNERS, texts, strict=True))
    if any(map(math.isnan, (x1, y1, x2, y2))):
        raise ValueError(f'{shown} is not made of four plain numbers')
    if x2 < x1 or y2 < y1:
        raise ValueError(f'{shown} is inverted')
    # VOC counts pixels from 1 and includes the last one: a box from 9 to 9 is one pixel wide.
    x1, y1 = x1 - 1, y1 - 1
    if not fits((x1, y1, x2, y2), (height, width)):
        raise ValueError(f'{shown} {outside((height, width))}')
    difficult = _text(item, 'difficult').strip().lower()
    if difficult not in DIFFICULT:
        raise ValueError(f'<difficult> is {difficult[:20]!r}, not 0 or 1')
    return (x1, y1, x2, y2), DIFFICULT[difficult]


def read_annotation(path, ignore_class=None, picture_hw=(0, 0)):
    """Read one VOC XML.

    Args:
        path: the XML file.
        ignore_class: name of boxes that mark regions not to be counted.
        picture_hw: (height, width) of the picture, for files that do not say it.

    Returns:
        (Sample without its picture's path; height and width are 0 where nothing says them, list of problems).

    Problems are one line each, naming the file: see `_parse` and `_read_object`.
    """
    frame, problems = Sample(path), []
    try:
        root = _parse(Path(path))
    except UserError as error:
        return frame, [str(error)]
    try:
        said = _read_size(root)
    except ValueError as error:
        said = (0, 0)
        problems.append(f'{path}: {error}.')
    frame.height, frame.width = (one or other for one, other in zip(said, picture_hw, strict=True))
    boxes, ignored, difficult = [], [], []
    for number, item in enumerate(root.iter('object'), start=1):
        name = (item.findtext('name') or '').strip()
        try:
            box, hard = _read_object(item, frame.height, frame.width)
        except ValueError as error:
            problems.append(f'{path}: object {number} ({printable(name[:40]) or "without a name"}): {error}.')
            continue
        if name == ignore_class:
            ignored.append(box)
        else:
            boxes.append(box)
            frame.names.append(name)
            difficult.append(hard)
    place(frame, boxes, ignored)
    frame.difficult = np.array(difficult, bool)
    return frame, problems


def _read_frame(pair, ignore_class):
    """(picture, XML) -> (Sample, problems), with the picture decoded once to know that it can be."""
    picture, xml = pair
    height, width, problems = 0, 0, []
    try:
        height, width = load_image(picture).shape[:2]
    except UserError as error:
        problems.append(str(error))
    frame, more = read_annotation(xml, ignore_class, (height, width))
    frame.path = picture
    if not problems:
        wrong = other_size(Sample(picture, height, width), frame.width, frame.height, xml.name)
        more += [wrong] if wrong else []
    return frame, problems + more


def read_split(root, split, ignore_class=None, progress=True):
    """Read all annotations of a split and check every picture.

    Returns:
        (list of `Sample`, list of problems). A frame with a problem is not in the first list.

    Raises:
        UserError: see `find_split`.
    """
    pairs = find_split(root, split)
    return read_pairs(split, pairs, lambda pair: _read_frame(pair, ignore_class), progress)


def label_files(root, split):
    """The files that hold the labels of a split."""
    return [xml for _, xml in find_split(root, split)]


def picture_folder(root, split):
    """Where the pictures of a split lie in the layout that `write` writes."""
    return Path(root) / 'JPEGImages'


def write(root, samples, class_names, ignore_class):
    """The label files of a dataset in this form; see `yolo.write`."""
    root = Path(root)
    result = {}
    for split, frames in samples.items():
        names = [frame.path.name for frame in frames]
        result[root / 'ImageSets/Main' / f'{split}.txt'] = ''.join(f'{_listed_name(name)}\n' for name in names)
        for frame in frames:
            result[root / 'Annotations' / f'{frame.path.stem}.xml'] = _xml(frame, ignore_class)
    result[root / 'classes.txt'] = ''.join(f'{name}\n' for name in class_names)
    return result


def _listed_name(name):
    """A picture's name without its ending, but with it where the rest would pass for a whole name: a.jpg.png."""
    stem = Path(name).stem
    return name if Path(stem).suffix.lower() in PICTURE_ENDINGS else stem


def _xml(frame, ignore_class):
    root = ET.Element('annotation')
    for tag, value in (('folder', frame.path.parent.name), ('filename', frame.path.name)):
        ET.SubElement(root, tag).text = value
    size = ET.SubElement(root, 'size')
    for tag, value in (('width', frame.width), ('height', frame.height), ('depth', 3)):
        ET.SubElement(size, tag).text = str(value)
    ET.SubElement(root, 'segmented').text = '0'
    for shape in shapes_of(frame, ignore_class, crowds=False):
        item = ET.SubElement(root, 'object')
        for tag, value in (('name', shape.name), ('truncated', 0), ('difficult', int(shape.difficult))):
            ET.SubElement(item, tag).text = str(value)
        box = ET.SubElement(item, 'bndbox')
        x1, y1, x2, y2 = shape.box
        for tag, value in zip(CORNERS, (x1 + 1, y1 + 1, x2, y2), strict=True):
            ET.SubElement(box, tag).text = f'{round(value, 2):.10g}'
    ET.indent(root, '\t')
    return ET.tostring(root, encoding='unicode') + '\n'
