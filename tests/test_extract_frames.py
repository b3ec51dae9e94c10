"""Frames worth labelling, from episodes with a shared opening, black frames, cross-fades and a blurred shot."""

import re
from fractions import Fraction

import cv2
import numpy as np
import pytest

from konohana.data.images import load_image, save_image
from konohana.episodes import pick, scan
from konohana.toy.writer import draw_frame
from konohana.video.source import LIMITED, Picture, matrix_of, rgb_to_yuv
from konohana.video.writer import VideoWriter

HW, FPS = (144, 256), 12


def still(seed):
    """A picture of the toy show with a wide range of greys, whatever its light."""
    image = draw_frame((seed, 40), HW, cast=2)['image']
    return cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)


def shot(image, seconds):
    """The picture with somebody moving in it: a disc goes through its lower half."""
    frames = []
    for i in range(round(seconds * FPS)):
        frames.append(image.copy())
        cv2.circle(frames[-1], (10 + 3 * i, 110), 9, (250, 60, 20), -1)
    return frames


def black(seconds):
    return [np.zeros((*HW, 3), np.uint8)] * round(seconds * FPS)


def cross_fade(a, b, seconds):
    n = round(seconds * FPS)
    return [cv2.addWeighted(a, 1 - i / n, b, i / n, 0) for i in range(1, n)]


def write_episode(path, frames):
    picture, rate = Picture(HW[1], HW[0], 'yuv420p', range=LIMITED, matrix=matrix_of(0, *HW[::-1])), Fraction(FPS)
    with VideoWriter(path, picture, rate, 1 / rate, crf=23, preset='ultrafast') as video:
        video.start()
        for number, frame in enumerate(frames):
            coded = rgb_to_yuv(frame, picture)
            coded.pts, coded.time_base, coded.duration = number, 1 / rate, 1
            video.write(coded)
        video.flush()
        video.finish(remember=False)


@pytest.fixture(scope='module')
def pictures():
    return [still(seed) for seed in range(14)]


@pytest.fixture(scope='module')
def season(tmp_path_factory, pictures):
    """Folder of two episodes; what lies at which seconds of the first is in LAYOUT."""
    folder = tmp_path_factory.mktemp('season 季')
    p = pictures
    opening = [frame for i in range(5) for frame in shot(p[i], 2)]
    parts = [
        *(opening, black(1), shot(p[5], 2), cross_fade(p[5], p[6], 1), shot(p[6], 2), shot(p[5], 2)),
        *(shot(cv2.GaussianBlur(p[7], (0, 0), 6), 2), shot(p[8], 2)),
    ]
    write_episode(folder / 'ep 1.mkv', [frame for part in parts for frame in part])
    write_episode(folder / 'ep 2.mkv', [*shot(p[9], 2), *black(1), *opening, *shot(p[10], 2), *shot(p[11], 9)])
    return folder


LAYOUT = {'opening': (0, 10), 'black': (10, 11), '5': (11, 13), 'fade': (13, 14), '6': (14, 16), '5 again': (16, 18)}
LAYOUT |= {'blurred': (18, 20), '8': (20, 22)}


def part_of(time):
    return next(name for name, (begin, end) in LAYOUT.items() if begin <= time < end)


def times_of(paths):
    """Seconds in the names of pictures, by episode."""
    found = {}
    for path in paths:
        stem, _, clock = path.stem.rpartition('_')
        h, rest = clock.split('h')
        m, rest = rest.split('m')
        s, ms = rest.split('s')
        found.setdefault(stem, []).append(int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000)
    return found


def test_a_frame_that_is_there_is_not_written_with_another_ending(run_script, season, tmp_path):
    out = tmp_path / 'frames'
    given = (f'video_in={season / "ep 2.mkv"}', f'frames_out={out}')
    assert run_script('tools/extract_frames.py', *given, 'n_frames=2').returncode == 0
    before = {path: path.read_bytes() for path in out.glob('*.jpg')}
    done = run_script('tools/extract_frames.py', *given, 'n_frames=4', 'ending=.png')
    assert done.returncode == 0, done.stderr
    assert len(before) == 2 and {path: path.read_bytes() for path in out.glob('*.jpg')} == before
    assert len(list(out.glob('*.png'))) == 2


def test_a_season(run_script, season, tmp_path, pictures):
    out = tmp_path / 'frames'
    arguments = [f'video_in={season}', f'frames_out={out}']
    done = run_script('tools/extract_frames.py', *arguments)
    assert done.returncode == 0, done.stderr
    paths = sorted(out.glob('*.jpg'))
    times = times_of(paths)
    # One of each picture: neither black nor blurred ones, none from the fade; the opening, and what comes twice, once.
    parts = [part_of(time).removesuffix(' again') for time in times['ep 1']]
    assert sorted(parts) == ['5', '6', '8', *['opening'] * 5]
    assert all(time < 2 or time > 13 for time in times['ep 2'])
    assert len([time for time in times['ep 2'] if time > 15]) in (1, 2)  # of a long shot there may be two
    assert '0:13 is in ep 1.mkv too, and taken once' in done.stdout and 'There are no more' in done.stdout
    # The pictures are those of their times, at full size.
    for path, part in zip(paths[5:8], parts[5:], strict=True):
        image, wanted = load_image(path), pictures[int(part)]
        assert image.shape == (*HW, 3) and np.abs(image[:90].astype(int) - wanted[:90]).mean() < 6
    sheet = load_image(tmp_path / 'frames_sheet.jpg')
    assert sheet.shape[1] >= 10 * 240 and sheet.shape[0] > 135

    # Again, with fewer: nothing changes, not even a picture that somebody has changed.
    save_image(paths[0], image)
    before = {path: path.read_bytes() for path in paths}
    again = run_script('tools/extract_frames.py', *arguments, 'n_frames=3', 'progress=False')
    assert again.returncode == 0, again.stderr
    assert {path: path.read_bytes() for path in out.glob('*.jpg')} == before


def test_fewer_frames_are_the_first_of_more(season):
    scans = [scan.scan(path, progress=False) for path in sorted(season.iterdir())]
    marks, stretches = pick.repeated(scans)
    assert not marks[0].any()
    ((episode, begin, end, earlier),) = stretches
    assert (episode, earlier) == (1, 0) and abs(begin - 3) < 1.5 and abs(end - 13) < 1.5
    moments = [m for i, found in enumerate(scans) for m in pick.moments_of(i, found, marks[i])]
    longer = pick.choose(moments, 20)
    assert pick.choose(moments, 4) == longer[:4] and {m.episode for m in longer[:2]} == {0, 1}
    # Those that are worth more come first.
    moments[-1].worth, moments[0].worth = 1.0, 0.01
    assert moments[0] not in pick.choose(moments, 4)


def test_doubt_is_worth_more():
    names = ['Aoi', 'other']
    sure = {'scores': [0.9], 'probabilities': [[0.99, 0.01]]}
    unsure = {'scores': [0.9, 0.4], 'probabilities': [[0.99, 0.01]] * 2}
    nameless = {'scores': [0.8], 'probabilities': [[0.55, 0.45]]}
    stranger = {'scores': [0.8], 'probabilities': [[0.05, 0.95]]}
    nobody = {'scores': [], 'probabilities': np.zeros((0, 2))}
    worth = {pick.worth_of(found, names) for found in (sure,)}
    assert pick.worth_of(nobody, names) < min(worth) == max(worth) < 0.4
    assert pick.worth_of(unsure, names) == 1.0
    assert max(worth) < pick.worth_of(nameless, names) < 1 and max(worth) < pick.worth_of(stranger, names)
    assert pick.worth_of({'scores': [0.9]}, names) < 0.4  # a detector without probabilities


def test_hashes_and_blur(pictures):
    grey = cv2.cvtColor(pictures[3], cv2.COLOR_RGB2GRAY)
    other = cv2.cvtColor(pictures[4], cv2.COLOR_RGB2GRAY)
    noisy = cv2.add(grey, np.random.default_rng(0).integers(0, 12, grey.shape, dtype=np.uint8))
    hashes = [scan.perceptual_hash(image) for image in (grey, noisy, other)]
    near, far = (int(scan.distance(hashes[0], h)) for h in hashes[1:])
    assert near <= pick.ALIKE < far
    assert int(scan._count(np.bitwise_xor(hashes[0], hashes[2]))) == far
    blurs = [scan.blur_of(cv2.GaussianBlur(grey, (0, 0), sigma)) for sigma in (0.3, 1, 2, 4)]
    assert blurs == sorted(blurs) and blurs[0] < pick.BLURRED < blurs[-1]


def test_what_an_earlier_run_saw_is_not_decoded_again(season, tmp_path, monkeypatch):
    path = season / 'ep 1.mkv'
    first = scan.scanned(path, tmp_path, progress=False)
    monkeypatch.setattr(scan, 'scan', None)
    again = scan.scanned(path, tmp_path, progress=False)
    assert np.array_equal(first.times, again.times) and np.array_equal(first.looks, again.looks) and again.hw == HW
    for content in (b'', b'PK broken'):
        (tmp_path / 'ep 1.mkv.npz').write_bytes(content)
        with pytest.raises(TypeError):  # it is looked at again
            scan.scanned(path, tmp_path, progress=False)


ANY = __file__  # a file that is there: it is not opened


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['video_in=missing.mkv'], 'no such file'),
        (['video_in=https://example.org/a.mkv'], 'Download the video first'),
        (['n_frames=0'], 'n_frames'),
        (['n_frames=1000000000000'], 'n_frames=1000000000000: it must be a number from 1 to 1000000'),
        (['frames_out=/', f'video_in={ANY}'], 'a whole disk'),
        (['weights=missing.pt', f'video_in={ANY}'], r'missing\.pt: '),  # known before the video is opened
        (['ending=.gif'], r"ending='.gif': it is one of '.jpg', '.png'"),
    ],
)
def test_mistakes_get_one_line(run_script, tmp_path, arguments, words):
    done = run_script('tools/extract_frames.py', f'frames_out={tmp_path / "frames"}', *arguments)
    assert done.returncode and 'Traceback' not in done.stderr
    assert re.search(words, done.stderr), done.stderr


def test_nothing_worth_labelling(run_script, tmp_path):
    write_episode(tmp_path / 'black.mp4', black(3))
    done = run_script('tools/extract_frames.py', f'video_in={tmp_path / "black.mp4"}', f'frames_out={tmp_path / "f"}')
    assert done.returncode and 'No frame is worth labelling' in done.stderr


def test_a_contact_sheet_of_somebody_else_stays(run_script, season, tmp_path):
    sheet = tmp_path / 'frames_sheet.jpg'
    sheet.write_bytes(b'mine')
    done = run_script('tools/extract_frames.py', f'video_in={season}', f'frames_out={tmp_path / "frames"}')
    assert done.returncode and 'overwrite=True' in done.stderr
    assert sheet.read_bytes() == b'mine' and not (tmp_path / 'frames').exists()
