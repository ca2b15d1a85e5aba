"""The same numbers in the form that ONNX Runtime's integer kernels on the CPU take the least time for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.graph import saturation
from lowbit.runtime import plain_session

if TYPE_CHECKING:
    import onnx


# Follows the name of a node in those of the nodes that take its place.
PART = "/part_"


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

    users = _readers(model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    parts = _parts(model, users)
    written: dict[str, list[onnx.NodeProto]] = {}
    origins: dict[str, tuple[str, slice]] = {}
    for conv in graph.weighted_convolutions(model):
        silu = _silu(conv, users)
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

    users = _readers(model)
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


def move_integers(model: onnx.ModelProto) -> None:
    """Let Concat and Split take and give integers wherever scale and zero point stay what they are, in place.

    The same numbers. ONNX Runtime joins plain tensors with all of its threads, and quantized ones with one; and it takes
    apart in float what is not all used.
    """
    quantizers, users = graph.pairs(model), _readers(model)
    made = {output: node for node in model.graph.node for output in node.output}
    given = {value.name for value in model.graph.output}
    gone: list[onnx.NodeProto] = []
    for node in model.graph.node:
        below = [reader for name in node.output for reader in users.get(name, [])]
        if node.op_type not in {"Concat", "Split"} or {reader.op_type for reader in below} != {"QuantizeLinear"}:
            continue
        if given & set(node.output):
            continue
        read = list(node.input) if node.op_type == "Concat" else [node.input[0]]
        found = [quantizers.get(name) for name in (*read, *(reader.output[0] for reader in below))]
        if None in found or len({(float(pair[0]), int(pair[1])) for pair in found if pair}) > 1:
            continue
        written = {reader.input[0]: reader.output[0] for reader in below}
        if len(written) < len(below):  # quantized twice
            continue
        for position, name in enumerate(read):
            node.input[position] = made[name].input[0]
        for position, name in enumerate(node.output):
            node.output[position] = written.get(name, f"{name}/unused")
        gone += below
    keep_used(model, [node for node in model.graph.node if node not in gone])


# Channels of a block in ONNX Runtime's layout of convolutions in float, with AVX-512.
_BLOCK = 16


def channels_last(model: onnx.ModelProto) -> None:
    """Compute SiLU of every narrow convolution in float with channels last where only its quantized result is read, in
    place.

    The same numbers under the same names. ONNX Runtime's convolutions in float give blocks of channels, and its integer
    ones take channels last: of one block, that is the same order, if it is not made to go by way of channels first.
    """
    from onnx import helper

    sizes, users = graph.shapes(model), _readers(model)
    written: dict[str, list[onnx.NodeProto]] = {}
    for conv in graph.weighted_convolutions(model):
        found, size = _silu(conv, users), sizes.get(conv.output[0], ())
        if found is None or len(size) != 4 or 0 in size or size[1] > _BLOCK:
            continue
        gate, product = found
        readers = {node.op_type for node in users.get(product.output[0], [])}
        if users.get(gate.output[0]) != [product] or readers != {"QuantizeLinear"}:
            continue
        last, flat, shares, silu, back = (f"{product.output[0]}{PART}{number}" for number in range(5))
        written[gate.name] = []
        written[product.name] = [
            helper.make_node("Transpose", [conv.output[0]], [last], name=last, perm=[0, 2, 3, 1]),
            helper.make_node("Flatten", [last], [flat], name=flat, axis=3),
            helper.make_node("Sigmoid", [flat], [shares], name=gate.name),
            helper.make_node("Mul", [flat, shares], [silu], name=product.name),
            _reshaped(model, silu, back, (*size[2:], size[1])),
            helper.make_node("Transpose", [back], [product.output[0]], name=f"{back}/last", perm=[0, 3, 1, 2]),
        ]
    graph.replace_nodes(model, [one for node in model.graph.node for one in written.get(node.name, [node])])


# Columns of pixels that one position of a folded convolution's input holds: twelve bytes with three colours.
_COLUMNS = 4


@dataclass(frozen=True, slots=True)
class _Fold:
    """A convolution of the image, folded. ``outputs``: columns of the output that one of its positions holds. ``first``:
    the first position of the input that it reads, counted from its own; ``width``: how many. ``strides``, ``pads``: the
    convolution's own, in ONNX's order."""

    outputs: int
    first: int
    width: int
    strides: tuple[int, ...]
    pads: tuple[int, ...]

    def weight(self, values: NDArray[Any]) -> NDArray[Any]:
        """From [out, in, rows, columns] to [outputs * out, columns * in, rows, width], a column's channels together."""
        out, given, rows, columns = values.shape
        moved = np.zeros((self.outputs, out, _COLUMNS, given, rows, self.width), values.dtype)
        for output in range(self.outputs):
            for column in range(columns):
                at = output * self.strides[1] - self.pads[1] + column - self.first * _COLUMNS
                moved[output, :, at % _COLUMNS, :, :, at // _COLUMNS] = values[..., column]
        return moved.reshape(self.outputs * out, _COLUMNS * given, rows, self.width)


# Of all multiply-accumulates, what the convolutions behind one in float may have to stay in float with it.
_SHARE = 0.05


def better_in_float(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions at the image that should be in float, in the graph's order.

    Those that read the image, where they are narrow, for then they are as fast as folded ones (:func:`fold_columns`) and
    lose nothing, or where they can't be folded. And with them the small ones that read what they give: few channels at
    full size, whose range reaches far beyond what most of them hold, so that eight bits are few.
    """
    sizes, stem = graph.shapes(model), set(graph.stem(model))
    nodes = [node for node in model.graph.node if node.name in stem]
    first = [n.name for n in nodes if not _fold(n, sizes, n.input[0]) or sizes[n.output[0]][1] <= _BLOCK]
    macs, convolutions = graph.macs(model), graph.weighted_convolutions(model)
    behind = {*first, *graph.downstream(model, first)}
    given = {output for node in model.graph.node if node.name in behind for output in node.output}
    second = [node.name for node in convolutions if node.input[0] in given]
    counted = all(node.name in macs for node in convolutions)
    if not counted or sum(macs[name] for name in second) > _SHARE * sum(macs[node.name] for node in convolutions):
        return first
    return [*first, *second]


def folded_sums(model: onnx.ModelProto) -> dict[str, Callable[[NDArray[np.int8]], NDArray[np.int32]]]:
    """Of every convolution of the image that :func:`fold_columns` can fold, by name: from its weight, int8 [out, in, rows,
    columns], to :func:`lowbit.graph.saturation.worst_pair` of every output channel, int32 [out], folded or not."""
    sizes, stem = graph.shapes(model), set(graph.stem(model))
    folds = {node.name: _fold(node, sizes, node.input[0]) for node in model.graph.node if node.name in stem}
    return {name: functools.partial(_worst_folded, fold) for name, fold in folds.items() if fold}


def _worst_folded(fold: _Fold, weight: NDArray[np.int8]) -> NDArray[np.int32]:
    folded = saturation.worst_pair(fold.weight(weight)).reshape(fold.outputs, len(weight))
    return np.maximum(saturation.worst_pair(weight), folded.max(0))


def _fold(conv: onnx.NodeProto, sizes: Mapping[str, tuple[int, ...]], image: str) -> _Fold | None:
    """How a convolution of the image is folded; None if its columns do not divide so."""
    from onnx import helper

    options = {one.name: helper.get_attribute_value(one) for one in conv.attribute}
    strides, pads = options.get("strides", [1, 1]), options.get("pads", [0, 0, 0, 0])
    known = [sizes.get(name, ()) for name in (image, conv.input[1], conv.output[0])]
    if any(len(size) != 4 or 0 in size for size in known):
        return None
    given, kernel, wide = (size[3] for size in known)
    if options.get("group", 1) != 1 or set(options.get("dilations", [1])) != {1} or "auto_pad" in options:
        return None
    if _COLUMNS % strides[1] or given % _COLUMNS or wide * strides[1] != given:
        return None
    outputs = _COLUMNS // strides[1]
    first = -pads[1] // _COLUMNS
    last = ((outputs - 1) * strides[1] - pads[1] + kernel - 1) // _COLUMNS
    return _Fold(outputs, first, last - first + 1, tuple(strides), tuple(pads))


def fold_columns(model: onnx.ModelProto) -> None:
    """Let the quantized convolution that reads the image take four columns of pixels as channels, in place.

    The same integers: its weights are moved, with zeros where an output does not reach, and neighbouring columns of its
    output become channels too. ONNX Runtime's integer convolutions gather what one position holds at a time: three bytes
    of an image, and twelve of a folded one in a quarter of the time.
    """
    from onnx import helper, numpy_helper

    made = {output: node for node in model.graph.node for output in node.output}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    sizes, users, image = graph.shapes(model), _readers(model), model.graph.input[0].name
    written: dict[str, list[onnx.NodeProto]] = {}
    for conv in graph.weighted_convolutions(model):
        reads = [made[name] for name in conv.input if name in made]
        ends = [*(made.get(node.input[0]) for node in reads[:1]), *users.get(conv.output[0], [])]
        quantizers = [node for node in ends if node is not None and node.op_type == "QuantizeLinear"]
        if {node.op_type for node in reads} != {"DequantizeLinear"} or len(reads) < len(conv.input):
            continue
        if len(quantizers) != 2 or len(ends) != 2 or quantizers[0].input[0] != image:
            continue
        fold = _fold(conv, sizes, image)
        if fold is None or any(numpy_helper.to_array(stored[name]).any() for name in reads[1].input[2:]):
            continue
        above, below = quantizers
        height, width = sizes[image][2:]
        colours, channels = sizes[image][1], sizes[conv.output[0]][1]
        regrouped = _regrouped(
            model, above.output[0], f"{conv.name}{PART}in", (height, width // _COLUMNS, _COLUMNS * colours)
        )
        pixels = helper.make_node(
            "DequantizeLinear", [regrouped[-1].output[0], *reads[0].input[1:]], [f"{conv.name}{PART}pixels"]
        )
        pixels.name = pixels.output[0]
        weight = _repeated(model, stored, reads[1], fold)
        biases = [_repeated(model, stored, node, fold) for node in reads[2:]]
        outcome = helper.make_node("QuantizeLinear", below.input, [f"{below.output[0]}{PART}folded"], name=below.name)
        written[conv.name] = [
            *regrouped,
            pixels,
            weight,
            *biases,
            helper.make_node(
                "Conv",
                [node.output[0] for node in (pixels, weight, *biases)],
                [conv.output[0]],
                name=conv.name,
                kernel_shape=[sizes[conv.input[1]][2], fold.width],
                strides=[fold.strides[0], 1],
                pads=[fold.pads[0], -fold.first, fold.pads[2], fold.width - 1 + fold.first],
            ),
        ]
        written[below.name] = [
            outcome,
            *_regrouped(model, outcome.output[0], below.output[0], (*sizes[conv.output[0]][2:], channels)),
        ]
    keep_used(model, [one for node in model.graph.node for one in written.get(node.name, [node])])


def _repeated(
    model: onnx.ModelProto, stored: Mapping[str, onnx.TensorProto], dequantize: onnx.NodeProto, fold: _Fold
) -> onnx.NodeProto:
    """A DequantizeLinear of a folded weight, or of a bias for every column of the output."""
    from onnx import helper, numpy_helper

    values = [numpy_helper.to_array(stored[name]) for name in dequantize.input]
    values = [np.tile(one, fold.outputs) if one.ndim == 1 else fold.weight(one) if one.ndim else one for one in values]
    names = [f"{name}{PART}repeated" for name in dequantize.input]
    model.graph.initializer.extend(map(numpy_helper.from_array, values, names))
    output = f"{dequantize.output[0]}{PART}repeated"
    node = helper.make_node("DequantizeLinear", names, [output], name=output)
    node.attribute.extend(dequantize.attribute)
    return node


def _regrouped(model: onnx.ModelProto, source: str, output: str, size: Sequence[int]) -> list[onnx.NodeProto]:
    """With channels last, other rows, columns and channels (``size``) of the same numbers."""
    from onnx import helper

    last, other = f"{output}{PART}0", f"{output}{PART}1"
    return [
        helper.make_node("Transpose", [source], [last], name=last, perm=[0, 2, 3, 1]),
        _reshaped(model, last, other, size),
        helper.make_node("Transpose", [other], [output], name=f"{output}{PART}2", perm=[0, 3, 1, 2]),
    ]


def softmax_in_float(model: onnx.ModelProto) -> None:
    """Keep ONNX Runtime from fusing a Softmax along the last axis with the quantizers around it, in place.

    What the graph says, computed as it says it: the integer kernel takes several times as long as the float one.
    """
    from onnx import helper

    sizes, users = graph.shapes(model), _readers(model)
    made = {output: node for node in model.graph.node for output in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        size = sizes.get(node.output[0], ())
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
        above = made.get(node.input[0]) if node.op_type == "Softmax" else None
        below = {reader.op_type for reader in users.get(node.output[0], [])}
        if (
            above is None
            or above.op_type != "DequantizeLinear"
            or below != {"QuantizeLinear"}
            or len(size) < 2
            or 0 in size
            or axis not in (-1, len(size) - 1)
        ):
            nodes.append(node)
            continue
        flat, shares = (f"{node.output[0]}{PART}{number}" for number in range(2))
        nodes += [
            # ONNX Runtime looks for quantizers through every op that only gives another shape but this one.
            helper.make_node("Flatten", [node.input[0]], [flat], name=f"{node.name}{PART}0", axis=len(size) - 1),
            helper.make_node("Softmax", [flat], [shares], name=node.name, axis=1),
            _reshaped(model, shares, node.output[0], size[1:]),
        ]
    graph.replace_nodes(model, nodes)


def _reshaped(model: onnx.ModelProto, name: str, output: str, size: Sequence[int]) -> onnx.NodeProto:
    """A Reshape to any number of ``size``."""
    from onnx import helper, numpy_helper

    shape = f"{output}/shape"
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, *size], np.int64), shape))
    return helper.make_node("Reshape", [name, shape], [output], name=f"{output}/Reshape")


def _readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Of every tensor, the nodes that read it."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


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


def _silu(
    conv: onnx.NodeProto, users: Mapping[str, Sequence[onnx.NodeProto]]
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The Sigmoid and the Mul of a convolution that nothing else reads; None if something else follows it."""
    after = {node.op_type: node for node in users.get(conv.output[0], [])}
    if after.keys() != {"Sigmoid", "Mul"} or after["Sigmoid"].output[0] not in after["Mul"].input:
        return None
    return after["Sigmoid"], after["Mul"]


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


# Ops that give some of their first input's numbers.
_PICKING = frozenset({"Transpose", "Reshape", "Gather", "ReduceMax"})


def sink_dequantize(model: onnx.ModelProto, nodes: Collection[str]) -> None:
    """Move DequantizeLinear past those of ``nodes`` that only move numbers or take their maximum, in place.

    The same numbers, for scales are positive; but what a Gather leaves behind is not dequantized any more.
    """
    made = {name for node in model.graph.node for name in node.output}
    single = {tensor.name for tensor in model.graph.initializer if not tensor.dims}
    passing: dict[str, bool] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            lets = node.name in nodes and node.op_type in _PICKING and position == 0
            passing[name] = passing.get(name, True) and lets
    sunk: dict[str, onnx.NodeProto] = {}
    order: list[onnx.NodeProto] = []

    def place(dequantize: onnx.NodeProto) -> None:
        if passing.get(dequantize.output[0], False):
            sunk[dequantize.output[0]] = dequantize
        else:
            order.append(dequantize)

    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in made and node.input[1] in single:
            place(node)
            continue
        order.append(node)
        above = sunk.get(node.input[0]) if node.input else None
        if above is not None:
            below, output = type(above)(), node.output[0]
            below.CopyFrom(above)
            node.input[0], node.output[0] = above.input[0], f"{output}/quantized"
            below.input[0], below.output[0] = node.output[0], output
            below.name = f"{node.name}/DequantizeLinear"
            place(below)
    graph.replace_nodes(model, order)
