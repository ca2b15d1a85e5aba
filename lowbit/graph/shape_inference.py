"""Shapes of all tensors, and the multiply-accumulates that follow from them."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lowbit.graph.nodes import WEIGHTED_OPS, inputs, shape_of
from lowbit.runtime import plain_session

if TYPE_CHECKING:
    import onnx

Shapes = dict[str, tuple[int, ...]]


def shapes(model: onnx.ModelProto) -> Shapes:
    """The shape of every tensor that has a known one, 0 for a dimension that can't be told.

    By ONNX Runtime's symbolic inference: ONNX's own loses everything behind a Slice whose ends are computed, as
    PyTorch's tracer writes ``chunk``. It raises TypeError on graphs of opset 18 and above whose Reduce operators have
    axes as an input (ONNX Runtime 1.31); what is missing then is measured by a run.
    """
    import onnx
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    try:
        inferred = SymbolicShapeInference.infer_shapes(model, auto_merge=True).graph
    except Exception:  # it raises plain ones for ops that it does not know
        inferred = onnx.shape_inference.infer_shapes(model).graph
    found = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        found[value.name] = shape_of(value)
    missing = {name for node in model.graph.node for name in node.output if name and 0 in found.get(name, (0,))}
    return found | _measured(model, missing) if missing else found


def _measured(model: onnx.ModelProto, names: Collection[str]) -> Shapes:
    """The shapes that these tensors have in a run, where they do not depend on the image; none where it does not run."""
    import onnx

    given = inputs(model)
    if any(0 in shape_of(value) for value in given):
        return {}
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    there = {value.name for value in copied.graph.output}
    wanted = sorted(names)
    copied.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted if name not in there)
    try:
        session = plain_session(copied, optimized=False)
        runs = [
            [np.shape(value) for value in session.run(wanted, {value.name: draw(value) for value in given})]
            for draw in (blank, noise)
        ]
    except Exception:  # ONNX Runtime's own have no common base; a graph that does not run has no measured shapes
        return {}
    return {name: one for name, one, two in zip(wanted, *runs, strict=True) if one == two}


def blank(value: onnx.ValueInfoProto) -> NDArray[np.generic]:
    """A black image for an input of a fixed shape, in the input's own type."""
    from onnx import helper

    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return np.zeros(shape_of(value), kind)


def noise(value: onnx.ValueInfoProto, seed: int = 0) -> NDArray[np.generic]:
    """Seeded noise, uniform in [0, 1] or over all values of an integer type, in the input's own type and shape."""
    black = blank(value)
    drawn = np.random.default_rng(seed).random(black.shape)
    return (drawn * 255).astype(black.dtype) if black.dtype.kind in "iu" else drawn.astype(black.dtype)


def macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of every convolution and matrix product, under the node's name and under its output's.

    Of a convolution: its weight's elements times its output's positions, of a transposed one times its input's; of a
    product: its output's elements times the inner size. Nodes whose shapes can't be told are left out.
    """
    sizes = shapes(model)
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED_OPS:
            continue
        first, second, output = (sizes.get(name, (0,)) for name in (*node.input[:2], node.output[0]))
        if 0 in (*first, *second, *output):
            continue
        if node.op_type in ("Conv", "ConvTranspose"):
            spread = output if node.op_type == "Conv" else first
            count = math.prod(second) * spread[0] * math.prod(spread[2:])
        else:
            transposed = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
            count = math.prod(output) * first[0 if transposed else -1]
        found[node.name] = found[node.output[0]] = count
    return found
