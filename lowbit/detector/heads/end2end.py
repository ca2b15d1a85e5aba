"""Detections themselves: YOLOv10 and YOLO26, and exports with non-maximum suppression in the graph (``nms=True``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.data.detections import Detections
from lowbit.detector.decoding import best, cells
from lowbit.detector.head import STRIDES, Head, Interface, take
from lowbit.errors import InputError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class End2End(Head):
    """[1, n, 6]: x1 y1 x2 y2 score class, in the input's pixels, no duplicates."""

    kind = "end2end"
    form = "1 x n x 6"
    modules = ("Detect", "v10Detect")

    strides: tuple[int, ...] = STRIDES

    @classmethod
    def recognise(cls, file: Interface) -> Iterator[Self]:
        """By its six columns, unless their number is that of another head's anchors. It does not say how many classes
        there are: metadata do, or the class logits' last convolution."""
        shape, strides = file.only, file.hints.strides
        if len(shape) != 3 or shape[0] != 1 or shape[2] != 6:
            return
        anchors = cells(file.sides, strides)
        others = shape[1] == 3 * anchors or (shape[1] == anchors and graph.ends_in_sigmoid(file.model))
        if others and not file.asked(cls.kind):
            return
        yield cls(file.sides, file.classes or _classes(file.path, file.model), strides)

    def decode(self, outputs: Sequence[NDArray[np.float32]]) -> Detections:
        """The rows as they are; padding of NMS has a score of 0."""
        (output,) = take(outputs, self, (1, 0, 6))
        rows = output[0]
        return best(Detections(rows[:, :4], self.probabilities(rows[:, 4]), np.rint(rows[:, 5]).astype(np.int64)))


def _classes(path: Path, model: onnx.ModelProto) -> int:
    weights = graph.stored_weights(model)
    last = graph.last_convolutions(model)
    widths = Counter(weights[node.input[1]].dims[0] for node in last if node.input[1] in weights)
    # Every stride has one box and one class convolution; boxes have 4 * 16 channels, a bin of the distribution focal
    # loss each.
    classes = [width for width in widths if width != 64] or [width for width, count in widths.items() if count > 3]
    if len(classes) != 1:
        raise InputError(
            f"{path}: the number of classes can't be read from its last convolutions ({dict(widths)}). Declare classes, "
            "the data set's category id of every class."
        )
    return int(classes[0])


HEAD = End2End
