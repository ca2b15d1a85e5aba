"""From Brevitas' QCDQ export to what a runtime should load: fewer steps between a stored weight and its Conv, INT4
tensors where four bits are enough, and back to INT8 where a provider cannot take INT4.

Every function changes how values are stored, never the values.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lowbit.errors import UnavailableError
from lowbit.graph.nodes import opset as opset_of

INT4_OPSET = 21
_INT4 = (-8, 7)


def count_pairs(model: onnx.ModelProto) -> dict[str, int]:
    """How many QuantizeLinear and DequantizeLinear nodes there are."""
    kinds = Counter(node.op_type for node in model.graph.node)
    return {name: kinds[name] for name in ("QuantizeLinear", "DequantizeLinear")}


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take initializers off the graph's inputs and fold every Clip of a stored weight into the weight.

    An initializer that is listed as an input may be overridden by a caller, so ONNX Runtime folds nothing that depends
    on it. A Clip between a stored weight and its DequantizeLinear is how QCDQ says "four bits".
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    constants = {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    for value in [v for v in graph.input if v.name in stored]:
        graph.input.remove(value)
    known = {**constants, **stored}
    folded: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "Clip" or node.input[0] not in known:
            continue
        low, high = (numpy_helper.to_array(known[name]) if name else None for name in (*node.input[1:], "", "")[:2])
        source = known[node.input[0]]
        values = np.clip(numpy_helper.to_array(source), low, high)
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        folded.append(node)
    for node in folded:
        graph.node.remove(node)
    drop_unused(model)
    return model


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove constants and initializers that nothing reads any more."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in [n for n in graph.node if n.op_type == "Constant" and n.output[0] not in used]:
        graph.node.remove(node)
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def pack_int4(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store every INT8 weight whose values all lie in [-8, 7] as INT4, two to a byte, with its zero point.

    Raises :class:`UnavailableError` if the model does not survive the move to opset 21.
    """
    if not _narrow_nodes(model):
        return model
    model = at_opset(model, INT4_OPSET)
    packed: dict[str, onnx.TensorProto] = {}
    for node, parts in _narrow_nodes(model):
        for index, tensor in parts.items():
            # Under a name of its own: a weight of eight bits may share the zero point.
            name = f"{tensor.name}_int4"
            packed.setdefault(name, _stored_as(tensor, TensorProto.INT4, name))
            node.input[index] = name
    model.graph.initializer.extend(packed.values())
    drop_unused(model)
    return _checked(model)


def _narrow_nodes(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, dict[int, onnx.TensorProto]]]:
    """DequantizeLinear nodes of stored INT8 weights that four bits can hold, with weight and zero point by input."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            parts = {index: stored[name] for index, name in enumerate(node.input) if index != 1 and name in stored}
            if all(_fits_int4(tensor) for tensor in parts.values()):
                found.append((node, parts))
    return found


def widen_int4(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store every INT4 tensor as INT8 with the same values: for providers that have no INT4."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT4:
            tensor.CopyFrom(_stored_as(tensor, TensorProto.INT8, tensor.name))
    return _checked(model)


def _fits_int4(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != TensorProto.INT8:
        return False
    values = numpy_helper.to_array(tensor)
    return bool(values.size and values.min() >= _INT4[0] and values.max() <= _INT4[1])


def integer_tensor(values: NDArray[np.int8], dtype: int, name: str) -> onnx.TensorProto:
    """INT8, or INT4 of values in [-8, 7], packed as ONNX does."""
    if dtype == TensorProto.INT8:
        return numpy_helper.from_array(values, name)
    # Two to a byte, the first in the low half (onnx.proto, TensorProto.int32_data).
    flat = values.ravel().view(np.uint8) & 0x0F
    flat = np.append(flat, np.zeros(len(flat) % 2, np.uint8))
    raw = (flat[0::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
    return helper.make_tensor(name, dtype, values.shape, raw, raw=True)


def _stored_as(tensor: onnx.TensorProto, dtype: int, name: str) -> onnx.TensorProto:
    return integer_tensor(numpy_helper.to_array(tensor).astype(np.int8), dtype, name)


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model at an opset, or a copy of one that is at a later one already.

    Raises :class:`UnavailableError` if it can't be converted, or loses a node on the way.
    """
    from onnx import version_converter

    names = [node.name for node in model.graph.node]
    if opset_of(model) > opset:
        converted = onnx.ModelProto()
        converted.CopyFrom(model)
        return converted
    try:
        converted = version_converter.convert_version(model, opset)
    except Exception as error:  # the converter raises RuntimeError and types of its own
        raise UnavailableError(f"the graph can't be converted to opset {opset}: {str(error)[:300]}") from error
    if [node.name for node in converted.graph.node if node.name in set(names)] != names:
        raise UnavailableError(f"the conversion to opset {opset} renamed or dropped nodes.")
    converted.ir_version = max(converted.ir_version, 10)  # the first with INT4
    return converted


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    onnx.checker.check_model(model)
    return model
