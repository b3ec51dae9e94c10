"""COCO data: layouts, all forms of masks, crowds, every way to be wrong; masks through the augmentations."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes

from konohana import masks
from konohana.cast import CLASS_NAMES
from konohana.data import coco
from konohana.data.augment import ScaleShift, training_transform
from konohana.data.dataset import Frames
from konohana.data.reading import class_names_of, read_frames, unknown_names
from konohana.data.sample import Sample
from konohana.errors import UserError
from konohana.toy import writer

HW = (60, 80)
CATEGORIES = [{'id': 90, 'name': 'toothbrush'}, {'id': 3, 'name': '柚'}, {'id': 17, 'name': 'cat'}]


def dense(seed=0):
    """A random blob, uint8 H x W."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: HW[0], : HW[1]]
    blob = ((y - rng.uniform(20, 40)) / 15) ** 2 + ((x - rng.uniform(30, 50)) / 20) ** 2 < 1
    return (blob & (rng.random(HW) < 0.9)).astype(np.uint8)


def compressed(mask):
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {'size': rle['size'], 'counts': rle['counts'].decode('ascii')}


def uncompressed(mask):
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *([0] if flat[0] else []), *ends, flat.size]).tolist()
    return {'size': list(HW), 'counts': counts}


def row(key=1, image=1, category=3, bbox=(10, 5, 30, 40), segmentation=None, crowd=0, **more):
    return {
        'id': key,
        'image_id': image,
        'category_id': category,
        'bbox': list(bbox) if bbox is not None else None,
        'segmentation': segmentation if segmentation is not None else [[10, 5, 40, 5, 40, 45, 10, 45]],
        'area': 1200,
        'iscrowd': crowd,
        **more,
    }


def write(root, annotations, split='train', images=None, categories=CATEGORIES, folder=None, pictures=True):
    """Write a data set of two pictures, 1 and 2, by hand; returns the JSON file."""
    if images is None:
        images = [{'id': i, 'file_name': f'花 {i}.png', 'height': HW[0], 'width': HW[1]} for i in (1, 2)]
    file = root / 'annotations' / f'instances_{split}.json'
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    file.write_text(json.dumps(content), encoding='utf-8')
    for image in images if pictures else []:
        path = root / (split if folder is None else folder) / image['file_name']
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', HW[::-1], (40, 90, 60)).save(path)
    return file


def read(root, split='train', ignore_class=None):
    (frames,), problems = read_frames(root, [split], ignore_class, progress=False)
    assert all('\n' not in problem for problem in problems)
    return frames, problems


# --------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ('split', 'json_split', 'folder'),
    [
        ('train', 'train', 'train'),
        ('val', 'val', 'val2017'),
        ('train', 'train2017', 'train2017'),
        ('train2017', 'train2017', 'train2017'),
        ('train', 'train', 'images'),
        ('train', 'train', ''),
        ('train', 'train', 'elsewhere'),
    ],
)
def test_layouts(tmp_path, split, json_split, folder):
    root = tmp_path / 'my data 数据'
    images = None
    if folder == 'elsewhere':
        images = [{'id': 1, 'file_name': 'elsewhere/episode 1/a.png', 'height': HW[0], 'width': HW[1]}]
        folder = ''
    write(root, [row()], json_split, images, folder=folder)
    frames, problems = read(root, split)
    assert problems == [] and len(frames) == (1 if images else 2)
    assert frames[0].path.is_file() and (frames[0].height, frames[0].width) == HW
    assert frames[0].boxes.dtype == np.float32 and frames[0].boxes.tolist() == [[10, 5, 40, 45]]
    assert frames[0].names == ['柚'] and frames[0].image_id == 1 and frames[0].difficult.tolist() == [False]


def test_classes_are_in_the_order_of_their_ids(tmp_path):
    write(tmp_path, [row(1, category=90), row(2, category=17, image=2)])
    frames, _ = read(tmp_path)
    assert class_names_of(tmp_path, frames) == ['柚', 'cat', 'toothbrush']
    assert frames[0].categories == {'柚': 3, 'cat': 17, 'toothbrush': 90}
    assert Frames(frames, class_names_of(tmp_path, frames)).target(0)['labels'].tolist() == [3]
    (tmp_path / 'classes.txt').write_text('cat\ntoothbrush\n柚\n', encoding='utf-8')
    assert class_names_of(tmp_path, frames) == ['cat', 'toothbrush', '柚']


def test_ids_of_any_kind_and_one_name_under_two_ids(tmp_path):
    categories = [{'id': 'b', 'name': 'cat'}, {'id': 0, 'name': 'dog'}, {'id': 7, 'name': 'cat'}]
    images = [{'id': 'one', 'file_name': 'a.png', 'height': HW[0], 'width': HW[1]}]
    rows = [row(k, 'one', category) for k, category in enumerate(('b', 0, 7))]
    write(tmp_path, rows, images=images, categories=categories)
    frames, problems = read(tmp_path)
    assert problems == [] and frames[0].names == ['cat', 'dog', 'cat']
    assert frames[0].image_id == 'one' and frames[0].categories == {'dog': 0, 'cat': 7}
    assert class_names_of(tmp_path, frames) == ['dog', 'cat'] and unknown_names(frames, ['dog', 'cat']) == []


def test_all_forms_of_masks_are_read(tmp_path):
    mask = dense()
    box = masks_to_boxes(torch.from_numpy(mask)[None])[0]
    bbox = [*box[:2].tolist(), *(box[2:] - box[:2] + 1).tolist()]
    forms = [
        compressed(mask),
        uncompressed(mask),
        [[10, 5, 40, 5, 40, 45, 10, 45]],
        [[10, 5, 20, 5, 20, 45, 10, 45], [30, 5, 40, 5, 40, 45, 30, 45]],
    ]
    rows = [row(k, bbox=bbox if k < 2 else (10, 5, 30, 40), segmentation=form) for k, form in enumerate(forms)]
    write(tmp_path, rows)
    frames, problems = read(tmp_path)
    assert problems == [] and frames[0].has_masks
    read_masks = masks.decode(frames[0].masks, HW).numpy()
    np.testing.assert_array_equal(read_masks[0], mask)
    np.testing.assert_array_equal(read_masks[1], mask)
    square = np.zeros(HW, bool)
    square[5:45, 10:40] = True
    two = square.copy()
    two[:, 20:30] = False
    assert (read_masks[2].astype(bool) ^ square).mean() < 0.02
    assert (read_masks[3].astype(bool) ^ two).mean() < 0.03
    sample = Frames(frames, ['柚', 'cat', 'toothbrush'], with_masks=True)[0][1]
    assert sample['masks'].dtype == torch.uint8 and sample['masks'].shape == (4, *HW)
    np.testing.assert_array_equal(sample['masks'].numpy(), read_masks)


@pytest.mark.parametrize('more', [[[12.0, 15.0]], [[12, 15, 13, 15]], [[]]])
def test_parts_of_a_mask_that_hold_nothing_are_left_out(tmp_path, more):
    square = [[10, 5, 40, 5, 40, 45, 10, 45]]
    write(tmp_path, [row(1, segmentation=square), row(2, segmentation=[*more, *square]), row(3, segmentation=more)])
    frames, problems = read(tmp_path)
    assert problems == [] and frames[0].masks == [frames[0].masks[0]] * 2 + [None]
    assert frames[0].boxes.tolist() == [[10, 5, 40, 45]] * 3


def test_the_group_that_roboflow_lists_first_is_no_class(tmp_path):
    categories = [
        {'id': 0, 'name': 'my-show', 'supercategory': 'none'},
        {'id': 1, 'name': '柚', 'supercategory': 'my-show'},
        {'id': 2, 'name': 'person', 'supercategory': 'person'},
    ]
    for category, names in ((1, ['柚', 'person']), (0, ['my-show', '柚', 'person'])):
        write(tmp_path, [row(1, category=category)], categories=categories)
        frames, problems = read(tmp_path)
        assert problems == [] and class_names_of(tmp_path, frames) == names


def test_crowds_and_the_ignored_class_are_regions(tmp_path):
    crowd = uncompressed(dense())
    rows = [row(1), row(2, category=17, crowd=1, segmentation=crowd), row(3, category=90, bbox=(1, 1, 9, 9))]
    write(tmp_path, rows)
    frames, problems = read(tmp_path, ignore_class='toothbrush')
    assert problems == [] and frames[0].names == ['柚'] and len(frames[0].masks) == 1
    assert frames[0].ignored.tolist() == [[10, 5, 40, 45], [1, 1, 10, 10]]
    assert frames[0].ignored_names == ['cat', None]
    np.testing.assert_array_equal(masks.decode(frames[0].ignored_masks, HW)[0].numpy(), dense())
    assert class_names_of(tmp_path, frames) == ['柚', 'cat']
    target = Frames(frames, ['柚', 'cat'], with_masks=True)[0][1]
    assert target['ignored'].tolist() == frames[0].ignored.tolist() and len(target['masks']) == 1


def test_what_tools_leave_out(tmp_path):
    rows = [
        row(1, bbox=None),  # the box is that of the mask
        row(2, segmentation=[]),  # a box alone
        row(3, image=2, bbox=(-1, -1, 82, 62)),  # a pixel outside, as in VOC
        row(4, image=2, bbox=(1, 1, 0.5, 0.5), segmentation=[[1.6, 1.6, 1.8, 1.6, 1.8, 1.8]]),  # COCO has such specks
    ]
    del rows[1]['segmentation'], rows[2]['iscrowd'], rows[2]['area']
    images = [{'id': 1, 'file_name': '花 1.png'}, {'id': 2, 'file_name': '花 2.png', 'height': 60}]
    write(tmp_path, rows, images=images)
    frames, problems = read(tmp_path)
    assert problems == []
    assert frames[0].boxes.tolist() == [[10, 5, 40, 45]] * 2
    assert frames[0].masks[1] is None and not frames[0].has_masks
    assert frames[1].boxes[0].tolist() == [0, 0, 80, 60]
    # A speck without a pixel is no object for a detector that learns masks.
    plain = training_transform(HW, flip=0, scale=None, shift=False, colour=0)
    _, target = plain.draw(Frames(frames[1:], ['柚'], with_masks=True).target(0))
    assert len(target['boxes']) == len(target['masks']) == len(target['labels']) == 1


def test_a_byte_order_mark_and_a_split_without_objects(tmp_path):
    file = write(tmp_path, [])
    file.write_bytes(b'\xef\xbb\xbf' + file.read_bytes())
    frames, problems = read(tmp_path)
    assert problems == [] and len(frames) == 2
    sample = Frames(frames, ['柚'], training_transform((40, 50)), True, with_masks=True)[0][1]
    assert sample['masks'].shape == (0, 40, 50) and sample['boxes'].shape == (0, 4)


# -------------------------------------------------------------------------------------------------------- what is wrong

SHORT = compressed(dense())
SHORT = {**SHORT, 'counts': SHORT['counts'][:-6]}


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'category_id': 4}, ('category_id 4', '3, 17, 90')),
        ({'category_id': None}, ('category_id null',)),
        ({'category_id': [3]}, ('category_id [3]',)),
        ({'bbox': [10, 5, 150, 40]}, ('outside', '80 x 60')),
        ({'bbox': [-12, 5, 20, 40]}, ('outside',)),
        ({'bbox': [10, 5, 30]}, ('no bbox of four finite numbers',)),
        ({'bbox': [10, 5, 30, 'x']}, ('no bbox of four finite numbers',)),
        ({'bbox': [10, 5, 30, float('nan')]}, ('no bbox of four finite numbers',)),
        ({'bbox': [10, 5, float('inf'), 4]}, ('no bbox of four finite numbers',)),
        ({'bbox': None, 'segmentation': None}, ('no bbox of four finite numbers',)),
        ({'bbox': [10, 5, 0, 40]}, ('empty',)),
        ({'bbox': [40, 45, -30, -40]}, ('inverted',)),
        ({'bbox': None, 'segmentation': [[1, 2, 3, 4]]}, ('no bbox of four finite numbers',)),
        ({'segmentation': [[1, 2, 3, 4, 5, 6, 7]]}, ('malformed', 'three points')),
        ({'segmentation': [1, 2, 3, 4, 5, 6]}, ('malformed', 'three points')),
        ({'segmentation': [[1, 2, 3, 4, 5, 'x']]}, ('malformed', 'finite numbers')),
        ({'segmentation': [[1, 2, 3, 4, 5, 1e9]]}, ('malformed', 'outside')),
        ({'segmentation': 'circle'}, ('malformed', 'neither')),
        ({'segmentation': {'counts': [1]}}, ('malformed', 'size None')),
        ({'segmentation': {**compressed(dense()), 'size': [80, 60]}}, ('malformed', '[80, 60]', '[60, 80]')),
        ({'segmentation': {'size': [60, 80], 'counts': [4000, 900]}}, ('malformed', '4900', '4800')),
        ({'segmentation': {'size': [60, 80], 'counts': [4810, -10]}}, ('malformed', 'whole numbers')),
        ({'segmentation': {'size': [60, 80], 'counts': None}}, ('malformed', 'whole numbers')),
        ({'segmentation': {'size': [60, 80], 'counts': [4800]}}, ('mask is empty',)),
        ({'segmentation': SHORT}, ('malformed', "RLE's counts")),
        ({'segmentation': {'size': [60, 80], 'counts': ''}}, ('malformed', 'damaged')),
        ({'segmentation': {'size': [60, 80], 'counts': 'P' * 50}}, ('malformed', 'damaged')),
        ({'segmentation': {'size': [60, 80], 'counts': '~~~花'}}, ('malformed', 'damaged')),
        ({'image_id': 9}, ('image id 9', 'does not list')),
        ({'image_id': {}}, ('image id {}', 'does not list')),
        *(({'iscrowd': value}, ('iscrowd', 'not 0 or 1')) for value in ('0', '1', 'no', 2, [0], float('nan'), '')),
        *(({'bbox': [10, 5, 30, value]}, ('no bbox of four finite numbers',)) for value in (1e400, 10**400, True)),
        ({'Iscrowd': 1}, ('Iscrowd', 'spelt iscrowd')),
        ({'bbox': [1, 5, 10**300, 4]}, ('outside',)),
        ({'segmentation': [[1, 2, 3, 4, 5, 10**400]]}, ('malformed', 'finite numbers')),
        ({'segmentation': {'size': [60, 80], 'counts': [10**400]}}, ('malformed', "RLE's counts")),
        ({'category_id': 'x' * 1000}, ('category_id xxxx',)),
        ({'category_id': '\x1b[31m'}, ('category_id \\x1b[31m',)),
        ({'image_id': float('nan')}, ('image id NaN', 'does not list')),
        ({'id': 2}, ('annotation id 2', 'is duplicated', '花 2.png, 花 1.png')),
    ],
)
def test_wrong_object_is_one_line(tmp_path, change, words):
    good = row(2, image=2)
    file = write(tmp_path, [good, {**row(1), **change}])
    frames, problems = read(tmp_path)
    assert len(problems) == 1 and problems[0].startswith(f'{file}: ') and len(problems[0]) < len(str(file)) + 200
    for word in words:
        assert word in problems[0]
    # The picture that it belongs to is left out, as far as it is known.
    expected = {'image_id': ['花 1.png', '花 2.png'], 'id': []}.get(next(iter(change)), ['花 2.png'])
    assert [frame.path.name for frame in frames] == expected


def test_wrong_pictures_are_one_line_each(tmp_path):
    names = ['a.png', 'b.png', 'c.png', 'd.png', 'd.png', 'good.png']
    images = [{'id': i, 'file_name': name, 'height': 60, 'width': 80} for i, name in enumerate(names)]
    images += [{'id': 5, 'file_name': 'e.png'}, {'id': 8}, {'file_name': 'f.png'}, {'id': [1], 'file_name': 'g.png'}]
    images[2]['width'] = 81
    write(tmp_path, [row(1, image=0)], images=images, pictures=False)
    (tmp_path / 'train').mkdir()
    for name in ('b.png', 'c.png', 'd.png', 'good.png', 'e.png'):
        Image.new('RGB', HW[::-1]).save(tmp_path / 'train' / name)
    whole = (tmp_path / 'train' / 'b.png').read_bytes()
    (tmp_path / 'train' / 'b.png').write_bytes(whole[: len(whole) // 2])
    frames, problems = read(tmp_path)
    expected = ['d.png is listed twice', 'image id 5 is duplicated (good.png, e.png)', 'picture 8 lacks']
    expected += ['picture 9 lacks', 'picture 10 lacks']
    expected += ['a.png: there is no such file', 'b.png: damaged', 'c.png: the picture is 80 x 60']
    assert len(problems) == len(expected)
    for problem, words in zip(problems, expected, strict=True):
        assert words in problem
    assert frames == []


@pytest.mark.parametrize(
    'name', ['a' * 300 + '.png', '\ud800.png', 'a\0b.png', '.', '..', 'pipe.png', 'a.heic', '\x1b[31m.png']
)
def test_pictures_that_no_file_can_be(tmp_path, name):
    images = [{'id': 1, 'file_name': name}, {'id': 2, 'file_name': 'good.png'}]
    write(tmp_path, [row(2, image=2)], images=images, pictures=False)
    (tmp_path / 'train').mkdir()
    Image.new('RGB', HW[::-1]).save(tmp_path / 'train' / 'good.png')
    if name == 'pipe.png':
        os.mkfifo(tmp_path / 'train' / name)
    frames, problems = read(tmp_path)
    assert len(problems) == 1 and [frame.image_id for frame in frames] == [2]


def test_what_may_not_be_read_has_one_line(tmp_path, monkeypatch):
    file = write(tmp_path, [row()])
    stat = Path.stat

    def guarded(path, **options):
        if path == file:
            raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, 'stat', guarded)
    with pytest.raises(UserError, match='Permission denied') as error:
        read(tmp_path)
    assert str(file) in str(error.value)
    monkeypatch.undo()
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match='pipe'):
        read(tmp_path)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('[' + '9' * 5000 + ']', 'broken JSON'),
        ('{"images": [{}], "annotations": [], "categories": [{"id": 1, "name": "\\u001b[2J"}]}', 'control characters'),
        ('{"images": [{}], "annotations": [], "categories": [{"id": 1, "name": "\\ud800"}]}', 'control characters'),
        (
            '{"images": [{}], "annotations": [], "categories": [{"id": 1, "name": "' + 'a' * 5000 + '"}]}',
            f'category 1 ({"a" * 40}): its name has 5000 characters',
        ),
        ('{"images": [{}], "annotations": [], "categories": [{"id": NaN, "name": "a"}]}', 'category 1 lacks'),
        ('', 'broken JSON'),
        ('{"images": [', 'broken JSON'),
        ('[' * 100_000, 'broken JSON'),
        ('[]', "no list 'images'"),
        ('{"images": {}, "annotations": [], "categories": []}', "no list 'images'"),
        ('{"images": [{"id": 1}], "categories": []}', "no list 'annotations'"),
        ('{"images": [1], "annotations": [], "categories": []}', "no list 'images'"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', 'the split is empty'),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', 'no class'),
        ('{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1}]}', 'category 1 lacks'),
        (
            '{"images": [{}], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            'category id 1 is duplicated (a, b)',
        ),
    ],
)
def test_file_that_cannot_be_used_at_all(tmp_path, text, words):
    file = tmp_path / 'annotations' / 'instances_train.json'
    file.parent.mkdir()
    file.write_text(text, encoding='utf-8')
    with pytest.raises(UserError) as error:
        read(tmp_path)
    assert '\n' not in str(error.value) and str(error.value).startswith(f'{file}: ') and words in str(error.value)


def test_other_text_than_utf8_and_a_split_that_is_not_there(tmp_path, monkeypatch):
    file = write(tmp_path, [row()])
    monkeypatch.setattr(coco, 'read_split', lambda *_: pytest.fail('pictures were checked first'))
    with pytest.raises(UserError, match=r"instances_val\.json: there is no split 'val'\. Splits there: train\."):
        read_frames(tmp_path, ['train', 'val'], None, progress=False)
    monkeypatch.undo()
    file.write_bytes(file.read_text(encoding='utf-8').encode('utf-16'))
    with pytest.raises(UserError, match='UTF-8'):
        read(tmp_path)


def test_damaged_rles_never_reach_the_c_library():
    rng = np.random.default_rng(0)
    good = compressed(dense())['counts']
    refused = 0
    for _ in range(300):
        letters = list(good)
        for _ in range(rng.integers(1, 4)):
            letters[rng.integers(len(letters))] = chr(rng.integers(40, 120))
        try:
            rle = masks.from_segmentation({'size': list(HW), 'counts': ''.join(letters)}, HW)
            assert 0 <= masks.area([rle])[0] <= HW[0] * HW[1]
            assert masks.decode([rle], HW).shape == (1, *HW)
        except ValueError as error:
            assert 'RLE' in str(error)
            refused += 1
    assert 200 < refused <= 300


# ------------------------------------------------------------------------------------------ encoding, and augmentation


@pytest.mark.parametrize('kind', [bool, np.uint8, np.float32])
def test_encoding_is_pycocotools_own(kind):
    rng = np.random.default_rng(1)
    shapes = [(1, 1), (1, 9), (9, 1), (7, 5), HW]
    for hw in shapes:
        stack = np.stack([(rng.random(hw) < share) for share in (0, 0.02, 0.5, 0.98, 1)])
        expected = coco_mask.encode(np.asfortranarray(stack.transpose(1, 2, 0), np.uint8))
        given = torch.from_numpy(stack.astype(kind))
        assert masks.encode(given * 0.7 if kind is np.float32 else given) == expected
        assert masks.encode(stack.astype(kind)[:, None]) == expected
        # The way of a GPU, whose tensors the same functions serve.
        runs = [
            {'size': list(hw), 'counts': counts.tolist()} for counts in masks._runs_on_device(torch.from_numpy(stack))
        ]
        assert coco_mask.frPyObjects(runs, *hw) == expected
        np.testing.assert_array_equal(masks.decode(expected, hw).numpy(), stack)
        assert masks.area(expected) == stack.sum((1, 2)).tolist()
    assert masks.encode(torch.zeros(0, 5, 5, dtype=torch.bool)) == [] and masks.area([]) == []
    assert masks.decode([], HW).shape == (0, *HW)


@pytest.fixture(scope='module')
def toy_coco(tmp_path_factory):
    """Folder of a toy show of 6 + 2 frames with masks."""
    folder = tmp_path_factory.mktemp('coco') / 'toy 花'
    writer.write_coco(folder, n_train=6, n_val=2, hw=(90, 160), progress=False)
    return folder


def test_toy_show_with_masks(toy_coco):
    (train, val), problems = read_frames(toy_coco, ['train', 'val'], None, progress=False)
    assert problems == [] and (len(train), len(val)) == (6, 2)
    assert class_names_of(toy_coco, train) == list(CLASS_NAMES)
    drawn = writer.draw_frame((0, 0, 2), (90, 160))
    target = Frames(train, CLASS_NAMES, with_masks=True)[2][1]
    np.testing.assert_array_equal(target['masks'].numpy().astype(bool), drawn['masks'])
    np.testing.assert_array_equal(target['boxes'].numpy(), drawn['boxes'])


@pytest.mark.parametrize('with_mosaic', [False, True])
def test_masks_stay_in_step_with_boxes(toy_coco, with_mosaic):
    (frames,), _ = read_frames(toy_coco, ['train'], None, progress=False)
    hw = (72, 112)
    plain = Frames(frames, CLASS_NAMES, training_transform(hw), with_mosaic, 3)
    masked = Frames(frames, CLASS_NAMES, training_transform(hw), with_mosaic, 3, with_masks=True)
    n_objects = n_whole = 0
    for epoch in range(4):
        for index in range(len(frames)):
            image, target = masked[epoch, index]
            boxes, dense = target['boxes'].as_subclass(torch.Tensor), target['masks'].as_subclass(torch.Tensor)
            assert dense.shape == (len(boxes), *hw) and dense.dtype == torch.uint8 and image.shape[-2:] == hw
            assert len(target['labels']) == len(boxes) and dense.flatten(1).bool().any(dim=1).all()
            # A picture and its boxes do not depend on whether masks are wanted, unless a mask has vanished.
            other_image, other = plain[epoch, index]
            assert torch.equal(image, other_image) and len(boxes) <= len(other['boxes'])
            if not len(boxes):
                continue
            tight = masks_to_boxes(dense) + torch.tensor([0, 0, 1, 1])
            # Masks lie in their boxes, and fill them but where the window's edge cuts through.
            assert (tight[:, :2] >= boxes[:, :2] - 1.01).all() and (tight[:, 2:] <= boxes[:, 2:] + 1.01).all()
            n_objects += len(boxes)
            n_whole += int(((tight - boxes).abs().amax(dim=1) < 2).sum())
    assert n_objects > 40 and n_whole / n_objects > 0.6


def test_a_mask_is_cut_and_padded_like_its_picture():
    frame_mask = torch.zeros(1, 40, 80, dtype=torch.uint8)
    frame_mask[0, 10:30, 20:60] = 1
    target = {
        'boxes': tv_tensors.BoundingBoxes([[20, 10, 60, 30]], format='XYXY', canvas_size=(40, 80), dtype=torch.float32),
        'labels': torch.tensor([1]),
        'ignored': tv_tensors.BoundingBoxes(torch.zeros(0, 4), format='XYXY', canvas_size=(40, 80)),
        'masks': tv_tensors.Mask(frame_mask),
    }
    image = tv_tensors.Image(frame_mask.repeat(3, 1, 1) * 200 + 20)
    for hw, scale in (((40, 80), 0.5), ((60, 60), 1.0), ((40, 80), 1.5), ((80, 40), 2.0)):
        for _ in range(5):
            seen, changed = ScaleShift(hw, (scale, scale))(image, target)
            if len(changed['masks']):
                # The object is bright: where the mask is, the picture is.
                bright = seen[0] > 150
                assert (bright ^ changed['masks'][0].bool()).float().mean() < 0.03


def test_masks_are_wanted_but_not_there(tmp_path, toy_dataset):
    (frames,), _ = read_frames(toy_dataset, ['train'], None, progress=False)
    with pytest.raises(UserError, match=r'this detector learns masks.*toy_show_coco') as error:
        Frames(frames, CLASS_NAMES, with_masks=True)
    assert '\n' not in str(error.value) and '.jpg' in str(error.value)
    assert Sample(tmp_path / 'nobody.png').has_masks


def test_masks_are_kept_encoded(shared_data):
    (train, val), problems = read_frames(shared_data('pennfudan_coco'), ['train', 'val'], None, progress=False)
    assert problems == [] and (len(train), len(val)) == (102, 34)
    assert (sum(len(f.boxes) for f in train), sum(len(f.boxes) for f in val)) == (251, 86)
    assert class_names_of(shared_data('pennfudan_coco'), train) == ['person'] and all(f.has_masks for f in train + val)
    assert sum(len(mask['counts']) for f in train for mask in f.masks) < 300_000
    for frame in val:
        dense = masks.decode(frame.masks, (frame.height, frame.width))
        assert (masks_to_boxes(dense) + torch.tensor([0, 0, 1, 1]) - torch.from_numpy(frame.boxes)).abs().max() <= 1


def test_pictures_and_xml_side_by_side(shared_data):
    root = shared_data('raccoon_voc')
    (train, test), problems = read_frames(root, ['train', 'test'], None, progress=False)
    assert problems == [] and (len(train), len(test)) == (160, 40)
    assert class_names_of(root, train) == ['raccoon'] and sum(len(frame.boxes) for frame in train + test) >= 200
    (val,), _ = read_frames(root, ['val'], None, progress=False)  # the split that _train.py asks for
    assert [frame.path for frame in val] == [frame.path for frame in test]
