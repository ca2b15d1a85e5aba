"""Weights whose products fit 16 bits, so that an artifact gives the same results on every processor.

x86 kernels without VNNI add neighbouring products in 16 bits (:mod:`lowbit.graph.saturation`). An output channel whose
INT8 weights could exceed that gets a coarser scale: of those between 8 and 7 bits, the one that fits with the least
rounding error. Seven bits always fit, because 255 * (63 + 63) is less than 32,767. All other channels keep their
scales.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.errors import BuildError
from lowbit.graph import layout, saturation

if TYPE_CHECKING:
    import onnx

_LOWEST, _HIGHEST, _SEVEN_BITS = -128, 127, 63
# Scales that are tried for a channel, evenly between those of 8 and of 7 bits.
_SCALES = 64
Integers = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Rounded:
    """A weight in integers. ``values``: int8, shaped as the weight; ``scale``: float32 [out]; ``coarser``: bool [out], the
    output channels whose scale is coarser than the one that was given."""

    values: Integers
    scale: NDArray[np.float32]
    coarser: NDArray[np.bool_]

    def dequantized(self, axis: int = 0) -> NDArray[np.float32]:
        """What the integers stand for, float32. ``axis``: that of the output channels."""
        return (self.values * _along(self.scale, self.values.ndim, axis)).astype(np.float32)


def largest_scale(weight: NDArray[np.float32], axis: int = 0) -> NDArray[np.float32]:
    """The symmetric scale of every output channel by its largest weight, float32 [out]; 1 for a channel of zeros.

    ``axis``: that of the output channels.
    """
    largest = np.abs(np.moveaxis(weight, axis, 0)).reshape(weight.shape[axis], -1).max(1)
    return np.asarray(np.where(largest > 0, largest / np.float32(_HIGHEST), 1), np.float32)


def fit(
    weight: NDArray[np.float32],
    scale: NDArray[np.float32],
    worst: Callable[[Integers], NDArray[np.int32]],
    axis: int = 0,
) -> Rounded:
    """Round a weight so that the products of every output channel fit 16 bits.

    ``weight``: float32, its output channels along ``axis``. ``scale``: float32 [out], kept where the products fit.
    ``worst``: from integers shaped as the weight to the largest magnitude of a sum of two neighbouring products, [out].
    Of the scales that fit, the one with the least squared error counts.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(len(scale), -1).astype(float)
    end = np.maximum(np.abs(rows).max(1) / _SEVEN_BITS, scale).astype(np.float32)
    best = Rounded(np.zeros(weight.shape, np.int8), scale.copy(), np.zeros(len(scale), bool))
    lowest = np.full(len(scale), np.inf)
    for step in range(_SCALES + 1):
        share = np.float32(step / _SCALES)
        tried = np.asarray(scale * (1 - share) + end * share, np.float32)
        values = _rounded(weight, tried, axis)
        error = np.square(np.moveaxis(values, axis, 0).reshape(rows.shape) * tried[:, None].astype(float) - rows).sum(1)
        better = saturation.fits(worst(values)) & (error < lowest)
        if step:
            better &= best.coarser | ~np.isfinite(lowest)
        _take(best, better, values, tried, axis)
        best.coarser[better] = step > 0
        lowest[better] = error[better]
    return best


def _rounded(weight: NDArray[np.float32], scale: NDArray[np.float32], axis: int) -> Integers:
    steps = np.rint(weight / _along(scale, weight.ndim, axis))
    return np.clip(steps, _LOWEST, _HIGHEST).astype(np.int8)


def _take(best: Rounded, better: NDArray[np.bool_], values: Integers, scale: NDArray[np.float32], axis: int) -> None:
    """Put the ``better`` output channels of ``values`` into ``best``."""
    np.moveaxis(best.values, axis, 0)[better] = np.moveaxis(values, axis, 0)[better]
    best.scale[better] = scale[better]


def _along(scale: NDArray[np.float32], ndim: int, axis: int) -> NDArray[np.float32]:
    """One number an output channel, shaped so that it broadcasts along ``axis``."""
    return scale.reshape([-1 if position == axis else 1 for position in range(ndim)])


@dataclass(frozen=True, slots=True)
class Product:
    """A convolution or matrix product. ``weight``: the name of its weight; ``axis``: that of the weight's output channels;
    ``worst``: as :func:`fit` takes it, of the weight as the laid-out graph runs it."""

    node: str
    weight: str
    axis: int
    worst: Callable[[Integers], NDArray[np.int32]]


def products(model: onnx.ModelProto) -> list[Product]:
    """Every convolution and matrix product whose kernel may add products of a weight in 16 bits, in the graph's order.

    Depthwise convolutions are none of them: their kernel adds in 32 bits.
    """
    folded = layout.folded_sums(model)
    found = []
    for node in model.graph.node:
        options = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Conv":
            found.append(Product(node.name, node.input[1], 0, folded.get(node.name, saturation.worst_pair)))
        elif node.op_type == "Gemm" and options.get("transB"):
            found.append(Product(node.name, node.input[1], 0, _worst_turned))
        elif node.op_type in ("Gemm", "MatMul"):
            found.append(Product(node.name, node.input[1], 1, saturation.worst_pair))
    depthwise = _depthwise(model)
    return [product for product in found if product.node not in depthwise]


def _depthwise(model: onnx.ModelProto) -> set[str]:
    sizes = {name: tensor.dims for name, tensor in graph.stored_weights(model).items()}
    return {
        node.name
        for node in model.graph.node
        if node.op_type == "Conv"
        and (size := sizes.get(node.input[1]))
        and size[1] == 1
        and any(attribute.name == "group" and attribute.i == size[0] for attribute in node.attribute)
    }


def _worst_turned(weight: Integers) -> NDArray[np.int32]:
    """Of a weight [out, K]."""
    return saturation.worst_pair(weight.T)


def fit_floats(
    model: onnx.ModelProto, keep: Collection[str], scales: Mapping[str, NDArray[np.float32]]
) -> dict[str, tuple[int, Rounded]]:
    """Round the weights of a float graph that would saturate, in place, so that a quantizer that takes their scales finds
    the integers again.

    ``keep``: nodes that stay in float. ``scales``: float32 [out] of weights that were rounded before, by tensor; others
    take :func:`largest_scale`. Returns what was rounded and the axis of its output channels, by tensor,
    without the weights that fit as they are.
    """
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, tuple[int, Rounded]] = {}
    for product in products(model):
        tensor = stored.get(product.weight)
        if product.node in keep or tensor is None or len(tensor.dims) not in (2, 4) or product.weight in found:
            continue
        weight = numpy_helper.to_array(tensor)
        given = scales.get(product.weight)
        rounded = fit(
            weight, largest_scale(weight, product.axis) if given is None else given, product.worst, product.axis
        )
        if rounded.coarser.any():
            found[product.weight] = product.axis, rounded
            tensor.CopyFrom(numpy_helper.from_array(rounded.dequantized(product.axis), tensor.name))
    return found


def fit_artifact(
    artifact: onnx.ModelProto, source: onnx.ModelProto
) -> tuple[onnx.ModelProto, dict[str, NDArray[np.bool_]]]:
    """A copy of a Q/DQ graph whose convolutions fit, and by node name which of their output channels, bool [out], were
    rounded again. ``source``: the float graph that it was made of, which knows how the first convolution is laid out.

    A channel is rounded again from the float weights where the artifact has those, rounded to nearest: rounding what was
    rounded adds its noise to theirs. A tool that learned its integers, or moved them, has others, and those count then.
    """
    import onnx
    from onnx import numpy_helper

    copied = onnx.ModelProto()
    copied.CopyFrom(artifact)
    worst = {product.node: product.worst for product in products(source)}
    stored = {tensor.name: tensor for tensor in source.graph.initializer}
    floats = {
        node.name: numpy_helper.to_array(stored[node.input[1]])
        for node in graph.weighted_convolutions(source)
        if node.input[1] in stored
    }
    scales, weights = graph.weight_scales(artifact), graph.dequantized_weights(artifact)
    made = {output: node for node in copied.graph.node for output in node.output}
    again: dict[str, NDArray[np.bool_]] = {}
    for node in graph.weighted_convolutions(copied):
        weight = weights.get(node.name) if node.name in worst else None
        if weight is None or np.max(np.abs(weight)) == 0:
            continue
        scale = scales[node.name]
        again_from = _rounded_from(weight, floats.get(node.name), scale) & ~saturation.fits(
            worst[node.name](_rounded(weight, scale, 0))
        )
        target = weight.copy()
        if again_from.any():
            target[again_from] = floats[node.name][again_from]
        rounded = fit(target, scale, worst[node.name])
        if not rounded.coarser.any():
            continue
        again[node.name] = rounded.coarser
        dequantize, names = made[node.input[1]], [f"{node.name}/fitting", f"{node.name}/fitting_scale"]
        copied.graph.initializer.extend(map(numpy_helper.from_array, (rounded.values, rounded.scale), names))
        fitting = onnx.helper.make_node("DequantizeLinear", names, [f"{names[0]}_dequantized"], names[0], axis=0)
        copied.graph.node.insert(list(copied.graph.node).index(dequantize), fitting)
        node.input[1] = fitting.output[0]
    return copied, again


def in_float(artifact: onnx.ModelProto, names: Collection[str], source: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a Q/DQ graph in which these convolutions read what they read in ``source``, the float graph that it was
    made of: neither their input nor their weight is quantized."""
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(artifact)
    made = {output: node for node in artifact.graph.node for output in node.output}
    floats = {node.name: node.input[1] for node in graph.weighted_convolutions(source)}
    stored = {tensor.name: tensor for tensor in source.graph.initializer}
    for node in graph.weighted_convolutions(copied):
        if node.name not in names or floats.get(node.name) not in stored:
            continue
        while node.input[0] in made and made[node.input[0]].op_type in ("DequantizeLinear", "Clip", "QuantizeLinear"):
            node.input[0] = made[node.input[0]].input[0]
        tensor = copied.graph.initializer.add()
        tensor.CopyFrom(stored[floats[node.name]])
        tensor.name = node.input[1] = f"{node.name}/float"
    layout.keep_used(copied, list(copied.graph.node))
    return copied


def _rounded_from(
    weight: NDArray[np.float32], floats: NDArray[np.float32] | None, scale: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Of which output channels, bool [out], the weight is this float one rounded to nearest, ends of the range apart."""
    if floats is None or floats.shape != weight.shape:
        return np.zeros(len(weight), bool)
    steps, wanted = (one / _along(scale, weight.ndim, 0) for one in (weight, floats))
    # A thousandth of a step is left to single precision.
    same = (np.abs(steps - wanted) <= 0.501) | (np.abs(steps) >= _HIGHEST - 0.5)
    return np.asarray(same.reshape(len(weight), -1).all(1))


def check(model: onnx.ModelProto) -> None:
    """Raises :class:`BuildError` for a laid-out graph with a weight whose products may pass 16 bits: a fault of lowbit."""
    from onnx import numpy_helper

    stored = graph.stored_weights(model)
    for product in products(model):
        values = numpy_helper.to_array(stored[product.weight]) if product.weight in stored else None
        if values is None or values.dtype != np.int8 or values.ndim not in (2, 4):
            continue
        if not saturation.fits(product.worst(values)).all():
            raise BuildError(f"{product.node}: its products pass 16 bits, and kernels without VNNI would lose that.")
