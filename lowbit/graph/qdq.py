"""How a Q/DQ graph quantizes: scales and zero points of activations, integers of weights, biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lowbit.graph.nodes import constants, weighted_convolutions

if TYPE_CHECKING:
    import onnx

Quantizer = tuple[NDArray[np.float32], NDArray[np.uint8]]


def activation_scales(model: onnx.ModelProto) -> dict[str, Quantizer]:
    """Scale and zero point, as unsigned 8 bits, of every float tensor that a QDQ graph quantizes with one scale.

    A signed tensor's zero point moves by 128: the same values. Where a tensor is quantized several times, the first pair
    in the graph's order counts.
    """
    found: dict[str, Quantizer] = {}
    quantizers = pairs(model)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in quantizers:
            found.setdefault(node.input[0], quantizers[node.output[0]])
    return found


def input_quantizers(model: onnx.ModelProto) -> dict[str, Quantizer]:
    """The same by convolution: how its input is quantized, by node name."""
    quantizers = pairs(model)
    inputs = {node.name: node.input[0] for node in weighted_convolutions(model)}
    return {node: quantizers[name] for node, name in inputs.items() if name in quantizers}


def pairs(model: onnx.ModelProto) -> dict[str, Quantizer]:
    """Scale and zero point, as unsigned 8 bits, of every QuantizeLinear and DequantizeLinear of an activation that has one
    scale, by its output."""
    stored = constants(model)
    quantized = ("QuantizeLinear", "DequantizeLinear")
    nodes = (node for node in model.graph.node if node.op_type in quantized and node.input[0] not in stored)
    found = {node.output[0]: _quantizer(node, stored) for node in nodes}
    return {name: pair for name, pair in found.items() if pair}


def _quantizer(node: onnx.NodeProto, stored: dict[str, NDArray[np.generic]]) -> Quantizer | None:
    """Scale and zero point of a quantizer with one 8-bit scale."""
    if node.input[1] not in stored:
        return None
    scale = stored[node.input[1]]
    zero = np.asarray(stored.get(node.input[2], np.uint8(0)) if len(node.input) > 2 else np.uint8(0))
    if scale.size != 1 or zero.dtype not in (np.int8, np.uint8):
        return None
    moved = int(zero.item()) + (128 if zero.dtype == np.int8 else 0)
    return np.asarray(scale, np.float32).reshape(()), np.asarray(moved, np.uint8)


def dequantized_weights(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The float values, [out, ...], of every convolution's weight that a QDQ graph stores in integers, by node name."""
    return {name: (values - zero) * scale for name, values, scale, zero in _integer_weights(model)}


def weight_scales(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The scales, float32 [out], of the same weights, by node name; one scale for all channels is repeated."""
    return {name: np.broadcast_to(scale.ravel(), len(values)) for name, values, scale, _ in _integer_weights(model)}


def biases(model: onnx.ModelProto) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Every convolution's bias, float32 [out], and the step that it is rounded to, [out], 0 in float; by node name."""
    stored = constants(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    found = {}
    for node in weighted_convolutions(model):
        name = node.input[2] if len(node.input) > 2 else ""
        if name in stored:
            value = stored[name].astype(np.float32)
            found[node.name] = value, np.zeros_like(value)
        elif name in makers and makers[name].op_type == "DequantizeLinear":
            integers, scale = (stored[one] for one in makers[name].input[:2])
            # Products of 32-bit integers, in double precision as far as they go.
            value = (integers.astype(float) * scale.astype(float)).astype(np.float32)
            found[node.name] = value, np.broadcast_to(scale, value.shape).astype(np.float32)
    return found


def _integer_weights(
    model: onnx.ModelProto,
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]]:
    """Node name, integers [out, ...], and scale and zero point as they broadcast to them."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in weighted_convolutions(model):
        feed = makers.get(node.input[1])
        if feed is None or feed.op_type != "DequantizeLinear":
            continue
        source = makers.get(feed.input[0])
        name = source.input[0] if source is not None and source.op_type == "Clip" else feed.input[0]
        if name not in stored or feed.input[1] not in stored:
            continue
        values, scale = (numpy_helper.to_array(stored[one]).astype(np.float32) for one in (name, feed.input[1]))
        zero = numpy_helper.to_array(stored[feed.input[2]]).astype(np.float32) if len(feed.input) > 2 else np.float32(0)
        shape = (-1, *[1] * (values.ndim - 1))
        yield node.name, values, np.reshape(scale, shape), np.reshape(zero, shape)


def with_biases(model: onnx.ModelProto, values: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """A copy whose convolutions have these biases, [out], by node name, in the type that they had or in float32."""
    import onnx
    from onnx import numpy_helper

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    stored = constants(model)
    for node in weighted_convolutions(copied):
        if node.name in values:
            before = stored.get(node.input[2])
            kind = np.float32 if before is None or before.dtype.kind != "f" else before.dtype
            node.input[2] = f"{node.name}/bias"
            copied.graph.initializer.append(numpy_helper.from_array(values[node.name].astype(kind), node.input[2]))
    return copied


# A last digit or two of a number in single and in half precision.
NUDGES = {np.dtype(np.float32): 1e-6, np.dtype(np.float16): 2e-3}


def nudged(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes the same but for a rounding: every convolution's bias is changed by a millionth (two thousandths
    in half precision); if no convolution has one, every weight of a convolution, or its scale."""
    from onnx import numpy_helper

    stored, found = constants(model), biases(model)
    inputs = {node.name: node.input for node in weighted_convolutions(model)}

    def factor(name: str) -> np.float32:
        return np.float32(1 + NUDGES.get(stored[name].dtype, 1e-6)) if name in stored else np.float32(1 + 1e-6)

    if found:
        return with_biases(model, {name: bias * factor(inputs[name][2]) for name, (bias, _) in found.items()})
    copied = type(model)()
    copied.CopyFrom(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    weights = {names[1] for names in inputs.values()}
    scaled = {makers[name].input[1] if name in makers else name for name in weights}
    for tensor in copied.graph.initializer:
        if tensor.name in scaled:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array((values * factor(tensor.name)).astype(values.dtype), tensor.name))
    return copied
