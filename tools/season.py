"""Who is on screen in a whole season: python tools/season.py indexes_in=test_out

Reads the indexes that _test_with_video.py writes beside its videos and writes one page: screen time by character and
episode, first appearances, who meets whom. With `find` it also lists the scenes that several characters share.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.errors import UserError, count, printable
from konohana.settings import read, run

indexes_in = 'test_out'  # folder with the <name>.detections.jsonl.gz of the episodes
page_out = ''  # page to write; '' is season.html in that folder
title = ''  # of the page; '' is the folder's name
find = ''  # list the scenes of all episodes in which all of these are on screen, like 'Yuzu, Satsuki'
label_names = {}  # other spellings to show, like {'柚': 'Yuzu'}
overwrite = False  # replace a page that this program did not write

ROOT = Path(__file__).resolve().parent.parent


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    from konohana import files
    from konohana.episodes.index import load_index
    from konohana.episodes.season import write_season
    from konohana.video.season import in_order

    folder = settings.path(settings.indexes_in)
    ending = '.detections.jsonl.gz'
    paths = sorted(folder.glob(f'*{ending}'), key=in_order) if folder.is_dir() else []
    if not paths:
        raise UserError(f'{folder}: no index there. Run _test_with_video.py on the episodes first.')
    page = settings.path(settings.page_out) if settings.page_out else folder / 'season.html'
    files.claim(page, paths, settings.overwrite, 'page_out')
    indexes = [load_index(path) for path in paths]
    if settings.find:
        list_scenes(indexes, settings.find, settings.label_names)
    beside = [path.with_name(path.name.removesuffix(ending) + '.html') for path in paths]
    pages = [relative(path, page.parent) if path.is_file() else '' for path in beside]
    write_season(page, indexes, settings.title or folder.name, settings.label_names, pages)
    print(f'{count(len(indexes), "episode")}: {page}')


def relative(path, folder):
    """`path` relative to `folder`, as the address of a page."""
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.as_posix()


def list_scenes(indexes, text, spell):
    """Print the scenes of all episodes in which all names of `text` are on screen."""
    from konohana.episodes.find import scenes_with, wanted_names
    from konohana.episodes.timeline import clock

    known = list(dict.fromkeys(name for index in indexes for name in index.class_names))
    names = wanted_names(text, known, spell)
    scenes = [(printable(index.video), *scene) for index in indexes for scene in scenes_with(index, names)]
    total = sum(end - begin for _, begin, end in scenes)
    print(f'{", ".join(names)}: {count(len(scenes), "scene")}, {clock(total)} together')
    for video, begin, end in scenes:
        print(f'  {video}: {clock(begin)} to {clock(end)}')


if __name__ == '__main__':
    run(main)
