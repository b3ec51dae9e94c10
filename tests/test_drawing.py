"""Drawing and picture files: labels inside the picture and readable in any script, and ugly inputs."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont
from PIL import Image

from konohana import drawing, fonts
from konohana.cast import CLASS_NAMES, ROMANISED
from konohana.data.images import load_image, save_image
from konohana.drawing import class_colour, contact_sheet, draw_detections, heat_map, place_tags, sheet
from konohana.errors import UserError
from konohana.fonts import find_font, font_files, spellings

GREY = np.full((360, 640, 3), 128, np.uint8)


DEJAVU = Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')  # it has no Chinese


@pytest.fixture
def no_fonts(monkeypatch):
    """A machine without font files: only the font that comes with matplotlib is left."""
    monkeypatch.delenv('KONOHANA_FONT', raising=False)
    monkeypatch.setattr(fonts, 'font_files', lambda: (DEJAVU,))


def make_font(path, characters):
    """Write a font file that has squares for `characters` and nothing else."""
    names = {'.notdef': 0, **{f'u{ord(c):x}': ord(c) for c in characters}}
    pen = TTGlyphPen(None)
    for i, corner in enumerate([(0, 0), (0, 500), (500, 500), (500, 0)]):
        (pen.lineTo if i else pen.moveTo)(corner)
    pen.closePath()
    glyph = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(names))
    builder.setupCharacterMap({code: name for name, code in names.items() if code})
    builder.setupGlyf(dict.fromkeys(names, glyph))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({'familyName': path.stem, 'styleName': 'Regular'})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def detections(*boxes, labels=None, **more):
    return {'boxes': np.array(boxes, float).reshape(-1, 4), 'labels': np.array(labels or [1] * len(boxes)), **more}


# Labels


@pytest.mark.parametrize('hw', [(360, 640), (64, 64), (20, 200), (200, 20), (5, 5)])
def test_tags_lie_within_the_picture_and_are_whole(hw, monkeypatch):
    h, w = hw
    boxes = [(0, 0, w, h), (-9, -9, 3, 3), (w - 3, -2, w + 9, 9), (w - 2, h - 2, w, h), (0, h - 3, 4, h), (1, 1, 2, 2)]
    seen = []

    def spy(boxes, sizes, hw):
        places = place_tags(boxes, sizes, hw)
        seen.append((places, sizes))
        return places

    monkeypatch.setattr(drawing, 'place_tags', spy)
    image = np.full((h, w, 3), 128, np.uint8)
    names = ['八百比丘尼', 'Maximiliana von und zu Hohenberg-Lichtenstein the Second']
    scores = np.full(6, 0.93)
    draw_detections(image, detections(*boxes, labels=[1, 2] * 3, scores=scores), names)
    ((places, sizes),) = seen
    assert len(places) == (0 if min(hw) < 10 else 6)
    for (x1, y1, x2, y2), (tag_w, tag_h) in zip(places, sizes, strict=True):
        assert 0 <= x1 and 0 <= y1 and x2 <= w and y2 <= h
        assert (x2 - x1, y2 - y1) == (tag_w, tag_h)


def test_a_tag_is_pasted_whole_and_the_input_is_left_alone():
    image = GREY.copy()
    out = draw_detections(image, detections((600, 0, 640, 100), scores=[0.5]), ['a'])
    assert (image == 128).all()
    assert out.shape == image.shape and out.dtype == np.uint8
    changed = np.argwhere((out != 128).any(2))
    # Wider than its box at the right edge: the tag moved left of it, whole with its rim.
    assert changed[:, 1].min() < 600 and changed[:, 1].max() == 639


def test_tags_of_equal_boxes_do_not_cover_one_another():
    boxes = [(100, 100, 300, 200)] * 6 + [(300, 100, 500, 200)] * 2
    places = place_tags(boxes, [(90, 20)] * 8, (360, 640))
    for i, (x1, y1, x2, y2) in enumerate(places):
        for u1, v1, u2, v2 in places[:i]:
            assert min(x2, u2) <= max(x1, u1) or min(y2, v2) <= max(y1, v1)


def test_text_grows_with_the_picture():
    sizes = [drawing.text_size(hw) for hw in [(64, 64), (360, 640), (1080, 1920), (2160, 3840)]]
    assert sizes == sorted(set(sizes)) and sizes[0] >= 8


def test_colours_are_stable_and_distinct_and_text_contrasts():
    colours = [class_colour(i) for i in range(60)]
    assert colours == [class_colour(i) for i in range(60)]
    assert len(set(colours)) == 60
    for colour in colours:
        # WCAG 2: a contrast of 4.5 to 1 is readable.
        light, ink = (
            0.05 + np.power(np.array(c) / 255, 2.2) @ (0.2126, 0.7152, 0.0722)
            for c in (colour, drawing.text_colour(colour))
        )
        assert max(light, ink) / min(light, ink) > 4.5
    one = draw_detections(GREY, detections((50, 50, 99, 99), labels=[3]), ['a', 'b', 'c'])
    two = draw_detections(GREY, detections((50, 50, 99, 99), (9, 200, 60, 260), labels=[3, 1]), ['a', 'b', 'c'])
    assert (one == class_colour(2)).all(2).any()
    assert (one[:150] == two[:150]).all()


def test_scores_are_optional_and_the_threshold_counts():
    d = detections((50, 50, 150, 150), (300, 50, 400, 150))
    without = draw_detections(GREY, d, ['a'])
    scored = draw_detections(GREY, {**d, 'scores': [0.9, 0.2]}, ['a'])
    above = draw_detections(GREY, {**d, 'scores': [0.9, 0.2]}, ['a'], threshold=0.5)
    assert (without != scored).any()
    assert (above[:, :280] == scored[:, :280]).all()
    assert (above[:, 280:] == 128).all()
    assert (draw_detections(GREY, {**d, 'scores': [np.nan, np.nan]}, ['a']) == 128).all()


def test_boxes_that_cannot_be_seen_are_skipped():
    nan, inf = float('nan'), float('inf')
    unseen = [(nan, 0, 9, 9), (50, 50, 20, 20), (9, 9, 9, 60), (700, 10, 900, 60), (-60, -60, -1, -1), (0, 0, nan, nan)]
    assert (draw_detections(GREY, detections(*unseen), ['a']) == 128).all()
    assert (draw_detections(GREY, detections(), ['a']) == 128).all()
    assert (draw_detections(GREY, detections((-inf, -inf, inf, inf)), ['a'])[-1] != 128).any()
    assert (draw_detections(GREY, detections((639.9, 359.9, 700, 700)), ['a'])[-1, -1] != 128).any()


def test_labels_without_a_name_are_numbered():
    d = detections((50, 100, 150, 150), labels=[7])
    assert (draw_detections(GREY, d, ['a']) == draw_detections(GREY, d, [*'abcdef', 'class 7'])).all()


def test_torch_and_numpy_draw_the_same():
    d = detections((10.4, 100, 150, 150), (80, 30, 300, 300), labels=[1, 2], scores=np.float32([0.7, 0.9]))
    d['masks'] = np.zeros((2, 360, 640), bool)
    d['masks'][1, 100:200, 100:200] = True
    t = {key: torch.as_tensor(value) for key, value in d.items()}
    t['masks'] = t['masks'][:, None].float() * 0.8
    assert (draw_detections(GREY, d, ['a', 'b']) == draw_detections(GREY, t, ['a', 'b'])).all()


def test_masks_are_tinted_in_the_class_colour():
    masks = np.zeros((1, 360, 640))
    masks[0, 100:200, 300:400] = 0.9
    masks[0, 250:, 500:] = 0.4
    out = draw_detections(GREY, detections((290, 90, 410, 210), labels=[2], masks=masks), ['a', 'b']).astype(int)
    assert abs(out[150, 350] - (0.55 * 128 + 0.45 * np.array(class_colour(1)))).max() <= 1
    assert (out[255:, 505:] == 128).all()
    with pytest.raises(ValueError, match='masks'):
        draw_detections(GREY, detections((0, 0, 9, 9), masks=masks[[0, 0]]), ['a'])
    draw_detections(GREY, detections(masks=np.zeros((0, 360, 640), bool)), ['a'])
    draw_detections(GREY, detections((1, 1, 9, 9), masks=masks * 0), ['a'])


@pytest.mark.parametrize('kind', [bool, np.float32])
def test_masks_of_another_size_are_scaled(kind):
    full = np.zeros((1, 360, 640), bool)
    full[0, 100:220, 300:420] = True
    d = detections((300, 100, 420, 220), labels=[1])
    expected = draw_detections(GREY, {**d, 'masks': full}, ['a']).astype(int)
    for height, width in ((180, 320), (360, 160), (1080, 1280), (90, 128)):
        # Every pixel of the smaller mask lies within one of these or outside.
        y, x = (np.arange(height) + 0.5) * 360 / height, (np.arange(width) + 0.5) * 640 / width
        masks = ((100 < y) & (y < 220))[:, None] & ((300 < x) & (x < 420))
        out = draw_detections(GREY, {**d, 'masks': masks[None].astype(kind)}, ['a'])
        assert (np.abs(out - expected).max(2) > 60).mean() < 2e-3
    for masks in (np.ones((1, 2, 2), kind), np.ones((1, 1, 1), kind)):
        out = draw_detections(GREY, {**d, 'masks': masks}, ['a'])
        assert (out[5:-5, 5:-5] != 128).any(2).all()


# Fonts


def test_without_glyphs_names_are_romanised_and_it_is_said_once(no_fonts, capsys, monkeypatch):
    monkeypatch.setitem(fonts.ROMANISED, '柚木', 'Yuzuki')  # a name that no other test can have named already
    assert find_font('柚') is None
    assert find_font('Yuzu 0.9') == (DEJAVU, 0)
    names = ['柚木', *CLASS_NAMES]
    d = detections(*[(10, 20 * i + 20, 60, 20 * i + 35) for i in range(15)], labels=list(range(1, 16)))
    drawn = draw_detections(GREY, d, names)
    draw_detections(GREY, d, names)
    draw_detections(GREY, d, names[:5])
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1 and 'Noto Sans CJK' in err and '柚木' in err
    latin = draw_detections(GREY, d, [ROMANISED[name] for name in names])
    assert (drawn == latin).all()
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('name', 'spelling'),
    [
        ('铃', 'class 2'),
        ('铃Rin', 'Rin (class 2)'),
        ('铃 Éva\n', 'Eva (class 2)'),
        ('Éva Noël\n', 'Éva Noël'),
        ('\u200b', ''),
        ('\U0001f98a', 'class 2'),
    ],
)
def test_unknown_names_become_readable(no_fonts, name, spelling):
    d = detections((10, 100, 60, 150), labels=[2])
    assert (draw_detections(GREY, d, ['a', name]) == draw_detections(GREY, d, ['a', spelling])).all()


HOSTILE = [
    'a\nb\r\n\tc',
    '\x00\x1b[31mred\x07\x9b',
    '\u202egnirts\u202c \u2066x\u2069',
    'שלום עולם',
    'مرحبا بالعالم',
    '👩\u200d👩\u200d👧🏽 \U0001fae0',
    'x' * 300,
    '柚' * 300,
    'long and longer ' * 20_000,
    '\ud800\udfff',
    'a\udc80b',
    'e' + '\u0301' * 200,
    '\ufeff\ufffe\uffff\U0010ffff',
    '',
    ' \u3000 ',
    '%s {} \\n',
]


@pytest.mark.parametrize('hw', [(360, 640), (30, 40)])
def test_hostile_names_are_drawn_without_failing(hw):
    image = np.full((*hw, 3), 128, np.uint8)
    d = detections(*[(2 * i, i, 2 * i + 20, i + 20) for i in range(len(HOSTILE))], labels=range(1, len(HOSTILE) + 1))
    d['scores'] = np.linspace(0.1, 0.9, len(HOSTILE))
    numbers = [str(i) for i in range(len(HOSTILE))]
    for names, label_names in ((HOSTILE, None), (numbers, dict(zip(numbers, HOSTILE, strict=True)))):
        assert draw_detections(image, d, names, label_names=label_names).shape == image.shape
    assert sheet([image, image], [HOSTILE[0], HOSTILE[6]]).shape[1] > hw[1]


def test_a_long_name_keeps_its_score():
    boxes = detections((100, 100, 300, 200), scores=[0.87])
    long = draw_detections(GREY, boxes, ['Maximiliana ' * 30])
    other = draw_detections(GREY, {**boxes, 'scores': np.array([0.12])}, ['Maximiliana ' * 30])
    assert (long != other).any()
    # The tag takes no more than about half of the picture's width.
    tag = np.flatnonzero((long[:90] != 128).any((0, 2)))
    assert 200 < tag[-1] - tag[0] <= 322


def test_label_names_come_first(no_fonts, capsys):
    d = detections((10, 100, 60, 150))
    renamed = draw_detections(GREY, d, ['柚'], label_names={'柚': 'Yuzu the fox', 'other': 'x'})
    assert (renamed == draw_detections(GREY, d, ['Yuzu the fox'])).all()
    assert capsys.readouterr().err == ''


def test_chinese_is_drawn_where_a_font_has_it(capsys):
    found = find_font('柚莲')
    if found is None:
        pytest.skip('no font on this machine has Chinese characters')
    assert found[0] in font_files()
    d = detections((10, 100, 60, 150))
    chinese = draw_detections(GREY, d, ['柚'])
    assert (chinese != draw_detections(GREY, d, ['Yuzu'])).any() and (chinese != draw_detections(GREY, d, ['莲'])).any()
    assert (chinese == draw_detections(GREY, d, ['柚'], font=found[0])).all()
    assert capsys.readouterr().err == ''


def test_each_name_gets_a_font_that_has_it(monkeypatch, tmp_path):
    latin = ''.join(map(chr, range(33, 127)))
    files = (make_font(tmp_path / 'chinese.ttf', latin + '柚'), make_font(tmp_path / 'korean.ttf', latin + '유'))
    monkeypatch.setattr(fonts, 'font_files', lambda: files)
    assert find_font('柚') == (files[0], 0) and find_font('유 0.5') == (files[1], 0) and find_font('柚유') is None
    assert spellings(['柚', '유', 'Yuzu', '😀']) == [
        ('柚', files[0], 0),
        ('유', files[1], 0),
        ('Yuzu', files[0], 0),
        ('class 4', files[0], 0),
    ]
    assert spellings(['柚', 'Yuzu'], font=files[1])[1] == ('Yuzu', files[0], 0)
    assert spellings(['Yuzu'], font=files[1]) == [('Yuzu', files[1], 0)]


def test_faces_of_a_collection_are_those_of_the_script(monkeypatch, tmp_path):
    collection = TTCollection()
    for script, characters in (('JP', '柚ゆ유a'), ('SC', '柚ゆ유a'), ('KR', '柚ゆ유a')):
        collection.fonts.append(TTFont(make_font(tmp_path / f'Sans {script}.ttf', characters)))
    file = tmp_path / 'all of them.ttc'
    collection.save(file)
    monkeypatch.setattr(fonts, 'font_files', lambda: (file,))
    assert [find_font(text) for text in ('柚', '柚ゆ', '柚유')] == [(file, 1), (file, 0), (file, 2)]
    assert fonts.load_font(file, 1, 20).getname()[0] == 'Sans SC'


def test_a_bad_font_is_a_user_error(no_fonts, monkeypatch, tmp_path):
    d = detections((10, 10, 60, 60))
    with pytest.raises(UserError, match='no such font'):
        draw_detections(GREY, d, ['a'], font=tmp_path / 'none.ttf')
    bad = tmp_path / '坏 font.ttf'
    bad.write_text('not a font')
    monkeypatch.setenv('KONOHANA_FONT', str(bad))
    with pytest.raises(UserError, match='not a font'):
        draw_detections(GREY, d, ['a'])


def test_broken_font_files_of_the_system_are_passed_over(monkeypatch, tmp_path):
    whole = make_font(tmp_path / 'whole.ttf', 'abc').read_bytes()
    broken = {
        'zeros.ttc': b'\0' * 64,
        'empty.ttf': b'',
        'cut.ttf': whole[: len(whole) // 2],
        'head.ttc': b'ttcf\0\1\0\0',
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
    files = (*(tmp_path / name for name in broken), tmp_path / 'gone.ttf', tmp_path / 'whole.ttf')
    monkeypatch.setattr(fonts, 'font_files', lambda: files)
    assert find_font('abc') == (tmp_path / 'whole.ttf', 0)


def test_font_files_are_there_and_the_best_come_first():
    files = font_files()
    assert files[-1] == DEJAVU and all(file.is_file() for file in files)
    assert not any('emoji' in file.name.lower() for file in files)
    names = [file.name for file in files[:-1]]
    for better, worse in (
        ('NotoSansCJK-Regular.ttc', 'NotoSansCJK-Bold.ttc'),
        ('DejaVuSans.ttf', 'DejaVuSans-Bold.ttf'),
    ):
        if better in names and worse in names:
            assert names.index(better) < names.index(worse)


# Panels


def test_heat_map_runs_from_dark_to_yellow():
    values = np.tile(np.linspace(-0.5, 1.5, 80), (45, 1))
    values[0, 0] = np.nan
    out = heat_map(values, (360, 640))
    assert out.shape == (360, 640, 3) and out.dtype == np.uint8
    assert abs(out[180, 0].astype(int) - (68, 1, 84)).max() <= 2
    assert abs(out[180, -1].astype(int) - (253, 231, 37)).max() <= 2
    light = out[180].astype(float) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(light) >= -1).all()
    assert (heat_map(torch.as_tensor(values)[None], (360, 640)) == out).all()
    busy = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    over = heat_map(values, (360, 640), background=busy)
    assert (over[:, -1] == out[:, -1]).all() and over[:, 5].std(0).min() > 5


@pytest.mark.parametrize('hw', [(360, 640), (61, 63)])
def test_a_sheet_shows_every_panel_whole(hw):
    panels = [np.full((*hw, 3), value, np.uint8) for value in (50, 100, 150, 200)]
    out = sheet(panels, ['frame', 'detections', 'objectness', 'a title far too long for a panel so narrow ' * 5])
    assert out.shape[0] % 2 == 0 and out.shape[1] % 2 == 0
    for value in (50, 100, 150, 200):
        assert (out == value).all(2).sum() >= hw[0] * hw[1]
    assert (out[: out.shape[0] // 20] > 200).any()
    assert all(side % 2 == 0 for side in sheet(panels[:2]).shape[:2])
    assert all(side % 2 == 0 for side in sheet(panels[:1]).shape[:2])
    plain = sheet([panels[0], panels[1][:9], panels[2]])
    assert plain.shape[0] < out.shape[0] and (plain == 100).all(2).sum() == hw[0] * hw[1]


def test_a_contact_sheet_says_the_time_of_frames_with_long_names():
    tile, long = np.zeros((20, 30, 3), np.uint8), '[Sub-Group] A Show With a Long Name - 01 [720p][A1B2C3D4]'
    titles = [f'{long}_00h00m01s001', f'{long}_00h00m12s262']
    for numbers in ('', '12  '):
        out = contact_sheet([tile, tile], [numbers + title for title in titles], (140, 140), 2)
        first, second = out[: out.shape[0] - 140, :140], out[: out.shape[0] - 140, -140:]
        assert (first != second).any() and (first[:, :20] == second[:, :20]).all()


# Picture files


def test_pictures_survive_names_in_any_script(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    path = tmp_path / '新 folder' / '柚 é.png'
    save_image(path, picture)
    assert (load_image(path) == picture).all()
    smooth = np.tile(np.arange(0, 240, 8, dtype=np.uint8)[None, :, None], (20, 1, 3))
    save_image(str(path.with_suffix('.JPG')), smooth)
    assert abs(load_image(path.with_suffix('.JPG')).astype(int) - smooth).max() < 8
    assert {p.name for p in path.parent.iterdir()} == {'柚 é.png', '柚 é.JPG'}


def test_writing_fails_in_one_line_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match=r'\.png'):
        save_image(tmp_path / 'a.gif', GREY)
    (tmp_path / 'file').write_text('x')
    with pytest.raises(UserError, match='cannot be written'):
        save_image(tmp_path / 'file' / 'a.png', GREY)
    (tmp_path / 'taken.png').mkdir()
    with pytest.raises(UserError, match='cannot be written'):
        save_image(tmp_path / 'taken.png', GREY)
    with pytest.raises(ValueError, match='uint8'):
        save_image(tmp_path / 'b.png', GREY / 255)
    assert {p.name for p in tmp_path.iterdir()} == {'file', 'taken.png'}


def test_a_failed_write_keeps_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / 'a.png'
    save_image(path, GREY)

    def fail(self, file, **options):
        file.write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Image.Image, 'save', fail)
    with pytest.raises(UserError, match='No space left'):
        save_image(path, GREY * 0)
    assert (load_image(path) == 128).all() and len(list(tmp_path.iterdir())) == 1


def test_every_mode_becomes_rgb(tmp_path):
    def loaded(image, name, **options):
        image.save(tmp_path / name, **options)
        out = load_image(tmp_path / name)
        assert out.shape == (6, 8, 3) and out.dtype == np.uint8
        assert out.flags.writeable
        return out[3, 4].tolist()

    assert loaded(Image.new('L', (8, 6), 77), 'l.png') == [77] * 3
    assert loaded(Image.new('1', (8, 6), 1), '1.png') == [255] * 3
    assert loaded(Image.fromarray(np.full((6, 8), 257 * 40, np.uint16)), '16.png') == [40] * 3
    assert loaded(Image.fromarray(np.full((6, 8), 257 * 40, np.uint16)), '16.tif') == [40] * 3
    assert loaded(Image.fromarray(np.full((6, 8), 0.2, np.float32)), 'f.tif') == [51] * 3
    assert loaded(Image.new('RGBA', (8, 6), (255, 0, 0, 0)), 'rgba.png') == [255] * 3
    assert loaded(Image.new('RGBA', (8, 6), (255, 0, 0, 51)), 'half.png') == [255, 204, 204]
    assert loaded(Image.new('LA', (8, 6), (0, 0)), 'la.png') == [255] * 3
    assert loaded(Image.new('P', (8, 6), 0), 'p.png', transparency=0) == [255] * 3
    assert loaded(Image.new('RGB', (8, 6), (1, 2, 3)), 'key.png', transparency=(1, 2, 3)) == [255] * 3
    red = loaded(Image.new('CMYK', (8, 6), (0, 255, 255, 0)), 'cmyk.jpg', quality=95)
    assert red[0] > 200 and max(red[1:]) < 60


@pytest.mark.filterwarnings('ignore:Corrupt EXIF data')
def test_damaged_exif_is_no_damaged_picture(tmp_path):
    for exif in (b'Exif\0\0garbage', b'Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01'):
        Image.new('RGB', (32, 16)).save(tmp_path / 'a.jpg', exif=exif)
        assert load_image(tmp_path / 'a.jpg').shape == (16, 32, 3)


@pytest.mark.parametrize(('orientation', 'corner'), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_exif_orientation_is_applied(tmp_path, orientation, corner):
    picture = Image.new('RGB', (32, 16))
    picture.paste((255, 255, 255), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / 'a.jpg', exif=exif, quality=95)
    out = load_image(tmp_path / 'a.jpg')
    assert out.shape == ((32, 16, 3) if orientation > 4 else (16, 32, 3))
    assert out[corner].min() > 200 and sum(out[c].min() > 200 for c in [(0, 0), (0, -1), (-1, 0), (-1, -1)]) == 1


def test_bad_files_are_named_in_one_line(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for ending in ('jpg', 'png'):
        save_image(tmp_path / f'whole.{ending}', noise)
        data = (tmp_path / f'whole.{ending}').read_bytes()
        (tmp_path / f'cut.{ending}').write_bytes(data[: len(data) // 2])
        (tmp_path / f'head.{ending}').write_bytes(data[:20])
        (tmp_path / f'torn.{ending}').write_bytes(data[: len(data) // 2] + b'\0' * 9 + data[len(data) // 2 + 90 :])
    (tmp_path / 'text.jpg').write_text('Not found 柚', encoding='utf-8')
    (tmp_path / 'empty.jpg').write_bytes(b'')
    (tmp_path / 'folder.jpg').mkdir()
    bad = ['cut.jpg', 'cut.png', 'head.jpg', 'head.png', 'torn.png', 'text.jpg', 'empty.jpg', 'folder.jpg', 'none.jpg']
    for name in bad:
        with pytest.raises(UserError) as error:
            load_image(tmp_path / name)
        assert name in str(error.value) and '\n' not in str(error.value)
    assert load_image(tmp_path / 'torn.jpg').shape == noise.shape  # libjpeg mends it, as any viewer does


def test_a_huge_claim_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr('konohana.data.images.MAX_PIXELS', 99)
    save_image(tmp_path / 'a.png', np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(UserError, match=r'a\.png: 10 x 10'):
        load_image(tmp_path / 'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 20)
    with pytest.raises(UserError, match=r'a\.png'):
        load_image(tmp_path / 'a.png')
