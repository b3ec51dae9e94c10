"""Write a trained detector as an ONNX file, for other programs and runtimes: python tools/export_onnx.py weights=net.pt

It then runs the file in onnxruntime on pictures and compares the results with PyTorch's. _test.py and
_test_with_video.py take the file as `weights`. konohana/onnx/export.py documents its inputs and outputs.

Needs: pip install onnx onnxruntime
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana import files
from konohana.errors import UserError, count
from konohana.settings import read, require, run

ROOT = Path(__file__).resolve().parent.parent

detector = ''  # the detector that the weights must be of; '' for any
weights = ''  # weights file; '' takes net.pt of your training, else weights/net.pt
use_res2block = False  # without a weights file named: net_det3.pt instead of net.pt
onnx_out = ''  # file to write; '' takes the weights file's name with the ending .onnx, in the project's folder
post_processing = (
    True  # the file gives boxes (one picture at a time); False: the network's maps, for batches of any size
)
pictures_in = ''  # folder of pictures, or one picture, to compare on; '' draws toy frames
n_pictures = 8  # number of pictures to compare on
overwrite = False  # replace an existing file that this program did not write


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_pictures=(1, None))
    from konohana import checkpoint, inference  # imported here, so that --help answers at once
    from konohana.detectors.fusing import fuse_batch_norms
    from konohana.onnx import export, runtime

    path = (
        settings.path(settings.weights) if settings.weights else inference.default_weights(ROOT, settings.use_res2block)
    )
    target = settings.path(settings.onnx_out or Path(path).with_suffix('.onnx').name)
    files.claim(target, [path], settings.overwrite, 'onnx_out')
    if target.is_file() and not settings.overwrite and checkpoint.hash_of(path).encode() in files.read_bytes(target):
        raise UserError(
            f'{target}: it is of tools/quantize.py, and computes {path} on a CPU. Choose another onnx_out, or set '
            'overwrite=True.'
        )
    content = checkpoint.load(path)
    if settings.detector and settings.detector != content['detector']:
        raise UserError(f'{path}: these are weights of {content["detector"]}, not of detector={settings.detector!r}.')
    images = pictures(settings)
    model = fuse_batch_norms(inference.from_checkpoint(content, path).eval().requires_grad_(False))
    options = content.get('options', {})
    export.export(model, target, content['detector'], options, images[0], settings.post_processing)
    classes = count(len(model.class_names), 'class', 'classes')
    print(f'Written: {target} ({target.stat().st_size / 2**20:.1f} MiB, {classes})')
    exported = runtime.load(target, 'cpu')
    if not settings.post_processing:
        compare_maps(model, exported, images)
    compare_detections(model, exported, images)


def pictures(settings):
    """The pictures to compare on: list of float 3 x H x W, RGB, 0 to 1."""
    import torch

    from konohana.data.images import list_pictures, load_image
    from konohana.toy.writer import draw_frame

    if not settings.pictures_in:
        images = [draw_frame(seed)['image'] for seed in range(settings.n_pictures)]
    else:
        source = settings.path(settings.pictures_in)
        paths = [source] if source.is_file() else list_pictures(source)
        images = [load_image(path) for path in paths[: settings.n_pictures]]
    return [torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in images]


def compare_maps(model, exported, images):
    """Print the largest differences between the exported network's maps and PyTorch's, on one batch of pictures."""
    import torch

    batch = model.transform(images)[0].tensors
    with torch.inference_mode():
        expected, found = model.raw_outputs(batch), exported.raw_outputs(batch)
    for name, values in expected.items():
        largest = float((found[name] - values).abs().max())
        print(f'{name}: the largest difference is {largest:.2g}, of values up to {float(values.abs().max()):.3g}')


def compare_detections(model, exported, images):
    """Print the largest differences between the exported detector's detections and PyTorch's."""
    from konohana.evaluation.predict import predict
    from konohana.onnx import runtime

    # One by one, because the padding of a batch depends on its largest picture.
    expected, found = ([predict(network, [image])[0] for image in images] for network in (model, exported))
    results = [runtime.differences(a, b) for a, b in zip(expected, found, strict=True)]
    box, score, mask = (max(result[key] for result in results) for key in ('box', 'score', 'mask'))
    masks = f', of a mask {mask:.2%} of its pixels' if 'masks' in expected[0] else ''
    n_found, unmatched = sum(len(a['boxes']) for a in expected), sum(result['unmatched'] for result in results)
    print(
        f'{count(len(images), "picture")}, {count(n_found, "detection")}: the largest difference of a box is '
        f'{box:.2g} pixels, of a score {score:.2g}{masks}; {unmatched} without a counterpart'
    )


if __name__ == '__main__':
    run(main)
