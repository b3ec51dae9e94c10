"""Who is on screen when: the index of an episode, its file, and the appearances in it.

index = build_index(detections, ...)   # from a detector's detections, frame by frame
save_index(path, index)                # <name>.detections.jsonl.gz
index = load_index(path)               # costs no detection
appearances(index)                     # who, from, to
"""

import csv
import gzip
import io
import itertools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from konohana import files
from konohana.episodes import parquet
from konohana.episodes.names import choose_names, track_probabilities, without_doubles
from konohana.episodes.tracks import MIN_FRAMES, link_shot
from konohana.errors import UserError

FORMAT = 'konohana.index.1'
FORMATS = ('jsonl.gz', 'parquet')  # of the file, by its ending
ENDINGS = tuple(f'.detections.{form}' for form in FORMATS)
KEPT_NAMES = 5  # of each detection's names, the most probable
LARGEST_FILE = 1 << 30  # bytes, unpacked
PAUSE = 1.0  # seconds: an appearance goes on over a pause no longer than this
FEWEST_SECONDS = 0.1  # a shorter appearance is not listed
UNSURE_TRACK = 0.8  # of the threshold: a track of a lower mean score is not counted

COLUMNS = ('who', 'from', 'to', 'seconds', 'largest_size', 'mean_probability', 'tracks')


@dataclass
class Index:
    """An episode's detections and tracks.

    Attributes:
        video: name of the video file. hw: its height and width in pixels, as shown.
        times: F seconds, one for each frame, ascending; the first frame of the file is at `times[0]`.
        class_names: list of c names. shared: those names that several people may have at once, such as "other".
        shots: frame numbers that begin a shot, the first is 0.
        chapters: list of (seconds, title).
        frame, box, score, names: the detections as the detector gave them, n rows: frame number; x1, y1, x2, y2 in
            pixels; 0 to 1; n x c probabilities.
        tracks: list of dicts of `frames` (m), `boxes` (m x 4), `rows` (m, -1 for a filled gap), `name`, `probability`,
            `second`, `second_probability`, `shot`.
        made_from: what it was made from (video, weights, part of it), to know whether it still holds.
        complete: False where watching was ended before the episode did.
        threshold: score from which a detection begins a track, 0 to 1.
        joined: whether the video's own times jump back on the way, as where recordings are joined; `times` do not.
        portraits: {row: data URL}, small pictures of some detections; the file does not keep them.
    """

    video: str
    hw: tuple
    times: np.ndarray
    class_names: list
    shared: list
    shots: list
    chapters: list
    frame: np.ndarray
    box: np.ndarray
    score: np.ndarray
    names: np.ndarray
    tracks: list = field(default_factory=list)
    made_from: dict | None = None
    complete: bool = True
    threshold: float = 0.5
    joined: bool = False
    portraits: dict = field(default_factory=dict)

    @property
    def frame_seconds(self):
        """F seconds that each frame is shown; the last as long as most are, since only the next one ends a frame."""
        if len(self.times) < 2:
            return np.full(len(self.times), 1 / 24)
        steps = np.diff(self.times)
        return np.append(steps, np.median(steps))

    @property
    def borders(self):
        """F + 1 seconds: when each frame begins, and when the last one ends; none where there is no frame."""
        return np.append(self.times, self.times[-1:] + self.frame_seconds[-1:])


def build_index(video, hw, times, class_names, shared, shots, chapters, detections):
    """An index, linked, from a detector's detections.

    Args:
        video, hw, times, class_names, shared, shots, chapters: see `Index`.
        detections: F dicts, one a frame, of arrays `boxes` (n x 4 in pixels of the video), `scores` (n) and
            `probabilities` (n x c, of the class names).
    """
    counts = [len(found['boxes']) for found in detections]

    def joined(key, width):
        parts = [np.asarray(found[key], np.float32).reshape(-1, width) for found in detections]
        return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)

    names = joined('probabilities', len(class_names))
    # As much as the file holds, so that an index read from it is the same.
    np.put_along_axis(names, np.argsort(-names, axis=1, kind='stable')[:, KEPT_NAMES:], 0, axis=1)
    frame = np.repeat(np.arange(len(detections)), counts)
    box, score = joined('boxes', 4).round(1), joined('scores', 1)[:, 0].round(4)
    index = Index(
        *(video, tuple(hw), np.asarray(times, np.float64), list(class_names), list(shared), list(shots)),
        *(list(chapters), frame, box, score, names.round(4)),
    )
    return link(index)


def link(index):
    """Make the tracks of an index from its detections; see `tracks` and `names`. Returns the index."""
    index.tracks = []
    bounds = np.searchsorted(index.frame, [*index.shots, len(index.times)])
    shared = {index.class_names.index(name) for name in index.shared if name in index.class_names}
    for shot, (begin, end) in enumerate(itertools.pairwise(bounds)):
        index.tracks += _tracks_of_shot(index, shot, begin, end, shared)
    return index


def _tracks_of_shot(index, shot, begin, end, shared):
    """The tracks, as `Index.tracks` holds them, of the detections `begin` to `end` (not included)."""
    frame, box, score, names = (column[begin:end] for column in (index.frame, index.box, index.score, index.names))
    shortest = min(MIN_FRAMES, len(index.times))  # a video of one frame has tracks too
    found = link_shot(frame, box, score, names, shortest, index.threshold)
    found = [track for track in found if score[track.seen].mean() >= UNSURE_TRACK * index.threshold]
    found = without_doubles(found, score, names, shared, shortest)
    probabilities = [track_probabilities(names[track.seen], score[track.seen] ** 2) for track in found]
    chosen, second = choose_names(probabilities, [(t.frames[0], t.frames[-1]) for t in found], shared)
    return [
        {
            'frames': track.frames,
            'boxes': track.boxes,
            'rows': np.where(track.rows >= 0, track.rows + begin, -1),
            'name': index.class_names[first],
            'probability': float(p[first]),
            'second': index.class_names[other] if other >= 0 else None,
            'second_probability': float(p[other]) if other >= 0 else 0.0,
            'shot': shot,
        }
        for track, p, first, other in zip(found, probabilities, chosen, second, strict=True)
    ]


def detections_of(index):
    """The detections of an index, frame by frame, as `build_index` takes them."""
    bounds = np.searchsorted(index.frame, np.arange(len(index.times) + 1))
    return [
        {'boxes': index.box[a:b], 'scores': index.score[a:b], 'probabilities': index.names[a:b]}
        for a, b in itertools.pairwise(bounds)
    ]


def appearances(index):
    """Who is on screen from when to when.

    Tracks of one name that follow one another within `PAUSE` seconds, across cuts too, are one appearance.

    Returns:
        list of dicts with the keys in `COLUMNS`, in the order of their beginnings: seconds from the beginning of the
        video, `largest_size` the largest part of the picture that the box covers, 0 to 1.
    """
    lengths = index.frame_seconds
    by_name = {}
    for number, track in enumerate(index.tracks):
        by_name.setdefault(track['name'], []).append((track['frames'][0], number, track))
    rows = []
    for name, tracks in by_name.items():
        open_row = None
        for _, number, track in sorted(tracks, key=lambda item: item[:2]):
            begin, last = index.times[track['frames'][0]], track['frames'][-1]
            end = index.times[last] + lengths[last]
            size = (track['boxes'][:, 2:] - track['boxes'][:, :2]).clip(0).prod(1).max() / math.prod(index.hw)
            part = {
                'from': begin,
                'to': end,
                'sizes': [size],
                'p': [track['probability']] * len(track['frames']),
                'n': [number],
            }
            if open_row and begin - open_row['to'] <= PAUSE:
                open_row['to'] = max(open_row['to'], end)
                for key in ('sizes', 'p', 'n'):
                    open_row[key] += part[key]
            else:
                open_row = {'who': name, **part}
                rows.append(open_row)
    return [
        _listed(row)
        for row in sorted(rows, key=lambda row: (row['from'], row['who']))
        if row['to'] - row['from'] >= FEWEST_SECONDS
    ]


def _listed(row):
    return {
        'who': row['who'],
        'from': round(float(row['from']), 3),
        'to': round(float(row['to']), 3),
        'seconds': round(float(row['to'] - row['from']), 3),
        'largest_size': round(float(max(row['sizes'])), 4),
        'mean_probability': round(float(np.mean(row['p'])), 4),
        'tracks': ' '.join(map(str, row['n'])),
    }


def seconds_on_screen(index):
    """{name: bool array, F: is somebody of that name in the frame}, the longest on screen first."""
    present = {}
    for track in index.tracks:
        present.setdefault(track['name'], np.zeros(len(index.times), bool))[track['frames']] = True
    lengths = index.frame_seconds
    return dict(sorted(present.items(), key=lambda item: -float(lengths[item[1]].sum())))


def write_appearances(path, index):
    """Write `appearances` as CSV in UTF-8 with a byte order mark, which spreadsheets need for Chinese names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    for row in appearances(index):
        # A name that begins with = would be a formula to a spreadsheet.
        who = f"'{row['who']}" if row['who'][:1] in '=+-@\t' else row['who']
        writer.writerow({**row, 'who': who})
    files.write_bytes(path, text.getvalue().encode('utf-8-sig'), remember=True)


def save_index(path, index):
    """Write an index: as a Parquet table (see `parquet`) where `path` ends so, else as gzipped JSON lines.

    The first line is a header; then comes a line for each detection: `frame`, `seconds`, `shot`, `box`, `score`,
    `names` (name -> probability, the most probable) and, where it belongs to a track, `track`, `name` and
    `probability`.
    """
    write = parquet.write if str(path).endswith('.parquet') else _write_lines
    write(path, _header(index), index, *_places(index))


def _header(index):
    """What an index's file says besides its detections."""
    return {
        **{'format': FORMAT, 'video': index.video, 'hw': list(index.hw), 'class_names': index.class_names},
        **{'shared': index.shared, 'shots': [int(s) for s in index.shots], 'chapters': index.chapters},
        **{'times': [round(float(t), 6) for t in index.times], 'n_detections': len(index.frame)},
        **{'made_from': index.made_from, 'complete': index.complete, 'threshold': index.threshold},
        'joined': index.joined,
    }


def _places(index):
    """(shot, track or -1) of each detection."""
    track_of = np.full(len(index.frame), -1)
    for number, track in enumerate(index.tracks):
        track_of[track['rows'][track['rows'] >= 0]] = number
    return np.searchsorted(index.shots, index.frame, side='right') - 1, track_of


def _write_lines(path, header, index, shot_of, track_of):
    lines = [json.dumps(header, ensure_ascii=False)]  # as text, of which a film's detections fill less memory
    likeliest = np.argsort(-index.names, axis=1, kind='stable')[:, :KEPT_NAMES].tolist()
    for row, best in enumerate(likeliest):
        line = {
            **{'frame': int(index.frame[row]), 'seconds': round(float(index.times[index.frame[row]]), 3)},
            **{'shot': int(shot_of[row]), 'box': [round(float(x), 1) for x in index.box[row]]},
            'score': round(float(index.score[row]), 4),
            'names': {index.class_names[k]: round(float(index.names[row, k]), 4) for k in best},
        }
        if track_of[row] >= 0:
            track = index.tracks[track_of[row]]
            line.update(track=int(track_of[row]), name=track['name'], probability=round(track['probability'], 4))
        lines.append(json.dumps(line, ensure_ascii=False))
    text = '\n'.join([*lines, ''])
    # Without a time in gzip's header the same index gives the same file.
    files.write_bytes(path, gzip.compress(text.encode(), mtime=0), remember=True)


def newest_index(folder, stem):
    """The index in `folder` of the episode whose files begin with `stem`, of two forms the newer; None for none."""
    there = [path for path in (folder / f'{stem}{ending}' for ending in ENDINGS) if path.is_file()]
    return max(there, key=changed, default=None)


def changed(path):
    """When a file was changed last, in ns."""
    return path.stat().st_mtime_ns


def load_index(path):
    """Read what `save_index` wrote, and link it anew.

    Raises:
        UserError: it is missing, damaged or another file; or a Parquet table, and pyarrow is not installed.
    """
    path = Path(path)
    try:
        index = _from_file(*(parquet.read if path.suffix == '.parquet' else _read_lines)(path))
    except FileNotFoundError:
        raise UserError(f'{path}: there is no such index.') from None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever comes of rows that hold something else than they should
        raise UserError(
            f'{path}: not an index of this program, or damaged ({files.reason(error)}). Delete it and run again.'
        ) from None
    return link(index)


def _read_lines(path):
    """(header, frame, box, score, names) of an index's file of JSON lines."""
    data = bytearray()
    with gzip.open(path, 'rb') as file:
        # In parts: to read all at once would set aside as much as the largest file has.
        while part := file.read(1 << 20):
            data += part
            if len(data) > LARGEST_FILE:
                raise ValueError('it is too large')
    header, *lines = data.splitlines()  # of bytes: text has more line ends, which titles may hold
    header = json.loads(header)
    column = {name: k for k, name in enumerate(header['class_names'])}
    names = np.zeros((len(lines), len(column)), np.float32)
    frame, box, score = [], [], []
    for i, row in enumerate(map(json.loads, lines)):
        for name, probability in row['names'].items():
            names[i, column[name]] = probability
        frame.append(row['frame'])
        box.append(row['box'])
        score.append(row['score'])
    box = np.array(box, np.float32).reshape(-1, 4)
    return header, np.array(frame, np.int64), box, np.array(score, np.float32), names


def _from_file(header, frame, box, score, names):
    if header['format'] != FORMAT:
        raise ValueError('it is of another version of this program')
    times = np.array(header['times'], np.float64)
    if len(frame) != header['n_detections'] or (len(frame) and not 0 <= frame.min() <= frame.max() < len(times)):
        raise ValueError('lines are missing')
    return Index(
        str(header['video']),
        tuple(int(side) for side in header['hw']),
        times,
        [str(name) for name in header['class_names']],
        [str(name) for name in header['shared']],
        [int(shot) for shot in header['shots']],
        [(float(seconds), str(title)) for seconds, title in header['chapters']],
        frame,
        box,
        score,
        names,
        made_from=header.get('made_from'),
        complete=bool(header.get('complete', True)),
        threshold=float(header.get('threshold', 0.5)),
        joined=bool(header.get('joined', False)),
    )
