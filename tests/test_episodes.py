"""From boxes to people: tracks, names, the index of an episode, and what is made of it."""

import copy
import csv
import gzip
import itertools
import json
import os
import warnings
from fractions import Fraction

import numpy as np
import pytest

from konohana.episodes import find, page, season, subtitles, timeline, tracks
from konohana.episodes.episode import rate_of
from konohana.episodes.index import (
    appearances,
    build_index,
    load_index,
    save_index,
    seconds_on_screen,
    write_appearances,
)
from konohana.episodes.names import choose_names, track_probabilities
from konohana.episodes.shots import Repeats, ShotFinder
from konohana.episodes.tracks import link_shot
from konohana.errors import UserError

NAMES = ['Yuzu', 'Satsuki', '其他']
HOSTILE = '<script>alert("x")</script>\' ' + 'y' * 180


def sure_of(name, how=0.9):
    rest = (1 - how) / (len(NAMES) - 1)
    return [how if other == name else rest for other in NAMES]


def box_at(x, y=40, size=40):
    return [x, y, x + size, y + size]


def episode(frames, names=NAMES, shots=(0,), chapters=(), fps=24):
    """An index of frames, each a list of (box, score, probabilities)."""
    detections = [
        {
            'boxes': np.array([box for box, _, _ in found], np.float32).reshape(-1, 4),
            'scores': np.array([score for _, score, _ in found], np.float32),
            'probabilities': np.array([p for _, _, p in found], np.float32).reshape(-1, len(names)),
        }
        for found in frames
    ]
    times = np.arange(len(frames)) / fps
    return build_index('a.mkv', (180, 320), times, names, ['其他'], list(shots), list(chapters), detections)


def flat(frames):
    """Frames as `link_shot` takes them."""
    rows = [(i, box, score, p) for i, found in enumerate(frames) for box, score, p in found]
    return tuple(np.array(part) for part in zip(*rows, strict=True))


# Tracks


def test_one_person_is_one_track_over_misses_and_weak_boxes():
    frames = [[(box_at(10 + i), 0.9, sure_of('Yuzu'))] for i in range(30)]
    frames[7] = frames[8] = []
    frames[15] = [(box_at(25), 0.3, sure_of('Yuzu'))]
    (track,) = link_shot(*flat(frames))
    assert track.frames.tolist() == list(range(30))
    assert np.flatnonzero(track.rows < 0).tolist() == [7, 8]
    # Smoothing looks both ways: in even motion the box is where it was seen, not behind.
    np.testing.assert_allclose(track.boxes[3:-3, 0], 10 + np.arange(3, 27), atol=0.05)


def test_a_longer_gap_is_joined_only_where_name_and_place_agree():
    def after_gap(name, x):
        frames = [[(box_at(10), 0.9, sure_of('Yuzu'))]] * 10 + [[]] * 10 + [[(box_at(x), 0.9, sure_of(name))]] * 10
        return [len(track.frames) for track in link_shot(*flat(frames))]

    assert after_gap('Yuzu', 12) == [30]
    assert after_gap('Yuzu', 200) == [10, 10]
    assert after_gap('Satsuki', 12) == [10, 10]


def test_people_who_pass_one_another_keep_their_tracks():
    frames = [
        [(box_at(10 + 4 * i), 0.9, sure_of('Yuzu')), (box_at(210 - 4 * i), 0.9, sure_of('Satsuki'))] for i in range(50)
    ]
    tracks = link_shot(*flat(frames))
    assert len(tracks) == 2
    ways = sorted(float(track.boxes[-1, 0] - track.boxes[0, 0]) for track in tracks)
    np.testing.assert_allclose(ways, [-196, 196], atol=4)


def test_what_flashes_up_is_no_track():
    frames = [[(box_at(10), 0.9, sure_of('Yuzu'))] for _ in range(20)]
    for i in (5, 6):
        frames[i] = [*frames[i], (box_at(150), 0.95, sure_of('Satsuki'))]
    assert len(link_shot(*flat(frames))) == 1
    nobody = np.zeros((0, 4))
    assert link_shot(np.zeros(0, int), nobody, np.zeros(0), np.zeros((0, 3))) == []


def people_who_come_and_go(n_frames, seed=0):
    """Frames in which six people, some of whom look alike, stand about and are often missed for a while."""
    rng, frames = np.random.default_rng(seed), []
    there, places = np.ones(6, bool), np.arange(6) * 30.0
    for _ in range(n_frames):
        there ^= rng.random(6) < np.where(there, 0.04, 0.12)
        places += rng.normal(0, 2, 6)
        now = [(box_at(places[k]), 0.4 + 0.5 * rng.random(), sure_of(NAMES[k % 2], 0.7)) for k in np.flatnonzero(there)]
        frames.append(now)
    return frames


def test_a_long_shot_is_linked_as_its_parts_are(monkeypatch):
    frames = people_who_come_and_go(400)
    alone = link_shot(*flat(frames))
    assert len(alone) > 10
    assert sum((track.rows < 0).sum() for track in alone) > 50, 'there are gaps to be joined over'
    pause = len(frames) + tracks.MAX_GAP
    both = link_shot(*flat([*frames, *[[]] * tracks.MAX_GAP, *frames]))
    places = [(track.frames.tolist(), track.boxes.round(4).tolist()) for track in both]
    assert places == [
        ((track.frames + late).tolist(), track.boxes.round(4).tolist()) for late in (0, pause) for track in alone
    ]
    monkeypatch.setattr(tracks, 'BLOCK', 3)
    assert [track.rows.tolist() for track in link_shot(*flat(frames))] == [track.rows.tolist() for track in alone]


def test_joining_many_pieces_makes_no_table_of_all(monkeypatch):
    sizes, pairs = [], tracks.pairs
    monkeypatch.setattr(tracks, 'pairs', lambda table, *more: sizes.append(table.size) or pairs(table, *more))
    monkeypatch.setattr(tracks, 'BLOCK', 8)
    link_shot(*flat(people_who_come_and_go(1500)))
    assert max(sizes) < 400


@pytest.mark.parametrize('n_frames', [1, 2])
def test_a_video_shorter_than_a_track_shows_people_too(n_frames):
    index = episode([[(box_at(10), 0.9, sure_of('Yuzu'))]] * n_frames)
    assert [(track['name'], len(track['frames'])) for track in index.tracks] == [('Yuzu', n_frames)]


def test_a_cut_ends_every_track():
    frames = [[(box_at(10), 0.9, sure_of('Yuzu'))] for _ in range(20)]
    assert [track['frames'].tolist() for track in episode(frames, shots=(0, 12)).tracks] == [
        list(range(12)),
        list(range(12, 20)),
    ]


# Names


def test_a_track_has_the_name_of_its_good_frames():
    p = track_probabilities(np.array([sure_of('Yuzu'), sure_of('Satsuki'), sure_of('Satsuki')]), [1.0, 0.1, 0.1])
    assert p.argmax() == 0 and p.sum() == pytest.approx(1)
    # One frame that is certain of the wrong name does not outvote the rest.
    wrong = np.array([[0.0, 1.0, 0.0]] + [sure_of('Yuzu', 0.6)] * 20)
    assert track_probabilities(wrong, np.ones(21)).argmax() == 0


def test_a_named_character_stands_once_in_a_frame():
    p = [[0.9, 0.05, 0.05], [0.6, 0.3, 0.1], [0.7, 0.2, 0.1]]
    chosen, second = choose_names(p, [(0, 10), (5, 15), (11, 20)], shared={2})
    # The second is seen with both others, and they not with each other.
    assert chosen.tolist() == [0, 1, 0] and second.tolist() == [1, 0, 1]
    others = choose_names([[0.1, 0.1, 0.8]] * 3, [(0, 9)] * 3, shared={2})[0]
    assert others.tolist() == [2, 2, 2]
    assert choose_names([[1.0], [1.0]], [(0, 1), (0, 1)], set())[1].tolist() == [-1, -1]
    assert choose_names([], [], set())[0].tolist() == []


def test_a_second_box_of_one_person_is_nobody_else():
    whole, part = [10, 10, 110, 170], [10, 60, 90, 168]

    def tracks(name='Yuzu', score=0.6, how=0.7, box=part):
        found = [(whole, 0.9, sure_of('Yuzu')), (box, score, sure_of(name, how))]
        return [(t['name'], len(t['frames'])) for t in episode([found] * 10).tracks]

    assert tracks() == tracks(box=[0, 5, 115, 175]) == [('Yuzu', 10)]
    assert tracks('Satsuki') == [('Yuzu', 10), ('Satsuki', 10)]  # a child before an adult
    assert len(tracks(box=[60, 10, 160, 170])) == len(tracks(score=0.95)) == len(tracks(how=0.95)) == 2
    crowd = [(whole, 0.9, sure_of('其他')), (part, 0.6, sure_of('其他', 0.7))]
    assert len(episode([crowd] * 10).tracks) == 2


def test_where_one_box_of_a_person_takes_over_from_another_both_have_the_name():
    whole, head = ([10, 10, 110, 170], 0.9, sure_of('Yuzu')), ([40, 10, 80, 50], 0.6, sure_of('Yuzu', 0.7))
    before, after = episode([[head]] * 8 + [[head, whole]] * 3 + [[whole]] * 9).tracks
    assert before['name'] == after['name'] == 'Yuzu'
    assert before['frames'].tolist() == list(range(8)) and after['frames'].tolist() == list(range(8, 20))
    assert before['boxes'].shape == (8, 4) and len(before['rows']) == 8
    short = episode([[head]] * 2 + [[head, whole]] * 2 + [[whole]] * 9).tracks  # what is left is no track
    assert [track['frames'][0] for track in short] == [2]


# Shots and frames that repeat


def test_cuts_are_found_and_repeats_known_through_noise():
    rng = np.random.default_rng(0)
    finder, repeats, said = ShotFinder(24), Repeats(), []
    for _ in range(4):
        scene = rng.integers(0, 256, (6, 8, 3)).repeat(30, 0).repeat(40, 1)
        for i in range(24):
            frame = np.roll(scene, 3 * (i // 2), axis=1) + rng.integers(-2, 3, scene.shape)
            frame = frame.clip(0, 255).astype(np.uint8)
            finder.add(frame)
            said.append(repeats(frame))
    assert finder.starts == [0, 24, 48, 72]
    assert said == [i % 2 == 1 for i in range(96)]


# The index


@pytest.fixture
def index():
    frames = []
    for i in range(72):
        found = [(box_at(10 + i % 3), 0.9, sure_of('Yuzu'))] if i < 60 else []
        if 24 <= i < 48:
            found.append((box_at(200), 0.8, sure_of('Satsuki')))
        frames.append(found)
    return episode(frames, shots=(0, 30), chapters=[(0.0, 'Opening'), (2.0, 'Part A')])


def test_an_index_read_from_its_file_says_the_same(index, tmp_path):
    path = tmp_path / '花.detections.jsonl.gz'
    save_index(path, index)
    first = path.read_bytes()
    again = load_index(path)
    assert appearances(again) == appearances(index)
    assert (again.hw, again.shots, again.chapters, again.class_names) == ((180, 320), [0, 30], index.chapters, NAMES)
    save_index(path, again)
    assert path.read_bytes() == first
    lines = [json.loads(line) for line in gzip.decompress(first).decode().splitlines()]
    assert lines[1]['frame'] == 0 and lines[1]['name'] == 'Yuzu' and lines[1]['names']['Yuzu'] == pytest.approx(0.9)


def test_of_many_names_an_index_keeps_what_its_file_holds(tmp_path):
    """A detector without probabilities gives all other names the same one."""
    names = [f'n{k}' for k in range(9)]
    index = episode([[(box_at(10), 0.6, [0.05] * 3 + [0.6] + [0.05] * 5)]] * 5, names)
    assert (index.names > 0).sum(axis=1).tolist() == [5] * 5
    save_index(tmp_path / 'a.detections.jsonl.gz', index)
    again = load_index(tmp_path / 'a.detections.jsonl.gz')
    np.testing.assert_array_equal(again.names, index.names)
    assert again.tracks[0]['probability'] == index.tracks[0]['probability']


def test_a_last_frame_after_a_pause_is_not_as_long_as_the_pause():
    index = episode([[(box_at(10), 0.9, sure_of('Yuzu'))]] * 6)
    index.times = np.array([0.0, 0.04, 0.08, 0.12, 0.16, 3600.0])
    assert index.frame_seconds[-1] == pytest.approx(0.04) and index.frame_seconds[-2] > 3599
    assert appearances(index)[0]['to'] == 3600.04


def test_appearances_go_on_over_a_cut(index, tmp_path):
    rows = appearances(index)
    assert [(row['who'], row['from'], row['to']) for row in rows] == [('Yuzu', 0, 2.5), ('Satsuki', 1, 2)]
    assert rows[0]['tracks'] == '0 2' and rows[0]['largest_size'] == pytest.approx(1600 / 180 / 320, abs=1e-3)
    write_appearances(tmp_path / 'a.csv', index)
    with (tmp_path / 'a.csv').open(encoding='utf-8-sig', newline='') as file:
        assert [row['who'] for row in csv.DictReader(file)] == ['Yuzu', 'Satsuki']
    seconds = {name: there.sum() / 24 for name, there in seconds_on_screen(index).items()}
    assert seconds == {'Yuzu': 2.5, 'Satsuki': 1.0}


def test_nobody_is_on_screen(tmp_path):
    index = episode([[]] * 5)
    save_index(tmp_path / 'a.gz', index)
    assert appearances(load_index(tmp_path / 'a.gz')) == []
    write_appearances(tmp_path / 'a.csv', index)
    timeline.write_timeline(tmp_path / 'a.png', index)
    page.write_page(tmp_path / 'a.html', index, tmp_path / 'a.mp4')
    assert find.scenes_with(index, ['Yuzu']) == []


@pytest.mark.parametrize('damage', ['gone', 'text', 'cut', 'other', 'frame', 'line gone', 'a name', 'endless'])
def test_a_damaged_index_is_one_line(index, tmp_path, damage):
    path = tmp_path / 'a.detections.jsonl.gz'
    save_index(path, index)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    changed = {
        'text': b'no gzip',
        'cut': path.read_bytes()[:-20],
        'other': gzip.compress(b'{"format": "other"}\n'),
        'frame': gzip.compress(
            '\n'.join([lines[0], lines[1].replace('"frame": 0', '"frame": 999'), *lines[2:]]).encode()
        ),
        'endless': gzip.compress('\n'.join(lines).replace('"frame": 0', '"frame": 1e999').encode()),
        'line gone': gzip.compress('\n'.join(lines[:-1]).encode()),
        'a name': gzip.compress('\n'.join(lines).replace('"names": {"Yuzu"', '"names": {"Nobody"').encode()),
    }
    path.write_bytes(changed[damage]) if damage in changed else path.unlink()
    with pytest.raises(UserError) as error:
        load_index(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


# What is made of it


def test_scenes_with_several(index):
    assert find.scenes_with(index, find.wanted_names('yuzu，SATSUKI', NAMES)) == [(1.0, 2.0)]
    assert find.wanted_names('柚子, other', NAMES, {'Yuzu': '柚子'}) == ['Yuzu', '其他']
    with pytest.raises(UserError, match=r"nobody is called 'Yuzo'\. Did you mean yuzu"):
        find.wanted_names('Yuzo', NAMES)
    assert find.wanted_names('AL, al', ['AL', 'Al']) == ['AL', 'Al']
    assert find.wanted_names('Smith, Jo', ['Smith, Jo', 'Bo']) == ['Smith, Jo']


def test_the_page_shows_hostile_names_as_text_and_asks_for_nothing(index, tmp_path):
    path = tmp_path / 'a.html'
    picture = page.portrait_of(np.zeros((180, 320, 3), np.uint8), (0, 0, 40, 40))
    page.write_page(path, index, tmp_path / 'a "b".mp4', {'Yuzu': HOSTILE}, {'Yuzu': [(3, picture)]})
    text = path.read_text(encoding='utf-8')
    assert '<script>alert' not in text and 'http://' not in text and 'https://' not in text
    data = json.loads(text.partition('id="data">')[2].partition('</script>')[0])
    assert data['characters'][0]['shown'] == HOSTILE and data['characters'][0]['spans'] == [[0, 2.5]]
    assert data['player'] == 'a%20%22b%22.mp4' and data['chapters'][1] == [2.0, 'Part A']


def test_pictures_are_of_where_somebody_is_seen_best(index):
    moments = page.picture_moments(index)
    assert [len(found) for found in moments.values()] == [2, 2] and set(moments) == {'Yuzu', 'Satsuki'}
    assert all(0 <= frame < 60 for frame, *_ in moments['Yuzu'])
    rows = index.tracks[0]['rows']
    index.portraits = {int(rows[rows >= 0][3]): 'data:'}
    frame, box, row = page.picture_moments(index)[index.tracks[0]['name']][0]
    assert row in index.portraits and frame == index.frame[row] and np.allclose(box, index.box[row], atol=8)


def test_timeline_is_drawn(index, tmp_path):
    timeline.write_timeline(tmp_path / 'a.png', index, {'Yuzu': 'Yuzu the fox'})
    assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')
    assert timeline.clock(3725) == '1:02:05' and timeline.clock(59.6) == '1:00'


def test_chapters_of_any_title_are_drawn_and_kept(index, tmp_path):
    """Formulas, line ends of Unicode, scripts that matplotlib's own font has not, and chapters of another part."""
    index.chapters = [(0.0, r'$\foo$ 5$'), (0.5, 'Part\x85A\u2028'), (1.0, 'オープニング'), (600.0, 'y' * 300)]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        timeline.write_timeline(tmp_path / 'a.png', index, {'Yuzu': r'$\foo$', 'Satsuki': HOSTILE})
    save_index(tmp_path / 'a.detections.jsonl.gz', index)
    assert load_index(tmp_path / 'a.detections.jsonl.gz').chapters == index.chapters


def test_commas_in_names_and_names_of_videos_that_are_no_utf_8(index, tmp_path):
    pysubs2 = pytest.importorskip('pysubs2')
    subtitles.write_subtitles(tmp_path / 'a.ass', index, {'Yuzu': 'Yuzu, the fox\r\x85'})
    texts = {event.text.rpartition('}')[2] for event in pysubs2.load(str(tmp_path / 'a.ass'))}
    assert 'Yuzu, the fox' in texts and len(texts - {event for event in texts if event.startswith('m ')}) == 2
    name = os.fsdecode(b'\x83A 1.mkv')
    page.write_page(tmp_path / 'a.html', index, tmp_path / name, preview=None)
    assert '"player": "%83A%201.mkv"' in (tmp_path / 'a.html').read_text(encoding='utf-8')
    page.write_page(tmp_path / 'a.html', index, tmp_path / 'b' / name)
    assert f'"player": "{tmp_path.resolve().as_uri()}/b/%83A%201.mkv"' in (tmp_path / 'a.html').read_text()
    assert season.season_data([index], 'a', beside=[name])['episodes'][0]['page'] == '%83A%201.mkv'


def test_subtitles_keep_to_the_frames_times(index, tmp_path):
    pysubs2 = pytest.importorskip('pysubs2')
    index.times = np.cumsum(np.r_[0, np.tile([0.04, 0.07], 40)])[: len(index.times)]  # a variable rate
    subtitles.write_subtitles(tmp_path / 'a.ass', index, {'Yuzu': '{b\\N}' + HOSTILE})
    subs = pysubs2.load(str(tmp_path / 'a.ass'))
    assert (subs.info['PlayResX'], subs.info['PlayResY']) == ('320', '180')
    labels = [event for event in subs if event.layer == subtitles.LAYER_NAME and 'Satsuki' in event.text]
    assert abs(labels[0].start - 1000 * index.times[24]) <= 5 and abs(labels[-1].end - 1000 * index.times[48]) <= 5
    assert not any('{b' in event.text for event in subs)
    spans = sorted((e.start, e.end) for e in subs if e.layer == subtitles.LAYER_BOX and e.name.startswith('('))
    assert all(a[1] <= b[0] + 10 for a, b in itertools.pairwise(spans))


def test_a_season_in_one_page(index, tmp_path):
    other = episode([[(box_at(10), 0.9, sure_of('Satsuki'))]] * 24)
    other.video = '</script>.mkv'
    data = season.season_data([other, index], 'Season 1', {'Yuzu': HOSTILE}, ['', 'a b.html'])
    assert data['names'] == [HOSTILE, 'Satsuki'] and data['time'] == [[0, 2.5], [1, 1]]
    assert data['meetings'][0][1] == data['meetings'][1][0] == 1
    assert data['first'] == [('Satsuki', '</script>.mkv', 0), (HOSTILE, 'a.mkv', 0)]
    assert data['episodes'][1] == {'name': 'a.mkv', 'short': 'a.mkv', 'page': 'a%20b.html'}
    season.write_season(tmp_path / 'season.html', [other, index], 'Season 1', {'Yuzu': HOSTILE})
    text = (tmp_path / 'season.html').read_text(encoding='utf-8')
    assert '<script>alert' not in text and text.count('</script>') == 3


@pytest.mark.parametrize(
    ('names', 'short'),
    [
        (['[G] A Show - 01 [A1B2].mkv', '[G] A Show - 02 [99FF].mkv'], ['…01 [A1B2].mkv', '…02 [99FF].mkv']),
        (['A.Show.S01E09.mkv', 'A.Show.S01E10.mkv'], ['…S01E09.mkv', '…S01E10.mkv']),
        (['ep1.mkv', 'ep2.mkv'], ['ep1.mkv', 'ep2.mkv']),
        (['狐 1.mkv', '狐 1.mkv'], ['狐 1.mkv', '狐 1.mkv']),
        (['a b.mkv'], ['a b.mkv']),
    ],
)
def test_columns_of_a_season_say_which_episode_it_is(index, names, short):
    episodes = [copy.copy(index) for _ in names]
    for one, name in zip(episodes, names, strict=True):
        one.video = name
    assert [one['short'] for one in season.season_data(episodes, 'a')['episodes']] == short


@pytest.mark.parametrize(
    ('frames', 'seconds', 'rate', 'text'),
    [
        (1, 0.04, 25, '25 fps'),
        (240, 10.01, Fraction(24000, 1001), '23.976 fps'),
        (241, 10.0, 24, '24 fps'),  # one frame more is no variation
        (38, 2.0, 25, '19 fps on average, varying'),
        (50, 3601.0, 25, '0.013885 fps on average, varying'),
        (5, 0.0, 25, '25 fps'),
    ],
)
def test_a_rate_that_varies_is_told_as_what_it_is(frames, seconds, rate, text):
    assert rate_of({'frames': frames, 'seconds': seconds, 'rate': Fraction(rate)}) == text


def test_an_index_that_unpacks_to_too_much_is_one_line(index, tmp_path, monkeypatch):
    path = tmp_path / 'episode.detections.jsonl.gz'
    save_index(path, index)
    size = len(gzip.decompress(path.read_bytes()))
    monkeypatch.setattr('konohana.episodes.index.LARGEST_FILE', size)
    assert load_index(path).class_names == index.class_names
    monkeypatch.setattr('konohana.episodes.index.LARGEST_FILE', size - 1)
    with pytest.raises(UserError, match='it is too large'):
        load_index(path)
