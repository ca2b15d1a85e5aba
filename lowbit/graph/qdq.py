"""How a Q/DQ graph quantizes: scales and zero points of activations, integers of weights, biases."""

from __future__ import annotations

from collections.abc import Iterator
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
