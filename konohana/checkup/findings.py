"""What may be wrong with a dataset: one `Finding` each, with its pictures and what to do."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from unicodedata import normalize

import numpy as np

from konohana.boxes import iou as ious
from konohana.cast import SHARED_NAMES
from konohana.checkup.looks import NEAR, SAME, same_there
from konohana.errors import count as counted

# Kind -> (title, what to do), in the order in which they are shown.
KINDS = {
    'unreadable': (
        'Frames that cannot be used',
        'Correct what the line says. fix=True leaves these frames out.',
    ),
    'off_picture': (
        'Boxes off their picture',
        'Training cuts them at the edge. Draw those again that are wrong. fix=True writes them cut.',
    ),
    'leak': (
        'Nearly the same picture in two splits',
        "Metrics on such pictures are too good. Keep whole scenes in one split (split='episode'); fix=True leaves out "
        'the picture that is in train.',
    ),
    'duplicate': (
        'Two boxes on one object',
        'Delete one of them. fix=True keeps the larger.',
    ),
    'two_names': (
        'Two names on one object',
        'Look who it is, and delete the other box.',
    ),
    'tiny': (
        'Tiny boxes',
        'Usually a slip of the mouse. Delete the box or draw it again. fix=True leaves it out.',
    ),
    'typo': (
        'Names that look alike',
        'If it is one name, write it one way. fix=True renames the rare one.',
    ),
    'wrong_name': (
        'Names that may be wrong',
        'Look who it is. Correct the name if it is wrong; many of these are right, and merely unusual.',
    ),
    'twins': (
        'Pictures that look the same and are labelled differently',
        'Compare the two. Somebody lacks a label or has another name in one of them.',
    ),
    'missing': (
        'Somebody without a label?',
        'Label them, or mark the place with a box named as ignore_class says.',
    ),
    'nobody_there': (
        'A label on nobody?',
        'The weights find nobody there. Delete the box if that is true.',
    ),
    'loose': (
        'Boxes that may not fit',
        'Draw the box close around the object.',
    ),
    'twice': (
        'One name twice in a picture',
        'If the name is one person, one of the two boxes is wrong.',
    ),
    'repeated': (
        'The same picture again',
        'It teaches nothing new. fix=True leaves out the repetition.',
    ),
    'few': (
        'Names with few objects',
        'Label more of them, or merge them into another name.',
    ),
    'nobody': (
        'Pictures without anyone',
        'Right if nobody is there; training needs some of these.',
    ),
}

DUPLICATE = 0.8  # IoU from which two boxes of one name are one object
TWO_NAMES = 0.85  # the same for boxes of two names: people do stand before each other
TINY_PIXELS, TINY_PART = 4, 0.011  # shorter side: in pixels, and as a part of the picture's shorter side
TINY_AREA = 2e-4  # as a part of the picture
LOOKS_LIKE = 0.75  # difflib's ratio from which two names look alike
RARE = 0.05  # part of another name's objects up to which a name is rare beside it
ALWAYS_RARE = 3  # objects, see RARE
ONE_PERSON = 0.98  # part of a name's pictures with one such box, from which it is one person
FEW_TO_LEARN, FEW_TO_JUDGE = 20, 5  # objects of a name, in train and elsewhere
TRAIN = 'train'


@dataclass
class Finding:
    """One thing that may be wrong.

    `picture` is the number of a frame, or None; `boxes` are to be shown in it: (box, whether it is a label). `other` is
    (number, boxes) of a second frame. `weight` sorts findings of a kind, `names` are those concerned. `fix` is what
    fix=True does: ('drop_box', picture, number of the box), ('drop_picture', picture, ...), ('rename', old, new), None.
    """

    kind: str
    text: str
    picture: int | None = None
    boxes: list = field(default_factory=list)
    other: tuple | None = None
    weight: float = 1.0
    names: tuple = ()
    fix: tuple | None = None


def check_boxes(samples):
    """Findings about the boxes of single pictures: duplicates, tiny ones."""
    found = []
    for i, sample in enumerate(samples):
        found += _tiny(i, sample) + _doubles(i, sample)
    return found


def _tiny(i, sample):
    sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
    least = max(TINY_PIXELS, TINY_PART * min(sample.height, sample.width))
    found = []
    for j, (w, h) in enumerate(sides.tolist()):
        if min(w, h) <= least or w * h <= TINY_AREA * sample.height * sample.width:
            text = f'{sample.names[j]} is {w:.0f} x {h:.0f} pixels in a picture of {sample.width} x {sample.height}'
            box = [(sample.boxes[j], True)]
            found.append(Finding('tiny', text, i, box, names=(sample.names[j],), fix=('drop_box', i, j)))
    return found


def _doubles(i, sample):
    overlaps = ious(sample.boxes, sample.boxes)
    sizes = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(axis=1)
    found = []
    for a, b in zip(*np.nonzero(np.triu(overlaps, 1) >= DUPLICATE), strict=True):
        small, iou = (int(a) if sizes[a] < sizes[b] else int(b)), float(overlaps[a, b])
        names, boxes = (sample.names[a], sample.names[b]), [(sample.boxes[a], True), (sample.boxes[b], True)]
        if names[0] == names[1]:
            text = f'two boxes named {names[0]} overlap (IoU {iou:.2f})'
            found.append(Finding('duplicate', text, i, boxes, None, iou, names[:1], ('drop_box', i, small)))
        elif iou >= TWO_NAMES:
            text = f'one place is named {names[0]} and {names[1]} (IoU {iou:.2f})'
            found.append(Finding('two_names', text, i, boxes, None, iou, names))
    return found


def check_names(samples):
    """Names that look like a typing mistake for another: they differ in case, width or a letter, and one is rare."""
    count = Counter(name for sample in samples for name in sample.names)
    first = {}
    for i, sample in enumerate(samples):
        for j, name in enumerate(sample.names):
            first.setdefault(name, (i, j))
    found = []
    for rare, n in sorted(count.items(), key=lambda item: (item[1], item[0])):
        alike = [name for name in count if name != rare and _look_alike(rare, n, name, count[name])]
        if alike:
            name = max(alike, key=lambda other: (_ratio(rare, other), count[other]))
            i, j = first[rare]
            text = f'{rare!r} ({counted(n, "object")}) looks like {name!r} ({count[name]})'
            box = [(samples[i].boxes[j], True)]
            found.append(Finding('typo', text, i, box, names=(rare, name), fix=('rename', rare, name)))
    return found


def _plain(name):
    """A name without what is no difference to a reader: case, full-width letters, spaces and signs."""
    return ''.join(c for c in normalize('NFKC', name).casefold() if c.isalnum())


def _ratio(a, b):
    return SequenceMatcher(None, _plain(a), _plain(b), autojunk=False).ratio()


def _look_alike(rare, n, name, m):
    """Whether `rare` (n objects) may be a slip for `name` (m objects)."""
    if (n, rare) > (m, name):
        return False
    a, b = _plain(rare), _plain(name)
    if a == b and a:
        return True
    # person_1 and person_2 are two on purpose.
    if [c for c in a if not c.isdigit()] == [c for c in b if not c.isdigit()]:
        return False
    return n <= max(ALWAYS_RARE, RARE * m) and n < m and min(len(a), len(b)) >= 3 and _ratio(rare, name) >= LOOKS_LIKE


def check_twice(samples):
    """Names that nearly always stand once in a picture, where they stand twice."""
    pictures = defaultdict(list)
    for i, sample in enumerate(samples):
        for name, n in Counter(sample.names).items():
            pictures[name].append((i, n))
    found = []
    for name, there in pictures.items():
        several = [i for i, n in there if n > 1]
        if name in SHARED_NAMES or len(there) < 10 or len(several) > (1 - ONE_PERSON) * len(there):
            continue
        for i in several:
            boxes = [(b, True) for b, given in zip(samples[i].boxes, samples[i].names, strict=True) if given == name]
            text = f'{name} stands here {len(boxes)} times, but once in {len(there) - len(several)} other pictures'
            found.append(Finding('twice', text, i, boxes, names=(name,)))
    return found


def check_alike(samples, splits, looks, pairs):
    """Findings about pictures that look alike: leaks, repetitions, labels that differ.

    Args:
        splits: the split of each sample. looks: `Looks`. pairs: of `looks.alike` from NEAR on.
    """
    found, best, shared, again = [], {}, defaultdict(list), set()
    for i, j, likeness in pairs:
        if splits[i] != splits[j]:
            # The picture outside train is told of, once, with the one that is most like it.
            i, j = (j, i) if splits[i] == TRAIN else (i, j)
            if likeness > best.get(i, (0,))[0]:
                best[i] = likeness, j
            shared[i] += [j] if splits[j] == TRAIN else []
        elif likeness >= SAME and j not in again and _same_all_over(looks.fine, i, j):
            again.add(j)  # once, however many it is like
            text = f'nearly the same as {samples[i].path.name} (likeness {likeness:.3f})'
            boxes = [(box, True) for box in samples[j].boxes]
            other = i, [(box, True) for box in samples[i].boxes]
            found.append(Finding('repeated', text, j, boxes, other, likeness, fix=('drop_picture', j)))
    for i, (likeness, j) in best.items():
        text = f'{splits[i]}: nearly the same as {samples[j].path.name} in {splits[j]} (likeness {likeness:.2f})'
        drop = ('drop_picture', *shared[i]) if shared[i] else None
        found.append(Finding('leak', text, i, [], (j, []), likeness, fix=drop))
    for i, j, likeness in pairs:
        if likeness >= (NEAR + SAME) / 2:
            found += _twins(samples, looks.fine, i, j) + _twins(samples, looks.fine, j, i)
    return found


def _same_all_over(fine, i, j):
    """Whether no part of two pictures differs: a small figure that moves leaves the likeness high."""
    a, b = (fine[k].astype(float) for k in (i, j))
    a, b = ((x - x.mean()) / max(x.std(), 4) for x in (a, b))
    parts = np.abs(a - b).reshape(8, 8, 8, 8).mean(axis=(1, 3))
    return bool(parts.max() <= 0.3)


def _twins(samples, fine, i, j):
    """Labels of sample i that sample j lacks, or has by another name, though it looks the same there."""
    a, b = samples[i], samples[j]
    sides = np.array([a.width, a.height] * 2, np.float32), np.array([b.width, b.height] * 2, np.float32)
    here, there = a.boxes / sides[0], b.boxes / sides[1]
    overlaps = ious(here, there)
    inside = ious(here, b.ignored / sides[1]) if len(b.ignored) else np.zeros((len(here), 1))
    found = []
    for k, box in enumerate(here):
        best = int(overlaps[k].argmax()) if len(there) else -1
        near = best >= 0 and overlaps[k, best] >= 0.3
        if (near and b.names[best] == a.names[k]) or inside[k].max() > 0.3 or not same_there(fine, i, j, box):
            continue
        if near and i > j:
            continue  # the other way round says the same
        what = f'is {b.names[best]} here and {a.names[k]}' if near else f'has no {a.names[k]}, who is labelled'
        boxes = [(b.boxes[best], True)] if near else [(box * sides[1], False)]
        names = (a.names[k], b.names[best]) if near else (a.names[k],)
        text = f'{what} in {a.path.name}, which looks the same'
        found.append(Finding('twins', text, j, boxes, (i, [(a.boxes[k], True)]), names=names))
    return found


def check_counts(samples, splits):
    """Findings about what is too little: names with few objects, pictures without anyone."""
    found = []
    per_split = {split: Counter() for split in dict.fromkeys(splits)}
    for sample, split in zip(samples, splits, strict=True):
        per_split[split].update(sample.names)
    names = dict.fromkeys(name for count in per_split.values() for name in count)
    for name in names:
        for split, count in per_split.items():
            enough = FEW_TO_LEARN if split == TRAIN or len(per_split) == 1 else FEW_TO_JUDGE
            if count[name] < enough:
                purpose = 'learn' if enough == FEW_TO_LEARN else 'judge by'
                text = f'{split} has {count[name]} of {name}: too few to {purpose} (from {enough} on)'
                found.append(Finding('few', text, weight=-count[name], names=(name,)))
    for i, sample in enumerate(samples):
        if not len(sample.boxes):
            regions = f', {counted(len(sample.ignored), "ignored region")}' if len(sample.ignored) else ''
            found.append(Finding('nobody', f'{splits[i]}: no object{regions}', i))
    return found
