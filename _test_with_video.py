"""Annotate videos with a detector. Edit the variables below, or set them: python _test_with_video.py video_in=show.mkv

The result has each frame of the source at its own time, the sound, subtitles, fonts and chapters, and beside it who is
on screen when: a table, a timeline and a page. Ctrl-C keeps what is done as <name>_partial. With a webcam (video_in=0)
it goes on until Ctrl-C, or until its window is closed. A folder is a season: what is done with the same options is
skipped, and what fails is told at the end.
"""

import contextlib
import sys
import time

from konohana.settings import as_arguments, read, require, run

video_in = ''  # a video, its URL, or 0 for a camera (1, 2, ...); several: a folder, show/*.mkv, a list; '' is a toy one
video_out = ''  # .mkv, .mp4 or .mov, of several a folder; '' is test_out/<name of video_in>_annotated
index_only = False  # write no video: only who is on screen when
weights = ''  # weights file (.pt or .onnx); '' takes your net.pt, or else weights/net.pt
use_res2block = False  # if no weights file is named: net_det3.pt instead of net.pt
cast_path = ''  # folder with a sub-folder of 1 to 20 pictures for each character: name people by these; '' for none
cast_adds = False  # True: the names learned stay, and the cast adds characters, or other clothes, to them
cast_threshold = 0.6  # likeness to a character's pictures below which somebody is 'unknown', -1 to 1
threshold = 0.5  # lowest score that is drawn, or that begins a track (smooth=True), 0 to 1
smooth = True  # link detections to people with steady names; False draws them as they are, frame by frame
detect_every = 'auto'  # 'auto' looks at frames that differ from the one before, 1 at every frame, 3 at every third
labels_as = 'picture'  # or 'subtitles': a track that players switch on and off, the video copied as it is
find = ''  # list the scenes in which all of these are on screen, like 'Yuzu, Satsuki'
clips = False  # write each of these scenes as a file of its own
cut = 'copy'  # clips are copied from the key frame before; 'exact' encodes them, from the first frame to the last
preview = False  # write a small copy too, which any browser plays on the page
xray = False  # write who is on screen for players too: as a subtitle file, and as chapters
index_as = 'jsonl.gz'  # file of the detections; or 'parquet', for pandas and others (pip install pyarrow)
batch_size = 4  # frames in a batch
device = ''  # 'cuda', 'mps' or 'cpu'; '' takes the fastest there is
backend = 'auto'  # on the CPU: 'openvino', 'onnxruntime' or 'torch'; 'auto' takes the fastest that is installed
label_names = {}  # other spellings to draw, like {'柚': 'Yuzu'}
start = 0.0  # seconds into the video at which to begin
seconds = 0.0  # length to annotate in seconds; 0 for all
codec = 'h264'  # encode as 'h264', 'hevc' or 'av1'
crf = 18  # quality, 0 (lossless) to 51 (worst; 63 for 'av1')
preset = ''  # the encoder's preset; '' takes a fast one
pix_fmt = ''  # pixel format to encode, like 'yuv420p' for old players; '' keeps the source's depth
hwaccel = ''  # decode and encode on 'cuda', 'videotoolbox', 'vaapi' or 'qsv' where it can; '' is the CPU
overwrite = False  # replace a file that this program did not write, and do again what is done of several
workers = 1  # of several: how many to annotate at once; each takes 1 GB of memory, and a share of the threads
dask_scheduler = ''  # of several: address of a Dask cluster that annotates them, like 'tcp://192.168.1.2:8786'
font = ''  # font file of the labels; '' finds one
show = False  # show the annotated frames in a window
progress = True  # show a progress bar and what could not be kept


def main(arguments=None):
    settings = read({**globals(), 'video_in': as_text(video_in)}, arguments)
    require(settings, batch_size=(1, None), threshold=(0, 1), crf=(0, 63), start=(0, None), seconds=(0, None))
    require(settings, cast_threshold=(-1, 1), workers=(1, 64))
    # Imported here: PyTorch takes seconds, and --help should not.
    from konohana import default_weights
    from konohana.episodes.clips import check_clips
    from konohana.toy.writer import draw_default_video
    from konohana.video.camera import camera_number
    from konohana.video.season import episodes, target_of

    here = settings.path('.')
    path = settings.path(settings.weights) if settings.weights else default_weights(here, settings.use_res2block)
    camera = camera_number(settings.video_in)
    sources, season = (
        ([], False) if camera is not None else episodes(settings.video_in or 'toy_show.mp4', settings.path)
    )
    check_clips(settings.clips, settings.cut, settings.find)
    if season:
        annotate_season(settings, sources, path)
        return
    if settings.workers > 1 or settings.dask_scheduler:
        print('workers and dask_scheduler are for several videos: this one is annotated here, by one process.')
    if camera is not None:
        record(settings, open_model(settings, path), camera)
        return
    (source,) = sources
    draw_default_video(source, here)
    target = settings.path(settings.video_out) if settings.video_out else target_of(source, settings.path('test_out'))
    episode = searched_alone(settings, path, source, target)
    if episode is None:
        model = open_model(settings, path)
        check_find(settings, model, [source])
        episode = annotate(settings, model, path, source, target)
    if settings.find:
        list_scenes(settings, [episode], target.parent)


def as_text(value):
    """`video_in` as it is written on the command line, where the variable above holds a number or a list."""
    return str([str(item) for item in value]) if isinstance(value, (list, tuple)) else str(value)


def searched_alone(settings, weights, source, target):
    """The `find.Episode` of a video that is done with the same options, and is only to be searched; else None."""
    from konohana.episodes.episode import known_episode
    from konohana.errors import printable
    from konohana.video.season import why_again

    if not settings.find or settings.overwrite or settings.index_only:
        return None
    target = target.with_suffix('.mkv') if settings.labels_as == 'subtitles' else target
    now = made_with(settings, weights)
    if why_again(source, target, now):
        return None
    episode = known_episode(source, target, settings.labels_as, False, now['weights'])
    if episode:
        print(f'{printable(target)}: already done, only searched')
    return episode


def open_model(settings, path):
    """Load the detector, and say what computes it."""
    from konohana import load, own_cast
    from konohana.onnx.sessions import half_the_threads, n_threads
    from konohana.worker import is_worker

    with half_the_threads():
        model = load(path, settings.device, backend=settings.backend)
        if model.backend == 'torch':
            import torch

            torch.set_num_threads(n_threads())
    lines = [f'Weights: {path} (computed by {model.backend})']
    if settings.cast_path:
        cast = settings.path(settings.cast_path), settings.cast_adds, settings.cast_threshold
        lines.append(own_cast.give(model, *cast)[1])
    if not is_worker():
        print('\n'.join(lines))
    return model


def annotate_season(settings, sources, weights):
    """Annotate several videos, and find scenes in all of them, those that were done before too."""
    from konohana.errors import UserError
    from konohana.video.season import jobs_of, targets_of

    folder = settings.path(settings.video_out or 'test_out')
    again = settings.overwrite or settings.index_only  # an index is quickly made from its stored detections
    ending = '.mkv' if settings.labels_as == 'subtitles' else ''
    jobs = jobs_of(sources, folder, made_with(settings, weights), again, ending)
    alone = settings.workers == 1 and not settings.dask_scheduler
    model = open_model(settings, weights) if jobs and (alone or settings.find) else None
    check_find(settings, model, [job.source for job in jobs])
    if not alone:
        model = None  # it was only asked for its names: each worker loads one of its own
    failed = None
    try:
        annotate_jobs(settings, model, weights, jobs)
    except UserError as error:
        failed = error
    if settings.find:
        find_in_season(settings, weights, sources, targets_of(sources, folder, ending), folder)
    if failed:
        raise failed


def annotate_jobs(settings, model, weights, jobs):
    """Annotate the videos of a season that are not done."""
    from konohana.video.season import one_by_one

    if jobs and (settings.workers > 1 or settings.dask_scheduler):
        annotate_at_once(settings, weights, jobs)
    else:
        one_by_one(jobs, lambda source, target: annotate(settings, model, weights, source, target))


def find_in_season(settings, weights, sources, targets, folder):
    """List the scenes of a season's episodes, as far as these have an index, and cut them out."""
    from konohana.episodes.episode import known_episode
    from konohana.errors import printable

    known, now = [], made_with(settings, weights)
    for source, target in zip(sources, targets, strict=True):
        episode = known_episode(source, target, settings.labels_as, settings.index_only, now['weights'])
        if episode is None:
            name = printable(getattr(source, 'name', source))
            print(f'{name}: has no index of its result, and is not searched; overwrite=True makes both again')
        else:
            known.append(episode)
    if known:
        list_scenes(settings, known, folder)


def made_with(settings, weights):
    """What results are made with, to know when they are to be made again."""
    from konohana.video import season

    values = dict(vars(settings))
    if settings.cast_path:
        from konohana.own_cast import read_cast

        values['cast_path'] = read_cast(settings.path(settings.cast_path)).identity(weights)
    return season.made_with(values, weights)


def annotate_at_once(settings, weights, jobs):
    """Annotate several videos at once, here or on a cluster: each is this script again, with one video."""
    from konohana.errors import UserError
    from konohana.progress import progress_bar
    from konohana.video import workers
    from konohana.video.season import tell_failed

    if settings.show:
        raise UserError('show=True: a window needs workers=1, and no dask_scheduler.')
    steps = workers.View.STEPS * len(jobs)
    print(f'Weights: {weights}')
    with runner(settings, weights, jobs) as (n, run_one, line):
        print(line)
        with progress_bar('Season', steps, settings.progress, unit='', lines=True, running='{formatted_value}') as bar:
            failed = workers.annotate_at_once(jobs, n, run_one, workers.View(len(jobs), bar))
    tell_failed(failed, jobs)


@contextlib.contextmanager
def runner(settings, weights, jobs):
    """What annotates several videos at once: (how many, function that annotates one, line that says so)."""
    from konohana.errors import count
    from konohana.video import cluster, workers

    if settings.dask_scheduler:
        with cluster.Cluster(settings.dask_scheduler) as dask:
            paths = [__file__, weights, *(job.source for job in jobs)]
            dask.check_paths(jobs[0].target.parent, paths)
            line = f'{count(dask.n, "worker")} of {dask.address}, an episode at a time for each'
            yield dask.n, lambda job, *more: dask.run_one(command_of(settings, job), job, *more), line
        return
    n = min(settings.workers, len(jobs))
    threads = workers.share_of_threads(n)

    def run_one(job, *more):
        return workers.run_episode([sys.executable, *command_of(settings, job)], job.name, threads, *more)

    yield n, run_one, f'{count(n, "episode")} at once, with {count(threads, "thread")} for each'


def command_of(settings, job):
    """The script and arguments that annotate one video."""
    # What is looked for is looked for in all of them, once they are done.
    one = {'video_in': str(job.source), 'video_out': str(job.target), 'workers': 1, 'dask_scheduler': ''}
    return [str(settings.path(__file__)), *as_arguments(settings, **one, find='', clips=False)]


def style_of(settings):
    """What annotated files and recordings have in common."""
    names = ('label_names', 'threshold', 'crf', 'seconds', 'codec', 'preset', 'hwaccel', 'overwrite', 'progress')
    font = settings.path(settings.font) if settings.font else None
    return {**{name: getattr(settings, name) for name in names}, 'font': font}


def record(settings, model, camera):
    """Record what a webcam sees, annotated."""
    from konohana.errors import UserError
    from konohana.video.camera import annotate_camera
    from konohana.video.window import open_window

    if settings.start:
        raise UserError(f'start={settings.start:g}: a camera has no past; leave start at 0.')
    moment = time.strftime('%Y%m%d_%H%M%S')
    target = settings.path(settings.video_out or f'test_out/camera{camera}_{moment}.mkv')
    with open_window(settings.show, f'camera {camera}') as window:
        done = annotate_camera(model, camera, target, window=window, **style_of(settings))
    print(f'{done["seen"]} pictures seen in {done["seconds"]:.1f} s, recorded at {done["rate"]} fps: {target}')


def annotate(settings, model, weights, source, target):
    """Annotate one video, and write who is in it; returns the `find.Episode` that can be searched, or None."""
    from konohana import files
    from konohana.episodes.episode import annotate_episode
    from konohana.video.season import of_video
    from konohana.video.window import open_window

    names = ('start', 'pix_fmt', 'batch_size', 'smooth', 'detect_every', 'labels_as', 'index_only', 'index_as')
    options = {name: getattr(settings, name) for name in (*names, 'preview', 'xray')}
    with open_window(settings.show, getattr(source, 'name', source)) as window:
        done, episode = annotate_episode(
            *(model, weights, source, target), window=window, **options, **style_of(settings)
        )
    if done:
        files.written(done, of_video(made_with(settings, weights), source))
    return episode


def check_find(settings, model, sources):
    """Stop where `find` can find nothing, before the detector looks at thirty thousand frames."""
    from konohana.episodes.find import wanted_names
    from konohana.errors import UserError, printable
    from konohana.video.source import is_url

    if not (settings.find and sources):
        return
    wanted_names(settings.find, model.class_names, settings.label_names)
    for source in sources:
        if is_url(source) or model.wants_masks:
            what = 'a stream is seen once' if is_url(source) else 'masks have no tracks'
            raise UserError(f'find={settings.find}: {printable(source)}: {what}: there is no index to search.')


def list_scenes(settings, episodes, folder):
    """List the scenes of the episodes with all who are to be found, and cut them out."""
    from konohana.episodes.clips import cut_clips, folder_of
    from konohana.episodes.find import find_scenes

    names, scenes = find_scenes(episodes, settings.find, settings.label_names)
    if settings.clips and scenes:
        encoding = {name: getattr(settings, name) for name in ('codec', 'crf', 'preset', 'pix_fmt', 'hwaccel')}
        shared = {name: getattr(settings, name) for name in ('cut', 'overwrite', 'progress')}
        cut_clips(scenes, folder_of(folder, names), **shared, **encoding)


if __name__ == '__main__':
    run(main)
