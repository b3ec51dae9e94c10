"""A first guess of labels: with a detector's names, and of a show that it does not know."""

import json
import os
from functools import partial
from itertools import chain

import cv2
import numpy as np
import pytest
import torch

from konohana import files, inference, people
from konohana.boxes import iou
from konohana.data.images import load_image
from konohana.data.reading import FORMS, class_names_of, read_frames, unknown_names
from konohana.data.voc import read_split
from konohana.detectors.base import Detector
from konohana.errors import UserError
from konohana.toy import writer
from konohana.toy.casts import cast_of

NAMES = list(cast_of(2).names)


class Teller(Detector):
    """A detector that knows the answers: of each picture, recognised by its mean, the labelled boxes."""

    def __init__(self, samples):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.class_names, self.img_hw = NAMES, None
        self.answers = {round(float(load_image(s.path).mean()), 3): s for s in samples}

    def forward(self, images, targets=None, with_maps=False):
        return [self._answer(self.answers[round(float(image.mean() * 255), 3)]) for image in images]

    def _answer(self, sample):
        scores = torch.linspace(0.9, 0.4, len(sample.boxes))  # the last one is unsure
        labels = torch.tensor([NAMES.index(name) + 1 for name in sample.names], dtype=torch.int64)
        return {'boxes': torch.from_numpy(sample.boxes), 'labels': labels, 'scores': scores}


@pytest.fixture(scope='module')
def show(tmp_path_factory):
    """(folder of 12 pictures of people whom no weights know, their true labels)."""
    folder = tmp_path_factory.mktemp('show 画')
    writer.write_voc(folder, n_train=12, n_val=0, seed=4, hw=(180, 320), cast=2, progress=False)
    return folder / 'imgs', read_split(folder, 'train', None, progress=False)[0]


@pytest.fixture
def prelabel(run_script, show, tmp_path, monkeypatch):
    """The tool on a copy of the pictures, with a detector that knows where people are."""
    pictures, samples = show
    monkeypatch.setattr(inference, 'load', lambda *_, **__: Teller(samples))
    frames = tmp_path / 'frames'
    frames.mkdir()
    for path in pictures.iterdir():
        (frames / path.name).write_bytes(path.read_bytes())
    return frames, lambda *more: run_script('tools/prelabel.py', f'pictures_in={frames}', *more)


def right(found, true):
    """How many boxes of `found` are those of `true` under the same name."""
    return sum(
        name == true.names[k]
        for box, name in zip(found.boxes, found.names, strict=True)
        for k in np.flatnonzero(iou(box[None], true.boxes)[0] > 0.95)
    )


@pytest.mark.parametrize('form', FORMS)
def test_every_form_is_read_again(prelabel, show, form):
    frames, run = prelabel
    done = run(f'form={form}')
    assert done.returncode == 0, done.stderr
    root, split = (frames, 'all') if form == 'labelme' else (frames.with_name(f'frames_{form}'), 'train')
    (found,), problems = read_frames(root, [split], None, progress=False)
    assert not problems and len(found) == 12
    true = {sample.path.name: sample for sample in show[1]}
    for sample in found:
        wanted = true[sample.path.name]
        assert len(sample.boxes) == len(wanted.boxes)
        unsure = sample.names.count('unsure')
        assert right(sample, wanted) == len(wanted.boxes) - unsure and unsure == (len(wanted.boxes) > 1)


@pytest.mark.parametrize('form', ['labelme', 'coco', 'yolo'])
def test_an_edited_label_file_is_never_touched(prelabel, form):
    frames, run = prelabel
    assert run(f'form={form}').returncode == 0
    root = frames if form == 'labelme' else frames.with_name(f'frames_{form}')
    labels = sorted(path for path in root.rglob('*') if path.suffix in ('.json', '.txt') and path.name != 'classes.txt')
    edited, text = labels[0], labels[0].read_text(encoding='utf-8') + '\n'
    edited.write_text(text, encoding='utf-8')
    before = {path: path.read_bytes() for path in labels}
    if edited != labels[-1]:
        labels[-1].unlink()
    done = run(f'form={form}', 'threshold=0.45', 'overwrite=True')
    assert done.returncode == 0 and f'{edited}: edited since it was written' in done.stdout, done.stderr
    assert edited.read_bytes() == before[edited]
    assert labels[-1].exists()  # what is missing is written


def test_numbers_in_edited_files_of_yolo_keep_their_names(prelabel):
    frames, run = prelabel
    hidden = frames.with_name('later')
    hidden.mkdir()
    for path in sorted(frames.iterdir())[2:]:  # pictures, and names, that come later
        path.rename(hidden / path.name)
    assert run('form=yolo').returncode == 0
    root = frames.with_name('frames_yolo')
    edited = next(path for path in sorted(root.glob('labels/train/*.txt')) if path.stat().st_size)
    edited.write_text(edited.read_text(encoding='utf-8') + '\n', encoding='utf-8')

    def names():
        (found,), problems = read_frames(root, ['train'], None, progress=False)
        assert not problems
        return {frame.path.stem: frame.names for frame in found}

    before = names()
    for path in hidden.iterdir():
        path.rename(frames / path.name)
    assert run('form=yolo').returncode == 0
    after = names()
    assert len(after) == 12 and after[edited.stem] == before[edited.stem] != []
    assert {*chain(*after.values())} > {*chain(*before.values())}


def test_names_that_come_with_editing_are_learned(prelabel):
    frames, run = prelabel
    (frames / 'classes.txt').write_text('a\n', encoding='utf-8')
    files.written(frames / 'classes.txt')  # as earlier versions wrote it
    assert run().returncode == 0
    edited = next(path for path in frames.glob('*.json') if '"label"' in path.read_text(encoding='utf-8'))
    content = json.loads(edited.read_text(encoding='utf-8'))
    content['shapes'][0]['label'] = 'Newcomer'
    edited.write_text(json.dumps(content), encoding='utf-8')
    (found,), _ = read_frames(frames, ['all'], None, progress=False)
    assert 'Newcomer' in class_names_of(frames, found) and not unknown_names(found, class_names_of(frames, found))


def test_a_show_that_nobody_knows(prelabel, show):
    frames, run = prelabel
    done = run('names=False', 'n_groups=12', 'people_threshold=0.3')
    assert done.returncode == 0 and 'run the same command again' in done.stdout, done.stderr
    assert not list(frames.glob('*.json'))
    folder = frames.with_name('frames_people')
    rows = json.loads((folder / 'people.json').read_text(encoding='utf-8'))
    groups = [k for row in rows for k in row['people']]
    true = {sample.path.name: sample for sample in show[1]}
    assert len(groups) == sum(len(sample.boxes) for sample in show[1])
    assert {f'person_{k}.jpg' for k in set(groups) - {0}} <= {path.name for path in folder.iterdir()}
    # Names by hand: of each group its most frequent one; a box by its number; one group dropped; one merged.
    names = [true[row['file']].names[int(iou(np.float32([b]), true[row['file']].boxes)[0].argmax())]
             for row in rows for b in row['boxes']]  # fmt: skip
    text = (folder / 'names.txt').read_text(encoding='utf-8')
    assert 'person_1 =' in text and '# ' in text
    lines = [f'box_{i} = {name}' for i, name in enumerate(names, 1)][2:]
    (folder / 'names.txt').write_text(
        text.replace('person_1 =', 'person_1 = Aoi').replace('person_2 =', 'person_2 = -') + '\n'.join(lines),
        encoding='utf-8',
    )
    done = run('names=False')
    assert done.returncode == 0 and 'names.txt' in done.stdout, done.stderr
    (found,), problems = read_frames(frames, ['all'], None, progress=False)
    assert not problems and sum(len(s.boxes) for s in found) >= len(names) - 2
    assert sum(right(sample, true[sample.path.name]) for sample in found) >= len(names) - 2
    # Once more after a change, without detecting again; what was edited by hand stays.
    edited = found[5].path.with_suffix('.json')
    edited.write_text(edited.read_text(encoding='utf-8') + ' ', encoding='utf-8')
    (folder / 'names.txt').write_text(
        '\n'.join(f'box_{i} = 不计算' for i in range(1, len(names) + 1)), encoding='utf-8'
    )
    done = run('names=False', 'weights=missing.pt')
    assert done.returncode == 0 and '1 files' not in done.stdout and str(edited) in done.stdout, done.stderr
    (found,), _ = read_frames(frames, ['all'], '不计算', progress=False)
    assert sum(len(s.ignored) for s in found) > 0 and [s.path for s in found if s.names] in ([], [found[5].path])


def test_boxes_without_a_name_are_said_before_training_learns_them_as_names(prelabel):
    frames, run = prelabel
    assert run('names=False').returncode == 0
    names = frames.with_name('frames_people') / 'names.txt'
    done = run('names=False')
    assert 'training would learn' in done.stdout, done.stderr
    named = [
        f'{line.partition("=")[0]} = Aoi' for line in names.read_text(encoding='utf-8').splitlines() if line[0] != '#'
    ]
    names.write_text('\n'.join(named), encoding='utf-8')
    done = run('names=False')
    assert 'Aoi' in done.stdout and 'training would learn' not in done.stdout, done.stderr
    names.unlink()
    names.with_name('people.json').unlink()
    assert 'unsure: training would learn' in run('form=voc').stdout


@pytest.mark.parametrize('form', ['labelme', 'yolo', 'coco'])
def test_names_of_names_txt_outlive_a_guess_by_a_detector(prelabel, form):
    frames, run = prelabel
    run = partial(run, f'form={form}')
    root, split = (frames, 'all') if form == 'labelme' else (frames.with_name(f'frames_{form}'), 'train')
    folder = files.beside(root, '_people')

    def names():
        (found,), problems = read_frames(root, [split], None, progress=False)
        assert not problems
        return {frame.path.stem: frame.names for frame in found}

    assert run('names=False').returncode == 0
    rows = json.loads((folder / 'people.json').read_text(encoding='utf-8'))
    with_people = [row['file'].rpartition('.')[0] for row in rows if row['boxes']]
    (folder / 'names.txt').write_text('box_1 = Aoi\n', encoding='utf-8')
    assert run('names=False').returncode == 0
    before = names()
    assert before[with_people[0]].count('Aoi') == 1
    done = run()
    assert done.returncode == 0 and 'Left as they are: 1 label file' in done.stdout, done.stdout + done.stderr
    after = names()
    assert after[with_people[0]] == before[with_people[0]]
    # Where nobody named anybody, the detector does, unless all labels are in one file.
    assert (after == before) == (form == 'coco')
    # names.txt itself may change.
    (folder / 'names.txt').write_text('box_1 = Botan\n', encoding='utf-8')
    done = run('names=False')
    assert 'Left' not in done.stdout and names()[with_people[0]].count('Botan') == 1


def test_looks_put_people_together(show):
    """Colours alone, without a detector's features, group most of the boxes of one person together."""
    crops, names, pictures = [], [], []
    for number, sample in enumerate(show[1]):
        image = load_image(sample.path)
        for (x1, y1, x2, y2), name in zip(sample.boxes.astype(int), sample.names, strict=True):
            crops.append(cv2.resize(image[y1:y2, x1:x2], (96, 96)))
            names.append(name)
            pictures.append(number)
    crops = np.stack(crops * 3).transpose(0, 3, 1, 2)  # everybody three times, as in three shots
    looks = people.looks_of(Teller([]), crops)
    assert len(looks) == 1
    groups = people.group(looks, np.arange(len(crops)), 20)
    n = len(names)
    assert (groups[:n] == groups[n : 2 * n]).mean() > 0.9
    assert 1 <= groups.max() <= 20 and np.bincount(groups)[1] == np.bincount(groups)[1:].max()
    # Two people of one picture are never one, and a single box is no group.
    assert len(set(people.group([looks[0][:2]], [7, 7], 1).tolist())) == 1
    same = people.group([np.repeat(looks[0][:1], 4, 0)], [0, 0, 0, 0], 4)
    assert (same == 0).all()
    assert people.group([looks[0][:1]], [0], 3).tolist() == [0]
    # Five people in four shots each: fewer boxes than groups at most would all be alone.
    few = np.random.default_rng(0).normal(np.repeat(np.eye(5), 4, 0), 0.02)
    found = people.group([few], np.arange(20), 30).reshape(5, 4)
    assert (found == found[:, :1]).all() and sorted(found[:, 0]) == [1, 2, 3, 4, 5]


def test_people_are_found_whoever_they_are():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 11], [50, 0, 60, 10], [80, 0, 90, 10]]
    # 0.9 ** 3 of finding and 0.1 of naming: a score of 0.51 is one of 0.9 without the name.
    found = {'boxes': boxes, 'scores': [0.6, 0.55, (0.9**3 * 0.1) ** 0.25, 0.1]}
    kept, scores = people.find_people(found, 0.3)
    assert kept.tolist() == [boxes[0], boxes[2]] and scores[0] == np.float32(0.6)
    found['probabilities'] = [[0.9, 0.1], [0.9, 0.1], [0.1, 0.05], [1.0, 0.0]]
    kept, scores = people.find_people(found, 0.3)
    assert kept.tolist() == [boxes[2], boxes[0]] and scores[0] == pytest.approx(0.9, abs=1e-3)
    assert len(people.find_people({'boxes': np.zeros((0, 4)), 'scores': []}, 0.3)[0]) == 0


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ('person_1 Aoi', r"line 2: 'person_1 Aoi' is not like"),
        ('person_9 = Aoi', "line 2: there is no 'person_9'"),
        ('box_5 = Aoi', "line 2: there is no 'box_5'"),
        ('box_0 = Aoi', "there is no 'box_0'"),
        ('person_2 = Aoi', 'line 2: person_2 is there twice'),
        ('person_1 = A\x07', 'line 2: .*control characters'),
    ],
)
def test_mistakes_in_names(tmp_path, line, words):
    path = tmp_path / 'names.txt'
    path.write_text(f'person_2 = Botan # ok\n{line}\n', encoding='utf-8')
    with pytest.raises(UserError, match=words):
        people.read_names(path, [1, 1, 2, 0])
    path.write_text('\ufeffperson_2 = Botan 2#1  # a comment\n\n# another\nbox_1=Aoi\nperson_1 =\n', encoding='utf-8')
    assert people.read_names(path, [1, 1, 2, 0]) == ['Aoi', 'person_1', 'Botan 2#1', 'unsure']


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['form=xml'], 'unknown form'),
        (['pictures_in=missing'], 'no such folder'),
        (['unsure_threshold=0.6'], 'is above threshold'),
        (['n_groups=0'], 'n_groups'),
        (['split=../other', 'form=coco'], "split='../other'"),
        (['split=', 'form=voc'], "split=''"),
        (['names=False', 'labels_out=/'], 'a whole disk'),
        (['labels_out=/dev/null/labels'], 'cannot be written'),
    ],
)
def test_mistakes_get_one_line(prelabel, arguments, words):
    _, run = prelabel
    done = run(*arguments)
    assert done.returncode and words in done.stderr and 'Traceback' not in done.stderr
    assert 'Weights' not in done.stdout  # nothing was done in vain


@pytest.mark.parametrize('more', [[], ['names=False']])
def test_pictures_that_cannot_be_read_are_left_out(prelabel, more):
    frames, run = prelabel
    whole = sorted(path.stem for path in frames.iterdir())
    (frames / 'a.heic').write_bytes(b'ftypheic')
    (frames / 'z.jpg').write_bytes(b'\xff\xd8 cut')
    done = run(*more)
    assert done.returncode == 0 and done.stdout.count('Left out: ') == 2, done.stderr
    assert 'a.heic' in done.stdout and 'z.jpg' in done.stdout
    if more:
        done = run(*more)
        assert done.returncode == 0 and 'Left out' not in done.stdout and 'new since' not in done.stdout
    assert sorted(path.stem for path in frames.glob('*.json')) == whole
    for path in frames.glob('*.jpg'):
        path.write_bytes(b'')
    done = run(f'labels_out={frames.parent / "elsewhere"}')
    assert done.returncode == 2 and 'none of its pictures can be read' in done.stderr


def test_two_pictures_never_share_a_label_file(prelabel):
    frames, run = prelabel
    picture = next(frames.glob('*.jpg'))
    picture.with_suffix('.png').write_bytes(picture.read_bytes())
    done = run()
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert picture.name in done.stderr and 'one label file' in done.stderr
    assert not list(frames.glob('*.json'))


def test_pictures_whose_copies_would_have_one_name_are_told(prelabel):
    frames, run = prelabel
    for picture, name in zip(sorted(frames.glob('*.jpg')), '中日', strict=False):
        try:
            picture.rename(frames / f'{os.fsdecode(name.encode("gbk"))}.jpg')
        except OSError:
            pytest.skip('this disk takes no such names')
    done = run('form=voc')
    assert done.returncode == 2 and 'one label file' in done.stderr and 'Traceback' not in done.stderr
    assert run().returncode == 0


def test_pictures_of_one_size_are_looked_at_in_batches(prelabel, show, monkeypatch):
    frames, run = prelabel
    last = sorted(frames.iterdir())[-1]
    image = load_image(last)
    larger = image[..., ::-1].repeat(2, axis=0).repeat(2, axis=1)
    assert cv2.imwrite(str(last.with_name('zz.png')), larger)  # another size in the last batch
    seen, answer = [], Teller.forward

    def forward(self, images, **options):
        seen.append([tuple(image.shape[1:]) for image in images])
        for one in images:
            self.answers.setdefault(round(float(one.mean() * 255), 3), show[1][-1])
        return answer(self, images, **options)

    monkeypatch.setattr(Teller, 'forward', forward)
    assert run('batch_size=5').returncode == 0
    assert list(map(len, seen)) == [5, 5, 2, 1] and all(len(set(sizes)) == 1 for sizes in seen)
    assert len(list(frames.glob('*.json'))) == 13


def test_sheets_of_groups_that_are_gone_are_removed(prelabel):
    frames, run = prelabel
    assert run('names=False', 'n_groups=12', 'people_threshold=0.3').returncode == 0
    folder = frames.with_name('frames_people')
    before = {path.name for path in folder.glob('person_*.jpg')}
    (folder / 'people.json').unlink()
    (folder / 'person_99.jpg').write_bytes(b'mine')
    assert run('names=False', 'n_groups=1', 'people_threshold=0.3', 'overwrite=True').returncode == 0
    after = {path.name for path in folder.glob('person_*.jpg')}
    assert len(before) > 1 and after == {'person_1.jpg', 'person_99.jpg'}


def test_few_people_are_on_the_sheet_that_is_named(prelabel):
    frames, run = prelabel
    for path in sorted(frames.iterdir())[1:]:
        path.unlink()
    done = run('names=False', 'people_threshold=0.3')
    named = frames.with_name('frames_people') / 'unsure.jpg'
    assert done.returncode == 0 and f'Look at {named}' in done.stdout and named.is_file(), done.stderr


def test_weights_that_do_not_say_how_people_look_are_one_line(prelabel, monkeypatch):
    _, run = prelabel
    monkeypatch.setattr(Teller, 'backend', 'onnxruntime')
    done = run('names=False', 'weights=net.onnx')
    assert done.returncode == 2 and 'weights=net.onnx' in done.stderr and '.pt' in done.stderr


def test_a_picture_of_somebody_else_among_the_sheets_stays(prelabel):
    frames, run = prelabel
    sheet = frames.with_name('frames_people') / 'person_1.jpg'
    sheet.parent.mkdir()
    sheet.write_bytes(b'mine')
    done = run('names=False')
    assert done.returncode == 2 and str(sheet) in done.stderr and 'overwrite=True' in done.stderr
    assert sheet.read_bytes() == b'mine'


def test_broken_or_foreign_files_of_people(prelabel):
    frames, run = prelabel
    folder = frames.with_name('frames_people')
    folder.mkdir()
    (folder / 'names.txt').write_text('mine', encoding='utf-8')
    done = run('names=False')
    assert done.returncode and 'names.txt' in done.stderr and 'overwrite=True' in done.stderr
    for content in ('{', '[{}]', '[{"file": 3, "hw": [1, 2], "boxes": [[1]], "people": ["x"]}]'):
        (folder / 'people.json').write_text(content, encoding='utf-8')
        done = run('names=False')
        assert done.returncode and 'people.json' in done.stderr and 'Traceback' not in done.stderr
    assert (folder / 'names.txt').read_text(encoding='utf-8') == 'mine'
