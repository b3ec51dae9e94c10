"""Write a trained detector as an ONNX file, for other programs and runtimes: python tools/export_onnx.py weights=net.pt

The file is then run in onnxruntime on pictures, and its results are compared with PyTorch's. _test.py and
_test_with_video.py take it as `weights`. What goes in and out is told at the top of konohana/export.py.

Needs: pip install onnx onnxruntime
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import konohana
from konohana import checkpoint
from konohana.data.images import list_pictures, load_image
from konohana.detectors.fusing import fuse_batch_norms
from konohana.errors import UserError
from konohana.evaluation.predict import predict
from konohana.inference import from_checkpoint
from konohana.onnx import export, runtime
from konohana.settings import override, require, resolve, run
from konohana.toy.writer import draw_frame

detector = ''  # which network it must be; '' takes what the weights are of
weights = ''  # weights file; '' takes net.pt of your training, else weights/net.pt
use_res2block = False  # without a weights file named: net_det3.pt instead of net.pt
onnx_out = ''  # file to write; '' is the weights file's name with the ending .onnx, beside the scripts
post_processing = True  # boxes come out (one picture at a time); False: the network's maps, for batches of any size
pictures_in = ''  # folder of pictures, or one picture, to compare on; '' draws toy frames
n_pictures = 8  # how many of them


def pictures(root):
    """The pictures to compare on: list of float 3 x H x W in 0 .. 1."""
    if not pictures_in:
        images = [draw_frame(seed)['image'] for seed in range(n_pictures)]
    else:
        source = resolve(root, pictures_in)
        paths = [source] if source.is_file() else list_pictures(source)
        images = [load_image(path) for path in paths[:n_pictures]]
    return [torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in images]


def compare(model, exported, images):
    """Print how far the exported network's results are from PyTorch's, on the same pictures."""
    if not post_processing:
        batch = model.transform(images)[0].tensors
        with torch.inference_mode():
            expected, found = model.raw_outputs(batch), exported.raw_outputs(batch)
        for name, values in expected.items():
            largest = float((found[name] - values).abs().max())
            print(f'{name}: the largest difference is {largest:.2g}, of values up to {float(values.abs().max()):.3g}')
    # One by one: in a batch the padding, which the network sees, depends on the largest picture.
    expected, found = ([predict(network, [image])[0] for image in images] for network in (model, exported))
    results = [runtime.differences(a, b) for a, b in zip(expected, found, strict=True)]
    box, score, mask = (max(result[key] for result in results) for key in ('box', 'score', 'mask'))
    masks = f', of a mask {mask:.2%} of its pixels' if 'masks' in expected[0] else ''
    count, unmatched = sum(len(a['boxes']) for a in expected), sum(result['unmatched'] for result in results)
    print(
        f'{len(images)} pictures, {count} detections: the largest difference of a box is {box:.2g} pixels, '
        f'of a score {score:.2g}{masks}; {unmatched} without a counterpart'
    )


def main():
    require(override(globals()), n_pictures=(1, None))
    root = Path(__file__).resolve().parent
    path = resolve(root, weights) if weights else konohana.default_weights(root.parent, use_res2block)
    content = checkpoint.load(path)
    if detector and detector != content['detector']:
        raise UserError(f'{path}: these weights are of detector={content["detector"]!r}, not {detector!r}.')
    target = resolve(root, onnx_out or Path(path).with_suffix('.onnx').name)
    images = pictures(root)
    model = fuse_batch_norms(from_checkpoint(content, path).eval().requires_grad_(False))
    export.export(model, target, content['detector'], content.get('options', {}), images[0], post_processing)
    print(f'Written: {target} ({target.stat().st_size / 2**20:.1f} MiB, {len(model.class_names)} names)')
    compare(model, runtime.load(target, 'cpu'), images)


if __name__ == '__main__':
    run(main)
