"""Shapes of all tensors, and the multiply-accumulates that follow from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lowbit.graph.nodes import WEIGHTED_OPS

if TYPE_CHECKING:
    import onnx


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that has a known one, 0 for a dimension that can't be told.

    By ONNX Runtime's symbolic inference: ONNX's own loses everything behind a Slice whose ends are computed, as
    PyTorch's tracer writes ``chunk``.
    """
    import onnx
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    try:
        inferred = SymbolicShapeInference.infer_shapes(model, auto_merge=True).graph
    except Exception:  # it raises plain ones for ops that it does not know
        inferred = onnx.shape_inference.infer_shapes(model).graph
    found = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        found[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    return found


def macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of every convolution and matrix product, under the node's name and under its output's.

    Of a convolution: its weight's elements times its output's positions; of a product: its output's elements times the
    inner size. Nodes whose shapes can't be inferred are left out.
    """
    sizes = shapes(model)
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED_OPS:
            continue
        output, second = sizes.get(node.output[0]), sizes.get(node.input[1])
        if not output or not second or 0 in output or 0 in second:
            continue
        if node.op_type == "MatMul":
            count = int(np.prod(output)) * second[-2]
        else:  # for Gemm, the output has one position
            count = int(np.prod(second) * np.prod(output) // output[1])
        found[node.name] = found[node.output[0]] = count
    return found
