"""Several episodes in one run: the files that `video_in` names, and the names of their results."""

import ast
import glob
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from konohana import checkpoint, files
from konohana.errors import UserError, count, printable
from konohana.video.source import is_url
from konohana.video.writer import CONTAINERS

EPISODES = set(
    '.3gp .asf .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogm .ogv .rm .rmvb .ts .vob .webm .wmv'.split()
)
# Variables of the script that do not change what is written. Of the weights the content counts, not the name.
SAME_RESULT = set(
    'video_in video_out index_only weights use_res2block find clips cut batch_size device backend overwrite show '
    'progress workers dask_scheduler'.split()
)
RESULT = '_annotated'  # ends the stem of a result
# Stems of what this program wrote, see `writer`, `episodes.episode` and `episodes.clips`. A user's own may end in _new.
OWN = re.compile(rf'^unfinished_\d+_|{RESULT}(_new\d*|\.preview|_\d+h\d\dm\d\ds)?$|_partial\d*$')


def episodes(video_in, resolve):
    """The videos that `video_in` names: one (a file, a URL), or several (a folder, a pattern like show/*.mkv, a list).

    Args:
        video_in: text, or a list of such; a list may also be text like "['a.mkv', 'b.mkv']".
        resolve: function that returns the absolute path.

    Returns:
        (list of Paths or URLs in the order of their numbers, whether `video_in` names several).

    Raises:
        UserError: a folder without videos, a pattern without matches, or a list that cannot be read.
    """
    if isinstance(video_in, str) and re.fullmatch(r'(?s)\s*\[.*\]\s*', video_in) and not resolve(video_in).exists():
        video_in = _list(video_in)
    if isinstance(video_in, (list, tuple)):
        if not video_in:
            raise UserError('video_in=[]: the list is empty. Name videos, or a folder of them.')
        found = [path for item in video_in for path in episodes(item, resolve)[0]]
        return list(dict.fromkeys(found)), True
    if is_url(video_in):
        return [video_in], False
    path = resolve(video_in)
    if path.is_dir():
        return _found(path.iterdir(), f'{path}: holds no video'), True
    if glob.has_magic(str(video_in)) and not path.exists():
        # Path.glob takes no absolute pattern. Brackets are rather a part of a name, like '[Group] Show', than a choice.
        patterns = str(path), str(path).replace('[', '[[]')
        matches = next(filter(None, (glob.glob(pattern, recursive=True) for pattern in patterns)), ())  # noqa: PTH207
        return _found(map(Path, matches), f'video_in={video_in!r}: no video fits this pattern'), True
    return [path], False


def _list(text):
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"video_in={text}: there is no such file, and as a list it is ['first.mkv', 'second.mkv'].")
    return value


def _found(paths, complaint):
    videos = [p for p in paths if p.suffix.lower() in EPISODES and not OWN.search(p.stem) and p.is_file()]
    if not videos:
        raise UserError(f'{complaint} ({", ".join(sorted(EPISODES))}).')
    return sorted(videos, key=files.in_order)


def target_of(source, folder, taken=(), ending=''):
    """The result's path in `folder`: <name>_annotated, with .mkv if the source's container cannot be written.

    taken: results of other episodes. Each result has its own stem, since the index beside it is named by the stem.
    ending: '' takes the source's.
    """
    name = str(source).rstrip('/').rpartition('/')[2] if is_url(source) else source.name
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f]', '_', name) if is_url(source) else name
    stem, ending = Path(name).stem, ending or Path(name).suffix
    ending = ending if ending.lower() in CONTAINERS else '.mkv'
    used = {path.stem.casefold() for path in taken}
    stems = itertools.chain([stem, name], (f'{name}_{number}' for number in itertools.count(2)))
    free = next(stem for stem in stems if f'{stem}{RESULT}'.casefold() not in used)
    return folder / f'{free}{RESULT}{ending}'


def targets_of(sources, folder, ending=''):
    """The results' paths of several episodes; see `target_of`."""
    targets = []
    for source in sources:
        targets.append(target_of(source, folder, targets, ending))
    return targets


@dataclass(frozen=True)
class Job:
    """An episode to annotate: its `number` among `total`, `source` (Path or URL) and `target` (Path)."""

    number: int
    total: int
    source: Path | str
    target: Path

    @property
    def name(self):
        """The episode's name, as lines about it begin."""
        return printable(self.source if is_url(self.source) else self.source.name)

    def __str__(self):
        return f'{self.number}/{self.total} {self.name}'


def made_with(settings, weights):
    """What annotated episodes are made with, to know later whether that has changed: dict that JSON can hold.

    settings: dict of the script's variables. weights: path of the weights file. See `of_video`.
    """
    kept = {name: value for name, value in settings.items() if name not in SAME_RESULT}
    kept['weights'] = checkpoint.short_hash_of(weights)
    return json.loads(json.dumps(kept, default=str, skipkeys=True))  # as it is read again: tuples are lists


def of_video(settings, source):
    """`made_with` of one video, since folders of outputs may hold those of several shows."""
    return {**settings, 'video': [source.name, source.stat().st_size]} if isinstance(source, Path) else settings


def changes(before, now):
    """What differs between two results of `made_with`, as text; '' for nothing. New variables are no change."""
    names = [name for name, value in now.items() if name in before and before[name] != value]
    known = {'weights': 'other weights', 'cast_path': 'another cast', 'video': 'another video of this name'}
    told = [known.get(name) or f'{name}={_short(now[name])} instead of {_short(before[name])}' for name in names]
    return ', '.join(told[:3] + ([f'{len(told) - 3} more'] if len(told) > 3 else []))


def _short(value):
    text = printable(repr(value))
    return text if len(text) <= 40 else f'{text[:36]} ...'


def why_again(source, target, settings):
    """Why an episode is to be annotated, '' if its result is there: newer than its source, made with `settings`."""
    try:
        if is_url(source) or not target.exists():
            return 'not done'
        if target.stat().st_mtime_ns < source.stat().st_mtime_ns:
            return 'the video is newer than its result'
        now = of_video(settings, source)
    except OSError:
        return 'not done'
    before = files.made_with(target)
    # None: another program's file, which is claimed later; or one whose index was never finished.
    return 'not done' if before is None else changes(before, now)


def jobs_of(sources, folder, settings, again, ending=''):
    """The episodes to annotate into `folder`, as `Job`s; says which are skipped, and why some are done again.

    settings: see `made_with`. again: skip none. ending: see `target_of`.
    """
    jobs = []
    for number, (source, target) in enumerate(zip(sources, targets_of(sources, folder, ending), strict=True), 1):
        job = Job(number, len(sources), source, target)
        why = 'not done' if again else why_again(source, job.target, settings)
        if not why:
            print(f'{job}: already done, skipped ({printable(job.target)})')
            continue
        if why != 'not done':
            print(f'{job}: done again ({why})')
        jobs.append(job)
    return jobs


def one_by_one(jobs, annotate):
    """Annotate each of `jobs` by `annotate(source, target)`, one after the other; see `tell_failed`."""
    failed = []
    for job in jobs:
        print(job)
        try:
            annotate(job.source, job.target)
        except UserError as error:
            print(f'Failed: {printable(error)}')
            failed.append(str(error))
    tell_failed(failed, jobs)


def tell_failed(failed, jobs):
    """Raise one UserError if any of `jobs` failed; failed: list of lines, of which equal ones are told once."""
    if failed:
        lines = ' | '.join(dict.fromkeys(failed))
        raise UserError(f'{len(failed)} of {count(jobs[0].total, "video was", "videos were")} not annotated: {lines}')
