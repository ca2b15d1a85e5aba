"""What the rewrites of a layout share: names of new nodes, readers of a tensor, and what a graph still needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lowbit import graph

if TYPE_CHECKING:
    import onnx


# Follows the name of a node in those of the nodes that take its place.
PART = "/part_"

# Channels of a block in ONNX Runtime's layout of convolutions in float, with AVX-512.
BLOCK = 16


def readers_of(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Of every tensor, the nodes that read it."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


def reshaped(model: onnx.ModelProto, name: str, output: str, size: Sequence[int]) -> onnx.NodeProto:
    """A Reshape to any number of ``size``."""
    from onnx import helper, numpy_helper

    shape = f"{output}/shape"
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, *size], np.int64), shape))
    return helper.make_node("Reshape", [name, shape], [output], name=f"{output}/Reshape")


def keep_used(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Give a model those of these nodes, and of its stored tensors, that its outputs need."""
    used = {value.name for value in model.graph.output}
    alive: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if used & set(node.output):
            alive.append(node)
            used |= set(node.input)
    graph.replace_nodes(model, alive[::-1])
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    kept = [type(tensor).FromString(tensor.SerializeToString()) for tensor in kept]
    del model.graph.initializer[:], model.graph.value_info[:]
    model.graph.initializer.extend(kept)


def silu_of(
    conv: onnx.NodeProto, users: Mapping[str, Sequence[onnx.NodeProto]]
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The Sigmoid and the Mul of a convolution that nothing else reads; None if something else follows it."""
    after = {node.op_type: node for node in users.get(conv.output[0], [])}
    if after.keys() != {"Sigmoid", "Mul"} or after["Sigmoid"].output[0] not in after["Mul"].input:
        return None
    return after["Sigmoid"], after["Mul"]
