"""How pictures of one person differ, so that a cast tells strangers: python tools/measure_spread.py weights=net.pt

Finds the labelled people of some shows and measures how the embeddings of one person spread, see konohana/spread.py. It
writes net.spread.npz beside net.pt: with it, people are told apart far better by a cast of pictures (docs/cast.md). It
is needed once, after training. The shows may be drawn ones, and are best different ones; add your own labelled frames.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.cast import IGNORE_CLASS
from konohana.errors import UserError, count
from konohana.settings import read, require, run

weights = ''  # weights file with a second look; '' takes net.pt of your training, else weights/net.pt
labels_in = ['toy_show_3', 'toy_show_4', 'toy_show_5']  # folders of labelled frames, in any form; toy shows are drawn
split = 'train'  # split to measure in
n_people = 100  # people of each name that are looked at, spread over the split
ignore_class = IGNORE_CLASS  # boxes with this name mark regions without labels
device = ''  # 'cuda', 'mps' or 'cpu'; '' takes the fastest there is
overwrite = False  # replace an existing file that this program did not write
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_people=(2, None))
    from konohana import files, inference, spread

    path = settings.path(settings.weights) if settings.weights else inference.default_weights(ROOT)
    target = spread.path_of(path)
    files.claim(target, [path], settings.overwrite, 'weights')
    if not settings.labels_in:
        raise UserError("labels_in: name a folder of labelled frames, like labels_in=['my_show'].")
    model = inference.load(path, settings.device)
    if not model.looks_again:
        raise UserError(f'{path}: these weights have no second look. Take weights trained with second_look=True.')
    shows = [people(model, settings.path(folder), settings) for folder in settings.labels_in]
    found = spread.measured(shows)
    if found is None:
        raise UserError(f'labels_in: in split {settings.split!r} nobody with a name is found {spread.FEWEST} times.')
    spread.save(found, target, spread.hash_of(model))
    print(f'{target}: measured with {count(sum(map(len, shows)), "person", "people")}')


def people(model, folder, settings):
    """The found people of one show, see `labelled.found_people`."""
    from konohana import labelled
    from konohana.data.reading import frames_of_split
    from konohana.toy.writer import draw_default

    draw_default(folder, ROOT, [settings.split], settings.progress)
    samples = frames_of_split(folder, settings.split, settings.ignore_class, settings.progress)
    samples = labelled.spaced(samples, settings.n_people)
    return labelled.found_people(model, samples, folder.name, settings.progress)


if __name__ == '__main__':
    run(main)
