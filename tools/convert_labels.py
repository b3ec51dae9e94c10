"""Convert labels: python tools/convert_labels.py labels_in=my_show labels_out=my_show_yolo form=yolo

Reads a dataset in any form that training reads and writes a new one, pictures included, in another form: voc, coco,
yolo, label_studio, cvat or labelme. It prints what the form cannot hold and does not change the dataset that it reads.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana import files
from konohana.errors import UserError
from konohana.settings import read, run

ROOT = Path(__file__).resolve().parent.parent

labels_in = 'toy_show'  # folder of the dataset to read; relative paths start at the project's folder
labels_out = 'toy_show_yolo'  # folder to write, a new one; pictures are copied into it
form = 'yolo'  # form to write: voc, coco, yolo, label_studio, cvat or labelme
splits = ''  # splits to convert, such as 'train, val'; '' is all of them
ignore_class = '不计算'  # name of boxes that mark regions not to be counted
skip_bad_files = False  # leave out frames that have problems instead of ending
overwrite = False  # replace files in labels_out that this program did not write, or that have changed since
progress = True  # show progress bars

USUAL = ('train', 'val', 'valid', 'test', 'all')


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    from konohana.data import reading, shapes  # imported here, so that --help answers at once
    from konohana.progress import progress_bar

    source, target = settings.path(settings.labels_in), settings.path(settings.labels_out)
    writer = _writer(settings.form, reading.FORMS)
    _check_folders(source, target, settings.form, reading)
    names = _splits(source, settings.splits, reading)
    found, problems = reading.read_frames(source, names, settings.ignore_class, settings.progress)
    reading.report(problems, settings.skip_bad_files)
    frames = [frame for part in found for frame in part]
    class_names = reading.class_names_of(source, frames, settings.ignore_class)
    class_names += sorted({name for frame in frames for name in frame.names} - set(class_names))
    copies, samples = _moved(dict(zip(names, found, strict=True)), writer, target)
    labels = writer.write(target, samples, class_names, settings.ignore_class)
    _claim([*copies, *labels], settings.overwrite)
    _refuse_others({writer.picture_folder(target, split) for split in names}, [*copies, *labels])
    with progress_bar('Writing', len(copies) + len(labels), settings.progress, 'files') as bar:
        for done, (path, picture) in enumerate(copies.items(), start=1):
            files.write_bytes(path, files.read_bytes(picture), remember=True)
            bar.update(done)
        for done, (path, text) in enumerate(labels.items(), start=len(copies) + 1):
            files.write_text(path, text, remember=True)
            bar.update(done)
    written = [frame for part in samples.values() for frame in part]
    for line in shapes.lost(written, settings.form, writer.HOLDS, settings.ignore_class):
        print(line)
    counts = sum(len(frame.boxes) for frame in written), sum(len(frame.ignored) for frame in written)
    print(f'{target}: {len(written)} pictures, {counts[0]} objects, {counts[1]} ignored regions ({", ".join(names)})')


def _writer(form, forms):
    if form not in forms:
        raise UserError(f'form={form}: unknown form. Choose one of {", ".join(forms)}.')
    return forms[form]


def _check_folders(source, target, form, reading):
    """Raise UserError if the new dataset would be inside the old one, or among labels of another form."""
    resolved = source.resolve(), target.resolve()
    if resolved[0] == resolved[1] or resolved[0] in resolved[1].parents or resolved[1] in resolved[0].parents:
        raise UserError(f'{target}: one of labels_in and labels_out is inside the other. Choose another labels_out.')
    there = reading.form_of(target) if target.is_dir() else None
    if there not in (None, form):
        raise UserError(f'{target}: it holds labels in another form ({there}). Choose another labels_out.')


def _splits(source, chosen, reading):
    """The names of the splits to convert."""
    if chosen:
        return [name.strip() for name in chosen.split(',') if name.strip()]
    there = reading.splits_of(source)
    # VOCdevkit also has a list for each class, which looks like a split.
    return [name for name in there if name in USUAL] or there or ['train']


def _moved(samples, writer, target):
    """({new path of a picture: old path}, {split: samples with the new paths}); names are unique across splits."""
    from dataclasses import replace

    from konohana.pictures import output_paths

    frames = [(split, frame) for split, part in samples.items() for frame in part]
    stems = [path.name for path in output_paths([frame.path for _, frame in frames], '', '')]
    copies, moved = {}, {split: [] for split in samples}
    for (split, frame), stem in zip(frames, stems, strict=True):
        if stem.endswith(frame.path.suffix):
            stem = stem.removesuffix(frame.path.suffix) + frame.path.suffix.replace('.', '_')
        path = writer.picture_folder(target, split) / f'{stem}{frame.path.suffix}'
        copies[path] = frame.path
        moved[split].append(replace(frame, path=path))
    return copies, moved


def _claim(paths, overwrite):
    for path in paths:
        files.claim(path, [], overwrite, 'labels_out')


def _refuse_others(folders, paths):
    """Raise UserError if the folders of pictures hold files besides those to write: they would be read as well."""
    there = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    more = sorted(path for path in there - set(paths) if path.is_file() and not path.name.startswith('.'))
    if more:
        raise UserError(
            f'{more[0]}: this file is not part of the new dataset ({len(more)} such) but would be read with it. '
            'Choose another labels_out.'
        )


if __name__ == '__main__':
    run(main)
