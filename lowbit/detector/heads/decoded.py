"""Boxes and class scores of every anchor: YOLOv8, YOLOv9, YOLO11 and YOLO12 as Ultralytics exports them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.data.detections import Detections
from lowbit.detector.decoding import candidates, cells, corners, suppress
from lowbit.detector.head import STRIDES, Head, Interface, anchored, take


@dataclass(frozen=True)
class Decoded(Head):
    """[1, 4 + classes, anchors]: centre x, centre y, width, height in pixels, then class scores.

    ``transposed``: anchors come before the values.
    """

    kind = "decoded"
    form = "1 x (4 + classes) x anchors, or transposed"
    modules = ("Detect", "v10Detect")

    strides: tuple[int, ...] = STRIDES
    transposed: bool = False

    @classmethod
    def recognise(cls, file: Interface) -> Iterator[Self]:
        """By its anchors, where its last layer joins a sigmoid's scores to boxes, where as many classes are named as it
        has then, or where it is declared."""
        values, transposed = anchored(file.only, cells(file.sides, file.hints.strides))
        told = file.asked(cls.kind) or file.classes == values - 4 or graph.ends_in_sigmoid(file.model)
        if values > 4 and told:
            yield cls(file.sides, values - 4, file.hints.strides, transposed)

    def decode(self, outputs: Sequence[NDArray[np.float32]]) -> Detections:
        """Class-aware non-maximum suppression at IoU 0.7 of all boxes with a score."""
        anchors, values = cells(self.sides, self.strides), 4 + self.classes
        shape = (1, anchors, values) if self.transposed else (1, values, anchors)
        (output,) = take(outputs, self, shape)
        columns = output[0].T if self.transposed else output[0]
        classes, where, scores = candidates(self.probabilities(columns[4:]))
        return suppress(Detections(corners(columns[:4, where].T), scores, classes))


HEAD = Decoded
