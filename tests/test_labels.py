"""Labels in all forms: read as the tools write them, written and read again, converted, and every way to be wrong."""

import base64
import io
import json
import os

import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image

from konohana import masks, writing
from konohana.cast import IGNORE_CLASS
from konohana.data import reading, shapes
from konohana.data.sample import Sample
from konohana.errors import UserError
from konohana.evaluation.coco_metrics import write_sample_results
from konohana.toy import writer as toy_writer

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
    assert classes == NAMES
    lines = shapes.lost([frame for part in moved.values() for frame in part], form, holds, IGNORE_CLASS)
    assert ('crowds' in holds) != any('ignored for one class' in line for line in lines)


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


# ------------------------------------------------------------------------------- folders as the tools' exports lay them
YOLO_LINE = '0 0.5 0.5 0.5 0.5\n'
XML = (
    '<annotation><folder></folder><filename>x</filename><size><width>80</width><height>60</height><depth></depth></size>'
    '<object><name>a</name><occluded>0</occluded><bndbox><xmin>21</xmin><ymin>16</ymin><xmax>60</xmax><ymax>45</ymax>'
    '</bndbox><attributes><attribute><name>rotation</name><value>0.0</value></attribute></attributes></object>'
    '</annotation>'
)


def coco_text(file_name, **more):
    row = {'id': 0, 'image_id': 0, 'category_id': 0, 'segmentation': [], 'bbox': [20, 15, 40, 30], 'ignore': 0}
    image = {'id': 0, 'file_name': file_name, 'width': 80, 'height': 60}
    content = {'images': [image], 'categories': [{'id': 0, 'name': 'a'}], 'annotations': [{**row, **more}]}
    return json.dumps(content)


EXPORTS = {
    'CVAT COCO': (
        'images/default/1.jpg', {'annotations/instances_default.json': coco_text('1.jpg')}, 'default', 'default'
    ),
    'CVAT COCO, subsets': (
        'images/Validation/1.jpg', {'annotations/instances_Validation.json': coco_text('1.jpg')}, 'val', 'Validation'
    ),
    'CVAT YOLO 1.1': (
        'obj_train_data/1.jpg',
        {
            'obj.names': 'a\n', 'obj.data': 'classes = 1\ntrain = data/train.txt\nnames = data/obj.names\n',
            'train.txt': 'data/obj_train_data/1.jpg\n', 'obj_train_data/1.txt': YOLO_LINE,
        },
        'train', 'train',
    ),
    'CVAT Ultralytics YOLO, subsets': (
        'images/Train/1.jpg',
        {
            'data.yaml': 'Train: Train.txt\nnames:\n  0: a\npath: .\n', 'Train.txt': 'data/images/Train/1.jpg\n',
            'labels/Train/1.txt': YOLO_LINE,
        },
        'train', 'Train',
    ),
    'CVAT Pascal VOC': (
        'JPEGImages/1.jpg',
        {'Annotations/1.xml': XML, 'ImageSets/Main/Train.txt': '1\n', 'labelmap.txt': '# label:color:parts:actions\n'},
        'train', 'Train',
    ),
    'Label Studio COCO': ('images/1.jpg', {'result.json': coco_text('images\\1.jpg')}, 'all', 'all'),
    'Label Studio YOLO': (
        'images/1.jpg', {'labels/1.txt': YOLO_LINE, 'classes.txt': 'a\n', 'notes.json': '{"categories": []}'},
        'all', 'all',
    ),
    'Label Studio Pascal VOC': ('images/1.jpg', {'Annotations/1.xml': XML}, 'all', 'all'),
    'X-AnyLabeling COCO': (
        'my frames/1.jpg', {'annotations/instances_default.json': coco_text('1.jpg')}, 'default', 'default'
    ),
    'X-AnyLabeling Pascal VOC': ('my frames/1.jpg', {'Annotations/1.xml': XML}, 'all', 'all'),
    'Pascal VOC in one folder': ('1.jpg', {'1.xml': XML}, 'all', 'all'),
    'X-AnyLabeling YOLO': (
        'my frames/1.jpg',
        {'labels/1.txt': YOLO_LINE, 'labels/0.txt': '', 'classes.txt': '\ufeffa\r\n', 'test_out/x.jpg': ''},
        'all', 'all',
    ),
    'X-AnyLabeling YOLO with pictures': ('1.jpg', {'1.txt': YOLO_LINE, 'classes.txt': 'a\n'}, 'all', 'all'),
    'labelImg YOLO': (
        '第 1.集.jpg',
        {'第 1.集.txt': YOLO_LINE.replace('\n', '\r\n'), 'classes.txt': 'a\n', 'notes.txt': 'x', 'x.json': '{}'},
        'all', 'all',
    ),
    'labelImg YOLO, splits': ('valid/1.JPG', {'valid/1.txt': YOLO_LINE, 'valid/classes.txt': 'a\n'}, 'val', 'valid'),
    'labelImg YOLO, labels in a folder of their own': (
        '1.jpg', {'labels/1.txt': YOLO_LINE, 'labels/classes.txt': 'a\n'}, 'all', 'all'
    ),
    'COCO, annotations/<split>.json': (
        'val/1.jpg', {'annotations/val.json': coco_text('1.jpg'), 'annotations/notes.json': '{}'}, 'val', 'val'
    ),
    'COCO, JSON beside the folder of pictures': ('val/1.jpg', {'instances_val.json': coco_text('1.jpg')}, 'val', 'val'),
    'labelme2coco.py': ('JPEGImages/1.jpg', {'annotations.json': coco_text('JPEGImages/1.jpg')}, 'all', 'all'),
    'FiftyOne COCO': ('data/1.jpg', {'labels.json': coco_text('1.jpg')}, 'all', 'all'),
    'Roboflow YOLO Darknet': (
        'train/1.jpg', {'train/1.txt': YOLO_LINE, 'train/_darknet.labels': 'a'}, 'train', 'train'
    ),
    'Roboflow COCO': ('valid/1.jpg', {'valid/_annotations.coco.json': coco_text('1.jpg')}, 'val', 'valid'),
}  # fmt: skip


@pytest.mark.parametrize('tool', EXPORTS)
def test_exports_are_read_as_they_are(tmp_path, tool):
    place, texts, asked, name = EXPORTS[tool]
    picture(tmp_path / place)
    for path, text in texts.items():
        put(tmp_path / path, text)
    assert reading.splits_of(tmp_path) == reading.chosen_splits(tmp_path) == [name]
    (frame,) = frames_of(tmp_path, asked)
    assert frame.path == tmp_path / place and objects(frame) == [('a', (20, 15, 60, 45))]
    one_line(tmp_path, "no split 'other'", name, split='other')


def test_coco_under_other_names_does_not_hide_another_form(tmp_path):
    put(tmp_path / 'annotations.json', coco_text('1.jpg'))
    labelme(tmp_path, shape())
    assert reading.form_of(tmp_path) == 'labelme' and frames_of(tmp_path)[0].names == ['柚']


def test_a_single_split_of_any_name_is_said_to_be_all(tmp_path):
    labelme(tmp_path, shape(), split='my frames')
    one_line(tmp_path, "no split 'train'", '"train_split=my frames" val_split=')
    labelme(tmp_path / 'b', shape(), split='val')
    with pytest.raises(UserError) as error:
        frames_of(tmp_path / 'b')
    assert 'not divided' not in str(error.value)


def test_yolo_side_by_side_and_what_looks_like_it(tmp_path):
    labels = tmp_path / '1.txt'
    picture(tmp_path / '1.jpg')
    put(labels, 'one girl, long hair\n')  # what people write for other networks
    assert reading.form_of(tmp_path) is None
    one_line(tmp_path, 'no dataset found', split='all')
    put(labels, YOLO_LINE)
    one_line(tmp_path, 'nothing there names the classes', 'classes.txt', split='all')
    put(tmp_path / 'classes.txt', 'a\n\nb\n')
    one_line(tmp_path, 'classes.txt', 'class 1', 'give it a name', split='all')
    put(tmp_path / 'classes.txt', '\n')
    one_line(tmp_path, 'classes.txt', 'empty', split='all')
    put(tmp_path / 'classes.txt', 'a\n')
    picture(tmp_path / '2.webp')
    picture(tmp_path / 'thumbnails' / '1.jpg')
    put(tmp_path / 'requirements.txt', 'numpy\n')
    assert [frame.names for frame in frames_of(tmp_path, 'all')] == [['a'], []]
    put(tmp_path / '3.txt', YOLO_LINE)
    one_line(tmp_path, '3.jpg', 'no such file', split='all')
    one_line(tmp_path, "no split 'train'", 'train_split=all', split='train')
    put(tmp_path / '1.xml', XML)
    assert reading.form_of(tmp_path) == 'voc'
    (tmp_path / '1.xml').unlink()
    labelme(tmp_path, shape()).rename(tmp_path / '1.json')
    assert reading.form_of(tmp_path) == 'labelme'


MACS = b'\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X'


@pytest.mark.parametrize('tool', EXPORTS)
def test_what_macos_puts_beside_files_is_no_picture_and_no_label(tmp_path, tool):
    place, texts, asked, name = EXPORTS[tool]
    picture(tmp_path / place)
    for path in (tmp_path / place, *(put(tmp_path / path, text) for path, text in texts.items())):
        path.with_name(f'._{path.name}').write_bytes(MACS)
    assert reading.chosen_splits(tmp_path) == [name] and len(frames_of(tmp_path, asked)) == 1


def test_yolo_links_and_capitals_and_a_folder_called_images_above(tmp_path):
    root = tmp_path / 'images' / 'show'
    for episode in 'ab':
        picture(tmp_path / 'disk' / episode / 'images' / f'{episode}.jpg')
        put(tmp_path / 'disk' / episode / 'labels' / f'{episode}.txt', YOLO_LINE)
        for kind in ('images', 'labels'):
            (root / kind / 'train').mkdir(parents=True, exist_ok=True)
            (root / kind / 'train' / episode).symlink_to(tmp_path / 'disk' / episode / kind)
    put(root / 'classes.txt', 'a\n')
    assert [frame.names for frame in frames_of(root)] == [['a'], ['a']]
    put(root / 'labels' / 'train' / 'c.TXT', YOLO_LINE)
    one_line(root, 'c.jpg', 'no such file')
    other = tmp_path / 'images' / 'other'
    picture(other / 'pictures' / '1.jpg')
    put(other / 'pictures' / '1.txt', YOLO_LINE)
    put(other / 'data.yaml', 'train: pictures\nnames: [a]\n')
    assert frames_of(other)[0].names == ['a']


@pytest.mark.parametrize(('label', 'text'), [('1.json', None), ('1.xml', XML), ('1.txt', YOLO_LINE)])
def test_a_folder_in_the_data_does_not_hide_them(tmp_path, label, text):
    for folder in (tmp_path, tmp_path / 'old'):
        picture(folder / '1.jpg')
        put(folder / label, text or json.dumps({'shapes': [shape()], 'imagePath': '1.jpg'}))
    put(tmp_path / 'classes.txt', '柚\n')
    assert reading.splits_of(tmp_path) == ['all', 'old'] and reading.chosen_splits(tmp_path) == ['all']
    assert frames_of(tmp_path, 'all')[0].path.parent == tmp_path and len(frames_of(tmp_path, 'old')) == 1


@pytest.mark.parametrize('form', reading.FORMS)
def test_a_copy_has_names_that_utf8_can_hold(tmp_path, form):
    samples = []
    for name in ('中', '日'):
        place = tmp_path / 'in' / f'{os.fsdecode(name.encode("gbk"))}.png'
        try:
            picture(place)
        except OSError:
            pytest.skip('this disk takes no such names')
        row = np.array([(1, 2, 30, 40)], np.float32)
        samples.append(Sample(place, *HW, boxes=row, names=['a'], difficult=np.array([False])))
    writing.write_dataset(tmp_path / 'out', {'train': samples}, form, ['a'], IGNORE_CLASS, False, 'x', False)
    found = frames_of(tmp_path / 'out')
    assert [objects(frame) for frame in found] == [[('a', (1, 2, 30, 40))]] * 2


def test_each_folder_of_labelimg_has_its_own_numbers(tmp_path):
    for split, names in (('train', 'a\nb\n'), ('val', 'b\na\n')):
        picture(tmp_path / split / f'{split}.jpg')
        put(tmp_path / split / f'{split}.txt', YOLO_LINE)
        put(tmp_path / split / 'classes.txt', names)
    frames = [*frames_of(tmp_path), *frames_of(tmp_path, 'val')]
    assert [frame.names for frame in frames] == [['a'], ['b']]
    assert reading.class_names_of(tmp_path, frames) == ['a', 'b']


def test_xml_files_beside_another_form_do_not_hide_it(tmp_path):
    labelme(tmp_path, shape())
    put(tmp_path / 'Annotations' / '1.xml', XML)
    assert reading.form_of(tmp_path) == 'labelme' and reading.splits_of(tmp_path) == ['train']
    put(tmp_path / 'result.json', '{"broken')
    assert len(frames_of(tmp_path)) == 1


def test_pictures_and_xml_files_of_undivided_folders_are_not_passed_over(tmp_path):
    picture(tmp_path / 'images' / 'a.jpg')
    put(tmp_path / 'Annotations' / 'b.xml', XML)
    (_,), problems = reading.read_frames(tmp_path, ['all'], IGNORE_CLASS, progress=False)
    assert len(problems) == 2 and 'a.xml' in problems[0] and 'b.jpg' in problems[1]
    (tmp_path / 'images' / 'a.jpg').unlink()
    one_line(tmp_path, 'b.jpg', 'no such file', split='all')


@pytest.mark.parametrize('asked', ['val', 'test', 'Train'])
def test_lists_of_cvat_are_train_val_and_test_but_no_test_is_val(tmp_path, asked):
    for name in ('Train', 'Test', 'Validation'):
        put(tmp_path / 'ImageSets/Main' / f'{name}.txt', f'{name}\n')
        put(tmp_path / 'Annotations' / f'{name}.xml', XML)
        picture(tmp_path / 'JPEGImages' / f'{name}.jpg')
    (frame,) = frames_of(tmp_path, asked)
    assert frame.path.stem.lower().startswith(asked.lower())
    (tmp_path / 'ImageSets/Main/Validation.txt').unlink()
    one_line(tmp_path, "no split 'val'", 'Splits there: Test, Train', split='val')


def test_lists_of_one_class_are_no_splits_of_an_export(tmp_path):
    for name in ('default', 'a_default'):
        put(tmp_path / 'ImageSets/Main' / f'{name}.txt', '1  1\n')
    assert reading.chosen_splits(tmp_path) == ['default']


def test_x_anylabeling_writes_difficult_objects_of_coco_as_ignored(tmp_path):
    picture(tmp_path / 'images' / '1.jpg')
    put(tmp_path / 'annotations/instances_default.json', coco_text('1.jpg', ignore=1))
    assert frames_of(tmp_path, 'default')[0].difficult.tolist() == [True]


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


def test_yolo_names_a_test_split_that_is_not_there(tmp_path):
    yolo(tmp_path, '0 0.5 0.5 0.25 0.5\n', 'names: [a]\ntest: ../test/images')
    assert reading.splits_of(tmp_path) == ['train', 'val'] and len(frames_of(tmp_path)) == 1


@pytest.mark.parametrize('split', ['all', 'default'])
def test_yolo_of_a_folder_without_splits(tmp_path, split):
    samples = {split: a_dataset(tmp_path / 'old', False)['val']}
    writing.write_dataset(tmp_path / 'new', samples, 'yolo', NAMES, IGNORE_CLASS, False, 'x', False)
    assert reading.splits_of(tmp_path / 'new') == [split]
    assert objects(frames_of(tmp_path / 'new', split)[0]) == [('no', (1, 2, 3, 4))]


def test_results_of_pictures_without_numbers_of_their_own(tmp_path):
    yolo(tmp_path, '')
    none = {'boxes': np.zeros((0, 4)), 'labels': np.zeros(0, int), 'scores': np.zeros(0)}
    write_sample_results(tmp_path / 'found.json', frames_of(tmp_path), [none], ['柚'])
    written = json.loads((tmp_path / 'found.json').read_text(encoding='utf-8'))
    assert written['images'][0]['id'] == 1 and written['categories'] == [{'id': 1, 'name': '柚'}]


def test_yolo_wrong_files(tmp_path):
    label = yolo(tmp_path, '')
    one_line(tmp_path, "no split 'episode'", 'train, val', split='episode')
    alone = put(label.with_name('2.txt'), '')
    one_line(tmp_path, '2.jpg', 'no such file')
    alone.unlink()
    picture(tmp_path / 'images/train/1.png')
    one_line(tmp_path, '1.txt', '2 frames of the split (1.jpg, 1.png)')  # said once
    (tmp_path / 'images/train/1.png').unlink()
    label.write_bytes(b'\xff\xfe')
    one_line(tmp_path, label, 'UTF-8')
    label.unlink()
    one_line(tmp_path, 'no picture', 'has a label file', label)
    label.mkdir()
    one_line(tmp_path, label)


# ----------------------------------------------------------------------------------------------------------------- CVAT
CVAT_HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>7</id><name>a show</name><size>1</size><mode>annotation</mode><overlap>0</overlap>
      <labels>
        <label><name>cat</name><color>#33ddff</color><type>any</type><attributes></attributes></label>
        <label><name>柚</name><color>#fa3253</color><type>any</type><attributes></attributes></label>
        <label><name>不计算</name><color>#000000</color><type>any</type><attributes></attributes></label>
      </labels>
    </task>
    <dumped>2026-11-28 10:00:00.000000+00:00</dumped>
  </meta>
"""


def cvat(root, shapes, split='train', more='', size='width="80" height="60"', name='1.jpg'):
    """A task as CVAT exports it, unpacked, with one picture; returns its XML."""
    picture(root / split / 'images' / '1.jpg')
    image = f'<image id="0" name="{name}" {size}>{shapes}</image>'
    return put(root / split / 'annotations.xml', f'{CVAT_HEAD}{image}{more}</annotations>')


def cvat_box(corners='xtl="10.00" ytl="5.00" xbr="50.50" ybr="45.00"', label='柚', inside='', more=''):
    start = f'<box label="{label}" source="manual" occluded="0" {corners} z_order="0" {more}>'
    return f'{start}{inside}</box>'


def test_cvat_shapes(tmp_path):
    cvat(
        tmp_path,
        cvat_box(inside='<attribute name="difficult">true</attribute>')
        + '<tag label="night" source="manual"></tag>'
        + cvat_box(label='不计算')
        + '<polygon label="cat" source="manual" occluded="1" points="10.00,5.00;40.00,5.00;40.00,25.00" z_order="0"/>'
        + '<mask label="cat" source="semi-auto" occluded="0" rle="1, 3, 2" left="7" top="9" width="3" height="2"/>'
        + '<ellipse label="cat" source="manual" occluded="0" cx="40.00" cy="30.00" rx="20.00" ry="10.00" z_order="0"/>'
        + '<ellipse label="柚" occluded="0" cx="40" cy="30" rx="20" ry="10" rotation="90.00" z_order="0"/>'
        + cvat_box('xtl="30" ytl="20" xbr="50" ybr="40" rotation="90.00"')
        + cvat_box('xtl="0" ytl="0" xbr="9" ybr="9"', more='group_id="3"')
        + '<mask label="柚" occluded="0" rle="0, 4" left="2" top="2" width="2" height="2" group_id="3"/>',
    )
    (frame,) = frames_of(tmp_path)
    assert objects(frame) == [
        ('柚', (10, 5, 50, 45)), ('cat', (10, 5, 40, 25)), ('cat', (7, 9, 10, 11)), ('cat', (20, 20, 60, 40)),
        ('柚', (30, 10, 50, 50)), ('柚', (30, 20, 50, 40)), ('柚', (0, 0, 9, 9)),
    ]  # fmt: skip
    assert frame.difficult.tolist() == [True] + [False] * 6
    assert frame.ignored.round().tolist() == [[10, 5, 50, 45]]
    assert np.argwhere(masks.decode([frame.masks[2]], HW)[0].numpy()).tolist() == [[9, 8], [9, 9], [10, 7]]
    assert masks.area([frame.masks[6]]) == [4]
    assert reading.class_names_of(tmp_path, [frame], IGNORE_CLASS) == ['cat', '柚']


def test_cvat_subsets_of_a_project_and_a_task_without(tmp_path):
    project, task = tmp_path / 'project', tmp_path / 'task'
    images = ''
    for subset in ('train', 'val'):
        picture(project / 'images' / subset / '1.jpg')
        images += f'<image id="0" name="1.jpg" subset="{subset}" task_id="1" width="80" height="60"></image>'
    put(project / 'annotations.xml', f'{CVAT_HEAD}{images}</annotations>')
    assert reading.splits_of(project) == ['train', 'val']
    assert frames_of(project, 'val')[0].path == project / 'images/val/1.jpg'
    picture(task / 'images' / '1.jpg')
    put(task / 'annotations.xml', f'{CVAT_HEAD}<image id="0" name="1.jpg" width="80" height="60"/></annotations>')
    assert len(frames_of(task, 'all')) == 1
    one_line(
        task, "no split 'train'", 'Splits there: all', 'train_split=all val_split= to _train', 'split=all to _test.py'
    )


@pytest.mark.parametrize('ending', ['.PNG', '.jpg'])
def test_cvat_names_frames_of_a_video_without_their_ending(tmp_path, ending):
    picture(tmp_path / 'train' / 'images' / f'frame_000000{ending}')
    cvat(tmp_path, cvat_box(), name='frame_000000')
    (frame,) = frames_of(tmp_path)
    assert frame.path.name == f'frame_000000{ending}' and frame.names == ['柚']


def test_turned_rectangles_are_cut_at_the_edge_of_the_picture(tmp_path):
    cvat(tmp_path / 'a', cvat_box('xtl="0" ytl="20" xbr="40" ybr="40" rotation="45.00"'))
    labelme(tmp_path / 'b', shape([[20, 9], [41, 30], [20, 51], [-1, 30]], 'rotation'), shape([[-42, 30], [41, 51]]))
    value = {'x': 25, 'y': 50, 'width': 25, 'height': 100, 'rotation': 90}
    label_studio(tmp_path / 'c', task(region(value)))
    assert objects(frames_of(tmp_path / 'a')[0]) == [('柚', (0, 9, 41, 51))]
    assert objects(frames_of(tmp_path / 'c')[0]) == [('柚', (0, 30, 20, 50))]
    one_line(tmp_path / 'b', 'shape 2', 'outside')
    for kind in ('rotation', 'oriented_rectangle'):
        labelme(tmp_path / 'b', shape([[20, 9], [41, 30], [20, 51], [-10, 30]], kind))
        assert objects(frames_of(tmp_path / 'b')[0]) == [('柚', (0, 9, 41, 51))]


def test_ellipses_and_circles_are_cut_at_the_edge_of_the_picture(tmp_path):
    cvat(tmp_path / 'a', '<ellipse label="柚" cx="10" cy="30" rx="20" ry="10" rotation="0.00"/>')
    labelme(tmp_path / 'b', shape([[70, 50], [70, 20]], 'circle'))
    value = {'x': 50, 'y': 0, 'radiusX': 25, 'radiusY': 50, 'rotation': 0}
    label_studio(tmp_path / 'c', task(region(value, 'ellipselabels')))
    boxes = (0, 20, 30, 40), (40, 20, 80, 60), (20, 0, 60, 30)
    # Of the first a piece is missing at the left, whose width is half the radius; of the last its upper half.
    areas = np.pi * 200 * 0.8045, None, np.pi * 600 / 2
    for name, box, area in zip('abc', boxes, areas, strict=True):
        (frame,) = frames_of(tmp_path / name)
        assert objects(frame) == [('柚', box)]
        if area:
            assert masks.area(frame.masks) == [pytest.approx(area, rel=0.02)]


def test_what_is_left_of_a_polygon_within_the_picture():
    rng, (height, width) = np.random.default_rng(1), HW
    for n in (3, 3, 4, 5, 9, 30):
        points = (rng.random((n, 2)) * (3 * width, 3 * height)).round()
        whole = masks.from_segmentation([points.ravel().tolist()], (3 * height, 3 * width))
        inside = masks.decode([whole], (3 * height, 3 * width))[0].numpy()[height : 2 * height, width : 2 * width]
        moved = [tuple(point) for point in (points - (width, height)).tolist()]
        found = [value for point in masks.cut_at_edges(moved, HW) for value in point]
        if inside.any():
            (mask,) = masks.decode([masks.from_segmentation([found], HW)], HW).numpy()
            assert (mask != inside).mean() < 0.01
    assert masks.cut_at_edges([(-9, 1), (-1, 1), (-5, 9)], HW) == []
    assert masks.cut_at_edges([(1, 1), (5, 1), (3, 9)], HW) == [(1, 1), (5, 1), (3, 9)]


@pytest.mark.parametrize(
    ('shapes', 'words'),
    [
        ('<polyline label="cat" points="1,1;2,2"/>', ('1.jpg', '<polyline> number 1 (cat)', 'no box')),
        (cvat_box(label=''), ('<box> number 1', 'name')),
        (cvat_box('xtl="5" ytl="5" xbr="4" ybr="9"'), ('(柚)', 'inverted')),
        (cvat_box('xtl="5" ytl="5" xbr="5" ybr="9"'), ('empty',)),
        (cvat_box('xtl="55" ytl="5" xbr="155" ybr="9"'), ('outside the picture of 80 x 60',)),
        (cvat_box('xtl="5" ytl="5" xbr="nan" ybr="9"'), ('xbr', 'no number')),
        (cvat_box('xtl="5" ytl="5" ybr="9"'), ('xbr', 'no number')),
        ('<polygon label="cat" points="1,1;2,2"/>', ('three points',)),
        ('<polygon label="cat" points="1,1;2;3,3"/>', ('its points are',)),
        ('<polygon label="cat"/>', ('its points are',)),
        ('<mask label="cat" rle="1, 4" left="0" top="0" width="2" height="2"/>', ('5 pixels', '2 x 2')),
        ('<mask label="cat" rle="4" left="0" top="0" width="2" height="2"/>', ('mask is empty',)),
        ('<mask label="cat" rle="0, 4" left="80" top="0" width="2" height="2"/>', ('outside',)),
        ('<ellipse label="cat" cx="-30" cy="30" rx="20" ry="10"/>', ('lies outside the picture of 80 x 60',)),
        ('<ellipse label="cat" cx="40" cy="30" rx="0" ry="10"/>', ('empty',)),
        ('<polygon label="cat" points="1,1;165,1;1,50"/>', ('outside the picture of 80 x 60',)),
        ('<mask label="cat" rle="0, -4, x" left="0" top="0" width="2" height="2"/>', ('whole numbers',)),
        ('<mask label="cat" rle="0, 9e17" left="0" top="0" width="1e9" height="9e8"/>', ('rectangle is',)),
    ],
)
def test_cvat_wrong_shape(tmp_path, shapes, words):
    one_line(tmp_path, cvat(tmp_path, shapes), *words)


def test_cvat_wrong_files(tmp_path):
    path = cvat(tmp_path, '', more='<track id="0" label="cat"/>')
    one_line(tmp_path, path, 'CVAT for video')
    cvat(tmp_path, '', size='width="90" height="60"')
    one_line(tmp_path, '1.jpg', '80 x 60', 'says 90 x 60')
    cvat(tmp_path, '', name='2.jpg')
    one_line(tmp_path, '2.jpg', 'no such file')
    cvat(tmp_path, '', name='')
    one_line(tmp_path, path, 'no name')
    put(path, CVAT_HEAD + '</annotations>')
    one_line(tmp_path, path, 'no picture')
    put(path, CVAT_HEAD)
    one_line(tmp_path, path, 'broken XML')
    put(path, '<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>')
    one_line(tmp_path, path, 'entities')
    image = '<image id="0" name="1.jpg" width="80" height="60"/>'
    put(path, f'{CVAT_HEAD}{image}{image}</annotations>')
    one_line(tmp_path, path, '1.jpg is listed twice')


# -------------------------------------------------------------------------------------------------------------- LabelMe
def shape(points=((10, 5), (50, 45)), kind='rectangle', label='柚', **more):
    base = {'label': label, 'points': points, 'group_id': None, 'description': '', 'shape_type': kind, 'flags': {}}
    return {**base, 'mask': None, **more}


def labelme(root, *shapes, split='train', **changes):
    """A picture and its JSON as LabelMe writes it; returns the JSON."""
    picture(root / split / '1.jpg')
    content = {
        'version': '5.5.0', 'flags': {}, 'shapes': shapes, 'imagePath': '1.jpg', 'imageData': None, 'imageHeight': 60,
        'imageWidth': 80, **changes,
    }  # fmt: skip
    return put(root / split / '1.json', json.dumps(content))


def png(rows):
    file = io.BytesIO()
    Image.fromarray(np.array(rows, bool)).save(file, 'PNG')
    return base64.b64encode(file.getvalue()).decode()


def test_labelme_and_x_anylabeling_shapes(tmp_path):
    labelme(
        tmp_path,
        shape([[50.5, 45], [10, 5]], flags={'difficult': True}),
        # X-AnyLabeling
        shape([[10, 5], [50, 5], [50, 45], [10, 45]], difficult=True, attributes={}, kie_linking=[], score=None),
        shape([[40, 10], [60, 30], [40, 50], [20, 30]], 'rotation', direction=0.78),
        shape([[10, 5], [40, 5], [40, 25]], 'polygon', 'cat'),
        shape([[40, 30], [40, 40]], 'circle', 'cat'),
        shape([[6.6, 8.6], [9.4, 10]], 'mask', 'cat', mask=png([[0, 1, 1], [1, 0, 0]])),
        shape([[-1, 58], [1, 60]], 'mask', 'cat', mask=png(np.ones((3, 3)))),
        shape([[0, 0], [5, 0], [5, 5], [0, 5]], 'polygon', 'parts', group_id=1),
        shape([[20, 20], [25, 20], [25, 25], [20, 25]], None, 'parts', group_id=1),
        shape(label='不计算'),
        shape(label='cat', flags={'is_crowd': True}),
    )
    (frame,) = frames_of(tmp_path)
    assert objects(frame) == [
        ('柚', (10, 5, 50, 45)), ('柚', (10, 5, 50, 45)), ('柚', (20, 10, 60, 50)), ('cat', (10, 5, 40, 25)),
        ('cat', (30, 20, 50, 40)), ('cat', (7, 9, 10, 11)), ('cat', (0, 58, 2, 60)), ('parts', (0, 0, 25, 25)),
    ]  # fmt: skip
    assert frame.difficult.tolist() == [True, True] + [False] * 6
    assert masks.area(frame.masks[5:]) == [3, 4, 50]
    assert frame.ignored_names == [None, 'cat']


def test_labelme_pictures_elsewhere_and_no_splits(tmp_path):
    path = labelme(tmp_path, shape(), split='.', imagePath='..\\pictures\\2.jpg')
    (tmp_path / '1.jpg').unlink()
    picture(tmp_path.parent / 'pictures' / '2.jpg')
    (frame,) = frames_of(tmp_path, 'all')
    assert frame.path.name == '2.jpg'
    assert reading.label_files(tmp_path, 'all') == [path]


@pytest.mark.parametrize('place', ['images', 'images/labels'])
def test_x_anylabeling_with_a_folder_of_labels(tmp_path, place):
    path = labelme(tmp_path, shape(), split='labels')
    path.with_suffix('.jpg').unlink()
    one_line(tmp_path, 'labels/1.jpg', 'no such file', split='labels')
    picture(tmp_path / place / '1.jpg')
    assert frames_of(tmp_path, 'labels')[0].path == tmp_path / place / '1.jpg'


@pytest.mark.parametrize(
    ('wrong', 'words'),
    [
        (shape(kind='point', points=[[1, 1]]), ('shape 1 (柚)', 'a point has no box')),
        (shape([[1, 1], [2, 2]], 'polygon'), ('three points',)),
        (shape([[1, 1]]), ('2 or 4 points',)),
        (shape([[1, 1], [1, 9]]), ('empty',)),
        (shape([[1, 1], [199, 9]]), ('outside the picture of 80 x 60',)),
        (shape([[1, 1], [float('nan'), 9]]), ('list of [x, y]',)),
        (shape([[1, 1], ['9', 9]]), ('list of [x, y]',)),
        (shape([]), ('list of [x, y]',)),
        (shape(None), ('list of [x, y]',)),
        (shape(label=None), ('no text',)),
        (shape(label=' '), ('name',)),
        (shape(label='a\x1b[31m'), ('control characters',)),
        (shape([[1, 1], [2, 2]], 'mask', mask='xxx'), ('mask cannot be read',)),
        (shape([[1, 1], [2, 2]], 'mask'), ('mask cannot be read',)),
        (shape([[77, 1], [83, 1]], 'mask', mask=png([[1] * 7])), ('outside',)),
        (shape([[-30, 9], [-20, 9]], 'circle'), ('lies outside the picture of 80 x 60',)),
        (shape([[1, 1], [2, 2]], 'mask', mask=png([[0, 0], [0, 0]])), ('empty',)),
        ('shape', ('shape 1 (no object)', 'no JSON object')),
    ],
)
def test_labelme_wrong_shape(tmp_path, wrong, words):
    one_line(tmp_path, labelme(tmp_path, wrong), *words)


def test_labelme_wrong_files(tmp_path):
    path = labelme(tmp_path)
    for number in range(3):
        labelme(tmp_path, split='val').rename(tmp_path / 'train' / f'a{number}.json')
        picture(tmp_path / 'train' / f'a{number}.jpg')
    one_line(tmp_path, "no split 'episode'", split='episode')
    labelme(tmp_path, imageWidth=90)
    one_line(tmp_path, '1.jpg', 'the picture is 80 x 60', 'says 90 x 60')
    for text, words in (
        ('{"shapes": ', 'broken JSON'), ('[' * 100_000, 'broken JSON'), ('{}', 'no list "shapes"'), ('[]', 'no list'),
        ('{"shapes": []}', 'imagePath'), ('{"shapes": [], "imagePath": 3}', 'imagePath'),
    ):  # fmt: skip
        put(path, text)
        one_line(tmp_path, path, words)
    path.unlink()
    one_line(tmp_path, path, 'annotation is missing')
    labelme(tmp_path)
    alone = put(tmp_path / 'train' / 'b.json', json.dumps({'shapes': [], 'imagePath': 'b.jpg'}))
    one_line(tmp_path, 'b.jpg', 'no such file')
    alone.unlink()
    (tmp_path / 'train' / 'b.json').mkdir()
    one_line(tmp_path, 'b.json', 'folder')
    (tmp_path / 'train' / 'b.json').rmdir()
    picture(tmp_path / 'train' / '1.png')
    one_line(tmp_path, path, '2 frames of the split (1.jpg, 1.png)')


# --------------------------------------------------------------------------------------------------------- Label Studio
SIZE = {'original_width': 80, 'original_height': 60, 'image_rotation': 0}


def region(value=None, kind='rectanglelabels', labels=('柚',), key='a', **more):
    """A result as Label Studio exports it, of a box of 10, 6, 50, 36."""
    value = {'x': 12.5, 'y': 10, 'width': 50, 'height': 50, 'rotation': 0} if value is None else value
    value = {**value, kind: list(labels)} if labels is not None else value
    return {
        'id': key,
        'type': kind,
        'from_name': 'x',
        'to_name': 'y',
        'origin': 'manual',
        'value': value,
        **SIZE,
        **more,
    }


def task(*results, image='/data/upload/3/0a1b2c3d-%E8%8A%B1_1.jpg', **changes):
    annotation = {'id': 5, 'completed_by': 1, 'result': list(results), 'was_cancelled': False, 'ground_truth': False}
    content = {'id': 12, 'annotations': [annotation], 'file_upload': '0a1b2c3d-花_1.jpg', 'predictions': []}
    return {**content, 'data': {'image': image}, 'meta': {}, **changes}


def label_studio(root, *tasks):
    picture(root / 'train' / '花_1.jpg')
    return put(root / 'train.json', json.dumps(tasks, ensure_ascii=False))


def brush(rows):
    """A mask's RLE, as Label Studio's editor packs it: the bits of rle-pack, here all in runs of one length."""
    values = np.repeat(np.array(rows, np.uint8).ravel() * 255, 4).tolist()
    bits = f'{len(values):032b}{7:05b}' + f'{15:04b}' * 4
    place = 0
    while place < len(values):
        end = place
        while end < len(values) and values[end] == values[place]:
            end += 1
        bits += f'1{2:02b}{end - place - 1:016b}{values[place]:08b}'
        place = end
    bits += '0' * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def bitmask(rows):
    """A mask as Label Studio's editor writes it: black on nothing, as a data URL."""
    pixels, file = np.zeros((*np.shape(rows), 4), np.uint8), io.BytesIO()
    pixels[..., 3] = 255 * np.array(rows)
    Image.fromarray(pixels).save(file, 'PNG')
    return 'data:image/png;base64,' + base64.b64encode(file.getvalue()).decode()


def test_label_studio_regions(tmp_path):
    pixels = np.zeros(HW, bool)
    pixels[9:12, 7:20] = 1
    choice = {'type': 'choices', 'from_name': 'f', 'to_name': 'y', **SIZE}
    points = [[12.5, 10], [50, 10], [50, 50]]
    label_studio(
        tmp_path,
        task(
            region(),
            {'id': 'a', 'value': {'choices': ['difficult']}, **choice},
            {'id': 'z', 'value': {'choices': ['night']}, **choice},
            {'type': 'relation', 'from_id': 'a', 'to_id': 'b', 'direction': 'right'},
            region({'points': points, 'closed': True}, 'polygonlabels', ('cat',), 'b'),
            region({'format': 'rle', 'rle': brush(pixels)}, 'brushlabels', ('cat',), 'c'),
            region({'imageDataURL': bitmask(pixels)}, 'bitmasklabels', ('cat',), 'h'),
            region({'x': 50, 'y': 50, 'radiusX': 25, 'radiusY': 10, 'rotation': 90}, 'ellipselabels', ('cat',), 'd'),
            region({'x': 50, 'y': 50, 'width': 25, 'height': 10, 'rotation': 180}, key='e'),
            # <Rectangle> and <Labels> apart: two results of one region
            region(kind='rectangle', labels=None, key='f'),
            region(kind='labels', labels=('cat',), key='f'),
            region(labels=('不计算',), key='g'),
        ),
    )
    (frame,) = frames_of(tmp_path)
    assert sorted(objects(frame)) == sorted([
        ('柚', (10, 6, 50, 36)), ('cat', (10, 6, 40, 30)), ('cat', (7, 9, 20, 12)), ('cat', (34, 10, 46, 50)),
        ('柚', (20, 24, 40, 30)), ('cat', (10, 6, 50, 36)), ('cat', (7, 9, 20, 12)),
    ])  # fmt: skip
    assert frame.difficult.sum() == 1
    assert (masks.decode(frame.masks[2:4], HW).numpy() == pixels).all()
    assert frame.ignored.round().tolist() == [[10, 6, 50, 36]]


def test_label_studio_repeats_a_region_in_what_is_chosen_for_it(tmp_path):
    label_studio(
        tmp_path,
        task(
            region(kind='choices', labels=('difficult', 'asleep')),
            region(),
            region(kind='taxonomy', labels=(['clothes', 'red'],)),
            region(kind='textarea', labels=None, text=['from behind']),
            # A region that nothing but a choice names.
            region(kind='rectangle', labels=None, key='b'),
            region(kind='choices', labels=('cat',), key='b'),
            region(kind='rectanglelabels', labels=('cat',), key=['c']),
        ),
    )
    (frame,) = frames_of(tmp_path)
    assert frame.names == ['柚', 'cat', 'cat'] and frame.difficult.tolist() == [True, False, False]


@pytest.mark.parametrize(
    'image',
    [
        '花_1.jpg',
        'https://example.com/show/%E8%8A%B1_1.jpg?size=3',
        's3://bucket/show/花_1.jpg',
        '/data/local-files/?d=episodes/train/%E8%8A%B1_1.jpg',
        '/label-studio/data/upload/3/0a1b2c3d-%E8%8A%B1_1.jpg',
        'C:\\show\\花_1.jpg',
    ],
)
def test_label_studio_finds_pictures(tmp_path, image):
    label_studio(tmp_path, task(region(), image=image))
    assert frames_of(tmp_path)[0].path == tmp_path / 'train' / '花_1.jpg'


def test_label_studio_changes_names_of_uploads(tmp_path):
    label_studio(tmp_path, task(region(), image='/data/upload/3/0a1b2c3d-Show_01_1080p_%E8%8A%B1.jpg'))
    (tmp_path / 'train' / '花_1.jpg').unlink()
    one_line(tmp_path, 'Show_01_1080p', 'no such file')
    own = picture(tmp_path / 'images' / 'Show 01 [1080p] 花.jpg')
    assert frames_of(tmp_path)[0].path == own


def with_value(**changes):
    return region({'x': 10, 'y': 10, 'width': 10, 'height': 10, 'rotation': 0, **changes})


@pytest.mark.parametrize(
    ('wrong', 'words'),
    [
        (task(region(labels=())), ('task 12', 'region a', '0 labels')),
        (task(region(labels=('a', 'b'))), ('region a (a, b)', '2 labels')),
        (task(region(labels=('a\x1b[0m',))), ('control characters',)),
        (task(with_value(width=0)), ('empty',)),
        (task(with_value(width=-5)), ('inverted',)),
        (task(with_value(x=99)), ('outside the picture of 80 x 60',)),
        (task(with_value(x='1')), ('not all numbers',)),
        (task(with_value(rotation=None)), ('not all numbers',)),
        (task(region({'x': 1, 'y': 1, 'width': 0.5}, 'keypointlabels')), ('no box',)),
        (task(region({'points': [[1, 1], [2]]}, 'polygonlabels')), ('list of [x, y]',)),
        (task(region({'points': 3}, 'polygonlabels')), ('three points',)),
        (task(region({'rle': [1, 2]}, 'brushlabels')), ('ends too early',)),
        (task(region({'imageDataURL': None}, 'bitmasklabels')), ('mask cannot be read',)),
        (task(region({'imageDataURL': bitmask([[1, 1]])}, 'bitmasklabels')), ('is 2 x 1, the picture 80 x 60',)),
        (task(region({'something': 'new'}, 'newlabels')), ('region a (柚)', 'no box')),
        (task(region({'rle': 'x'}, 'brushlabels')), ('list of bytes',)),
        (task(region({'rle': brush([[1, 1]])}, 'brushlabels')), ('has 8 values',)),
        (task(region({'rle': brush(np.zeros(HW))}, 'brushlabels')), ('mask is empty',)),
        (task(region(image_rotation=90)), ('turned',)),
        (task(region(original_width=90)), ('80 x 60', 'says 90 x 60')),
        (task(annotations=[]), ('task 12', '0 annotations')),
        (task(annotations=[{'result': []}] * 2), ('2 annotations',)),
        (task(annotations=[{'result': [], 'was_cancelled': True}]), ('0 annotations',)),
        (task(annotations=[{'result': [3]}]), ('"result"',)),
        (task(annotations=3), ('"annotations"',)),
        (task(data={'text': 'hello'}), ('names no picture',)),
        (task(image='none.jpg'), ('none.jpg', 'no such file')),
        (task(data=3), ('"data"',)),
        ({'id': 1, 'image': 'a.jpg', 'label': []}, ('JSON-MIN',)),
    ],
)
def test_label_studio_wrong_task(tmp_path, wrong, words):
    label_studio(tmp_path, wrong)
    one_line(tmp_path, *words)


def test_label_studio_wrong_files(tmp_path):
    path = label_studio(tmp_path, task(region()), task(region()))
    one_line(tmp_path, path, '花_1.jpg has two tasks')
    one_line(tmp_path, "no split 'val'", 'Splits there: train', split='val')
    label_studio(tmp_path, task(region()), 3)
    one_line(tmp_path, path, 'task 2', '"data"')
    put(path, '[{')
    one_line(tmp_path, path, 'broken JSON')


@pytest.mark.parametrize('damage', ['', '{}', 'null', '[]'])
@pytest.mark.parametrize(('form', 'file'), [('label_studio', 'train.json'), ('cvat', 'train/annotations.xml')])
def test_a_split_whose_file_is_damaged_is_not_left_out(tmp_path, form, file, damage):
    writing.write_dataset(
        tmp_path / 'new', a_dataset(tmp_path / 'old', False), form, NAMES, IGNORE_CLASS, False, 'x', False
    )
    before = reading.chosen_splits(tmp_path / 'new')
    path = put(tmp_path / 'new' / file, damage)
    assert reading.chosen_splits(tmp_path / 'new') == before
    one_line(tmp_path / 'new', path)


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


def test_convert_labels_draws_the_toy_show_that_it_reads_by_default(run_script, tmp_path, toy_dataset, monkeypatch):
    asked = []
    monkeypatch.setattr(toy_writer, 'draw_default', lambda folder, here, **_: asked.append((folder, here)))
    arguments = f'labels_in={toy_dataset}', f'labels_out={tmp_path / "out"}', 'form=coco'
    assert run_script('tools/convert_labels.py', *arguments).returncode == 0
    assert asked == [(toy_dataset, PROJECT)]


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
        ((f'labels_out={tmp_path / "in" / "new"}', 'form=yolo'), 'inside the other'),
        (('form=voc', 'splits=episode'), "no split 'episode'"),
        (('form=voc', 'splits=,'), "splits=',': it names none"),
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


@pytest.mark.parametrize('form', ['voc', 'yolo', 'labelme'])
def test_pictures_of_nearly_one_name_keep_their_own_labels(form, tmp_path):
    """a.png becomes a_png.png beside a.jpg, and there may be an a_png.bmp already."""
    frames = []
    for number, name in enumerate(('a.png', 'a.jpg', 'a_png.bmp')):
        path = picture(tmp_path / 'old' / name, (40, 60))
        box = np.float32([[4, 4, 20 + 5 * number, 30]])
        frames.append(Sample(path, 40, 60, box, ['Yuzu'], np.zeros(1, bool)))
    writing.write_dataset(tmp_path / 'new', {'train': frames}, form, ['Yuzu'], '-', False, 'labels_out', False)
    right = [round(float(frame.boxes[0, 2])) for frame in frames_of(tmp_path / 'new')]
    assert sorted(right) == [20, 25, 30]
