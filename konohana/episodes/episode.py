"""An episode from its file to people: detected once, linked, drawn, and indexed.

Beside the result stand what is made of the index: `<name>.detections.jsonl.gz`, from which all else is made again
without detecting, `<name>.appearances.csv`, `<name>.timeline.png` and `<name>.html`.
"""

import re
import time
from pathlib import Path

import numpy as np

from konohana import checkpoint, files
from konohana.cast import SHARED_NAMES
from konohana.episodes import page, subtitles, timeline
from konohana.episodes import xray as extras
from konohana.episodes.find import Episode
from konohana.episodes.index import (
    FORMATS,
    changed,
    detections_of,
    link,
    load_index,
    newest_index,
    save_index,
    write_appearances,
)
from konohana.episodes.parquet import parquet_module
from konohana.episodes.watch import watch
from konohana.errors import UserError, count, installed, printable
from konohana.progress import progress_bar
from konohana.video.annotate import annotate_video
from konohana.video.detecting import NOTHING
from konohana.video.moments import frames_at
from konohana.video.recode import write_preview
from konohana.video.season import RESULT
from konohana.video.source import is_url
from konohana.video.writer import check_encoding, check_target

ENDINGS = {
    'detections': '.detections.jsonl.gz',
    'appearances': '.appearances.csv',
    'timeline': '.timeline.png',
    'page': '.html',
}
MORE_ENDINGS = {'preview': '.preview.mp4', 'vtt': '.vtt', 'chapters': '.chapters.txt'}  # on request


def annotate_episode(
    model,
    weights,
    video_in,
    target,
    smooth=True,
    detect_every='auto',
    labels_as='picture',
    index_only=False,
    index_as='jsonl.gz',
    preview=False,
    xray=False,
    **options,
):
    """Annotate an episode and write its index; prints what is done.

    Args:
        model: a detector, see `konohana.load`. weights: path of its file.
        video_in: file or URL. target: video to write.
        smooth: draw tracks under steady names; False: the detections of each frame as they are.
        detect_every: see `watch`. labels_as: 'picture', or 'subtitles' for a track beside untouched streams.
        index_only: write no video. index_as: 'jsonl.gz' or 'parquet'.
        preview: also write a small copy that browsers play. xray: also write who is on screen for players, see `xray`.
        options: see `annotate_video`.

    Returns:
        (path of the video that was written, or None; `find.Episode`, or None of a stream or of masks, which have no
        index).
    """
    detect_every = _checked(labels_as, detect_every, index_as, index_only)
    if is_url(video_in) or model.wants_masks:
        _refuse(video_in, labels_as == 'subtitles' or index_only or preview or xray)
        _report(annotate_video(model, video_in, target, **options), time.monotonic())
        return target, None
    began, spell, start = time.monotonic(), options['label_names'], options['start']
    target = Path(target).with_suffix('.mkv') if labels_as == 'subtitles' else Path(target)
    paths = index_files(target, index_as, preview, xray)
    # Known before the detector looks at thirty thousand frames.
    check_target(target)
    check_encoding(options['codec'], options['crf'], options['preset'], options['pix_fmt'])
    results = [target, *([target.with_suffix('.ass')] if labels_as == 'subtitles' else [])]
    for path in [*paths.values(), *([] if index_only else results)]:
        files.claim(path, [video_in], options['overwrite'], 'video_out')
    if labels_as == 'subtitles' and not index_only:
        subtitles.check_video(video_in)
    watching = {key: options[key] for key in ('start', 'seconds', 'batch_size', 'progress', 'hwaccel')}
    index, line = read_or_watch(
        *(model, weights, video_in, paths['detections'], options['threshold']), detect_every=detect_every, **watching
    )
    print(line)
    episode = episode_of(index, video_in, target, labels_as, not index_only)
    offset = 0.0 if episode.start is None else start
    chapters = extras.chapters(index, spell, offset) if xray else ()
    if labels_as == 'subtitles' and not index_only:
        ass = write_labels_as_subtitles(index, video_in, target, spell, start, options['overwrite'], chapters)
        print(f'Labels: {printable(ass)}')
        print(f'{printable(target)}: a copy with the labels as a subtitle track')
    elif not index_only:
        _report(draw_episode(index, video_in, target, smooth, chapters=chapters, **options), began)
    if preview:
        made = make_preview(index, episode, paths['preview'], offset, options['progress'])
        print(f'Preview: {printable(made)}')
    if xray:
        extras.write_vtt(paths['vtt'], index, spell, offset)
        extras.write_chapters(paths['chapters'], index, spell, offset)
        print(f'For players: {printable(paths["vtt"])}, {printable(paths["chapters"])}')
    remove_older(target, paths)
    shown = {'preview': paths.get('preview'), 'source': video_in, 'start': start}
    for path in write_index(index, target, episode.video, spell, options['font'], offset, **shown):
        print(f'Who is on screen when: {printable(path)}')
    return None if index_only else target, episode


def remove_older(target, paths):
    """Remove what an earlier run made on request, and this one has not, where the detections are newer: players find
    subtitles beside a video by themselves, and would show the names of other weights. paths: see `index_files`."""
    endings = [*(ending for what, ending in MORE_ENDINGS.items() if what not in paths), '.ass']
    since = changed(paths['detections'])
    for path in filter(files.written_here, (target.with_name(target.stem + ending) for ending in endings)):
        if changed(path) < since:
            path.unlink()
            print(f'{printable(path)}: of an earlier result, removed')


def _refuse(video_in, needs_index):
    if needs_index:
        what = 'a stream is seen once' if is_url(video_in) else 'masks have no tracks'
        raise UserError(
            f'{printable(video_in)}: {what}: there is no index of it. Leave labels_as, index_only, preview and xray.'
        )


def _checked(labels_as, detect_every, index_as, index_only):
    """`detect_every` as `watch` takes it; UserError where one of the three is no choice that there is."""
    if labels_as not in ('picture', 'subtitles'):
        raise UserError(f"labels_as={labels_as!r}: it is 'picture' or 'subtitles'.")
    if index_as not in FORMATS:
        raise UserError(f'index_as={index_as!r}: it is {" or ".join(map(repr, FORMATS))}.')
    if index_as == 'parquet':
        parquet_module()
    if labels_as == 'subtitles' and not index_only:
        subtitles.pysubs2_module()
    if detect_every == 'auto':
        return detect_every
    if not re.fullmatch('[1-9][0-9]{0,5}', str(detect_every)):
        raise UserError(f"detect_every={detect_every}: it is 'auto' or a whole number from 1, like 2.")
    return int(detect_every)


def episode_of(index, video_in, target, labels_as, annotated):
    """The `find.Episode` of an index: clips are cut out of the file `target` where it is `annotated`, else the source.

    They are named after `target`: two episodes of a season may have one name, in two folders.
    """
    start = float((index.made_from or {}).get('start') or 0.0)
    if not annotated:
        return Episode(index, target.stem.removesuffix(RESULT), video_in, start, index.joined)
    return Episode(index, target.stem, target, start if labels_as == 'subtitles' else None)


def known_episode(video_in, target, labels_as, index_only, weights):
    """The `find.Episode` of an episode that is done, from the newest index beside `target`.

    None where there is none, or it is of other `weights` (as in `Index.made_from`) or newer than the annotated file:
    it is of another run then, perhaps of another part, that did not come to its end.
    """
    path = newest_index(target.parent, target.stem)
    annotated = not index_only and target.is_file()
    if path is None or (annotated and changed(path) > changed(target)):
        return None
    index = load_index(path)
    same = (index.made_from or {}).get('weights') == weights
    return episode_of(index, video_in, target, labels_as, annotated) if same else None


def _report(done, began):
    took, frames = max(time.monotonic() - began, 1e-9), done['frames']
    print(
        f'{count(frames, "frame")} ({done["seconds"]:.2f} s, {rate_of(done)}) in {took:.1f} s, '
        f'{frames / took:.1f} a second: {printable(done["video_out"])}\n{done["stages"]}'
    )


def rate_of(done):
    """Frames per second of what `annotate_video` returns, as text: '23.976 fps', or the mean where it varies."""
    rate, mean = float(done['rate']), done['frames'] / max(float(done['seconds']), 1e-9)
    # The container's rate is a guess. A frame more or less is no variation, nor is the rounding of times to ms.
    varies = done['frames'] > 2 and abs(mean - rate) * done['seconds'] > max(1.5, 0.01 * done['frames'])
    return f'{mean:.5g} fps on average, varying' if varies else f'{rate:.5g} fps'


def make_preview(index, episode, path, offset, progress=True):
    """Write a small copy of the index's part of an episode, which browsers play; returns its path."""
    whole = len(index.times)
    seconds = float((index.made_from or {}).get('seconds') or 0.0)
    with progress_bar('Preview', max(1, whole), progress, 'frames') as bar:
        write_preview(episode.video, path, offset, seconds, lambda n: bar.update(min(n, whole)))
    return path


def index_files(target, index_as='jsonl.gz', preview=False, xray=False):
    """{what: path} of the files beside `target`, the annotated video."""
    target = Path(target)
    paths = {what: target.with_name(target.stem + ending) for what, ending in {**ENDINGS, **MORE_ENDINGS}.items()}
    paths['detections'] = target.with_name(f'{target.stem}.detections.{index_as}')
    unwanted = {*(() if preview else ('preview',)), *(() if xray else ('vtt', 'chapters'))}
    return {what: path for what, path in paths.items() if what not in unwanted}


def read_or_watch(model, weights, video_in, path, threshold=0.5, **options):
    """The index of an episode: read from `path` where it is of this video, part and weights; else made, and kept there.

    Args:
        model: a detector. weights: path of its file. video_in: file or URL. path: of the index.
        threshold: score from which a detection begins a track. options: see `watch`.

    Returns:
        (`Index`, line that says how it came about).
    """
    made_from = {
        'video': _identity(video_in),
        'weights': checkpoint.short_hash_of(weights),
        **{key: options.get(key) for key in ('start', 'seconds', 'detect_every')},
        **({'cast': model.cast.identity(weights)} if model.cast else {}),
    }

    def keep(index):
        index.made_from = made_from
        if index.threshold != threshold:
            index.threshold = threshold
            link(index)
        save_index(path, index)

    def keep_part(index):
        index.complete = False
        keep(index)
        kept = count(len(index.times), 'frame is', 'frames are')
        print(f'{kept} kept in {printable(path)}: the next run goes on from there.')

    known = []
    for found in filter(files.written_here, [path, *_in_other_formats(path)]):
        index = load_index(found)
        if index.made_from == made_from and index.complete:
            if index.threshold != threshold or found != path:
                keep(index)
            return index, f'Detections are taken from {printable(found)}'
        known = known or (detections_of(index) if index.made_from == made_from else [])

    index, done = watch(model, video_in, shared=SHARED_NAMES, known=known, keep=keep_part, **options)
    try:
        keep(index)
    except KeyboardInterrupt:  # what took an hour to find out is written in a second
        keep(index)
        raise
    rate, new = done['frames'] / max(done['seconds'], 1e-9), done['frames'] - len(known)
    what = f'the {new} frames that were left' if known else count(new, 'frame')
    seen = f'{done["detected"]} of {what} were looked at, {rate:.1f} frames a second: {printable(path)}'
    return index, f'{seen}\n{done["stages"]}'


def _in_other_formats(path):
    """The paths of the same index in the formats other than `path`'s."""
    own = next((form for form in FORMATS if path.name.endswith(f'.{form}')), None)
    return [path.with_name(path.name.removesuffix(own) + form) for form in FORMATS if form != own] if own else []


def _identity(video_in):
    if is_url(video_in):
        return str(video_in)
    stat = Path(video_in).stat()
    return [stat.st_size, stat.st_mtime_ns]


def drawn_detections(index):
    """What is drawn in each frame of an `Index`, as `annotate_video` takes it: the tracks under their names."""
    by_frame = [[] for _ in index.times]
    label_of = {name: k for k, name in enumerate(index.class_names, 1)}
    for track in index.tracks:
        for frame, box in zip(track['frames'], track['boxes'], strict=True):
            by_frame[frame].append((box, label_of[track['name']], track['probability']))
    for found in by_frame:
        if not found:
            yield NOTHING
            continue
        boxes, labels, scores = zip(*found, strict=True)
        yield {'boxes': np.array(boxes), 'labels': np.array(labels), 'scores': np.array(scores)}


def raw_detections(index):
    """The detector's own detections in each frame of an `Index`, neither linked nor smoothed."""
    for found in detections_of(index):
        probabilities = found['probabilities']
        labels = probabilities.argmax(axis=1) + 1 if len(probabilities) else np.zeros(0, int)
        yield {'boxes': found['boxes'], 'labels': labels, 'scores': found['scores']}


def draw_episode(index, video_in, target, smooth=True, threshold=0.5, **options):
    """Write the annotated copy of an episode; see `annotate_video` for `options` and what is returned."""
    detections = drawn_detections(index) if smooth else raw_detections(index)
    return annotate_video(
        *(None, video_in, target, 0.0 if smooth else threshold),
        **{'class_names': index.class_names, 'detections': detections, **options},
    )


def write_index(index, target, video, spell=None, font=None, offset=0.0, source=None, start=0.0, preview=None):
    """Write the table, the timeline and the page of an index beside `target`.

    Args:
        index: `Index`. target: the annotated video, or what it would be called. video: the file that the page plays.
        spell: {class name: other spelling}. font: path of a font file, or None.
        offset: second of `video` at which the index begins.
        source: the video that pictures are taken from, None for none; start: second of it at which the index begins.
        preview: path of a small copy that the page plays instead, or None.

    Returns:
        list of the paths written.
    """
    paths = index_files(target)
    write_appearances(paths['appearances'], index)
    if installed('matplotlib'):
        timeline.write_timeline(paths['timeline'], index, spell, font)
    else:
        print(f'{printable(paths.pop("timeline").name)} is left out: pip install matplotlib')
    pictures = cut_pictures(index, source, start) if source else None
    page.write_page(paths['page'], index, video, spell, pictures, offset, preview)
    return [paths[key] for key in ('appearances', 'timeline', 'page') if key in paths]


def cut_pictures(index, source, start=0.0):
    """Pictures of each character: {name: list of (frame, data URL)}; see `picture_moments`.

    The index has them if the episode was just watched; of what was watched before, they are cut out of the video.

    Args:
        source: file or URL. start: second of it at which the index begins.
    """
    pictures, chosen = {}, {}
    for name, found in page.picture_moments(index).items():
        pictures[name] = [(frame, index.portraits[row]) for frame, _, row in found if row in index.portraits]
        for frame, box, row in found:
            if row not in index.portraits:
                chosen.setdefault(frame, []).append((name, box))
    moments = {start + float(index.times[frame]): frame for frame in sorted(chosen)}
    try:
        for moment, picture in frames_at(source, list(moments), index.hw, seek=not index.joined):
            for name, box in chosen[moments[moment]]:
                pictures[name].append((moments[moment], page.portrait_of(picture, box)))
    except UserError as error:
        print(f'The page has fewer pictures: {printable(error)}')
    return {name: sorted(found) for name, found in pictures.items()}


def write_labels_as_subtitles(index, video_in, target, spell=None, start=0.0, overwrite=False, chapters=()):
    """A copy of an episode, coded anew in nothing, with the labels as an ASS track; returns the path of the .ass.

    start: second of the episode at which the index begins. chapters: written where the episode has none.
    """
    ass = Path(target).with_suffix('.ass')
    files.claim(ass, [video_in], overwrite, 'video_out')
    subtitles.write_subtitles(ass, index, spell)
    subtitles.mux(video_in, ass, target, start, overwrite, chapters)
    return ass
