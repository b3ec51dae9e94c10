"""How cost grows with size, measured and drawn: python benchmarks/scale.py

Latency against the size of the picture, training against its frames, a video's frame against resolution and people,
memory against a video's length and resolution, evaluation against its images. Each part takes up to three minutes and
may be measured on its own (parts='latency, people'): results are kept in results_json, and the picture shows all that
are there. A dashed line grows as the work does; nothing should be steeper.
"""

import contextlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# PyTorch and what needs it are imported where they are used, so that --help answers at once.
from konohana import files
from konohana.cast import CLASS_NAMES
from konohana.errors import UserError
from konohana.settings import read, require, run

parts = ''  # what to measure, of the names in PARTS, with commas between; '' for all
most = 0  # largest size, as the table counts it; 0 for the script's own
results_json = 'test_out/scale.json'  # where results are kept
picture_out = 'test_out/scale.png'  # the curves; '' for none
overwrite = False  # also replace files that this program did not write

ROOT = Path(__file__).resolve().parent.parent


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, most=(0, None))
    wanted = [name.strip() for name in settings.parts.split(',') if name.strip()] or list(PARTS)
    if not set(wanted) <= set(PARTS):
        raise UserError(f'parts={settings.parts!r}: choose of {", ".join(PARTS)}, with commas between.')
    kept, picture = settings.path(settings.results_json), settings.path(settings.picture_out)
    for path, name in ((kept, 'results_json'), (picture, 'picture_out')):
        if getattr(settings, name):
            files.claim(path, [], settings.overwrite, name)
    results = read_results(kept)
    for name in wanted:
        measure, sizes, *_ = PARTS[name]
        with tempfile.TemporaryDirectory() as folder:
            results[name] = []
            for size in sizes:
                if not settings.most or size <= settings.most:
                    results[name].append((size, measure(size, Path(folder))))
                    print(f'{name} {size}: {results[name][-1][1]:.3g}', flush=True)
        files.write_text(kept, json.dumps(results, indent=1) + '\n', remember=True)
    print(table(results))
    if settings.picture_out:
        draw(results, picture)
        print(f'Curves: {picture}')


def read_results(path):
    """{part: list of (size, cost)} measured before."""
    if not path.is_file():
        return {}
    with files.reading(path):
        content = json.loads(files.read_text(path))
        return {name: [(float(x), float(y)) for x, y in content[name]] for name in PARTS if name in content}


def power_of(name):
    """The power of a part's size with which its work grows: pixels grow with the square of the lines."""
    return 2 if PARTS[name][2].startswith('lines') else 1


def growth(name, points):
    """How cost grows between the two largest sizes of a part against its work: 1 is as fast; as text."""
    if len(points) < 2:
        return '–'
    (x1, y1), (x2, y2) = points[-2:]
    return f'{math.log(y2 / y1) / math.log(x2 / x1) / power_of(name):.2f}'


def table(results):
    """All results as Markdown."""
    lines = ['| what | size | measured | power of the work, last step |', '|---|---|---|---|']
    for name in (name for name in PARTS if results.get(name)):
        points = [(round(x), y) for x, y in results[name]]
        _, _, of, cost = PARTS[name]
        sizes, costs = ', '.join(f'{x}' for x, _ in points), ', '.join(f'{y:.3g}' for _, y in points)
        lines.append(f'| {name}, {cost} | {sizes} {of} | {costs} | {growth(name, points)} |')
    return '\n'.join(lines)


def best(function, n=3):
    """The median seconds of a few calls, after one to warm up."""
    function()
    times = []
    for _ in range(n):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def hw_of(lines):
    """(height, width) of a 16:9 picture of so many lines."""
    return int(lines), int(lines * 16 // 9 // 2 * 2)


def latency(lines, backend):
    """Milliseconds of a toy frame of `lines` lines, the network at its full size."""
    import konohana
    from konohana.toy.writer import draw_frame

    hw = hw_of(lines)
    model = konohana.load(ROOT / 'weights' / 'net.pt', 'cpu', backend=backend)
    if model.backend == 'torch':
        model.transform.set_size(hw)
    else:
        model.img_hw, model.session.usual = hw, {(1, *hw, 3)}
    frame = draw_frame(3, hw)['image']
    return 1e3 * best(lambda: model.detect([frame]), 9)


def training(n_frames, folder):
    """Seconds of a run of _train.py of one epoch, without evaluation, from its start to its end."""
    from konohana.toy.writer import write_voc

    write_voc(folder / f'{n_frames}', n_train=n_frames, n_val=1, hw=(90, 160), progress=False)
    command = [sys.executable, str(ROOT / '_train.py'), f'konohana_dataset_path={folder / str(n_frames)}']
    command += ['val_split=', 'n_epoch=1', 'device=cpu', 'progress=False']
    command += [f'{name}={folder / f"run {n_frames}"}' for name in ('checkpoint_path', 'log_path')]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def toy_video(folder, hw, seconds):
    """A toy video, drawn for two seconds and repeated."""
    from konohana.toy.writer import write_video

    short, path = folder / f'{hw[0]}.mp4', folder / f'{hw[0]}_{seconds:g}.mp4'
    if not short.is_file():
        write_video(short, seconds=2, hw=hw, on=(2,))
    repeat(short, path, round(seconds / 2))
    return path


def repeat(source, target, times):
    """A video one after another several times, without coding it again."""
    import av

    with av.open(str(target), 'w') as out:
        shift = stream = 0
        for _ in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                stream = stream or out.add_stream_from_template(video)
                packets = [packet for packet in container.demux(video) if packet.size]
                for packet in packets:
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    out.mux(packet)
                shift += round(2 / video.time_base)


def video(hw, n_boxes, folder):
    """Milliseconds of a frame, decoded, drawn on and encoded."""
    from benchmarks.video import fixed_boxes
    from konohana.video.annotate import annotate_video

    path, done = toy_video(folder, hw, 2), {}
    model = fixed_boxes(n_boxes, False)

    def annotate():
        done.update(annotate_video(model, path, folder / 'out.mkv', progress=False))

    return 1e3 * best(annotate, 2) / done['frames']


def memory(hw, seconds, folder):
    """MiB that _test_with_video.py takes at most."""
    import konohana

    konohana.load(ROOT / 'weights' / 'net.pt', 'cpu')  # makes the runtime's graph, which takes memory once
    path = toy_video(folder, hw, seconds)
    command = [str(ROOT / '_test_with_video.py'), f'video_in={path}', f'video_out={folder / "out.mkv"}']
    # A child of its own, as the peak of all children is the largest of them.
    code = f'import subprocess, resource; subprocess.run({[sys.executable, *command, "overwrite=True"]!r}, check=True)'
    code += '; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)'
    done = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 1024


def evaluation(n_images, folder):
    """Seconds to evaluate `n_images` with three people and ten detections each."""
    import numpy as np

    from konohana.data.sample import Sample
    from konohana.evaluation.summary import evaluate

    rng, samples, found = np.random.default_rng(0), [], []
    for i in range(int(n_images)):
        corners = rng.uniform(0, 400, (10, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + rng.uniform(40, 200, (10, 2)).astype(np.float32)], 1)
        labels = rng.integers(0, len(CLASS_NAMES), 10)
        names = [CLASS_NAMES[k] for k in labels[:3]]
        true = boxes[:3] + rng.normal(0, 4, (3, 4)).astype(np.float32)
        samples.append(Sample(Path(f'{i}.jpg'), 640, 640, true, names, np.zeros(3, bool)))
        scores = np.sort(rng.uniform(0.05, 1, 10))[::-1].astype(np.float32)
        found.append({'boxes': boxes, 'labels': labels + 1, 'scores': scores})
    began = time.perf_counter()
    with contextlib.redirect_stdout(None):
        evaluate(samples, found, CLASS_NAMES)
    return time.perf_counter() - began


# Part: function of (size, folder), sizes, what the size is, what the cost is.
PARTS = {
    'latency': (lambda x, _: latency(x, 'auto'), (180, 360, 720, 1440), 'lines', 'ms a picture'),
    'latency in PyTorch': (lambda x, _: latency(x, 'torch'), (180, 360, 720, 1440), 'lines', 'ms a picture'),
    'training': (training, (100, 300, 900), 'frames', 's an epoch'),
    'resolution': (lambda x, f: video(hw_of(x), 3, f), (360, 720, 1080, 2160), 'lines', 'ms a frame of video'),
    'people': (lambda x, f: video((720, 1280), x, f), (1, 4, 16), 'people on screen', 'ms a frame of video'),
    'length': (lambda x, f: memory((180, 320), x, f), (10, 40, 160, 640), 's of video', 'MiB at most'),
    'large video': (lambda x, f: memory(hw_of(x), 10, f), (360, 1080, 2160), 'lines', 'MiB at most'),
    'evaluation': (evaluation, (500, 5000, 50000), 'images', 's'),
}


def draw(results, path):
    """The curves of all parts that are measured, both axes logarithmic."""
    import io

    from matplotlib.figure import Figure

    shown = [name for name in PARTS if results.get(name)]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure((3.2 * columns, 2.9 * rows), dpi=110, layout='constrained')
    for axes, name in zip(figure.subplots(rows, columns, squeeze=False).flat, shown, strict=False):
        _, _, of, cost = PARTS[name]
        x, y = zip(*results[name], strict=True)
        axes.loglog(x, y, 'o-', color='#3b6fb6')
        axes.loglog(x, [y[0] * (value / x[0]) ** power_of(name) for value in x], '--', color='#999999', linewidth=1)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(of, fontsize=8)
        axes.set_ylabel(cost, fontsize=8)
        axes.set_xticks(x, [f'{value:g}' for value in x])
        axes.minorticks_off()
        axes.tick_params(labelsize=8)
    for axes in figure.axes[len(shown) :]:
        axes.remove()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix('.') or 'png')
    files.write_bytes(path, buffer.getvalue(), remember=True)


if __name__ == '__main__':
    run(main)
