"""Small ONNX graphs, written node by node."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Nodes = list[onnx.NodeProto]


Weights = list[onnx.TensorProto]


def array(values: NDArray[np.generic], name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values), name)


def floats(shape: tuple[int, ...], name: str) -> onnx.TensorProto:
    return array(np.ones(shape, np.float32), name)


def make_model(
    nodes: Nodes,
    weights: Weights,
    shape_in: tuple[int | str, ...] = (1, 3, 64, 64),
    shape_out: tuple[int | str, ...] = (1, 300, 6),
    opset: int = 21,
) -> onnx.ModelProto:
    body = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, shape_out)],
        weights,
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(op: str, inputs: list[str], output: str, name: str, **options: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=name, **options)


def end2end(classes: int = 80, boxes: int = 64) -> onnx.ModelProto:
    """Three strides' box and class convolutions; what follows does not matter to the head."""
    nodes: Nodes = []
    weights: Weights = []
    for stride in (8, 16, 32):
        for part, width in (("box", boxes), ("cls", classes)):
            weights.append(floats((width, 3, 1, 1), f"{part}{stride}"))
            nodes.append(node("Conv", ["images", f"{part}{stride}"], f"{part}{stride}_y", f"/model.1/{part}{stride}"))
    flat = [output for n in nodes for output in n.output]
    nodes.append(node("Concat", flat, "output0", "/model.1/Concat", axis=1))
    return make_model(nodes, weights)
