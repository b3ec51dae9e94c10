"""Memory and speed over a long video, and over a gap in its times: python benchmarks/long_video.py hours=2

Makes a long episode out of twenty seconds of the toy show, copied again and again, and annotates it as
_test_with_video.py does: watched, linked, drawn and indexed. Prints the memory (resident, of the process) at each tenth
of the way. The detector finds the same boxes in each frame at once: it takes as much in a long video as in a short one.
With `gap` the second half of the video begins that many seconds later, as in a recording that was interrupted.
"""

import itertools
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.errors import UserError, count
from konohana.settings import read, require, run

hours = 2.0  # length of the video without the gap
gap = 0.0  # seconds without picture and sound in its middle; 3600 is an hour
hw = (90, 160)  # height and width
detect_every = 1  # 1 looks at every frame, 'auto' at those that differ from the one before
n_boxes = 3  # boxes in each frame
progress = True  # show progress bars

FPS, CLIP = 24, 20  # frames a second, seconds of the clip that is repeated
EVERY = 0.25  # seconds between two looks at the memory


def main(arguments=None):
    settings = read(globals(), arguments, folder=Path(__file__).resolve().parent.parent)
    require(settings, hours=(2 * CLIP / 3600, 24), gap=(0, 20000), n_boxes=(0, 19))
    resident()
    with tempfile.TemporaryDirectory() as folder:
        annotate_measured(*write_long(Path(folder), settings), settings)


def resident():
    """Memory of this process in MB."""
    try:
        import psutil
    except ImportError:
        raise UserError('To measure memory: pip install psutil') from None
    return psutil.Process().memory_info().rss / 1e6


def write_long(place, settings):
    """Write the video; returns (its path, the number of its frames and the seconds at which it ends)."""
    import av

    from konohana.toy.writer import write_video

    clip, path = place / 'clip.mp4', place / f'{settings.hours:g} hours, gap {settings.gap:g}.mkv'
    write_video(clip, CLIP, FPS, settings.hw, seed=1, on=(2, 2, 3), progress=settings.progress)
    repeats = round(settings.hours * 3600 / CLIP)
    with av.open(str(path), 'w') as out:
        with av.open(str(clip)) as source:
            tracks = [out.add_stream_from_template(stream) for stream in source.streams]
        for number in range(repeats):
            later = number * CLIP + (settings.gap if 2 * number >= repeats else 0)
            with av.open(str(clip)) as source:
                for packet in source.demux():
                    if packet.size and 0 <= packet.pts * packet.time_base < CLIP:
                        shift = round(later / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = tracks[packet.stream.index]
                        out.mux(packet)
    print(f'{path.name}: {path.stat().st_size / 1e6:.0f} MB, {repeats * CLIP / 60:g} minutes')
    return path, (repeats * CLIP * FPS, repeats * CLIP + settings.gap)


def annotate_measured(video, expected, settings):
    """Watch, draw and index the video, and print what each of them takes."""
    from benchmarks.video import fixed_boxes
    from konohana.episodes.episode import draw_episode, index_files, write_index
    from konohana.episodes.index import load_index, save_index
    from konohana.episodes.watch import watch

    target = video.with_name(f'{video.stem}_annotated.mkv')
    options = {'detect_every': settings.detect_every, 'progress': settings.progress}
    print(f'{"":10} {"MB at the start, and at each tenth of the way":60} {"frames/s":>8}')
    index, _ = measured('watch', lambda: watch(fixed_boxes(settings.n_boxes, False), video, **options), expected[0])[0]
    save_index(index_files(target)['detections'], index)
    del index
    index = load_index(index_files(target)['detections'])
    _, shown = measured('draw', lambda: draw_episode(index, video, target, progress=settings.progress), expected[0])
    measured('index', lambda: write_index(index, target, target), expected[0])
    frames, end = expected
    times = frame_times(target)
    right = len(times) == frames and abs(times[-1] + 1 / FPS - end) < 0.1 and min_step(times) > 0
    print(
        f'{count(len(times), "frame")}, the last ends after {times[-1] + 1 / FPS:.2f} s: {"" if right else "not "}right'
    )
    print(f'From a tenth of the way on, drawing took {max(shown[1:]) - shown[1]:.0f} MB more.')
    if not right:
        raise UserError(f'{target.name}: it should have {frames} frames and end after {end:.2f} s.')


def measured(title, work, frames):
    """Run `work()` and print its memory over time and its rate; returns (its value, list of 11 memories in MB)."""
    samples, ended = [resident()], threading.Event()

    def look():
        while not ended.wait(EVERY):
            samples.append(resident())

    watcher, began = threading.Thread(target=look, daemon=True), time.monotonic()
    watcher.start()
    try:
        result = work()
    finally:
        ended.set()
        watcher.join()
    took = time.monotonic() - began
    samples.append(resident())
    shown = [samples[round(i * (len(samples) - 1) / 10)] for i in range(11)]
    print(f'{title:10} {" ".join(f"{value:4.0f}" for value in shown):60} {frames / took:8.0f}')
    return result, shown


def frame_times(path):
    """The times of a video's packets in seconds, in order."""
    import av

    with av.open(str(path)) as container:
        track = container.streams.video[0]
        return sorted(float(packet.pts * packet.time_base) for packet in container.demux(track) if packet.size)


def min_step(times):
    """The shortest time between two frames."""
    return min(after - before for before, after in itertools.pairwise(times))


if __name__ == '__main__':
    run(main)
