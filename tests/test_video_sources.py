"""Videos as they come: joined, cut, with gaps, odd tags, several tracks, as animated pictures, from the network."""

import functools
import http.server
import os
import signal
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from konohana import files
from konohana.episodes import scan, subtitles
from konohana.episodes.index import build_index
from konohana.episodes.watch import watch
from konohana.errors import UserError
from konohana.video import moments, season, writer
from konohana.video import source as source_module
from konohana.video.recode import copy_part
from konohana.video.source import Source, side_data_of
from tests.test_video import (
    X264,
    annotate,
    decoded,
    dump,
    frame_times,
    frames,
    make,
    nothing,
    nothing_left,
    one_box,
    planes,
    source,
    times,
    tone,
)
from tests.test_watch import NOBODY


def joined(path, *clips):
    """Transport streams joined byte by byte, as recordings are."""
    path.write_bytes(b''.join(clip.read_bytes() for clip in clips))
    return path


def test_size_that_changes_on_the_way(tmp_path):
    """Every frame of both parts, at its own time."""
    first = make(tmp_path / '1.ts', *source(), *tone(), *X264, '-c:a', 'aac')
    second = make(tmp_path / '2.ts', *source('320x180'), *tone(), *X264, '-c:a', 'aac', '-output_ts_offset', 1)
    path = joined(tmp_path / 'in.ts', first, second)
    for ext in ('mkv', 'mp4'):
        out = tmp_path / f'out.{ext}'
        done = annotate(path, out, nothing)
        assert done['frames'] == 50 and 'size changes to 320x180' in done['notes'][0]
        assert np.allclose(np.diff(frame_times(out)), np.diff(frame_times(path)), atol=0.0011)
        assert len(times(out, 'a:0')) == len(times(path, 'a:0'))
        assert np.abs(frames(out)[49].astype(int) - frames(first)[24]).mean() < 12
    nothing_left(tmp_path, '1.ts', '2.ts', 'in.ts', 'out.mkv', 'out.mp4')


def test_moments_of_joined_recordings_are_of_the_seconds_that_were_seen(tmp_path):
    """The second one's times begin anew."""
    parts = []
    for colour in ('red', 'blue'):
        parts.append(make(tmp_path / f'{colour}.ts', '-f', 'lavfi', '-i', f'color={colour}:s=160x90:r=10:d=3', *X264))
    path = joined(tmp_path / 'in.ts', *parts)
    for _ in range(2):  # the second time from what is kept
        found = scan.scanned(path, tmp_path / 'kept', progress=False)
        assert found.joined and found.times[-1] > 5
        seen = [picture.mean(axis=(0, 1)).argmax() for _, picture in scan.grab(found, [1.0, 4.0], progress=False)]
        assert seen == [0, 2]
    assert not scan.scanned(parts[0], tmp_path / 'kept', progress=False).joined


def test_a_part_of_joined_recordings_is_of_the_seconds_that_are_seen(tmp_path):
    colours = {'red': 0, 'blue': 2}
    parts = [
        make(tmp_path / f'{name}.ts', '-f', 'lavfi', '-i', f'color={name}:s=160x90:r=10:d=3', *X264) for name in colours
    ]
    path = joined(tmp_path / 'in.ts', *parts)
    for start, colour in ((1.5, 0), (4.0, 2)):
        done = annotate(path, tmp_path / 'out.mkv', nothing, start=start, seconds=1)
        seen = [frame.mean(axis=(0, 1)).argmax() for frame in frames(tmp_path / 'out.mkv')]
        assert (done['frames'], set(seen)) == (10, {colour})
        index, _ = watch(NOBODY, path, start=start, seconds=1, progress=False)
        assert index.joined and len(index.times) == 10
        ((_, picture),) = moments.frames_at(path, [start + index.times[3]], seek=not index.joined)
        assert picture.mean(axis=(0, 1)).argmax() == colour
    with Source(parts[0], 1.0) as source_:
        assert not source_.joined


def test_a_part_of_pictures_without_times(tmp_path):
    """A raw stream has no times to seek by."""
    path = make(tmp_path / 'in.h264', *source(seconds=3), *X264, '-g', 10)
    assert annotate(path, tmp_path / 'out.mkv', nothing, start=1, seconds=1)['frames'] == 25
    shown, whole = frames(tmp_path / 'out.mkv'), frames(path)
    assert np.abs(shown[0].astype(int) - whole[25]).mean() < 5
    with pytest.raises(UserError, match=r'its video has no times of its own: take cut=exact'):
        copy_part(path, tmp_path / 'clip.mkv', 1, 1)


def test_colour_tags_that_change_on_the_way(tmp_path):
    """The second part is converted to what the first is tagged as: its colours are seen as they are."""
    flat = ('-f', 'lavfi', '-i', 'color=0xc83c28:s=64x48:r=25:d=1')
    parts = []
    for number, matrix in enumerate(('bt709', 'smpte170m')):
        scale = f'scale=out_color_matrix={matrix}:out_range=tv'
        tags = ('-colorspace', matrix, '-output_ts_offset', number)
        parts.append(make(tmp_path / f'{number}.ts', *flat, '-vf', scale, *X264, '-crf', 1, *tags))
    out = tmp_path / 'out.mkv'
    assert annotate(joined(tmp_path / 'in.ts', *parts), out, nothing, crf=1)['frames'] == 50
    assert np.allclose(np.diff(frame_times(out)), 0.04, atol=0.0011)
    seen = frames(out)
    for frame in (seen[3], seen[45]):
        assert np.abs(frame.astype(int) - (200, 60, 40)).mean() < 4


def test_recordings_that_begin_again_at_0(tmp_path):
    clip = make(tmp_path / '1.ts', *source(seconds=2), *tone(2), *X264, '-c:a', 'aac')
    done = annotate(joined(tmp_path / 'in.ts', clip, clip), tmp_path / 'out.mkv', nothing)
    assert done['frames'] == 100
    steps = np.diff(frame_times(tmp_path / 'out.mkv'))
    assert (steps > 0).all() and steps.max() < 0.2
    assert np.diff(times(tmp_path / 'out.mkv', 'a:0')).max() < 0.2


def test_text_that_is_shown_for_a_minute_delays_no_other(tmp_path):
    """A sign stays while people talk: the next line begins long before it ends, and no recording begins again."""
    lines = (
        '00:00:00,100 --> 00:01:00,000\nINN',
        '00:00:00,500 --> 00:00:00,900\nHello',
        '00:00:01,500 --> 00:00:01,900\nBye',
    )
    text = '\n\n'.join(f'{number}\n{line}' for number, line in enumerate(lines, 1))
    (tmp_path / 'in.srt').write_text(text)
    clip = make(tmp_path / 'in.mkv', *source(seconds=2), '-i', tmp_path / 'in.srt', *X264)
    annotate(clip, tmp_path / 'out.mkv', nothing)
    assert times(tmp_path / 'out.mkv', 's:0') == pytest.approx([0.1, 0.5, 1.5], abs=0.0011)


def test_a_copy_with_labels_keeps_the_text_of_mp4_and_joins_recordings(tmp_path):
    pytest.importorskip('pysubs2')
    nobody = {'boxes': np.zeros((0, 4)), 'scores': np.zeros(0), 'probabilities': np.zeros((0, 1))}
    index = build_index('a', (90, 160), np.arange(25) / 25, ['Yuzu'], [], [0], [], [nobody] * 25)
    subtitles.write_subtitles(tmp_path / 'labels.ass', index)
    (tmp_path / 'in.srt').write_text('1\n00:00:00,200 --> 00:00:00,900\nHello\n')
    clip = make(tmp_path / 'in.mp4', *source(), *tone(), '-i', tmp_path / 'in.srt', *X264, '-c:s', 'mov_text')
    subtitles.mux(clip, tmp_path / 'labels.ass', tmp_path / 'out.mkv')
    assert times(tmp_path / 'out.mkv', 's:0') == pytest.approx([0.2], abs=0.0011)
    first = make(tmp_path / '1.ts', *source(seconds=2), *tone(2), *X264, '-c:a', 'aac')
    chapter = {'id': 0, 'start': 500, 'end': 900, 'time_base': Fraction(1, 1000), 'metadata': {}}
    again = joined(tmp_path / 'in.ts', first, first)
    subtitles.mux(again, tmp_path / 'labels.ass', tmp_path / 'joined.mkv', chapters=[chapter])
    seen = frame_times(tmp_path / 'joined.mkv')
    assert len(seen) == 100 and 0 < np.diff(seen).min() and np.diff(seen).max() < 0.2
    with av.open(str(tmp_path / 'joined.mkv')) as container:  # a transport stream does not begin at 0
        (chapter,) = container.chapters()
        assert float(chapter['start'] * chapter['time_base']) == pytest.approx(seen[0] + 0.5, abs=0.1)


def test_a_tag_that_states_no_length_is_no_obstacle(tmp_path):
    for number, stated in enumerate(('00:00:1.2.3', '00:00:.', '9' * 5000 + ':00:00')):
        tag = '-metadata:s:v:0', f'DURATION-eng={stated}'
        path = make(tmp_path / f'{number}.mkv', *source(seconds=0.4), *X264, *tag)
        with Source(path) as opened:
            assert float(opened.expected) == pytest.approx(0.4, abs=0.01)


def test_a_gap_of_an_hour_is_no_more_frames(tmp_path):
    first = make(tmp_path / '1.ts', *source(), *tone(), *X264, '-c:a', 'aac')
    second = make(tmp_path / '2.ts', *source(), *tone(), *X264, '-c:a', 'aac', '-output_ts_offset', 3600)
    out = tmp_path / 'out.mkv'
    assert annotate(joined(tmp_path / 'in.ts', first, second), out, nothing)['frames'] == 50
    steps = np.diff(frame_times(out))
    assert steps.max() == pytest.approx(3599, abs=0.2) and np.sort(steps)[-2] == pytest.approx(0.04, abs=0.0011)


def test_a_jump_that_mp4_cannot_hold_is_one_line_about_the_source(tmp_path):
    """FFmpeg ends the whole process over a step of more than 2**31 ticks: no message, no season."""
    first = make(tmp_path / '1.ts', *source(), *tone(), *X264, '-c:a', 'aac')
    second = make(tmp_path / '2.ts', *source(), *tone(), *X264, '-c:a', 'aac', '-output_ts_offset', 60000)
    path = joined(tmp_path / 'in.ts', first, second)
    with pytest.raises(UserError, match=r'in\.ts: its times jump by 16\.7 hours after 1\.0 s, .*\.mkv') as caught:
        annotate(path, tmp_path / 'out.mp4', nothing)
    assert '\n' not in str(caught.value) and 20 < len(decoded(tmp_path / 'out_partial.mp4')) <= 25
    assert annotate(path, tmp_path / 'out.mkv', nothing)['frames'] == 50


def test_what_cannot_be_written_is_said_of_the_source(tmp_path, monkeypatch):
    path = make(tmp_path / 'in.mkv', *source(), *X264)

    def damaged(*_):
        raise av.error.InvalidDataError(1094995529, 'Invalid data')

    monkeypatch.setattr(writer.VideoWriter, '_mux', damaged)
    with pytest.raises(UserError, match=r'in\.mkv: what follows 0\.0 s cannot be written') as caught:
        annotate(path, tmp_path / 'out.mkv', nothing)
    assert '\n' not in str(caught.value) and 'damaged' in str(caught.value)


@pytest.mark.parametrize(
    ('codec', 'kind', 'place'), [('h264', 'mkv', 'center'), ('hevc', 'mp4', 'topleft'), ('av1', 'mp4', 'topleft')]
)
def test_the_place_of_the_chroma_samples_is_carried(codec, kind, place, tmp_path):
    path = make(tmp_path / 'in.mkv', *source(seconds=0.2), *X264, '-chroma_sample_location', place)
    out = tmp_path / f'out.{kind}'
    annotate(path, out, nothing, codec=codec)
    with Source(path) as before, Source(out) as after:
        assert before.picture.chroma == after.picture.chroma == place


@pytest.mark.parametrize('kind', ['apng', 'gif'])
def test_animated_pictures(kind, tmp_path):
    more = {'apng': ['-plays', 0, '-f', 'apng'], 'gif': []}[kind]
    path = make(tmp_path / f'in.{kind}', *source(rate=10), '-vf', r'setpts=PTS*(1+0.001*N)', '-fps_mode', 'vfr', *more)
    expected = frame_times(path)
    out = tmp_path / 'out.mp4'
    done = annotate(path, out, nothing)
    assert done['frames'] == len(expected) < 12 and done['rate'] < 300
    assert np.allclose(frame_times(out), np.array(expected) - expected[0], atol=0.0011)


def test_nothing_is_decoded_while_ffmpeg_describes_a_file(tmp_path, monkeypatch):
    """A decoder's thread that had something to say then would wait for Python, and Python for it, for ever."""
    path, opened, describe = make(tmp_path / 'in.mkv', *source(), *X264), [], source_module._chroma_of

    def watched(container, stream):
        opened.append(stream.codec_context.is_open)
        return describe(container, stream)

    monkeypatch.setattr(source_module, '_chroma_of', watched)
    for start in (0.0, 0.5):
        with Source(path, start) as video:
            assert video.picture.width == 160
    assert opened == [False, False]


@pytest.mark.parametrize(
    ('tag', 'number'),
    [('transfer_characteristics', 9), ('matrix_coefficients', 8), ('matrix_coefficients', 14)]
    + [('matrix_coefficients', 12), ('matrix_coefficients', 10), ('colour_primaries', 22)],
)
def test_unusual_colour_tags_are_no_obstacle(tag, number, tmp_path):
    """log100, ycgco, ictcp, chroma-derived-nc and others."""
    plain = make(tmp_path / 'plain.mkv', *source(), *X264)
    path = make(tmp_path / 'in.mkv', '-i', plain, '-c', 'copy', '-bsf:v', f'h264_metadata={tag}={number}')
    out = tmp_path / 'out.mkv'
    assert annotate(path, out, crf=1)['frames'] == 25
    for before, after in zip(decoded(path), decoded(out), strict=True):
        assert np.abs(planes(before)[0][70:] - planes(after)[0][70:]).mean() < 1


def test_avi_and_its_missing_times(tmp_path):
    path = make(tmp_path / 'in.avi', *source(), *tone(), '-c:v', 'mpeg4', '-bf', 2, '-q:v', 2, '-c:a', 'mp3')
    out = tmp_path / 'out.mkv'
    assert annotate(path, out, nothing)['frames'] == 25
    assert np.allclose(np.diff(frame_times(out)), 0.04, atol=0.0011)


def test_two_video_tracks(tmp_path):
    path = make(
        *(tmp_path / 'in.mkv', *source(), *source('64x48', name='testsrc2'), *tone(), '-map', 0, '-map', 1, '-map', 2),
        *(*X264, '-c:a', 'aac'),
    )
    for ext in ('mkv', 'mp4'):
        out = tmp_path / f'out.{ext}'
        assert annotate(path, out)['notes'] == []
        with av.open(str(out)) as result, av.open(str(path)) as before:
            assert [s.width for s in result.streams.video] == [160, 64] and len(result.streams.audio) == 1
            pairs = zip(before.demux(video=1), result.demux(video=1), strict=True)
            assert all(bytes(a) == bytes(b) for a, b in pairs if ext == 'mkv')


@pytest.mark.parametrize(('kind', 'late'), [('mkv', 0), ('ts', 4)])
def test_frames_of_chosen_moments(kind, late, tmp_path, monkeypatch):
    """Near ones are read in one go, far ones are sought; both give the same, and what is not there is left out."""
    path = make(tmp_path / f'in.{kind}', *source(seconds=4), *X264, '-g', 25, '-output_ts_offset', late)
    expected, chosen = frames(path), [0, 3, 30, 31, 75, 99]
    times = [number / 25 for number in chosen] + [9.0]
    for near in (8.0, 0.5):
        monkeypatch.setattr(moments, 'NEAR', near)
        found = list(moments.frames_at(path, times))
        assert [time for time, _ in found] == times[:-1]
        for (_, picture), number in zip(found, chosen, strict=True):
            assert np.abs(picture.astype(int) - expected[number]).mean() < 2, (near, number)
    assert next(moments.frames_at(path, [1.0], (20, 30)))[1].shape == (20, 30, 3)
    assert list(moments.frames_at(path, [])) == []
    with pytest.raises(UserError, match='absent'):
        list(moments.frames_at(tmp_path / 'absent.mkv', [1.0]))


def test_start_below_0(tmp_path):
    """All frames are there, evenly, and as far from the sound as before."""
    path = make(
        *(tmp_path / 'in.mkv', *source(), *tone(), *X264, '-c:a', 'aac', '-output_ts_offset', '-0.5'),
        *('-avoid_negative_ts', 'disabled'),
    )
    for ext in ('mkv', 'mp4'):
        out = tmp_path / f'out.{ext}'
        assert annotate(path, out)['frames'] == 25
        assert np.allclose(frame_times(out), np.arange(25) * 0.04, atol=0.0011)
        assert times(out, 'a:0')[0] == pytest.approx(times(path, 'a:0')[0] + 0.5, abs=0.01)


def test_sound_longer_than_the_picture(tmp_path):
    path = make(tmp_path / 'in.mkv', *source(), *tone(3), *X264, '-c:a', 'aac')
    out = tmp_path / 'out.mkv'
    assert annotate(path, out)['frames'] == 25
    assert times(out, 'a:0') == times(path, 'a:0')


def test_hdr_is_carried(tmp_path):
    """Tags, and the data about the display it was made on."""
    hdr = 'mastering-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):cll=1000,400'
    path = make(
        *(tmp_path / 'in.mkv', *source(), '-c:v', 'libx264', '-pix_fmt', 'yuv420p10le', '-x264-params', hdr),
        *('-colorspace', 'bt2020nc', '-color_primaries', 'bt2020', '-color_trc', 'smpte2084', '-color_range', 'tv'),
    )
    for codec in ('h264', 'hevc'):
        out = tmp_path / f'{codec}.mkv'
        annotate(path, out, codec=codec)
        before, after = decoded(path)[0], decoded(out)[0]
        for name in ('colorspace', 'color_primaries', 'color_trc', 'color_range'):
            assert getattr(before, name) == getattr(after, name)
        data = [side_data_of(frame) for frame in (before, after)]
        for kind in ('MASTERING_DISPLAY_METADATA', 'CONTENT_LIGHT_LEVEL'):
            assert kind in data[0] and kind in data[1]


def test_a_track_that_the_container_cannot_hold(tmp_path):
    """VP8 is not MP4's: one line says so, and the rest is written."""
    path = make(
        *(tmp_path / 'in.mkv', *source('64x48'), *tone(), *source('64x48', rate=2), '-map', 0, '-map', 1, '-map', 2),
        *('-c:v:0', 'libx264', '-pix_fmt', 'yuv420p', '-c:v:1', 'libvpx', '-deadline', 'realtime', '-c:a', 'flac'),
    )
    done = annotate(path, tmp_path / 'out.mp4')
    assert done['frames'] == 25 and done['notes'] == ['not kept in mp4: 1 video stream (vp8)']
    with av.open(str(tmp_path / 'out.mp4')) as file:
        assert len(file.streams.video) == 1 and len(file.streams.audio) == 1


@pytest.mark.parametrize('kind', ['ts', 'mkv', 'mp4'])
def test_damaged_files(kind, tmp_path):
    """Bytes that are something else: what can be decoded is delivered, or one line says that nothing can."""
    whole = make(tmp_path / f'whole.{kind}', *source(), *tone(), *X264, '-c:a', 'aac').read_bytes()
    rng = np.random.default_rng(3)
    for number in range(6):
        data = np.frombuffer(whole, np.uint8).copy()
        where = rng.integers(0, len(data), 10 * (number + 1))
        data[where] = rng.integers(0, 256, len(where))
        path = tmp_path / f'in.{kind}'
        path.write_bytes(data.tobytes())
        try:
            done = annotate(path, tmp_path / 'out.mp4')
            assert done['frames'] == len(decoded(tmp_path / 'out.mp4'))
        except UserError as error:
            assert '\n' not in str(error) and str(tmp_path) in str(error)


def test_stream_of_the_network(tmp_path):
    make(tmp_path / 'show.mkv', *source(), *tone(), *X264, '-c:a', 'aac')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f'http://127.0.0.1:{server.server_address[1]}'
        assert annotate(f'{url}/show.mkv', tmp_path / 'out.mkv')['frames'] == 25
        with pytest.raises(UserError, match='cannot be opened') as caught:
            annotate(f'{url}/missing.mkv', tmp_path / 'none.mkv')
        server.shutdown()
    assert '\n' not in str(caught.value)
    assert frame_times(tmp_path / 'out.mkv') == frame_times(tmp_path / 'show.mkv')


def test_outputs_replace_only_what_this_program_wrote(tmp_path):
    path = make(tmp_path / 'in.mkv', *source(), *X264)
    before = path.read_bytes()
    (tmp_path / 'mine.mkv').write_bytes(b'the user made this')
    for out, words in ((path, 'input'), (tmp_path / 'mine.mkv', 'overwrite=True')):
        with pytest.raises(UserError, match=words) as caught:
            annotate(path, out)
        assert 'video_out' in str(caught.value) and '\n' not in str(caught.value)
    with pytest.raises(UserError, match='input'):
        annotate(path, path, overwrite=True)
    assert path.read_bytes() == before and (tmp_path / 'mine.mkv').read_bytes() == b'the user made this'
    assert annotate(path, tmp_path / 'mine.mkv', overwrite=True)['frames'] == 25
    assert annotate(path, tmp_path / 'mine.mkv')['frames'] == 25  # it is this program's own now
    nothing_left(tmp_path, 'in.mkv', 'mine.mkv')


def test_a_partial_result_replaces_no_file_of_the_user(tmp_path):
    path = make(tmp_path / 'in.mkv', *source(), *X264)
    (tmp_path / 'out_partial.mkv').write_bytes(b'the user made this')
    calls = []

    def model(images):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return one_box(images)

    with pytest.raises(KeyboardInterrupt):
        annotate(path, tmp_path / 'out.mkv', model)
    assert (tmp_path / 'out_partial.mkv').read_bytes() == b'the user made this'
    assert len(decoded(tmp_path / 'out_partial2.mkv')) == 12


@pytest.mark.skipif(os.name == 'nt', reason='Windows has other signals')
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=str)
def test_a_run_that_is_ended(number, start_script, run_script, weights_file, tmp_path):
    """A polite end keeps what is done; what a kill leaves is named and removed by the next run."""
    path = make(tmp_path / 'in.mkv', *source('640x360', seconds=8), *X264)
    out = tmp_path / 'out' / 'out.mkv'
    process = start_script(
        *('_test_with_video.py', f'video_in={path}', f'video_out={out}', f'weights={weights_file}', 'preset=veryslow')
    )
    deadline = time.monotonic() + 60
    while not list(out.parent.glob('unfinished_*')) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1)
    process.send_signal(number)
    process.communicate(timeout=60)
    if number != signal.SIGKILL:
        nothing_left(out.parent, 'out_partial.mkv')
        assert len(decoded(out.parent / 'out_partial.mkv')) > 3
        return
    assert len(list(out.parent.glob('unfinished_*'))) == 1
    done = run_script(
        *('_test_with_video.py', f'video_in={path}', f'video_out={out}', f'weights={weights_file}', 'seconds=0.2')
    )
    assert done.returncode == 0 and 'left by a run that was killed; removed' in done.stdout, done.stderr
    nothing_left(out.parent, 'out.mkv')


def test_season(tmp_path, run_script, weights_file):
    show = tmp_path / 'show 花'
    show.mkdir()
    for number in (1, 2, 10):
        make(show / f'ep {number}.mkv', *source(seconds=0.2), *X264)
    (show / 'ep 3.mp4').write_bytes(b'no video')
    (show / 'notes.txt').write_text('no video', encoding='utf-8')
    out = tmp_path / 'out'
    command = ('_test_with_video.py', f'weights={weights_file}', f'video_out={out}', f'video_in={show}')
    done = run_script(*command)
    names = [f'ep {number}_annotated.mkv' for number in (1, 10, 2)]
    assert done.returncode == 2 and '1 of 4 videos were not annotated' in done.stderr and 'ep 3.mp4' in done.stderr
    nothing_left(out, *names)
    assert done.stdout.index('ep 2.mkv') < done.stdout.index('ep 10.mkv')
    (show / 'ep 3.mp4').unlink()
    before = [(out / name).stat().st_mtime_ns for name in names]
    done = run_script(*command)
    assert done.returncode == 0 and done.stdout.count('skipped') == 3
    assert [(out / name).stat().st_mtime_ns for name in names] == before
    done = run_script(*command[:3], f'video_in={show}/ep 1*.mkv', 'overwrite=True')
    assert done.returncode == 0 and done.stdout.count('frames (') == 2


def test_what_a_season_is(tmp_path):
    for name in (
        'b.avi',
        'b.mkv',
        'b_annotated.mkv',
        'b_annotated_new.mkv',
        'a_partial.mkv',
        'c.srt',
        'b_annotated.preview.mp4',
        'b_annotated_0h00m01s.mkv',
    ):
        (tmp_path / name).write_bytes(b'')
    (tmp_path / 'b_new.mp4').write_bytes(b'')  # the user's own
    resolve = tmp_path.joinpath
    both = [tmp_path / 'b.avi', tmp_path / 'b.mkv']
    assert season.episodes(str(tmp_path), resolve) == ([*both, tmp_path / 'b_new.mp4'], True)
    assert season.episodes('*.mkv', resolve) == ([tmp_path / 'b.mkv'], True)
    assert season.episodes("['b.mkv', 'b.avi']", resolve) == (both[::-1], True)
    assert season.episodes('b.mkv', resolve) == ([tmp_path / 'b.mkv'], False)
    assert season.episodes('https://a.b/c?d', resolve) == (['https://a.b/c?d'], False)
    assert season.target_of(both[0], tmp_path) == season.target_of(both[1], tmp_path)
    first = season.target_of(both[0], tmp_path)
    assert season.target_of(both[1], tmp_path, {first}) == tmp_path / 'b.mkv_annotated.mkv'
    # The index beside a video is called by its stem, so no two episodes share one, whatever their endings.
    taken = set()
    for path in (tmp_path / 'a' / 'E.mkv', tmp_path / 'e.mp4', tmp_path / 'b' / 'E.mkv', tmp_path / 'c' / 'E.mkv'):
        taken.add(season.target_of(path, tmp_path, taken))
    assert len({path.stem.casefold() for path in taken}) == 4
    assert season.target_of(tmp_path / 'e.mp4', tmp_path, ending='.mkv') == tmp_path / 'e_annotated.mkv'
    for bad in ('*.webm', '[1]', '[]'):
        with pytest.raises(UserError) as caught:
            season.episodes(bad, resolve)
        assert '\n' not in str(caught.value)
    (tmp_path / '[组] 花').mkdir()
    named = [tmp_path / '[组] 花' / f'[组] 花 [{number:02}].mkv' for number in (9, 10)]
    for path in named:
        path.write_bytes(b'')
    for pattern in ('[组] 花/*.mkv', '[组] 花/[组]*].mkv', '[[]*/*'):
        assert season.episodes(pattern, resolve) == (named, True)
    assert season.episodes('*/*[01]?.mkv', resolve) == (named[1:], True)
    assert files.LIST_NAME not in os.listdir(tmp_path) and 'Video' not in dump(tmp_path / 'b.mkv')  # noqa: PTH208
