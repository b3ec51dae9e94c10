"""Convert labels: python tools/convert_labels.py labels_in=my_show labels_out=my_show_yolo form=yolo

Reads a dataset in any form that training reads and writes a new one, pictures included, in another form: voc, coco,
yolo, label_studio, cvat or labelme. It prints what the form cannot hold and does not change the dataset that it reads.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.cast import IGNORE_CLASS
from konohana.errors import count
from konohana.settings import read, run

ROOT = Path(__file__).resolve().parent.parent

labels_in = 'toy_show'  # folder of the dataset to read; the default, a toy show, is drawn when it is not there
labels_out = 'toy_show_yolo'  # folder to write, a new one; pictures are copied into it
form = 'yolo'  # form to write: voc, coco, yolo, label_studio, cvat or labelme
splits = ''  # splits to convert, such as 'train, val'; '' is all of them
ignore_class = IGNORE_CLASS  # name of boxes that mark regions not to be counted
skip_bad_files = False  # leave out frames that have problems instead of ending
overwrite = False  # replace files in labels_out that this program did not write, or that have changed since
progress = True  # show progress bars


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    from konohana import writing  # imported here, so that --help answers at once
    from konohana.data import reading
    from konohana.toy.writer import draw_default

    source, target = settings.path(settings.labels_in), settings.path(settings.labels_out)
    writing.writer_of(settings.form)
    writing.check_target(target, source, settings.form, 'labels_out')
    draw_default(source, ROOT, progress=settings.progress)
    names = reading.chosen_splits(source, settings.splits)
    found, problems = reading.read_frames(source, names, settings.ignore_class, settings.progress)
    reading.report(problems, settings.skip_bad_files)
    frames = [frame for part in found for frame in part]
    class_names = reading.class_names_of(source, frames, settings.ignore_class)
    samples = dict(zip(names, found, strict=True))
    options = settings.ignore_class, settings.overwrite, 'labels_out', settings.progress
    for line in writing.write_dataset(target, samples, settings.form, class_names, *options):
        print(line)
    objects = count(sum(len(frame.boxes) for frame in frames), 'object')
    regions = count(sum(len(frame.ignored) for frame in frames), 'ignored region')
    print(f'{target}: {count(len(frames), "picture")}, {objects}, {regions} ({", ".join(names)})')


if __name__ == '__main__':
    run(main)
