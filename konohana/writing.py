"""Writing a whole dataset, pictures included, into a folder of its own, in any form that is read."""

from dataclasses import replace

from konohana import files
from konohana.data import reading, shapes
from konohana.errors import UserError
from konohana.pictures import output_paths
from konohana.progress import progress_bar


def writer_of(form):
    """The module that writes a form; UserError for one that is not known."""
    if form not in reading.FORMS:
        raise UserError(f'form={form}: unknown form. Choose one of {", ".join(reading.FORMS)}.')
    return reading.FORMS[form]


def check_target(target, source, form, variable):
    """Check the folder of a new dataset before the work starts.

    Args:
        source: the dataset's folder that is read. variable: the name of the user's variable of `target`.

    Raises:
        UserError: one of the two is inside the other; `target` holds labels in another form.
    """
    new, old = target.resolve(), source.resolve()
    if old == new or old in new.parents or new in old.parents:
        raise UserError(f'{target}: one of {source} and {variable} is inside the other. Choose another {variable}.')
    there = reading.form_of(target) if target.is_dir() else None
    if there not in (None, form):
        raise UserError(f'{target}: it holds labels in another form ({there}). Choose another {variable}.')


def write_dataset(target, samples, form, class_names, ignore_class, overwrite, variable, progress=True):
    """Write samples and copies of their pictures as a dataset.

    Args:
        target: its folder. samples: {split: list of `Sample`}. form: a name in `reading.FORMS`.
        class_names: in their order; names that it lacks are added behind it.
        overwrite, variable: see `files.claim`.

    Returns:
        list of lines about what the form cannot hold.

    Raises:
        UserError: a file cannot be written, or is not this program's; the folder of pictures holds others.
    """
    writer = writer_of(form)
    frames = [frame for part in samples.values() for frame in part]
    class_names = [*class_names, *sorted({name for frame in frames for name in frame.names} - set(class_names))]
    copies, moved = _moved(samples, writer, target)
    labels = writer.write(target, moved, class_names, ignore_class)
    for path in (*copies, *labels):
        files.claim(path, [], overwrite, variable)
    _refuse_others({writer.picture_folder(target, split) for split in samples}, [*copies, *labels], variable)
    with progress_bar('Writing', len(copies) + len(labels), progress, 'files') as bar:
        for done, (path, picture) in enumerate(copies.items(), start=1):
            files.write_bytes(path, files.read_bytes(picture), remember=True)
            bar.update(done)
        for done, (path, text) in enumerate(labels.items(), start=len(copies) + 1):
            files.write_text(path, text, remember=True)
            bar.update(done)
    return shapes.lost([frame for part in moved.values() for frame in part], form, writer.HOLDS, ignore_class)


def _moved(samples, writer, target):
    """({new path of a picture: old path}, {split: samples with the new paths}).

    The names are unique across splits without their endings too, since a label file is called by the rest.
    """
    frames = [(split, frame) for split, part in samples.items() for frame in part]
    stems = [path.name for path in output_paths([frame.path for _, frame in frames], '', '')]
    copies, moved, taken = {}, {split: [] for split in samples}, set()
    for (split, frame), stem in zip(frames, stems, strict=True):
        stem = files.in_unicode(stem)
        if stem.endswith(frame.path.suffix):
            stem = stem.removesuffix(frame.path.suffix) + frame.path.suffix.replace('.', '_')
        while stem.casefold() in taken:
            stem += '_'
        taken.add(stem.casefold())
        path = writer.picture_folder(target, split) / f'{stem}{frame.path.suffix}'
        copies[path] = frame.path
        moved[split].append(replace(frame, path=path))
    return copies, moved


def _refuse_others(folders, paths, variable):
    """Raise UserError if the folders of pictures hold files besides those to write: they would be read as well."""
    there = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    more = sorted(path for path in there - set(paths) if path.is_file() and not path.name.startswith('.'))
    if more:
        raise UserError(
            f'{more[0]}: this file is not part of the new dataset ({len(more)} such) but would be read with it. '
            f'Choose another {variable}.'
        )
