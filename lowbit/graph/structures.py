"""What in a graph is quantized, and to how many bits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lowbit.graph.head import decode_tail
from lowbit.graph.nodes import PASSING, WEIGHTED_OPS, is_dfl, stored_weights

if TYPE_CHECKING:
    import onnx

_BITS = {"INT4": 4, "UINT4": 4, "INT8": 8, "UINT8": 8, "FLOAT8E4M3FN": 8, "FLOAT8E5M2": 8, "FLOAT16": 16, "FLOAT": 32}


@dataclass(frozen=True, slots=True)
class Weight:
    """How the weight of one convolution or matrix product is stored.

    ``dtype``: ONNX's name of the stored type. ``axis``: the quantization axis, ``None`` for one scale a tensor.
    ``block``: block size along the axis, 0 without. ``input_quantized``: whether its data input is dequantized too.
    """

    node: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    axis: int | None
    block: int
    scales: int
    input_quantized: bool

    @property
    def count(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    @property
    def bits(self) -> int:
        """Bits an element as stored."""
        return _BITS[self.dtype]

    @property
    def quantized(self) -> bool:
        """Whether it is stored in eight bits or fewer."""
        return self.bits <= 8


@dataclass(frozen=True, slots=True)
class Structure:
    """What is quantized in a graph. ``ops``: op type to number of nodes all of whose float inputs are dequantized."""

    weights: tuple[Weight, ...]
    ops: dict[str, int]
    quantize_nodes: int
    dequantize_nodes: int
    tail_quantized: tuple[str, ...]
    input_dtypes: tuple[str, ...]

    @property
    def weight_bits(self) -> float:
        """Average bits a weight over all quantized weights, their float32 scales included; 32 if none is quantized."""
        quantized = [w for w in self.weights if w.quantized]
        if not quantized:
            return 32.0
        return sum(w.count * w.bits + w.scales * 32 for w in quantized) / sum(w.count for w in quantized)

    @property
    def quantized_fraction(self) -> float:
        """Share of the convolutions' and matrix products' weight elements that are stored in eight bits or fewer."""
        total = sum(w.count for w in self.weights)
        return sum(w.count for w in self.weights if w.quantized) / total if total else 0.0


def structure(model: onnx.ModelProto) -> Structure:
    """Read weights, Q/DQ nodes and what lies in the decode tail from a QDQ graph."""
    import onnx

    weights = {t.name: t for t in model.graph.initializer}
    stored = stored_weights(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    type_name = onnx.TensorProto.DataType.Name
    tail = set(decode_tail(model))
    found: list[Weight] = []
    ops: Counter[str] = Counter()
    in_tail: list[str] = []
    input_dtypes: set[str] = set()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant"):
            continue
        feeds = [makers[name] for name in node.input if name in makers]
        dequantized = [feed for feed in feeds if feed.op_type == "DequantizeLinear"]
        data = makers.get(node.input[0]) if node.input else None
        while data is not None and data.op_type in PASSING:
            data = makers.get(data.input[0])
        data_quantized = data is not None and data.op_type == "DequantizeLinear"
        inside = bool(dequantized) and node.name in tail and _consumes_quantized(node, tail, makers, weights)
        if inside:
            in_tail.append(node.name)
        # What the tail reads of the last convolutions' own pairs it computes with in float.
        if inside or node.name not in tail:
            whole = len(dequantized) == len([f for f in feeds if f.op_type != "Constant"])
            ops[node.op_type] += bool(dequantized) and whole
        if node.op_type not in WEIGHTED_OPS or len(node.input) < 2:
            continue
        if data_quantized and data is not None and len(data.input) > 2 and data.input[2] in weights:
            input_dtypes.add(type_name(weights[data.input[2]].data_type))
        weight = None if is_dfl(node, stored) else _weight(node, weights, stored, makers, data_quantized)
        if weight is not None:
            found.append(weight)
    kinds = Counter(node.op_type for node in model.graph.node)
    return Structure(
        tuple(found),
        dict(+ops),
        kinds["QuantizeLinear"],
        kinds["DequantizeLinear"],
        tuple(in_tail),
        tuple(sorted(input_dtypes)),
    )


def _consumes_quantized(
    node: onnx.NodeProto,
    tail: set[str],
    makers: dict[str, onnx.NodeProto],
    weights: dict[str, onnx.TensorProto],
) -> bool:
    """Whether a tail node reads a tensor that was quantized inside the tail.

    The first tail nodes may read what the last convolution's own Q/DQ pair gives; that pair belongs to the Conv.
    """
    for name in node.input:
        dq = makers.get(name)
        if dq is None or dq.op_type != "DequantizeLinear" or dq.input[0] in weights:
            continue
        q = makers.get(dq.input[0])
        origin = makers.get(q.input[0]) if q is not None and q.op_type == "QuantizeLinear" else None
        if origin is not None and origin.name in tail and origin.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return True
    return False


def _weight(
    node: onnx.NodeProto,
    weights: dict[str, onnx.TensorProto],
    stored: dict[str, onnx.TensorProto],
    makers: dict[str, onnx.NodeProto],
    data_quantized: bool,
) -> Weight | None:
    import onnx

    type_name = onnx.TensorProto.DataType.Name
    name = node.input[1]
    if name in weights:
        tensor = weights[name]
        return Weight(
            node.name, node.op_type, tuple(tensor.dims), type_name(tensor.data_type), None, 0, 0, data_quantized
        )
    feed = makers.get(name)
    if feed is None or feed.op_type != "DequantizeLinear" or feed.input[0] not in stored:
        return None
    tensor, scale = stored[feed.input[0]], weights.get(feed.input[1])
    scales = int(np.prod(scale.dims)) if scale is not None else 1
    attributes = {a.name: a.i for a in feed.attribute}
    axis = attributes.get("axis", 1) if scales > 1 else None
    return Weight(
        node.name,
        node.op_type,
        tuple(tensor.dims),
        type_name(tensor.data_type),
        axis,
        attributes.get("block_size", 0),
        scales,
        data_quantized,
    )
