"""The toy show: a small show without end, drawn from a seed, with exact boxes and masks.

It replaces data that may not be shared: simplified figures under the same fourteen names, with the colours, ears, hair
and kimono of the cast, in rooms, corridors, gardens and streets. You can train and test on it in a fresh clone. Mixing
its frames with real ones does not harm a detector, since a figure looks roughly like its character.

Another cast, drawn from a seed, makes it a show that the shipped weights do not know.

This module makes frames, datasets and episodes; figures.py draws the figures, casts.py who they are, scenes.py the
shots.
"""

import json
import math
import os
import re
import xml.etree.ElementTree as ET
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from pycocotools import mask as coco_mask

from konohana import files
from konohana.errors import UserError
from konohana.progress import progress_bar
from konohana.toy.casts import cast_of
from konohana.toy.scenes import draw_shot, shoot
from konohana.video.source import LIMITED, Picture, matrix_of, rgb_to_yuv
from konohana.video.writer import VideoWriter, check_target

VERSION = 1  # raise when the drawing changes: written into annotations, so that two versions are never mixed
SPLITS = {'train': 0, 'val': 1}

DEFAULT = re.compile(r'toy_show(?:_(?P<cast>\d{1,9}))?(?P<end>|_coco|\.mp4|\.mkv)')  # what scripts draw by themselves
N_FRAMES = {'train': 400, 'val': 40}  # of a dataset drawn by a script
SOUND_RATE = 48000  # samples a second of a video
STAMP_FILE = 'toy_show.txt'
COCO_LABELS = 'annotations/instances_{}.json'
OWN_FOLDERS = ('imgs', 'anns', 'sets', 'annotations', 'train', 'val')
OWN_FILES = re.compile(
    rf'{STAMP_FILE}|imgs/toy_(train|val)_\d+\.jpg(\.part)?|anns/toy_(train|val)_\d+\.xml(\.part)?|sets/(train|val)\.txt|'
    r'annotations/instances_(train|val)\.json|(train|val)/\d{6}\.jpg(\.part)?'
)


def _generator(seed):
    """The source of randomness for a seed; the length goes in too, since (8, 0) and 8 are one to a SeedSequence."""
    parts = tuple(seed) if isinstance(seed, (tuple, list, np.ndarray)) else (seed,)
    try:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((*parts, len(parts)))))
    except (TypeError, ValueError):
        raise UserError(f'toy show: seed {seed!r} is not a whole number from 0 on, nor a list of such.') from None


def _mixed(seed, cast):
    """The seed of a show: another cast stands in other places."""
    if not cast:
        return seed
    return (*seed, int(cast)) if isinstance(seed, (tuple, list, np.ndarray)) else (seed, int(cast))


def _checked_size(hw):
    h, w = (int(v) for v in hw)
    if h < 32 or w < 32:
        raise UserError(
            f'toy show: a frame of {h} x {w} pixels is too small; take at least 32 x 32, such as (360, 640).'
        )
    return h, w


def draw_frame(seed, hw=(360, 640), cast=0):
    """One frame of the toy show.

    Args:
        seed: an int, or a sequence of ints (such as (seed, split, index)), none negative. The same seed gives the
            same bytes; frames do not depend on one another.
        hw: height and width in pixels.
        cast: 0 for the first show's characters, any other whole number for a cast drawn from it.

    Returns:
        dict of `image` (uint8, H x W x 3, RGB), `boxes` (float32, n x 4: x1, y1, x2, y2 in pixels, x2 and y2
        exclusive, tight around the visible pixels), `labels` (list of n names of the cast) and `masks`
        (bool, n x H x W: the visible pixels of each figure, disjoint). About one frame in twenty
        has no character. Every character drawn is labelled: none is mostly hidden or outside.

    Raises:
        UserError: a size below 32 pixels, a negative seed or cast.
    """
    hw, people = _checked_size(hw), cast_of(cast)
    frame = shoot(_generator(_mixed(seed, cast)), hw, people)[1]
    del frame['hidden']
    return frame


def _jpeg(image):
    _, data = cv2.imencode('.jpg', image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    return data.tobytes()


def _wanted(n_train, n_val):
    """List of (split, number of frames) of the splits to write."""
    if min(n_train, n_val) < 0:
        raise UserError(f'toy show: {n_train} frames to train and {n_val} to validate on: set both to 0 or more.')
    return [(split, count) for split, count in (('train', n_train), ('val', n_val)) if count]


def _stamp(seed, hw, cast):
    return f'toy show {VERSION}, {f"cast {cast}, " if cast else ""}seed {seed}, {hw[0]} x {hw[1]}'


def _stamp_of(folder):
    """The stamp of the toy show in a folder, None where there is none; earlier versions have it in the labels alone."""
    labels = (next(iter(sorted(folder.glob(pattern))), None) for pattern in ('anns/toy_*.xml', 'annotations/*.json'))
    for file in (folder / STAMP_FILE, *labels):
        if file and file.is_file():
            found = re.search(r'toy show \d+, (cast \d+, )?seed .{1,200}? \d+ x \d+', files.read_text(file))
            if found:
                return found[0]
    return None


def holds_nothing_else(folder):
    """Whether a folder is missing, empty, or holds the toy show, whole or in part, and nothing but that."""
    folder = Path(folder)
    with files.reading(folder):
        if not os.path.lexists(folder):
            return True
        if not folder.is_dir():
            return False
        names = {path: path.relative_to(folder).as_posix() for path in folder.rglob('*')}
        # Hidden files are the file manager's, or were being written when the program was ended.
        names = {path: name for path, name in names.items() if not re.search(r'(^|/)\.', name)}
        own = (
            name in OWN_FOLDERS if path.is_dir() and not path.is_symlink() else OWN_FILES.fullmatch(name)
            for path, name in names.items()
        )
        return not names or (_stamp_of(folder) is not None and all(own))


def _begin(folder, stamp):
    """Stamp a folder for a toy show; UserError where it holds anything else."""
    if not holds_nothing_else(folder):
        raise UserError(f'{folder}: it holds something else; the toy show needs a folder of its own. Choose another.')
    found = _stamp_of(folder)
    if found not in (None, stamp):
        raise UserError(f'{folder}: it holds the {found}, not the {stamp}. Delete it or choose another folder.')
    files.write_text(folder / STAMP_FILE, stamp + '\n')


def draw_default(folder, here, splits=('train', 'val'), progress=True):
    """Draw the toy show where a script's dataset is the default one: call it before the dataset is read.

    That is `toy_show` (Pascal VOC) or `toy_show_coco` (COCO, with masks) in the script's own folder; `toy_show_2` and
    `toy_show_2_coco` are those of cast 2. Nothing is drawn anywhere else, nor where the folder holds anything but the
    toy show: then it is the user's, and used as it is.

    Args:
        folder: the dataset's folder, of any name.
        here: the script's folder.
        splits: splits that are needed; 'train' (400 frames) and 'val' (40) are drawn if their list is missing.
        progress: show progress bars.

    Raises:
        UserError: the folder cannot be read or written.
    """
    folder, ways = Path(folder), {'': (write_voc, 'sets/{}.txt'), '_coco': (write_coco, COCO_LABELS)}
    cast, end = _default(folder, here)
    if end in ways:
        write, labels = ways[end]
        with files.reading(folder):
            missing = [s for s in N_FRAMES if s in splits and not (folder / labels.format(s)).is_file()]
        if missing and holds_nothing_else(folder):
            counts = {f'n_{split}': count if split in missing else 0 for split, count in N_FRAMES.items()}
            write(folder, **counts, progress=progress, cast=cast)


def draw_default_video(path, here):
    """Draw ten seconds of the toy show where a script's video is missing and is a default one.

    That is `toy_show.mp4` (or .mkv) in the script's own folder; `toy_show_2.mp4` has cast 2.

    Args:
        path: the video, of any name; a URL is left alone.
        here: the script's folder.
    """
    cast, end = _default(path, here) if isinstance(path, Path) else (0, '')
    if end in ('.mp4', '.mkv') and not path.exists():
        print(f'Drawing a toy episode, {path.name}.')
        write_video(path, seconds=10, fps=24, hw=(360, 640), seed=0, cast=cast)


def _default(path, here):
    """(cast, ending) of what scripts draw by themselves in their folder `here`, (0, None) for any other path."""
    named = DEFAULT.fullmatch(path.name)
    if not named or path.resolve() != (Path(here) / path.name).resolve():
        return 0, None
    return int(named['cast'] or 0), named['end']


def _voc_xml(name, frame, stamp):
    """The frame's annotation as Pascal VOC XML (bytes)."""
    (h, w), root = frame['image'].shape[:2], ET.Element('annotation')

    def add(parent, tag, text=None):
        element = ET.SubElement(parent, tag)
        element.text = None if text is None else str(text)
        return element

    add(root, 'folder', 'imgs')
    add(root, 'filename', f'{name}.jpg')
    add(add(root, 'source'), 'database', stamp)
    size = add(root, 'size')
    for tag, value in (('width', w), ('height', h), ('depth', 3)):
        add(size, tag, value)
    add(root, 'segmented', 0)
    for (x1, y1, x2, y2), label in zip(frame['boxes'].astype(int), frame['labels'], strict=True):
        item = add(root, 'object')
        cut = x1 == 0 or y1 == 0 or x2 == w or y2 == h
        for tag, value in (('name', label), ('pose', 'Unspecified'), ('truncated', int(cut)), ('difficult', 0)):
            add(item, tag, value)
        box = add(item, 'bndbox')
        for tag, value in (('xmin', x1 + 1), ('ymin', y1 + 1), ('xmax', x2), ('ymax', y2)):
            add(box, tag, value)
    ET.indent(root, '\t')
    return ET.tostring(root, encoding='utf-8') + b'\n'


def write_voc(folder, n_train=1000, n_val=200, seed=0, hw=(360, 640), progress=True, cast=0):
    """Write the toy show as a Pascal VOC dataset: imgs/<id>.jpg, anns/<id>.xml, sets/train.txt, sets/val.txt.

    Only missing files are drawn, so you can run it again after an interruption. The lists of ids in sets/ are written
    last. A split of 0 frames is left as it is.

    Args:
        folder: folder to write; created if missing.
        n_train, n_val: frames of each split, 0 or more.
        seed: whole number from 0 on.
        hw: height and width of the frames in pixels.
        progress: show a progress bar, if anything is missing.
        cast: as `draw_frame`'s.

    Raises:
        UserError: the folder holds something else, or a toy show of another seed, size or cast.
    """
    folder, hw = Path(folder), _checked_size(hw)
    cast_of(cast)
    stamp = _stamp(seed, hw, cast)
    wanted = _wanted(n_train, n_val)
    _begin(folder, stamp)
    for split, count in wanted:
        names = [f'toy_{split}_{i:05d}' for i in range(count)]
        todo = [
            i for i, name in enumerate(names)
            if not ((folder / 'imgs' / f'{name}.jpg').is_file() and (folder / 'anns' / f'{name}.xml').is_file())
        ]  # fmt: skip
        if todo:
            with progress_bar(f'Toy show, {split}', len(todo), progress) as bar:
                for done, i in enumerate(todo, 1):
                    frame = draw_frame((seed, SPLITS[split], i), hw, cast)
                    files.write_bytes(folder / 'imgs' / f'{names[i]}.jpg', _jpeg(frame['image']))
                    files.write_bytes(folder / 'anns' / f'{names[i]}.xml', _voc_xml(names[i], frame, stamp))
                    bar.update(done)
        files.write_bytes(folder / 'sets' / f'{split}.txt', ('\n'.join(names) + '\n').encode())


def write_coco(folder, n_train=1000, n_val=200, seed=0, hw=(360, 640), progress=True, cast=0):
    """Write the same frames as COCO with masks: train/<id>.jpg, val/<id>.jpg, annotations/instances_<split>.json.

    Masks are compressed RLE, categories are numbered from 1 in the order of the cast. A complete split is left as it
    is; any other is drawn again.

    Args and errors: as `write_voc`.
    """
    folder, hw = Path(folder), _checked_size(hw)
    stamp, class_names = _stamp(seed, hw, cast), cast_of(cast).names
    wanted = _wanted(n_train, n_val)
    _begin(folder, stamp)
    for split, count in wanted:
        path = folder / COCO_LABELS.format(split)
        pictures = [folder / split / f'{i + 1:06d}.jpg' for i in range(count)]
        if path.is_file() and all(picture.is_file() for picture in pictures):
            with files.reading(path):
                if len(json.loads(files.read_text(path))['images']) == count:
                    continue
        images, annotations = [], []
        with progress_bar(f'Toy show, {split}', count, progress) as bar:
            for i, file in enumerate(pictures):
                frame = draw_frame((seed, SPLITS[split], i), hw, cast)
                files.write_bytes(file, _jpeg(frame['image']))
                images.append({'id': i + 1, 'file_name': file.name, 'height': hw[0], 'width': hw[1]})
                objects = zip(frame['labels'], frame['boxes'].tolist(), frame['masks'], strict=True)
                for label, (x1, y1, x2, y2), mask in objects:
                    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
                    annotations.append({
                        'id': len(annotations) + 1, 'image_id': i + 1, 'category_id': class_names.index(label) + 1,
                        'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': int(mask.sum()), 'iscrowd': 0,
                        'segmentation': {'size': list(hw), 'counts': rle['counts'].decode('ascii')},
                    })  # fmt: skip
                bar.update(i + 1)
        categories = [{'id': k, 'name': name} for k, name in enumerate(class_names, 1)]
        content = {
            'info': {'description': stamp}, 'images': images, 'annotations': annotations, 'categories': categories,
        }  # fmt: skip
        files.write_bytes(path, json.dumps(content, ensure_ascii=False).encode('utf-8'))


def _melody(rng, seconds):
    """A plucked tune in the in scale, as a koto might play it: int16, samples x 2."""
    total = round(seconds * SOUND_RATE)
    sound = np.zeros((total + 3 * SOUND_RATE, 2))
    scale = 440 * 2 ** (np.array([-12, -11, -7, -5, -4, 0, 1, 5, 7, 8, 12]) / 12)
    step, note, t = 0.3, 5, 0.0
    ring = np.arange(2 * SOUND_RATE) / SOUND_RATE
    while t < seconds:
        note = int(np.clip(note + rng.integers(-2, 3), 0, len(scale) - 1))
        pluck = sum(
            np.sin(2 * math.pi * scale[note] * k * ring) * np.exp(-ring * (1.5 + 1.6 * k)) / k for k in range(1, 7)
        )
        side, start = rng.uniform(0.3, 0.7), round(t * SOUND_RATE)
        sound[start : start + len(pluck)] += pluck[:, None] * np.array([side, 1 - side])
        t += step * float(rng.choice([1, 1, 2, 2, 3]))
    sound = sound[:total]
    return np.round(sound / max(1e-6, np.abs(sound).max()) * 20000).astype('<i2')


def write_video(path, seconds=10, fps=24, hw=(360, 640), seed=0, on=(1,), progress=False, cast=0):
    """Write a short episode with sound: shots of two to four seconds in which figures and camera move.

    Args:
        path: .mp4 or .mkv; H.264 (yuv420p) with stereo AAC at 48 kHz.
        seconds, fps: above 0. The video has exactly round(seconds * fps) frames and sound of the same length.
        hw: height and width in pixels, both even.
        seed: whole number from 0 on.
        on: for how many frames a drawing is shown; each shot takes one of these. Animation is drawn on twos and threes.
        progress: show a progress bar.
        cast: as `draw_frame`'s.

    Returns:
        list of a dict per frame: `boxes` (float32, n x 4) and `labels` (list of n names), as `draw_frame`'s, `people`
        (n numbers, the same for one person through a shot) and `shot`.

    Raises:
        UserError: a size, length, ending or folder that does not work, or the disk is full.
    """
    path, (h, w) = Path(path), _checked_size(hw)
    count = round(seconds * fps) if seconds > 0 and fps > 0 else 0
    if count < 1:
        raise UserError(f'{path}: {seconds} seconds at {fps} frames a second hold no frame. Set more seconds or fps.')
    if h % 2 or w % 2:
        raise UserError(f'{path}: H.264 takes an even height and width, not {h} x {w}.')
    if path.suffix.lower() not in ('.mp4', '.mkv'):
        raise UserError(f'{path}: the name must end in .mp4 or .mkv.')
    check_target(path)
    rng, truth, people = _generator(_mixed((seed, 2), cast)), [], cast_of(cast)
    picture = Picture(w, h, 'yuv420p', range=LIMITED, matrix=matrix_of(0, w, h))
    rate = Fraction(fps).limit_denominator(1001)
    with (
        VideoWriter(path, picture, rate, 1 / rate, crf=20, preset='fast') as video,
        progress_bar('Toy episode', count, progress, 'frames') as bar,
    ):
        sound = video.container.add_stream('aac', rate=SOUND_RATE, bit_rate=128000, layout='stereo')
        video.start()
        melody, start, end, number_of_shot = _melody(rng, count / fps), 0, 0, -1
        for number in range(count):
            if number == end:
                start, end = end, end + max(1, round(rng.uniform(2, 4) * fps))
                shot, number_of_shot = shoot(rng, (h, w), people)[0], number_of_shot + 1
                stands = int(rng.choice(on)) if len(on) > 1 else on[0]
            if (number - start) % stands == 0:
                frame = draw_shot(shot, (number - start) / fps)
                seen = [i for i in range(len(shot['actors'])) if i not in frame['hidden']]
            coded = rgb_to_yuv(frame['image'], picture)
            coded.pts, coded.time_base, coded.duration = number, 1 / rate, 1
            video.write(coded)
            part = melody[round(number / fps * SOUND_RATE) : round((number + 1) / fps * SOUND_RATE)]
            video.mux(sound.encode(_sound_frame(part, round(number / fps * SOUND_RATE))))
            truth.append({
                'boxes': frame['boxes'], 'labels': frame['labels'], 'shot': number_of_shot,
                'people': [1000 * number_of_shot + i for i in seen],
            })  # fmt: skip
            bar.update(number + 1)
        video.mux(sound.encode(None))
        video.flush()
        video.finish(remember=False)
    return truth


def _sound_frame(samples, moment):
    """int16 samples x 2 as PyAV's frame that begins at sample `moment`."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples).reshape(1, -1), format='s16', layout='stereo')
    frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, moment, Fraction(1, SOUND_RATE)
    return frame
