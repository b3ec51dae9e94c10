"""What a first guess of labels saves: python benchmarks/prelabel.py konohana_dataset_path=toy_show_2

Lets tools/prelabel.py guess the labels of pictures whose true labels are known (names=False: a show that the weights do
not know), gives each group the name that most of its boxes have, as a person would, and counts what is left to do.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.cast import IGNORE_CLASS
from konohana.settings import read, require, run

konohana_dataset_path = 'toy_show_2'  # labelled pictures; toy_show_2 is drawn if it is missing
split = 'train'  # split whose pictures are labelled
n_pictures = 160  # the first ones of the split; 0 is all
weights = ''  # weights of a detector; '' takes yours (net.pt), or else the shipped ones
n_groups = 30  # groups of looks at most
people_threshold = 0.45  # score, in which the name does not count, from which a box is written
ignore_class = IGNORE_CLASS  # name of boxes that mark regions not to be counted
all_labelled = True  # everybody in the pictures is labelled; False: other boxes are no mistakes
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent
STANDS, ROUGH = 0.75, 0.5  # IoU with a labelled box from which a box is right as it stands, and from which it is moved


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_pictures=(0, None), n_groups=(1, None), people_threshold=(0, 1))
    from konohana import files
    from konohana.data.reading import frames_of_split
    from konohana.data.shapes import read_json
    from konohana.toy.writer import draw_default
    from tools import prelabel

    root = settings.path(settings.konohana_dataset_path)
    draw_default(root, ROOT, [settings.split], settings.progress)
    frames = frames_of_split(root, settings.split, settings.ignore_class, settings.progress)
    frames = frames[: settings.n_pictures or None]
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / 'frames'
        for number, frame in enumerate(frames):
            files.write_bytes(pictures / f'{number:06}{frame.path.suffix}', files.read_bytes(frame.path))
        names = ('weights', 'n_groups', 'people_threshold', 'progress')
        options = [f'{name}={getattr(settings, name)}' for name in names]
        prelabel.main([f'pictures_in={pictures}', 'names=False', *options])
        rows = read_json(Path(folder) / 'frames_people' / 'people.json')
    judge(frames, rows, settings.all_labelled)


def judge(frames, rows, all_labelled):
    """Print what of the guess is right and what is left to do."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    from konohana.boxes import iou

    count, members = Counter(), {}
    for frame, row in zip(frames, rows, strict=True):
        boxes = np.array(row['boxes'], np.float32).reshape(-1, 4)
        overlap = iou(boxes, frame.boxes)
        pairs = [(i, k) for i, k in zip(*linear_sum_assignment(-overlap), strict=True) if overlap[i, k] >= ROUGH]
        count['labelled'] += len(frame.boxes)
        count['guessed'] += len(boxes)
        count['moved'] += sum(overlap[i, k] < STANDS for i, k in pairs)
        count['drawn'] += len(frame.boxes) - len(pairs)
        count['deleted'] += len(boxes) - len(pairs)
        for i, k in pairs:
            members.setdefault(row['people'][i], []).append((frame.names[k], overlap[i, k] >= STANDS))
    unsure = members.pop(0, [])
    named = {number: Counter(name for name, _ in group).most_common(1)[0][0] for number, group in members.items()}
    boxes = [(name, stands, named[number]) for number, group in members.items() for name, stands in group]
    renamed = sum(name != given for name, _, given in boxes)
    right = sum(stands and name == given for name, stands, given in boxes)
    people = len(set(named.values()))
    n = count['labelled']
    print(f'{len(frames)} pictures, {n} labelled boxes, {count["guessed"]} guessed ones')
    print(f'right as they stand, box and name: {right} ({right / n:.0%} of the labelled ones)')
    print(
        f'groups: {len(members)}, of {people} people: {len(members) - people} merged into others by a name given twice'
    )
    print(f'purity of the groups: {1 - renamed / max(1, len(boxes)):.3f}')
    extra = count['deleted'] if all_labelled else 0
    print(f'left to do: {count["drawn"]} boxes drawn and named, {count["moved"]} moved, '
          f'{renamed + len(unsure)} named otherwise, {extra} deleted, {len(members)} lines of names')  # fmt: skip
    todo = 2 * count['drawn'] + count['moved'] + renamed + len(unsure) + extra + len(members)
    print(f'actions: {todo} against {2 * n} to draw and name all: {1 - todo / (2 * n):.0%} saved')


if __name__ == '__main__':
    run(main)
