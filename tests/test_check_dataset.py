"""A look over a dataset before training: planted faults are found, the copy is right, the person's files stay."""

import hashlib
import json
from xml.sax.saxutils import escape

import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image

from konohana import boxes, masks
from konohana.cast import IGNORE_CLASS
from konohana.checkup import findings, looks, opinions, splitting
from konohana.checkup.all import check_dataset
from konohana.checkup.frames import read_for_check
from konohana.data import reading
from konohana.data.images import save_image
from konohana.data.sample import Sample
from tests.test_episodes import HOSTILE

HW = (90, 160)
NAME = HOSTILE[:40]  # of a class: longer ones than 200 letters are refused


def sample(name, boxes=(), names=None, hw=HW):
    names = ['a'] * len(boxes) if names is None else list(names)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Sample(PROJECT / f'{name}.jpg', *hw, boxes, names, np.zeros(len(boxes), bool))


def kinds(found):
    return sorted(one.kind for one in found)


def test_tiny_boxes_and_doubles():
    boxes = [(10, 10, 60, 60), (11, 10, 61, 60), (10, 10, 60, 61), (100, 10, 102, 40), (70, 20, 90, 80)]
    found = findings.check_boxes([sample('x', boxes, ['a', 'a', 'b', 'a', 'a']), sample('y')])
    assert kinds(found) == ['duplicate', 'tiny', 'two_names', 'two_names']
    assert {one.fix for one in found} == {('drop_box', 0, 3), ('drop_box', 0, 1), None}


@pytest.mark.parametrize(
    ('names', 'pairs'),
    [
        ({'Satsuki': 40, 'Satuski': 1, 'satsuki': 30, 'Yuzu': 40}, {('Satuski', 'Satsuki'), ('satsuki', 'Satsuki')}),
        ({'八百比丘尼': 20, '八百比丘': 1, '柚': 30, '柊': 1}, {('八百比丘', '八百比丘尼')}),
        ({'person_1': 40, 'person_2': 1, 'Anna': 30, 'Hanna': 40}, set()),
        ({'ｙuzu': 2, 'yuzu': 2, 'yu zu': 2}, {('ｙuzu', 'yuzu'), ('yu zu', 'yuzu')}),
        ({'🦊': 5, '🐱': 5, '!': 1}, set()),
    ],
)
def test_names_that_look_alike(names, pairs):
    samples = [sample(name, [(0, 0, 20, 20)] * n, [name] * n) for name, n in names.items()]
    found = findings.check_names(samples)
    assert {one.names for one in found} <= {*pairs, *((b, a) for a, b in pairs), ('ｙuzu', 'yu zu'), ('yu zu', 'ｙuzu')}
    assert len(found) == len(pairs)


def picture(seed, hw=HW):
    """A picture of its own: soft blobs."""
    rng = np.random.default_rng(seed)
    return np.asarray(Image.fromarray(rng.integers(0, 255, (5, 8, 3), np.uint8)).resize(hw[::-1], Image.BICUBIC))


def write_voc(root, frames):
    """frames: {split: {stem: (picture, list of (name, box))}}"""
    for split, some in frames.items():
        (root / 'sets').mkdir(parents=True, exist_ok=True)
        (root / 'sets' / f'{split}.txt').write_text('\n'.join(some) + '\n', encoding='utf-8')
        for stem, (image, objects) in some.items():
            for folder in ('imgs', 'anns'):
                (root / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(root / 'imgs' / f'{stem}.jpg', quality=95)
            height, width = image.shape[:2]
            text = ''.join(
                f'<object><name>{escape(name)}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>'
                f'<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>'
                for name, (x1, y1, x2, y2) in objects
            )
            size = f'<size><width>{width}</width><height>{height}</height></size>'
            (root / 'anns' / f'{stem}.xml').write_text(f'<annotation>{size}{text}</annotation>', encoding='utf-8')


@pytest.fixture
def spoilt(tmp_path):
    """A dataset with one fault of each kind that needs no weights."""
    root = tmp_path / 'my show 花'
    usual = [('Yuzu', (20, 20, 60, 80))]
    train = {f'ep01_{i:03}': (picture(i), usual) for i in range(8)}
    train |= {f'ep02_{i:03}': (picture(50 + i), usual) for i in range(4)}
    train['ep01_000'] = picture(0), [*usual, ('Yuzu', (21, 20, 61, 80)), ('Yuzu', (100, 5, 102, 6))]
    train['ep01_001'] = picture(1), [('Yuzzu', (20, 20, 60, 80))]
    train['ep01_002'] = picture(2), [('Yuzu', (120, 20, 190, 80))]
    train['ep01_003'] = picture(3), []
    train['again'] = picture(4), usual
    val = {f'ep03_{i:03}': (picture(100 + i), usual) for i in range(5)}
    val['leak'] = np.ascontiguousarray(picture(5)[::2, ::2]), []
    write_voc(root, {'train': train, 'val': val})
    return root


def checksum(folder):
    return {path: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.rglob('*') if path.is_file()}


def test_it_says_what_is_wrong_and_the_copy_is_right(run_script, spoilt, tmp_path):
    before = checksum(spoilt)
    copy, out = tmp_path / 'copy', tmp_path / 'out'
    options = (f'konohana_dataset_path={spoilt}', f'check_out={out}', 'fix=True', f'fixed_out={copy}')
    done = run_script('tools/check_dataset.py', *options)
    assert done.returncode == 0, done.stderr
    for words in (
        'Boxes off their picture: 1',
        'ep01_002.jpg: Yuzu at 120, 20, 190, 80 (x1, y1, x2, y2) reaches beyond the picture',
        'Nearly the same picture in two splits: 1',
        'leak.jpg: val: nearly the same as ep01_005.jpg in train',
        'Two boxes on one object: 1',
        'Tiny boxes: 1',
        "'Yuzzu' (1 object) looks like 'Yuzu'",
        'The same picture again: 1',
        'Pictures without anyone: 2',
    ):
        assert words in done.stdout, done.stdout
    assert checksum(spoilt) == before
    (train, val), problems = reading.read_frames(copy, ['train', 'val'], IGNORE_CLASS, progress=False)
    assert problems == [] and len(train) == 11 and len(val) == 6
    by_stem = {frame.path.stem: frame for frame in train}
    assert 'ep01_005' not in by_stem and ('again' in by_stem) != ('ep01_004' in by_stem)
    assert len(by_stem['ep01_000'].boxes) == 1 and by_stem['ep01_001'].names == ['Yuzu']
    assert by_stem['ep01_002'].boxes.tolist() == [[120, 20, 160, 80]]
    assert run_script('tools/check_dataset.py', *options).returncode == 0  # its own files it replaces
    (out / 'check.txt').write_text('mine', encoding='utf-8')
    assert 'overwrite=True' in run_script('tools/check_dataset.py', *options).stderr
    inside = run_script('tools/check_dataset.py', *options[:3], f'fixed_out={spoilt / "x"}', 'overwrite=True')
    assert inside.returncode == 2 and 'fixed_out' in inside.stderr and checksum(spoilt) == before


@pytest.mark.parametrize('form', reading.FORMS)
def test_every_form_is_checked_and_split_by_episode(run_script, spoilt, tmp_path, form):
    first = tmp_path / form
    options = ('split=episode', f'form={form}', f'check_out={tmp_path / "out"}')
    done = run_script('tools/check_dataset.py', f'konohana_dataset_path={spoilt}', *options, f'fixed_out={first}')
    assert done.returncode == 0, done.stderr
    (train, val), problems = reading.read_frames(first, ['train', 'val'], IGNORE_CLASS, progress=False)
    assert problems == [] and train and val
    of = {part: {frame.path.stem[:4] for frame in frames} for part, frames in (('train', train), ('val', val))}
    assert not of['train'] & of['val']
    # What was written is read and checked in its own form.
    done = run_script('tools/check_dataset.py', f'konohana_dataset_path={first}', f'check_out={tmp_path / "again"}')
    assert done.returncode == 0 and 'Two boxes on one object: 1' in done.stdout, done.stderr
    assert 'two splits' not in done.stdout


def test_a_folder_without_a_usable_frame_is_one_message(run_script, tmp_path):
    root = tmp_path / 'x'
    write_voc(root, {'train': {'a': (picture(1), [])}})
    (root / 'imgs' / 'a.jpg').write_bytes(b'no picture')
    done = run_script('tools/check_dataset.py', f'konohana_dataset_path={root}', f'check_out={tmp_path / "out"}')
    assert done.returncode == 2 and 'no frame can be used' in done.stderr and 'a.jpg' in done.stderr
    for alone in ('split=random', 'form=yolo', f'fixed_out={tmp_path / "copy"}'):  # of a copy that nobody asked for
        done = run_script('tools/check_dataset.py', f'konohana_dataset_path={root}', alone)
        assert done.returncode == 2 and "'episode'" in done.stderr


class Sees:
    """Weights that find one person, at a place, by a name."""

    class_names = ('柚', '皋')

    def __init__(self, boxes, labels, scores):
        self.found = {
            'boxes': np.array(boxes, np.float32).reshape(-1, 4),
            'labels': np.array(labels),
            'scores': np.array(scores, np.float32),
        }


def test_weights_find_what_lacks_a_label_and_what_is_none():
    labelled = [(10, 10, 50, 80), (60, 10, 100, 80), (110, 10, 150, 80)]
    frame = sample('x', labelled, ['柚', '皋', '皋'])
    seen = Sees([(11, 10, 50, 80), (60, 10, 100, 40), (0, 0, 9, 30)], [2, 2, 1], [0.9, 0.8, 0.7])
    found = findings_of(frame, seen)
    assert kinds(found) == ['loose', 'missing', 'nobody_there', 'wrong_name']
    by_kind = {one.kind: one for one in found}
    assert by_kind['wrong_name'].names == ('柚', '皋') and by_kind['loose'].names == ('皋',)
    frame.ignored = np.array([(0, 0, 20, 40)], np.float32)
    assert 'missing' not in kinds(findings_of(frame, seen))
    assert findings_of(frame, None) == []  # Ctrl-C came before this picture


def findings_of(frame, seen):
    detections = [seen.found if seen else None]
    unknown = ['柚', '皋'], [np.full((len(frame.names), 2), np.nan)], float('nan')
    places = opinions.check_places([frame], detections, Sees.class_names)
    return places + opinions.check_opinions([frame], unknown, detections, Sees.class_names)


def test_the_rest_of_the_data_names_by_colour_and_never_judges_a_scene_by_itself():
    rng = np.random.default_rng(0)
    samples, colours, small = [], [], []
    for i in range(40):
        name = ('red', 'blue')[i % 2]
        image = picture(1000 + i).copy()
        image[20:80, 20:60] = ((220, 30, 40), (30, 40, 220))[i % 2] + rng.integers(-9, 9, 3)
        samples.append(sample(str(i), [(20, 20, 60, 80)], [name]))
        colours.append(looks.object_colours(image, samples[-1].boxes).astype(np.float16))
        small.append(np.asarray(Image.fromarray(image).resize((looks.SIDE, looks.SIDE))))
    samples[6].names = ['blue']
    seen = looks.Looks(np.array(small), np.zeros((40, looks.FINE, looks.FINE), np.uint8), colours)
    by_others = opinions.names_by_others(samples, seen, [])
    assert by_others[2] > 0.9
    (wrong,) = opinions.check_opinions(samples, by_others)
    assert wrong.picture == 6 and wrong.names == ('blue', 'red')
    one_scene = [(0, i, 1.0) for i in range(1, 40)]
    assert np.isnan(opinions.names_by_others(samples, seen, one_scene)[2])


@pytest.mark.parametrize(
    ('stems', 'kind'),
    [
        ([f'Show - {e:02} [1080p]_{i:04}' for e in range(1, 7) for i in range(9)], 'episode'),
        ([f's01e{e:02}_0h{i:02}m03.5s' for e in range(1, 7) for i in range(9)], 'episode'),
        ([f'第{e}话_{i}' for e in range(1, 7) for i in range(9)], 'episode'),
        ([f'{scene}_{i:03}' for scene in 'abcdef' for i in range(9)], 'name'),
        ([f'{i:06}' for i in range(60)], 'stretch'),
    ],
)
def test_a_split_keeps_groups_together(stems, kind):
    samples = [sample(stem, [(0, 0, 20, 20)], ['ab'[i % 2]]) for i, stem in enumerate(stems)]
    found, groups = splitting.groups_of(samples)
    assert found == kind
    pairs = [(0, len(stems) - 1, 0.99)]
    split, lines = splitting.propose(samples, pairs)
    assert set(split) == {'train', 'val'} and 0.03 < split.count('val') / len(split) < 0.3
    assert split[0] == split[-1]  # an opening that recurs is in one of them
    moved = {groups[0], groups[-1]}
    for group in set(groups) - moved:
        assert len({where for where, g in zip(split, groups, strict=True) if g == group}) == 1
    assert 'val is ' in lines[0]


@pytest.mark.parametrize(
    ('box', 'kept', 'cut'),
    [
        ((-2, 0, 102, 51), True, False),
        ((-2, 0, 1, 9), True, False),
        ((-3, 5, 99, 9), True, True),
        ((-50, 5, 50, 9), True, True),
        ((-51, 5, 50, 9), False, True),
        ((60, 30, 125, 75), False, True),
        ((-1e308, -1e308, 1e308, 1e308), False, True),
        ((-2, 5, 0, 9), False, False),
        ((100, 5, 101, 9), False, False),
    ],
)
def test_a_box_is_cut_where_at_least_half_of_it_is_inside(box, kept, cut):
    assert (boxes.fits(box, (50, 100)), boxes.reaches_beyond(box, (50, 100))) == (kept, cut)


def test_polygons_beyond_the_edge_are_cut_as_boxes_are(tmp_path):
    points = [[100, 20], [190, 20], [190, 80], [100, 80]]
    shape = {'label': NAME, 'points': points, 'shape_type': 'polygon'}
    (tmp_path / 'a').mkdir()
    save_image(tmp_path / 'a' / '1.png', picture(1))
    (tmp_path / 'a' / '1.json').write_text(json.dumps({'shapes': [shape], 'imagePath': '1.png'}), encoding='utf-8')
    corners = [value for point in points for value in point]
    row = {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [100, 20, 90, 60], 'segmentation': [corners]}
    content = {'images': [{'id': 1, 'file_name': '1.png'}], 'annotations': [row]}
    content['categories'] = [{'id': 1, 'name': NAME}]
    (tmp_path / 'b' / 'annotations').mkdir(parents=True)
    (tmp_path / 'b' / 'annotations' / 'instances_a.json').write_text(json.dumps(content), encoding='utf-8')
    save_image(tmp_path / 'b' / 'a' / '1.png', picture(1))
    width = HW[1]
    for root in (tmp_path, tmp_path / 'b'):
        (frame,), _, found = read_for_check(root, ['a'], IGNORE_CLASS, progress=False)
        assert kinds(found) == ['off_picture'] and f'{NAME} at 100, 20, 190, 80' in found[0].text
        assert frame.boxes.tolist() == [[100, 20, width, 80]] and masks.area(frame.masks) == [(width - 100) * 60]
    row['segmentation'] = [[100, 20, 500, 20, 500, 80]]
    (tmp_path / 'b' / 'annotations' / 'instances_a.json').write_text(json.dumps(content), encoding='utf-8')
    _, problems = reading.read_frames(tmp_path / 'b', ['a'], IGNORE_CLASS, progress=False)
    assert len(problems) == 1 and 'segmentation' in problems[0] and 'outside the picture' in problems[0]


def test_splits_of_cvat_are_train_and_val(tmp_path, run_script):
    write_voc(tmp_path / 'x', {'Validation': {'a': (picture(1), [])}, 'Train': {'b': (picture(1), [])}})
    options = f'check_out={tmp_path / "out"}', 'fix=True', f'fixed_out={tmp_path / "y"}'
    done = run_script('tools/check_dataset.py', f'konohana_dataset_path={tmp_path / "x"}', *options)
    assert 'a.jpg: validation: nearly the same as b.jpg in train' in done.stdout, done.stdout + done.stderr
    (left,), _ = reading.read_frames(tmp_path / 'y', ['val'], IGNORE_CLASS, progress=False)
    assert [frame.path.stem for frame in left] == ['a'] and 'pictures left out: leaks' in done.stdout


def test_planted_faults_are_found(run_script, tmp_path):
    options = ('n_faults=2', 'n_frames=30', 'hw=(120, 208)', f'keep={tmp_path / "spoilt"}')
    done = run_script('benchmarks/planted_faults.py', *options)
    assert done.returncode == 0, done.stderr
    rows = {
        line.split()[0]: list(map(int, line.split()[1:])) for line in done.stdout.splitlines() if line[-1:].isdigit()
    }
    for kind in ('unreadable', 'off_picture', 'leak', 'duplicate', 'two_names', 'tiny', 'repeated'):
        assert rows[kind][:2] == [2, 2], rows


def test_the_page_in_a_browser(browser, tmp_path):
    root = tmp_path / 'x'
    objects = [(NAME, (20, 20, 60, 80)), (NAME, (21, 20, 61, 80))]
    write_voc(root, {'train': {'a': (picture(1), objects), 'b': (picture(2), [])}, 'val': {'c': (picture(1), [])}})
    from konohana.checkup import report

    done = check_dataset(root, ['train', 'val'], IGNORE_CLASS, progress=False)
    assert {'duplicate', 'leak', 'nobody', 'few'} <= set(kinds(done.findings))
    address = tmp_path / 'check.html'
    report.write_page(address, root, done.samples, done.splits, done.findings, done.notes, progress=False)
    tab, said, asked = browser.new_page(), [], []
    tab.on('console', lambda message: said.append(message.text) if message.type in ('error', 'warning') else None)
    tab.on('pageerror', lambda error: said.append(str(error)))
    tab.on('request', lambda request: asked.append(request.url))
    tab.goto(address.as_uri())
    n = len(done.findings)
    assert tab.inner_text('#shown') == f'{n} of {n} findings'
    assert NAME in tab.inner_text('#findings') and tab.locator('main script, main img[src=x]').count() == 0
    tab.focus('#kind')
    tab.select_option('#kind', 'leak')
    assert tab.locator('section:visible h2').all_inner_texts() == ['Nearly the same picture in two splits: 1']
    assert tab.locator('section:visible img').count() == 2
    tab.select_option('#kind', '')
    tab.select_option('#name', NAME)
    assert 0 < tab.locator('#findings li:visible').count() < n
    assert tab.evaluate('[...document.querySelectorAll("select, a")].every(b => b.tabIndex >= 0)')
    assert said == [] and [url for url in asked if not url.startswith('data:')] == [address.as_uri()]
    data = json.loads(address.read_text(encoding='utf-8').split('id="data">')[1].split('</script>')[0])
    assert len(data['findings']) == n
    tab.close()
