"""Boxes, objectness and class scores of three anchors a cell: YOLOv5 and YOLOv7."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lowbit.data.detections import Detections
from lowbit.detector.decoding import candidates, cells, corners, suppress
from lowbit.detector.head import STRIDES, Head, Interface, take


@dataclass(frozen=True)
class Objectness(Head):
    """[1, anchors, 5 + classes]: centre x, centre y, width, height in pixels, objectness, class scores."""

    kind = "objectness"
    form = "1 x (3 anchors a cell) x (5 + classes)"

    strides: tuple[int, ...] = STRIDES

    @classmethod
    def recognise(cls, file: Interface) -> Iterator[Self]:
        """By its anchors, three a cell."""
        shape = file.only
        if len(shape) == 3 and shape[:2] == (1, 3 * cells(file.sides, file.hints.strides)) and shape[2] > 5:
            yield cls(file.sides, shape[2] - 5, file.hints.strides)

    def decode(self, outputs: Sequence[NDArray[np.float32]]) -> Detections:
        """A pair's score is objectness times class score; suppression as for decoded heads."""
        (output,) = take(outputs, self, (1, 3 * cells(self.sides, self.strides), 5 + self.classes))
        columns = output[0].T
        self.probabilities(columns[4:])
        classes, where, scores = candidates(columns[5:] * columns[4])
        return suppress(Detections(corners(columns[:4, where].T), scores, classes))


HEAD = Objectness
