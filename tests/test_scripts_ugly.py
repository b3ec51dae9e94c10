"""The scripts as a user starts them, from another folder, with wrong settings and wrong files: one line, status 2."""

import json
import os
import shutil
from xml.etree import ElementTree

import mutate_inputs
import numpy as np
import pytest
from PIL import Image

from konohana import checkpoint
from konohana.cast import CLASS_NAMES

# Kinds of input of which the good one is made in no time.
SAMPLED = ('voc', 'coco', 'splits', 'pictures')
# What makes a training run take seconds.
SMALL = ('img_hw=64,96', 'batch_size=4', 'num_workers=0', 'n_epoch=1', 'eval_every=1')


@pytest.fixture
def train(run_script, tmp_path):
    """Function (*overrides) -> CompletedProcess of _train.py, whose files all go to tmp_path / 'run'."""
    places = (f'checkpoint_path={tmp_path / "run"}', f'log_path={tmp_path / "run" / "logs"}')
    return lambda *overrides: run_script('_train.py', *places, *SMALL, *overrides)


@pytest.fixture
def look(run_script, tmp_path, weights_file):
    """Function (*overrides) -> CompletedProcess of _test.py, whose pictures go to tmp_path / 'out'."""
    return lambda *overrides: run_script(
        '_test.py', f'weights={weights_file}', f'test_out={tmp_path / "out"}', *overrides
    )


@pytest.fixture
def broken_dataset(toy_dataset, tmp_path):
    """(a copy of the toy show in which five files are wrong, the names of these files)."""
    root = tmp_path / 'broken 数据'
    shutil.copytree(toy_dataset, root)
    # All of the cast, so that it does not matter who is in the few good frames.
    (root / 'classes.txt').write_text('\n'.join(CLASS_NAMES), encoding='utf-8')
    (root / 'imgs' / 'toy_train_00000.jpg').unlink()
    picture = root / 'imgs' / 'toy_train_00001.jpg'
    picture.write_bytes(picture.read_bytes()[:500])
    Image.new('RGB', (50, 40)).save(root / 'imgs' / 'toy_train_00002.jpg')
    (root / 'anns' / 'toy_train_00003.xml').write_text('<annotation><object>', encoding='utf-8')
    (root / 'anns' / 'toy_val_00000.xml').unlink()
    return root, ['train_00000.jpg', 'train_00001.jpg', 'train_00002', 'train_00003.xml', 'val_00000.xml']


def one_line(result, *words):
    """Check that a script ended with status 2 and one clear line on stderr; returns the line."""
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith('Error: '), result.stderr
    assert 'Traceback' not in result.stdout
    for word in words:
        assert str(word) in lines[0]
    return lines[0]


def test_train_with_an_unknown_variable(train, tmp_path):
    one_line(train('batchsize=4'), "unknown variable 'batchsize'", 'Did you mean batch_size?', 'n_epoch')
    assert not (tmp_path / 'run').exists()


def test_train_without_dataset(train, tmp_path):
    one_line(train(f'konohana_dataset_path={tmp_path / "no where"}'), tmp_path / 'no where', 'there is no such folder')
    assert not (tmp_path / 'run').exists()


def test_train_lists_all_problems_before_it_starts(train, broken_dataset, tmp_path):
    root, names = broken_dataset
    result = train(f'konohana_dataset_path={root}')
    one_line(result, '5 problems', 'skip_bad_files=True')
    problems = [line for line in result.stdout.splitlines() if line.startswith('Problem: ')]
    assert len(problems) == 5
    for problem, name in zip(problems, names, strict=True):
        assert name in problem and str(root) in problem
    assert not (tmp_path / 'run').exists()


def test_train_goes_on_without_bad_files_when_told_to(train, broken_dataset, tmp_path):
    root, names = broken_dataset
    result = train(f'konohana_dataset_path={root}', 'skip_bad_files=True')
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in names)
    assert '4 frames to train on, 3 to evaluate on' in result.stdout
    assert (tmp_path / 'run' / 'iter.txt').read_text(encoding='utf-8').strip() == '1'
    content = checkpoint.load(tmp_path / 'run' / 'net.pt')
    assert content['epoch'] == 1 and content['img_hw'] == [64, 96]
    assert tuple(content['class_names']) == CLASS_NAMES
    assert not list((tmp_path / 'run').glob('*.tmp'))


def test_train_with_a_name_in_val_that_train_lacks(train, toy_dataset, tmp_path):
    root = tmp_path / 'data'
    shutil.copytree(toy_dataset, root)
    with (root / 'sets' / 'val.txt').open('a', encoding='utf-8') as lines:
        lines.write('stranger\n')
    Image.new('RGB', (160, 90)).save(root / 'imgs' / 'stranger.png')
    box = '<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>'
    xml = f'<annotation><object><name>Mister X</name>{box}</object></annotation>'
    (root / 'anns' / 'stranger.xml').write_text(xml, encoding='utf-8')
    result = train(f'konohana_dataset_path={root}')
    one_line(result, 'problem')
    assert [line for line in result.stdout.splitlines() if 'stranger.png' in line and "'Mister X'" in line]


def test_test_without_weights(run_script, tmp_path):
    result = run_script('_test.py', f'weights={tmp_path / "net.pt"}', f'test_out={tmp_path / "out"}')
    one_line(result, tmp_path / 'net.pt', 'there is no such weights file')
    assert not (tmp_path / 'out').exists()


def test_test_with_an_empty_folder(look, tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    (folder / 'notes.txt').write_text('', encoding='utf-8')
    one_line(look(f'pictures_in={folder}'), folder, 'no pictures there')


# Height and width of pictures as nobody has them.
ODD = {'a tiny.png': (7, 9), 'b portrait 花.png': (161, 90), 'd wide.jpg': (40, 333), 'e one row.png': (1, 50)}


def test_test_does_the_good_pictures_and_names_the_bad_one(look, tmp_path):
    folder = tmp_path / 'pictures of 花'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, hw in ODD.items():
        Image.fromarray(rng.integers(0, 256, (*hw, 3), np.uint8)).save(folder / name)
    (folder / 'c damaged.jpg').write_bytes(b'\xff\xd8\xff\xe0 no picture')

    results = tmp_path / 'made for it' / 'results.json'
    result = look(f'pictures_in={folder}', f'results_json={results}', 'batch_size=2')
    assert result.returncode == 2
    # Before it may stand a note that no font here has the characters.
    lines = result.stderr[result.stderr.index('Error: ') :].strip().splitlines()
    assert lines[0] == 'Error: 1 of 5 pictures were left out:'
    assert len(lines) == 2 and 'c damaged.jpg' in lines[1]
    made = sorted(path.name for path in (tmp_path / 'out').glob('*.jpg'))
    assert made == sorted(name[:-4] + '.jpg' for name in ODD)
    for name in made:
        with Image.open(tmp_path / 'out' / name) as picture:
            picture.load()
            assert picture.width > 64
    check_results(results)


def check_results(path):
    """The file is as evaluation.write_results_json documents it, in pixels of the picture files."""
    content = json.loads(path.read_text(encoding='utf-8'))
    assert [image['id'] for image in content['images']] == [1, 2, 3, 4]
    assert {image['file_name']: (image['height'], image['width']) for image in content['images']} == ODD
    assert [(c['id'], c['name']) for c in content['categories']] == list(enumerate(CLASS_NAMES, start=1))
    sizes = {image['id']: (image['height'], image['width']) for image in content['images']}
    assert [a['id'] for a in content['annotations']] == list(range(1, len(content['annotations']) + 1))
    farthest = {}
    for a in content['annotations']:
        height, width = sizes[a['image_id']]
        x, y, w, h = a['bbox']
        assert x >= 0 and y >= 0 and w > 0 and h > 0
        assert x + w <= width * (1 + 1e-5) and y + h <= height * (1 + 1e-5)
        assert a['area'] == pytest.approx(w * h)
        assert 1 <= a['category_id'] <= len(CLASS_NAMES) and 0 <= a['score'] <= 1 and a['iscrowd'] == 0
        farthest[a['image_id']] = max(farthest.get(a['image_id'], 0), (x + w) / width)
    # The untrained network's boxes are wide: in pixels of another size they would not reach across the picture.
    assert len(farthest) >= 3 and min(farthest.values()) > 0.5


@pytest.mark.parametrize('wrong', ['batch_size=0', 'flip=2.0', 'scale=(2,1)', 'eval_every=0', "train_split=''"])
def test_train_with_a_value_that_makes_no_sense(train, tmp_path, wrong):
    # Said before anything is read.
    one_line(train(wrong, f'konohana_dataset_path={tmp_path / "nowhere"}'), wrong.split('=')[0])


def test_train_where_nothing_usable_is_left(train, broken_dataset):
    root, _ = broken_dataset
    for xml in (root / 'anns').glob('toy_train*.xml'):
        xml.unlink()
    one_line(train(f'konohana_dataset_path={root}', 'skip_bad_files=True'), "no usable frame in split 'train'")


def test_train_where_nobody_is_labelled(train, toy_dataset, tmp_path):
    root = tmp_path / 'nobody'
    shutil.copytree(toy_dataset, root)
    for xml in (root / 'anns').glob('*.xml'):
        tree = ElementTree.parse(xml)
        for item in tree.getroot().findall('object'):
            tree.getroot().remove(item)
        tree.write(xml, encoding='utf-8')
    one_line(train(f'konohana_dataset_path={root}'), 'no frame of split', 'labelled')


def test_train_with_a_file_where_a_folder_should_be(train, toy_dataset, tmp_path):
    (tmp_path / 'file').write_text('x', encoding='utf-8')
    for name in ('checkpoint_path', 'log_path'):
        overrides = (f'konohana_dataset_path={toy_dataset}', 'skip_bad_files=True', f'{name}={tmp_path / "file"}')
        one_line(train(*overrides), name)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='each input gets a process of its own by os.fork')
def test_a_sample_of_damaged_inputs(tmp_path):
    # tests/mutate_inputs.py does hundreds of them.
    mutate_inputs.make_good_inputs(tmp_path, SAMPLED)
    bugs = []
    for kind, i, rng in mutate_inputs.cases(SAMPLED, 2, 0):
        outcome, command, text = mutate_inputs.try_case(kind, rng, tmp_path, 60, 6)
        if outcome not in mutate_inputs.GOOD:
            bugs.append(f'{outcome}: {kind} {i}: {command}\n{text}')
    assert not bugs, '\n'.join(bugs)
