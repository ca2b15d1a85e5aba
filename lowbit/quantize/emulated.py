"""An INT8 recipe emulated: a Q/DQ graph with other ranges, and nodes of it in float, as a build would make them.

A build takes ten seconds and more, this a fraction of one. What is emulated is what ONNX Runtime's quantizer does: a tensor
is quantized unless it is made and read in float only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.data.letterbox import InputSpec, preprocess
from lowbit.graph import layout
from lowbit.quantize import ort
from lowbit.runtime import plain_session

if TYPE_CHECKING:
    import onnx

# SQNR of equal heads, for JSON.
_EQUAL = 999.0


def recipe(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    quantizers: Mapping[str, graph.Quantizer],
    floating: Collection[str],
) -> onnx.ModelProto:
    """A copy of ``quantized``, whose quantizers :func:`lowbit.quantize.ort.place_quantizers` placed in the float graph
    ``model``, with these quantizers by tensor, and these nodes in float."""
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(quantized)
    _give(copied, quantizers)
    _free(copied, model, floating)
    _give(copied, ort.refined(model, copied))
    return copied


def _give(quantized: onnx.ModelProto, quantizers: Mapping[str, graph.Quantizer]) -> None:
    """In place. A tensor that shares another one's scale keeps it."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in quantized.graph.initializer}
    for node in quantized.graph.node:
        name = node.input[0] if node.op_type == "QuantizeLinear" else ""
        if name not in quantizers or node.input[1] != f"{name}_scale":
            continue
        for value, part in zip(quantizers[name], node.input[1:], strict=True):
            stored[part].CopyFrom(numpy_helper.from_array(np.asarray(value), part))


def _free(quantized: onnx.ModelProto, model: onnx.ModelProto, floating: Collection[str]) -> None:
    """In place: weights of these nodes in float, and no quantizer where nothing else makes or reads a tensor."""
    floats = {node.name: node for node in model.graph.node if node.name in floating}
    others = [node for node in model.graph.node if node.name not in floats and node.op_type != "Shape"]
    bound = {name for node in others for name in (*node.input, *node.output)}
    parameters = {tensor.name: tensor for tensor in model.graph.initializer}
    heads = {value.name for value in model.graph.output}
    freed: dict[str, str] = {}
    dequantized = {node.input[0]: node.output[0] for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in bound | heads:
            freed[dequantized[node.output[0]]] = node.input[0]
    for node in quantized.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = freed.get(name, name)
        if node.op_type == "Conv" and node.name in floats:
            for place, name in enumerate(floats[node.name].input[1:], 1):
                if name in parameters:
                    stored = quantized.graph.initializer.add()
                    stored.CopyFrom(parameters[name])
                    stored.name = node.input[place] = f"{node.name}/float_{place}"
    layout.keep_used(quantized, list(quantized.graph.node))


class Probe:
    """How far a Q/DQ graph's raw head, as it is dequantized, is from the float graph's where objects are, on a few images.

    Nearly all positions of a raw head see background, where errors change no detection: on YOLOv8n ranges that clip won
    4 dB over all positions, and lost twice as much AP as min-max. So every position of a level counts by the largest class
    probability that the float graph gives it. ``classes``: how many there are. A level without an output of
    as many channels, as heads have that put everything into one convolution, counts evenly.
    """

    def __init__(self, model: onnx.ModelProto, spec: InputSpec, images: Sequence[Path], classes: int) -> None:
        self._inputs = [preprocess(image, spec)[0] for image in images]
        self._names = graph.head_outputs(model)
        self._heads = self._run(model)
        self._weights = [weight for head in self._heads for weight in _weights(head, classes)]

    @property
    def images(self) -> int:
        """How many images it is measured on."""
        return len(self._inputs)

    def sqnr(self, quantized: onnx.ModelProto) -> float:
        """In dB, of the signal around every tensor's mean; 999 for an equal one."""
        power = noise = 0.0
        pairs = zip(chain(*self._heads), chain(*self._run(quantized)), self._weights, strict=True)
        for one, two, weight in pairs:
            spread = np.broadcast_to(weight, one.shape)
            power += float((spread * np.square(one - np.average(one, weights=spread))).sum(dtype=float))
            noise += float((spread * np.square(np.asarray(two, float) - one)).sum())
        return float(min(10 * np.log10(max(power, 1e-300) / noise), _EQUAL)) if noise else _EQUAL

    def _run(self, model: onnx.ModelProto) -> list[list[NDArray[np.float32]]]:
        """The raw head of every image."""
        import onnx

        made = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type.endswith("eLinear")}
        names = [made.get(made.get(name, ""), name) for name in self._names]
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        there = {value.name for value in copied.graph.output}
        copied.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in there)
        # What is asked for is what is computed: no integer kernels.
        session = plain_session(copied, (("session.disable_quant_qdq", "1"),))
        feed = session.get_inputs()[0].name
        return [session.run(names, {feed: image}) for image in self._inputs]


def _weights(head: Sequence[NDArray[np.float32]], classes: int) -> list[NDArray[np.float64]]:
    """Of every tensor of a raw head, [1, channels, height, width]: what its positions count, so that it broadcasts."""
    levels: dict[tuple[int, ...], NDArray[np.float64]] = {}
    for tensor in head:
        if tensor.ndim == 4 and tensor.shape[1] == classes:
            largest = tensor.max(1, keepdims=True).astype(float)
            levels[tensor.shape[2:]] = 1 / (1 + np.exp(-np.clip(largest, -50, 50)))
    return [levels.get(tensor.shape[2:], np.ones(())) for tensor in head]
