"""Datasets on disk in their three layouts, every way in which they can be wrong, augmentation, order of samples."""

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from konohana.cast import CLASS_NAMES, IGNORE_CLASS
from konohana.data import reading
from konohana.data.augment import GREY, Mosaic, ScaleShift, training_transform
from konohana.data.dataset import Frames, collate
from konohana.data.images import list_pictures
from konohana.data.reading import class_names_of, read_frames, report, unknown_names
from konohana.data.sampler import EpochBatches
from konohana.data.voc import find_split, read_annotation, read_split
from konohana.errors import UserError

HW = (90, 160)
LAYOUTS = {
    'plain': ('imgs', 'anns', 'sets'),
    'voc': ('JPEGImages', 'Annotations', 'ImageSets/Main'),
    'side by side': None,
}


def xml_of(objects, hw=HW):
    """VOC XML; objects are (name, x1, y1, x2, y2) as they stand in the file, hw None leaves the size out."""
    size = '' if hw is None else f'<size><width>{hw[1]}</width><height>{hw[0]}</height><depth>3</depth></size>'
    items = ''.join(
        f'<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>'
        '</bndbox></object>'
        for name, x1, y1, x2, y2 in objects
    )
    return f'<annotation>{size}{items}</annotation>'


class Maker:
    """Writes datasets by hand: `frame` adds a frame to a split."""

    def __init__(self, root, layout='plain'):
        self.root, self.folders = root, LAYOUTS[layout]

    def paths(self, split, name):
        if self.folders is None:
            return self.root / split / f'{name}.png', self.root / split / f'{name}.xml'
        return self.root / self.folders[0] / f'{name}.png', self.root / self.folders[1] / f'{name}.xml'

    def frame(self, split, name, xml=None, hw=HW):
        """`xml` None is a frame with one 柚; hw is the picture's true size. Returns (picture, XML)."""
        picture, annotation = self.paths(split, name)
        for path in (picture, annotation):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', hw[::-1], (40, 90, 60)).save(picture)
        annotation.write_text(xml_of([('柚', 1, 1, 40, 50)]) if xml is None else xml, encoding='utf-8')
        if self.folders is not None:
            self.list(split, name)
        return picture, annotation

    def list(self, split, name):
        file = self.root / self.folders[2] / f'{split}.txt'
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open('a', encoding='utf-8') as lines:
            lines.write(f'{name}\n')


@pytest.fixture
def maker(tmp_path):
    return Maker(tmp_path / 'my data 数据')


def problems_of(root, split='train', ignore_class=IGNORE_CLASS):
    frames, problems = read_split(root, split, ignore_class, progress=False)
    assert all('\n' not in problem for problem in problems)
    return frames, problems


# ------------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layout(tmp_path, layout):
    maker = Maker(tmp_path / 'data', layout)
    maker.frame('train', '木花 1')
    maker.frame('train', 'frame.2', xml_of([]))
    maker.frame('val', 'v1', xml_of([('莲', 2, 3, 40, 50), ('柚', 1, 1, 160, 90)]))
    (train, none), (val, nothing) = problems_of(tmp_path / 'data'), problems_of(tmp_path / 'data', 'val')
    assert none == nothing == []
    assert {frame.path.stem for frame in train} == {'木花 1', 'frame.2'}
    assert (val[0].height, val[0].width) == HW
    assert val[0].names == ['莲', '柚']
    assert val[0].boxes.dtype == np.float32
    assert val[0].boxes.tolist() == [[1, 2, 40, 50], [0, 0, 160, 90]]


@pytest.mark.parametrize('folder', ['val', 'valid', 'test'])
def test_side_by_side_val_may_have_other_names(tmp_path, folder):
    maker = Maker(tmp_path, 'side by side')
    maker.frame('train', 'a')
    picture, xml = maker.frame(folder, 'b')
    assert find_split(tmp_path, 'val') == [(picture, xml)]


def test_side_by_side_val_comes_before_test(tmp_path):
    maker = Maker(tmp_path, 'side by side')
    for split in ('test', 'valid', 'val'):
        maker.frame(split, split)
    assert find_split(tmp_path, 'val')[0][0].stem == 'val'
    assert find_split(tmp_path, 'test')[0][0].stem == 'test'


def test_lists_with_bom_crlf_blank_and_repeated_lines_and_endings(maker):
    maker.frame('all', '木花')
    maker.frame('all', 'b')
    listed = maker.root / 'sets' / 'train.txt'
    listed.write_bytes('\ufeff木花.png\r\n\r\n  b \r\n木花.png\r\n'.encode())
    assert [picture.name for picture, _ in find_split(maker.root, 'train')] == ['木花.png', 'b.png']
    assert [xml.name for _, xml in find_split(maker.root, 'train')] == ['木花.xml', 'b.xml']
    assert problems_of(maker.root)[1] == []


def test_voc_lists_of_one_class_have_a_second_column(tmp_path):
    maker = Maker(tmp_path, 'voc')
    for name in ('2008_000001', 'my frame 1', 'c', 'd'):
        maker.frame('all', name)
    (tmp_path / 'ImageSets/Main/train.txt').write_text('2008_000001 -1\nmy frame 1\nc  0\nd  1\n', encoding='utf-8')
    assert [picture.stem for picture, _ in find_split(tmp_path, 'train')] == ['2008_000001', 'my frame 1', 'c', 'd']


def test_endings_may_be_in_capitals(maker):
    picture, _ = maker.frame('train', 'a')
    picture.rename(picture.with_suffix('.PNG'))
    assert len(problems_of(maker.root)[0]) == 1


# --------------------------------------------------------------------------------- folders and lists that are not right


def no_list(root):
    (root / 'sets' / 'train.txt').unlink()


def empty_list(root):
    (root / 'sets' / 'train.txt').write_text('\n \n', encoding='utf-8')


def utf16_list(root):
    (root / 'sets' / 'train.txt').write_text('木花', encoding='utf-16')


def no_sets(root):
    no_list(root)
    (root / 'sets').rmdir()


def broken_labels(root):
    no_sets(root)
    (root / 'train.json').write_text('{"broken', encoding='utf-8')
    (root / 'train').mkdir()
    (root / 'train' / 'annotations.xml').write_text('<annotations', encoding='utf-8')


def no_pictures(root):
    (root / 'imgs').rename(root / 'images')


def no_annotations(root):
    (root / 'anns').rename(root / 'labels')


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (no_list, ('train.txt', 'Splits there: val')),
        (empty_list, ('train.txt', 'empty')),
        (utf16_list, ('train.txt', 'UTF-8')),
        (no_sets, ('no dataset found there', 'imgs/', 'JPEGImages/', 'side by side')),
        (broken_labels, ('Broken', 'train.json', 'train/annotations.xml')),
        (no_pictures, ('imgs', 'no such folder')),
        (no_annotations, ('anns', 'no such folder')),
    ],
)
def test_unusable_folder(tmp_path, change, words):
    root = tmp_path / 'data'
    maker = Maker(root)
    maker.frame('train', 'a')
    if change not in (no_sets, broken_labels):
        maker.frame('val', 'b')
    change(root)
    with pytest.raises(UserError) as error:
        read_split(root, 'other' if change is broken_labels else 'train', progress=False)
    assert '\n' not in str(error.value)
    assert all(word in str(error.value) for word in (str(root), *words))


def test_missing_folder_and_a_file_for_a_folder(tmp_path):
    file = tmp_path / 'file.zip'
    file.write_bytes(b'PK')
    for path in (tmp_path / 'nowhere', file):
        with pytest.raises(UserError, match='there is no such folder') as error:
            find_split(path, 'train')
        assert str(path) in str(error.value)


def test_side_by_side_unknown_or_empty_split(tmp_path):
    Maker(tmp_path, 'side by side').frame('train', 'a')
    with pytest.raises(UserError, match=r"no split 'val'\. Splits there: train\."):
        find_split(tmp_path, 'val')
    (tmp_path / 'val').mkdir()
    with pytest.raises(UserError, match='no pictures there'):
        find_split(tmp_path, 'val')


def test_list_pictures(tmp_path):
    for name in ('b.JPG', 'a.png', '花.webp', 'notes.txt', 'c.jfif', 'd.heic'):
        (tmp_path / name).write_bytes(b'')
    assert [path.name for path in list_pictures(tmp_path)] == ['a.png', 'b.JPG', 'c.jfif', 'd.heic', '花.webp']


# ------------------------------------------------------------------------------------------------- files that are wrong

BOMB = (
    '<!DOCTYPE annotation [<!ENTITY a "haha">'
    + ''.join(f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip('abcdefghi', 'bcdefghij', strict=True))
    + ']><annotation><object><name>&j;</name></object></annotation>'
)
THIEF = (
    '<!DOCTYPE annotation [<!ENTITY x SYSTEM "{uri}">]><annotation><object><name>&x;</name>'
    '<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>'
)


NO_NUMBERS = ('nine', 'nan', '1_0', '１', '0x10', '1e400', '9' * 400, '1 0', '\u00a09', '--9', '1,5')


@pytest.mark.parametrize(
    ('xml', 'words'),
    [
        ('', ('broken XML',)),
        ('not XML', ('broken XML',)),
        (xml_of([('柚', 1, 1, 9, 9)])[:-20], ('broken XML',)),
        ('<annotation>\x00</annotation>', ('broken XML',)),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', ('a.xml',)),
        (BOMB, ('entities', 'refused')),
        ('<html><body>404</body></html>', ('not Pascal VOC', '<html>')),
        (xml_of([('', 1, 1, 9, 9)]), ('object 1', 'without a name')),
        ('<annotation><object><bndbox/></object></annotation>', ('object 1', 'without a name')),
        ('<annotation><object><name>柚</name></object></annotation>', ('object 1 (柚)', 'no <bndbox>')),
        (xml_of([('柚', 1, 1, '', 9)]), ('object 1 (柚)', 'four plain numbers')),
        *((xml_of([('柚', 1, 1, 9, text)]), ('object 1 (柚)', 'four plain numbers')) for text in NO_NUMBERS),
        (xml_of([('柚', '-inf', 1, 9, 9)]), ('object 1 (柚)', 'xmin -inf', 'four plain numbers')),
        (xml_of([('莲', 1, 1, 9, 9), ('柚', 30, 1, 9, 9)]), ('object 2 (柚)', 'inverted')),
        (xml_of([('柚', 1, 30, 9, 9)]), ('object 1 (柚)', 'inverted')),
        (xml_of([('柚', 1, 1, 330, 30)]), ('object 1 (柚)', 'outside', '160 x 90')),
        (xml_of([('柚', 1, 61, 30, 130)]), ('object 1 (柚)', 'outside', '160 x 90')),
        (xml_of([('柚', -40, 1, 30, 30)]), ('object 1 (柚)', 'outside', '160 x 90')),
        (xml_of([('柚', 161, 1, 162, 30)]), ('object 1 (柚)', 'outside')),
        (xml_of([('柚', -1, 1, 0, 30)]), ('object 1 (柚)', 'outside')),
        (xml_of([(IGNORE_CLASS, 1, 1, 330, 30)]), ('object 1', 'outside')),
        (xml_of([('柚', 1, 1, 330, 30)], hw=None), ('outside', '160 x 90')),
        (xml_of([(IGNORE_CLASS, 1, 1, 330, 30)], hw=None), ('outside', '160 x 90')),
        (xml_of([('柚', -40, 1, 30, 30)], hw=None), ('outside',)),
        (xml_of([], hw=(90, 161)), ('160 x 90', '161 x 90', 'a.xml')),
        (xml_of([], hw=(-90, 160)), ('160 x 90', '160 x -90')),
        (xml_of([], hw=('tall', 160)), ('size is not made of numbers',)),
        (xml_of([], hw=('inf', 'nan')), ('size is not made of numbers',)),
        (xml_of([], hw=('1_0', '9' * 400)), ('size is not made of numbers',)),
        (xml_of([]).replace('<size>', '<size></size><size>'), ('2 <size>',)),
        *(
            (xml_of([('柚', 1, 1, 9, 9)]).replace('object>', f'{tag}>'), (f'<{tag}>', 'holds a box'))
            for tag in ('Object', 'item', 'OBJECT', 'obj')
        ),
        ('<annotation><bndbox/></annotation>', ('<annotation>', 'holds a box')),
        (xml_of([('柚', 1, 1, 9, 9)]).replace('</bndbox>', '</bndbox><bndbox/>'), ('object 1 (柚)', '2 <bndbox>')),
        (xml_of([('柚', 1, 1, 9, 9)]).replace('</name>', '</name><name>莲</name>'), ('object 1', '2 <name>')),
        (xml_of([('柚', 1, 1, 9, 9)]).replace('<xmin>', '<xmin>2</xmin><xmin>'), ('object 1 (柚)', '2 <xmin>')),
        (xml_of([('柚', 1, 1, 9, 9)]).replace('</name>', '</name><difficult>2</difficult>'), ('difficult', "'2'")),
        (xml_of([('柚', 1, 1, 9, 9)]).replace('</name>', '</name><Difficult>1</Difficult>'), ('<Difficult>', 'spelt')),
        (xml_of([('柚', 1, 1, 9, 9)]).replace('size>', 'Size>'), ('<Size>', 'spelt')),
        (xml_of([('a&#x9b;31m', 1, 1, 9, 9)]), ('object 1', 'control characters')),
        (xml_of([('a\nb', 1, 1, 9, 9)]), ('object 1', 'control characters')),
        (xml_of([('a&#x202e;b', 1, 1, 9, 9)]), ('object 1', 'control characters')),
        (xml_of([('柚' * 5000, 1, 1, 9, 9)]), (f'object 1 ({"柚" * 40})', '5000 characters')),
        (xml_of([('a' * 201, 1, 1, 9, 9)]), (f'object 1 ({"a" * 40})', '201 characters')),
        ('<annotation>' + '<a>' * 50_000 + '<bndbox/>' + '</a>' * 50_000 + '</annotation>', ('<a>', 'holds a box')),
        ('<annotation>' + ' ' * 5_000_000 + '</annotation>', ('larger than 4 MB',)),
    ],
)
def test_wrong_annotation_is_one_line(maker, xml, words):
    picture, annotation = maker.frame('train', 'a', xml)
    maker.frame('train', 'good')
    frames, problems = problems_of(maker.root)
    assert [frame.path.stem for frame in frames] == ['good']
    assert len(problems) == 1
    assert problems[0].startswith((f'{annotation}: ', f'{picture}: '))
    assert all(word in problems[0] for word in words)


def test_other_files_are_not_read_through_entities(maker, tmp_path):
    secret = tmp_path / 'secret.txt'
    secret.write_text('hush', encoding='utf-8')
    for uri in (secret.as_uri(), 'file:///etc/passwd'):
        _, annotation = maker.frame('train', 'a', THIEF.format(uri=uri))
        frame, problems = read_annotation(annotation)
        assert len(problems) == 1 and 'entities' in problems[0]
        assert frame.names == [] and 'hush' not in problems[0] and 'root:' not in problems[0]


def damage(picture, annotation):
    picture.write_bytes(picture.read_bytes()[:-30])


def no_picture(picture, annotation):
    picture.unlink()


def empty_picture(picture, annotation):
    picture.write_bytes(b'')


def text_picture(picture, annotation):
    picture.write_text('I am a picture.', encoding='utf-8')


def folder_picture(picture, annotation):
    picture.unlink()
    picture.mkdir()


def pipe_picture(picture, annotation):
    picture.unlink()
    os.mkfifo(picture)


def pipe_xml(picture, annotation):
    annotation.unlink()
    os.mkfifo(annotation)


def eps_picture(picture, annotation):
    Image.new('RGB', (160, 90)).save(picture, format='EPS')


def no_xml(picture, annotation):
    annotation.unlink()


def folder_xml(picture, annotation):
    annotation.unlink()
    annotation.mkdir()


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (damage, ('a.png', 'damaged')),
        (no_picture, ('a.', 'no such file')),
        (empty_picture, ('a.png', 'not a picture', 'empty')),
        (text_picture, ('a.png', 'not a picture')),
        (folder_picture, ('a.', 'such file')),
        (no_xml, ('a.xml', 'missing')),
        (folder_xml, ('a.xml', 'a folder')),
        (pipe_picture, ('a.', 'pipe')),
        (pipe_xml, ('a.xml', 'pipe')),
        (eps_picture, ('a.png', 'not a picture')),
    ],
)
@pytest.mark.parametrize('layout', ['plain', 'side by side'])
def test_missing_or_damaged_file_is_one_line(tmp_path, change, words, layout):
    if change in (pipe_picture, pipe_xml) and not hasattr(os, 'mkfifo'):
        pytest.skip('pipes are no files on this system')
    if change is pipe_picture and layout == 'plain':
        words = ('a.', 'no such file')
    if change is folder_picture and layout == 'side by side':
        words = ('a.png', 'folder')
    maker = Maker(tmp_path, layout)
    change(*maker.frame('train', 'a'))
    maker.frame('train', 'good')
    frames, problems = problems_of(tmp_path)
    assert [frame.path.stem for frame in frames] == ['good']
    assert len(problems) == 1
    assert all(word in problems[0] for word in words)


@pytest.mark.parametrize('names', [('a', 'a.png'), ('a.png', 'a.bmp')])
def test_two_frames_with_one_annotation_have_a_line(maker, names):
    picture, _ = maker.frame('all', 'a')
    picture.with_suffix('.bmp').write_bytes(picture.read_bytes())
    for name in (*names, 'good'):
        maker.list('train', name)
    maker.frame('all', 'good')
    frames, problems = problems_of(maker.root)
    assert len(problems) == 1 and 'a.xml' in problems[0] and '2 frames' in problems[0] and 'a.png' in problems[0]
    assert [frame.path.stem for frame in frames] == ['good']


@pytest.mark.parametrize('ending', ['.heic', '.tga', '.jfif'])
@pytest.mark.parametrize('layout', ['plain', 'side by side'])
def test_pictures_of_other_kinds_are_not_passed_over(tmp_path, layout, ending):
    maker = Maker(tmp_path, layout)
    picture, _ = maker.frame('train', 'a')
    maker.frame('train', 'good')
    Image.open(picture).save(picture.with_suffix(ending), format='TGA' if ending == '.tga' else 'JPEG')
    if ending == '.heic':
        picture.with_suffix(ending).write_bytes(b'\0\0\0\x18ftypheic')
    picture.unlink()
    frames, problems = problems_of(tmp_path)
    if ending == '.jfif':
        assert problems == [] and len(frames) == 2
    else:
        assert len(problems) == 1 and f'a{ending}: not a picture that can be read' in problems[0]
        assert 'Convert' in problems[0] and len(frames) == 1


def test_names_that_no_file_can_have(maker):
    maker.frame('train', 'good')
    for name in ('a' * 300, 'b' * 300 + '.png', 'c\0d'):
        maker.list('train', name)
    frames, problems = problems_of(maker.root)
    assert len(frames) == 1 and len(problems) == 6


def test_what_may_not_be_read_has_one_line(maker, monkeypatch):
    picture, annotation = maker.frame('train', 'a')
    maker.frame('train', 'good')
    refused = [picture]
    stat, scan = Path.stat, os.listdir

    def guarded(of, then):
        if Path(of) in refused:
            raise PermissionError(errno.EACCES, 'Permission denied', str(of))
        return then(of)

    monkeypatch.setattr(Path, 'stat', lambda path, **_: guarded(path, stat))
    monkeypatch.setattr(os, 'listdir', lambda path: guarded(path, scan))
    for path in (picture, annotation):
        refused[:] = [path]
        frames, problems = problems_of(maker.root)
        assert len(frames) == 1 and len(problems) == 1
        assert str(path.stem) in problems[0]
    for path in (maker.root, maker.root / 'sets', maker.root / 'sets' / 'train.txt', maker.root / 'classes.txt'):
        refused[:] = [path]
        with pytest.raises(UserError, match='Permission denied') as error:
            class_names_of(maker.root, problems_of(maker.root)[0])
        assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_all_problems_are_shown_together(maker, capsys):
    for number, change in enumerate((damage, no_picture, no_xml)):
        change(*maker.frame('train', f'bad{number}'))
    maker.frame('train', 'two', xml_of([('柚', 9, 1, 3, 9), ('柚', 1, 1, 500, 9)]))
    maker.frame('train', 'good')
    maker.frame('val', 'bad_val', 'no XML')
    maker.frame('val', 'good_val')
    (train, val), problems = read_frames(maker.root, ['train', 'val'], None, progress=False)
    assert ([f.path.stem for f in train], [f.path.stem for f in val]) == (['good'], ['good_val'])
    with pytest.raises(UserError, match=r'6 problems in the data.*skip_bad_files=True') as error:
        report(problems, skip=False)
    assert '\n' not in str(error.value)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    with pytest.raises(UserError, match=r'listed above. Fix them.$'):  # no advice to set what a script does not have
        report(problems)
    capsys.readouterr()
    for line, name in zip(lines, ('bad0', 'bad1', 'bad2', 'two.xml', 'two.xml', 'bad_val'), strict=True):
        assert line.startswith('Problem: ') and name in line

    report([*problems, 'a\x1b[31m.png: \nwrong'], skip=True)
    out = capsys.readouterr().out
    assert '7 problems' in out and '\x1b' not in out and len(out.splitlines()) == 8


def test_a_split_that_is_not_there_is_known_before_any_picture_is_checked(maker, monkeypatch):
    maker.frame('train', 'good')
    monkeypatch.setattr(reading.voc, 'read_split', lambda *_: pytest.fail('pictures were checked first'))
    with pytest.raises(UserError, match="there is no split 'val'"):
        read_frames(maker.root, ['train', 'val'], None, progress=False)


# ------------------------------------------------------------------------------------------------------- what is legal


def test_frames_without_objects_and_without_size_are_legal(maker):
    maker.frame('train', 'empty', xml_of([]))
    maker.frame('train', 'unsized', xml_of([('柚', 1, 2, 160, 90)], hw=None))
    maker.frame('train', 'zero', xml_of([('柚', 1, 2, 160, 90)], hw=(0, 0)))
    frames, problems = problems_of(maker.root)
    assert problems == []
    assert [(frame.height, frame.width) for frame in frames] == [HW] * 3
    assert frames[0].boxes.shape == frames[0].ignored.shape == (0, 4)
    assert frames[1].boxes.tolist() == frames[2].boxes.tolist() == [[0, 1, 160, 90]]


def test_one_pixel_outside_is_clipped(maker):
    maker.frame('train', 'a', xml_of([('柚', 0, 0, 161, 91)]))
    frames, problems = problems_of(maker.root)
    assert problems == [] and frames[0].boxes.tolist() == [[0, 0, 160, 90]] and frames[0].cut == []


def test_boxes_that_reach_beyond_the_picture_are_cut_and_counted(maker, capsys):
    objects = [('柚', 1, 1, 9, 9), ('柚', -28, 11, 60, 100), (IGNORE_CLASS, 101, 1, 210, 30)]
    maker.frame('train', 'a', xml_of(objects))
    (frames,), problems = reading.read_frames(maker.root, ['train'], IGNORE_CLASS, progress=False)
    assert problems == [] and frames[0].boxes.tolist() == [[0, 0, 9, 9], [0, 10, 60, 90]]
    assert frames[0].ignored.tolist() == [[100, 0, 160, 30]]
    assert frames[0].cut == [(1, -29, 10, 60, 100), (2, 100, 0, 210, 30)]
    said = capsys.readouterr().out
    assert said.count('\n') == 1 and 'Cut at the edge of the picture: 2 of 3 boxes' in said and 'a.png' in said


def test_a_box_may_be_one_pixel_wide(maker):
    maker.frame('train', 'a', xml_of([('柚', 9, 1, 9, 30), ('柚', 160, 90, 160, 90)]))
    frames, problems = problems_of(maker.root)
    assert problems == [] and frames[0].boxes.tolist() == [[8, 0, 9, 30], [159, 89, 160, 90]]


def test_fractions_difficult_spaces_and_byte_order_mark(maker):
    xml = xml_of([(' 八百比丘尼\n', '1.5', 2, ' 40 ', 50.25), ('Büşra ひな', 1, 1, 9, 9)])
    xml = xml.replace('</name>', '</name><difficult>1</difficult>', 1)
    _, annotation = maker.frame('train', 'a')
    annotation.write_bytes(('\ufeff' + xml.replace('><', '>\r\n<')).encode())
    frames, problems = problems_of(maker.root)
    assert problems == []
    assert frames[0].names == ['八百比丘尼', 'Büşra ひな']
    assert frames[0].boxes[0].tolist() == [0.5, 1, 40, 50.25]
    assert frames[0].difficult.tolist() == [True, False]


@pytest.mark.parametrize('encoding', ['utf-16', 'iso-8859-1'])
def test_xml_says_its_encoding(maker, encoding):
    _, annotation = maker.frame('train', 'a')
    text = f'<?xml version="1.0" encoding="{encoding}"?>' + xml_of([('Zoë', 1, 1, 9, 9)])
    annotation.write_bytes(text.encode(encoding))
    assert problems_of(maker.root)[0][0].names == ['Zoë']


def test_ignored_regions_are_no_objects(maker):
    xml = xml_of([('柚', 1, 1, 9, 9), (IGNORE_CLASS, 11, 21, 160, 90)])
    _, annotation = maker.frame('train', 'a', xml)
    (frame,), problems = problems_of(maker.root)
    assert problems == []
    assert frame.names == ['柚'] and frame.boxes.shape == (1, 4) and frame.difficult.shape == (1,)
    assert frame.ignored.tolist() == [[10, 20, 160, 90]]
    assert class_names_of(maker.root, [frame]) == ['柚']
    # Without that setting it is a class as any other.
    assert read_annotation(annotation)[0].names == ['柚', IGNORE_CLASS]


def test_a_name_of_200_characters_is_read(maker):
    maker.frame('train', 'a', xml_of([('柚' * 200, 1, 1, 9, 9)]))
    (frame,), problems = problems_of(maker.root)
    assert problems == [] and frame.names == ['柚' * 200]


def test_class_names_come_from_the_data_or_from_classes_txt(maker):
    maker.frame('train', 'a', xml_of([('柚', 1, 1, 9, 9), ('Anna', 1, 1, 9, 9), ('柚', 1, 1, 20, 9)]))
    frames, _ = problems_of(maker.root)
    assert class_names_of(maker.root, frames) == ['Anna', '柚']
    listed = maker.root / 'classes.txt'
    listed.write_bytes('\ufeff柚\r\nЖеня\r\n\r\nAnna\r\n'.encode())
    assert class_names_of(maker.root, frames) == ['柚', 'Женя', 'Anna']
    listed.write_text('柚\nAnna\n柚\n', encoding='utf-8')
    with pytest.raises(UserError, match=r'classes\.txt: the name 柚 is duplicated'):
        class_names_of(maker.root, frames)
    for text, words in (
        ('柚\n不计算\n', 'ignored regions'),
        ('\n', 'empty'),
        ('a\x1b[31m', 'control characters'),
        ('a' * 5000, rf'classes\.txt: {"a" * 40}: its name has 5000 characters'),
    ):
        listed.write_text(text, encoding='utf-8')
        with pytest.raises(UserError, match=words) as error:
            class_names_of(maker.root, frames, IGNORE_CLASS)
        assert '\n' not in str(error.value)
    listed.write_text('柚', encoding='utf-16')
    with pytest.raises(UserError, match=r'classes\.txt: not UTF-8'):
        class_names_of(maker.root, frames)


def test_unknown_names_have_a_line_each(maker):
    maker.frame('train', 'a')
    maker.frame('val', 'b', xml_of([('yuzu', 1, 1, 9, 9), ('yuzu', 1, 1, 20, 9), ('柚', 1, 1, 9, 9)]))
    maker.frame('val', 'c', xml_of([('yuzu', 1, 1, 9, 9), ('莲', 1, 1, 9, 9)]))
    frames, _ = problems_of(maker.root, 'val')
    lines = unknown_names(frames, ['柚'])
    assert len(lines) == 2
    assert 'b.png' in lines[0] and "'yuzu' (3 boxes)" in lines[0]
    assert 'c.png' in lines[1] and "'莲' (1 box)" in lines[1]
    assert unknown_names(frames, ['柚', 'yuzu', '莲']) == []


def test_toy_dataset_is_read(toy_dataset):
    (train, val), problems = read_frames(toy_dataset, ['train', 'val'], IGNORE_CLASS, progress=False)
    assert problems == []
    assert (len(train), len(val)) == (8, 4)
    assert unknown_names(train + val, CLASS_NAMES) == []
    assert sum(len(frame.boxes) for frame in train) > 4
    for frame in train + val:
        assert len(frame.boxes) == len(frame.names) == len(frame.difficult)
        assert (frame.boxes[:, 2:] > frame.boxes[:, :2]).all()
        assert (frame.boxes >= 0).all() and (frame.boxes <= [160, 90, 160, 90]).all()


@pytest.mark.parametrize(
    ('name', 'train', 'val', 'counts', 'n_classes'),
    [('raccoon_voc', 'train', 'val', (160, 40), 1), ('konohana_dataset', 'val', 'val', (124, 124), 11)],
)
def test_real_datasets_have_no_problem(shared_data, name, train, val, counts, n_classes):
    # Annotations alone: decoding every picture would take too long.
    found = []
    for split in (train, val):
        pairs = find_split(shared_data(name), split)
        frames = [read_annotation(xml, IGNORE_CLASS) for _, xml in pairs]
        assert [problems for _, problems in frames if problems] == []
        assert all(picture.is_file() for picture, _ in pairs)
        found.append([frame for frame, _ in frames])
    assert tuple(map(len, found)) == counts
    assert len(class_names_of(shared_data(name), found[1])) in (n_classes, n_classes - 1)


# -------------------------------------------------------------------------------------------------------- augmentation

COLOURS = {1: (255, 0, 0), 2: (0, 255, 0), 3: (0, 0, 255)}


def painted(boxes, hw=(100, 150), ignored=()):
    """A black picture with a rectangle in the colour of its label for each (label, x1, y1, x2, y2), and its target."""
    image = torch.zeros((3, *hw), dtype=torch.uint8)
    for label, x1, y1, x2, y2 in boxes:
        image[:, y1:y2, x1:x2] = torch.tensor(COLOURS[label], dtype=torch.uint8)[:, None, None]

    def tensor(rows):
        rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
        return tv_tensors.BoundingBoxes(rows, format='XYXY', canvas_size=hw)

    labels = torch.tensor([row[0] for row in boxes], dtype=torch.int64)
    target = {'boxes': tensor([row[1:] for row in boxes]), 'labels': labels, 'ignored': tensor(list(ignored))}
    return tv_tensors.Image(image), target


def bounds(image, colour):
    """x1, y1, x2, y2 of the pixels that are nearest to a pure colour, or None."""
    wanted = torch.tensor(colour)[:, None, None]
    ys, xs = torch.where(((image.as_subclass(torch.Tensor).int() - wanted).abs() < 100).all(dim=0))
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1] if len(xs) else None


def check_boxes_follow_pixels(image, target, hw, labels=COLOURS):
    """Every box that was kept bounds its colour, every colour that is to be seen has a box or an ignored region."""
    assert image.shape == (3, *hw) and image.dtype == torch.uint8
    assert target['boxes'].canvas_size == target['ignored'].canvas_size == tuple(hw)
    assert len(target['boxes']) == len(target['labels'])
    for box, label in zip(target['boxes'].tolist(), target['labels'].tolist(), strict=True):
        assert box == pytest.approx(bounds(image, COLOURS[label]), abs=1.5)
    for box in torch.cat([target['boxes'], target['ignored']]).tolist():
        assert 0 <= box[0] < box[2] <= hw[1] and 0 <= box[1] < box[3] <= hw[0]
    for label in labels:
        seen = bounds(image, COLOURS[label])
        if seen is not None and label not in target['labels']:
            # Antialiasing may leave a line of the colour's pixels that round to none.
            assert any(
                r[0] - 1.5 <= seen[0] and r[1] - 1.5 <= seen[1] and seen[2] <= r[2] + 1.5 and seen[3] <= r[3] + 1.5
                for r in target['ignored'].tolist()
            )


THREE = [(1, 0, 0, 40, 30), (2, 60, 20, 110, 100), (3, 120, 50, 150, 90)]


@pytest.mark.parametrize('hw', [(100, 150), (64, 96), (90, 60), (133, 210), (33, 32)])
def test_scale_shift(hw):
    torch.manual_seed(0)
    kept = 0
    for _ in range(12):
        image, target = ScaleShift(hw, (0.5, 2.5))(*painted(THREE))
        check_boxes_follow_pixels(image, target, hw)
        kept += len(target['boxes'])
    assert kept > 10


@pytest.mark.parametrize('scale', [(1, 1e7), (0, 1), (2, 1), (float('nan'), 1)])
def test_scales_that_cannot_be(scale):
    with pytest.raises(UserError, match=r'scale=.*at most 10'):
        training_transform((64, 96), scale=scale)


def test_scale_none_fits_the_frame_centred_on_grey():
    image, target = ScaleShift((100, 100), None, shift=False)(
        *painted([(1, 0, 0, 40, 30), (2, 60, 20, 100, 50)], (50, 100))
    )
    check_boxes_follow_pixels(image, target, (100, 100))
    assert (image[:, :25] == GREY).all() and (image[:, 75:] == GREY).all()
    assert not (image[:, 25:75] == GREY).any()


def test_no_scaling_changes_nothing():
    image, target = painted(THREE, ignored=[(10, 10, 50, 50)])
    same, kept = ScaleShift((100, 150), (1.0, 1.0))(image, target)
    assert torch.equal(same, image)
    assert all(torch.equal(kept[key], target[key]) for key in target)


def test_flip():
    transform = training_transform((100, 150), flip=1.0, scale=None, shift=False, colour=0)
    image, target = painted(THREE, ignored=[(0, 0, 40, 30)])
    flipped, moved = transform(image, target)
    assert torch.equal(flipped, image.flip(2))
    check_boxes_follow_pixels(flipped, moved, (100, 150))
    assert moved['boxes'][0].tolist() == moved['ignored'][0].tolist() == [110, 0, 150, 30]
    assert moved['labels'].tolist() == [1, 2, 3]


def test_a_sliver_becomes_an_ignored_region_and_what_is_outside_vanishes():
    class AtLeft(ScaleShift):
        def _offset(self, room):
            return 0

    # The window shows x 0 to 100: half of the first is left, a fifth of the second, nothing of the third.
    boxes = [(1, 80, 0, 120, 50), (2, 92, 60, 132, 90), (3, 110, 0, 150, 50)]
    _, target = AtLeft((100, 100), (1.5, 1.5))(*painted(boxes, ignored=[(50, 0, 150, 10), (120, 0, 150, 10)]))
    assert target['labels'].tolist() == [1]
    assert target['boxes'].tolist() == [[80, 0, 100, 50]]
    assert sorted(target['ignored'].tolist()) == [[50, 0, 100, 10], [92, 60, 100, 90]]


def test_mosaic():
    torch.manual_seed(0)
    kept = 0
    for hw in [(100, 150)] * 6 + [(64, 96), (95, 61)]:
        # One colour a sample, so that each can be found again.
        samples = [painted([(label, 20, 10, hw[1] - 20, hw[0] - 10)], hw) for label in (1, 2, 3)]
        samples.append(painted([], hw, ignored=[(0, 0, hw[1], hw[0])]))
        image, target = Mosaic()(samples, hw)
        assert len(target['ignored']) >= 1
        check_boxes_follow_pixels(image, target, hw)
        kept += len(target['boxes'])
        assert not (image == GREY).all(dim=0).any()  # every part is covered
    assert kept >= 18


@pytest.mark.parametrize('with_mosaic', [False, True])
def test_background_frames_go_through(with_mosaic):
    torch.manual_seed(0)
    transform = training_transform((64, 96), hue=0.1)
    samples = [transform(*painted([])) for _ in range(4)]
    image, target = Mosaic()(samples, (64, 96)) if with_mosaic else samples[0]
    assert image.shape == (3, 64, 96)
    assert target['boxes'].shape == target['ignored'].shape == (0, 4)
    assert target['labels'].shape == (0,) and target['labels'].dtype == torch.int64


# --------------------------------------------------------------------------------------------------- samples and order


@pytest.fixture
def frames(toy_dataset):
    return read_split(toy_dataset, 'train', IGNORE_CLASS, progress=False)[0]


def equal(one, other):
    return torch.equal(one[0], other[0]) and all(torch.equal(one[1][k], other[1][k]) for k in ('boxes', 'labels'))


@pytest.mark.parametrize('with_mosaic', [False, True])
def test_a_sample_depends_on_seed_epoch_and_index_alone(frames, with_mosaic):
    def dataset(seed):
        return Frames(frames, CLASS_NAMES, training_transform((64, 96)), with_mosaic, seed)

    first = dataset(1)
    torch.manual_seed(5)
    one = [first[2, index] for index in range(3)]
    after = torch.rand(())
    torch.manual_seed(6)
    pickled = pickle.loads(pickle.dumps(dataset(1)))  # as a loader process gets it
    other = [pickled[2, index] for index in (2, 1, 0)][::-1]
    assert all(map(equal, one, other))
    assert not equal(first[3, 0], one[0]) and not equal(dataset(2)[2, 0], one[0]) and not equal(first[2, 1], one[0])
    assert all(target['image_id'] == index for index, (_, target) in enumerate(one))
    assert all(image.shape == (3, 64, 96) for image, _ in one)
    torch.manual_seed(5)
    assert torch.rand(()) == after  # the stream outside is left alone


def test_without_transform_a_sample_is_the_file(frames):
    dataset = Frames(frames, CLASS_NAMES)
    assert len(dataset) == len(frames) == 8
    images, targets = collate([dataset[i] for i in range(8)])
    for image, target, frame in zip(images, targets, frames, strict=True):
        assert image.shape == (3, 90, 160) and image.dtype == torch.uint8
        assert torch.equal(target['boxes'], torch.from_numpy(frame.boxes))
        assert [CLASS_NAMES[label - 1] for label in target['labels']] == frame.names
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(frame.path)))
    targets[0]['boxes'] += 1
    assert torch.equal(dataset[0][1]['boxes'], torch.from_numpy(frames[0].boxes))


def test_epoch_batches():
    batches = EpochBatches(10, 4, seed=3)
    first = list(batches)
    assert first == list(batches)
    assert [len(batch) for batch in first] == [4, 4, 2] and len(batches) == 3
    assert sorted(index for batch in first for _, index, _ in batch) == list(range(10))
    assert {epoch for batch in first for epoch, _, _ in batch} == {0}

    batches.skip = 2
    assert list(batches) == first[2:] and len(batches) == 1
    batches.skip, batches.epoch = 0, 1
    second = list(batches)
    assert {epoch for batch in second for epoch, _, _ in batch} == {1}
    assert [i for batch in second for _, i, _ in batch] != [i for batch in first for _, i, _ in batch]
    assert list(EpochBatches(10, 4, seed=4)) != first


@pytest.mark.parametrize(
    ('n', 'batch_size', 'sizes'), [(9, 4, [4, 5]), (8, 4, [4, 4]), (1, 4, [1]), (3, 4, [3]), (5, 4, [5])]
)
def test_a_last_frame_alone_joins_the_batch_before(n, batch_size, sizes):
    batches = EpochBatches(n, batch_size)
    assert [len(batch) for batch in batches] == sizes
    assert sorted(index for batch in batches for _, index, _ in batch) == list(range(n))
