"""Small questions about an ONNX graph that everything else here asks: its inputs, constants and weighted nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


# Ops whose output has values of their inputs only: what was quantized before them still is.
PASSING = frozenset({"Split", "Slice", "Concat", "MaxPool", "Gather", "Reshape", "Transpose", "Resize", "Identity"})


def replace_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Give a model these nodes, its own among them, in this order."""
    import onnx

    # Copies: nodes of the model end with the list that they are in.
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs without a stored value: some exporters list weights as inputs with a default."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def name_nodes(model: onnx.ModelProto) -> str:
    """Give every node a name of its own. Says what was done, nothing for nothing."""
    seen: set[str] = set()
    given = {node.name for node in model.graph.node}
    changed = False
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            stem = node.name or node.op_type
            node.name = next(name for name in _numbered(f"{stem}_{number}") if name not in given | seen)
            changed = True
        seen.add(node.name)
    return "its nodes named" if changed else ""


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    number = 1
    while True:
        yield f"{stem}_{number}"
        number += 1


def opset(model: onnx.ModelProto) -> int:
    """The version of the default domain's operators; 1 for a file that names none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The shape that an input or output declares, 0 for a dimension that it leaves open."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return stored | {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }


def stored_weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers by name, and under the outputs of the Clip and the DequantizeLinear that read them."""
    weights = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:  # topologically sorted
        if node.op_type in ("Clip", "DequantizeLinear") and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    return weights


def is_dfl(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Ultralytics' distribution focal loss is a Conv whose frozen 1 x n x 1 x 1 weight counts 0, 1, 2 ...

    Whatever its scale, for the weight may be stored in integers, and with half a bin of tolerance: checkpoints rebuilt
    from quantized ones count 0, 0.94, 2.01 ...
    """
    from onnx import numpy_helper

    tensor = weights.get(node.input[1]) if len(node.input) > 1 else None
    if tensor is None or len(tensor.dims) != 4 or tensor.dims[0] != 1 or tuple(tensor.dims[2:]) != (1, 1):
        return False
    bins = numpy_helper.to_array(tensor).ravel().astype(float)
    if len(bins) < 2 or bins[-1] <= 0:
        return False
    return bool(np.allclose(bins * (len(bins) - 1) / bins[-1], np.arange(len(bins)), rtol=0, atol=0.5))


def dfl_bins(model: onnx.ModelProto) -> NDArray[np.float32] | None:
    """The values of the distribution focal loss' bins, float32 [n], as a float graph stores them; None without one."""
    from onnx import numpy_helper

    weights = stored_weights(model)
    for node in model.graph.node:
        if node.op_type == "Conv" and is_dfl(node, weights):
            return numpy_helper.to_array(weights[node.input[1]]).ravel().astype(np.float32)
    return None


def weighted_convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Every convolution with a stored weight, in the graph's order; not the distribution focal loss'."""
    weights = stored_weights(model)
    return [n for n in model.graph.node if n.op_type == "Conv" and n.input[1] in weights and not is_dfl(n, weights)]


# What a graph does to an image before its first convolution: normalization, the order of channels, YOLOv5's and YOLOX's
# Focus.
_PREPARING = frozenset({"Cast", "Sub", "Add", "Mul", "Div", "Transpose", "Identity", "Pad", "Slice", "Concat"})


def stem(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that read the image, prepared or as it is; empty where something else reads it."""
    pixels = {inputs(model)[0].name}
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        read = {name for name in node.input if name and name not in stored}
        if node.op_type in _PREPARING and read and read <= pixels:
            pixels.update(node.output)
    return [node.name for node in model.graph.node if node.op_type == "Conv" and node.input[0] in pixels]


def downstream(model: onnx.ModelProto, convolutions: Collection[str]) -> list[str]:
    """Names of the nodes that only these convolutions reach without another one between, such as their activations."""
    sources: dict[str, frozenset[str]] = {}
    names = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            found = frozenset({node.name})
        else:
            found = frozenset().union(*(sources.get(name, frozenset()) for name in node.input))
            if found and found <= set(convolutions):
                names.append(node.name)
        sources |= dict.fromkeys(node.output, found)
    return names
