"""Where the time of one picture goes, part by part: python benchmarks/layers.py

For PyTorch and, where it is installed, OpenVINO with the graph that is used by default (8-bit integers for the shipped
weights), which says itself how long each of its layers took. `rest` is what no part accounts for: the frame's bytes and
the detections on their way. Compare shares; parts are timed one by one, and that itself takes time.
"""

import re
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# PyTorch and what needs it are imported where they are used, so that --help answers at once.
from konohana.errors import UserError, installed
from konohana.settings import read, require, run

weights = 'weights/net.pt'  # weights file of detector=konohana
picture_in = ''  # the picture; '' is a frame of the toy show
n_rounds = 20  # timed rounds, after a few to warm up
threads = 1  # threads to use, 0 for torch's choice

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 3  # rounds that are not counted
STRIDES = (4, 8, 16, 32, 64)  # of the backbone's stages
PREPARING, AFTER, LOOK = 'bytes to floats', 'post-processing', 'second look'
ORDER = (
    *(PREPARING, 'stem', *(f'blocks at stride {stride}' for stride in STRIDES)),
    *('neck', 'tower that finds', 'tower that names', 'output layers', AFTER, LOOK, 'rest'),
)


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_rounds=(1, None), threads=(0, None))
    import torch

    import konohana
    from benchmarks.latency import picture

    if settings.threads:
        torch.set_num_threads(settings.threads)
    path = settings.path(settings.weights)
    model = konohana.load(path, 'cpu', backend='torch')
    if not hasattr(model, 'find_tower'):
        raise UserError(f'{path}: the parts of detector=konohana are known here, and of no other.')
    frame = picture(settings.path(settings.picture_in) if settings.picture_in else None, model.img_hw)
    columns = {'torch': measure(model, of_torch(model), frame, settings.n_rounds)}
    if installed('openvino'):
        fast = konohana.load(path, 'cpu', backend='openvino')
        columns['OpenVINO'] = measure(fast, of_openvino(fast), frame, settings.n_rounds)
    found = len(model.detect([frame])[0]['scores'])
    about = f'{frame.shape[0]} x {frame.shape[1]}, {torch.get_num_threads()} threads, {found} detections'
    print(f'{about}, median of {settings.n_rounds} rounds\n{table(columns)}')


def part_of(name):
    """The part to which a module or a layer of a graph belongs, by its name."""
    if 'second_look' in name:
        return LOOK
    for pattern, part in (
        (r'backbone.stem', 'stem'),
        (r'\bneck', 'neck'),
        (r'find_tower', 'tower that finds'),
        (r'name_tower', 'tower that names'),
        (r'(find|name)_layer', 'output layers'),
    ):
        if re.search(pattern, name):
            return part
    block = re.search(r'backbone.blocks\.(\d+)', name)
    return f'blocks at stride {stride_of(int(block[1]))}' if block else AFTER


def stride_of(block):
    """The stride of the maps that a block of the backbone gives."""
    from konohana.detectors.konohana.network import BLOCKS, STEM

    stride = 1
    for _, step, *_ in (*STEM, *BLOCKS[: block + 1]):
        stride *= step
    return stride


def of_torch(model):
    """Times the parts of PyTorch's detector; returns function that gives the {part: seconds} of the last picture."""
    spent = {}

    def timed(part, function):
        def run(*args, **kwargs):
            started = time.perf_counter()
            result = function(*args, **kwargs)
            spent[part] = spent.get(part, 0.0) + time.perf_counter() - started
            return result

        return run

    named = {'backbone.stem': model.backbone.stem, 'neck': model.neck}
    named.update({f'backbone.blocks.{i}': block for i, block in enumerate(model.backbone.blocks)})
    named.update({name: getattr(model, name) for name in ('find_tower', 'name_tower', 'find_layer', 'name_layer')})
    for name, module in named.items():
        module.forward = timed(part_of(name), module.forward)
    model.transform.forward = timed(PREPARING, model.transform.forward)
    model.detections = timed(AFTER, model.detections)
    model.look_again = timed(LOOK, model.look_again)

    def last():
        parts = dict(spent)
        spent.clear()
        return parts

    return last


def of_openvino(model):
    """Lets OpenVINO time the layers of a graph, as `of_torch`; the second look is timed as a whole."""
    from konohana.onnx.sessions import OpenVino

    class Profiled(OpenVino):
        options = {'PERF_COUNT': True}  # noqa: RUF012

    session = Profiled(model.session.data, model.session.path)
    session.usual, model.session = model.session.usual, session
    spent, look_again = {}, model._look_again

    def timed(*args):
        started = time.perf_counter()
        found = look_again(*args)
        spent[LOOK] = time.perf_counter() - started
        return found

    model._look_again = timed

    def last():
        (request,) = session.requests.values()
        parts, before = {LOOK: spent.pop(LOOK, 0.0)}, True
        for layer in request.profiling_info:
            # Reorderings of memory are named after the layers that they lie between.
            name = layer.node_name.rpartition('_/')[2]
            before = before and (layer.node_type == 'Reorder' or part_of(name) == AFTER)
            part = PREPARING if before else part_of(name)
            parts[part] = parts.get(part, 0.0) + layer.real_time.total_seconds()
        return parts

    return last


def measure(model, last, frame, n_rounds):
    """{part: list of n_rounds seconds}, with `rest`, of detecting in a frame; last: see `of_torch`."""
    times = {part: [] for part in ORDER}
    for i in range(n_rounds + WARM_UP):
        started = time.perf_counter()
        model.detect([frame])
        took, parts = time.perf_counter() - started, last()
        if i >= WARM_UP:
            parts['rest'] = max(0.0, took - sum(parts.values()))
            for part, values in times.items():
                values.append(parts.get(part, 0.0))
    return times


def table(columns):
    """The results as Markdown. columns: {runtime: {part: list of seconds}}."""
    lines = [
        '| part |' + ''.join(f' {name}, ms | share |' for name in columns),
        '|---|' + '---|---|' * len(columns),
    ]
    medians = {
        name: {part: statistics.median(values) for part, values in times.items()} for name, times in columns.items()
    }
    for part in ORDER:
        cells = [f'{1e3 * of[part]:.2f} | {of[part] / sum(of.values()):.0%}' for of in medians.values()]
        lines.append(f'| {part} | ' + ' | '.join(cells) + ' |')
    cells = [f'{1e3 * sum(of.values()):.2f} | 100%' for of in medians.values()]
    return '\n'.join([*lines, '| all | ' + ' | '.join(cells) + ' |'])


if __name__ == '__main__':
    run(main)
