"""Faults that a runtime could bring into a Q/DQ graph, put into a copy of it. Each returns the faulty model."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lowbit import graph


def integer_convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions whose input and weight are dequantized, in the graph's order."""
    made = {output: node.op_type for node in model.graph.node for output in node.output}
    nodes = graph.weighted_convolutions(model)
    return [node.name for node in nodes if {made.get(name) for name in node.input[:2]} == {"DequantizeLinear"}]


def scale_off_by_two(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The weight's scale of one convolution is twice what it should be."""
    faulty, conv = _copy(model, name)
    _change(faulty, _feed(faulty, conv, 1), 1, lambda values: values * 2)
    return faulty


def channels_swapped(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Two output channels of one convolution change places: the largest and the smallest by the sum of their weights."""
    faulty, conv = _copy(model, name)
    weight = graph.dequantized_weights(model)[name]
    sums = weight.reshape(len(weight), -1).sum(1)
    ends = [int(sums.argmax()), int(sums.argmin())]

    def swap(values: np.ndarray) -> np.ndarray:
        if values.size > 1:
            values[ends] = values[ends[::-1]]
        return values

    for position in range(1, len(conv.input)):
        for part in (0, 1):
            _change(faulty, _feed(faulty, conv, position), part, swap)
    return faulty


def zero_point_off_by_one(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The zero point of one convolution's input is one off."""
    faulty, conv = _copy(model, name)
    _change(faulty, _feed(faulty, conv, 0), 2, lambda value: value + (1 if value < 255 else -1))
    return faulty


def clipped_as_signed(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The input of one convolution, unsigned, is clipped where a signed one ends: what ONNX Runtime 1.24's rewrite of signed
    activations does to a Clip between Q and DQ."""
    faulty, conv = _copy(model, name)
    dequantize = _feed(faulty, conv, 0)
    faulty.graph.initializer.append(numpy_helper.from_array(np.uint8(127), "fault/end"))
    clip = helper.make_node("Min", [dequantize.input[0], "fault/end"], ["fault/clipped"], "fault/clip")
    faulty.graph.node.insert(list(faulty.graph.node).index(dequantize), clip)
    dequantize.input[0] = "fault/clipped"
    return faulty


def _copy(model: onnx.ModelProto, name: str) -> tuple[onnx.ModelProto, onnx.NodeProto]:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied, next(node for node in copied.graph.node if node.name == name)


def _feed(model: onnx.ModelProto, node: onnx.NodeProto, position: int) -> onnx.NodeProto:
    """The DequantizeLinear that an input comes from, this node's own."""
    shared = next(one for one in model.graph.node if node.input[position] in one.output)
    own = onnx.NodeProto()
    own.CopyFrom(shared)
    own.name, own.output[0] = f"fault/{position}/{node.name}", f"fault/{position}/{node.name}"
    if node.input[position] == own.output[0]:
        return shared
    model.graph.node.insert(list(model.graph.node).index(shared) + 1, own)
    node.input[position] = own.output[0]
    return next(one for one in model.graph.node if one.name == own.name)


def _change(model: onnx.ModelProto, node: onnx.NodeProto, part: int, how) -> None:  # type: ignore[no-untyped-def]
    """Give a node a changed copy of one of its stored inputs."""
    tensor = next(one for one in model.graph.initializer if one.name == node.input[part])
    values = numpy_helper.to_array(tensor).copy()
    node.input[part] = f"{node.name}/changed_{part}"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(how(values), values.dtype), node.input[part]))
