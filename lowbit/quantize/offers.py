"""Rewrites are offers: each is tried on a copy and proved there. Where it does not fit or can't be proved it is left out,
with the reason, and the build goes on with the graph as it was."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.errors import InputError, LowbitError, UnavailableError
from lowbit.measure import comparison
from lowbit.runtime import SessionOptions

if TYPE_CHECKING:
    import onnx

# In dB: float arithmetic's own noise, and how much more than a last digit's change may do is left to chance.
FLOAT, SLACK = 60.0, 3.0
# SQNR of equal numbers, for JSON.
_EQUAL = 999.0


@dataclass
class Offers:
    """The rewrites of one build. ``left_out``: ``rewrite`` and ``reason`` of those that were not applied; ``proved``: what
    the proofs of the others returned, by rewrite."""

    left_out: list[dict[str, str]] = field(default_factory=list)
    proved: dict[str, Any] = field(default_factory=dict)

    def take(
        self,
        name: str,
        model: onnx.ModelProto,
        rewrite: Callable[[onnx.ModelProto], Any],
        prove: Callable[[onnx.ModelProto, onnx.ModelProto], Any],
    ) -> onnx.ModelProto:
        """``model`` rewritten, or ``model`` itself.

        ``rewrite`` changes the copy that it gets. ``prove(model, rewritten)`` raises if they may differ. Raises
        :class:`InputError` for images that can't be read.
        """
        copied = type(model)()
        copied.CopyFrom(model)
        try:
            rewrite(copied)
            self.proved[name] = prove(model, copied)
        except InputError:
            raise
        except Exception as error:  # a graph that nobody foresaw can be built as it is
            if not isinstance(error, UnavailableError):
                traceback.print_exc()  # into the build's log
            self.left_out.append({"rewrite": name, "reason": _said(error)})
            return model
        return copied


def _said(error: Exception) -> str:
    if isinstance(error, LowbitError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def prove_layout(model: onnx.ModelProto, rewritten: onnx.ModelProto, images: Sequence[NDArray[np.float32]]) -> None:
    """Compare the raw heads of both, executed as written, on images, float32 [1, 3, height, width].

    They must be equal to the bit, and the outputs then too, or as near as the model is to itself with every bias changed by
    a millionth: where inputs are rounded, a last digit that differs changes a rounding, which changes others. Raises
    :class:`UnavailableError` where they are not.
    """
    options = SessionOptions(optimized=False)
    heads = graph.head_outputs(model)
    names = [*heads, *(value.name for value in model.graph.output if value.name not in heads)]
    one, two = (comparison.raw_heads(each, options, images, names) for each in (model, rewritten))
    if all(np.array_equal(a, b) for a, b in zip(one, two, strict=True)):
        return
    of_head = [number % len(names) < len(heads) for number in range(len(one))]
    before, after = ([value for value, keep in zip(values, of_head, strict=True) if keep] for values in (one, two))
    found = sqnr(before, after)
    floor = sqnr(before, comparison.raw_heads(graph.nudged(model), options, images, heads))
    if not before or found == _EQUAL or found < min(floor, FLOAT) - SLACK:
        raise UnavailableError(f"computes something else: {found:.1f} dB from the graph as it was.")


def sqnr(one: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]]) -> float:
    """SQNR of raw heads in dB, 999 for equal ones."""
    return float(np.minimum(comparison.compare_heads(one, other).sqnr_db, _EQUAL))
