"""How fast videos are annotated, against ffmpeg decoding and encoding alone: python benchmarks/video.py

All take turns in one run, because a busy machine slows all of them alike: compare the ratios. `nothing`, `boxes` and
`masks` are without a network: decoding, drawing and encoding. `episode` is what _test_with_video.py does with a video,
`every frame` the same with detect_every=1, `index only` writes no video.
"""

import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# PyTorch and what needs it are imported where they are used, so that --help answers at once.
from konohana.errors import UserError
from konohana.settings import read, require, run

video_in = ''  # the video; '' draws a toy episode of `hw` and `seconds`, on twos
hw = (360, 640)  # height and width of the toy episode
seconds = 10.0  # length of the toy episode
weights = 'weights/net.pt'  # weights file
rows = 'nothing, boxes, masks, episode, every frame, index only'  # what is timed beside ffmpeg
n_boxes = 3  # boxes in each frame of `boxes` and `masks`
codec = 'h264'  # how to encode: 'h264', 'hevc' or 'av1'
batch_size = 4  # frames in a batch
n_rounds = 3  # timed rounds, of which the median counts
busy = False  # keep one core busy with another process

ROOT = Path(__file__).resolve().parent.parent
KNOWN = ('nothing', 'boxes', 'masks', 'episode', 'every frame', 'index only')


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, seconds=(0.1, None), n_boxes=(0, 19), batch_size=(1, None), n_rounds=(1, None))
    names = [name.strip() for name in settings.rows.split(',') if name.strip()]
    if not set(names) <= set(KNOWN):
        raise UserError(f'rows={settings.rows!r}: choose of {", ".join(KNOWN)}, with commas between.')
    with tempfile.TemporaryDirectory() as folder, other_process(settings.busy):
        path = settings.path(settings.video_in) if settings.video_in else Path(folder) / 'toy.mkv'
        if not settings.video_in:
            from konohana.toy.writer import write_video

            write_video(path, seconds=settings.seconds, hw=settings.hw, on=(2,))
        print(table(take_turns(jobs(names, path, Path(folder), settings), settings.n_rounds), count(path)))


def count(path):
    """The number of frames of a video."""
    import av

    with av.open(str(path)) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


@contextlib.contextmanager
def other_process(wanted):
    """Another process that keeps one core busy, if it is wanted."""
    process = subprocess.Popen([sys.executable, '-c', 'while True: pass']) if wanted else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def jobs(names, path, folder, settings):
    """{name: function that works through the video once}, ffmpeg first where there is one."""
    from konohana.video.annotate import annotate_video

    def engine(what):
        model = fixed_boxes(settings.n_boxes if what != 'nothing' else 0, what == 'masks')
        annotate_video(
            *(model, path, folder / 'engine.mkv'), batch_size=settings.batch_size, codec=settings.codec, progress=False
        )

    works = {name: lambda name=name: engine(name) for name in names if name in KNOWN[:3]}
    if set(names) & set(KNOWN[3:]):
        import konohana
        from konohana.onnx.sessions import half_the_threads

        weights = settings.path(settings.weights)
        with half_the_threads():
            model = konohana.load(weights, 'cpu')
        for name in set(names) & set(KNOWN[3:]):
            works[name] = lambda name=name: episode(name, model, weights, path, folder, settings)
    coder = ffmpeg(path, folder / 'ffmpeg.mkv', settings.codec)
    return {**({'ffmpeg': coder} if coder else {}), **{name: works[name] for name in names}}


def ffmpeg(path, target, codec):
    """Function by which ffmpeg decodes a video and encodes it as the engine does; None without an ffmpeg."""
    from konohana.video.writer import CODECS

    program = shutil.which('ffmpeg')
    if not program:
        try:
            import imageio_ffmpeg
        except ImportError:
            print('There is no ffmpeg to compare with: install it, or pip install imageio-ffmpeg.')
            return None
        program = imageio_ffmpeg.get_ffmpeg_exe()
    encoder, preset, _ = CODECS[codec]
    command = [program, '-v', 'error', '-nostdin', '-y', '-i', str(path), '-map', '0:v:0', '-c:v', encoder]
    command += ['-preset', preset, '-crf', '18', str(target)]
    return lambda: subprocess.run(command, check=True)


def episode(name, model, weights, path, folder, settings):
    """Annotate the video as `_test_with_video.py` does, from its first frame."""
    from konohana.episodes.episode import annotate_episode

    target = folder / 'episode' / 'out.mkv'
    shutil.rmtree(target.parent, ignore_errors=True)
    with contextlib.redirect_stdout(None):
        annotate_episode(
            *(model, weights, path, target), detect_every=1 if name == 'every frame' else 'auto',
            index_only=name == 'index only', batch_size=settings.batch_size, codec=settings.codec, crf=18, preset='',
            pix_fmt='', hwaccel='', overwrite=False, label_names={}, font=None, start=0.0, seconds=0.0, threshold=0.5,
            progress=False,
        )  # fmt: skip


def take_turns(works, n_rounds):
    """{name: list of (seconds, seconds of CPU) of each round} of functions that take turns."""
    times = {name: [] for name in works}
    for _ in range(n_rounds):
        for name, work in works.items():
            wall, cpu = time.monotonic(), cpu_seconds()
            work()
            times[name].append((time.monotonic() - wall, cpu_seconds() - cpu))
    return times


def cpu_seconds():
    """CPU time of this process and of its children that have ended."""
    import resource

    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in used)


def table(times, n_frames):
    """The results as Markdown."""
    base = times.get('ffmpeg')
    lines = ["| what | frames a second | against ffmpeg's rate | ms of CPU a frame |", '|---|---|---|---|']
    for name, rounds in times.items():
        rate = n_frames / statistics.median(wall for wall, _ in rounds)
        cpu = 1e3 * statistics.median(cpu for _, cpu in rounds) / n_frames
        ratios = [of[0] / mine[0] for mine, of in zip(rounds, base, strict=True)] if base else []
        ratio = f'{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})' if ratios else '–'
        lines.append(f'| {name} | {rate:.1f} | {ratio} | {cpu:.1f} |')
    return '\n'.join(lines)


def fixed_boxes(n, with_masks):
    """A model that finds n boxes, the same in each frame, at once."""
    import torch

    class Model:
        class_names = [f'name {k}' for k in range(1, n + 1)]  # noqa: RUF012
        img_hw = (360, 640)

        def __call__(self, images):
            return [self.found(*image.shape[1:]) for image in images]

        def found(self, h, w):
            left = torch.arange(n) * w / max(1, n)
            boxes = torch.stack(
                [left, torch.full((n,), 0.2 * h), left + 0.8 * w / max(1, n), torch.full((n,), 0.9 * h)]
            )
            found = {'boxes': boxes.T, 'labels': torch.arange(1, n + 1), 'scores': torch.full((n,), 0.9)}
            if with_masks:
                found['masks'] = torch.zeros(n, h, w, dtype=torch.bool)
                for mask, (x1, y1, x2, y2) in zip(found['masks'], boxes.T.int().tolist(), strict=True):
                    mask[y1:y2, x1:x2] = True
            return found

    return Model()


if __name__ == '__main__':
    run(main)
