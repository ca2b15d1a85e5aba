"""Where the detection head ends: its last convolutions, the raw head that they give, the decode tail behind them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from lowbit.errors import UnavailableError
from lowbit.graph.nodes import constants, inputs, is_dfl, replace_nodes, stored_weights
from lowbit.graph.qdq import Quantizer, pairs
from lowbit.graph.shape_inference import shapes

if TYPE_CHECKING:
    import onnx

_HEAD_PREFIX = re.compile(r"(/model\.\d+/)")


def last_convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Convolutions that no other convolution follows, the DFL's not counted."""
    weights = stored_weights(model)
    feeds_conv: dict[str, bool] = {}
    last = []
    for node in reversed(model.graph.node):  # topologically sorted, so consumers come first
        conv = node.op_type == "Conv" and not is_dfl(node, weights)
        followed = any(feeds_conv.get(output, False) for output in node.output)
        if conv and not followed:
            last.append(node)
        for name in node.input:
            feeds_conv[name] = feeds_conv.get(name, False) or conv or followed
    return last


def head_outputs(model: onnx.ModelProto) -> list[str]:
    """Names of the tensors that the head's last convolutions give, in the graph's order: the raw head."""
    return [node.output[0] for node in reversed(last_convolutions(model))]


def deployed_outputs(model: onnx.ModelProto) -> dict[str, tuple[str, Quantizer | None]]:
    """Where the output of a convolution can be read without changing how it is deployed, by the convolution's name, in the
    graph's order.

    An output that a graph did not have keeps ONNX Runtime from fusing the convolution that gives it with the quantizer
    behind; the integers that it gives then are there in any case. So for a convolution whose output is only quantized:
    the name of the integers, their scale and zero point (as unsigned 8 bits). For a convolution of the raw head whose
    output is read otherwise: its own name and None. Others are left out.
    """
    quantizers, heads = pairs(model), set(head_outputs(model))
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: dict[str, tuple[str, Quantizer | None]] = {}
    for node in model.graph.node:
        name = node.output[0] if node.output else ""
        below = readers.get(name, []) if node.op_type == "Conv" else []
        integers = below[0].output[0] if [one.op_type for one in below] == ["QuantizeLinear"] else ""
        if integers in quantizers:
            found[node.name] = integers, quantizers[integers]
        elif name in heads:
            found[node.name] = name, None
    return found


def with_head_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that gives the raw head beside its own output, for comparing two graphs before the decode tail."""
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    there = {value.name for value in copied.graph.output}
    copied.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in head_outputs(model) if name not in there
    )
    return copied


def raw_head_of_batch(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """A copy for ``size`` images at once that ends with the raw head: exports are made for one image, and their decode
    tail (the choice of the best boxes) is written for one.

    Raises :class:`UnavailableError` for a graph whose inner shapes depend on its batch in another way than a Reshape's.
    """
    import onnx
    from onnx import numpy_helper

    heads, tail, stored = head_outputs(model), set(decode_tail(model)), constants(model)
    batched = onnx.ModelProto()
    batched.CopyFrom(model)
    body = batched.graph
    replace_nodes(batched, [node for node in body.node if node.name not in tail])
    for number, node in enumerate(body.node):
        shape = stored.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and len(shape) > 1 and shape[0] == 1:
            node.input[1] = f"{node.input[1]}/of_batch_{number}"
            # 0 is the batch of what is reshaped.
            body.initializer.append(numpy_helper.from_array(np.array([0, *shape[1:]], np.int64), node.input[1]))
    del body.value_info[:], body.output[:]
    body.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in heads)
    inputs(batched)[0].type.tensor_type.shape.dim[0].dim_value = size
    found = shapes(batched)
    if any(found.get(name, ())[:1] != (size,) for name in heads):
        raise UnavailableError(f"its graph can't take {size} images at once: a shape in it is made for one.")
    return batched


def decode_tail(model: onnx.ModelProto) -> list[str]:
    """Names of every node after the head's last convolutions: boxes to 640 and scores to 1 must not share a scale."""
    reached = {output for node in last_convolutions(model) for output in node.output}
    tail = []
    for node in model.graph.node:
        if any(name in reached for name in node.input):
            reached.update(node.output)
            tail.append(node.name)
    return tail


def head_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of all nodes of the detection head module, found by the name that its last convolutions share.

    Raises :class:`UnavailableError` for a graph whose names don't follow Ultralytics' ``/model.<n>/...``.
    """
    matches = [_HEAD_PREFIX.match(node.name) for node in last_convolutions(model)]
    prefixes = {match.group(1) if match else "" for match in matches}
    if len(prefixes) != 1 or prefixes == {""}:
        raise UnavailableError("the detection head can't be told apart: its nodes are not named /model.<n>/...")
    prefix = prefixes.pop()
    return [node.name for node in model.graph.node if node.name.startswith(prefix)]


def made_by(model: onnx.ModelProto, output: str) -> str:
    """The operator that an output comes from, through those that only move or cast values; empty for none."""
    last = _maker(model, output)
    return last.op_type if last is not None else ""


def _maker(model: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    makers = {output: node for node in model.graph.node for output in node.output}
    last = makers.get(name)
    while last is not None and last.op_type in ("Transpose", "Identity", "Cast"):
        last = makers.get(last.input[0])
    return last


def ends_in_sigmoid(model: onnx.ModelProto) -> bool:
    """Whether the first output joins what a sigmoid gives with something else: scores beside boxes."""
    last = _maker(model, model.graph.output[0].name)
    if last is None or last.op_type != "Concat":
        return False
    sigmoids = {output for node in model.graph.node if node.op_type == "Sigmoid" for output in node.output}
    return not sigmoids.isdisjoint(last.input)
