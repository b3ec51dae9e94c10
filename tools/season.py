"""Who is on screen in a whole season: python tools/season.py indexes_in=test_out

Reads the indexes that _test_with_video.py writes beside its videos and writes one page: screen time by character and
episode, first appearances, who meets whom. With `find` it also lists the scenes that several characters share, and with
`clips` cuts them out.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.errors import UserError, count, printable
from konohana.settings import read, run

indexes_in = 'test_out'  # folder with the <name>.detections.jsonl.gz or .parquet of the episodes
page_out = ''  # page to write; '' is season.html in that folder
title = ''  # of the page; '' is the folder's name
find = ''  # list the scenes of all episodes in which all of these are on screen, like 'Yuzu, Satsuki'
clips = False  # write each of these scenes as a file of its own
cut = 'copy'  # clips are copied from the key frame before; 'exact' encodes them, from the first frame to the last
videos_in = ''  # folder of the episodes that clips are cut out of; '' takes the annotated files beside the indexes
label_names = {}  # other spellings to show, like {'柚': 'Yuzu'}
overwrite = False  # replace files that this program did not write
progress = True  # show a progress bar

ROOT = Path(__file__).resolve().parent.parent


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    from konohana import files
    from konohana.episodes.clips import check_clips, cut_clips, folder_of
    from konohana.episodes.find import find_scenes
    from konohana.episodes.index import load_index
    from konohana.episodes.season import write_season

    folder = settings.path(settings.indexes_in)
    check_clips(settings.clips, settings.cut, settings.find)
    paths = index_paths(folder)
    if not paths:
        raise UserError(f'{folder}: no index there. Run _test_with_video.py on the episodes first.')
    page = settings.path(settings.page_out) if settings.page_out else folder / 'season.html'
    files.claim(page, paths, settings.overwrite, 'page_out')
    indexes = [load_index(path) for path in paths]
    for path in (path for path, index in zip(paths, indexes, strict=True) if not index.complete):
        print(f'{printable(path)}: only its beginning is known, the run that watched it was ended.')
    beside = [path.with_name(stem_of(path) + '.html') for path in paths]
    pages = [relative(path, page.parent) if path.is_file() else '' for path in beside]
    write_season(page, indexes, settings.title or folder.name, settings.label_names, pages)
    print(f'{count(len(indexes), "episode")}: {printable(page)}')
    if settings.find:
        videos_in = settings.path(settings.videos_in) if settings.videos_in else None
        there = sorted((videos_in or folder).iterdir()) if (videos_in or folder).is_dir() else []
        known = [episode_of(*pair, videos_in, there) for pair in zip(indexes, paths, strict=True)]
        names, scenes = find_scenes(known, settings.find, settings.label_names)
        if settings.clips and scenes:
            encoding = {'codec': 'h264', 'crf': 18, 'preset': ''}
            shared = {name: getattr(settings, name) for name in ('cut', 'overwrite', 'progress')}
            cut_clips(scenes, folder_of(page.parent, names), **shared, **encoding)


def index_paths(folder):
    """The indexes in a folder, one for each episode, in their order."""
    from konohana import files
    from konohana.episodes.index import ENDINGS, newest_index

    paths = [path for ending in ENDINGS for path in folder.glob(f'*{ending}')] if folder.is_dir() else []
    newest = (newest_index(folder, stem) for stem in set(map(stem_of, paths)))
    return sorted(filter(None, newest), key=files.in_order)


def stem_of(path):
    """The name of an index's episode: what all files beside it begin with."""
    from konohana.episodes.index import ENDINGS

    return next(path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending))


def relative(path, folder):
    """`path` relative to `folder`, as the address of a page."""
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.as_posix()


def episode_of(index, path, videos_in, there):
    """What is searched of an index: its clips are cut out of the file in `videos_in`, or out of the one beside it.

    there: the files in `videos_in`, or where that is None in the index's folder.
    """
    from konohana.episodes.find import Episode
    from konohana.episodes.subtitles import is_labelled_copy
    from konohana.video.writer import CONTAINERS

    start = float((index.made_from or {}).get('start') or 0.0)
    name = stem_of(path)
    if videos_in:
        # An index has the name as it is printed: without tabs, line ends and bytes that are no UTF-8.
        video = next((file for file in there if printable(file.name) == index.video), videos_in / index.video)
        return Episode(index, name, video, start, index.joined)
    beside = {file.suffix.lower(): file for file in there if file.stem == name}  # also .MP4
    video = next((beside[ending] for ending in CONTAINERS if ending in beside), path.with_name(f'{name}.mkv'))
    return Episode(index, name, video, start if is_labelled_copy(video) else None)


if __name__ == '__main__':
    run(main)
