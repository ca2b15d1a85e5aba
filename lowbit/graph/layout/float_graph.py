"""Rewrites of the float graph before it is quantized: the same numbers, in the form that quantizers and integer kernels want."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.graph.layout.shared import PART, keep_used, readers_of, silu_of
from lowbit.runtime import plain_session

if TYPE_CHECKING:
    import onnx


def own_parameters(model: onnx.ModelProto) -> None:
    """Give every convolution a weight and a bias of its own, in place: exporters store equal ones once.

    A bias is rounded to steps of its convolution's input and weight; of one that several share, ONNX Runtime's quantizer
    leaves all but the first convolution in float.
    """
    import onnx

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:  # topologically sorted
        if node.op_type == "Identity" and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    seen: set[str] = set()
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if node.op_type != "Conv" or position == 0 or name not in stored:
                continue
            if name in seen or stored[name].name != name:
                own = onnx.TensorProto.FromString(stored[name].SerializeToString())
                own.name = node.input[position] = f"{node.name}/parameter_{position}"
                model.graph.initializer.append(own)
            seen.add(node.input[position])


def repeat_rows(model: onnx.ModelProto) -> None:
    """Write every nearest-neighbour upsampling by a whole factor as two Gathers with channels last, in place.

    The same numbers. ONNX Runtime's integer convolutions work with channels last, where a Gather copies all channels of a
    pixel at once; its Resize of integers goes one by one. In float, Resize is the faster one.
    """
    from onnx import helper, numpy_helper

    sizes, nodes = graph.shapes(model), []
    for node in model.graph.node:
        factors = _repeats(node, sizes)
        if factors is None:
            nodes.append(node)
            continue
        x = node.input[0]
        steps: list[tuple[str, dict[str, Any]]] = [("Transpose", {"perm": [0, 2, 3, 1]})]
        for axis, factor in enumerate(factors, 1):
            index = f"{node.name}/repeat_{axis}"
            places = np.repeat(np.arange(sizes[node.input[0]][axis + 1]), factor)
            model.graph.initializer.append(numpy_helper.from_array(places, index))
            steps.append(("Gather", {"index": index, "axis": axis}))
        steps.append(("Transpose", {"perm": [0, 3, 1, 2]}))
        for number, (op, options) in enumerate(steps):
            more = [options.pop("index")] if "index" in options else []
            output = node.output[0] if number == len(steps) - 1 else f"{node.output[0]}{PART}{number}"
            nodes.append(helper.make_node(op, [x, *more], [output], name=f"{node.name}{PART}{number}", **options))
            x = output
    graph.replace_nodes(model, nodes)


def _repeats(node: onnx.NodeProto, sizes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """By how much a Resize repeats rows and columns; None for any other node or way of resizing."""
    from onnx import helper

    options = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type != "Resize" or options.get("mode", b"nearest") != b"nearest":
        return None
    if options.get("coordinate_transformation_mode") != b"asymmetric" or options.get("nearest_mode") != b"floor":
        return None
    before, after = sizes.get(node.input[0], ()), sizes.get(node.output[0], ())
    if len(before) != 4 or len(after) != 4 or 0 in before + after or before[:2] != after[:2]:
        return None
    if after[2] % before[2] or after[3] % before[3]:
        return None
    return after[2] // before[2], after[3] // before[3]


def cut_channels(model: onnx.ModelProto) -> dict[str, tuple[str, slice]]:
    """Write every convolution whose output, after SiLU, is only taken apart by channels as one convolution a part, in
    place.

    The same numbers under the same names, but every part can have a scale of its own: otherwise ONNX Runtime's integers
    are taken apart as they are. Returns where each new convolution comes from, and which output channels it has of that.
    """
    from onnx import helper, numpy_helper

    users = readers_of(model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    parts = _parts(model, users)
    written: dict[str, list[onnx.NodeProto]] = {}
    origins: dict[str, tuple[str, slice]] = {}
    for conv in graph.weighted_convolutions(model):
        silu = silu_of(conv, users)
        found = parts.get(silu[1].output[0], []) if silu else []
        if silu is None or not found or _group(conv) != 1:
            continue
        sigmoid, product = silu
        made: list[onnx.NodeProto] = []
        for number, (output, start, end) in enumerate(found):
            inputs = [conv.input[0]]
            for name in conv.input[1:]:
                inputs.append(f"{name}{PART}{number}")
                values = np.ascontiguousarray(numpy_helper.to_array(stored[name])[start:end])
                model.graph.initializer.append(numpy_helper.from_array(values, inputs[-1]))
            x, gate = (f"{name}{PART}{number}" for name in (conv.output[0], sigmoid.output[0]))
            piece = helper.make_node("Conv", inputs, [x], name=f"{conv.name}{PART}{number}")
            piece.attribute.extend(conv.attribute)
            origins[piece.name] = conv.name, slice(start, end)
            made += [
                piece,
                helper.make_node("Sigmoid", [x], [gate], name=f"{sigmoid.name}{PART}{number}"),
                helper.make_node("Mul", [x, gate], [output], name=f"{product.name}{PART}{number}"),
            ]
        written[product.output[0]] = made
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.output[0] in written:
            nodes += written[node.output[0]]
        elif not (node.op_type in {"Slice", "Split"} and node.input[0] in written):
            nodes.append(node)
    keep_used(model, nodes)
    return origins


def join_whole(model: onnx.ModelProto) -> None:
    """Let every concatenation of all parts of a tensor, in their order, read the tensor itself, in place.

    The same numbers. What takes it apart becomes one Split: of a C2f's first convolution only the last part is used then,
    and copying all of them with it takes ONNX Runtime less time than to Slice that one out.
    """
    from onnx import helper, numpy_helper

    users = readers_of(model)
    nodes = list(model.graph.node)
    for source, parts in _parts(model, users).items():
        names, joined = [name for name, _, _ in parts], False
        for node in users.get(names[0], []):
            at = list(node.input).index(names[0])
            joins = node.op_type == "Concat" and [attribute.i for attribute in node.attribute] == [1]
            if joins and node.input[at : at + len(names)] == names:
                inputs = [*node.input[:at], source, *node.input[at + len(names) :]]
                del node.input[:]
                node.input.extend(inputs)
                joined = True
        if joined:
            cuts = [node for node in users[source] if node.op_type in {"Slice", "Split"}]
            widths = numpy_helper.from_array(np.array([end - start for _, start, end in parts]), f"{source}/parts")
            model.graph.initializer.append(widths)
            split = helper.make_node("Split", [source, widths.name], names, name=cuts[0].name, axis=1)
            nodes = [split if node == cuts[0] else node for node in nodes if node not in cuts[1:]]
    keep_used(model, nodes)


def _group(conv: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in conv.attribute if attribute.name == "group"), 1)


def _parts(
    model: onnx.ModelProto, users: Mapping[str, Sequence[onnx.NodeProto]]
) -> dict[str, list[tuple[str, int, int]]]:
    """Of every tensor that is only taken apart along its channels, all of it and without overlap: each part's name, its
    first channel, and the one behind its last."""
    sizes = graph.shapes(model)
    cuts = {
        name: [node for node in readers if node.op_type != "Shape"]
        for name, readers in users.items()
        if len(sizes.get(name, ())) == 4 and {node.op_type for node in readers} <= {"Slice", "Split", "Shape"}
    }
    slices = [node for nodes in cuts.values() for node in nodes if node.op_type == "Slice"]
    known = _values(model, {name for node in slices for name in (node.input[1], *node.input[3:])})
    found = {}
    for source, nodes in cuts.items():
        parts = sorted((part for node in nodes for part in _channels(node, known, sizes)), key=lambda part: part[1])
        ends = [0, *(end for _, _, end in parts)]
        whole = ends[-1] == sizes[source][1]
        if whole and all(start == end for (_, start, _), end in zip(parts, ends, strict=False)):
            found[source] = parts
    return found


def _channels(
    node: onnx.NodeProto, known: Mapping[str, NDArray[Any]], sizes: Mapping[str, tuple[int, ...]]
) -> list[tuple[str, int, int]]:
    """The channels that a Slice or Split gives, as :func:`_parts` says; an impossible range if it takes anything else."""
    at = 0
    if node.op_type == "Slice":
        start, *rest = (known[name].tolist() for name in (node.input[1], *node.input[3:]))
        at = start[0] if len(start) == 1 and rest in ([[1]], [[1], [1]]) else -1
    elif [attribute.i for attribute in node.attribute if attribute.name == "axis"] != [1]:
        at = -1
    ends = at + np.cumsum([sizes[output][1] for output in node.output])
    return [(output, int(start), int(end)) for output, start, end in zip(node.output, [at, *ends], ends, strict=False)]


def _values(model: onnx.ModelProto, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """What these tensors hold, be they stored or computed from shapes."""
    import onnx

    if not names:
        return {}
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    del copied.graph.output[:]
    copied.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = plain_session(copied)
    feed = session.get_inputs()[0]
    results = session.run(list(names), {feed.name: np.zeros(feed.shape, np.float32)})
    return dict(zip(names, results, strict=True))
