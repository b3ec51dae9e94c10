"""How fast detectors are, side by side: python benchmarks/speed.py detector="konohana, yolof, yolo11n"

Forward and post-processing of one picture, no loading and no drawing. The detectors take turns in one run, since a
busy machine slows all of them alike: look at the ratios, not at the milliseconds. Networks are untrained unless a
weights file is named, so their post-processing has little to do; a two-stage detector's has always much.
"""

import ast
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import konohana
from konohana import checkpoint
from konohana.detectors import build, options_of
from konohana.detectors.base import Detector
from konohana.detectors.fusing import fuse_batch_norms
from konohana.errors import UserError
from konohana.evaluation.cost import count_macs, count_parameters, time_models
from konohana.inference import from_checkpoint, pick_device
from konohana.onnx import export, runtime
from konohana.settings import override, require, resolve, run
from konohana.toy.writer import draw_frame

# The detectors, with commas between them: a detector's name, a YOLO of ultralytics where that is installed (yolo26n,
# yolo11n), or a weights file (.pt or .onnx); then maybe the detector's own variables, fuse=False (batch norms stay) or
# channels_last=False, as in 'konohana, konohana use_res2block=True, fasterrcnn_resnet50_fpn_v2 fuse=False'.
detector = 'konohana, konohana fuse=False, konohana channels_last=False, konohana use_res2block=True'
img_hw = (360, 640)  # height and width of the picture
n_classes = 14  # number of names
n_runs = 50  # timed runs of each detector, after some to warm up
onnx = False  # time each detector in onnxruntime too (on the CPU, or on CUDA with onnxruntime-gpu)
threads = 0  # threads to use, 0 for torch's choice
device = 'cpu'  # 'cuda', 'mps', 'cpu', or '' for the fastest there is


class Yolo(Detector):
    """A YOLO of ultralytics, untrained, with its own post-processing, under the contract of the detectors here."""

    stride = 32
    limits = {}  # noqa: RUF012 (of its post-processing, where they are not ultralytics' own)
    channels_last = True  # as for the detectors here: it halves the time of depthwise convolutions on a CPU

    def __init__(self, name, fuse):
        super().__init__()
        try:
            from ultralytics import YOLO
            from ultralytics.utils.nms import non_max_suppression
        except ImportError:
            raise UserError(f'detector={name!r} needs a recent ultralytics: pip install ultralytics') from None
        try:
            self.network = YOLO(f'{name}.yaml', task='detect', verbose=False).model.eval()
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f'detector={name!r}: ultralytics has no such network ({error}).') from None
        if fuse:
            self.network.fuse(verbose=False)
        self.select = non_max_suppression

    def forward(self, images):
        batch = torch.stack(list(images))
        height, width = batch.shape[-2:]
        # Its networks take sides that are multiples of 32; its own loader pads with grey, too.
        batch = nn.functional.pad(batch, (0, -width % self.stride, 0, -height % self.stride), value=114 / 255)
        if self.channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        found = self.select(self.network(batch), **self.limits)
        return [{'boxes': f[:, :4], 'scores': f[:, 4], 'labels': f[:, 5].long() + 1} for f in found]


def parse(text):
    """One of the detectors of `detector` -> (its name, dict of its variables)."""
    name, *words = text.split()
    # A path may hold spaces: what is no name=value belongs to it.
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


def make(text, chosen, folder):
    """One of the detectors -> list of (row's name, detector, parameters, multiply-adds); None for what is not known."""
    name, options = parse(text)
    fuse, last = options.pop('fuse', True), options.pop('channels_last', None)
    if name.endswith('.onnx'):
        return [
            (Path(name).name, konohana.load(resolve(Path(__file__).resolve().parent, name), chosen.type), None, None)
        ]
    if name.endswith('.pt'):
        path = resolve(Path(__file__).resolve().parent, name)
        content = checkpoint.load(path)
        model, kind, own = from_checkpoint(content, path), content['detector'], content.get('options', {})
    elif name.startswith('yolo') and name != 'yolof':
        model, kind, own = Yolo(name, fuse), '', {}
    else:
        kind, own = name, options_of(name, options)
        model = build(kind, n_classes, img_hw, **own)
        model.class_names, model.img_hw = [f'name {i}' for i in range(1, n_classes + 1)], img_hw
    unknown = sorted(set(options) - set(own if kind == name else {}))
    if unknown:
        raise UserError(
            f'detector={text!r}: it has no variable {", ".join(unknown)}. Known: {", ".join(own) or "none"}.'
        )
    model.eval().requires_grad_(False)
    parameters, macs = count_parameters(model), count_macs(model, img_hw)
    if fuse:
        fuse_batch_norms(model)
    rows = []
    if onnx and kind:
        file = Path(folder) / f'{len(list(Path(folder).iterdir()))}.onnx'
        export.export(model, file, kind, own, frame(), post_processing=True)
        rows.append((f'{text}, onnxruntime', runtime.load(file, chosen.type), parameters, macs))
    if last is not None:
        model.channels_last = last
    layout = torch.channels_last if model.channels_last else torch.contiguous_format
    return [(text, model.to(chosen, memory_format=layout), parameters, macs), *rows]


def frame():
    """The picture that they look at."""
    return torch.from_numpy(draw_frame(3, img_hw)['image']).permute(2, 0, 1).float() / 255


def table(rows, times):
    """What was measured, as Markdown. rows: {name: (parameters, multiply-adds)}; times: {name: list of seconds}."""
    lines = [
        '| detector | M parameters | GMAC | ms a picture | pictures a second | against the first |',
        '|---|---|---|---|---|---|',
    ]
    first = next(iter(times))
    for name, (parameters, macs) in rows.items():
        seconds = statistics.median(times[name])
        # The ratio of two runs that followed one another, so that both saw the same machine.
        ratio = statistics.median(a / b for a, b in zip(times[name], times[first], strict=True))
        size = '–' if parameters is None else f'{parameters / 1e6:.2f}'
        work = '–' if macs is None else f'{macs / 1e9:.2f}'
        lines.append(f'| {name} | {size} | {work} | {seconds * 1e3:.1f} | {1 / seconds:.1f} | {ratio:.2f} |')
    return '\n'.join(lines)


def main():
    require(override(globals()), n_runs=(1, None), n_classes=(1, None), threads=(0, None))
    if threads:
        torch.set_num_threads(threads)
    chosen = pick_device(device)
    names = [' '.join(text.split()) for text in detector.split(',') if text.strip()]
    if not names:
        raise UserError("detector='': name at least one, like detector='konohana, yolof'.")
    models, rows = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for text in dict.fromkeys(names):
            torch.manual_seed(0)
            for name, model, parameters, macs in make(text, chosen, folder):
                models[name], rows[name] = model, (parameters, macs)
    times = time_models(models, frame().to(chosen), n_runs)
    print(f'{img_hw[0]} x {img_hw[1]}, {chosen}, {torch.get_num_threads()} threads, median of {n_runs} runs')
    print(table(rows, times))


if __name__ == '__main__':
    run(main)
