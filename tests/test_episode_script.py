"""_test_with_video.py as people use it on an episode: steady names, the index beside it, and going on from it."""

import base64
import csv
import io
import json
import re
import shutil

import av
import numpy as np
import pytest
from PIL import Image

from konohana import load
from konohana.episodes.episode import read_or_watch
from konohana.episodes.index import load_index, save_index, seconds_on_screen
from konohana.episodes.portraits import Portraits
from konohana.toy.writer import write_video
from konohana.video.detecting import detect
from konohana.video.moments import frames_at
from tests.conftest import PROJECT

WEIGHTS = PROJECT / 'weights' / 'net.pt'


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    path = tmp_path_factory.mktemp('episode') / '花 1.mkv'
    write_video(path, 2, 12, (90, 160), seed=5, on=(2, 3))
    return path


@pytest.fixture
def episode(drawn, tmp_path):
    return shutil.copy2(drawn, tmp_path / drawn.name)


def packets(path):
    with av.open(str(path)) as container:
        return [(bytes(p), p.pts) for p in container.demux(container.streams.video[0]) if p.size]


def frame_times(path):
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def test_an_episode_gets_an_index_and_the_next_run_goes_on_from_it(run_script, episode, tmp_path, monkeypatch):
    out = tmp_path / 'out' / 'a.mkv'
    arguments = (f'weights={WEIGHTS}', f'video_in={episode}', f'video_out={out}')
    done = run_script(
        *('_test_with_video.py', *arguments, 'find=Ren', 'clips=True', 'cut=exact', 'preview=True', 'xray=True'),
        *('preset=ultrafast', 'index_as=parquet'),
    )
    assert done.returncode == 0, done.stderr
    stages = [line for line in done.stdout.splitlines() if line.startswith('Frames a second of each stage')]
    assert [re.findall(r'(\w+) \d+ \(\d+%\)', line) for line in stages] == [
        ['decode', 'detect'],
        ['decode', 'draw', 'encode'],
    ]
    assert 'of 24 frames were looked at' in done.stdout and '莲: ' in done.stdout
    assert int(done.stdout.split(' of 24 frames')[0].rsplit(maxsplit=1)[-1]) < 24  # drawings stand for frames
    assert frame_times(out) == frame_times(episode)
    beside = {path.name for path in out.parent.iterdir()} - {'.konohana_outputs'}
    asked = {'a.preview.mp4', 'a.vtt', 'a.chapters.txt', 'a.detections.parquet', 'clips_莲'}
    assert beside == asked | {'a.mkv', 'a.appearances.csv', 'a.timeline.png', 'a.html'}
    assert '"file": "a.mkv"' in out.with_suffix('.html').read_text() and len(frame_times(out)) == 24
    assert '"player": "a.preview.mp4"' in out.with_suffix('.html').read_text()
    index = load_index(out.with_name('a.detections.parquet'))
    clips = (out.parent / 'clips_莲').glob('a_0h00m*.mkv')
    n_frames = seconds_on_screen(index)['莲'].sum()
    assert n_frames <= sum(len(frame_times(clip)) for clip in clips) <= n_frames + 12  # a pause of up to 1 s is in it
    with av.open(str(out)) as container:
        assert container.chapters()[0]['metadata']['title']
    assert len(index.times) == 24 and index.hw == (90, 160) and len(index.frame)
    with out.with_name('a.appearances.csv').open(encoding='utf-8-sig', newline='') as file:
        assert {row['who'] for row in csv.DictReader(file)} == {track['name'] for track in index.tracks}

    written = out.stat().st_mtime_ns
    options = 'preview=True', 'xray=True', 'preset=ultrafast', 'index_as=parquet'
    with monkeypatch.context() as without:
        without.setattr('konohana.inference.load', None)  # the names in the index suffice
        searched = run_script('_test_with_video.py', *arguments, 'find=Ren', *options)
        wrong = run_script('_test_with_video.py', *arguments, 'find=Nobody', *options)
    assert wrong.returncode == 2 and "nobody is called 'Nobody'" in wrong.stderr
    assert searched.returncode == 0 and 'a.mkv: already done, only searched' in searched.stdout, searched.stderr
    assert '莲: ' in searched.stdout and out.stat().st_mtime_ns == written
    drawn = run_script('_test_with_video.py', *arguments, 'find=Ren', *options, 'crf=40')
    assert drawn.returncode == 0 and 'only searched' not in drawn.stdout and out.stat().st_mtime_ns > written

    again = run_script('_test_with_video.py', *arguments, 'smooth=False', "label_names={'柚':'Y'}")
    assert again.returncode == 0 and 'Detections are taken from' in again.stdout, again.stderr
    other_part = run_script('_test_with_video.py', *arguments, 'seconds=1', 'index_only=True', 'detect_every=1')
    assert '12 of 12 frames were looked at' in other_part.stdout, other_part.stderr


def test_what_an_earlier_run_made_on_request_does_not_outlive_its_detections(run_script, episode, tmp_path):
    out = tmp_path / 'a.mkv'
    arguments = ('_test_with_video.py', f'weights={WEIGHTS}', f'video_in={episode}', f'video_out={out}')
    extras = [out.with_name(name) for name in ('a.preview.mp4', 'a.vtt', 'a.chapters.txt')]
    made = run_script(*arguments, 'index_only=True', 'seconds=0.5', 'preview=True', 'xray=True')
    same = run_script(*arguments, 'index_only=True', 'seconds=0.5')
    assert 'removed' not in made.stdout + same.stdout and all(path.is_file() for path in extras), same.stderr
    extras[2].write_text('mine', encoding='utf-8')
    newer = run_script(*arguments, 'index_only=True', 'seconds=0.3')
    assert 'a.vtt: of an earlier result, removed' in newer.stdout, newer.stderr
    assert [path.is_file() for path in extras] == [False, False, True]


def test_labels_as_subtitles_leave_the_picture_untouched(run_script, episode, tmp_path):
    pytest.importorskip('pysubs2')
    out = tmp_path / 'out' / 'a.mkv'
    done = run_script(
        '_test_with_video.py', f'weights={WEIGHTS}', f'video_in={episode}', f'video_out={out}',
        'labels_as=subtitles',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert packets(out) == packets(episode)
    with av.open(str(out)) as container:
        assert [s.type for s in container.streams] == ['video', 'audio', 'subtitle']
        texts = [bytes(p) for p in container.demux(container.streams.subtitles[0]) if p.size]
    assert len(texts) == out.with_suffix('.ass').read_text(encoding='utf-8').count('Dialogue:') > 0
    searched = run_script(
        *('_test_with_video.py', f'weights={WEIGHTS}', f'video_in={episode}', f'video_out={out}'),
        *('labels_as=subtitles', 'find=Ren'),
    )
    assert searched.returncode == 0 and 'only searched' in searched.stdout and '莲: ' in searched.stdout


def test_mistakes_are_one_line_before_the_work_starts(run_script, episode, tmp_path):
    out = tmp_path / 'a.mkv'
    for argument, line in (
        ('detect_every=0', "detect_every=0: it is 'auto' or a whole number"),
        ('labels_as=song', "labels_as='song': it is 'picture' or 'subtitles'"),
        ('find=Nobody', "find=Nobody: nobody is called 'Nobody'"),
        ('labels_as=subtitles', 'a.ass: this file exists'),
        ('seconds=0.5', 'a.html: this file exists'),
    ):
        if argument == 'labels_as=subtitles':
            out.with_suffix('.ass').write_text('mine')
        if argument == 'seconds=0.5':
            out.with_suffix('.html').write_text('mine')
        done = run_script(
            '_test_with_video.py', f'weights={WEIGHTS}', f'video_in={episode}', f'video_out={out}', argument
        )
        assert done.returncode == 2 and line in done.stderr and 'Traceback' not in done.stderr, (argument, done.stderr)
        assert 'looked at' not in done.stdout
    assert out.with_suffix('.html').read_text() == 'mine' and not out.exists()


def test_what_was_seen_before_ctrl_c_is_not_detected_again(episode, tmp_path, monkeypatch):
    model, path, calls = load(WEIGHTS, device='cpu'), tmp_path / 'a.detections.jsonl.gz', []
    whole, _ = read_or_watch(model, WEIGHTS, episode, tmp_path / 'b.gz', progress=False, batch_size=2)

    def counted(*arguments):
        calls.append(len(arguments[1]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return detect(*arguments)

    monkeypatch.setattr('konohana.episodes.watch.detect', counted)
    with pytest.raises(KeyboardInterrupt):
        read_or_watch(model, WEIGHTS, episode, path, progress=False, batch_size=2)
    assert 0 < len(load_index(path).times) < 24
    index, line = read_or_watch(model, WEIGHTS, episode, path, progress=False, batch_size=2)
    seen = int(line.split(' of the ')[0])
    assert ' frames that were left were looked at' in line
    assert sum(calls) - calls[2] == 4 + seen and index.times.tolist() == whole.times.tolist()
    np.testing.assert_array_equal(index.box, whole.box)
    np.testing.assert_array_equal(index.names, whole.names)
    assert index.shots == whole.shots and load_index(path).complete


def test_a_season_of_indexes(run_script, episode, tmp_path):
    model = load(WEIGHTS, device='cpu')
    for name in ('ep 2', 'ep 10'):
        read_or_watch(model, WEIGHTS, episode, tmp_path / f'{name}.detections.jsonl.gz', progress=False, seconds=1)
    done = run_script('tools/season.py', f'indexes_in={tmp_path}', 'find=yuzu', 'title=花')
    assert done.returncode == 0 and '2 episodes' in done.stdout, done.stderr
    assert 'only its beginning' not in done.stdout
    assert '柚: ' in done.stdout and ' together' in done.stdout  # also where they have no scene
    assert '花' in (tmp_path / 'season.html').read_text(encoding='utf-8')
    index = load_index(tmp_path / 'ep 2.detections.jsonl.gz')
    name = index.tracks[0]['name']
    options = (f'find={name}', 'clips=True', f'videos_in={tmp_path}')
    (tmp_path / 'ep 10.detections.jsonl.gz').rename(tmp_path / 'ep 10.old')
    index.complete = False
    save_index(tmp_path / 'ep 10.detections.parquet', index)
    done = run_script('tools/season.py', f'indexes_in={tmp_path}', *options)
    assert done.returncode == 0 and '2 episodes' in done.stdout, done.stderr
    assert 'ep 10.detections.parquet: only its beginning is known' in done.stdout
    cut = sorted(path.name for path in (tmp_path / f'clips_{name}').glob('*.mkv'))
    assert len(cut) >= 2 and cut[0].startswith('ep 10_0h00m0') and cut[-1].startswith('ep 2_0h00m0')
    refused = run_script('tools/season.py', f'indexes_in={tmp_path}', *options[:2])
    assert refused.returncode == 2 and 'ep 2.mkv: clips are cut out of files' in refused.stderr
    for name in ('ep 2', 'ep 10'):
        shutil.copy(episode, tmp_path / f'{name}{episode.suffix.upper()}')  # beside the index, as a camera spells it
    beside = run_script('tools/season.py', f'indexes_in={tmp_path}', *options[:2], 'overwrite=True')
    assert beside.returncode == 0, beside.stderr
    empty = run_script('tools/season.py', f'indexes_in={tmp_path / "none"}')
    assert empty.returncode == 2 and 'no index there' in empty.stderr


def test_a_season_is_searched_as_one_also_what_is_skipped(run_script, episode, tmp_path):
    show, out = tmp_path / 'show', tmp_path / 'out'
    show.mkdir()
    for name in ('ep 2.mkv', 'ep 10.mkv'):
        shutil.copy2(episode, show / name)
    arguments = (f'weights={WEIGHTS}', f'video_in={show}', f'video_out={out}', 'preset=ultrafast', 'seconds=1')
    first = run_script('_test_with_video.py', *arguments, 'find=莲', 'clips=True')
    assert first.returncode == 0, first.stderr
    (name,) = {track['name'] for track in load_index(out / 'ep 2_annotated.detections.jsonl.gz').tracks[:1]}
    again = run_script('_test_with_video.py', *arguments, f'find={name}', 'clips=True', 'cut=exact')
    assert again.returncode == 0 and again.stdout.count('already done, skipped') == 2, again.stderr
    lists = [line for line in again.stdout.splitlines() if line.startswith(f'{name}: ')]
    assert len(lists) == 1 and '  ep 2.mkv: 0:0' in again.stdout and '  ep 10.mkv: 0:0' in again.stdout
    cut = [path.name for path in (out / f'clips_{name}').glob('*.mkv')]
    assert any(clip.startswith('ep 2_annotated_') for clip in cut) and len(cut) >= 2
    wrong = run_script('_test_with_video.py', *arguments, 'find=Nobody', 'overwrite=True')
    assert wrong.returncode == 2 and "nobody is called 'Nobody'" in wrong.stderr and 'ep 2.mkv' not in wrong.stdout


def test_a_threshold_decides_who_has_a_track(episode, tmp_path):
    model, path = load(WEIGHTS, device='cpu'), tmp_path / 'a.gz'
    strict, _ = read_or_watch(model, WEIGHTS, episode, path, 0.999, progress=False)
    assert len(strict.frame) and not strict.tracks and not load_index(path).tracks
    usual, line = read_or_watch(model, WEIGHTS, episode, path, 0.5, progress=False)
    assert 'taken from' in line and usual.tracks and len(load_index(path).tracks) == len(usual.tracks)


def pictures_of(page):
    """{character: times of the pictures} of a page, all of which are pictures."""
    text = page.read_text(encoding='utf-8')
    data = json.loads(text.partition('id="data">')[2].partition('</script>')[0])
    for url in (url for who in data['characters'] for _, url in who['pictures']):
        assert Image.open(io.BytesIO(base64.b64decode(url.partition(',')[2]))).height == 120
    return {who['name']: [time for time, _ in who['pictures']] for who in data['characters']}


def test_a_page_has_its_pictures_from_watching_and_later_from_the_video(run_script, episode, tmp_path, monkeypatch):
    asked = []

    def counted(path, times, *more, **options):
        asked.append(list(times))
        return frames_at(path, times, *more, **options)

    monkeypatch.setattr('konohana.episodes.episode.frames_at', counted)
    command = '_test_with_video.py', f'weights={WEIGHTS}', f'video_in={episode}', 'index_only=True'
    assert run_script(*command, f'video_out={tmp_path / "a.mkv"}').returncode == 0
    watched = pictures_of(tmp_path / 'a.html')
    assert asked == [[]] and watched and all(watched.values())
    (tmp_path / 'a.html').unlink()
    done = run_script(*command, f'video_out={tmp_path / "a.mkv"}')
    assert done.returncode == 0 and 'Detections are taken from' in done.stdout
    assert asked[1] and pictures_of(tmp_path / 'a.html').keys() == watched.keys()
    assert all(pictures_of(tmp_path / 'a.html').values())


def test_one_picture_of_each_person_in_a_shot():
    def look(shot, first, people, grey):
        boxes = np.array([box for box, _ in people], np.float32).reshape(-1, 4)
        probabilities = np.array([[name == 0, name == 1] for _, name in people], float).reshape(-1, 2)
        found = {'boxes': boxes, 'scores': np.full(len(people), 0.9), 'probabilities': probabilities}
        portraits.look(shot, first, found, np.full((90, 160, 3), grey, np.uint8), (180, 320))

    portraits = Portraits()
    look(0, 0, [((100, 20, 140, 80), 0), ((102, 22, 142, 82), 1)], 50)
    assert sorted(portraits.taken) == [0, 1]
    look(0, 2, [((100, 20, 141, 81), 0), ((96, 16, 144, 88), 1)], 60)  # the second is nearer now
    assert sorted(portraits.taken) == [0, 3]
    look(0, 4, [((100, 20, 140, 80), 0), ((100, 20, 140, 80), 0)], 70)  # nobody is two people
    assert sorted(portraits.taken) == [0, 3, 5]
    look(1, 6, [((100, 20, 140, 80), 0)], 80)  # after a cut
    assert sorted(portraits.taken) == [0, 3, 5, 6]
    look(1, 7, [((310, 170, 330, 190), 0), ((320, 180, 330, 190), 0)], 90)  # at the edge, and off the picture
    assert sorted(portraits.taken) == [0, 3, 5, 6, 7, 8]
    assert all(url.startswith('data:image/jpeg') for url in portraits.taken.values())
