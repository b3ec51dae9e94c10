"""Reading data labelled in Pascal VOC XML (by X-AnyLabeling, CVAT, Label Studio), in the three layouts people have.

imgs/  anns/  sets/<split>.txt
JPEGImages/  Annotations/  ImageSets/Main/<split>.txt        (VOCdevkit)
train/  val/ (or valid/ or test/)                            (pictures and XML side by side)
"""

import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
import numpy as np
from defusedxml import DefusedXmlException

from konohana.data.images import PICTURE_ENDINGS, list_pictures, load_image
from konohana.data.sample import Sample, along, clipped
from konohana.errors import UserError
from konohana.progress import progress_bar

# (folder of pictures, folder of annotations, folder of <split>.txt)
LISTED_LAYOUTS = (('imgs', 'anns', 'sets'), ('JPEGImages', 'Annotations', 'ImageSets/Main'))

SAME_SPLIT = {'val': ('val', 'valid', 'test'), 'valid': ('valid', 'val', 'test')}


def find_split(root, split):
    """The pictures and annotation files of a split, whichever layout the folder has.

    Returns:
        list of (picture, XML) paths. Nothing is opened, and neither file need exist.

    Raises:
        UserError: no such folder, no known layout, no such split (those there are named), an empty split.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f'{root}: there is no such folder. Name the folder of your dataset.')
    for pictures, annotations, sets in LISTED_LAYOUTS:
        if (root / sets).is_dir():
            list_file = root / sets / f'{split}.txt'
            if not list_file.is_file():
                there = ', '.join(sorted(path.stem for path in (root / sets).glob('*.txt'))) or 'none'
                raise UserError(f'{list_file}: there is no split {split!r}. Splits there: {there}.')
            try:
                lines = list_file.read_text(encoding='utf-8-sig').splitlines()
            except UnicodeDecodeError:
                raise UserError(f'{list_file}: not UTF-8 text. Save it as UTF-8.') from None
            # VOC's per-class lists have a second column (' -1', '  0' or '  1'), which a plain split does not need.
            names = [re.sub(r'( -1|  [01])$', '', line.strip()).strip() for line in lines if line.strip()]
            if not names:
                raise UserError(
                    f'{list_file}: the split is empty. Write one picture name (without ending) on each line.'
                )
            for folder in (pictures, annotations):
                if not (root / folder).is_dir():
                    raise UserError(f'{root / folder}: there is no such folder, but {list_file} needs it.')
            return [_listed_pair(root / pictures, root / annotations, name) for name in dict.fromkeys(names)]
    for name in SAME_SPLIT.get(split, (split,)):
        if (root / name).is_dir():
            pairs = [(path, path.with_suffix('.xml')) for path in list_pictures(root / name)]
            # An XML without its picture must not be passed over: it goes on as a pair whose picture is missing.
            alone = sorted(set((root / name).glob('*.xml')) - {xml for _, xml in pairs})
            return pairs + [(xml.with_suffix('.jpg'), xml) for xml in alone]
    folders = {path: {file.suffix.lower() for file in path.iterdir()} for path in root.iterdir() if path.is_dir()}
    side_by_side = sorted(p.name for p, ends in folders.items() if '.xml' in ends and ends & set(PICTURE_ENDINGS))
    if side_by_side:
        raise UserError(f'{root}: there is no split {split!r}. Splits there: {", ".join(side_by_side)}.')
    raise UserError(
        f'{root}: no dataset found there. It needs imgs/ anns/ sets/{split}.txt, or JPEGImages/ Annotations/ '
        f'ImageSets/Main/{split}.txt, or a folder {split}/ with pictures and XML files side by side.'
    )


def _listed_pair(pictures, annotations, name):
    """(picture, XML) of a line in <split>.txt, which may carry the picture's ending or not."""
    if Path(name).suffix.lower() in PICTURE_ENDINGS:
        return pictures / name, (annotations / name).with_suffix('.xml')
    xml = annotations / f'{name}.xml'
    for ending in PICTURE_ENDINGS:
        for candidate in (ending, ending.upper()):
            if (pictures / f'{name}{candidate}').is_file():
                return pictures / f'{name}{candidate}', xml
    return pictures / f'{name}.jpg', xml


def read_annotation(path, ignore_class=None):
    """Read one VOC XML.

    Args:
        path: the XML file.
        ignore_class: name of boxes that mark regions not to be counted.

    Returns:
        (Sample without its picture's path; height and width are 0 where the file does not say, list of problems).

    Problems are one line each, naming the file: XML that does not parse, entities (bombs and external ones are refused
    by defusedxml), objects without name or box, boxes that are inverted, empty, not numbers or outside the picture.
    """
    frame, problems = Sample(path), []
    try:
        root = defusedxml.ElementTree.parse(path).getroot()
    except FileNotFoundError:
        return frame, [f'{path}: the annotation is missing. A frame without characters needs an XML without objects.']
    except ParseError as error:
        return frame, [f'{path}: broken XML ({error}). Label the picture again or remove it from the split.']
    except DefusedXmlException as error:
        return frame, [
            f'{path}: the XML defines entities ({type(error).__name__}), which no labelling tool does; refused.'
        ]
    except (OSError, ValueError, LookupError) as error:
        return frame, [f'{path}: cannot be read ({error}).']
    if root.tag != 'annotation':
        return frame, [f'{path}: not Pascal VOC: it starts with <{root.tag}>, not with <annotation>.']
    try:
        frame.width = int(float(root.findtext('size/width') or 0))
        frame.height = int(float(root.findtext('size/height') or 0))
    except (ValueError, OverflowError):
        problems.append(f'{path}: the size is not made of numbers.')
    boxes, ignored, difficult = [], [], []
    for number, item in enumerate(root.iter('object'), start=1):
        name = (item.findtext('name') or '').strip()
        what = f'{path}: object {number} ({name or "without a name"})'
        if not name:
            problems.append(f'{what}: give it a name.')
            continue
        try:
            x1, y1, x2, y2 = (float(item.findtext(f'bndbox/{key}')) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
        except (TypeError, ValueError):
            problems.append(f'{what}: it has no box of four numbers.')
            continue
        shown = f'box xmin {x1:g}, ymin {y1:g}, xmax {x2:g}, ymax {y2:g}'
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            problems.append(f'{what}: {shown} is not made of finite numbers.')
        elif x2 < x1 or y2 < y1:
            problems.append(f'{what}: {shown} is inverted.')
        elif x2 == x1 or y2 == y1:
            problems.append(f'{what}: {shown} is empty.')
        elif not (along(x1, x2, frame.width) and along(y1, y2, frame.height)):
            of = f' of {frame.width} x {frame.height}' if frame.width and frame.height else ''
            problems.append(f'{what}: {shown} reaches outside the picture{of}.')
        else:
            # VOC counts pixels from 1 and includes the last one.
            box = (x1 - 1, y1 - 1, x2, y2)
            if name == ignore_class:
                ignored.append(box)
            else:
                boxes.append(box)
                frame.names.append(name)
                difficult.append((item.findtext('difficult') or '').strip() == '1')
    frame.boxes = clipped(boxes, frame)
    frame.ignored = clipped(ignored, frame)
    frame.difficult = np.array(difficult, bool)
    return frame, problems


def _read_frame(pair, ignore_class):
    """(picture, XML) -> (Sample, problems), with the picture decoded once to know that it can be."""
    picture, xml = pair
    frame, problems = read_annotation(xml, ignore_class)
    frame.path = picture
    try:
        height, width = load_image(picture).shape[:2]
    except UserError as error:
        return frame, [str(error), *problems]
    if (frame.width and frame.width != width) or (frame.height and frame.height != height):
        problems.append(
            f'{picture}: the picture is {width} x {height}, but {xml.name} says {frame.width} x {frame.height}. '
            'Label it again at its present size.'
        )
    elif not (frame.width and frame.height) and not problems:
        frame.height, frame.width = height, width
        for x1, y1, x2, y2 in np.concatenate([frame.boxes, frame.ignored]):
            if not (along(x1 + 1, x2, width) and along(y1 + 1, y2, height)):
                shown = f'a box up to x {x2:g}, y {y2:g}'
                problems.append(f'{xml}: {shown} reaches outside the picture of {width} x {height}.')
        frame.boxes, frame.ignored = clipped(frame.boxes, frame), clipped(frame.ignored, frame)
    return frame, problems


def read_split(root, split, ignore_class=None, progress=True):
    """Read all annotations of a split and check every picture.

    Returns:
        (list of `Sample`, list of problems). A frame with a problem is not in the first list.

    Raises:
        UserError: see `find_split`.
    """
    pairs = find_split(root, split)
    frames, problems = [], []
    with ThreadPoolExecutor() as pool, progress_bar(f'Checking {split}', len(pairs), shown=progress) as bar:
        for done, (frame, found) in enumerate(pool.map(lambda pair: _read_frame(pair, ignore_class), pairs), start=1):
            problems.extend(found)
            if not found:
                frames.append(frame)
            bar.update(done)
    return frames, problems
