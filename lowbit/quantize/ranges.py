"""Ranges of activations by several methods, from one histogram a tensor.

A method says what a tensor's 8 bits span: everything that was seen (``minmax``), all but the outermost values
(``percentile``, ``percentile4``), the span whose quantized distribution is nearest to the values' own (``entropy``, as NVIDIA's
calibrator: http://on-demand.gputechconf.com/gtc/2017/presentation/s7310-8-bit-inference-with-tensorrt.pdf), the one
with the least squared error (``mse``), or with the least one behind the SiLU that reads the tensor (``silu-mse``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet
from lowbit.progress import Progress, Step
from lowbit.runtime import plain_session

if TYPE_CHECKING:
    import onnx

Range = tuple[float, float]
_LEVELS, _BINS = 256, 2048
# Values of a tensor that enter the histogram, an image: evenly spaced ones of a larger tensor.
_SAMPLES = 1 << 16
# Shares of both ends of a range that are tried.
_SHARES = np.linspace(1, 0.1, 46)
BEFORE_SILU = "before SiLU"


@dataclass(frozen=True)
class Histogram:
    """The values of one tensor. ``lowest``, ``highest``: of all of them, 0 between; ``counts``: int64, evenly from one to
    the other."""

    lowest: float
    highest: float
    counts: NDArray[np.int64]

    @property
    def centers(self) -> NDArray[np.floating[Any]]:
        """Of every bin."""
        width = (self.highest - self.lowest) / len(self.counts)
        return self.lowest + width * (np.arange(len(self.counts)) + 0.5)

    def joined(self, values: NDArray[np.float32]) -> Histogram:
        """With more values. Where they reach further, what was counted moves to the new bins by its bins' centers."""
        low, high = min(self.lowest, float(values.min())), max(self.highest, float(values.max()))
        ends = (low, high) if low < high else (0.0, 1.0)
        # An odd step, so that no column of an image is preferred.
        counts = np.histogram(values.ravel()[:: values.size // _SAMPLES | 1], _BINS, ends)[0]
        if (low, high) == (self.lowest, self.highest):
            return Histogram(low, high, self.counts + counts)
        moved = np.histogram(self.centers, _BINS, ends, weights=self.counts)[0].astype(np.int64)
        return Histogram(low, high, moved + counts)


_NOTHING = Histogram(0.0, 0.0, np.zeros(_BINS, np.int64))


def collect(
    model: onnx.ModelProto, images: CalibrationSet, spec: InputSpec, progress: Progress
) -> dict[str, Histogram]:
    """The histogram of every float tensor up to the head's end, by name."""
    import onnx

    tail, feed = set(graph.decode_tail(model)), graph.inputs(model)[0].name
    names = [name for node in model.graph.node if node.name not in tail for name in node.output if name]
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    there = {value.name for value in copied.graph.output}
    copied.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in there)
    session = plain_session(copied)
    found: dict[str, Histogram] = {}
    for number, image in enumerate(images.batches(spec), 1):
        for name, value in zip([*names, feed], [*session.run(names, {feed: image}), image], strict=True):
            if value.dtype == np.float32 and value.size:
                found[name] = found.get(name, _NOTHING).joined(value)
        progress(Step("collecting ranges", number, len(images.paths), "images"))
    return found


def _minmax(values: Histogram) -> Range:
    return values.lowest, values.highest


def _percentile(tail: float) -> Callable[[Histogram], Range]:
    """Without this share of the values at either end."""

    def found(values: Histogram) -> Range:
        below = np.cumsum(values.counts) / max(values.counts.sum(), 1)
        width = (values.highest - values.lowest) / len(values.counts)
        first, last = int(np.searchsorted(below, tail, "right")), int(np.searchsorted(below, 1 - tail))
        return values.lowest + width * first, values.lowest + width * (last + 1)

    return found


def _silu(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    return values / (1 + np.exp(-values))


def _least(after: Callable[[NDArray[np.floating[Any]]], NDArray[np.floating[Any]]]) -> Callable[[Histogram], Range]:
    """With the least squared error of what a function makes of the values: one end after the other, and again."""

    def found(values: Histogram) -> Range:
        centers, shares = values.centers, {"low": 1.0, "high": 1.0}
        wanted = after(centers)

        def error(low: float, high: float) -> float:
            scale, zero = quantizer((low, high))
            steps = np.clip(np.rint(centers / float(scale)) + int(zero), 0, _LEVELS - 1) - int(zero)
            return float((values.counts * np.square(after(steps * float(scale)) - wanted)).sum())

        for end in ("high", "low", "high", "low"):
            tried = [{**shares, end: float(share)} for share in _SHARES]
            shares = min(tried, key=lambda one: error(values.lowest * one["low"], values.highest * one["high"]))
        return values.lowest * shares["low"], values.highest * shares["high"]

    return found


def _entropy(values: Histogram) -> Range:
    """Both ends by the same share."""
    share = min(_SHARES, key=lambda one: _divergence(values, one))
    return values.lowest * share, values.highest * share


def _divergence(values: Histogram, share: float) -> float:
    """Kullback and Leibler's, of the values clipped to a share of their range from what 256 levels make of them."""
    centers = values.centers
    kept = np.flatnonzero((centers >= values.lowest * share) & (centers <= values.highest * share))
    first, last = kept[0], kept[-1] + 1
    within = values.counts[first:last].astype(float)
    clipped = within.copy()
    clipped[0] += values.counts[:first].sum()
    clipped[-1] += values.counts[last:].sum()
    level = np.arange(len(within)) * _LEVELS // len(within)
    filled = within > 0
    width = np.bincount(level, filled, _LEVELS)
    level_mean = np.bincount(level, within, _LEVELS) / np.maximum(width, 1)
    quantized = np.where(filled, level_mean[level], 0)
    # A ten-thousandth is left to bins that one of both has not: a divergence of what is nowhere is infinite.
    one, two = (0.9999 * d / max(d.sum(), 1) + 0.0001 / len(d) for d in (clipped, quantized))
    return float((one * np.log(one / two)).sum())


METHODS: Mapping[str, Callable[[Histogram], Range]] = {
    "minmax": _minmax,
    "percentile": _percentile(1e-5),
    "percentile4": _percentile(1e-4),
    "entropy": _entropy,
    "mse": _least(lambda values: values),
    "silu-mse": _least(_silu),
}
# What a tensor may be; what the most noise comes from first.
KINDS = (BEFORE_SILU, "SiLU", "convolution", "Add", "Concat", "head", "other")
# A kind with this many tensors or more is taken apart by depth, in this many parts of as many tensors each.
_MANY, _PARTS = 12, 4


def kind_of(group: str) -> str:
    """The kind of a group of :func:`groups`."""
    return group.partition(",")[0]


def methods(groups: Collection[str]) -> tuple[str, ...]:
    """Those that suit all tensors of some groups."""
    before_silu = {kind_of(group) for group in groups} == {BEFORE_SILU}
    return tuple(name for name in METHODS if name != "silu-mse" or before_silu)


def span(values: Histogram, method: str) -> Range:
    """What a tensor's 8 bits span by a method, 0 always within."""
    low, high = METHODS[method](values)
    return min(low, 0.0), max(high, 0.0)


def quantizer(ends: Range) -> graph.Quantizer:
    """Scale and zero point of unsigned 8 bits for a range, as ONNX Runtime's quantizer has them; of an empty one 1 and 0."""
    low, high = map(np.float32, ends)
    scale = (high - low) / np.float32(_LEVELS - 1)
    if scale <= np.finfo(np.float32).tiny:
        return np.asarray(1, np.float32), np.asarray(0, np.uint8)
    return np.asarray(scale, np.float32), np.asarray(np.clip(np.rint(-low / scale), 0, _LEVELS - 1), np.uint8)


def groups(model: onnx.ModelProto, names: Collection[str]) -> dict[str, str]:
    """By tensor the group that shares a method: its kind, and of a kind with many tensors how deep in the graph it is."""
    found = _kinds(model, names)
    for kind in KINDS:
        made = (name for node in model.graph.node for name in node.output)
        same = [name for name in made if found.get(name) == kind]
        if len(same) >= _MANY:
            part = {name: number * _PARTS // len(same) + 1 for number, name in enumerate(same)}
            found |= {name: f"{kind}, part {part[name]} of {_PARTS}" for name in same}
    return found


def _kinds(model: onnx.ModelProto, names: Collection[str]) -> dict[str, str]:
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    heads, sigmoids = set(graph.head_outputs(model)), set()
    found = dict.fromkeys(names, "other")
    for node in model.graph.node:
        if node.op_type == "Sigmoid":
            sigmoids.update(node.output)
        for name in node.output:
            if name not in found:
                continue
            if name in heads:
                found[name] = "head"
            elif node.op_type == "Conv":
                found[name] = BEFORE_SILU if "Sigmoid" in readers.get(name, ()) else "convolution"
            elif node.op_type == "Mul" and sigmoids & set(node.input):
                found[name] = "SiLU"
            elif node.op_type in ("Add", "Concat"):
                found[name] = node.op_type
    return found
