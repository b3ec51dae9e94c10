"""Labels to correct instead of to draw: python tools/prelabel.py pictures_in=frames weights=weights/net.pt

Writes a first guess of the labels of pictures in any form that training reads. For a show that the weights do not know,
names=False finds people whoever they are and groups them by looks, with a contact sheet for each group; write names
into names.txt there, run the same command again, and the groups become labels. A label file that you have edited stays.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana import files
from konohana.cast import IGNORE_CLASS
from konohana.errors import UserError, count, noting, printable
from konohana.settings import read, require, run

pictures_in = 'frames'  # folder of pictures, such as those of extract_frames.py; paths start at the project's folder
weights = ''  # weights of a detector; '' takes yours (net.pt), or else the shipped ones
names = True  # write the detector's names; False: the show is new, and people are grouped by looks
cast_path = ''  # folder with a sub-folder of 1 to 20 pictures for each character: name people by these; '' for none
cast_adds = False  # True: the names learned stay, and the cast adds characters, or other clothes, to them
cast_threshold = 0.6  # likeness to a character's pictures below which somebody is 'unknown', -1 to 1

labels_out = ''  # folder to write, the pictures copied into it; '' is pictures_in itself for labelme, else beside it
form = 'labelme'  # form to write: voc, coco, yolo, label_studio, cvat or labelme
split = 'train'  # the split to write in labels_out

threshold = 0.5  # boxes with this score or more are written under their names
unsure_threshold = 0.3  # those from this score on are written as "unsure"
people_threshold = 0.45  # names=False: score, in which the name does not count, from which somebody is there
n_groups = 30  # groups of looks at most (names=False): with more of them, each holds fewer who do not belong
ignore_class = IGNORE_CLASS  # name of boxes that mark regions where nothing is learned

device = ''  # cpu, cuda, ...; '' takes the fastest
backend = 'auto'  # what computes the network on a CPU: auto, openvino, onnxruntime or torch
batch_size = 4  # pictures that the detector sees at once
overwrite = False  # replace contact sheets and names.txt that this program did not write
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent
UNSURE = 'unsure'
BY_HAND = {'names': 'names.txt'}  # what files.py notes about label files with names that a person gave
TILE, COLUMNS, MOST_TILES = (140, 140), 10, 200  # of a contact sheet: height and width, in a row, at most


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(
        settings,
        threshold=(0, 1),
        unsure_threshold=(0, 1),
        people_threshold=(0, 1),
        cast_threshold=(-1, 1),
        n_groups=(1, None),
        batch_size=(1, None),
    )
    if settings.unsure_threshold > settings.threshold:
        raise UserError(f'unsure_threshold={settings.unsure_threshold:g} is above threshold={settings.threshold:g}.')
    from konohana.data.images import list_pictures
    from konohana.writing import writer_of

    writer_of(settings.form)
    pictures = list_pictures(settings.path(settings.pictures_in))
    target, in_place = place(settings)
    check(settings, pictures, in_place)
    files.claim(target / files.LIST_NAME, overwrite=True, variable='labels_out')  # before the detector looks at them
    by_hand = set()
    if settings.names:
        samples = named(settings, pictures)
    else:
        folder = files.beside(target, '_people')
        if not (folder / 'people.json').is_file():
            first_guess(settings, pictures, folder)
            return
        samples, by_hand = renamed(settings, pictures, folder)
    write(settings, target, in_place, samples, by_hand)


def check(settings, pictures, in_place):
    """UserError where labels would not be where they belong: two pictures with one label file, a split elsewhere."""
    if not settings.split or settings.split != Path(settings.split).name:
        raise UserError(f"split={settings.split!r}: it becomes the name of a file or folder, like 'train'.")
    first = {}
    for path in pictures:
        other = first.setdefault(path.stem if in_place else files.in_unicode(path.stem), path)
        if other is not path:
            names = f'{printable(other.name)} and {printable(path.name)}'
            raise UserError(f'{path.parent}: {names} would have one label file. Rename one of them.')


def place(settings):
    """(folder of the dataset, whether the labels lie beside the pictures, which are not copied then)."""
    source = settings.path(settings.pictures_in)
    if settings.labels_out:
        target = settings.path(settings.labels_out)
        return target, target.resolve() == source.resolve()
    in_place = settings.form == 'labelme'
    return (source if in_place else files.beside(source, f'_{settings.form}')), in_place


def detections(settings, model, pictures, lowest):
    """Yield (path, picture, detections from score `lowest` on) of each picture; one that cannot be read is told."""
    from itertools import groupby

    from konohana.data.images import load_image
    from konohana.progress import progress_bar
    from konohana.video.detecting import detect

    with progress_bar('Looking', len(pictures), settings.progress, lines=True) as bar:
        for start in range(0, len(pictures), settings.batch_size):
            paths, read, problems = pictures[start : start + settings.batch_size], [], []
            for path in paths:
                with noting(problems, path):
                    read.append((path, load_image(path)))
            for _, problem in problems:
                print(f'Left out: {printable(problem)}')
            for (*hw, _), alike in groupby(read, key=lambda both: both[1].shape):  # `detect` takes one size at a time
                own, images = zip(*alike, strict=True)
                yield from zip(own, images, detect(model, images, hw, lowest), strict=True)
            bar.update(start + len(paths))


def load_model(settings, backend):
    """The detector of `weights`, computed by `backend`; says which."""
    from konohana import default_weights, load

    path = settings.path(settings.weights) if settings.weights else default_weights(ROOT)
    model = load(path, settings.device, backend=backend)
    print(f'Weights: {path} (computed by {model.backend})')
    return model


def named(settings, pictures):
    """Samples with the detector's names, or those of a cast."""
    from konohana import own_cast

    model = load_model(settings, settings.backend)
    if settings.cast_path:
        cast = settings.path(settings.cast_path), settings.cast_adds, settings.cast_threshold
        print(own_cast.give(model, *cast)[1])
    found = []
    for path, image, seen in detections(settings, model, pictures, settings.unsure_threshold):
        sure = seen['scores'] >= settings.threshold
        guesses = [model.class_names[k - 1] if s else UNSURE for k, s in zip(seen['labels'], sure, strict=True)]
        found.append(sample(path, image.shape[:2], seen['boxes'], guesses, settings.ignore_class))
    if not found:
        raise UserError(f'{pictures[0].parent}: none of its pictures can be read.')
    return found


def sample(path, hw, boxes, names, ignore_class):
    """A `Sample` of named boxes; `DROP` and the ignored regions' name are no names."""
    import numpy as np

    from konohana.data.sample import Sample, clipped
    from konohana.people import DROP

    frame = Sample(path, *hw)
    boxes = clipped(np.asarray(boxes, np.float32).reshape(-1, 4), frame)
    real = [i for i, name in enumerate(names) if name not in (DROP, ignore_class)]
    frame.boxes, frame.names = boxes[real], [names[i] for i in real]
    frame.difficult = np.zeros(len(real), bool)
    frame.ignored = boxes[[i for i, name in enumerate(names) if name == ignore_class]]
    return frame


def first_guess(settings, pictures, folder):
    """Find people, group them by looks, and write contact sheets, names.txt and people.json, which keeps the boxes."""
    import json

    import numpy as np
    import torch

    from konohana import people
    from konohana.detectors.konohana.naming import resized_crops

    for path in (folder / 'names.txt', folder / 'people.json', *folder.glob('*.jpg')):
        files.claim(path, pictures, settings.overwrite, 'labels_out')
    model = load_model(settings, 'torch')  # a faster runtime does not give features
    if model.backend != 'torch':
        raise UserError(f'weights={settings.weights}: names=False takes a .pt file, which says how people look.')
    rows, looks, crops, owners = [], [], [], []
    for number, (path, image, seen) in enumerate(detections(settings, model, pictures, 0.05)):
        boxes, scores = people.find_people(seen, settings.people_threshold)
        rows.append({'file': path.name, 'hw': image.shape[:2], 'boxes': boxes.round(2).tolist()})
        rows[-1]['scores'] = scores.round(3).tolist()
        if len(boxes):
            own = resized_crops(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(boxes))
            looks.append(people.looks_of(model, own))
            crops += list(own.permute(0, 2, 3, 1).numpy())
            owners += [number] * len(boxes)
    if not crops:
        raise UserError(f'{pictures[0].parent}: nobody was found. Lower people_threshold, or try other weights.')
    groups = people.group([np.concatenate(parts) for parts in zip(*looks, strict=True)], owners, settings.n_groups)
    draw_people(folder, crops, groups, [rows[k]['file'] for k in owners])
    each = iter(groups.tolist())
    for row in rows:
        row['people'] = [next(each) for _ in row['boxes']]
    files.write_text(folder / 'names.txt', people.names_text(groups, settings.ignore_class), remember=True)
    files.write_text(folder / 'people.json', json.dumps(rows, indent=1) + '\n', remember=True)
    print(
        f'{count(len(crops), "person", "people")} in {count(len(pictures), "picture")}, '
        f'{count(groups.max(), "group")}, {(groups == 0).sum()} like no others'
    )
    first = folder / ('person_1.jpg' if groups.any() else f'{UNSURE}.jpg')
    others = ' and the others' if len(set(groups.tolist())) > 1 else ''
    print(f'Look at {first}{others}, write names into {folder / "names.txt"},')
    print('and run the same command again.')


def draw_people(folder, crops, groups, names):
    """A contact sheet for each group; captions are the boxes' numbers and pictures."""
    from konohana.data.images import save_image
    from konohana.drawing import contact_sheet

    # An earlier run may have found more groups: names.txt knows nothing of them now.
    for old in filter(files.written_here, folder.glob('person_*.jpg')):
        old.unlink()
    for number in sorted(set(groups.tolist())):
        members = [i for i, k in enumerate(groups) if k == number][:MOST_TILES]
        titles = [f'{i + 1}  {Path(names[i]).stem}' for i in members]
        picture = contact_sheet([crops[i] for i in members], titles, TILE, COLUMNS)
        save_image(folder / (f'person_{number}.jpg' if number else f'{UNSURE}.jpg'), picture, remember=True)


def renamed(settings, pictures, folder):
    """Samples under the names of names.txt, of the boxes that an earlier run found; stems of those named by hand."""
    from konohana.data.shapes import read_json
    from konohana.people import read_names

    path = folder / 'people.json'
    rows, there = read_json(path), {picture.name: picture for picture in pictures}
    with files.reading(path):
        names = iter(read_names(folder / 'names.txt', [person for row in rows for person in row['people']]))
        given = {row['file']: [next(names) for _ in row['boxes']] for row in rows}
        found = [
            sample(there[row['file']], row['hw'], row['boxes'], given[row['file']], settings.ignore_class)
            for row in rows
            if row['file'] in there
        ]
    more = sum(is_picture(picture) for name, picture in there.items() if name not in given)
    if more:
        new = count(more, 'picture is', 'pictures are')
        print(f'{new} new since the groups were made. Delete {path} to begin anew with them.')
    print(f'Names: {folder / "names.txt"}')
    return found, {
        files.in_unicode(there[file].stem)
        for file, names in given.items()
        if file in there and not all(map(nameless, names))
    }


def nameless(name):
    return name == UNSURE or name.startswith('person_')


def is_picture(path):
    from konohana.data.images import load_image

    problems = []
    with noting(problems, path):
        load_image(path)
    return not problems


def in_order(target, names):
    """Names after those of an earlier run in YOLO's form, whose numbers stand in the files that were edited since."""
    from konohana.data.yolo import class_list

    try:
        before = class_list(target)[1]
    except UserError:
        return names
    return [*before, *(name for name in names if name not in before)]


def write(settings, target, in_place, samples, by_hand):
    """Write the label files, and copy the pictures if they are wanted elsewhere. Edited files stay.

    by_hand: stems of pictures with names of names.txt. Without names=False, their label files stay from then on, too.
    """
    from collections import Counter

    from konohana.data import shapes
    from konohana.writing import writer_of

    writer = writer_of(settings.form)
    if not in_place:
        samples = copied(samples, writer.picture_folder(target, settings.split))
    # What is edited may get names that nobody knows yet: the label files alone say them, no list beside them.
    listed, names = target / 'classes.txt', sorted({name for frame in samples for name in frame.names})
    labels = writer.write(target, {settings.split: samples}, names, settings.ignore_class)
    edited = {path for path in labels.keys() - {listed} if path.exists() and not files.written_here(path)}
    named_there = {path for path in labels.keys() if settings.names and files.made_with(path) == BY_HAND}
    kept = edited | named_there
    if kept and settings.form == 'yolo':
        labels = writer.write(target, {settings.split: samples}, in_order(target, names), settings.ignore_class)
    if labels.pop(listed, None) and files.written_here(listed):
        listed.unlink()
    with_files = {frame.path.stem for frame in samples} & {path.stem for path in labels}
    for path in labels.keys() - kept:
        files.write_text(path, labels[path], remember=True)
        if files.in_unicode(path.stem) in by_hand or (by_hand and not with_files):  # some forms have one file for all
            files.written(path, BY_HAND)
    for line in shapes.lost(samples, settings.form, writer.HOLDS, settings.ignore_class):
        print(line)
    tell_kept(sorted(edited), sorted(named_there))
    counts = Counter(name for frame in samples for name in frame.names if frame.path.stem not in {p.stem for p in kept})
    if counts:
        print(', '.join(f'{name} {times}' for name, times in counts.most_common()))
    none_yet = sorted(filter(nameless, counts))
    if none_yet:
        print(f'{", ".join(none_yet)}: training would learn these as names. Name them, or drop their boxes.')
    boxes, written = count(counts.total(), 'box', 'boxes'), count(len(labels) - len(kept), 'label file')
    print(f'{target}: {count(len(samples), "picture")}, {boxes}, {written} written')


def copied(samples, folder):
    """The samples with copies of their pictures in a folder, where those that are there stay."""
    from dataclasses import replace

    copies = {folder / files.in_unicode(frame.path.name): frame.path for frame in samples}
    for path, source in copies.items():
        if not path.exists():
            files.write_bytes(path, files.read_bytes(source), remember=True)
    return [replace(frame, path=path) for path, frame in zip(copies, samples, strict=True)]


def tell_kept(edited, named_there):
    for path in edited[:3]:
        print(f'{path}: edited since it was written, or not written by this program: it stays.')
    if len(edited) > 3:
        print(f'... and {len(edited) - 3} more such files.')
    if named_there:
        some = f'{count(len(named_there), "label file")} with names of names.txt'
        print(f'Left as they are: {some}, such as {named_there[0]}. Delete those that are to be guessed anew.')


if __name__ == '__main__':
    run(main)
