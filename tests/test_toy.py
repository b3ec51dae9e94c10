"""The toy show: deterministic, exactly labelled, complete on disk."""

import errno
import functools
import json
import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from konohana.cast import CLASS_NAMES
from konohana.data.reading import read_frames
from konohana.errors import UserError
from konohana.progress import progress_bar
from konohana.toy import writer
from konohana.toy.casts import cast_of
from konohana.toy.figures import PLAIN
from konohana.toy.scenes import draw_shot, shoot

SMALL = (90, 160)


@pytest.fixture(scope='module')
def frames():
    return [writer.draw_frame((5, i), SMALL) for i in range(80)]


def test_same_seed_same_bytes(frames):
    again = writer.draw_frame((5, 3), SMALL)
    for key in ('image', 'boxes', 'masks'):
        assert again[key].tobytes() == frames[3][key].tobytes()
    assert again['labels'] == frames[3]['labels']


def test_different_seeds_differ(frames):
    assert len({frame['image'].tobytes() for frame in frames}) == len(frames)
    # To a SeedSequence 8 and (8, 0) are the same.
    assert writer.draw_frame(8, SMALL)['image'].tobytes() != writer.draw_frame((8, 0), SMALL)['image'].tobytes()


def test_shapes_and_types(frames):
    for frame in frames:
        n = len(frame['labels'])
        assert frame['image'].shape == (*SMALL, 3) and frame['image'].dtype == np.uint8
        assert frame['boxes'].shape == (n, 4) and frame['boxes'].dtype == np.float32
        assert frame['masks'].shape == (n, *SMALL) and frame['masks'].dtype == bool


def test_boxes_are_tight_and_masks_disjoint(frames):
    for frame in frames:
        assert frame['masks'].sum(0).max(initial=0) <= 1
        for box, mask in zip(frame['boxes'], frame['masks'], strict=True):
            y, x = np.nonzero(mask)
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_masks_cover_what_was_drawn():
    """A frame without its figures differs from the frame with them inside the masks, and hardly outside."""
    shot, frame = shoot(np.random.default_rng((11, 1)), (180, 320))
    shot |= {'blur': 0.0}
    for actor in shot['actors']:
        actor['held'] = None
    full = draw_shot(shot)
    bare = draw_shot(dict(shot, actors=[]))
    changed = np.abs(full['image'].astype(int) - bare['image']).max(2) > 12
    masks = full['masks'].any(0)
    assert frame['labels'] and (changed & masks).sum() > 0.9 * masks.sum()
    assert (changed & ~masks).sum() < 0.05 * masks.sum()


def test_every_class_and_empty_frames(frames):
    counts = {name: sum(name in frame['labels'] for frame in frames) for name in CLASS_NAMES}
    assert min(counts.values()) >= 2, counts
    assert 1 <= sum(not frame['labels'] for frame in frames) <= 12


def test_another_cast_is_another_show(tmp_path, frames):
    names = cast_of(2).names
    assert len(set(names)) == 9 and not set(names) & set(CLASS_NAMES) and cast_of(3).names != names
    others = [writer.draw_frame((5, i), SMALL, cast=2) for i in range(40)]
    assert min(sum(name in frame['labels'] for frame in others) for name in names) >= 1
    assert {name for frame in others for name in frame['labels']} == set(names)
    again = writer.draw_frame((5, 3), SMALL, cast=2)
    assert again['image'].tobytes() == others[3]['image'].tobytes() != frames[3]['image'].tobytes()
    assert writer.draw_frame((5, 3), SMALL, cast=3)['image'].tobytes() != again['image'].tobytes()
    writer.write_coco(tmp_path / 'coco', n_train=0, n_val=1, hw=SMALL, cast=2, progress=False)
    coco = COCO(tmp_path / 'coco' / 'annotations' / 'instances_val.json')
    assert tuple(c['name'] for c in coco.loadCats(sorted(coco.getCatIds()))) == names
    with pytest.raises(UserError, match='holds the toy show 1, cast 2, seed 0'):
        writer.write_coco(tmp_path / 'coco', n_train=0, n_val=1, hw=SMALL, progress=False)
    (tmp_path / 'coco' / 'toy_show.txt').unlink()  # its labels say it too
    with pytest.raises(UserError, match='cast 2'):
        writer.write_coco(tmp_path / 'coco', n_train=0, n_val=1, hw=SMALL, cast=3, progress=False)


@pytest.mark.parametrize('number', [1, 2, 3, 4, 5])
def test_a_drawn_cast_is_told_apart_by_hair_and_clothes(number):
    looks = [PLAIN | look for look in cast_of(number).looks.values()]
    hair = np.array([look['skin'] if look['kind'] == 'boar' else look['hair'] for look in looks])
    cloth = np.array([look['hair'] if look['kind'] == 'boar' else look['outfits'][0]['top'] for look in looks])
    apart = np.abs(hair[:, None] - hair).sum(2) + np.abs(cloth[:, None] - cloth).sum(2)
    assert apart[~np.eye(len(looks), dtype=bool)].min() > 100, apart


@pytest.mark.parametrize('cast', [-1, 1.5, 'x', None, True])
def test_bad_cast(cast):
    with pytest.raises(UserError, match=r'cast .* is not a whole number'):
        writer.draw_frame(2, SMALL, cast)


@pytest.mark.parametrize('hw', [(32, 200), (200, 48), (97, 131)])
def test_odd_sizes(hw):
    frame = writer.draw_frame(2, hw)
    assert frame['image'].shape == (*hw, 3) and frame['masks'].shape[1:] == hw


@pytest.mark.parametrize('seed', [-1, 1.5, 'x', (1, -2), None])
def test_bad_seed(seed):
    with pytest.raises(UserError, match='seed'):
        writer.draw_frame(seed, SMALL)


def test_bad_size():
    with pytest.raises(UserError, match='too small'):
        writer.draw_frame(0, (8, 8))


def test_voc_round_trip(tmp_path):
    folder = tmp_path / '玩具 show'
    writer.write_voc(folder, n_train=3, n_val=4, seed=1, hw=SMALL)
    ids = (folder / 'sets' / 'val.txt').read_text(encoding='utf-8').split()
    assert len(ids) == 4 and len((folder / 'sets' / 'train.txt').read_text(encoding='utf-8').split()) == 3
    for i, name in enumerate(ids):
        frame = writer.draw_frame((1, writer.SPLITS['val'], i), SMALL)
        root = ET.parse(folder / 'anns' / f'{name}.xml').getroot()
        assert (root.findtext('size/width'), root.findtext('size/height')) == ('160', '90')
        assert [item.findtext('name') for item in root.iter('object')] == frame['labels']
        corners = ('xmin', 'ymin', 'xmax', 'ymax')
        boxes = np.array([[int(box.findtext(tag)) for tag in corners] for box in root.iter('bndbox')]).reshape(-1, 4)
        assert np.array_equal(boxes - [1, 1, 0, 0], frame['boxes'])
        with Image.open(folder / 'imgs' / f'{name}.jpg') as picture:
            assert np.abs(np.asarray(picture, int) - frame['image']).mean() < 8


def test_voc_resumes(tmp_path):
    writer.write_voc(tmp_path, n_train=0, n_val=3, hw=SMALL)
    assert not (tmp_path / 'sets' / 'train.txt').exists()
    names = (tmp_path / 'sets' / 'val.txt').read_text(encoding='utf-8').split()
    picture, annotation = tmp_path / 'imgs' / f'{names[1]}.jpg', tmp_path / 'anns' / f'{names[2]}.xml'
    kept = tmp_path / 'imgs' / f'{names[0]}.jpg'
    before = {path: path.read_bytes() for path in (picture, annotation)}
    picture.unlink()
    annotation.unlink()
    kept.write_bytes(b'mine')
    writer.write_voc(tmp_path, n_train=1, n_val=3, hw=SMALL)
    assert {path: path.read_bytes() for path in before} == before
    assert kept.read_bytes() == b'mine'
    assert len((tmp_path / 'sets' / 'train.txt').read_text(encoding='utf-8').split()) == 1
    assert not list(tmp_path.rglob('.*'))


@pytest.mark.parametrize('write', [writer.write_voc, writer.write_coco])
def test_progress(tmp_path, write, monkeypatch):
    """A bar for what is drawn, none when nothing is missing or none is wanted."""
    bars = []

    def bar(title, total, shown):
        bars.append((total, shown))
        return progress_bar(title, total, shown=False)

    monkeypatch.setattr(writer, 'progress_bar', bar)
    write(tmp_path / 'a', n_train=0, n_val=2, hw=SMALL)
    write(tmp_path / 'a', n_train=0, n_val=2, hw=SMALL)
    write(tmp_path / 'b', n_train=0, n_val=1, hw=SMALL, progress=False)
    assert bars == [(2, True), (1, False)]


@pytest.mark.parametrize('write', [writer.write_voc, writer.write_coco])
def test_cannot_be_written(tmp_path, write, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(UserError, match=r'cannot be written .No space left'):
        write(tmp_path, n_train=0, n_val=1, hw=SMALL)


@pytest.mark.parametrize('write', [writer.write_voc, writer.write_coco])
def test_another_show_in_the_folder(tmp_path, write):
    write(tmp_path, n_train=0, n_val=1, hw=SMALL)
    with pytest.raises(UserError, match='seed 7'):
        write(tmp_path, n_train=0, n_val=1, seed=7, hw=SMALL)
    with pytest.raises(UserError, match='0 or more'):
        write(tmp_path, n_train=-1, n_val=1, hw=SMALL)


@pytest.fixture
def few(monkeypatch):
    """Datasets that scripts draw have 2 + 1 small frames."""
    monkeypatch.setattr(writer, 'N_FRAMES', {'train': 2, 'val': 1})
    for name in ('write_voc', 'write_coco'):
        monkeypatch.setattr(writer, name, functools.partial(getattr(writer, name), hw=SMALL))


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


def test_scripts_draw_the_default_dataset_alone(tmp_path, few):
    for name in ('my_show', 'other/toy_show', '.'):
        writer.draw_default(tmp_path / name, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
    for name in ('toy_show', 'toy_show_coco', 'toy_show_2'):
        root = tmp_path / name
        writer.draw_default(root, tmp_path, ['val', 'test'], progress=False)
        (frames,), problems = read_frames(root, ['val'], None, progress=False)
        assert len(frames) == 1 and problems == [] and (frames[0].masks is not None) == name.endswith('coco')
        # What is missing is drawn: a split asked for later, what a drawing that was ended did not come to.
        writer.draw_default(root, tmp_path, ['train', 'val'], progress=False)
        whole = files_in(root)
        for lost in whole - {'toy_show.txt'}:
            if lost.endswith(('.json', '.txt')) or '0001.' in lost:
                (root / lost).unlink()
        writer.draw_default(root, tmp_path, ['train', 'val'], progress=False)
        assert files_in(root) == whole
        # Drawn by an earlier version, without a stamp of its own.
        (root / 'toy_show.txt').unlink()
        for lost in whole & {'sets/train.txt', 'annotations/instances_train.json'}:
            (root / lost).unlink()
        writer.draw_default(root, tmp_path, ['train', 'val'], progress=False)
        assert files_in(root) == whole


MINE = {
    'a split is missing': ('imgs/a.jpg', 'anns/a.xml', 'sets/train.txt'),
    'only lists': ('sets/train.txt',),
    'side by side': ('train/000001.jpg', 'train/000001.xml'),
    'COCO': ('train/000001.jpg', 'annotations/instances_train.json'),
    'the toy show was here': ('toy_show.txt', 'imgs/a.jpg', 'anns/a.xml', 'sets/train.txt'),
    'something else': ('thesis.doc',),
}


@pytest.mark.parametrize('names', MINE.values(), ids=MINE)
@pytest.mark.parametrize('folder', ['toy_show', 'toy_show_coco'])
def test_a_folder_of_the_users_is_never_drawn_into(tmp_path, few, folder, names):
    root = tmp_path / folder
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text('toy show 1, seed 0, 90 x 160' if name == 'toy_show.txt' else 'mine', encoding='utf-8')
    writer.draw_default(root, tmp_path, progress=False)
    assert files_in(root) == set(names)
    assert all((root / name).read_text(encoding='utf-8') == 'mine' for name in names if name != 'toy_show.txt')
    for write in (writer.write_voc, writer.write_coco):
        with pytest.raises(UserError, match='holds something else'):
            write(root, n_train=1, n_val=1)
    assert files_in(root) == set(names)


def test_nothing_is_drawn_by_reading(tmp_path):
    for name in ('toy_show', 'toy_show_coco'):
        with pytest.raises(UserError):
            read_frames(tmp_path / name, ['train'], None, progress=False)
    assert not list(tmp_path.iterdir())


def test_folder_is_a_file(tmp_path):
    (tmp_path / 'taken').write_text('', encoding='utf-8')
    with pytest.raises(UserError, match='taken'):
        writer.write_voc(tmp_path / 'taken', n_train=0, n_val=1, hw=SMALL)


def test_coco_masks(tmp_path):
    writer.write_coco(tmp_path, n_train=0, n_val=4, seed=1, hw=SMALL)
    path = tmp_path / 'annotations' / 'instances_val.json'
    coco = COCO(path)
    assert [c['name'] for c in coco.loadCats(sorted(coco.getCatIds()))] == list(CLASS_NAMES)
    found = 0
    for i in range(4):
        frame, image = writer.draw_frame((1, writer.SPLITS['val'], i), SMALL), coco.loadImgs(i + 1)[0]
        assert (tmp_path / 'val' / image['file_name']).is_file() and image['file_name'] == f'{i + 1:06d}.jpg'
        items = coco.loadAnns(coco.getAnnIds(imgIds=i + 1))
        assert [CLASS_NAMES[item['category_id'] - 1] for item in items] == frame['labels']
        for item, mask, box in zip(items, frame['masks'], frame['boxes'], strict=True):
            assert np.array_equal(coco.annToMask(item), mask) and item['area'] == mask.sum() and item['iscrowd'] == 0
            assert item['bbox'] == [*box[:2], *(box[2:] - box[:2])]
            found += 1
    assert found
    before = path.read_bytes()
    (tmp_path / 'val' / '000002.jpg').unlink()
    writer.write_coco(tmp_path, n_train=0, n_val=4, seed=1, hw=SMALL)
    assert (tmp_path / 'val' / '000002.jpg').is_file() and path.read_bytes() == before
    json.loads(before)


def probe(path):
    """What ffmpeg says of a file, its frames counted and its sound measured by decoding them."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), '-i', str(path), '-f', 'null', '-']
    done = subprocess.run(command, capture_output=True, encoding='utf-8', errors='replace', check=True)
    return done.stderr


@pytest.mark.parametrize('name', ['集 1.mp4', 'episode.mkv'])
def test_video(tmp_path, name):
    path = tmp_path / 'new folder' / name
    annotations = writer.write_video(path, seconds=2.5, fps=10, hw=SMALL, seed=4)
    words = probe(path)
    assert int(re.findall(r'frame=\s*(\d+)', words)[-1]) == 25 == len(annotations)
    assert 'h264' in words and 'yuv420p' in words and '160x90' in words
    assert re.search(r'Audio: aac.*48000 Hz, stereo', words)
    minutes, seconds = re.search(r'Duration: 00:(\d+):([\d.]+)', words).groups()
    assert abs(60 * int(minutes) + float(seconds) - 2.5) < 0.1
    assert any(frame['labels'] for frame in annotations)
    assert all(len(frame['boxes']) == len(frame['labels']) for frame in annotations)
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_scripts_draw_the_default_video_alone(tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(writer, 'write_video', lambda path, cast, **_: drawn.append((path.name, cast)))
    (tmp_path / 'toy_show_4.mp4').write_text('mine', encoding='utf-8')
    for name in (
        'toy_show.mp4',
        'toy_show_2.mkv',
        'toy_show_4.mp4',
        'toy_show_2',
        'toy_show_x.mp4',
        'other/toy_show.mp4',
    ):
        writer.draw_default_video(tmp_path / name, tmp_path)
    writer.draw_default_video('https://example.org/toy_show.mp4', tmp_path)
    assert drawn == [('toy_show.mp4', 0), ('toy_show_2.mkv', 2)]
    assert 'toy_show_2.mkv' in capsys.readouterr().out


def test_a_video_of_another_cast(tmp_path):
    annotations = writer.write_video(tmp_path / 'a.mkv', seconds=8, fps=1, hw=SMALL, cast=2)
    seen = {name for frame in annotations for name in frame['labels']}
    assert seen and seen <= set(cast_of(2).names)


def test_shots_move():
    shot = shoot(np.random.default_rng((6, 1)), SMALL)[0]
    first, next_, later = (draw_shot(shot, t)['image'].astype(int) for t in (0.0, 1 / 24, 1.0))
    assert 0 < np.abs(next_ - first).mean() < np.abs(later - first).mean()


@pytest.mark.parametrize(
    ('changes', 'words'),
    [({'hw': (91, 160)}, 'even'), ({'seconds': 0}, 'no frame'), ({'fps': -1}, 'no frame'), ({'path': 'a.avi'}, '.mkv')],
)
def test_video_bad_input(tmp_path, changes, words):
    arguments = {'seconds': 1, 'fps': 5, 'hw': SMALL} | changes
    path = tmp_path / arguments.pop('path', 'a.mp4')
    with pytest.raises(UserError, match=words):
        writer.write_video(path, **arguments)
    assert not list(tmp_path.iterdir())
