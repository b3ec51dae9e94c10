"""Scenes as files of their own: copied as they are from the key frame before, or encoded again exactly."""

import re

import numpy as np

from konohana import files
from konohana.errors import UserError, count, printable
from konohana.progress import progress_bar
from konohana.video.recode import copy_part, description_of, encode_part
from konohana.video.source import Source, is_url
from konohana.video.writer import CONTAINERS

CUTS = ('copy', 'exact')
NAMES_SHOWN = 60  # characters of the characters' names in the name of the clips' folder


def check_clips(clips, cut, find):
    """UserError where the variables of clips make no sense, before any work."""
    if cut not in CUTS:
        raise UserError(f"cut={cut!r}: it is 'copy' or 'exact'.")
    if clips and not find:
        raise UserError("clips=True: which? Name who is to be in them, like find='Yuzu, Satsuki'.")


def folder_of(parent, names):
    """The folder of the clips of `names`, in `parent`."""
    return parent / re.sub(r'[^\w-]+', '_', f'clips_{"_".join(names)}')[:NAMES_SHOWN].rstrip('_')


def cut_clips(scenes, folder, cut='copy', overwrite=False, progress=True, **encoding):
    """Cut scenes out of their videos into `folder`; what is done already is skipped, what fails is told at the end.

    Args:
        scenes: list of `find.Scene`. cut: 'copy': as it is, from the key frame at or before the scene's first frame;
            'exact': encoded again, from the first frame to the last.
        overwrite: replace files that this program did not write, and do again what is done.
        encoding: `codec`, `crf`, `preset`, `pix_fmt` and `hwaccel` for 'exact', see `annotate_video`.

    Returns:
        list of the paths of the clips.

    Raises:
        UserError: a video is not there, or is a stream; a clip would replace a file; some could not be cut.
    """
    targets = [folder / clip_name(scene) for scene in scenes]
    videos = {scene.episode.video: scene.episode.joined for scene in scenes}
    for video, joined in videos.items():
        if is_url(video) or not video.is_file():
            raise UserError(f'{printable(video)}: clips are cut out of files, and there is none.')
        if joined and cut == 'copy':
            raise UserError(
                f'{printable(video)}: recordings are joined in it, and its times begin anew with each: take cut=exact.'
            )
    for target in targets:
        files.claim(target, videos, overwrite, 'video_out')
    done, failed, total = [], [], sum(map(n_frames, scenes))
    seen = 0
    try:
        with progress_bar('Clips', max(1, total), progress, 'frames') as bar:
            for scene, target in zip(scenes, targets, strict=True):
                try:
                    _cut(scene, target, cut, overwrite, lambda n, seen=seen: bar.update(min(seen + n, total)), encoding)
                    done.append(target)
                except UserError as error:
                    failed.append(str(error))
                seen += n_frames(scene)
                bar.update(min(seen, total))
    except KeyboardInterrupt:
        print(
            f'Stopped after {len(done)} of {count(len(scenes), "clip")}: the same command goes on. {printable(folder)}'
        )
        raise
    if done:
        print(f'{count(len(done), "clip")}: {printable(folder)}')
    if failed:
        raise UserError(
            f'{len(failed)} of {count(len(scenes), "clip")} could not be cut: ' + ' | '.join(dict.fromkeys(failed))
        )
    return done


def clip_name(scene):
    """Like 'episode_annotated_0h12m03s.mkv': two scenes of an episode never begin in the same second."""
    minutes, seconds = divmod(round(scene.begin), 60)
    video = scene.episode.video
    ending = video.suffix if not is_url(video) and video.suffix.lower() in CONTAINERS else '.mkv'
    return f'{scene.episode.name}_{minutes // 60}h{minutes % 60:02}m{seconds:02}s{ending}'


def n_frames(scene):
    """Number of an episode's frames in a scene."""
    return int(np.diff(np.searchsorted(scene.episode.index.times, [scene.begin - 1e-4, scene.end - 1e-4]))[0])


def _cut(scene, target, cut, overwrite, advance, encoding):
    episode = scene.episode
    quality = [encoding.get(key) for key in ('codec', 'crf', 'preset', 'pix_fmt') if cut == 'exact']
    how = ' '.join(str(value) for value in (cut, *quality) if value not in ('', None))
    tag = f'{printable(episode.video.name)}, {scene.begin:.3f} to {scene.end:.3f} s, {how}'
    if not overwrite and _is_done(target, episode.video, tag):
        return
    begin, end, slack = _in_video(scene)
    if cut == 'copy':
        copy_part(episode.video, target, begin + slack, end - begin - 2 * slack, tag)
    else:
        begin = max(0.0, begin - slack)
        options = {'tag': tag, 'seek': not episode.joined, **encoding}
        encode_part(episode.video, target, begin, end - slack - begin, advance, **options)


def _is_done(target, video, tag):
    """Whether `target` is this very clip, and no older than its video."""
    try:
        newer = files.written_here(target) and target.stat().st_mtime_ns >= video.stat().st_mtime_ns
    except OSError:
        return False
    return newer and description_of(target) == tag


def _in_video(scene):
    """Seconds of the video at which a scene begins and ends, and how far they may be rounded, here or in the file."""
    episode, times = scene.episode, scene.episode.index.times
    shift = episode.start
    if shift is None:
        with Source(episode.video) as source:
            shift = float(source.offset) - float(times[0])
    steps = np.diff(times)
    return scene.begin + shift, scene.end + shift, 0.4 * float(steps[steps > 0].min(initial=0.04))
