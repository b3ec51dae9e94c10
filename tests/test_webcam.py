"""A webcam (a fake one: there is none on most machines that run tests), and the window, which needs no screen here."""

import re
import subprocess
import time

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch

from konohana.errors import UserError
from konohana.video import camera, window
from konohana.video.annotate import annotate_video
from konohana.video.camera import annotate_camera, camera_number


class FakeCapture:
    """cv2.VideoCapture with a camera at number 0: 96 x 64, 20 pictures a second, each a little redder than the last."""

    pictures = 1000
    asleep = 0  # so many reads give nothing before the first picture

    def __init__(self, number):
        self.open, self.count = number == 0, 0
        self.asleep = type(self).asleep

    def isOpened(self):  # noqa: N802
        return self.open

    def get(self, what):
        return 20.0 if what == cv2.CAP_PROP_FPS else 0.0

    def read(self):
        if self.asleep:
            self.asleep -= 1
            return False, None
        time.sleep(0.05 if self.count else 0)
        self.count += 1
        if self.count > self.pictures:
            return False, None
        return True, np.full((64, 96, 3), (0, 0, min(255, 100 + self.count)), np.uint8)

    def release(self):
        self.open = False


class FakeWindow:
    """What `annotate_camera` and `annotate_video` take; closes itself after `n` frames."""

    def __init__(self, n=10**9):
        self.n, self.frames, self.closed = n, [], False

    def show(self, frame):
        assert frame.dtype == np.uint8 and frame.ndim == 3
        self.frames.append(frame)
        self.closed = len(self.frames) >= self.n


class Model:
    """One box over the middle; `pause` seconds for a picture."""

    def __init__(self, pause=0.0):
        self.class_names, self.pause, self.seen = ['Yuzu'], pause, []

    def __call__(self, images):
        time.sleep(self.pause)
        self.seen += [float(image[0].mean()) for image in images]
        assert all(image.shape == (3, 64, 96) and image[1:].max() == 0 for image in images), 'RGB, not BGR'
        box = {'boxes': torch.tensor([[20.0, 20, 60, 50]]), 'labels': torch.tensor([1]), 'scores': torch.tensor([0.95])}
        return [box for _ in images]


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(camera.cv2, 'VideoCapture', FakeCapture)
    monkeypatch.setattr(FakeCapture, 'pictures', 1000)
    monkeypatch.setattr(FakeCapture, 'asleep', 0)


def probe(path):
    """What ffmpeg says about a file it decodes whole."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), '-hide_banner', '-nostdin', '-i', str(path), '-f', 'null', '-']
    done = subprocess.run(command, capture_output=True, check=True)
    return done.stderr.decode('utf-8', 'replace')


def names_in(folder):
    """The files in a folder, but for the list that the program keeps of its outputs."""
    return sorted(path.name for path in folder.iterdir() if path.name != '.konohana_outputs')


@pytest.mark.parametrize(('given', 'number'), [(0, 0), ('0', 0), (' 1 ', 1), ('', None), ('a.mkv', None), ('-1', None)])
def test_camera_number(given, number):
    assert camera_number(given) == number


@pytest.mark.parametrize('ending', ['.mkv', '.mp4'])
def test_recording(fake, tmp_path, ending):
    target = tmp_path / 'a 花' / f'out{ending}'
    done = annotate_camera(Model(), 0, target, threshold=0.9, seconds=0.5, progress=False)
    assert done['frames'] == 10 and done['rate'] == 20 and done['seconds'] == 0.5
    assert names_in(target.parent) == [target.name]
    said = probe(target)
    assert '96x64' in said and re.search(r'frame= *10 ', said) and '20 fps' in said


def test_slow_detector_sees_the_newest_and_the_recording_keeps_time(fake, tmp_path):
    model = Model(pause=0.2)
    done = annotate_camera(model, 0, tmp_path / 'out.mkv', seconds=1.0, progress=False)
    assert done['frames'] == 20 and done['seen'] < 10
    # 0.2 s are several of the camera's pictures: those between were left out, none was seen twice.
    steps = np.diff(np.array(model.seen) * 255)
    assert (steps > 0.5).all() and steps.max() > 1.5


def test_window_is_shown_and_ends_the_recording(fake, tmp_path):
    shown = FakeWindow(3)
    done = annotate_camera(Model(), 0, tmp_path / 'out.mkv', window=shown, progress=False)
    assert done['seen'] == 3 == len(shown.frames)
    assert (shown.frames[0][:, :, 1] > 0).any(), 'the box is drawn'


def test_unplugged_camera_keeps_the_recording(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(FakeCapture, 'pictures', 5)
    done = annotate_camera(Model(), 0, tmp_path / 'out.mkv', progress=False)
    assert 1 <= done['seen'] <= 5 and 'gives no more pictures' in capsys.readouterr().out
    assert (tmp_path / 'out.mkv').is_file()


def test_ctrl_c_ends_the_recording(fake, tmp_path, capsys):
    class Stopped(Model):
        def __call__(self, images):
            if len(self.seen) == 3:
                raise KeyboardInterrupt
            return super().__call__(images)

    done = annotate_camera(Stopped(), 0, tmp_path / 'out.mkv', progress=True)
    assert done['seen'] == 3 and 'Stopped' in capsys.readouterr().out
    assert names_in(tmp_path) == ['out.mkv']


def test_an_odd_length_with_the_bar_shown(fake, tmp_path):
    """0.32 s at 20 fps are 6.4 frames: the seventh was more than the bar could count, and the recording was lost."""
    assert annotate_camera(Model(), 0, tmp_path / 'out.mkv', seconds=0.32, progress=True)['frames'] == 7


def test_a_failing_detector_keeps_the_recording(fake, tmp_path, capsys):
    class Broken(Model):
        def __call__(self, images):
            if len(self.seen) == 3:
                raise RuntimeError('out of memory')
            return super().__call__(images)

    with pytest.raises(RuntimeError, match='out of memory'):
        annotate_camera(Broken(), 0, tmp_path / 'out.mkv', progress=False)
    assert names_in(tmp_path) == ['out_partial.mkv'] and 'kept in' in capsys.readouterr().out
    assert 'frame=' in probe(tmp_path / 'out_partial.mkv')


def test_a_second_ctrl_c_keeps_the_recording_too(fake, tmp_path, monkeypatch, capsys):
    """The first ends the recording; the next may come while the encoder still writes what it holds."""
    complete, pressed = camera.VideoWriter.flush, iter([True])

    def flush(writer, *arguments, **options):
        if next(pressed, False):
            raise KeyboardInterrupt
        complete(writer, *arguments, **options)

    monkeypatch.setattr(camera.VideoWriter, 'flush', flush)
    with pytest.raises(KeyboardInterrupt):
        annotate_camera(Model(), 0, tmp_path / 'out.mkv', seconds=0.3, progress=False)
    assert names_in(tmp_path) == ['out_partial.mkv'] and 'kept in' in capsys.readouterr().out
    assert 'frame=' in probe(tmp_path / 'out_partial.mkv')


def test_a_camera_may_need_a_moment(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeCapture, 'asleep', 2)
    assert annotate_camera(Model(), 0, tmp_path / 'out.mkv', seconds=0.1, progress=False)['frames'] == 2


def test_bad_camera_and_bad_outputs(fake, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('no folder', encoding='utf-8')
    for number, target, words in (
        (7, 'out.mkv', 'video_in=7: no camera'),
        (0, 'out.xyz', 'unknown kind'),
        (0, 'file/out.mkv', 'cannot be written'),
    ):
        with pytest.raises(UserError, match=words) as caught:
            annotate_camera(Model(), number, tmp_path / target, progress=False)
        assert '\n' not in str(caught.value)
    monkeypatch.setattr(FakeCapture, 'asleep', 100)
    monkeypatch.setattr(camera.time, 'sleep', lambda _: None)
    with pytest.raises(UserError, match='video_in=0: no camera'):
        annotate_camera(Model(), 0, tmp_path / 'out.mkv', progress=False)
    assert names_in(tmp_path) == ['file']


def test_script_without_a_camera(run_script, weights_file, tmp_path):
    """No machine has a hundredth camera. `show=True` where there is no screen says so, and goes on."""
    done = run_script('_test_with_video.py', f'weights={weights_file}', 'video_in=99', 'threshold=0.9')
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and 'video_in=99: no camera' in done.stderr


def test_video_file_in_a_window(tmp_path):
    source = tmp_path / 'in.mkv'
    make = [imageio_ffmpeg.get_ffmpeg_exe(), '-v', 'error', '-f', 'lavfi', '-i', 'color=c=red:s=96x64:r=10:d=1']
    subprocess.run([*make, '-c:v', 'libx264', '-pix_fmt', 'yuv444p', str(source)], check=True)
    shown, orders = FakeWindow(), []

    def model(images):
        orders.append(len(images))
        return [
            {'boxes': torch.zeros(0, 4), 'labels': torch.zeros(0, dtype=torch.int64), 'scores': torch.zeros(0)}
        ] * len(images)

    done = annotate_video(
        *(model, source, tmp_path / 'out.mkv'), class_names=['a'], batch_size=4, progress=False, window=shown
    )
    assert done['frames'] == 10 == len(shown.frames) == sum(orders)
    assert shown.frames[0].shape == (64, 96, 3) and shown.frames[0][0, 0, 0] > 200


def test_no_screen_is_one_line(monkeypatch, capsys):
    def refuse(self, title):
        raise RuntimeError('no display name and no $DISPLAY environment variable')

    monkeypatch.setattr(window.Window, '__init__', refuse)
    with window.open_window(True, 'title') as opened:
        assert opened is None
    said = capsys.readouterr().out
    assert said.count('\n') == 1 and 'no screen' in said and 'Going on' in said

    def no_tkinter(self, title):
        raise ImportError("No module named 'tkinter'")

    monkeypatch.setattr(window.Window, '__init__', no_tkinter)
    with window.open_window(True, 'title') as opened:
        assert opened is None
    assert 'tkinter' in capsys.readouterr().out
    with window.open_window(False, 'title') as opened:
        assert opened is None
    assert capsys.readouterr().out == ''


def test_a_real_window(tmp_path):
    """Where there is a screen."""
    with window.open_window(True, '花 test') as shown:
        if shown is None:
            pytest.skip('no screen here, or no tkinter')
        frame = np.zeros((40, 60, 3), np.uint8)
        shown.show(frame)
        shown.show(np.zeros((3000, 9000, 3), np.uint8))
        assert shown.picture.width() <= shown.root.winfo_screenwidth()
        shown.close()
        assert shown.closed
        shown.show(frame)
    assert shown.closed
