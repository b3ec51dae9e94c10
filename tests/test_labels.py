"""Labels in all forms: read as the tools write them, written and read again, converted, and every way to be wrong."""

import numpy as np
import pytest
from PIL import Image

from konohana import masks
from konohana.cast import IGNORE_CLASS
from konohana.data import reading, shapes
from konohana.data.sample import Sample
from konohana.errors import UserError

HW = (60, 80)
NAMES = ['柚', 'cat & <dog>', 'no']


def picture(path, hw=HW):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', hw[::-1], (40, 90, 60)).save(path)
    return path


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')
    return path


def frames_of(root, split='train'):
    (frames,), problems = reading.read_frames(root, [split], IGNORE_CLASS, progress=False)
    assert problems == []
    return frames


def objects(frame):
    """(name, rounded box) of all objects."""
    return [(name, tuple(box)) for name, box in zip(frame.names, frame.boxes.round().astype(int).tolist(), strict=True)]


def one_line(root, *words, split='train'):
    """Reading gives exactly one problem, or one error, which has all of `words`."""
    try:
        _, problems = reading.read_frames(root, [split], IGNORE_CLASS, progress=False)
    except UserError as error:
        problems = [str(error)]
    assert len(problems) == 1, problems
    assert '\n' not in problems[0]
    for word in words:
        assert str(word) in problems[0]


# ---------------------------------------------------------------------------------------------------------- round trips
def holes_and_parts():
    mask = np.zeros((1, *HW), np.uint8)
    mask[0, 5:30, 10:40] = 1
    mask[0, 10:20, 15:25] = 0
    mask[0, 40:55, 50:60] = 1
    mask[0, 54, 79] = 1
    return masks.encode(mask)[0]


def a_dataset(folder, with_masks):
    """{split: samples} of everything that a sample can hold."""
    mask = holes_and_parts() if with_masks else None
    corners = masks.bounding_box(mask) if mask else (10, 5, 80, 55)
    full = Sample(
        picture(folder / '花 1.png'), *HW,
        boxes=np.array([corners, (3.25, 4.5, 20.75, 30), (0, 0, 80, 60)], np.float32), names=list(NAMES),
        difficult=np.array([False, True, False]), ignored=np.array([(0, 0, 9, 9), (30, 30, 79, 59)], np.float32),
        masks=[mask, None, mask], ignored_names=[None, '柚'], ignored_masks=[None, mask],
    )  # fmt: skip
    empty = Sample(picture(folder / 'sub' / '花 1.png'), *HW)
    alone = Sample(
        picture(folder / 'b.jpg'), *HW, boxes=np.array([(1, 2, 3, 4)], np.float32), names=['no'],
        difficult=np.array([False]),
    )  # fmt: skip
    return {'train': [full, empty], 'val': [alone]}


def written(form, samples, folder):
    """Write samples in a form, with pictures of other names; returns the samples as they were written."""
    module, moved = reading.FORMS[form], {}
    for split, frames in samples.items():
        moved[split] = []
        for number, frame in enumerate(frames):
            path = picture(module.picture_folder(folder, split) / f'{split} 花 {number}.png')
            moved[split].append(Sample(**{**vars(frame), 'path': path}))
    for path, text in module.write(folder, moved, NAMES, IGNORE_CLASS).items():
        put(path, text)
    return moved


@pytest.mark.parametrize('form', reading.FORMS)
def test_a_round_trip_keeps_what_the_form_can_hold(tmp_path, form):
    holds = reading.FORMS[form].HOLDS
    moved = written(form, a_dataset(tmp_path / 'in', 'masks' in holds), tmp_path / 'out')
    assert reading.form_of(tmp_path / 'out') == form
    assert {'train', 'val'} <= set(reading.splits_of(tmp_path / 'out'))
    for split, frames in moved.items():
        found = frames_of(tmp_path / 'out', split)
        assert [frame.path for frame in found] == [frame.path for frame in frames]
        for before, after in zip(frames, found, strict=True):
            compare(before, after, holds)
        assert all(path.is_file() for path in reading.label_files(tmp_path / 'out', split))
    found = frames_of(tmp_path / 'out') + frames_of(tmp_path / 'out', 'val')
    classes = reading.class_names_of(tmp_path / 'out', found, IGNORE_CLASS)
    assert classes == NAMES if form in ('coco', 'voc', 'yolo', 'cvat') else set(classes) == set(NAMES)
    lines = shapes.lost([frame for part in moved.values() for frame in part], form, holds, IGNORE_CLASS)
    assert all('crowds' in holds or 'ignored for one class' in ' '.join(lines) for _ in holds)


def compare(before, after, holds):
    """All objects and regions of two samples are alike, as far as a form holds them."""
    old, new = (sorted(shapes.shapes_of(frame, IGNORE_CLASS), key=key) for frame in (before, after))
    if 'crowds' not in holds:
        for shape in old:
            shape.name, shape.crowd = (IGNORE_CLASS if shape.crowd else shape.name), False
        old.sort(key=key)
    assert [shape.name for shape in old] == [shape.name for shape in new]
    for one, other in zip(old, new, strict=True):
        own = 'own boxes' in holds or one.mask is None
        assert np.allclose(one.box if own else masks.bounding_box(one.mask), other.box, atol=0.5)
        assert one.crowd == other.crowd
        assert one.difficult == other.difficult or 'difficult' not in holds
        assert one.mask == other.mask or 'masks' not in holds or ('boxes' not in holds and one.mask is None)


def key(shape):
    return shape.name, shape.crowd, [round(value) for value in shape.box]


def test_a_mask_as_one_polygon_is_the_same_mask():
    rng = np.random.default_rng(0)
    for hw in ((1, 1), (7, 9), (20, 11)):
        for share in (0.2, 0.5, 0.9):
            mask = masks.encode((rng.random((1, *hw)) < share).astype(np.uint8))[0]
            points = [float(value) for value in masks.to_polygon(mask)]
            assert not points if masks.area([mask]) == [0] else masks.from_segmentation([points], hw) == mask


# ----------------------------------------------------------------------------------------------------------------- YOLO
def yolo(root, text, names="names: ['柚', cat, no]"):
    """A dataset as ultralytics lays it out, with one picture; returns its label file."""
    picture(root / 'images/train/1.jpg')
    put(root / 'data.yaml', f'train: images/train\nval: images/train\n{names}\n')
    return put(root / 'labels/train/1.txt', text)


def test_yolo_boxes_and_polygons(tmp_path):
    yolo(tmp_path, '0 0.5 0.5 0.25 0.5\n\n2.0 0.125 0.1 0.5 0.1 0.5 0.5 0.125 0.5\n')
    (frame,) = frames_of(tmp_path)
    assert objects(frame) == [('柚', (30, 15, 50, 45)), ('no', (10, 6, 40, 30))]
    assert frame.masks[0] is None
    assert masks.area(frame.masks[1:]) == [30 * 24]
    assert reading.class_names_of(tmp_path, [frame]) == ['柚', 'cat', 'no']


@pytest.mark.parametrize(
    ('pictures', 'labels', 'more', 'split'),
    [
        (
            'train/images',
            'train/labels',
            {'data.yaml': 'train: ../train/images\nnames: {0: a}\npath: /not/here'},
            'train',
        ),
        ('valid/images', 'valid/labels', {'classes.txt': 'a\n'}, 'val'),
        ('images', 'labels', {'classes.txt': 'a\n'}, 'all'),
        ('images/train/deep', 'labels/train/deep', {'labels/classes.txt': 'a\n'}, 'train'),
        ('pictures', 'pictures', {'my.yml': 'train: [pictures]\nnames: [a]'}, 'train'),
        ('images', 'labels', {'train.txt': 'images/1.jpg\n', 'classes.txt': 'a'}, 'train'),
        ('obj', 'obj', {'data.yaml': 'train: train.txt\nnames: [a]', 'train.txt': 'data/obj/1.jpg'}, 'train'),
    ],
)
def test_yolo_layouts(tmp_path, pictures, labels, more, split):
    picture(tmp_path / pictures / '1.jpg')
    picture(tmp_path / pictures / '2.jpg')
    put(tmp_path / labels / '1.txt', '0 0.5 0.5 0.5 0.5\n')
    for name, text in more.items():
        put(tmp_path / name, text)
    frames = frames_of(tmp_path, split)
    assert objects(frames[0]) == [('a', (20, 15, 60, 45))]
    # A picture without a label file holds nobody.
    assert all(frame.names == [] for frame in frames[1:])


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('0 0.5 0.5 0.5\n', ('line 1', '4 numbers')),
        ('0 0.5 0.5 0.5 0.5 0.9\n', ('line 1', '6 numbers')),
        ('0 0.5 0.5 0.2 0.2\n\n3 0.5 0.5 0.2 0.2', ('line 3', 'class 3 is none of 0 to 2')),
        ('0.5 0.5 0.5 0.2 0.2', ('line 1', 'class 0.5')),
        ('-1 0.5 0.5 0.2 0.2', ('line 1', 'class -1')),
        ('0 0.5 0.5 nan 0.2', ('line 1', 'plain numbers')),
        ('柚 0.5 0.5 0.1 0.2', ('line 1', 'plain numbers')),
        ('0 0.5 0.5 0 0.2', ('line 1', 'empty')),
        ('0 0.5 0.5 -0.1 0.2', ('line 1', 'inverted')),
        ('0 300 200 100 100', ('line 1', 'outside the picture of 80 x 60')),
        ('0 0.1 0.1 0.9 0.9 5 5', ('line 1', 'outside')),
        ('0 0.1 0.1 0.1 0.1 0.1 0.1', ('line 1', 'empty')),
        ('1e999 0.1 0.1 0.1 0.1', ('line 1', 'plain numbers')),
    ],
)
def test_yolo_wrong_line(tmp_path, text, words):
    one_line(tmp_path, yolo(tmp_path, text), *words)


@pytest.mark.parametrize(
    ('names', 'words'),
    [
        ('names: []', ('data.yaml', 'no class')),
        ('names: {0: a, 2: b}', ('data.yaml', 'numbers of the classes')),
        ('names: [a, [b]]', ('data.yaml', 'class 1')),
        ('names: ["a\\x1b[31m"]', ('data.yaml', 'control characters')),
        ('names: [a', ('data.yaml', 'broken YAML')),
        ('names: ' + '[' * 1500, ('data.yaml', 'broken YAML')),
        ('names: [a]\ntest: nowhere', None),
        ('names: [a]\ntrain: nowhere', ('data.yaml', 'nowhere', 'no such folder')),
        ('names: !!python/object/apply:os.getcwd []', ('data.yaml', 'no class')),
    ],
)
def test_yolo_wrong_yaml(tmp_path, names, words):
    yolo(tmp_path, '', names)
    if words is None:
        one_line(tmp_path, 'nowhere', split='test')
    else:
        one_line(tmp_path, *words)


def test_yolo_wrong_files(tmp_path):
    label = yolo(tmp_path, '')
    one_line(tmp_path, "no split 'episode'", 'train, val', split='episode')
    alone = put(label.with_name('2.txt'), '')
    one_line(tmp_path, '2.jpg', 'no such file')
    alone.unlink()
    picture(tmp_path / 'images/train/1.png')
    (_,), problems = reading.read_frames(tmp_path, ['train'], IGNORE_CLASS, progress=False)
    assert len(problems) == 2
    assert all('1.txt' in line and '2 pictures' in line for line in problems)
    (tmp_path / 'images/train/1.png').unlink()
    label.write_bytes(b'\xff\xfe')
    one_line(tmp_path, label, 'UTF-8')
    label.unlink()
    one_line(tmp_path, 'no picture', 'has a label file', label)
    label.mkdir()
    one_line(tmp_path, label)


# ------------------------------------------------------------------------------------------------------------ converter
def test_convert_labels(run_script, tmp_path, toy_dataset):
    out = tmp_path / 'out'
    arguments = [f'labels_in={toy_dataset}', f'labels_out={out}', 'form=yolo']
    done = run_script('tools/convert_labels.py', *arguments)
    assert done.returncode == 0, done.stderr
    assert '12 pictures' in done.stdout
    for split in ('train', 'val'):
        for before, after in zip(frames_of(toy_dataset, split), frames_of(out, split), strict=True):
            compare(before, after, ())
    # Again: what it has written itself is replaced, what a person has changed is not.
    assert run_script('tools/convert_labels.py', *arguments).returncode == 0
    label = next((out / 'labels/val').glob('*.txt'))
    put(label, '0 0.5 0.5 0.1 0.1\n')
    done = run_script('tools/convert_labels.py', *arguments)
    assert done.returncode == 2
    assert label.name in done.stderr
    assert label.read_text(encoding='utf-8') == '0 0.5 0.5 0.1 0.1\n'
    assert run_script('tools/convert_labels.py', *arguments, 'overwrite=True').returncode == 0


def test_convert_labels_says_what_is_lost_and_refuses(run_script, tmp_path):
    written('coco', a_dataset(tmp_path / 'pictures', True), tmp_path / 'in')
    done = run_script(
        'tools/convert_labels.py', f'labels_in={tmp_path / "in"}', f'labels_out={tmp_path / "out"}', 'form=voc'
    )
    assert done.returncode == 0, done.stderr
    assert 'voc cannot hold 3 masks' in done.stdout
    assert 'voc cannot hold 1 regions ignored for one class only' in done.stdout
    for arguments, words in (
        (('form=xml',), 'form=xml'),
        (('form=yolo',), 'another form (voc)'),
        ((f'labels_out={tmp_path / "in" / "new"}', 'form=yolo'), 'in one another'),
        (('form=voc', 'splits=episode'), "no split 'episode'"),
        ((f'labels_in={tmp_path / "none"}', 'form=voc'), 'no such folder'),
    ):
        start = f'labels_in={tmp_path / "in"}', f'labels_out={tmp_path / "out"}'
        failed = run_script('tools/convert_labels.py', *start, *arguments)
        assert failed.returncode == 2
        assert words in failed.stderr
    picture(tmp_path / 'yolo/images/train/old.png')
    failed = run_script(
        'tools/convert_labels.py', f'labels_in={tmp_path / "in"}', f'labels_out={tmp_path / "yolo"}', 'form=yolo'
    )
    assert failed.returncode == 2
    assert 'old.png' in failed.stderr
