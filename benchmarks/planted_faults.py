"""How many faults tools/check_dataset.py finds: python benchmarks/planted_faults.py weights=weights/net.pt

Draws a toy show, spoils some of its labels and pictures in ways that are written down, checks it, and prints how many
of the faults of each kind were found and how many findings point at nothing that was planted.
"""

import io
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.settings import read, require, run

ROOT = Path(__file__).resolve().parent.parent

n_faults = 20  # faults of each kind
n_frames = 500  # frames of the toy show before anything is planted; a fifth of them is val
hw = (360, 640)  # height and width of the frames
seed = 5  # of the toy show and of the faults
weights = ''  # weights file that looks for missing labels too; '' for none
keep = ''  # folder to keep the spoilt dataset in; '' keeps nothing
progress = True  # show progress bars

IGNORE = 'ignored'


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_faults=(1, None), n_frames=(len(FAULTS) * settings.n_faults, None))
    with tempfile.TemporaryDirectory() as folder:
        root = settings.path(settings.keep) if settings.keep else Path(folder) / 'spoilt'
        planted = plant(root, settings)
        for line in table(planted, *check(root, settings)):
            print(line)


def plant(root, settings):
    """Write a spoilt toy show; returns a list of (kind, stem of the picture, box or None)."""
    import numpy as np

    from konohana.cast import ROMANISED
    from konohana.data import voc
    from konohana.data.sample import Sample
    from konohana.files import write_bytes, write_text
    from konohana.progress import progress_bar
    from konohana.toy import writer

    rng = np.random.default_rng(settings.seed)
    samples = {'train': [], 'val': []}
    images = {}
    with progress_bar('Toy show', settings.n_frames, settings.progress) as bar:
        for i in range(settings.n_frames):
            split = 'val' if i % 5 == 4 else 'train'
            frame = writer.draw_frame((settings.seed, 7, i), settings.hw)
            names = [ROMANISED[name].replace(' ', '_') for name in frame['labels']]
            boxes, size = frame['boxes'].astype(np.float32), frame['image'].shape[:2]
            path = voc.picture_folder(root, split) / f'toy_{i:05d}.jpg'
            samples[split].append(Sample(path, *size, boxes, names, np.zeros(len(names), bool)))
            images[path] = frame['image']
            bar.update(i + 1)
    planted = []
    usable = [sample for sample in samples['train'] if len(sample.boxes)]
    order = rng.permutation(len(usable)).tolist()
    for kind, fault in FAULTS.items():
        todo = settings.n_faults
        while todo and order:
            where = fault(usable[order.pop()], samples, images, rng)
            if where is not None:
                planted.append((kind, *where))
                todo -= 1
    for path, image in images.items():
        write_bytes(path, jpeg(image))
    for path in [path for kind, path, _ in planted if kind == 'unreadable']:
        write_bytes(path, path.read_bytes()[:3000])
    classes = [name.replace(' ', '_') for name in ROMANISED.values()]
    for path, text in voc.write(root, samples, classes, IGNORE).items():
        write_text(path, text)
    return [(kind, path.stem, box) for kind, path, box in planted]


def jpeg(image, quality=92):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=quality)
    return file.getvalue()


# Each takes a sample of train, all samples, all images and a random generator, spoils the sample in place, and returns
# (path of the picture, box or None), or None where it cannot.


def unreadable(sample, samples, images, rng):
    return sample.path, None


def off_picture(sample, samples, images, rng):
    j, side = int(rng.integers(len(sample.boxes))), int(rng.integers(4))
    beyond = float(rng.uniform(5, 60))
    x1, y1, x2, y2 = sample.boxes[j].tolist()
    inside = (x2, y2, sample.width - x1, sample.height - y1)[side]
    beyond = min(beyond, 0.9 * inside)  # more than half of a box outside is no slip but a frame that cannot be used
    sample.boxes[j, side] = (-beyond, -beyond, sample.width + beyond, sample.height + beyond)[side]
    return sample.path, sample.boxes[j].copy()


def duplicate(sample, samples, images, rng):
    j = int(rng.integers(len(sample.boxes)))
    return sample.path, add(sample, near(sample, j, rng), sample.names[j])


def two_names(sample, samples, images, rng):
    j = int(rng.integers(len(sample.boxes)))
    return sample.path, add(sample, near(sample, j, rng, 0.02), other_name(sample.names[j], rng))


def tiny(sample, samples, images, rng):
    size = rng.uniform(1, 4, 2)
    x, y = rng.uniform(0, sample.width - 5), rng.uniform(0, sample.height - 5)
    return sample.path, add(sample, (x, y, x + size[0], y + size[1]), sample.names[0])


def typo(sample, samples, images, rng):
    j = next((j for j, name in enumerate(sample.names) if name != 'other'), None)
    if j is None:
        return None
    name, place = sample.names[j], int(rng.integers(1, len(sample.names[j])))
    swapped = name[: place - 1] + name[place] + name[place - 1] + name[place + 1 :]
    spoilt = (
        name.lower(),
        name.upper(),
        name + name[place],
        name[:place] + name[place + 1 :] or name,
        swapped,
        name + '.',
    )
    choices = [text for text in spoilt if text not in (name, *taken(samples))]
    if not choices:
        return None
    sample.names[j] = str(rng.choice(choices))
    return sample.path, sample.boxes[j].copy()


def wrong_name(sample, samples, images, rng):
    j = next((j for j, name in enumerate(sample.names) if name != 'other'), None)
    if j is None:
        return None
    sample.names[j] = other_name(sample.names[j], rng)
    return sample.path, sample.boxes[j].copy()


def missing(sample, samples, images, rng):
    j = int(rng.integers(len(sample.boxes)))
    box = sample.boxes[j].copy()
    drop(sample, j)
    return sample.path, box


def nobody_there(sample, samples, images, rng):
    import numpy as np

    from konohana.boxes import iou

    for _ in range(50):
        w, h = rng.uniform(0.08, 0.25) * sample.width, rng.uniform(0.2, 0.5) * sample.height
        x, y = rng.uniform(0, sample.width - w), rng.uniform(0, sample.height - h)
        box = np.array([x, y, x + w, y + h], np.float32)
        if iou(box[None], sample.boxes).max() < 0.02:
            return sample.path, add(sample, box, sample.names[0])
    return None


def loose(sample, samples, images, rng):
    import numpy as np

    j = int(rng.integers(len(sample.boxes)))
    x1, y1, x2, y2 = sample.boxes[j].tolist()
    w, h = x2 - x1, y2 - y1
    if min(w, h) < 30:
        return None
    if rng.random() < 0.5:  # a part of the figure
        box = (x1, y1, x1 + 0.6 * w, y1 + 0.55 * h)
    else:  # beside it
        box = (x1 + 0.4 * w, y1 + 0.25 * h, x2 + 0.4 * w, y2 + 0.25 * h)
    limits = [sample.width, sample.height] * 2
    sample.boxes[j] = np.clip(box, 0, limits)
    return sample.path, sample.boxes[j].copy()


def leak(sample, samples, images, rng):
    return again(sample, samples['val'], images, rng, 'leak')


def repeated(sample, samples, images, rng):
    return again(sample, samples['train'], images, rng, 'again')


FAULTS = {
    one.__name__: one
    for one in (
        *(unreadable, off_picture, leak, duplicate, two_names, tiny, typo, repeated),
        *(wrong_name, missing, nobody_there, loose),
    )
}


def again(sample, part, images, rng, word):
    """Add a copy of a picture, smaller, lighter or darker, and saved with more loss, to a split."""
    from dataclasses import replace

    import cv2
    import numpy as np

    image = images[sample.path]
    scale = float(rng.uniform(0.7, 1))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    small = np.clip(small * rng.uniform(0.85, 1.15), 0, 255).astype(np.uint8)
    path = sample.path.with_name(f'{word}_{sample.path.name}')
    images[path] = cv2.imdecode(np.frombuffer(jpeg(small, 60), np.uint8), cv2.IMREAD_COLOR)[..., ::-1].copy()
    height, width = small.shape[:2]
    ratio = np.array([width / sample.width, height / sample.height] * 2, np.float32)
    copy = replace(sample, path=path, height=height, width=width, boxes=sample.boxes * ratio, names=list(sample.names))
    part.append(copy)
    return path, None


def add(sample, box, name):
    """Add a labelled box; returns it."""
    import numpy as np

    sample.boxes = np.concatenate([sample.boxes, np.array(box, np.float32)[None]])
    sample.names.append(name)
    sample.difficult = np.append(sample.difficult, False)
    return sample.boxes[-1].copy()


def drop(sample, j):
    import numpy as np

    sample.boxes = np.delete(sample.boxes, j, axis=0)
    sample.names.pop(j)
    sample.difficult = np.delete(sample.difficult, j)


def near(sample, j, rng, part=0.05):
    """A box that is drawn once more, each side off by up to a part of its size."""
    import numpy as np

    box = sample.boxes[j]
    sides = np.tile(box[2:] - box[:2], 2)
    moved = box + rng.uniform(-part, part, 4) * sides
    return np.clip(moved, 0, [sample.width, sample.height] * 2)


def other_name(name, rng):
    from konohana.cast import ROMANISED

    names = [text.replace(' ', '_') for text in ROMANISED.values()]
    return str(rng.choice([text for text in names if text not in (name, 'other')]))


def taken(samples):
    return {name for part in samples.values() for sample in part for name in sample.names}


def check(root, settings):
    """(samples, findings) of the spoilt dataset, as tools/check_dataset.py makes them."""
    from konohana import load
    from konohana.cast import ROMANISED
    from konohana.checkup.all import check_dataset

    model = None
    if settings.weights:
        model = load(settings.path(settings.weights), 'cpu')
        model.class_names = [ROMANISED.get(name, name).replace(' ', '_') for name in model.class_names]
    result = check_dataset(root, ['train', 'val'], IGNORE, model, progress=settings.progress)
    return result.samples, result.findings


def table(planted, samples, findings):
    """The lines to print."""
    lines = ['kind             planted  found  false alarms']
    places = {stem for _, stem, _ in planted}
    for kind in FAULTS:
        mine = [fault for fault in planted if fault[0] == kind]
        some = [one for one in findings if one.kind == kind]
        hit = sum(any(matches(one, fault, samples) for one in some) for fault in mine)
        false = sum(not stems(one, samples) & places for one in some)
        lines.append(f'{kind:16} {len(mine):7}  {hit:5}  {false:12}')
    return lines


def stems(one, samples):
    """The pictures that a finding is about; of one that no frame belongs to, those that its text names."""
    if one.picture is None:
        return {Path(part).stem for part in one.text.replace(':', ' ').split() if '.' in part}
    return {samples[one.picture].path.stem}


def matches(one, fault, samples):
    """Whether a finding is about a planted fault: the picture, and the box where there is one."""
    from konohana.boxes import iou

    _, stem, box = fault
    if stem not in stems(one, samples):
        return False
    if box is None or not one.boxes:
        return True
    shown = [given for given, _ in one.boxes]
    return any(float(iou(box[None], given[None].astype('float32'))[0, 0]) > 0.4 for given in shown)


if __name__ == '__main__':
    run(main)
