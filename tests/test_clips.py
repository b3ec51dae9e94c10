"""Scenes cut out of episodes, the preview for browsers, what players are told, and the index as Parquet."""

import builtins
import os
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from konohana.episodes import clips, xray
from konohana.episodes.episode import episode_of as episode_in
from konohana.episodes.episode import known_episode
from konohana.episodes.find import Episode, Scene, find_scenes
from konohana.episodes.index import appearances, load_index, save_index
from konohana.episodes.watch import watch
from konohana.errors import UserError, printable
from konohana.video.moments import frames_at
from konohana.video.recode import write_preview
from konohana.video.source import Source
from tests.conftest import load_script
from tests.test_episodes import HOSTILE, NAMES, box_at, sure_of
from tests.test_episodes import episode as index_of
from tests.test_watch import NOBODY

MS = Fraction(1, 1000)
STEPS = [40, 40, 80, 40, 120, 40]  # ms between frames: a variable rate
GAP = 3000  # ms, after frame 40
ENCODING = {'codec': 'h264', 'crf': 18, 'preset': 'ultrafast'}


def frame_moments(start=0, n_frames=72):
    """Times of frames in ms."""
    moments = start + np.concatenate([[0], np.cumsum(np.resize(STEPS, n_frames - 1))])
    return (moments + GAP * (np.arange(n_frames) > 40)).tolist()


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """Function (path, ...) -> path, see `draw`: each video is drawn once."""
    known = {}

    def drawn(path, *arguments, **options):
        key = path.suffix, repr(arguments), repr(options)
        if key not in known:
            known[key] = draw(tmp_path_factory.mktemp('drawn') / f'a{path.suffix}', *arguments, **options)
        shutil.copy2(known[key], path)
        return path

    return drawn


def draw(path, moments, options=None, n_audio=2, text=True):
    """A video whose frame i is grey 40 + 2 i, with key frames each 12 frames, noise as sound, and a line of text."""
    rng = np.random.default_rng(0)
    with av.open(str(path), 'w') as out:
        video = out.add_stream('libx264', 25, width=64, height=48, pix_fmt='yuv420p')
        video.options = {
            'preset': 'fast',
            'x264-params': 'keyint=12:min-keyint=12:scenecut=0:bframes=3',
            **(options or {}),
        }
        video.codec_context.time_base = video.time_base = MS
        sounds = [out.add_stream('aac', rate=48000, layout='stereo') for _ in range(n_audio)]
        for sound, language in zip(sounds, ('jpn', 'eng'), strict=False):
            sound.metadata['language'] = language
        if text:
            out.add_attachment('a font.ttf', 'application/x-truetype-font', b'not a font')
            words = out.add_stream('ass')
            words.codec_context.subtitle_header = (
                b'[Script Info]\n[Events]\nFormat: Layer, Start, End, Style, Name, Text\n'
            )
            words.time_base = words.codec_context.time_base = MS
        out.start_encoding()
        packets = []
        for i, moment in enumerate(moments):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + 2 * i, np.uint8), 'rgb24')
            frame.pts, frame.time_base = int(moment), MS
            packets += video.encode(frame)
        packets += video.encode(None)
        for sound in sounds:
            for k in range(int(moments[-1] * 48 / 1024) + 1):
                noise = rng.integers(-9000, 9000, (1, 2048), np.int16)
                frame = av.AudioFrame.from_ndarray(noise, format='s16', layout='stereo')
                frame.sample_rate, frame.pts, frame.time_base = 48000, 1024 * k, Fraction(1, 48000)
                packets += sound.encode(frame)
            packets += sound.encode(None)
        if text:
            line = av.Packet(b'0,0,Default,,0,0,0,,Good morning')
            line.stream, line.pts, line.dts, line.time_base, line.duration = words, 600, 600, MS, 2500
            packets.append(line)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            out.mux(packet)
    return path


def frames(path):
    """(seconds, grey) of each frame."""
    with av.open(str(path)) as container:
        return [(f.time, float(f.to_ndarray(format='gray').mean())) for f in container.decode(video=0)]


def sounds(path):
    """For each sound track: {bytes of a packet: seconds}."""
    with av.open(str(path)) as container:
        found = [{} for _ in container.streams.audio]
        for packet in container.demux(container.streams.audio):
            if packet.size:
                found[packet.stream.index - container.streams.audio[0].index][bytes(packet)] = float(
                    packet.pts * packet.time_base
                )
        return found


def scene_of(path, first, last, start=0.0):
    """The scene of frames `first` to `last`, not included, in an episode in which Yuzu is there all the time."""
    with Source(path) as source:
        unit = source.prepare(source.picture, exact=False)
        times = [float(f.pts * unit) for f in source.items() if isinstance(f, av.VideoFrame)]
    index = index_of([[(box_at(10), 0.9, sure_of('Yuzu'))]] * len(times))
    index.times, index.video = np.array(times).round(6), path.name
    ends = [*times, times[-1] + 0.04]
    return Scene(Episode(index, path.stem, path, start), ends[first], ends[last])


@pytest.mark.parametrize(
    ('ending', 'begins', 'first', 'last'),
    [('.mkv', 0, 13, 30), ('.mp4', 0, 24, 52), ('.mkv', 1500, 0, 20), ('.mp4', 1500, 37, 72)],
)
def test_an_exact_clip_has_each_frame_of_its_scene_and_no_other(drawn, tmp_path, ending, begins, first, last):
    path = drawn(tmp_path / f'花 1{ending}', frame_moments(begins), text=ending == '.mkv')
    scene = scene_of(path, first, last)
    (clip,) = clips.cut_clips([scene], tmp_path / 'clips', 'exact', progress=False, **ENCODING)
    source, found = frames(path)[first:last], frames(clip)
    assert len(found) == last - first
    np.testing.assert_allclose([grey for _, grey in found], [grey for _, grey in source], atol=0.7)
    np.testing.assert_allclose([t for t, _ in found], [t - source[0][0] for t, _ in source], atol=0.0011)
    in_time(path, clip, source[0][0])


def in_time(path, clip, begin, within=0.05):
    """Check that each sound packet of a clip is one of the source, `begin` seconds earlier, and none is missing."""
    tracks = sounds(clip)
    assert len(tracks) == 2
    for whole, part in zip(sounds(path), tracks, strict=True):
        shifts = [whole[data] - seconds for data, seconds in part.items()]
        assert np.ptp(shifts) < 0.0021 and shifts[0] == pytest.approx(begin, abs=0.0021)
        assert min(part.values()) < within
        inside = [
            data for data, seconds in whole.items() if min(map(whole.get, part)) <= seconds <= max(map(whole.get, part))
        ]
        assert len(inside) == len(part)


@pytest.mark.parametrize(
    ('ending', 'first', 'last'), [('.mkv', 24, 33), ('.mp4', 30, 60), ('.mp4', 24, 28), ('.mkv', 61, 72)]
)
@pytest.mark.parametrize('options', [None, {'x264-params': 'keyint=12:scenecut=0:bframes=5:b-pyramid=2:open-gop=1'}])
def test_a_copied_clip_begins_at_the_key_frame_before_and_misses_nothing(drawn, tmp_path, ending, first, last, options):
    path = drawn(tmp_path / f'a{ending}', frame_moments(), options, text=ending == '.mkv')
    (clip,) = clips.cut_clips([scene_of(path, first, last)], tmp_path / 'clips', progress=False)
    source, found = frames(path), frames(clip)
    greys = [grey for _, grey in source]
    begin = int(np.argmin(np.abs(np.array(greys) - found[0][1])))
    assert begin <= first < begin + 24 and (begin == first or first % 12)
    assert last <= begin + len(found) <= last + 7
    assert [grey for _, grey in found] == greys[begin : begin + len(found)]  # the same to the last bit
    times = [t - source[begin][0] for t, _ in source[begin : begin + len(found)]]
    np.testing.assert_allclose([t for t, _ in found], times, atol=0.0021)
    in_time(path, clip, source[begin][0])


def test_a_clip_has_the_text_that_is_shown_as_it_begins_fonts_and_chapters(drawn, tmp_path):
    path = drawn(tmp_path / 'a.mkv', frame_moments())
    for cut in clips.CUTS:
        scene = scene_of(path, 24, 36)  # from 1.44 s; the line is from 0.6 to 3.1 s
        (clip,) = clips.cut_clips([scene], tmp_path / cut, cut, progress=False, **ENCODING)
        with av.open(str(clip)) as container:
            assert [s.type for s in container.streams].count('attachment') == 1
            assert [s.metadata.get('language') for s in container.streams.audio] == ['jpn', 'eng']
            (text,) = [p for p in container.demux(container.streams.subtitles[0]) if p.size]
        begin = frames(path)[24][0]
        assert b'Good morning' in bytes(text) and text.pts == 0
        assert float(text.duration * text.time_base) == pytest.approx(3.1 - begin, abs=0.01)


def test_clips_of_the_annotated_file_begin_where_its_frames_do(drawn, tmp_path):
    """Whose source starts late: the index's first frame is at 1.5 s, the annotated file's, which has no sound, at 0."""
    path = drawn(tmp_path / 'a.mkv', frame_moments(), n_audio=0, text=False)
    scene = scene_of(path, 13, 20)
    scene.episode.index.times = scene.episode.index.times + 1.5
    scene = Scene(Episode(scene.episode.index, 'a', path, None), scene.begin + 1.5, scene.end + 1.5)
    (clip,) = clips.cut_clips([scene], tmp_path / 'clips', 'exact', progress=False, **ENCODING)
    np.testing.assert_allclose([g for _, g in frames(clip)], [g for _, g in frames(path)[13:20]], atol=0.7)


def test_a_clip_of_joined_recordings_is_of_the_seconds_that_were_seen(drawn, tmp_path):
    """The second one's times begin anew at 0."""
    parts = [drawn(tmp_path / f'{n}.ts', frame_moments(n_frames=n), text=False) for n in (40, 72)]
    path = tmp_path / 'in.ts'
    path.write_bytes(b''.join(part.read_bytes() for part in parts))
    index, _ = watch(NOBODY, path, progress=False)
    save_index(tmp_path / 'in.detections.jsonl.gz', index)
    index = load_index(tmp_path / 'in.detections.jsonl.gz')
    assert index.joined and not watch(NOBODY, parts[0], progress=False)[0].joined
    assert len(index.times) == 112 and (np.diff(index.times) > 0).all()
    episode = episode_in(index, path, tmp_path / 'in_annotated.mkv', 'picture', False)
    scene = Scene(episode, *index.times[[100, 108]])
    with pytest.raises(UserError, match=r'in\.ts: recordings are joined in it.*cut=exact'):
        clips.cut_clips([scene], tmp_path / 'clips', progress=False, **ENCODING)
    (clip,) = clips.cut_clips([scene], tmp_path / 'clips', 'exact', progress=False, **ENCODING)
    greys = [40 + 2 * i for i in range(60, 68)]
    np.testing.assert_allclose([grey for _, grey in frames(clip)], greys, atol=2)
    moments = index.times[[30, 101]].tolist()
    seen = [picture.mean() for _, picture in frames_at(path, moments, seek=False)]
    assert seen[1] - seen[0] == pytest.approx(2 * (61 - 30), abs=3)
    assert episode_in(index, path, clip, 'picture', True).joined is False  # the annotated file's times are whole


def test_clips_that_are_done_are_skipped_and_others_are_never_replaced(drawn, tmp_path, monkeypatch, capsys):
    path = drawn(tmp_path / 'a.mkv', frame_moments(), n_audio=1, text=False)
    scenes = [scene_of(path, 5, 9), scene_of(path, 30, 40), scene_of(path, 50, 60)]
    folder = clips.folder_of(tmp_path, ['Yuzu/..', HOSTILE])
    assert folder.parent == tmp_path and len(folder.name) <= 60
    calls, copy = [], clips.copy_part

    def counted(*arguments):
        calls.append(arguments[1].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return copy(*arguments)

    monkeypatch.setattr(clips, 'copy_part', counted)
    with pytest.raises(KeyboardInterrupt):
        clips.cut_clips(scenes, folder, progress=False)
    assert 'Stopped after 1 of 3 clips' in capsys.readouterr().out
    assert [p.name for p in folder.glob('*.mkv')] == calls[:1]
    done = clips.cut_clips(scenes, folder, progress=False)
    assert calls[2:] == [path.name for path in done[1:]] and len(done) == 3
    # Another way to cut is another clip; a file of somebody else stays.
    monkeypatch.undo()
    done[1].write_bytes(b'mine')
    with pytest.raises(UserError, match='this program did not write it'):
        clips.cut_clips(scenes, folder, 'exact', progress=False, **ENCODING)
    assert done[1].read_bytes() == b'mine' and 'copy' in clips.description_of(done[0])


def test_a_clip_of_another_quality_is_another_clip(drawn, tmp_path):
    path = drawn(tmp_path / 'a.mkv', frame_moments(), n_audio=1, text=False)
    scene, said = scene_of(path, 5, 9), []
    for crf in (18, 18, 30):
        (clip,) = clips.cut_clips([scene], tmp_path / 'clips', 'exact', progress=False, **{**ENCODING, 'crf': crf})
        said.append((clip.stat().st_mtime_ns, clips.description_of(clip)))
    assert said[0] == said[1] != said[2] and said[2][1].endswith('exact h264 30 ultrafast')


def test_one_damaged_video_does_not_end_the_rest(drawn, tmp_path, capsys):
    path = drawn(tmp_path / 'a.mkv', frame_moments(), n_audio=0, text=False)
    good, bad = scene_of(path, 5, 9), scene_of(path, 5, 9)
    bad.episode.video = tmp_path / 'b.mkv'
    bad.episode.name = 'b'
    bad.episode.video.write_bytes(b'no video at all')
    with pytest.raises(UserError, match=r'1 of 2 clips could not be cut: .*b\.mkv') as error:
        clips.cut_clips([bad, good], tmp_path / 'clips', progress=False)
    assert '\n' not in str(error.value) and '1 clip: ' in capsys.readouterr().out
    good.episode.video = tmp_path / 'gone.mkv'
    with pytest.raises(UserError, match=r'gone\.mkv: clips are cut out of files'):
        clips.cut_clips([good], tmp_path / 'clips', progress=False)


@pytest.mark.parametrize(
    ('given', 'line'), [((True, 'copy', ''), 'clips=True: which'), ((False, 'fast', 'Yuzu'), "it is 'copy' or 'exact'")]
)
def test_mistakes_are_told_before_the_work(given, line):
    with pytest.raises(UserError, match=line):
        clips.check_clips(*given)


def test_a_season_is_searched_as_one(drawn, tmp_path, capsys):
    path = drawn(tmp_path / '2.mkv', frame_moments(), n_audio=0, text=False)
    episodes = [scene_of(path, 0, 1).episode for _ in range(2)]
    episodes[1].index.video = '10.mkv'
    names, scenes = find_scenes(episodes, 'yuzu')
    said = capsys.readouterr().out
    assert names == ['Yuzu'] and len(scenes) == 2
    assert said.startswith('Yuzu: 2 scenes, ') and '  2.mkv: 0:00 to ' in said and '  10.mkv: ' in said
    with pytest.raises(UserError, match='names nobody'):
        find_scenes(episodes, ' , ')


def test_the_index_of_a_result_is_the_newest_and_of_its_own_run(drawn, tmp_path):
    path = drawn(tmp_path / '2.mkv', frame_moments(), n_audio=0, text=False)
    index, target = scene_of(path, 0, 1).episode.index, tmp_path / 'out.mkv'

    def known(target=target, index_only=False, weights='a', path=path):
        return known_episode(path, target, 'picture', index_only, weights)

    assert known() is None
    index.made_from = {'weights': 'a'}
    save_index(tmp_path / 'out.detections.jsonl.gz', index)
    os.utime(tmp_path / 'out.detections.jsonl.gz', (0, 0))
    index.video = 'newer.mkv'
    save_index(tmp_path / 'out.detections.parquet', index)
    assert known().video == path and known().start == 0 and known().index.video == 'newer.mkv'
    assert known(weights='b') is None  # which found others
    drawn(target, frame_moments(), n_audio=0, text=False)
    os.utime(target)
    assert known().video == target and known().start is None and known(index_only=True).video == path
    os.utime(target, (1, 1))  # the index was made again since, and the run that made it did not end
    assert known() is None and known(index_only=True).video == path
    # Clips of two episodes of one name, in two folders, do not replace one another.
    save_index(tmp_path / '2.mkv_annotated.detections.jsonl.gz', index)
    assert known(index_only=True).name == 'out' and known(tmp_path / '2.mkv_annotated.mkv').name == '2.mkv'


def test_the_indexes_of_a_season_are_the_newest_and_any_name_is_found(drawn, tmp_path):
    script, index = load_script('tools/season.py'), index_of([[(box_at(10), 0.9, sure_of('Yuzu'))]] * 4)
    for ending in ('parquet', 'jsonl.gz'):
        save_index(tmp_path / f'a.detections.{ending}', index)
    os.utime(tmp_path / 'a.detections.jsonl.gz', (0, 0))
    (path,) = script.index_paths(tmp_path)
    assert path.suffix == '.parquet'
    name = os.fsdecode(b'\x83A\t\n.mkv')
    (tmp_path / name).write_bytes(b'')
    index.video = printable(name)
    there = list(tmp_path.iterdir())
    assert script.episode_of(index, path, tmp_path, there).video == tmp_path / name
    index.video = 'none.mkv'
    assert script.episode_of(index, path, tmp_path, there).video == tmp_path / 'none.mkv'
    (tmp_path / 'b.detections.parquet').mkdir()
    assert script.index_paths(tmp_path) == [path] and script.index_paths(tmp_path / 'none') == []


# The preview


@pytest.mark.parametrize('pix_fmt', ['yuv420p10le', 'yuv444p'])
def test_the_preview_is_what_a_browser_plays(tmp_path, pix_fmt):
    path, moments = tmp_path / 'a.mkv', frame_moments(1500, 30)
    with av.open(str(path), 'w') as out:
        video = out.add_stream(
            'libx265',
            25,
            width=322,
            height=800,
            pix_fmt=pix_fmt,
            options={'preset': 'ultrafast', 'x265-params': 'log-level=none'},
        )
        video.codec_context.time_base = video.time_base = MS
        sound = out.add_stream('flac', rate=44100, layout='mono')
        for k in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4608), np.int16), format='s16', layout='mono')
            frame.sample_rate, frame.pts, frame.time_base = 44100, 4608 * k, Fraction(1, 44100)
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
        for i, moment in enumerate(moments):
            frame = av.VideoFrame.from_ndarray(np.full((800, 322, 3), 40 + 2 * i, np.uint8), 'rgb24')
            frame.pts, frame.time_base = int(moment), MS
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    seen = []
    assert write_preview(path, tmp_path / 'a.preview.mp4', advance=seen.append) == 30 and seen == list(range(1, 31))
    with av.open(str(tmp_path / 'a.preview.mp4')) as container:
        video, audio = container.streams
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ('h264', 'yuv420p')
        assert (video.height, video.width) == (360, 144) and audio.codec_context.name == 'aac'
    np.testing.assert_allclose(
        [t for t, _ in frames(tmp_path / 'a.preview.mp4')], np.array(moments) / 1000, atol=0.0011
    )
    data = (tmp_path / 'a.preview.mp4').read_bytes()
    assert 0 < data.index(b'moov') < data.index(b'mdat')  # it plays while it loads


# For players


@pytest.fixture
def index():
    """Yuzu for 60 s, in two shots; Satsuki from 20 to 40 s, in a shot of her own, and a flash of 1 s at the end."""
    shown = [(box_at(10), 0.9, sure_of('Yuzu'))]
    both = [*shown, (box_at(200), 0.9, sure_of('Satsuki'))]
    frames = [shown] * 80 + [both] * 80 + [shown] * 80 + [[]] * 4
    return index_of(frames, shots=(0, 80, 120, 160, 240), fps=4)


def test_players_are_told_who_is_on_screen(index, tmp_path):
    hostile = f'{HOSTILE} --> &\nnew line'
    xray.write_vtt(tmp_path / 'a.vtt', index, {'Satsuki': hostile}, start=100.0)
    text = (tmp_path / 'a.vtt').read_text(encoding='utf-8')
    assert text.startswith('WEBVTT\n\n00:01:40.000 --> 00:02:00.000 line:0\nYuzu\n')
    assert text.count('-->') == 3 and '<script>' not in text
    with av.open(str(tmp_path / 'a.vtt')) as container:
        packets = [p for p in container.demux(container.streams.subtitles[0]) if p.size]
    assert [float(p.pts * p.time_base) for p in packets] == [100, 120, 140]
    assert [float(p.duration * p.time_base) for p in packets] == [20, 20, 20]


def test_scenes_are_chapters(index, tmp_path):
    assert xray.scenes(index) == [(0, 20, ['Yuzu']), (20, 40, ['Yuzu', 'Satsuki']), (40, 61, ['Yuzu'])]
    assert [scene[2] for scene in xray.scenes(index, shortest=0)][-1] == []
    chapters = xray.chapters(index, {'Yuzu': 'Y=;#\\'}, start=1.0)
    with av.open(str(tmp_path / 'a.mkv'), 'w') as out:
        out.set_chapters(chapters)
        stream = out.add_stream('libx264', 25, width=64, height=48)
        out.mux(stream.encode(av.VideoFrame(64, 48, 'yuv420p')))
        out.mux(stream.encode(None))
    with av.open(str(tmp_path / 'a.mkv')) as container:
        found = [(float(c['start'] * c['time_base']), c['metadata']['title']) for c in container.chapters()]
    assert found == [(1, 'Y=;#\\'), (21, 'Y=;#\\, Satsuki'), (41, 'Y=;#\\')]
    xray.write_chapters(tmp_path / 'a.txt', index, {'Yuzu': 'Y=;#\\'}, start=1.0)
    with av.open(str(tmp_path / 'a.txt'), format='ffmetadata') as container:
        again = [(float(c['start'] * c['time_base']), c['metadata']['title']) for c in container.chapters()]
    assert again == [(seconds, title.replace('\\', '⧵')) for seconds, title in found]
    nobody = index_of([[]] * 5)
    assert [chapter['metadata']['title'] for chapter in xray.chapters(nobody)] == ['(nobody)'] and xray.cues(
        nobody
    ) == []


# Parquet


def test_an_index_as_parquet_says_the_same(index, tmp_path):
    pytest.importorskip('pyarrow')
    from pyarrow import parquet

    index.class_names = [HOSTILE if name == 'Satsuki' else name for name in index.class_names]
    index.made_from, index.threshold = {'video': [1, 2], 'start': 0.0}, 0.4
    for track in index.tracks:
        track['name'] = HOSTILE if track['name'] == 'Satsuki' else track['name']
    paths = [tmp_path / f'花.detections.{ending}' for ending in ('parquet', 'jsonl.gz')]
    for path in paths:
        save_index(path, index)
    table, lines = map(load_index, paths)
    for key, value in vars(lines).items():
        if key != 'tracks':
            np.testing.assert_array_equal(getattr(table, key), value, err_msg=key)
    assert appearances(table) == appearances(lines) == appearances(index) and table.hw == (180, 320)
    rows = parquet.read_table(paths[0]).to_pylist()
    assert len(rows) == len(index.frame) and {row['name'] for row in rows} == {'Yuzu', HOSTILE}
    assert all(row['p Yuzu'] == pytest.approx(0.9) for row in rows if row['name'] == 'Yuzu')
    nobody = index_of([[]] * 5)
    save_index(paths[0], nobody)
    assert appearances(load_index(paths[0])) == [] and load_index(paths[0]).class_names == NAMES


@pytest.mark.parametrize('damage', ['gone', 'text', 'cut', 'other'])
def test_a_damaged_parquet_is_one_line(index, tmp_path, damage):
    pytest.importorskip('pyarrow')
    from pyarrow import parquet, table

    path = tmp_path / 'a.detections.parquet'
    save_index(path, index)
    data = path.read_bytes()
    path.unlink()
    if damage == 'other':
        parquet.write_table(table({'a': [1, 2]}), path)
    elif damage != 'gone':
        path.write_bytes(b'no table' if damage == 'text' else data[: len(data) // 2])
    with pytest.raises(UserError) as error:
        load_index(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_without_pyarrow_one_line_says_so(monkeypatch, tmp_path, index):
    real = builtins.__import__

    def without(name, *arguments):
        if name.startswith('pyarrow'):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, '__import__', without)
    path = tmp_path / 'a.detections.parquet'
    with pytest.raises(UserError, match='pip install pyarrow'):
        save_index(path, index)
    path.write_bytes(b'whatever it holds')  # it may be whole: nobody is told to delete it
    with pytest.raises(UserError, match='pip install pyarrow') as error:
        load_index(path)
    assert 'damaged' not in str(error.value)
