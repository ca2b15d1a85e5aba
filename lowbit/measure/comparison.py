"""Two executions compared: their raw heads tensor by tensor, their detections one by one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.data.detections import Detections
from lowbit.errors import LowbitError
from lowbit.runtime import SessionOptions, open_session

if TYPE_CHECKING:
    import onnx

# A detection of at least SEEN must have a counterpart of at least SEEN - SLACK: integer kernels round differently from
# the float execution of the same Q/DQ graph, and a score that hovers around a threshold must not count as a fault.
SEEN = 0.30
SLACK = 0.15
SAME_IOU = 0.6
MIN_AGREEMENT = 0.90


@dataclass(frozen=True, slots=True)
class Agreement:
    """``share`` of confident detections that both executions have, None where neither has any: nothing was compared then.

    ``detections``: how many were compared.
    """

    share: float | None
    detections: int


@dataclass(frozen=True, slots=True)
class HeadDifference:
    """How far two raw heads are apart. ``of_range``: largest difference over the reference's range (maximum minus
    minimum, an output tensor's own), the worst tensor's. ``sqnr_db``: 10 log10 of the reference's power around each
    tensor's mean (a bias is no signal) over the difference's, over all tensors; infinite for equal ones."""

    of_range: float
    sqnr_db: float


def compare_heads(reference: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]]) -> HeadDifference:
    """Compare raw heads tensor by tensor. Raises :class:`LowbitError` if their shapes differ."""
    shapes = [[tensor.shape for tensor in head] for head in (reference, other)]
    if shapes[0] != shapes[1]:
        raise LowbitError(f"two raw heads can't be compared: their shapes are {shapes[0]} and {shapes[1]}.")
    worst = power = noise = 0.0
    for one, two in zip(reference, other, strict=True):
        difference = np.asarray(two, float) - one
        worst = max(worst, float(np.abs(difference).max() / max(float(np.ptp(one)), 1e-12)))
        power += float(np.square(one - one.mean(dtype=float), dtype=float).sum())
        noise += float(np.square(difference).sum())
    return HeadDifference(worst, float("inf") if noise == 0 else 10 * float(np.log10(max(power, 1e-300) / noise)))


def raw_heads(
    model: onnx.ModelProto,
    options: SessionOptions,
    inputs: Sequence[NDArray[np.float32]],
    names: Sequence[str] | None = None,
) -> list[NDArray[np.float32]]:
    """What the head's last convolutions give for every input, one after the other, in the graph's order or in that of
    ``names``."""
    import onnx

    names = list(names or graph.head_outputs(model))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(graph.with_head_outputs(model), str(path))
        session = open_session(path, options)
        feed = session.get_inputs()[0].name
        return [tensor for one in inputs for tensor in session.run(names, {feed: one})]


def agreement(first: Sequence[Detections], second: Sequence[Detections]) -> Agreement:
    """Compare two executions' detections image by image, both ways. Raises ``ValueError`` for unequal lengths."""
    matched = total = 0
    for one, other in zip(first, second, strict=True):
        for mine, theirs in ((one, other), (other, one)):
            for index in np.flatnonzero(mine.scores >= SEEN):
                total += 1
                rivals = (theirs.classes == mine.classes[index]) & (theirs.scores >= SEEN - SLACK)
                matched += bool((_iou(mine.boxes[index], theirs.boxes[rivals]) >= SAME_IOU).any())
    return Agreement(matched / total if total else None, total)


def _iou(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return np.asarray(shared / np.maximum(areas - shared, 1e-9), float)
