"""How fast detectors are, side by side: python benchmarks/speed.py detector="konohana, yolof, yolo11n"

Times the network and post-processing of one picture, without loading and drawing. The detectors take turns in one run,
because a busy machine slows all of them alike: compare ratios, not milliseconds. Networks are untrained unless you name
a weights file, so their post-processing has little to do; that of a two-stage detector always has much.

In `detector`, between commas: a detector's name, a YOLO if ultralytics is installed (yolo26n, yolo11n), or a weights
file (.pt or .onnx). The detector's own variables may follow, and fuse=False (batch norms stay) or channels_last=False,
as in 'konohana, konohana use_res2block=True, fasterrcnn_resnet50_fpn_v2 fuse=False'.
"""

import ast
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# PyTorch and what needs it are imported where they are used, so that --help answers at once.
from konohana.errors import UserError
from konohana.settings import read, require, run

detector = 'konohana, konohana fuse=False, konohana channels_last=False, konohana use_res2block=True'  # see above
img_hw = (360, 640)  # height and width of the picture
n_classes = 14  # number of classes
n_runs = 50  # timed runs of each detector, after a few to warm up
onnx = False  # time each detector in onnxruntime too (on the CPU, or on CUDA with onnxruntime-gpu)
threads = 0  # threads to use, 0 for torch's choice
device = 'cpu'  # 'cuda', 'mps', 'cpu', or '' for the fastest there is


ROOT = Path(__file__).resolve().parent.parent


def parse(text):
    """One of the detectors of `detector` -> (its name, dict of its variables)."""
    name, *words = text.split()
    # A path may contain spaces: words that are not name=value belong to it.
    while words and '=' not in words[0]:
        name = f'{name} {words.pop(0)}'
    options = {}
    for word in words:
        key, equals, value = word.partition('=')
        if not equals:
            raise UserError(f'detector={text!r}: {word!r} is not of the form name=value.')
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return name, options


def make(text, settings, device, folder):
    """One of the detectors -> list of (row's name, detector, parameters, multiply-adds); None for unknown values.

    Args:
        text: one of `detector`. folder: a temporary folder for ONNX files.
    """
    import torch

    from konohana import inference
    from konohana.detectors.fusing import fuse_batch_norms
    from konohana.evaluation.cost import count_macs, count_parameters

    name, options = parse(text)
    if name.endswith('.onnx'):
        return [(Path(name).name, inference.load(settings.path(name), device.type), None, None)]
    fuse, last = options.pop('fuse', True), options.pop('channels_last', None)
    model, kind, own = build_detector(name, options, fuse, settings)
    unknown = sorted(set(options) - set(own if kind == name else {}))
    if unknown:
        raise UserError(
            f'detector={text!r}: it has no variable {", ".join(unknown)}. Known: {", ".join(own) or "none"}.'
        )
    model.eval().requires_grad_(False)
    parameters, macs = count_parameters(model), count_macs(model, settings.img_hw)
    if fuse:
        fuse_batch_norms(model)
    rows = []
    if settings.onnx and kind:
        from konohana.onnx import export, runtime

        file = Path(folder) / f'{len(list(Path(folder).iterdir()))}.onnx'
        export.export(model, file, kind, own, frame(settings.img_hw), post_processing=True)
        rows.append((f'{text}, onnxruntime', runtime.load(file, device.type), parameters, macs))
    if last is not None:
        model.channels_last = last
    layout = torch.channels_last if model.channels_last else torch.contiguous_format
    return [(text, model.to(device, memory_format=layout), parameters, macs), *rows]


def build_detector(name, options, fuse, settings):
    """(detector, its kind or '' for a YOLO, its own variables), of a weights file or untrained."""
    from konohana import checkpoint, detectors, inference

    if name.endswith('.pt'):
        path = settings.path(name)
        content = checkpoint.load(path)
        return inference.from_checkpoint(content, path), content['detector'], content.get('options', {})
    if name.startswith('yolo') and name != 'yolof':
        from benchmarks.yolo import Yolo

        return Yolo(name, fuse), '', {}
    own = detectors.options_of(name, options)
    model = detectors.build(name, settings.n_classes, settings.img_hw, **own)
    model.class_names, model.img_hw = [f'class {i}' for i in range(1, settings.n_classes + 1)], settings.img_hw
    return model, name, own


def frame(img_hw):
    """The picture to detect in: float 3 x H x W, RGB, 0 to 1."""
    import torch

    from konohana.toy.writer import draw_frame

    return torch.from_numpy(draw_frame(3, img_hw)['image']).permute(2, 0, 1).float() / 255


def table(rows, times):
    """The results as Markdown. rows: {name: (parameters, multiply-adds)}; times: {name: list of seconds}."""
    lines = [
        '| detector | M parameters | GMAC | ms a picture | pictures a second | against the first |',
        '|---|---|---|---|---|---|',
    ]
    first = next(iter(times))
    for name, (parameters, macs) in rows.items():
        seconds = statistics.median(times[name])
        # The ratio of two consecutive runs, so that both saw the same machine.
        ratio = statistics.median(a / b for a, b in zip(times[name], times[first], strict=True))
        size = '–' if parameters is None else f'{parameters / 1e6:.2f}'
        work = '–' if macs is None else f'{macs / 1e9:.2f}'
        lines.append(f'| {name} | {size} | {work} | {seconds * 1e3:.1f} | {1 / seconds:.1f} | {ratio:.2f} |')
    return '\n'.join(lines)


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_runs=(1, None), n_classes=(1, None), threads=(0, None))
    names = [' '.join(text.split()) for text in settings.detector.split(',') if text.strip()]
    if not names:
        raise UserError("detector='': name at least one, like detector='konohana, yolof'.")
    import torch

    from konohana.evaluation.cost import time_models
    from konohana.inference import pick_device

    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    models, rows = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for text in dict.fromkeys(names):
            torch.manual_seed(0)
            for name, model, parameters, macs in make(text, settings, device, folder):
                models[name], rows[name] = model, (parameters, macs)
    times = time_models(models, frame(settings.img_hw).to(device), settings.n_runs)
    size = f'{settings.img_hw[0]} x {settings.img_hw[1]}'
    print(f'{size}, {device}, {torch.get_num_threads()} threads, median of {settings.n_runs} runs')
    print(table(rows, times))


if __name__ == '__main__':
    run(main)
