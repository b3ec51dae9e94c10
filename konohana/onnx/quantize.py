"""Graphs in 8-bit integers, by onnxruntime's static quantization.

Convolutions and what lies between them are quantized; the first convolution and the last ones stay in float32, and so
does all else: what computes shapes (quantized, OpenVINO does not take the graph), and the post-processing. Weights have
7 bits: the sum of two products of 8 bits does not fit into the 16 bits in which processors without VNNI add them up.
"""

import tempfile
from pathlib import Path

from konohana.onnx.metadata import optional

BETWEEN = ('Conv', 'Clip', 'Add', 'Relu', 'GlobalAveragePool', 'Resize')  # operators that are quantized


def quantized(data, frames):
    """A graph of `export.export_frames` in 8-bit integers.

    Args:
        data: the graph's bytes.
        frames: uint8 h x w x 3 arrays at the network's size: the ranges of all values are taken from them.

    Returns:
        the new graph's bytes, with the same inputs, outputs and metadata.

    Raises:
        UserError: onnx or onnxruntime is not installed.
    """
    onnx = optional('onnx', 'Quantization')
    optional('onnxruntime', 'Quantization')
    from onnxruntime import quantization

    class Frames(quantization.CalibrationDataReader):
        def __init__(self):
            self.rest = iter(frames)

        def get_next(self):
            frame = next(self.rest, None)
            return None if frame is None else {'frames': frame[None]}

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, 'float.onnx'), Path(folder, 'int8.onnx')
        source.write_bytes(data)
        content = onnx.load_from_string(data)
        quantization.quantize_static(
            *(source, target, Frames()),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_quantize=_between(content.graph),
        )
        result = onnx.load(target)
    onnx.helper.set_model_props(result, {one.key: one.value for one in content.metadata_props})
    return result.SerializeToString()


def _between(graph):
    """Names of the nodes to quantize: of `BETWEEN`, before a convolution and after the first, and before the last."""
    makers = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == 'Conv']

    def before(nodes):
        names, waiting = set(), [name for node in nodes for name in node.input]
        while waiting:
            node = makers.get(waiting.pop())
            if node is not None and node.name not in names:
                names.add(node.name)
                waiting.extend(node.input)
        return names

    inner = before(convolutions) - before(convolutions[:1]) - {convolutions[0].name}
    return [node.name for node in graph.node if node.name in inner and node.op_type in BETWEEN]
