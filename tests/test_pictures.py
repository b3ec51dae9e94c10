"""Annotated pictures: nothing of the user's is written over, names stay apart, one failure does not end the run."""

import errno
import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOY_HW
from PIL import Image
from torch import nn

import konohana
from konohana.cast import CLASS_NAMES
from konohana.detectors.base import Detector
from konohana.pictures import output_paths, problem_lines
from konohana.toy import writer


class Anything(Detector):
    """Finds one character in the middle of every picture. For tests only."""

    class_names, img_hw = CLASS_NAMES, (48, 80)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images, with_maps=False):
        return [self.one(*image.shape[-2:]) for image in images]

    def one(self, height, width):
        box = torch.tensor([[0.2 * width, 0.2 * height, 0.8 * width, 0.8 * height]])
        return {'boxes': box, 'labels': torch.tensor([1]), 'scores': torch.tensor([0.9])}


@pytest.fixture
def look(run_script, tmp_path, monkeypatch):
    """Function (*overrides) -> CompletedProcess of _test.py with `Anything` instead of weights, to tmp_path / 'out'."""
    monkeypatch.setattr(konohana, 'load', lambda *_, **options: Anything())
    return lambda *overrides: run_script('_test.py', f'test_out={tmp_path / "out"}', *overrides)


@pytest.fixture
def frames(tmp_path):
    """A folder of the user's with three pictures."""
    folder = tmp_path / 'frames 花'
    folder.mkdir()
    for i, name in enumerate(('a.jpg', 'b.jpg', 'c.png')):
        Image.new('RGB', (80, 48), (60 * i, 90, 120)).save(folder / name)
    return folder


def content_of(folder):
    """What a user sees to have in a folder: {file: its bytes}."""
    return {path: path.read_bytes() for path in Path(folder).rglob('*') if path.is_file()}


def refused(result, *words):
    assert result.returncode == 2 and 'Traceback' not in result.stderr, result.stderr
    assert result.stderr.startswith('Error: ') and result.stderr.count('\n') == 1, result.stderr
    for word in words:
        assert str(word) in result.stderr


# -------------------------------------------------------------------------------- an output never replaces an input


def test_annotated_pictures_never_go_into_the_folder_of_the_pictures(look, frames):
    before = content_of(frames)
    for extra in ('overwrite=False', 'overwrite=True'):
        refused(look(f'pictures_in={frames}', f'test_out={frames}', extra), frames, 'test_out')
    link = frames.parent / 'another way there'
    link.symlink_to(frames, target_is_directory=True)
    refused(look(f'pictures_in={frames}', f'test_out={link}'), link, 'test_out')
    assert content_of(frames) == before


def test_annotated_pictures_never_go_into_a_dataset(look, toy_dataset, tmp_path):
    root = tmp_path / 'data'
    shutil.copytree(toy_dataset, root)
    before = content_of(root)
    refused(look(f'konohana_dataset_path={root}', f'test_out={root / "imgs"}', 'overwrite=True'), 'test_out')
    assert content_of(root) == before


def test_one_picture_is_never_replaced_by_its_annotated_self(look, frames):
    before = content_of(frames)
    for extra in ('overwrite=False', 'overwrite=True'):
        refused(look(f'pictures_in={frames / "a.jpg"}', f'test_out={frames}', extra), frames / 'a.jpg', 'input')
    # Beside it there is room for one of another name.
    assert look(f'pictures_in={frames / "c.png"}', f'test_out={frames}').returncode == 0
    assert content_of(frames).items() > before.items() and (frames / 'c.jpg').is_file()


def test_results_never_replace_labels(look, tmp_path):
    root = tmp_path / 'coco'
    writer.write_coco(root, n_train=0, n_val=2, hw=TOY_HW, progress=False)
    labels = root / 'annotations' / 'instances_val.json'
    before = content_of(root)
    for extra in ('overwrite=False', 'overwrite=True'):
        refused(look(f'konohana_dataset_path={root}', f'results_json={labels}', extra), labels)
    assert content_of(root) == before and not (tmp_path / 'out').exists()
    # A file of one's own beside the labels is no problem, and neither is writing it again.
    for _ in range(2):
        result = look(f'konohana_dataset_path={root}', f'results_json={labels.with_name("found.json")}')
        assert result.returncode == 0, result.stderr
    assert len(json.loads(labels.with_name('found.json').read_text(encoding='utf-8'))['annotations']) == 2


def test_a_file_of_the_users_stays_unless_told_otherwise(look, frames, tmp_path):
    mine = tmp_path / 'out' / 'b.jpg'
    mine.parent.mkdir()
    mine.write_bytes(b'mine')
    refused(look(f'pictures_in={frames}'), mine, 'overwrite=True')
    assert content_of(tmp_path / 'out') == {mine: b'mine'}
    assert look(f'pictures_in={frames}', 'overwrite=True').returncode == 0
    assert len(list((tmp_path / 'out').glob('*.jpg'))) == 3 and mine.read_bytes() != b'mine'


def test_running_again_into_the_same_folder_is_fine(look, frames, tmp_path):
    results = f'results_json={tmp_path / "out" / "found.json"}'
    for _ in range(2):
        assert look(f'pictures_in={frames}', results).returncode == 0
    # What the user has changed since is the user's.
    Image.new('L', (9, 9)).save(tmp_path / 'out' / 'a.jpg')
    refused(look(f'pictures_in={frames}', results), tmp_path / 'out' / 'a.jpg')


# ------------------------------------------------------------------------------------------- names that stay apart


@pytest.mark.parametrize(
    'names',
    [
        ('a.png', 'b.png'),
        ('a.png', 'a.jpg', 'b.png'),
        ('one/a.png', 'two/a.png', 'two/b.png'),
        ('a.png', 'A.png', 'A.PNG'),
        ('é.png', unicodedata.normalize('NFD', 'é.png')),
        ('ß.png', 'ss.png', 'SS.png'),
        ('a_b/c.png', 'a/b_c.png', 'a/c.png', 'b/c.png'),
        ('x.png', 'x.jpg', 'x.png.jpg', 'X.JPG'),
    ],
)
def test_different_pictures_have_different_outputs_on_any_file_system(names):
    pictures = [Path('/frames', name) for name in names]
    paths = output_paths(pictures, '/out')
    assert all(path.parent == Path('/out') and path.suffix == '.jpg' for path in paths)
    seen = {unicodedata.normalize('NFC', path.name).casefold() for path in paths}
    assert len(seen) == len(names)


def test_pictures_keep_their_names_where_they_can():
    paths = output_paths([Path('/frames', name) for name in ('a.png', 'a.jpg', 'b.png')], '/out')
    assert [path.name for path in paths] == ['a.png.jpg', 'a.jpg.jpg', 'b.jpg']


# ---------------------------------------------------------------------------------- one failure does not end the run


def test_a_picture_that_cannot_be_written_is_told_at_the_end(look, frames, tmp_path):
    (frames / 'd.png').write_bytes(b'no picture')
    for ending in ('png', 'bmp'):
        # Both keep the ending in the name of the result, which is then too long.
        Image.new('RGB', (80, 48)).save(frames / f'{"x" * 250}.{ending}')
    (tmp_path / 'out' / 'b.jpg').mkdir(parents=True)
    results = tmp_path / 'found.json'
    result = look(f'pictures_in={frames}', f'results_json={results}')
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    assert '2 annotated pictures are in' in result.stdout
    assert {path.name for path in (tmp_path / 'out').glob('*.jpg') if path.is_file()} == {'a.jpg', 'c.jpg'}
    lines = result.stderr.strip().splitlines()
    assert lines[0] == 'Error: 4 of 6 pictures were left out:' and len(lines) == 4
    assert sum('b.jpg: cannot be written' in line for line in lines) == 1
    assert sum('d.png: not a picture' in line for line in lines) == 1
    assert sum('name too long' in line and '1 more' in line for line in lines) == 1
    # What was found in them is known all the same.
    assert len(json.loads(results.read_text(encoding='utf-8'))['images']) == 5


def test_a_full_disk_is_told_once(look, tmp_path, monkeypatch):
    folder = tmp_path / 'many'
    folder.mkdir()
    for i in range(12):
        Image.fromarray(np.full((48, 80, 3), i, np.uint8)).save(folder / f'{i}.png')
    save = Image.Image.save

    def full(self, file, *args, **options):
        if not list((tmp_path / 'out').glob('*.jpg')):
            return save(self, file, *args, **options)
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(Image.Image, 'save', full)
    result = look(f'pictures_in={folder}')
    assert result.returncode == 2 and '1 annotated picture is in' in result.stdout
    lines = result.stderr.strip().splitlines()
    assert lines[0] == 'Error: 11 of 12 pictures were left out:'
    assert len(lines) == 2 and 'No space left on device' in lines[1] and '10 more' in lines[1]
    assert [path.name for path in (tmp_path / 'out').glob('*') if path.suffix == '.tmp'] == []


def test_metrics_are_printed_even_if_the_results_cannot_be_written(look, toy_dataset, tmp_path):
    # When it is time to write them, a picture is where their folder should be.
    results = tmp_path / 'out' / 'toy_val_00000.jpg' / 'found.json'
    result = look(f'konohana_dataset_path={toy_dataset}', f'results_json={results}')
    assert result.returncode == 2 and '4 annotated pictures are in' in result.stdout
    assert 'At threshold 0.5: precision' in result.stdout
    refused(result, results, 'cannot be written')


def test_what_is_wrong_with_several_files_is_one_line():
    a, b, c = Path('x/a.png'), Path('x/b.png'), Path('x/c.png')
    problems = [(a, 'not a picture'), (b, 'not a picture'), (c, f'{c}: is a folder.')]
    assert problem_lines(problems) == [f'{a}: not a picture (the same goes for 1 more: b.png)', f'{c}: is a folder.']
