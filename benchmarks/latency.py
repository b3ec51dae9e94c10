"""How long one picture takes on the CPU in each runtime: python benchmarks/latency.py konohana_dataset_path=my_show

From the frame as bytes to its detections, post-processing included. All of them take turns in one run, because a busy
machine slows all of them alike: compare ratios, not milliseconds. What each backend finds is measured in the same run.
"""

import platform
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# PyTorch and what needs it are imported where they are used, so that --help answers at once.
from konohana import files
from konohana.cast import IGNORE_CLASS
from konohana.errors import UserError
from konohana.settings import read, require, run

weights = 'weights/net.pt'  # weights file
konohana_dataset_path = ''  # dataset on which AP is measured; '' measures time alone, on a toy frame
split = 'val'  # its split
ignore_class = IGNORE_CLASS  # boxes with this name mark regions that are not counted
peer = 'yolo26n'  # a YOLO to compare with, untrained, if ultralytics is installed; '' for none
n_rounds = 25  # timed rounds, after a few to warm up
threads = 0  # threads to use, 0 for torch's choice
table_out = ''  # Markdown file of the table; '' only prints it
overwrite = False  # also replace a table_out that this program did not write
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent
RUNTIMES = ('torch', 'onnxruntime', 'openvino')
N_CALIBRATED = 10  # toy frames that say which values occur in the peer in 8 bits


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_rounds=(1, None), threads=(0, None))
    path = settings.path(settings.weights)
    table_path = settings.path(settings.table_out) if settings.table_out else None
    if table_path:
        files.claim(table_path, [path], settings.overwrite, 'table_out')
    import torch

    from konohana.evaluation.cost import take_turns

    if settings.threads:
        torch.set_num_threads(settings.threads)
    samples = read_samples(settings)
    models = our_models(path)
    frame = picture(samples[len(samples) // 2].path if samples else None, next(iter(models.values())).img_hw)
    functions = {('ours', name): detector(model, frame) for name, model in models.items()}
    if settings.peer:
        functions.update(peer_functions(settings.peer, frame))
    accuracy = {name: measure(model, samples, settings) for name, model in models.items()} if samples else {}
    with torch.inference_mode():
        text = table(take_turns(functions, settings.n_rounds), accuracy)
    about = (
        f'{processor()}, {torch.get_num_threads()} threads, {frame.shape[0]} x {frame.shape[1]}, '
        f'median of {settings.n_rounds} rounds'
    )
    print(f'{about}\n{text}')
    if table_path:
        files.write_text(table_path, f'{about}\n\n{text}\n', remember=True)


def read_samples(settings):
    """The dataset's samples; [] without one."""
    if not settings.konohana_dataset_path:
        return []
    from konohana.data.reading import frames_of_split

    root = settings.path(settings.konohana_dataset_path)
    return frames_of_split(root, settings.split, settings.ignore_class, settings.progress)


def our_models(path):
    """{runtime: the detector of a weights file}, of the runtimes that are installed and can compute it."""
    import konohana
    from konohana.errors import installed

    names = [name for name in RUNTIMES if name == 'torch' or installed(name)]
    models = {name: konohana.load(path, 'cpu', backend=name) for name in names}
    return {name: model for name, model in models.items() if model.backend == name}


def picture(path, img_hw):
    """The frame to detect in, at the network's size: uint8 H x W x 3. path: of its file, or None for a toy frame."""
    from konohana.data.images import fit_size, load_image, resize
    from konohana.toy.writer import draw_frame

    if path is None:
        return draw_frame(3, tuple(img_hw))['image']
    frame = load_image(path)
    return resize(frame, fit_size(*frame.shape[:2], img_hw))


def detector(model, frame):
    """Function that detects in a frame, as the scripts do it."""
    return lambda: model.detect([frame])


def peer_functions(name, frame):
    """{(name, runtime): function that detects in a frame} of an untrained YOLO, with its own post-processing.

    In bfloat16 and 8 bits too, though what it would find in these is not known: that can only favour it.
    """
    import torch

    from benchmarks.yolo import BytesYolo, Yolo
    from konohana.errors import installed
    from konohana.onnx import export
    from konohana.onnx.quantize import quantized
    from konohana.onnx.sessions import RUNTIMES as SESSIONS
    from konohana.toy.writer import draw_frame

    try:
        model = Yolo(name, fuse=True).requires_grad_(False)
    except UserError as error:
        print(f'{error} It is left out.')
        return {}
    graph = export.export_graph(BytesYolo(model).eval(), torch.from_numpy(frame)[None], ['found'])
    model.to(memory_format=torch.channels_last)
    sessions = {runtime: SESSIONS[runtime](graph, name) for runtime in filter(installed, RUNTIMES[1:])}
    if 'openvino' in sessions:
        sessions['openvino, bfloat16'] = SESSIONS['openvino'](graph, name)
        sessions['openvino, bfloat16'].options = {'INFERENCE_PRECISION_HINT': 'bf16'}
    if installed('onnx') and installed('onnxruntime'):
        small = quantized(graph, [frame, *(draw_frame(seed, frame.shape[:2])['image'] for seed in range(N_CALIBRATED))])
        for runtime in filter(installed, RUNTIMES[1:]):
            sessions[f'{runtime}, 8 bits'] = SESSIONS[runtime](small, name)
    functions = {(name, 'torch'): lambda: model.detect([frame])}
    for runtime, session in sessions.items():
        session.usual = ((1, *frame.shape),)
        functions[name, runtime] = lambda session=session: model.postprocess(
            torch.from_numpy(session.run(frame[None])['found']), **model.limits
        )
    return functions


def measure(model, samples, settings):
    """AP and AP50 of finding, of a detector on the dataset."""
    from konohana.data.dataset import Frames
    from konohana.evaluation.predict import predict_dataset
    from konohana.evaluation.summary import evaluate

    title = f'Evaluating {model.backend}'
    found = predict_dataset(model, Frames(samples, model.class_names), title=title, progress=settings.progress)
    metrics = evaluate(samples, found, model.class_names)
    return metrics['AP'], metrics['AP50_agnostic']


def ratio(times, other):
    """The median ratio of the times of one round, so that both saw the same machine; as text."""
    return f'{statistics.median(a / b for a, b in zip(times, other, strict=True)):.2f}'


def table(times, accuracy):
    """The results as Markdown. times: see `cost.take_turns`; accuracy: {runtime: (AP, found AP50)} of ours."""
    peers = {runtime: values for (name, runtime), values in times.items() if name != 'ours'}
    fastest = min(peers.values(), key=statistics.median, default=None)
    lines = [
        '| detector | runtime | ms a picture | against ours in torch | against the peer in the same runtime | '
        "against the peer's fastest | AP | found AP50 |",
        '|---|---|---|---|---|---|---|---|',
    ]
    for (name, runtime), values in times.items():
        same = ratio(values, peers[runtime]) if runtime in peers else '–'
        best = ratio(values, fastest) if fastest else '–'
        found = [f'{value:.3f}' for value in accuracy.get(runtime, ())] if name == 'ours' else []
        cells = [f'{statistics.median(values) * 1e3:.1f}', ratio(values, times['ours', 'torch']), same, best]
        lines.append(f'| {name} | {runtime} | ' + ' | '.join([*cells, *(found or ['–', '–'])]) + ' |')
    return '\n'.join(lines)


def processor():
    """The processor's name, as its maker gives it."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        lines = []
    named = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(named, platform.processor() or platform.machine())


if __name__ == '__main__':
    run(main)
