"""Write weights as a graph in 8-bit integers, for OpenVINO and onnxruntime: python tools/quantize.py weights=net.pt

Frames of a dataset say which values occur. The graph lies beside the weights, net.onnx beside net.pt, and is used
instead of them on a CPU, without PyTorch; it is written only if AP on another split falls by no more than `tolerance`.
There each object counts the same: in COCO's mean over ten names the only object of one name is a tenth of AP.

Needs: pip install onnx onnxruntime
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana import files
from konohana.cast import IGNORE_CLASS
from konohana.errors import UserError
from konohana.settings import read, require, run

ROOT = Path(__file__).resolve().parent.parent

weights = ''  # weights file; '' takes net.pt of your training, else weights/net.pt
use_res2block = False  # without a weights file named: net_det3.pt instead of net.pt
konohana_dataset_path = 'toy_show'  # folder of your dataset
calibration_split = 'train'  # split of the frames that say which values occur
n_frames = 100  # so many of them, spread evenly
split = 'val'  # split on which AP is measured
ignore_class = IGNORE_CLASS  # boxes with this name mark regions that are not counted
tolerance = 0.01  # largest loss of AP, each object counted the same
overwrite = False  # replace an existing file that this program did not write
progress = True  # show progress bars


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_frames=(1, None), tolerance=(0, 1))
    from konohana import checkpoint, inference  # imported here, so that --help answers at once
    from konohana.data.images import fit_size, load_image, resize
    from konohana.data.reading import read_frames, report
    from konohana.detectors.fusing import fuse_batch_norms
    from konohana.onnx import backends, export, quantize
    from konohana.toy.writer import draw_default

    path = (
        settings.path(settings.weights) if settings.weights else inference.default_weights(ROOT, settings.use_res2block)
    )
    target = Path(path).with_suffix('.onnx')
    files.claim(target, [path], settings.overwrite, 'weights')
    content = checkpoint.load(path)
    model = fuse_batch_norms(inference.from_checkpoint(content, path).eval().requires_grad_(False))
    if model.wants_masks or not model.has_raw_outputs:
        raise UserError(f'{path}: this detector is computed by PyTorch alone.')
    root = settings.path(settings.konohana_dataset_path)
    splits = [settings.calibration_split, settings.split]
    draw_default(root, ROOT, splits, settings.progress)
    (calibration, samples), problems = read_frames(root, splits, settings.ignore_class, settings.progress)
    report(problems)
    if not calibration or not samples:
        raise UserError(f'{root}: no usable frame in split {splits[bool(calibration)]!r}.')
    check_names(samples, model.class_names, f'{root}: split {settings.split!r}')
    frames = [load_image(sample.path) for sample in evenly(calibration, settings.n_frames)]
    frames = [resize(frame, fit_size(*frame.shape[:2], model.img_hw)) for frame in frames]
    plain = export.export_frames(model, content, checkpoint.hash_of(path))
    small = quantize.quantized(plain, frames)
    for name in backends.runtimes():
        before, after = (measure(backends.started(name, data, 'the graph'), samples) for data in (plain, small))
        of_objects, left = ap_of_objects(before), ap_of_objects(after)
        print(
            f'{name}: AP {before["AP"]:.3f} in float32, {after["AP"]:.3f} in 8 bits; '
            f'each object counted the same {of_objects:.3f} and {left:.3f}; '
            f'found AP50 {before["AP50_agnostic"]:.3f} and {after["AP50_agnostic"]:.3f}'
        )
        if of_objects - left > settings.tolerance:
            raise UserError(f'The loss is more than tolerance={settings.tolerance:g}: nothing is written.')
    files.write_bytes(target, small, remember=True)
    print(f'Written: {target} ({len(small) / 2**20:.1f} MiB)')


def check_names(samples, known, where):
    """UserError where AP says nothing: nobody is labelled but as difficult, or somebody unknown to the weights."""
    names = {name for sample in samples for name in sample.names}
    if all(sample.difficult.all() for sample in samples):
        raise UserError(f'{where} has no labels that count, so AP cannot be measured. Choose another split.')
    unknown = sorted(names - set(known))
    if unknown:
        shown = ', '.join(unknown[:5]) + (' ...' if unknown[5:] else '')
        raise UserError(
            f'{where} has names that the weights do not know ({shown}). Set konohana_dataset_path to theirs.'
        )


def evenly(samples, n):
    """At most `n` of the samples, from the first to the last part of them: frames that follow one another are alike."""
    n = min(n, len(samples))
    return [samples[i * len(samples) // n] for i in range(n)]


def measure(model, samples):
    """The metrics of a detector, see `summary.evaluate`."""
    from konohana.data.images import load_image
    from konohana.evaluation.summary import evaluate

    found = [model.detect([load_image(sample.path)])[0] for sample in samples]
    return evaluate(samples, found, model.class_names)


def ap_of_objects(metrics):
    """AP with each object counted the same, 0 to 1: the names' AP, weighed by their objects, of which there are some.

    metrics: see `summary.evaluate`.
    """
    count = metrics['objects_per_class']
    return sum(metrics['AP_per_class'][name] * n for name, n in count.items() if n) / sum(count.values())


if __name__ == '__main__':
    run(main)
