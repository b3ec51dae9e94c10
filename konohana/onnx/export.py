"""Detectors as ONNX files: written by tools/export_onnx.py, and used like weights.

Two kinds of file, both of standard operators alone, so that any ONNX runtime takes them:

with post-processing      `images` 1 x 3 x H x W, RGB 0 to 1, already at the network's size (what the detector's
                          `transform.resize` makes of a picture; any H and W do). Out come `boxes` (n x 4; x1, y1, x2,
                          y2 in pixels of that input), `labels` (n, 1 is the first name), `scores` (n, descending) and,
                          of a detector that gives them, `masks` (n x H x W, bool).
without                   `batch` N x 3 x H x W, normalised and padded as the detector's `transform` does it. Out come
                          the maps of the detector's `raw_outputs`.

The file's metadata say which detector it is, its class names, input size and normalisation: all that `load` needs.

The exporter is PyTorch's older one, by tracing (`dynamo=False`): it is in every PyTorch from 2.5 to 2.15 and needs no
further package; the newer one needs onnxscript. Optional packages: onnx to write, onnxruntime to use.
"""

import contextlib
import importlib
import io
import json
import warnings
from pathlib import Path

import torch
from torch import nn

from konohana import files
from konohana.errors import UserError

OPSET = 17  # RoiAlign as torchvision means it and LayerNormalization are in it; runtimes from 2022 on know it
FORMAT = 'konohana.1'  # in the metadata; another version of this program may write another


def _optional(package, why):
    """Import a package that only ONNX files need; UserError saying what to install where it is absent."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f'{why} needs the package {package}: pip install {package}') from None


class _WithPostProcessing(nn.Module):
    """1 x 3 x H x W in 0 .. 1 -> (boxes, labels, scores[, masks]) of one picture, already at the network's size."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        found = self.model([images[0]])[0]
        return tuple(found[key] for key in ('boxes', 'labels', 'scores', 'masks') if key in found)


class _RawOutputs(nn.Module):
    """N x 3 x H x W, normalised -> the maps of `raw_outputs`, as a tuple in their order."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return tuple(self.model.raw_outputs(batch).values())


@contextlib.contextmanager
def _pictures_as_they_are(transform):
    """Meanwhile the transform leaves the pictures' size alone: resizing is not in the file."""
    transform.resize = lambda image, target=None: (image, target)
    try:
        yield
    finally:
        del transform.resize


@contextlib.contextmanager
def _quiet_exporter():
    """Meanwhile PyTorch's exporter keeps to itself what it prints, and takes `argsort(stable=True)`."""
    argsort = torch.Tensor.argsort

    def sorted_by_topk(values, dim=-1, descending=False, stable=False):
        # The exporter does not know `stable`; ONNX's TopK, which it writes for a sort, is stable in any case.
        return argsort(values, dim=dim, descending=descending)

    torch.Tensor.argsort = sorted_by_topk
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')  # about the exporter's age, and about numbers that it takes for constants
            yield
    finally:
        torch.Tensor.argsort = argsort


def _parameters_outside(model, batch):
    """{name: values} of the parameters that `raw_outputs` does not use: the post-processing may need them."""
    parameters = dict(model.named_parameters())
    learning = {name: p.requires_grad for name, p in parameters.items()}
    try:
        model.requires_grad_(True)
        with torch.enable_grad():
            total = sum(output.sum() for output in model.raw_outputs(batch).values())
        used = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    finally:
        for name, p in parameters.items():
            p.requires_grad_(learning[name])
    return {name: p.tolist() for (name, p), grad in zip(parameters.items(), used, strict=True) if grad is None}


def export(model, path, detector, options, picture, post_processing=True):
    """Write a detector as an ONNX file.

    Args:
        model: a detector on the CPU in evaluation mode, with `class_names` and `img_hw`.
        path: file to write, ending in .onnx; an existing one is replaced when the new one is complete.
        detector, options: what `detectors.build` made it from.
        picture: float 3 x H x W RGB in 0 .. 1 of any size: what the network does with it is written down, so there
            should be something to find in it.
        post_processing: see this module's text. Without it the batch's size is free, with it that of the picture alone.

    Raises:
        UserError: the package onnx is absent, the detector has no `raw_outputs` or PyTorch cannot export it, or the
            file cannot be written.
    """
    onnx = _optional('onnx', 'Writing an ONNX file')
    path = Path(path)
    if path.suffix.lower() != '.onnx':
        raise UserError(f'{path}: an ONNX file is written. Give it the ending .onnx.')
    transform = model.transform
    metadata = {
        'format': FORMAT,
        'detector': detector,
        'options': options,
        'class_names': model.class_names,
        'img_hw': model.img_hw,
        'post_processing': post_processing,
        'mean': transform.image_mean,
        'std': transform.image_std,
        'size_divisible': transform.size_divisible,
    }
    with torch.no_grad():
        if post_processing:
            network, names = _WithPostProcessing(model).eval(), ['boxes', 'labels', 'scores']
            example, dynamic = transform.resize(picture)[0][None], {'images': {2: 'height', 3: 'width'}}
            with _pictures_as_they_are(transform):
                names += ['masks'][: len(network(example)) - 3]
            dynamic |= {name: {0: 'detections'} for name in names}
            if 'masks' in names:
                dynamic['masks'] |= {1: 'height', 2: 'width'}
        elif model.has_raw_outputs:
            # Two pictures: what is written down for a batch of one may hold for one alone.
            example = transform([picture, picture])[0].tensors
            metadata['parameters'] = _parameters_outside(model, example[:1])
            network, names = _RawOutputs(model).eval(), list(model.raw_outputs(example[:1]))
            dynamic = {name: {0: 'n', 2: f'{name}_height', 3: f'{name}_width'} for name in names}
            dynamic['batch'] = {0: 'n', 2: 'height', 3: 'width'}
        else:
            raise UserError(
                f'detector={detector!r}: it has no raw outputs of its own, so it is exported with its post-processing '
                'only: post_processing=True.'
            )
    file = io.BytesIO()
    with torch.no_grad(), _quiet_exporter(), _pictures_as_they_are(transform):
        try:
            torch.onnx.export(
                *(network, (example,), file),
                input_names=['images' if post_processing else 'batch'],
                output_names=names,
                dynamic_axes=dynamic,
                opset_version=OPSET,
                dynamo=False,
            )
        except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
            reason = ' '.join(str(error).split())[:300]
            raise UserError(f'detector={detector!r}: PyTorch cannot export it to ONNX ({reason}).') from None
    content = onnx.load_from_string(file.getvalue())
    # Sizes inside the network, as they were for this one picture: onnxruntime would believe them, and share memory.
    del content.graph.value_info[:]
    foreign = sorted(set(_foreign_operators(content.graph)) | {f.domain for f in content.functions})
    if foreign:
        raise UserError(f'detector={detector!r}: its ONNX file would need other than standard ones: {foreign}.')
    _mend_reductions(onnx, content)
    onnx.helper.set_model_props(content, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.checker.check_model(content)
    files.write_bytes(path, content.SerializeToString(), remember=True)


def _mend_reductions(onnx, content):
    """Say the shape of each maximum, sum ... over the last axis, in place.

    onnxruntime (1.31) gives 0 x n instead of 0 for those over n columns of no rows: pictures in which nothing is found.
    """
    known = onnx.shape_inference.infer_shapes(content).graph
    rank = {v.name: len(v.type.tensor_type.shape.dim) for v in (*known.value_info, *known.input)}
    nodes = []
    for node in content.graph.node:
        nodes.append(node)
        if node.op_type not in ('ReduceMax', 'ReduceMin', 'ReduceSum', 'ReduceMean', 'ReduceProd', 'ArgMax', 'ArgMin'):
            continue
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        axes = values.get('axes', [values['axis']] if 'axis' in values else [])
        if node.op_type == 'ReduceSum' and len(node.input) > 1:
            axes = _constant(onnx, content.graph, node.input[1])
        if list(axes) not in ([-1], [rank.get(node.input[0], 0) - 1]):
            continue
        result = node.output[0]
        node.output[0] = f'{result}/reduced'
        kept = [f'{result}/{part}' for part in ('shape', 'first', 'end', 'kept', 'wanted')]
        numbers = {kept[1]: [0], kept[2]: [-1], f'{result}/one': [1]}
        content.graph.initializer.extend(
            onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [1], value) for name, value in numbers.items()
        )
        nodes.append(onnx.helper.make_node('Shape', [node.input[0]], [kept[0]]))
        nodes.append(onnx.helper.make_node('Slice', kept[:3], [kept[3]]))
        if values.get('keepdims', 1):
            nodes.append(onnx.helper.make_node('Concat', [kept[3], f'{result}/one'], [kept[4]], axis=0))
        wanted = kept[4 if values.get('keepdims', 1) else 3]
        nodes.append(onnx.helper.make_node('Reshape', [node.output[0], wanted], [result], allowzero=1))
    del content.graph.node[:]
    content.graph.node.extend(nodes)


def _constant(onnx, graph, name):
    """The whole numbers of a constant in a graph; [] if it is none."""
    for tensor in graph.initializer:
        if tensor.name == name:
            return onnx.numpy_helper.to_array(tensor).reshape(-1).tolist()
    for node in graph.node:
        if node.op_type == 'Constant' and name in node.output:
            return onnx.numpy_helper.to_array(node.attribute[0].t).reshape(-1).tolist()
    return []


def _foreign_operators(graph):
    """Operators in a graph, and in the graphs inside it, that are not ONNX's own, as domain.name."""
    for node in graph.node:
        if node.domain not in ('', 'ai.onnx'):
            yield f'{node.domain}.{node.op_type}'
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _foreign_operators(inner)
