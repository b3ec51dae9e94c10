"""Several episodes in one run: the files that `video_in` names, and the names of their results."""

import ast
import glob
import itertools
import re
from pathlib import Path

from konohana import files
from konohana.errors import UserError, printable
from konohana.video.source import is_url
from konohana.video.writer import CONTAINERS

EPISODES = set(
    '.3gp .asf .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogm .ogv .rm .rmvb .ts .vob .webm .wmv'.split()
)
OWN = re.compile(r'^unfinished_\d+_|_(annotated|partial\d*|new\d*)$')


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
    if isinstance(video_in, str) and video_in.lstrip().startswith('[') and not resolve(video_in).exists():
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
        # Path.glob takes no absolute pattern.
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
        return _found(matches, f'video_in={video_in!r}: no video fits this pattern'), True
    return [path], False


def _list(text):
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"video_in={text}: not a list. Write it as ['first.mkv', 'second.mkv'].")
    return value


def _found(paths, complaint):
    videos = [p for p in paths if p.suffix.lower() in EPISODES and not OWN.search(p.stem) and p.is_file()]
    if not videos:
        raise UserError(f'{complaint} ({", ".join(sorted(EPISODES))}).')
    return sorted(videos, key=in_order)


def in_order(path):
    """Sort key that puts episode 10 after episode 9."""
    parts = re.split(r'(\d+)', str(path))
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)]


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
    free = next(stem for stem in stems if f'{stem}_annotated'.casefold() not in used)
    return folder / f'{free}_annotated{ending}'


def is_done(source, target):
    """Whether `target` exists, was written by this program and is not older than its source."""
    try:
        return files.written_here(target) and target.stat().st_mtime_ns >= source.stat().st_mtime_ns
    except OSError:
        return False


def annotate_season(sources, folder, annotate, again, ending=''):
    """Annotate each of `sources` into `folder`; skip finished ones unless `again`.

    annotate: function (source, target). ending: see `target_of`. Raises one UserError at the end if any of them failed.
    """
    failed, taken = [], set()
    for number, source in enumerate(sources, 1):
        target = target_of(source, folder, taken, ending)
        taken.add(target)
        if not again and not is_url(source) and is_done(source, target):
            print(f'{number}/{len(sources)} {printable(source.name)}: already done, skipped ({target})')
            continue
        print(f'{number}/{len(sources)} {printable(source)}')
        try:
            annotate(source, target)
        except UserError as error:
            print(f'Failed: {error}')
            failed.append(str(error))
    if failed:
        raise UserError(f'{len(failed)} of {len(sources)} videos were not annotated: ' + ' | '.join(failed))
