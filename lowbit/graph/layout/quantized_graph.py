"""Rewrites of a quantized graph: the same numbers, in the form that ONNX Runtime's integer kernels take the least time for."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from lowbit import graph
from lowbit.graph.layout.shared import BLOCK, PART, keep_used, readers_of, reshaped, silu_of

if TYPE_CHECKING:
    import onnx


def move_integers(model: onnx.ModelProto) -> None:
    """Let Concat and Split take and give integers wherever scale and zero point stay what they are, in place.

    The same numbers. ONNX Runtime joins plain tensors with all of its threads, and quantized ones with one; and it takes
    apart in float what is not all used.
    """
    quantizers, users = graph.pairs(model), readers_of(model)
    made = {output: node for node in model.graph.node for output in node.output}
    given = {value.name for value in model.graph.output}
    gone: list[onnx.NodeProto] = []
    for node in model.graph.node:
        below = [reader for name in node.output for reader in users.get(name, [])]
        if node.op_type not in {"Concat", "Split"} or {reader.op_type for reader in below} != {"QuantizeLinear"}:
            continue
        if given & set(node.output):
            continue
        read = list(node.input) if node.op_type == "Concat" else [node.input[0]]
        found = [quantizers.get(name) for name in (*read, *(reader.output[0] for reader in below))]
        if None in found or len({(float(pair[0]), int(pair[1])) for pair in found if pair}) > 1:
            continue
        written = {reader.input[0]: reader.output[0] for reader in below}
        if len(written) < len(below):  # quantized twice
            continue
        for position, name in enumerate(read):
            node.input[position] = made[name].input[0]
        for position, name in enumerate(node.output):
            node.output[position] = written.get(name, f"{name}/unused")
        gone += below
    keep_used(model, [node for node in model.graph.node if node not in gone])


def channels_last(model: onnx.ModelProto) -> None:
    """Compute SiLU of every narrow convolution in float with channels last where only its quantized result is read, in
    place.

    The same numbers under the same names. ONNX Runtime's convolutions in float give blocks of channels, and its integer
    ones take channels last: of one block, that is the same order, if it is not made to go by way of channels first.
    """
    from onnx import helper

    sizes, users = graph.shapes(model), readers_of(model)
    written: dict[str, list[onnx.NodeProto]] = {}
    for conv in graph.weighted_convolutions(model):
        found, size = silu_of(conv, users), sizes.get(conv.output[0], ())
        if found is None or len(size) != 4 or 0 in size or size[1] > BLOCK:
            continue
        gate, product = found
        readers = {node.op_type for node in users.get(product.output[0], [])}
        if users.get(gate.output[0]) != [product] or readers != {"QuantizeLinear"}:
            continue
        last, flat, shares, silu, back = (f"{product.output[0]}{PART}{number}" for number in range(5))
        written[gate.name] = []
        written[product.name] = [
            helper.make_node("Transpose", [conv.output[0]], [last], name=last, perm=[0, 2, 3, 1]),
            helper.make_node("Flatten", [last], [flat], name=flat, axis=3),
            helper.make_node("Sigmoid", [flat], [shares], name=gate.name),
            helper.make_node("Mul", [flat, shares], [silu], name=product.name),
            reshaped(model, silu, back, (*size[2:], size[1])),
            helper.make_node("Transpose", [back], [product.output[0]], name=f"{back}/last", perm=[0, 3, 1, 2]),
        ]
    graph.replace_nodes(model, [one for node in model.graph.node for one in written.get(node.name, [node])])


def softmax_in_float(model: onnx.ModelProto) -> None:
    """Keep ONNX Runtime from fusing a Softmax along the last axis with the quantizers around it, in place.

    What the graph says, computed as it says it: the integer kernel takes several times as long as the float one.
    """
    from onnx import helper

    sizes, users = graph.shapes(model), readers_of(model)
    made = {output: node for node in model.graph.node for output in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        size = sizes.get(node.output[0], ())
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
        above = made.get(node.input[0]) if node.op_type == "Softmax" else None
        below = {reader.op_type for reader in users.get(node.output[0], [])}
        if (
            above is None
            or above.op_type != "DequantizeLinear"
            or below != {"QuantizeLinear"}
            or len(size) < 2
            or 0 in size
            or axis not in (-1, len(size) - 1)
        ):
            nodes.append(node)
            continue
        flat, shares = (f"{node.output[0]}{PART}{number}" for number in range(2))
        nodes += [
            # ONNX Runtime looks for quantizers through every op that only gives another shape but this one.
            helper.make_node("Flatten", [node.input[0]], [flat], name=f"{node.name}{PART}0", axis=len(size) - 1),
            helper.make_node("Softmax", [flat], [shares], name=node.name, axis=1),
            reshaped(model, shares, node.output[0], size[1:]),
        ]
    graph.replace_nodes(model, nodes)


# Ops that give some of their first input's numbers.
_PICKING = frozenset({"Transpose", "Reshape", "Gather", "ReduceMax"})


def sink_dequantize(model: onnx.ModelProto, nodes: Collection[str]) -> None:
    """Move DequantizeLinear past those of ``nodes`` that only move numbers or take their maximum, in place.

    The same numbers, for scales are positive; but what a Gather leaves behind is not dequantized any more.
    """
    made = {name for node in model.graph.node for name in node.output}
    single = {tensor.name for tensor in model.graph.initializer if not tensor.dims}
    passing: dict[str, bool] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            lets = node.name in nodes and node.op_type in _PICKING and position == 0
            passing[name] = passing.get(name, True) and lets
    sunk: dict[str, onnx.NodeProto] = {}
    order: list[onnx.NodeProto] = []

    def place(dequantize: onnx.NodeProto) -> None:
        if passing.get(dequantize.output[0], False):
            sunk[dequantize.output[0]] = dequantize
        else:
            order.append(dequantize)

    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in made and node.input[1] in single:
            place(node)
            continue
        order.append(node)
        above = sunk.get(node.input[0]) if node.input else None
        if above is not None:
            below, output = type(above)(), node.output[0]
            below.CopyFrom(above)
            node.input[0], node.output[0] = above.input[0], f"{output}/quantized"
            below.input[0], below.output[0] = node.output[0], output
            below.name = f"{node.name}/DequantizeLinear"
            place(below)
    graph.replace_nodes(model, order)
