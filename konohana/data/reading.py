"""The frames and class names of a dataset folder, whatever its layout, and all that is wrong with them."""

from pathlib import Path

from konohana.data import coco, voc
from konohana.errors import UserError


def read_frames(path, splits, ignore_class, progress=True):
    """The frames of several splits of a dataset, and all that is wrong with them.

    Args:
        path: dataset folder, of Pascal VOC or COCO as its content says.
        splits: names of splits.
        ignore_class: name of boxes that mark regions not to be counted.

    Returns:
        (list of lists of `Sample`, one for each split, without the frames that have problems; list of problems).

    Raises:
        UserError: see `voc.find_split` and `coco.read_split`.
    """
    path = Path(path)
    kind = coco if coco.is_coco(path) else voc
    # Splits that are not there are known at once, before thousands of pictures are checked.
    for split in splits:
        kind.find_split(path, split)
    frames, problems = [], []
    for split in splits:
        found, wrong = kind.read_split(path, split, ignore_class, progress)
        frames.append(found)
        problems.extend(wrong)
    return frames, problems


def label_files(path, split):
    """The label files of a split: one JSON, or an XML for each picture. UserError as `read_frames` says."""
    if coco.is_coco(path):
        return [coco.find_split(path, split)]
    return [xml for _, xml in voc.find_split(path, split)]


def report(problems, skip):
    """Print all problems; raise UserError unless they are to be skipped (or there are none)."""
    if not problems:
        return
    for problem in problems:
        print(f'Problem: {problem}')
    count = f'{len(problems)} problem{"s" * (len(problems) > 1)} in the data, listed above.'
    if not skip:
        raise UserError(f'{count} Mend them, or go on without these files by skip_bad_files=True.')
    print(f'{count} Going on without these files.')


def class_names_of(path, frames):
    """Class names of a dataset, in the order of their labels.

    The lines of its classes.txt if there is one; else COCO's categories in the order of their ids; else the names in
    `frames`, sorted.
    """
    listed = Path(path) / 'classes.txt'
    if not listed.is_file():
        listed_names = {name: None for frame in frames for name in frame.categories or ()}
        return list(listed_names) or sorted({name for frame in frames for name in frame.names})
    try:
        lines = listed.read_text(encoding='utf-8-sig').splitlines()
    except UnicodeDecodeError:
        raise UserError(f'{listed}: not UTF-8 text. Save it as UTF-8.') from None
    names = [line.strip() for line in lines if line.strip()]
    if len(set(names)) != len(names):
        raise UserError(f'{listed}: a name stands there twice.')
    return names


def unknown_names(frames, class_names):
    """One line for each name in `frames` that `class_names` lacks, naming the first file that has it."""
    first, count = {}, {}
    for frame in frames:
        for name in frame.names:
            if name not in class_names:
                first.setdefault(name, frame.path)
                count[name] = count.get(name, 0) + 1
    return [
        f'{path}: the name {name!r} ({count[name]} boxes) is none of the classes learned ({", ".join(class_names)}). '
        'Correct the label, or label it in the train split too, or list it in classes.txt.'
        for name, path in first.items()
    ]
