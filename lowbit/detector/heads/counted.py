"""Detections and their number, in four outputs: NMS in the graph under TensorRT's EfficientNMS names, and SSD as TensorFlow
exports it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lowbit.data.detections import Detections
from lowbit.detector.decoding import best
from lowbit.detector.head import Head, Interface, take
from lowbit.errors import InputError

# The roles of the outputs by parts of their names, as exporters write them.
_NAMES = {
    "count": ("num_det", "num_dets", "num_detections"),
    "boxes": ("box",),
    "scores": ("score",),
    "labels": ("class", "label"),
}


@dataclass(frozen=True)
class Counted(Head):
    """[1, n, 4] boxes, [1, n] scores, [1, n] classes and [1] or [1, 1] their number; rows behind it mean nothing.

    ``order``: which output is which, by their place: boxes, scores, classes, number. ``shares``: boxes are y1 x1 y2 x2 in
    [0, 1] and classes count from 1 (TensorFlow's SSD); otherwise x1 y1 x2 y2 in the input's pixels and from 0.
    """

    kind = "counted"
    form = "boxes 1 x n x 4, scores 1 x n, classes 1 x n and their number"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"boxes": ("pixels", "shares")}

    order: tuple[int, ...] = (1, 2, 3, 0)
    shares: bool = False

    @classmethod
    def recognise(cls, file: Interface) -> Iterator[Self]:
        """By four outputs with telling names. What the boxes are in is declared, or TensorFlow's names say it."""
        names = list(file.outputs)
        places = {role: [i for i, name in enumerate(names) if _is(name, role)] for role in _NAMES}
        if len(names) != 4 or any(len(found) != 1 for found in places.values()):
            return
        order = tuple(places[role][0] for role in ("boxes", "scores", "labels", "count"))
        if len(file.outputs[names[order[0]]]) != 3:
            return
        if file.classes is None:
            raise InputError(
                f"{file.path}: its outputs are detections and do not say how many classes there are. Declare classes, the "
                "data set's category id of every class."
            )
        told = "shares" if any("detection_boxes" in name for name in names) else "pixels"
        yield cls(file.sides, file.classes, order, file.hints.options.get("boxes", told) == "shares")

    def decode(self, outputs: Sequence[NDArray[np.float32]]) -> Detections:
        """The rows that count, best first."""
        if len(outputs) != 4:
            raise self.wrong(outputs)
        ordered = [outputs[place] for place in self.order]
        number = (1,) * ordered[3].ndim  # [1] or [1, 1]
        boxes, scores, labels, count = take(ordered, self, (1, 0, 4), (1, 0), (1, 0), number)
        kept = int(np.ravel(count)[0])
        found = np.asarray(boxes[0, :kept], np.float32)
        if self.shares:
            height, width = self.sides
            found = found[:, [1, 0, 3, 2]] * np.array([width, height, width, height], np.float32)
        classes = np.rint(labels[0, :kept]).astype(np.int64) - int(self.shares)
        return best(Detections(found, self.probabilities(np.asarray(scores[0, :kept], np.float32)), classes))


def _is(name: str, role: str) -> bool:
    lowered = name.lower()
    counts = any(part in lowered for part in _NAMES["count"])
    return counts if role == "count" else not counts and any(part in lowered for part in _NAMES[role])


HEAD = Counted
