"""One integer kernel in NumPy: a convolution or a matrix product, with exact sums or with those of a kernel without VNNI.

Numbers are ONNX Runtime's own, bit by bit: sums in integers, requantized in single precision as its kernels do it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit.errors import UnavailableError
from lowbit.graph import saturation

if TYPE_CHECKING:
    import onnx

Values = Mapping[str, NDArray[Any]]
# Where an op has what belongs to its sums: data, weight, and both zero points.
_OPERANDS = {
    "QLinearConv": (0, 3, 2, 5),
    "QLinearMatMul": (0, 3, 2, 5),
    "QGemm": (0, 3, 2, 5),
    "MatMulInteger": (0, 1, 2, 3),
    "MatMulIntegerToFloat": (0, 1, 4, 5),
}
# ConvInteger's kernel takes the weights for its first operand and adds in 32 bits.
INTEGER_OPS = (*_OPERANDS, "ConvInteger")
# Products of so many eight-bit numbers sum up to less than 2 ** 24: single precision holds them exactly.
_EXACT = 512


@dataclass(slots=True)
class Seen:
    """What the sums of one node reached. ``worst``: the largest magnitude of a sum of two neighbouring products, exact
    where it passes 16 bits and a bound where it does not. ``saturated``: output sums with a part that passed 16 bits.
    ``sums``: all output sums."""

    worst: int = 0
    saturated: int = 0
    sums: int = 0


def weight_of(node: onnx.NodeProto, stored: Values) -> NDArray[np.int8] | None:
    """The stored signed weight, int8 [out, in / group, kh, kw] or [K, N], of a node whose kernel adds in 16 bits without
    VNNI; None if it adds in 32.

    It does for signed activations, too: those that ONNX Runtime does not turn into unsigned ones have kernels of their
    own. Raises :class:`UnavailableError` for a signed weight that is computed, and for one of other dimensions.
    """
    if node.op_type not in _OPERANDS:
        return None
    _, weight, data_zero, weight_zero = (_input(node, at) for at in _OPERANDS[node.op_type])
    # What has no stored zero point is quantized while the graph runs, without a sign.
    kinds = [stored[name].dtype if name in stored else np.uint8 for name in (weight_zero or weight, data_zero)]
    if kinds != [np.int8, np.uint8]:
        return None
    if weight not in stored or stored[weight].ndim not in (2, 4):
        raise UnavailableError(
            f"node {node.name}: multiplies by a signed tensor that is computed or has neither two nor four dimensions; "
            "what it loses without VNNI can't be told."
        )
    found = stored[weight]
    depthwise = (
        node.op_type == "QLinearConv" and found.shape[1] == 1 and len(found) == _attributes(node).get("group", 1)
    )
    return None if depthwise else _turned(node, found)


def _turned(node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any]:
    return weight.T if _attributes(node).get("transB") else weight


def run(node: onnx.NodeProto, values: Values, *, vnni: bool, seen: Seen | None = None) -> NDArray[Any]:
    """The output of a node for which :func:`weight_of` finds a weight. ``values``: every tensor that it reads, by name.

    ``seen`` is brought up to date, for kernels without VNNI only: counting costs time.
    """
    attributes = _attributes(node)
    data_at, weight_at, *zeros_at = _OPERANDS[node.op_type]
    data, weight = values[node.input[data_at]], values[node.input[weight_at]]
    data_zero, weight_zero = (_optional(node, at, values) for at in zeros_at)
    zero = 0 if data_zero is None else int(data_zero.item())
    if node.op_type == "QLinearConv":
        group = attributes.get("group", 1)
        columns, positions = _columns(data, weight.shape, zero, attributes)
        weights = np.split(weight, group)
        zeros = np.split(np.broadcast_to(0 if weight_zero is None else weight_zero, len(weight)), group)
    else:
        weight = _turned(node, weight)
        data = data.T if attributes.get("transA") else data
        positions = data.shape[:-1]
        columns, weights = data.reshape(1, -1, data.shape[-1]), [weight]
        zeros = [np.asarray(0 if weight_zero is None else weight_zero)]
    parts = [_sums(one, part, vnni, seen) for one, part in zip(columns, weights, strict=True)]
    moved = [_moved(*four, zero) for four in zip(parts, columns, weights, zeros, strict=True)]
    result = _finished(node, np.concatenate(moved, 1), values, attributes).reshape(*positions, -1)
    channels_first = node.op_type == "QLinearConv" and not attributes.get("channels_last")
    return np.ascontiguousarray(np.moveaxis(result, -1, 1)) if channels_first else result


def _sums(columns: NDArray[np.uint8], weight: NDArray[np.int8], vnni: bool, seen: Seen | None) -> NDArray[np.int32]:
    """Sums of products of raw numbers, [rows, out]. ``columns``: [rows, K], in the order of :func:`kernel_pairs`."""
    pairs = saturation.kernel_pairs(weight)
    flat = pairs.reshape(len(pairs), -1)[:, : columns.shape[1]].T.astype(np.float32)
    sums = np.zeros((len(columns), len(pairs)), np.int32)
    for start in range(0, len(flat), _EXACT):
        some = slice(start, start + _EXACT)
        sums += (columns[:, some].astype(np.float32) @ flat[some]).astype(np.int32)
    if not vnni:
        _saturate(sums, columns, pairs, seen or Seen())
    return sums


def _saturate(sums: NDArray[np.int32], columns: NDArray[np.uint8], pairs: NDArray[np.int16], seen: Seen) -> None:
    """Take from the exact sums what pairs lose that pass 16 bits, in place."""
    reach = np.pad(columns.max(0, initial=0).astype(np.int32), (0, columns.shape[1] % 2)).reshape(-1, 2)
    products = pairs * reach
    bound = np.maximum(np.maximum(products, 0).sum(2), -np.minimum(products, 0).sum(2))
    able = ~saturation.fits(bound)
    hit = np.zeros(sums.shape, np.bool_)
    # Weights reach 128, so that two activations which are no more than 255 together never pass 16 bits.
    worst = int(np.minimum(bound, 128 * saturation.ACTIVATION_MAX).max(initial=0))
    for place in np.flatnonzero(able.any(0)):
        outputs = np.flatnonzero(able[:, place])
        two = columns[:, 2 * place : 2 * place + 2].astype(np.float32)
        rows = np.flatnonzero(two.sum(1) > saturation.ACTIVATION_MAX)
        found = (two[rows] @ pairs[outputs, place, : two.shape[1]].T.astype(np.float32)).astype(np.int32)
        worst = max(worst, int(np.abs(found).max(initial=0)))
        lost = found - np.clip(found, saturation.LOWEST, saturation.HIGHEST)
        if lost.any():
            sums[np.ix_(rows, outputs)] -= lost
            hit[np.ix_(rows, outputs)] |= lost != 0
    seen.worst = max(seen.worst, worst)
    seen.saturated += int(hit.sum())
    seen.sums += hit.size


def _moved(
    sums: NDArray[np.int32],
    columns: NDArray[np.uint8],
    weight: NDArray[np.int8],
    weight_zero: NDArray[np.int8],
    zero: int,
) -> NDArray[np.int32]:
    """Sums of products of what the numbers stand for: both zero points taken off, in 32 bits."""
    flat = saturation.kernel_pairs(weight).reshape(sums.shape[1], -1)
    moved = sums - zero * flat.sum(1, dtype=np.int32)
    if weight_zero.any():
        rows = columns.sum(1, dtype=np.int32) - np.int32(zero * columns.shape[1])
        moved = moved - rows[:, None] * weight_zero.astype(np.int32)
    return np.asarray(moved, np.int32)


def _columns(
    data: NDArray[np.uint8], shape: tuple[int, ...], zero: int, attributes: Mapping[str, Any]
) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """What every position of the output reads, uint8 [group, rows, kh * kw * in / group], and batch, height, width."""
    group, strides, spread = (
        attributes.get("group", 1),
        attributes.get("strides", [1, 1]),
        attributes.get("dilations", [1, 1]),
    )
    if attributes.get("channels_last"):
        data = np.moveaxis(data, -1, 1)
    reach = [step * (side - 1) + 1 for step, side in zip(spread, shape[2:], strict=True)]
    pads = _pads(data.shape[2:], reach, strides, attributes)
    padded = np.pad(data, ((0, 0), (0, 0), *pads), constant_values=zero)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, (2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: spread[0], :: spread[1]]
    batch, channels, height, width = windows.shape[:4]
    split = windows.reshape(batch, group, channels // group, height, width, *shape[2:])
    rows = split.transpose(1, 0, 3, 4, 5, 6, 2).reshape(group, batch * height * width, -1)
    return rows, (batch, height, width)


def _pads(
    sides: Sequence[int], reach: Sequence[int], strides: Sequence[int], attributes: Mapping[str, Any]
) -> list[tuple[int, int]]:
    """Rows and columns that a convolution pads with, before and after."""
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        both = [
            max((-(-side // step) - 1) * step + width - side, 0)
            for side, step, width in zip(sides, strides, reach, strict=True)
        ]
        upper = mode == b"SAME_UPPER"
        return [(one // 2, one - one // 2) if upper else (one - one // 2, one // 2) for one in both]
    pads = attributes.get("pads", [0, 0, 0, 0]) if mode == b"NOTSET" else [0, 0, 0, 0]
    return [(pads[0], pads[2]), (pads[1], pads[3])]


def _finished(
    node: onnx.NodeProto, sums: NDArray[np.int32], values: Values, attributes: Mapping[str, Any]
) -> NDArray[Any]:
    """What a kernel makes of its sums, [rows, out]: integers as they are, floats, or requantized ones."""
    if node.op_type == "MatMulInteger":
        return sums
    if node.op_type == "MatMulIntegerToFloat":
        bias = _optional(node, 6, values)
        result = sums.astype(np.float32) * (values[node.input[2]] * values[node.input[3]])
        return result if bias is None else result + bias
    bias_at, scale_at = (6, 7) if node.op_type == "QGemm" else (8, 6)
    bias, scale = _optional(node, bias_at, values), _optional(node, scale_at, values)
    factor = np.float32(attributes.get("alpha", 1.0)) * (values[node.input[1]] * values[node.input[4]])
    if bias is not None:
        sums = sums + bias
    if scale is None:
        return sums.astype(np.float32) * factor
    kind, zero = values[node.input[scale_at + 1]].dtype, int(values[node.input[scale_at + 1]].item())
    steps = sums.astype(np.float32) * (factor / scale)
    bounded = np.clip(steps, np.iinfo(kind).min - zero, np.iinfo(kind).max - zero)
    return (np.rint(bounded).astype(np.int32) + zero).astype(kind)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    import onnx

    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def _input(node: onnx.NodeProto, at: int) -> str:
    return node.input[at] if at < len(node.input) else ""


def _optional(node: onnx.NodeProto, at: int, values: Values) -> NDArray[Any] | None:
    name = _input(node, at)
    return values[name] if name else None
