"""Writes detectors as ONNX files. tools/export_onnx.py does it, and the files are used like weights.

There are two kinds of file, both of standard operators alone, so that any ONNX runtime takes them:

with post-processing      `images` 1 x 3 x H x W, RGB, 0 to 1, already at the network's size (what the detector's
                          `transform.resize` makes of a picture; any H and W do). The outputs are `boxes` (n x 4; x1,
                          y1, x2, y2 in pixels of that input), `labels` (n, 1 is the first class), `scores` (n,
                          descending) and, of a detector that has them, `masks` (n x H x W, bool), or, of one that
                          looks again, `probabilities` (n x classes) and `embeddings` (n x 64).
without                   `batch` N x 3 x H x W, normalized and padded as the detector's `transform` does it. The
                          outputs are the maps of the detector's `raw_outputs`.

The file's metadata (see `metadata`) say which detector it is, its class names, input size and normalization: all that
`runtime.load` needs.

This uses PyTorch's older exporter, by tracing (`dynamo=False`): every PyTorch from 2.5 to 2.15 has it, and it needs no
further package; the newer one needs onnxscript. Optional packages: onnx to write, onnxruntime to use.
"""

import base64
import contextlib
import copy
import io
import warnings
from pathlib import Path

import torch
from torch import nn

from konohana import files
from konohana.detectors.konohana.second_look import EMBEDDING, MARGIN, SIDE
from konohana.errors import UserError
from konohana.onnx.metadata import describe, optional

OPSET = 17  # has RoiAlign as torchvision means it and LayerNormalization; runtimes from 2022 on know it


def outputs_of(model):
    """The names of what a file with post-processing gives: masks only if the detector has them."""
    return ('boxes', 'labels', 'scores', *(('probabilities', 'embeddings') if model.looks_again else ('masks',)))


class _WithPostProcessing(nn.Module):
    """1 x 3 x H x W, 0 to 1 -> the values of `outputs_of` of one picture, already at the network's size."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        found = self.model([images[0]])[0]
        return tuple(found[key] for key in outputs_of(self.model) if key in found)


class _RawOutputs(nn.Module):
    """N x 3 x H x W, normalized -> the maps of `raw_outputs`, as a tuple in their order."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return tuple(self.model.raw_outputs(batch).values())


class _Frames(nn.Module):
    """A frame as bytes, 1 x H x W x 3 -> detections, as a tuple in the order of `names`."""

    def __init__(self, model):
        super().__init__()
        self.model, self.divisor, self.names = model, model.transform.size_divisible, None
        transform = model.transform
        mean, std = (torch.tensor(values)[:, None, None] for values in (transform.image_mean, transform.image_std))
        self.register_buffer('scale', 1 / (255 * std))
        self.register_buffer('shift', -mean / std)

    def forward(self, frames):
        batch = frames.permute(0, 3, 1, 2).float() * self.scale + self.shift
        size = tuple(batch.shape[-2:])
        batch = nn.functional.pad(batch, (0, -size[1] % self.divisor, 0, -size[0] % self.divisor))
        (found,) = self.model.detections(self.model.raw_outputs(batch), [size], [size], with_maps=True)
        self.names = list(found)
        return tuple(found.values())


class _Look(nn.Module):
    """Crops as bytes, n x SIDE x SIDE x 3 -> (embeddings n x d, probabilities of the names n x classes)."""

    def __init__(self, second_look):
        super().__init__()
        self.second_look = second_look

    def forward(self, crops):
        embeddings, logits = self.second_look(crops.permute(0, 3, 1, 2).float() / 255)
        return embeddings, logits.softmax(dim=1)


def export(model, path, detector, options, picture, post_processing=True):
    """Write a detector as an ONNX file.

    Args:
        model: a detector on the CPU in evaluation mode, with `class_names` and `img_hw`.
        path: file to write, ending in .onnx; see `files.claim` for an existing one.
        detector, options: what `detectors.build` made it from.
        picture: float 3 x H x W, RGB, 0 to 1, of any size. The exporter records what the network does with it, so
            there should be something to find in it.
        post_processing: see the top of this module. Without it the batch's size is free; with it, that of the picture.

    Raises:
        UserError: the package onnx is not installed, the detector has no `raw_outputs`, PyTorch cannot export it, or
            the file cannot be written.
    """
    onnx = optional('onnx', 'Writing an ONNX file')
    path = Path(path)
    if path.suffix.lower() != '.onnx':
        raise UserError(f'{path}: an ONNX file is written. Give it the ending .onnx.')
    if not post_processing and model.looks_again:
        raise UserError(
            'post_processing=False: these weights take a second look at the people that post-processing finds, so they '
            'are exported with it only: post_processing=True.'
        )
    if not post_processing and not model.has_raw_outputs:
        raise UserError(
            f'detector={detector!r}: it has no raw outputs of its own, so it is exported with its post-processing '
            'only: post_processing=True.'
        )
    content = onnx.load_from_string(_traced(copy.deepcopy(model), detector, picture, post_processing))
    # Sizes inside the network are those of this picture: onnxruntime would rely on them, and share memory.
    del content.graph.value_info[:]
    foreign = sorted(set(_foreign_operators(content.graph)) | {f.domain for f in content.functions})
    if foreign:
        raise UserError(f'detector={detector!r}: its ONNX file would need other than standard ones: {foreign}.')
    _fix_reductions(onnx, content)
    parameters = None if post_processing else _parameters_outside(copy.deepcopy(model), picture)
    onnx.helper.set_model_props(content, describe(model, detector, options, post_processing, parameters))
    onnx.checker.check_model(content)
    files.write_bytes(path, content.SerializeToString(), remember=True)


@torch.no_grad()
def _traced(model, detector, picture, post_processing):
    """What PyTorch's exporter makes of a detector, as bytes. Changes `model`."""
    if post_processing:
        example = model.transform.resize(picture)[0][None]
        model.transform.resizes = False  # resizing is not in the file
        model.looks_at_everyone = True  # who uses the file may want everybody's embedding
        network = _WithPostProcessing(model).eval()
        entry, names = 'images', list(outputs_of(model)[: len(network(example))])
        dynamic = {entry: {2: 'height', 3: 'width'}, **{name: {0: 'detections'} for name in names}}
        if 'masks' in names:
            dynamic['masks'] |= {1: 'height', 2: 'width'}
    else:
        # Two pictures: what the exporter records for a batch of one may hold for one alone.
        example = model.transform([picture, picture])[0].tensors
        network = _RawOutputs(model).eval()
        entry, names = 'batch', list(model.raw_outputs(example[:1]))
        dynamic = {name: {0: 'n', 2: f'{name}_height', 3: f'{name}_width'} for name in names}
        dynamic[entry] = {0: 'n', 2: 'height', 3: 'width'}
    try:
        return _exported(network, example, [entry], names, dynamic)
    except UserError as error:
        raise UserError(f'detector={detector!r}: {error}') from None


@torch.no_grad()
def export_frames(model, content, weights):
    """A detector as an ONNX graph that takes frames as bytes: what `backends` runs.

    Its input `frames` is uint8 1 x height x width x 3, RGB, at the network's size (`transform.size_of`). The outputs
    are the detections, with the detector's maps, in pixels of that input. The graph of a second look is in its
    metadata: that one takes people cut out of the picture as it is before it is resized.

    Args:
        model: a detector on the CPU in evaluation mode, with `has_raw_outputs`.
        content: of its weights file, see `checkpoint.load`. weights: the SHA-256 of that file.

    Returns:
        the file's content, as bytes.

    Raises:
        UserError: the package onnx is not installed, or PyTorch cannot export the detector.
    """
    # Sides that need padding: a number that holds for these alone would be taken for a constant.
    twice = 2 * model.transform.size_divisible
    example = torch.zeros(1, twice - 3, twice - 5, 3, dtype=torch.uint8)
    network = _Frames(model).eval()
    network(example)
    dynamic = {name: {0: f'{name}_height', 1: f'{name}_width'} for name in model.maps}
    dynamic.update({name: {0: 'detections'} for name in network.names if name not in model.maps})
    dynamic['frames'] = {1: 'height', 2: 'width'}
    about = {'weights': weights, 'second_look': _look(model.second_look) if model.looks_again else None}
    texts = describe(model, content['detector'], content.get('options', {}), True, frames=about)
    return export_graph(network, example, network.names, dynamic, metadata=texts)


def _look(second_look):
    """The second look of a detector, as `metadata.describe` takes it."""
    names = ['embeddings', 'probabilities']
    dynamic = {name: {0: 'seen'} for name in ('crops', *names)}
    crops = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    graph = export_graph(_Look(second_look).eval(), crops, names, dynamic, ['crops'])
    return {'graph': base64.b64encode(graph).decode('ascii'), 'side': SIDE, 'margin': MARGIN, 'embedding': EMBEDDING}


def export_graph(network, example, names, dynamic=None, inputs=('frames',), metadata=None):
    """Any network as an ONNX graph, such as one of frames as bytes.

    Args:
        network: a module in evaluation mode. example: its input, or a tuple of them.
        names: of the network's outputs. inputs: names of its inputs. metadata: dict of text.
        dynamic: sizes that vary, as torch.onnx.export wants them.

    Returns, raises: see `export_frames`.
    """
    onnx = optional('onnx', 'Computing a network without PyTorch')
    content = onnx.load_from_string(_exported(network, example, list(inputs), names, dynamic or {}))
    del content.graph.value_info[:]  # see `export`
    _fix_reductions(onnx, content)
    onnx.helper.set_model_props(content, metadata or {})
    return content.SerializeToString()


def _exported(network, example, inputs, names, dynamic):
    """What PyTorch's exporter makes of what a network does with `example`, as bytes."""
    file = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')  # about the exporter's age, and about numbers that it takes for constants
        try:
            torch.onnx.export(
                *(network, example if isinstance(example, tuple) else (example,), file),
                input_names=inputs,
                output_names=list(names),
                dynamic_axes=dynamic,
                opset_version=OPSET,
                dynamo=False,
            )
        except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
            raise UserError(f'PyTorch cannot export it to ONNX ({files.reason(error)[:300]}).') from None
    return file.getvalue()


def _parameters_outside(model, picture):
    """{name: values} of the parameters that `raw_outputs` does not use: the post-processing may. Changes `model`."""
    batch = model.transform([picture])[0].tensors
    parameters = dict(model.requires_grad_(True).named_parameters())
    with torch.enable_grad():
        total = sum(output.sum() for output in model.raw_outputs(batch).values())
    used = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {name: p.tolist() for (name, p), grad in zip(parameters.items(), used, strict=True) if grad is None}


def _fix_reductions(onnx, content):
    """Add the result's shape to each maximum, sum and so on over the last axis, in place.

    onnxruntime (1.31) gives 0 x n instead of 0 for those of 0 x n: pictures in which nothing is found.
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
