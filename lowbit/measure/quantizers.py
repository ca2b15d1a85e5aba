"""What a quantizer alone does to a tensor: how much it clips, how far it rounds, which channels it loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit.graph.nodes import constants
from lowbit.measure.correspondence import Pair

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class Range:
    """What a quantizer can give: multiples of ``scale`` between the integers (or FP8 numbers) ``low`` and ``high``.

    ``scale``, ``zero``: of the whole tensor, or as they broadcast to it. ``kind``: the type that it rounds to. ``done``:
    whether the tensor that was read has been through it.
    """

    scale: NDArray[np.float32]
    zero: NDArray[np.float32]
    low: float
    high: float
    kind: np.dtype[Any]
    done: bool

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest number that it can give."""
        ends = [(end - self.zero) * self.scale for end in (self.low, self.high)]
        return float(np.min(ends)), float(np.max(ends))

    def rounded(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What it makes of values, and which of them it clips."""
        steps = values / self.scale + self.zero
        bounded = np.clip(steps, self.low, self.high)
        # Half a step beyond the end is what rounding does there.
        clipped = np.abs(steps - bounded) > 0.5
        whole = np.rint(bounded) if self.kind.kind in "iu" else bounded.astype(self.kind).astype(np.float32)
        return np.asarray((whole - self.zero) * self.scale, np.float32), clipped


def ranges(model: onnx.ModelProto, pairs: Sequence[Pair]) -> dict[str, Range]:
    """How each tensor is quantized that a QuantizeLinear reads, that one gives, or that holds integers; by the pair's name.

    A scale that is computed from the image has no fixed range: such tensors are left out.
    """
    stored = constants(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for pair in pairs:
        if pair.scale:
            found[pair.name] = _range(stored, pair.scale, pair.zero, 1, [], done=True)
            continue
        before = _before(pair.other, makers)
        node = before if before is not None else _behind(pair.other, readers)
        if node is not None:
            names = [*node.input, ""]
            axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
            clips = [one for one in readers.get(node.output[0], []) if one.op_type == "Clip"]
            found[pair.name] = _range(stored, names[1], names[2], axis, clips, done=before is not None)
    return {name: one for name, one in found.items() if one is not None}


def _behind(name: str, readers: dict[str, list[onnx.NodeProto]]) -> onnx.NodeProto | None:
    """The quantizer that reads a tensor, whatever its float type."""
    for node in readers.get(name, []):
        if node.op_type == "QuantizeLinear":
            return node
    for node in readers.get(name, []):
        if node.op_type in ("Cast", "Identity") and (found := _behind(node.output[0], readers)) is not None:
            return found
    return None


def _before(name: str, makers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The quantizer whose integers a tensor stands for."""
    node = makers.get(name)
    while node is not None and node.op_type in ("Cast", "Identity", "DequantizeLinear", "Clip"):
        node = makers.get(node.input[0])
    return node if node is not None and node.op_type == "QuantizeLinear" else None


def _range(
    stored: dict[str, NDArray[Any]], scale: str, zero: str, axis: int, clips: Sequence[onnx.NodeProto], *, done: bool
) -> Range | None:
    import ml_dtypes

    if scale not in stored or (zero and zero not in stored):
        return None
    zeros = stored[zero] if zero else np.zeros((), np.uint8)
    kind = zeros.dtype
    # FP8 and INT4 are no types of NumPy's own.
    whole = kind.kind in "iu" or "int" in kind.name
    limits: Any = (ml_dtypes.iinfo if whole else ml_dtypes.finfo)(kind)
    low, high = float(limits.min), float(limits.max)
    for clip in clips:
        ends = [stored[name].astype(float).item() if name in stored else None for name in clip.input[1:3]]
        low, high = (
            value if end is None else end for value, end in zip((low, high), (*ends, None, None), strict=False)
        )
    kind = np.dtype(np.int32) if whole else kind
    factor, moved = stored[scale].astype(np.float32), zeros.astype(np.float32)
    if factor.size > 1:  # along an axis of a tensor of four
        shape = [1] * 4
        shape[axis] = -1
        factor, moved = factor.reshape(shape), np.broadcast_to(moved, factor.shape).reshape(shape)
    else:
        factor, moved = factor.reshape(()), moved.reshape(())
    return Range(factor, moved, low, high, kind, done)
