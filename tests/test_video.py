"""Annotating videos: what goes in comes out with boxes on it, and bad files get one clear line.

Clips are made by ffmpeg's own sources, 160x90 and 1 to 2 seconds. The model is a function that returns a fixed box.
Source and result are compared by decoding both.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
import torch

from konohana import files
from konohana.drawing import class_colour, draw_detections
from konohana.episodes.episode import ENDINGS
from konohana.errors import UserError
from konohana.video import annotate as engine
from konohana.video.annotate import annotate_video
from konohana.video.canvas import Canvas, to_yuv_matrix
from konohana.video.source import Picture, Reducer, rgb_to_yuv
from konohana.video.writer import VideoWriter

ROOT = Path(__file__).resolve().parent.parent
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
NAMES = ['Yuzu', 'Ren']
X264 = ('-c:v', 'libx264', '-preset', 'ultrafast', '-pix_fmt', 'yuv420p')


def ffmpeg(*arguments, check=True):
    done = subprocess.run([FFMPEG, '-hide_banner', '-nostdin', *map(str, arguments)], capture_output=True, check=False)
    assert not check or done.returncode == 0, done.stderr.decode('utf-8', 'replace')
    return done.stdout if check else done.stderr.decode('utf-8', 'replace')


def dump(path):
    return ffmpeg('-i', path, check=False)


def source(size='160x90', rate=25, seconds=1, name='testsrc'):
    return '-f', 'lavfi', '-i', f'{name}=s={size}:r={rate}:d={seconds}'


def tone(seconds=1, pitch=440):
    return '-f', 'lavfi', '-i', f'sine={pitch}:d={seconds}'


def make(path, *arguments):
    ffmpeg('-v', 'error', '-y', *arguments, path)
    return path


def one_box(images):
    """A model: one box over the middle half of each picture."""
    found = []
    for image in images:
        assert image.dtype == torch.float32 and image.shape[0] == 3 and 0 <= image.min() <= image.max() <= 1
        h, w = image.shape[1:]
        boxes = torch.tensor([[w / 4, h / 4, w * 3 / 4, h * 3 / 4]])
        found.append({'boxes': boxes, 'labels': torch.tensor([1]), 'scores': torch.tensor([0.9])})
    return found


def nothing(images):
    return [{'boxes': torch.zeros(0, 4), 'labels': torch.zeros(0), 'scores': torch.zeros(0)} for _ in images]


def annotate(video_in, video_out, model=one_box, **settings):
    return annotate_video(model, video_in, video_out, class_names=NAMES, **{'progress': False, **settings})


def hashes(path, stream):
    """Checksum of the packets of some streams, such as 'a:0', without their times."""
    return ffmpeg(
        '-v', 'error', '-i', path, '-map', f'0:{stream}', '-c', 'copy', '-f', 'streamhash', '-hash', 'md5', '-'
    )


def times(path, stream='v:0'):
    """Presentation times of all packets in seconds, as the file has them."""
    kind, number = stream.split(':')
    with av.open(str(path)) as file:
        track = getattr(file.streams, {'v': 'video', 'a': 'audio', 's': 'subtitles'}[kind])[int(number)]
        return sorted(float(packet.pts * packet.time_base) for packet in file.demux(track) if packet.size)


def decoded(path):
    """The decoded frames of a video, as PyAV gives them."""
    with av.open(str(path)) as file:
        return list(file.decode(video=0))


def frame_times(path):
    """Times of the decoded frames, in seconds."""
    with av.open(str(path)) as file:
        base = file.streams.video[0].time_base
        return [float(frame.pts * base) for frame in file.decode(video=0)]


def planes(frame):
    """Y, Cb and Cr of a frame as the file has them."""
    kind = np.uint8 if frame.format.components[0].bits == 8 else np.dtype('<u2')
    return [np.frombuffer(p, kind).reshape(p.height, -1)[:, : p.width].astype(int) for p in frame.planes]


def frames(path):
    to_rgb = Reducer()
    return [to_rgb(frame) for frame in decoded(path)]


def nothing_left(folder, *names):
    """No temporary file is left behind."""
    beside = ('.konohana_outputs', *ENDINGS.values())
    assert sorted(p.name for p in folder.iterdir() if not p.name.endswith(beside)) == sorted(names)


@pytest.fixture(scope='session')
def rich(tmp_path_factory):
    """An episode as fans know them: two sound tracks, styled subtitles, a font, a cover, chapters, languages."""
    folder = tmp_path_factory.mktemp('rich')
    style = 'Style: Default,Arial,20,&H00FFFFFF,&H00FFFFFF,&H0,&H0,0,0,0,0,100,100,0,0,1,2,2,2,10,10,10,1'
    (folder / 's.ass').write_text(
        '[Script Info]\nScriptType: v4.00+\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize, PrimaryColour, '
        'SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, '
        'Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\n'
        f'{style}\n[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n'
        'Dialogue: 0,0:00:00.20,0:00:00.90,Default,,0,0,0,,{\\b1}此花亭\n'
        'Dialogue: 0,0:00:01.20,0:00:01.90,Default,,0,0,0,,World\n',
        encoding='utf-8',
    )
    (folder / 'chapters.txt').write_text(
        ';FFMETADATA1\ntitle=第一話\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\ntitle=Opening\n'
        '[CHAPTER]\nTIMEBASE=1/1000\nSTART=1000\nEND=2000\ntitle=Part A\n',
        encoding='utf-8',
    )
    (folder / 'font.ttf').write_bytes(bytes(range(256)) * 40)
    make(folder / 'cover.png', *source('64x64'), '-frames:v', 1)
    return make(
        folder / '此花 亭 01.mkv',
        *(*source(rate='24000/1001', seconds=2), *tone(2), *tone(2, 880), '-i', folder / 's.ass'),
        *('-i', folder / 'chapters.txt', '-map', 0, '-map', 1, '-map', 2, '-map', 3),
        *('-map_metadata', 4, '-map_chapters', 4, '-c:a:0', 'aac', '-c:a:1', 'flac', *X264),
        *('-attach', folder / 'font.ttf', '-metadata:s:t:0', 'mimetype=application/x-truetype-font'),
        *('-attach', folder / 'cover.png', '-metadata:s:t:1', 'mimetype=image/png'),
        *('-metadata:s:a:0', 'language=jpn', '-metadata:s:a:1', 'language=eng', '-metadata:s:a:1', 'title=Comments'),
        *('-metadata:s:s:0', 'language=chi', '-metadata:s:v:0', 'language=jpn', '-colorspace', 'bt709'),
    )


@pytest.fixture
def clip(tmp_path):
    """One second with sound."""
    return make(tmp_path / 'clip.mp4', *source(), *tone(), *X264, '-c:a', 'aac')


def test_matroska_keeps_everything(rich, tmp_path):
    out = tmp_path / 'new' / 'folder' / 'out.mkv'
    done = annotate(rich, out, batch_size=5)
    assert (done['frames'], done['rate'], done['video_out']) == (48, Fraction(24000, 1001), out)
    assert done['notes'] == []
    for stream in ('a:0', 'a:1', 's:0'):
        assert hashes(out, stream) == hashes(rich, stream)
    text = dump(out)
    for line in (
        r'0:0\(jpn\): Video: h264.*160x90.*23.98 fps',
        r'0:1\(jpn\): Audio: aac.*default',
        r'0:2\(eng\): Audio: flac',
        r'0:3\(chi\): Subtitle: ass',
        r'Attachment: ttf',
        r'Video: png.*attached pic',
        r'title +: Comments',
        r'title +: 第一話',
        r'filename +: font.ttf',
        r'Chapter #0:1: start 1.000000, end 2.000000\s+Metadata:\s+title +: Part A',
    ):
        assert re.search(line, text), (line, text)
    font = tmp_path / 'font'
    ffmpeg('-y', '-dump_attachment:t:0', font, '-i', out, check=False)
    assert font.read_bytes() == (rich.parent / 'font.ttf').read_bytes()
    assert frame_times(out) == frame_times(rich)
    for stream in ('v:0', 'a:0', 'a:1', 's:0'):
        assert times(out, stream) == times(rich, stream)
    nothing_left(out.parent, 'out.mkv')


def test_mp4_keeps_what_it_can_and_says_the_rest(rich, tmp_path, capsys):
    out = tmp_path / 'out.mp4'
    done = annotate(rich, out, progress=True)
    assert hashes(out, 'a:0') == hashes(rich, 'a:0')
    assert hashes(out, 'a:1') == hashes(rich, 'a:1')
    text = dump(out)
    assert re.search(r'\(chi\): Subtitle: mov_text', text) and re.search(r'Chapter #0:1: start 1.0', text), text
    assert re.search(r'Video: png.*attached pic', text)
    assert '此花亭' in ffmpeg('-v', 'error', '-i', out, '-map', '0:s', '-f', 'srt', '-').decode()
    # An exact 24000/1001 all the way, not rounded to milliseconds.
    assert np.allclose(times(out), np.arange(48) * 1001 / 24000, rtol=0, atol=1e-6)
    assert len(done['notes']) == 2
    assert 'mov_text' in done['notes'][0] and '1 attachment stream (ttf)' in done['notes'][1]
    assert all(note in capsys.readouterr().out for note in done['notes'][:1])


@pytest.mark.parametrize(('codec', 'more'), [('wmav2', ()), ('pcm_u8', ('-ar', 5512)), ('pcm_s16be', ('-ac', 6))])
def test_sound_that_mp4_cannot_hold_is_coded_again(codec, more, tmp_path):
    path = make(
        tmp_path / 'in.mov' if '16' in codec else tmp_path / 'in.mkv', *source(), *tone(), *X264, '-c:a', codec, *more
    )
    done = annotate(path, tmp_path / 'out.mp4')
    with av.open(str(tmp_path / 'out.mp4')) as file:
        length = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
        held = file.streams.audio[0].codec.name
    assert length == pytest.approx(1, abs=0.1)
    assert held == codec or (held == 'aac' and len(done['notes']) == 1 and codec in done['notes'][0])


def test_boxes_are_drawn_and_nothing_else(clip, tmp_path):
    annotate(clip, tmp_path / 'boxes.mkv', crf=8)
    annotate(clip, tmp_path / 'plain.mkv', crf=8, threshold=0.95)
    boxes, plain, before = frames(tmp_path / 'boxes.mkv'), frames(tmp_path / 'plain.mkv'), frames(clip)
    assert len(boxes) == len(plain) == len(before) == 25
    for a, b, c in zip(boxes, plain, before, strict=True):
        assert np.abs(b.astype(int) - c).mean() < 4  # the same moment; the next frame differs more
        changed = np.abs(a.astype(int) - b).max(2) > 60
        assert changed[23:67, 37:44].mean() > 0.15 and changed[30:60, 55:100].mean() < 0.02
        assert changed[75:, :].mean() < 0.02


def test_frames_stay_in_order(clip, tmp_path):
    annotate(clip, tmp_path / 'out.mkv', nothing, batch_size=3, crf=1)
    for before, after in zip(frames(clip), frames(tmp_path / 'out.mkv'), strict=True):
        assert np.abs(before.astype(int) - after).mean() < 1.5


@pytest.mark.parametrize('size', ['161x91', '161x90', '160x91'])
def test_odd_size(size, tmp_path):
    path = make(tmp_path / 'in.mkv', *source(size), '-c:v', 'ffv1', '-pix_fmt', 'yuv444p')
    done = annotate(path, tmp_path / 'out.mp4')
    assert re.search(rf'yuv444p.*{size}', dump(tmp_path / 'out.mp4'))
    assert len(frames(tmp_path / 'out.mp4')) == 25 and 'odd size' in done['notes'][0]


def test_pixels_that_are_not_square(tmp_path):
    path = make(tmp_path / 'in.mkv', *source('144x96'), '-vf', 'setsar=32/27', *X264)
    sizes = set()

    def model(images):
        sizes.update(tuple(image.shape) for image in images)
        return one_box(images)

    annotate(path, tmp_path / 'out.mp4', model)
    assert 'SAR 32:27 DAR 16:9' in dump(tmp_path / 'out.mp4')
    assert sizes == {(3, 96, 171)}  # the model sees round faces


def test_boxes_come_back_from_the_size_of_the_network(clip, tmp_path):
    class Small:
        class_names = NAMES
        img_hw = (45, 80)

        def __call__(self, images):
            assert all(image.shape == (3, 45, 80) for image in images)
            return one_box(images)

    annotate_video(Small(), clip, tmp_path / 'small.mkv', crf=8, progress=False)
    annotate(clip, tmp_path / 'full.mkv', crf=8)
    small, full = frames(tmp_path / 'small.mkv')[12], frames(tmp_path / 'full.mkv')[12]
    assert np.abs(small.astype(int) - full).mean() < 1


def test_masks_are_drawn_at_the_size_of_the_video(clip, tmp_path):
    class Masks:
        class_names = NAMES
        img_hw = (45, 80)

        def __call__(self, images):
            found = one_box(images)
            for d, image in zip(found, images, strict=True):
                h, w = image.shape[1:]
                # A second, unsure detection has a mask of everything.
                d['masks'] = torch.ones(2, h, w, dtype=torch.bool)
                d['masks'][0, :, w // 2 :] = False
                for key in ('boxes', 'labels'):
                    d[key] = d[key][[0, 0]]
                d['scores'] = torch.tensor([0.9, 0.1])
            return found

    annotate_video(Masks(), clip, tmp_path / 'masks.mkv', crf=8, progress=False)
    annotate(clip, tmp_path / 'boxes.mkv', crf=8)
    tinted, plain = (frames(tmp_path / name)[12].astype(int) for name in ('masks.mkv', 'boxes.mkv'))
    expected = 0.55 * plain + 0.45 * np.array(class_colour(0))
    assert np.abs(tinted - expected)[30:60, 50:76].mean() < 6
    assert np.abs(tinted - plain)[30:60, 84:110].mean() < 3


def test_video_of_a_turned_phone(tmp_path):
    make(tmp_path / 'flat.mp4', *source(), *X264)
    path = make(tmp_path / 'in.mp4', '-display_rotation', '90', '-i', tmp_path / 'flat.mp4', '-c', 'copy')
    annotate(path, tmp_path / 'out.mp4', nothing, crf=1)
    assert '90x160' in dump(tmp_path / 'out.mp4') and 'rotation' not in dump(tmp_path / 'out.mp4')
    before, after = decoded(tmp_path / 'flat.mp4')[9], decoded(tmp_path / 'out.mp4')[9]
    for a, b in zip(planes(before), planes(after), strict=True):
        assert np.abs(np.rot90(a) - b).mean() < 1


@pytest.mark.parametrize(
    ('turn', 'upright'),
    [
        (('-display_hflip', '-display_rotation', '0'), lambda plane: plane[:, ::-1]),
        (('-display_vflip', '-display_rotation', '0'), lambda plane: plane[::-1]),
        (('-display_rotation', '180'), lambda plane: plane[::-1, ::-1]),
        (('-display_hflip', '-display_rotation', '90'), None),
        (('-display_vflip', '-display_rotation', '90'), None),
    ],
)
def test_mirrored_as_front_cameras_may(turn, upright, tmp_path):
    make(tmp_path / 'flat.mp4', *source(seconds=0.2), *X264)
    path = make(tmp_path / 'in.mp4', *turn, '-i', tmp_path / 'flat.mp4', '-c', 'copy')
    make(tmp_path / 'shown.mp4', '-i', path, *X264, '-crf', 1)  # as FFmpeg itself shows it
    annotate(path, tmp_path / 'out.mp4', nothing, crf=1)
    flat, shown, out = (decoded(tmp_path / name)[2] for name in ('flat.mp4', 'shown.mp4', 'out.mp4'))
    for before, a, b in zip(planes(flat), planes(shown), planes(out), strict=True):
        assert np.abs(a - b).mean() < 1
        assert upright is None or np.abs(upright(before) - b).mean() < 1


def test_without_sound(tmp_path):
    path = make(tmp_path / 'in.webm', *source(), '-c:v', 'libvpx', '-deadline', 'realtime')
    assert annotate(path, tmp_path / 'out.mp4')['frames'] == 25
    assert 'Audio' not in dump(tmp_path / 'out.mp4')


@pytest.mark.parametrize('kind', ['mkv', 'mp4'])
def test_variable_rate_stays_as_it_is(kind, tmp_path):
    """12.5 frames a second in the first second, 25 after: each comes once, at its own time."""
    select = ('-vf', r'select=gte(t\,1)+not(mod(n\,2))', '-fps_mode', 'vfr')
    path = make(tmp_path / f'in.{kind}', *source(seconds=2), *tone(2), *select, *X264, '-crf', 1)
    for ext in ('mkv', 'mp4'):
        out = tmp_path / f'out.{ext}'
        done = annotate(path, out, nothing, crf=1)
        assert done['frames'] == 38 and done['notes'] == []
        assert frame_times(out) == frame_times(path)
        for before, after in zip(frames(path), frames(out), strict=True):
            assert np.abs(before.astype(int) - after).mean() < 1.5


@pytest.mark.parametrize('kind', ['mkv', 'mp4', 'ts'])
@pytest.mark.parametrize('late', ['picture', 'sound'])
def test_start_offset_is_kept(late, kind, tmp_path):
    first, second = (tone(), source()) if late == 'picture' else (source(), tone())
    path = make(tmp_path / f'in.{kind}', *first, '-itsoffset', '0.33', *second, *X264, '-c:a', 'mp2')
    if kind == 'ts':
        assert times(path)[0] > 1
    before = times(path)[0] - times(path, 'a:0')[0]
    assert abs(before) > 0.2
    for ext in ('mkv', 'mp4'):
        out = tmp_path / f'out.{ext}'
        assert annotate(path, out)['frames'] == 25
        assert times(out)[0] - times(out, 'a:0')[0] == pytest.approx(before, abs=0.002)
        assert hashes(out, 'a') == hashes(path, 'a')


def test_part_of_a_video(rich, tmp_path):
    out = tmp_path / 'out.mkv'
    done = annotate(rich, out, nothing, start=0.9, seconds=0.5, crf=1)
    assert done['frames'] == 12
    before, after = frames(rich), frames(out)
    assert np.abs(before[22].astype(int) - after[0]).mean() < 1.5  # frame 22 is the first at or after 0.9 s
    # Sound begins with the picture (within a packet) and belongs to it: its times are those of the source less 0.9 s.
    sound = np.array(times(out, 'a:0'))
    assert abs(sound[0]) < 0.03 and 0.4 < sound[-1] < 0.52
    source_times = np.array(times(rich, 'a:0')) - 0.9
    assert all(np.abs(source_times - t).min() < 0.002 for t in sound)
    text = dump(out)
    assert re.search(r'Chapter #0:1: start 0.1', text) and 'Attachment: ttf' in text


def test_colours_survive(tmp_path):
    """A flat colour is the same for every player that obeys the tags, for each matrix, range and size."""
    for matrix, pixels, pix_range, size in (
        ('bt709', 'yuv420p', 'tv', '64x48'),
        ('smpte170m', 'yuv420p', 'tv', '64x48'),
        ('bt709', 'yuvj420p', 'pc', '64x48'),
        ('', 'yuv420p', '', '64x48'),
        ('', 'yuv420p', '', '1280x720'),
        ('bt2020nc', 'yuv420p10le', 'tv', '64x48'),
    ):
        path = tmp_path / 'in.mkv'
        tags = [*(['-colorspace', matrix] if matrix else []), *(['-color_range', pix_range] if pix_range else [])]
        make(path, '-f', 'lavfi', '-i', f'color=0xc83c28:s={size}:r=5:d=0.4', '-c:v', 'ffv1', '-pix_fmt', pixels, *tags)
        annotate(path, tmp_path / 'out.mp4', nothing)

        before, after = decoded(path)[0], decoded(tmp_path / 'out.mp4')[0]
        for a, b in zip(planes(before), planes(after), strict=True):
            assert np.abs(a - b).max() <= 1, (matrix, pixels)
        assert (after.colorspace, after.color_primaries, after.color_trc) == (
            before.colorspace, before.color_primaries, before.color_trc,
        )  # fmt: skip
        full = 'yuvj' in before.format.name or before.color_range == 2
        assert ('yuvj' in after.format.name or after.color_range == 2) == full


def test_rgb_source(tmp_path):
    path = make(
        tmp_path / 'in.mkv', '-f', 'lavfi', '-i', 'color=0xc83c28:s=64x48:r=5:d=0.4,format=gbrp', '-c:v', 'ffv1'
    )
    annotate(path, tmp_path / 'out.mp4', nothing)
    assert np.abs(frames(tmp_path / 'out.mp4')[0].astype(int) - (200, 60, 40)).max() <= 3
    assert decoded(tmp_path / 'out.mp4')[0].colorspace == 6


@pytest.mark.parametrize('pixels', ['yuv420p', 'yuv422p', 'yuv444p', 'yuv420p10le', 'yuvj420p'])
def test_what_is_not_drawn_on_is_exact(pixels, tmp_path):
    """Lossless coding gives back the source's own values, but for the box and its label, and there the right colour."""
    path = make(tmp_path / 'in.mkv', *source(), '-c:v', 'ffv1', '-pix_fmt', pixels)
    plain, boxes = tmp_path / 'plain.mkv', tmp_path / 'boxes.mkv'
    annotate(path, plain, nothing, crf=0)
    annotate(path, boxes, crf=0)
    for before, after, drawn in zip(decoded(path), decoded(plain), decoded(boxes), strict=True):
        assert drawn.format.components[0].bits == before.format.components[0].bits
        for a, b, c in zip(planes(before), planes(after), planes(drawn), strict=True):
            assert a.shape == b.shape == c.shape
            assert np.abs(a - b).max() == 0
            y, x = a.shape[0] / 90, a.shape[1] / 160
            assert np.abs(a - c)[round(70 * y) :].max() == 0
            assert np.abs(a - c)[round(32 * y) : round(58 * y), round(50 * x) : round(110 * x)].max() == 0
    if '444' in pixels:
        assert np.abs(frames(boxes)[0][60, 41].astype(int) - class_colour(0)).max() <= 6


@pytest.mark.parametrize('codec', ['hevc', 'av1'])
@pytest.mark.parametrize('pixels', ['yuv420p', 'yuv420p10le'])
def test_other_codecs(codec, pixels, tmp_path):
    path = make(tmp_path / 'in.mkv', *source(seconds=0.4), '-c:v', 'ffv1', '-pix_fmt', pixels)
    for ext in ('mkv', 'mp4'):
        out = tmp_path / f'out.{ext}'
        assert annotate(path, out, nothing, codec=codec, crf=10)['notes'] == []
        with av.open(str(out)) as file:
            assert file.streams.video[0].codec.canonical_name == codec
            assert file.streams.video[0].pix_fmt == pixels
        assert frame_times(out) == frame_times(path)
        for before, after in zip(frames(path), frames(out), strict=True):
            assert np.abs(before.astype(int) - after).mean() < 4


def test_interlaced_stays_interlaced(tmp_path):
    path = make(tmp_path / 'in.mkv', *source('160x96'), '-vf', 'setfield=tff', *X264, '-flags', '+ildct')
    assert annotate(path, tmp_path / 'out.mkv')['frames'] == 25
    for file in (path, tmp_path / 'out.mkv'):
        assert all(frame.interlaced_frame for frame in decoded(file))
        assert re.search(r'Video: h264.*top (coded )?first', dump(file)), dump(file)


def test_bad_inputs(tmp_path):
    (tmp_path / 'text.mp4').write_text('no video\n' * 100, encoding='utf-8')
    (tmp_path / 'notes.txt').write_text('no video\n' * 100, encoding='utf-8')
    (tmp_path / 'empty.mkv').write_bytes(b'')
    make(tmp_path / 'sound.m4a', *tone(), '-c:a', 'aac')
    make(tmp_path / 'picture.png', *source(), '-frames:v', 1)
    whole = make(tmp_path / 'whole.mp4', *source(), *X264)
    (tmp_path / 'cut.mp4').write_bytes(whole.read_bytes()[:2000])
    before = sorted(p.name for p in tmp_path.iterdir())
    for name, words in (
        ('missing.mkv', 'no such file'),
        ('', 'folder'),
        ('text.mp4', 'not a video'),
        ('notes.txt', 'not'),
        ('empty.mkv', 'empty'),
        ('sound.m4a', 'no video stream, only audio'),
        ('picture.png', 'picture'),
        ('cut.mp4', 'cut off'),
    ):
        with pytest.raises(UserError, match=words) as caught:
            annotate(tmp_path / name, tmp_path / 'out.mkv')
        assert str(tmp_path / name) in str(caught.value) and '\n' not in str(caught.value)
    nothing_left(tmp_path, *before)


@pytest.mark.parametrize('ext', ['mkv', 'mp4'])
def test_cut_off_file(ext, tmp_path):
    path = make(
        *(tmp_path / f'whole.{ext}', *source(seconds=3), *tone(3), *X264, '-g', 5, '-c:a', 'aac'),
        *(['-movflags', '+faststart'] if ext == 'mp4' else []),
    )
    cut = tmp_path / f'cut.{ext}'
    data = path.read_bytes()
    cut.write_bytes(data[: len(data) * 6 // 10])
    done = annotate(cut, tmp_path / f'out.{ext}')
    assert 20 < done['frames'] < 70
    note = done['notes'][-1]
    assert f'{done["frames"]} frames' in note and 'of 3.0 s' in note and 'missing' in note
    assert len(times(tmp_path / f'out.{ext}')) == done['frames']


def test_a_part_before_the_picture_begins_has_none(tmp_path):
    late = make(tmp_path / 'late.mkv', *('-itsoffset', 2), *source(), *tone(3), *X264, '-c:a', 'aac')
    for part in ({'seconds': 1.5}, {'start': 0.5, 'seconds': 1.0}):
        with pytest.raises(UserError, match=r'no picture within seconds=.*the next one is at 2\.00 s'):
            annotate(late, tmp_path / 'out.mkv', **part)
    nothing_left(tmp_path, 'late.mkv')
    assert annotate(late, tmp_path / 'out.mkv', seconds=2.5)['frames'] in (12, 13)  # times are rounded


def test_bad_outputs_and_values(clip, tmp_path):
    locked = tmp_path / 'file'
    locked.write_text('not a folder', encoding='utf-8')
    for out, settings, words in (
        (clip, {}, 'an input'),
        (tmp_path / 'out.xyz', {}, 'unknown kind'),
        (tmp_path / 'out', {}, 'unknown kind'),
        (locked / 'out.mkv', {}, 'cannot be written'),
        (tmp_path / 'out.mkv', {'start': 50.0}, 'no picture at start=50'),
        (tmp_path / 'out.mkv', {'start': -1.0}, 'start'),
        (tmp_path / 'out.mkv', {'batch_size': 0}, 'batch_size'),
        (tmp_path / 'out.mkv', {'crf': 99}, 'crf'),
        (tmp_path / 'out.mkv', {'codec': 'vp9'}, "'hevc'"),
        (tmp_path / 'out.mkv', {'preset': 'warp9'}, 'veryfast'),
        (tmp_path / 'out.mkv', {'pix_fmt': 'rgb24'}, 'yuv420p'),
        (tmp_path / 'out.mkv', {'hwaccel': 'abacus'}, 'abacus'),
    ):
        with pytest.raises(UserError, match=words) as caught:
            annotate(clip, out, **settings)
        assert '\n' not in str(caught.value)
    nothing_left(tmp_path, 'clip.mp4', 'file')


def test_full_disk(tmp_path):
    """What fits is kept, and one line says what happened. The kernel's limit of a file's size stands for the disk."""
    resource = pytest.importorskip('resource')
    path = make(tmp_path / 'in.mkv', *source('320x180', seconds=8), *X264)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r'writing the video failed .*too large'):
            annotate(path, tmp_path / 'out.mkv', crf=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    nothing_left(tmp_path, 'in.mkv', 'out_partial.mkv')
    assert 5 < len(decoded(tmp_path / 'out_partial.mkv')) < 200


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_stopping_keeps_what_is_done(error, rich, tmp_path, capsys):
    files.write_bytes(tmp_path / 'out.mkv', b'an earlier result', remember=True)
    calls = []

    def model(images):
        calls.append(len(images))
        if sum(calls) > 20:
            raise error('stop')
        return one_box(images)

    with pytest.raises(error):
        annotate(rich, tmp_path / 'out.mkv', model, batch_size=4)
    assert (tmp_path / 'out.mkv').read_bytes() == b'an earlier result'
    nothing_left(tmp_path, 'out.mkv', 'out_partial.mkv')
    assert 'after 20 frames' in capsys.readouterr().out
    assert len(times(tmp_path / 'out_partial.mkv')) == 20
    assert times(tmp_path / 'out_partial.mkv', 'a:0')[-1] < 20 * 1001 / 24000
    assert 'Attachment: ttf' in dump(tmp_path / 'out_partial.mkv')


def test_ctrl_c_while_the_last_bytes_go_to_the_disk_keeps_the_whole(clip, tmp_path, monkeypatch):
    def slow_disk(_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr('konohana.video.writer.os.fsync', slow_disk)
    with pytest.raises(KeyboardInterrupt):
        annotate(clip, tmp_path / 'out.mkv')
    nothing_left(tmp_path, 'clip.mp4', 'out.mkv')
    assert len(times(tmp_path / 'out.mkv')) == 25


def test_a_second_ctrl_c_does_not_spoil_what_the_first_keeps(clip, tmp_path, monkeypatch):
    """The threads are still at work when it comes: without them nothing could be kept, or the run would hang."""
    write, threads = VideoWriter.write, []

    def slow(writer, frame):
        time.sleep(0.05)
        write(writer, frame)

    def twice():
        for _ in range(2):
            time.sleep(0.15)
            os.kill(os.getpid(), signal.SIGINT)

    def model(images):
        if not threads:
            threads.append(threading.Thread(target=twice))
            threads[0].start()
        return one_box(images)

    monkeypatch.setattr(VideoWriter, 'write', slow)
    with pytest.raises(KeyboardInterrupt):
        annotate(clip, tmp_path / 'out.mkv', model)
    threads[0].join()
    assert 0 < len(times(tmp_path / 'out_partial.mkv')) < 25
    nothing_left(tmp_path, 'clip.mp4', 'out_partial.mkv')


def test_failed_drawing_does_not_hang(clip, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError('cannot draw')

    monkeypatch.setattr(engine.Canvas, 'draw', broken)
    with pytest.raises(RuntimeError, match='cannot draw'):
        annotate(clip, tmp_path / 'out.mkv')
    nothing_left(tmp_path, 'clip.mp4')


def test_memory_is_bounded(tmp_path, monkeypatch):
    """Frames do not pile up, neither before a slow model nor before slow drawing."""
    path = make(tmp_path / 'in.mkv', *source('64x48', seconds=2), *X264)
    read, shown, drawn = [], [], []
    real_read, real_draw = engine.Reducer.__call__, engine.Canvas.draw

    def count_read(self, frame):
        read.append(1)
        return real_read(self, frame)

    def slow_draw(*arguments):
        time.sleep(0.005)
        drawn.append(1)
        return real_draw(*arguments)

    def model(images):
        shown.extend([1] * len(images))
        if len(shown) < 20:
            time.sleep(0.02)
        assert len(read) <= len(shown) + 2 and len(shown) <= len(drawn) + 6
        return one_box(images)

    monkeypatch.setattr(engine.Reducer, '__call__', count_read)
    monkeypatch.setattr(engine.Canvas, 'draw', slow_draw)
    assert annotate(path, tmp_path / 'out.mkv', model, batch_size=2)['frames'] == 50


def test_script(tmp_path, clip):
    """The script itself, with the user's overrides and a network that has not learned anything."""
    from konohana import checkpoint, detectors

    network = detectors.build('konohana', len(NAMES), (64, 96))
    content = {'model': network.state_dict(), 'detector': 'konohana', 'class_names': NAMES, 'img_hw': (64, 96)}
    checkpoint.save(content, tmp_path / '权 重.pt')
    out = tmp_path / '结 果.mkv'
    command = [
        *(sys.executable, ROOT / '_test_with_video.py', f'video_in={clip}', f'video_out={out}', 'device=cpu'),
        *(f'weights={tmp_path / "权 重.pt"}', 'seconds=0.2', 'threshold=0.1', "label_names={'Ren': '莲'}"),
    ]
    environment = {**os.environ, 'PYTHONIOENCODING': 'utf-8', 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr.decode('utf-8', 'replace')
    assert len(times(out)) == 5 and '5 frames' in done.stdout.decode('utf-8')
    done = subprocess.run([*command, 'crf=high'], capture_output=True, env=environment, check=False)
    assert done.returncode == 2 and done.stderr.count(b'\n') == 1 and b'crf' in done.stderr


@pytest.mark.parametrize('interlaced', [False, True])
@pytest.mark.parametrize('pixels', ['yuv420p', 'yuv422p', 'yuv444p', 'yuv420p10le'])
def test_planes_show_what_is_drawn_in_rgb(pixels, interlaced):
    """Overlapping boxes at odd places: luma is that of the drawn picture, chroma the mean of its field's pixels."""
    hw, bits = (72, 98), 10 if '10' in pixels else 8
    picture = Picture(hw[1], hw[0], pixels, interlaced=interlaced, range=2, matrix=6)
    frame = rgb_to_yuv(np.full((*hw, 3), (40, 90, 200), np.uint8), picture)
    colour = [plane[0, 0] for plane in planes(frame)]
    boxes = np.array([[3, 5, 61, 41], [31, 20, 97, 69], [0, 0, 98, 72.0]])
    found = {'boxes': boxes, 'labels': np.array([1, 2, 1]), 'scores': np.array([0.9, 0.8, 0.7])}
    Canvas(picture, {'class_names': NAMES}).draw(frame, found)
    drawn = draw_detections(np.full((*hw, 3), (1, 2, 3), np.uint8), found, NAMES)
    touched = (drawn != (1, 2, 3)).any(axis=2, keepdims=True)
    wanted = np.where(touched, (drawn @ to_yuv_matrix(6, True).T + [0, 128, 128]) * (1 << bits - 8), colour)
    for kind, plane in enumerate(planes(frame)):
        across, down = hw[1] // plane.shape[1], hw[0] // plane.shape[0]
        for field in [slice(0, None, 2), slice(1, None, 2)] if interlaced else [slice(None)]:
            mean = wanted[field, :, kind].reshape(len(plane[field]), down, -1, across).mean(axis=(1, 3))
            assert np.abs(plane[field] - mean).max() <= 1 << bits - 8


def test_interlaced_of_odd_lines_is_drawn():
    """Half of NTSC's 486 lines are 243, an odd number."""
    picture = Picture(32, 18, interlaced=True)
    frame = rgb_to_yuv(np.full((18, 32, 3), 90, np.uint8), picture)
    found = {'boxes': np.array([[2, 2, 32, 18.0]]), 'labels': np.array([1]), 'scores': np.array([0.9])}
    Canvas(picture, {'class_names': NAMES}).draw(frame, found)
    assert planes(frame)[0][17, 16] != planes(frame)[0][9, 1]


def test_an_encoder_that_cannot_be_set_up_leaves_no_file(tmp_path, monkeypatch):
    clip = make(tmp_path / 'in.mkv', *source(seconds=0.2), *X264)

    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(engine.VideoWriter, '_add_encoder', fails)
    with pytest.raises(MemoryError):
        annotate(clip, tmp_path / 'out.mkv')
    nothing_left(tmp_path, 'in.mkv')


def test_a_model_without_parameters(tmp_path):
    class Fixed(torch.nn.Module):
        def forward(self, images):
            return one_box(images)

    clip = make(tmp_path / 'in.mkv', *source(seconds=0.2), *X264)
    assert annotate(clip, tmp_path / 'out.mkv', Fixed())['frames'] == 5
