"""The convolutions at the image: which of them stay in float, and how the others fold columns of pixels into channels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.graph import saturation
from lowbit.graph.layout.shared import BLOCK, PART, keep_used, readers_of, reshaped

if TYPE_CHECKING:
    import onnx


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
    first = [n.name for n in nodes if not _fold(n, sizes, n.input[0]) or sizes[n.output[0]][1] <= BLOCK]
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
    sizes, users, image = graph.shapes(model), readers_of(model), model.graph.input[0].name
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
        reshaped(model, last, other, size),
        helper.make_node("Transpose", [other], [output], name=f"{output}{PART}2", perm=[0, 3, 1, 2]),
    ]
