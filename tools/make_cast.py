"""A cast of pictures from labelled frames, to name people without training: python tools/make_cast.py labels_in=my_show

Cuts out a few large, clear pictures of each character into a folder of the character's name, from all over the dataset.
Look through the folder: remove what is no good likeness, add your own pictures. Then name people by it:
python _test_with_video.py cast_path=my_cast video_in=show.mkv
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.cast import IGNORE_CLASS
from konohana.errors import UserError, printable
from konohana.settings import read, require, run

labels_in = 'toy_show'  # folder of labelled frames, in any form; the default, a toy show, is drawn when it is not there
split = 'train'  # split to take pictures from
cast_out = 'my_cast'  # folder to write; relative paths start at the project's folder
n_pictures = 10  # pictures of each character, 1 to 20
smallest = 48  # pixels: people less high or wide than this are not taken
leave_out = ['其他', 'other', 'others', 'unknown', 'unsure']  # names that are nobody's; unsure is prelabel.py's
ignore_class = IGNORE_CLASS  # boxes with this name mark regions without labels
skip_bad_files = False  # leave out files that have problems instead of stopping
overwrite = False  # replace pictures that this program did not write
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent
COVERED = 0.25  # of a box: somebody who is covered more than this by other people's boxes is taken only if need be


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_pictures=(1, 20), smallest=(1, None))
    from konohana import files
    from konohana.data.reading import frames_of_split
    from konohana.errors import count
    from konohana.toy.writer import draw_default

    source, folder = settings.path(settings.labels_in), settings.path(settings.cast_out)
    draw_default(source, ROOT, [settings.split], settings.progress)
    options = settings.ignore_class, settings.progress, settings.skip_bad_files
    samples = frames_of_split(source, settings.split, *options)
    people = candidates(samples, settings)
    if not people:
        raise UserError(
            f'{source}: nobody with a name is labelled in split {settings.split!r}, of {settings.smallest} '
            'pixels or more.'
        )
    chosen = {name: choose(found, settings.n_pictures) for name, found in people.items()}
    pictures = [(path_of(folder, name, person), person) for name, found in chosen.items() for person in found]
    for path, person in pictures:
        files.claim(path, [person['sample'].path], settings.overwrite, 'cast_out')
    cut(pictures, settings.progress)
    for name, found in chosen.items():
        print(f'{printable(name)}: {count(len(found), "picture")} of {len(people[name])} possible ones')
    print(f'{count(len(chosen), "character")}, {count(len(pictures), "picture")}: {folder}')


def candidates(samples, settings):
    """The people of each name, in the order of the dataset.

    Returns:
        {name: list of dicts of `sample`, `stem` (begins the picture's name), `number` of the box, `box`, `area` (square
        pixels) and `covered` (part of the box that lies in other people's)}.
    """
    import numpy as np

    from konohana.boxes import part_inside
    from konohana.pictures import output_paths

    people = {}
    # Frames of several folders may have one name. All of them count, so that a frame's stem is the same in each run.
    stems = [path.name for path in output_paths([sample.path for sample in samples], '', '')]
    for sample, stem in zip(samples, stems, strict=True):
        sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
        inside = np.asarray(part_inside(sample.boxes, sample.boxes)).copy()
        np.fill_diagonal(inside, 0)
        for i, name in enumerate(sample.names):
            if name in settings.leave_out or sample.difficult[i] or sides[i].min() < settings.smallest:
                continue
            person = {'sample': sample, 'stem': stem, 'number': i, 'box': sample.boxes[i]}
            people.setdefault(name, []).append({**person, 'area': sides[i].prod(), 'covered': inside[i].sum()})
    return dict(sorted(people.items()))


def choose(found, n):
    """The best n of the pictures of one character: uncovered ones first, of these the larger half, spread evenly."""
    clear = [person for person in found if person['covered'] <= COVERED]
    if len(clear) < n:
        return sorted(found, key=lambda person: person['covered'])[:n]
    middle = sorted(person['area'] for person in clear)[len(clear) // 2]
    large = [person for person in clear if person['area'] >= middle]
    if len(large) < n:
        large = clear
    return [large[i * len(large) // n] for i in range(n)]


def path_of(folder, name, person):
    """Where a picture goes: <folder>/<name>/<frame>_<number of the box>.jpg. UserError: no folder can have the name."""
    if name.startswith('.') or name.endswith(('.', ' ')) or any(sign in name for sign in '/\\:*?"<>|'):
        raise UserError(
            f'{printable(name)}: no folder can be called that on every system. Rename the label, or add '
            'it to leave_out.'
        )
    return folder / name / f'{person["stem"]}_{person["number"]}.jpg'


def cut(pictures, progress):
    """Cut the people out and write them. pictures: list of (path, person)."""
    from konohana.data.images import load_image, save_image
    from konohana.labelled import picture_of
    from konohana.progress import progress_bar

    with progress_bar('Cutting out', len(pictures), progress) as bar:
        for done, (path, person) in enumerate(pictures, 1):
            save_image(path, picture_of(load_image(person['sample'].path), person['box']), remember=True)
            bar.update(done)


if __name__ == '__main__':
    run(main)
