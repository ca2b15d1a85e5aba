"""Half precision: the usual deployment on a GPU, and the baseline that low-bit artifacts have to beat there.

Weights and activations become float16 (ONNX Runtime's converter), input and output stay float32, and so does the decode
tail, because above 512 pixels float16 has steps of half a pixel.

Settings: ``start`` (the scheme whose Q/DQ artifact becomes float16 outside its integers; its folder is ``job.start``).
Without it the float export does. A strongly typed TensorRT network computes what is between its quantized convolutions in
the types that the file states, so with float32 there it is slower than FP16 however quick the convolutions are. Q/DQ nodes
get float16 scales, and what they give is float16 then. The stored integers are kept, but for channels whose scale float16
does not have nearly enough: those are rounded again, to the scale that it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.artifact import MODEL
from lowbit.errors import BuildError
from lowbit.graph import qcdq
from lowbit.quantize import Job, Promises, Tool

if TYPE_CHECKING:
    import onnx

# The first whose Q/DQ take float16 scales.
_OPSET = 19
# Half a step of the largest integer, 127: a scale that is nearer changes no weight by more than its rounding did.
_NEAR = 1 / 254
# float16's least positive number. TensorRT takes no scale of 0.
_TINY = np.float32(2.0**-24)


def build(job: Job) -> dict[str, Any]:
    """Convert ``job.source``, or the artifact in ``job.start``.

    Raises :class:`BuildError` if a quantized weight is then another one by more than rounding.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = graph.load(job.start / MODEL if job.start else job.source)
    if job.start and graph.opset(model) < _OPSET:
        model = qcdq.at_opset(model, _OPSET)
    tail = graph.decode_tail(model)
    info = {"excluded_nodes": len(tail)}
    before = graph.dequantized_weights(model)
    if job.start:
        info["rounded_again"] = fit_scales(model)
    converted = convert_float_to_float16(model, keep_io_types=True, node_block_list=tail)
    # A tensor that two nodes of the tail read is cast twice under one name: the first cast serves both.
    seen: set[str] = set()
    kept = []
    for node in converted.graph.node:
        if node.op_type != "Cast" or node.output[0] not in seen:
            kept.append(node)
        seen.update(node.output)
    graph.replace_nodes(converted, kept)
    OnnxModel.graph_topological_sort(converted.graph)
    onnx.save(converted, str(job.output))
    check_weights(before, graph.dequantized_weights(converted))
    return info


def fit_scales(model: onnx.ModelProto) -> int:
    """Round stored weights again where float16 has not their scale, in place; returns of how many scales."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found = 0
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in stored or node.input[1] not in stored:
            continue
        scale = numpy_helper.to_array(stored[node.input[1]])
        half = np.maximum(scale.astype(np.float16).astype(np.float32), _TINY)
        far = np.abs(half - scale) > _NEAR * scale
        if not far.any():
            continue
        found += int(far.sum())
        values = numpy_helper.to_array(stored[node.input[0]])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [-1 if place == axis else 1 for place in range(values.ndim)] if scale.ndim else []
        factor = np.where(far, scale / half, np.float32(1)).reshape(shape)
        again = _rounded(values.astype(np.float32) * factor, values.dtype)
        stored[node.input[0]].CopyFrom(numpy_helper.from_array(again, node.input[0]))
        fitted = np.where(far, half, scale).astype(np.float32)
        stored[node.input[1]].CopyFrom(numpy_helper.from_array(fitted, node.input[1]))
    return found


def _rounded(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """To nearest, in INT8 or in FP8 (E4M3, up to 448)."""
    if dtype == np.int8:
        return np.clip(np.rint(values), -128, 127).astype(dtype)
    return np.clip(values, -448, 448).astype(dtype)


def check_weights(before: dict[str, NDArray[np.float32]], after: dict[str, NDArray[np.float32]]) -> None:
    """Compare quantized weights, [out, ...], by node. Raises :class:`BuildError` where one differs by more than a step of
    its channel's largest, of 127, and float16's least number."""
    if before.keys() != after.keys():
        raise BuildError(f"float16 changes which weights are quantized: {sorted(before.keys() ^ after.keys())[:3]}.")
    for name, weight in before.items():
        largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
        if (np.abs(after[name] - weight) > largest / 127 + _TINY).any():
            raise BuildError(f"{name}: its weights are others in float16.")


TOOL = Tool(build, Promises(symmetric=True, activations=frozenset({"INT8"})))
