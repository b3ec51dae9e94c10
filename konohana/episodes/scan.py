"""An episode at a glance: it is decoded once, small, and what a choice of frames needs is kept.

The episode's moments lie a little apart; of each it is known how it looks, how sharp it is, and whether it lies in
a fade or near a cut. `grab` fetches the frames of chosen moments at full size later.
"""

import io
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from konohana import files
from konohana.episodes.shots import ShotFinder
from konohana.errors import UserError
from konohana.interrupts import patient
from konohana.progress import progress_bar
from konohana.video.moments import frames_at
from konohana.video.source import QUICK, Reducer, Source

VERSION = 2  # raise when what is kept changes
WIDTHS = (320, 160)  # pixels of the frames of moments, and of all others, which are compared with one another
EVERY = 0.25  # seconds between moments
AHEAD = 32  # frames that are decoded while others are looked at
REACH = 0.25  # seconds before and after a moment that must not fade into one another
FADE = 0.3  # of the change from before to after: a frame that lies no farther off their mean is a blend of both
CHANGE = 8.0  # grey levels: what changes less does not fade
NEAR_CUT = 2  # frames: encoders spend little on the first of a shot
TINY = 80  # pixels: at this width frames are compared to find fades
LOOK = (12, 16)  # rows and columns of the picture that tells looks apart


@dataclass
class Scan:
    """What is known of an episode. `path`; `hw` of its frames with square pixels; `begin`: the file's time of 0;
    `joined`: see `video.source.Source`.

    Arrays with one entry for each moment: `times` (seconds), `shots` (numbers of the shots, which end at fades too),
    `usable` (in no fade and near no cut), `bright` (mean, 0 to 255), `contrast` (standard deviation), `blur` (0 sharp
    to 1), `hashes` (perceptual, uint64), `looks` (float32 n x 12 x 16 x 3, CIELAB).
    """

    path: Path
    hw: tuple
    begin: float
    times: np.ndarray
    shots: np.ndarray
    usable: np.ndarray
    bright: np.ndarray
    contrast: np.ndarray
    blur: np.ndarray
    hashes: np.ndarray
    looks: np.ndarray
    joined: bool = False

    def __len__(self):
        return len(self.times)


ARRAYS = ('times', 'shots', 'usable', 'bright', 'contrast', 'blur', 'hashes', 'looks')


def scan(path, progress=True, hwaccel=''):
    """Decode an episode once and look at its moments -> `Scan`.

    Raises:
        UserError: the video cannot be read, or scenedetect is not installed.
    """
    with patient(), Source(path, hwaccel=hwaccel) as source:
        picture = source.picture
        unit = source.prepare(picture, exact=False)
        width = max(1, round(picture.width * float(picture.sar or 1)))
        sizes = [(max(8, round(wide * picture.height / width)), wide) for wide in WIDTHS]
        looker, total = _Looker(float(source.rate)), max(1, round(source.expected * source.rate))
        small = _smaller(source, float(unit), [Reducer(hw, QUICK) for hw in sizes], looker.step)
        # Decoding goes on in another thread meanwhile.
        with (
            ThreadPoolExecutor(1) as reader,
            progress_bar(f'Looking at {source.name}', total, progress, 'frames') as bar,
        ):
            upcoming = reader.submit(_batch, small)
            while batch := upcoming.result():
                upcoming = reader.submit(_batch, small)
                for seconds, frame in batch:
                    looker.add(seconds, frame)
                bar.update(min(looker.n_frames, total))
            bar.max_value = max(1, looker.n_frames)
        hw, begin = (picture.height, width), float(source.origin)
        return Scan(Path(path), hw, begin, **looker.arrays(), joined=source.joined)


def _smaller(source, unit, reducers, step):
    """Yield (seconds, small frame) of each frame; every `step`-th, a moment, is less small."""
    frames = (item for item in source.items() if isinstance(item, av.VideoFrame))
    for number, frame in enumerate(frames):
        yield float(frame.pts * unit), reducers[number % step > 0](frame)


def _batch(frames):
    return list(itertools.islice(frames, AHEAD))


class _Looker:
    """Takes the small frames one after another and keeps what a `Scan` says of the moments."""

    def __init__(self, fps):
        self.shots, self.n_frames, self.fps = ShotFinder(fps), 0, fps
        self.step, self.reach = max(1, round(EVERY * fps)), max(2, round(REACH * fps))
        self.greys, self.rows, self.frames = [], [], []
        self.fading = []

    def add(self, seconds, frame):
        self.shots.add(frame)
        tiny = cv2.resize(
            frame, (TINY, max(1, round(TINY * frame.shape[0] / frame.shape[1]))), interpolation=cv2.INTER_AREA
        )
        self.greys = [*self.greys[-2 * self.reach :], cv2.cvtColor(tiny, cv2.COLOR_RGB2GRAY)]
        if self.n_frames % self.step == 0:
            self.rows.append({'times': seconds, **measures(frame)})
            self.frames.append(self.n_frames)
        self.n_frames += 1
        middle = self.n_frames - 1 - self.reach
        if middle >= 0 and middle % self.step == 0:
            self.fading.append(len(self.greys) > 2 * self.reach and _fades(self.greys, self.reach))

    def arrays(self):
        names = ('times', 'bright', 'contrast', 'blur', 'hashes', 'looks')
        arrays = {name: np.array([row[name] for row in self.rows]) for name in names}
        frames = np.array(self.frames, int)
        fading = np.array(self.fading + [False] * (len(frames) - len(self.fading)), bool)
        starts = np.array(self.shots.starts)
        shot = np.searchsorted(starts, frames, side='right') - 1
        ends = np.append(starts[1:], self.n_frames)
        away = np.minimum(frames - starts[shot], ends[shot] - 1 - frames)
        # A fade takes the place of a cut.
        shot = shot + np.cumsum(np.diff(fading.astype(int), prepend=0) == 1)
        return {**arrays, 'shots': shot, 'usable': ~fading & (away >= NEAR_CUT)}


def _fades(greys, reach):
    """Whether the frame in the middle is a blend of those `reach` before and after: a cross-fade, or one to black."""
    before, middle, after = (greys[i].astype(np.float32) for i in (0, reach, 2 * reach))
    change = np.abs(after - before)
    off = np.abs(middle - (before + after) / 2)
    # In a moving scene most of the picture stays; in a fade nearly all of it changes.
    return change.mean() > CHANGE and np.median(change) > CHANGE / 2 and off.mean() < FADE * change.mean()


def measures(frame):
    """Of a picture (uint8 H x W x 3 RGB): `bright`, `contrast`, `blur`, `hashes` and `looks`, see `Scan`."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(grey)
    small = cv2.resize(frame, LOOK[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return {
        'bright': float(mean[0, 0]), 'contrast': float(deviation[0, 0]), 'blur': blur_of(grey),
        'hashes': perceptual_hash(grey), 'looks': cv2.cvtColor(small, cv2.COLOR_RGB2LAB),
    }  # fmt: skip


def blur_of(grey):
    """How blurred a grey picture is, 0 to 1 (Crete et al. 2007): how little it changes when it is blurred once more."""
    grey = grey.astype(np.float32)
    kept = []
    for axis, size in ((1, (9, 1)), (0, (1, 9))):
        edges = np.abs(np.diff(grey, axis=axis))
        lost = np.maximum(0, edges - np.abs(np.diff(cv2.blur(grey, size), axis=axis)))
        kept.append(1 - lost.sum() / max(edges.sum(), 1e-6))
    return float(max(kept))


def perceptual_hash(grey):
    """pHash: the signs of the 8 x 8 lowest frequencies against their median -> uint64."""
    low = cv2.dct(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32))[:8, :8].ravel()
    return np.packbits(low > np.median(low)).view(np.uint64)[0]


def distance(a, b):
    """How many of 64 bits differ: arrays of perceptual hashes that broadcast -> uint8."""
    bits = np.bitwise_xor(a, b)
    return np.bitwise_count(bits) if hasattr(np, 'bitwise_count') else _count(bits)


def _count(bits):
    """numpy 1 has no bitwise_count."""
    table = np.array([bin(i).count('1') for i in range(256)], np.uint8)
    return table[np.asarray(bits)[..., None].view(np.uint8)].sum(-1, dtype=np.uint8)


def grab(found, times, progress=True, hw=None):
    """Yield (time, uint8 H x W x 3 RGB with square pixels) of an episode's moments.

    Args:
        found: `Scan`. times: seconds, ascending. progress: show a progress bar.
        hw: height and width of the pictures, None for those of the episode.
    """
    with progress_bar(f'Taking from {found.path.name}', len(times), progress, 'frames') as bar:
        done = 0
        for taken in frames_at(found.path, times, hw or found.hw, found.begin, not found.joined):
            done += 1
            bar.update(done)
            yield taken
    if done < len(times):
        raise UserError(f'{found.path}: there is no frame at {times[done]:.2f} s any more. Has the file changed?')


def scanned(path, folder, progress=True, hwaccel=''):
    """As `scan`, but what an earlier run found out is taken from `folder` where the file has not changed since."""
    path = Path(path)
    with files.reading(path):
        files.check_regular(path)
        state = path.stat()
    key = [VERSION, state.st_size, state.st_mtime_ns]
    stored = Path(folder) / f'{path.name}.npz'
    found = _stored(path, stored, key)
    if found is None:
        found = scan(path, progress, hwaccel)
        buffer = io.BytesIO()
        arrays = {name: getattr(found, name) for name in ARRAYS}
        np.savez_compressed(buffer, key=key, hw=found.hw, begin=found.begin, joined=found.joined, **arrays)
        files.write_bytes(stored, buffer.getvalue())
    return found


def _stored(path, stored, key):
    """The `Scan` kept in a file; None where there is none, or it is damaged or of another file or version."""
    try:
        with np.load(io.BytesIO(files.read_bytes(stored)), allow_pickle=False) as content:
            arrays = {name: content[name] for name in ARRAYS}
            same = content['key'].tolist() == key and len({len(values) for values in arrays.values()}) == 1
            known = {'begin': float(content['begin']), 'joined': bool(content['joined'])}
            return Scan(path, tuple(content['hw'].tolist()), **known, **arrays) if same else None
    except Exception:  # a damaged archive raises what its parts run into; the episode is looked at again
        return None
