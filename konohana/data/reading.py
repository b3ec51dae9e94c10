"""The frames and class names of a dataset folder, whatever its layout, and all that is wrong with them."""

from collections import Counter
from pathlib import Path

from konohana import files
from konohana.data import coco, cvat, label_studio, labelme, voc, yolo
from konohana.data.sample import check_name
from konohana.data.shapes import ALL, USUAL
from konohana.errors import UserError, count, printable

# By the names that users give; the first that recognises a folder reads it.
FORMS = {'coco': coco, 'voc': voc, 'yolo': yolo, 'cvat': cvat, 'label_studio': label_studio, 'labelme': labelme}

MOST_SHOWN = 1000  # lines about problems


def form_of(path):
    """The name in `FORMS` of the form in which a folder is labelled, or None."""
    known = next((name for name, form in FORMS.items() if form.splits(path)), None)
    return known or ('voc' if voc.undivided(path) else 'coco' if coco.loose(path) else None)


def splits_of(path):
    """Names of the splits that a folder has, none where its form is not known."""
    return _reader(path).splits(path) or ([ALL] if voc.undivided(path) else sorted(coco.loose(path)))


def chosen_splits(path, chosen=''):
    """The names in a text such as 'train, val'; of an empty one the folder's own, the usual ones where it has any."""
    if chosen:
        names = list(dict.fromkeys(name.strip() for name in chosen.split(',') if name.strip()))
        if not names:
            raise UserError(f"splits={chosen!r}: it names none. Write names, separated by commas, or '' for all.")
        return names
    there = splits_of(path)
    # VOCdevkit also has a list for each class, which looks like a split.
    return [name for name in there if name.lower() in USUAL] or there or ['train']


def _reader(path):
    """The module that reads a folder: voc for one of no known form, whose `find_split` says what is missing."""
    return FORMS[form_of(path) or 'voc']


def read_frames(path, splits, ignore_class, progress=True):
    """The frames of several splits of a dataset, and all that is wrong with them. Prints how many boxes it has cut.

    Args:
        path: dataset folder, in any of `FORMS` as its content says.
        splits: names of splits.
        ignore_class: name of boxes that mark regions not to be counted.

    Returns:
        (list of lists of `Sample`, one for each split, without the frames that have problems; list of problems).

    Raises:
        UserError: see `find_split` and `read_split` of the form.
    """
    path = Path(path)
    kind = _reader(path)
    # Splits that are not there are known at once, before thousands of pictures are checked.
    for split in splits:
        kind.find_split(path, split)
    frames, problems = [], []
    for split in splits:
        found, wrong = kind.read_split(path, split, ignore_class, progress)
        frames.append(found)
        problems.extend(wrong)
    _tell_cut([frame for part in frames for frame in part])
    return frames, problems


def _tell_cut(frames):
    cut = [frame for frame in frames if frame.cut]
    if cut:
        n, total = sum(len(frame.cut) for frame in cut), sum(len(frame.boxes) + len(frame.ignored) for frame in frames)
        of = f'{n} of {count(total, "box", "boxes")}, such as in {printable(cut[0].path)}'
        print(f'Cut at the edge of the picture: {of}. tools/check_dataset.py shows them all.')


def label_files(path, split):
    """The label files of a split. UserError as `read_frames` says."""
    return _reader(path).label_files(path, split)


def report(problems, skip=None):
    """Print all problems; raise UserError unless they are to be skipped (or there are none).

    skip: the variable skip_bad_files; None for a script without it.
    """
    if not problems:
        return
    for problem in problems[:MOST_SHOWN]:
        print(f'Problem: {printable(problem)}')
    if len(problems) > MOST_SHOWN:
        print(f'... and {len(problems) - MOST_SHOWN} more.')
    said = f'{count(len(problems), "problem")} in the data, listed above.'
    if not skip:
        or_skip = '' if skip is None else ', or go on without these files with skip_bad_files=True'
        raise UserError(f'{said} Fix them{or_skip}.')
    print(f'{said} Going on without these files.')


def frames_of_split(path, split, ignore_class, progress=True, skip=None):
    """The frames of one split that can be used, after all problems are told.

    Args:
        path, ignore_class, progress: see `read_frames`. skip: see `report`.

    Returns:
        list of `Sample`, at least one.

    Raises:
        UserError: see `read_frames` and `report`; no frame can be used.
    """
    (frames,), problems = read_frames(path, [split], ignore_class, progress)
    report(problems, skip)
    if not frames:
        raise UserError(f'{path}: no usable frame in split {split!r}.')
    return frames


def class_names_of(path, frames, ignore_class=None):
    """Class names of a dataset, in the order of their labels.

    Args:
        path: the dataset's folder. If it has a classes.txt, its lines are the names.
        frames: list of `Sample`. Without a classes.txt the names are COCO's categories in the order of their ids, or
            else the names of the objects, sorted.
        ignore_class: name of boxes that mark regions not to be counted; it cannot be a class.

    Raises:
        UserError: a classes.txt that cannot be read, or that lists a name twice, `ignore_class`, or no name.
    """
    listed = Path(path) / 'classes.txt'
    with files.reading(listed):
        if not listed.exists():
            listed_names = {name: None for frame in frames for name in frame.categories or ()}
            return list(listed_names) or sorted({name for frame in frames for name in frame.names})
    names = [line.strip() for line in files.read_text(listed, 10_000_000).splitlines() if line.strip()]
    for name, times in Counter(names).items():
        try:
            check_name(name)
        except ValueError as error:
            raise UserError(f'{listed}: {printable(name[:40])}: {error}.') from None
        if times > 1:
            raise UserError(f'{listed}: the name {name} is duplicated. List it once.')
        if name == ignore_class:
            raise UserError(f'{listed}: {name} is no class: its boxes mark ignored regions (ignore_class). Remove it.')
    if not names:
        raise UserError(f'{listed}: the file is empty. Write one class name on each line, or delete it.')
    return names


def unknown_names(frames, class_names):
    """One line for each name in `frames` that `class_names` lacks, naming the first file that has it."""
    first, boxes = {}, Counter()
    for frame in frames:
        for name in frame.names:
            if name not in class_names:
                first.setdefault(name, frame.path)
                boxes[name] += 1
    known = ', '.join(class_names)
    return [
        f'{path}: the name {name!r} ({count(boxes[name], "box", "boxes")}) is none of the classes learned ({known}). '
        'Correct the label, or label it in the train split too, or list it in classes.txt.'
        for name, path in first.items()
    ]
