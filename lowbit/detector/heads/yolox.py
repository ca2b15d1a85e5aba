"""Boxes still on their grid, objectness and class scores: YOLOX, as its own exporter writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lowbit.data.detections import Detections
from lowbit.detector.decoding import candidates, cell_corners, cells, corners, suppress
from lowbit.detector.head import STRIDES, Head, Interface, take


@dataclass(frozen=True)
class Yolox(Head):
    """[1, cells, 5 + classes]: centre in cells from the cell's corner, logarithm of width and height in cells,
    objectness, class scores. Decoding as in YOLOX's ``demo_postprocess`` (https://arxiv.org/abs/2107.08430)."""

    kind = "yolox"
    form = "1 x cells x (5 + classes), not decoded"
    resize = "corner"

    strides: tuple[int, ...] = STRIDES

    @classmethod
    def recognise(cls, file: Interface) -> Iterator[Self]:
        """By one row a cell, cells first, where the number of classes or a declaration says that one value is
        objectness: a transposed decoded or raw head has the same shape."""
        shape = file.only
        if len(shape) != 3 or shape[:2] != (1, cells(file.sides, file.hints.strides)) or shape[2] < 6:
            return
        if file.asked(cls.kind) or file.classes == shape[2] - 5:
            yield cls(file.sides, shape[2] - 5, file.hints.strides)

    def decode(self, outputs: Sequence[NDArray[np.float32]]) -> Detections:
        """A pair's score is objectness times class score; class-aware non-maximum suppression at IoU 0.7."""
        (output,) = take(outputs, self, (1, cells(self.sides, self.strides), 5 + self.classes))
        rows = output[0]
        self.probabilities(rows[:, 4:])
        places, pitch = cell_corners(self.sides, self.strides)
        classes, where, scores = candidates((rows[:, 5:] * rows[:, 4:5]).T)
        centre = rows[where, :2] + places[where]
        boxes = np.concatenate([centre, np.exp(rows[where, 2:4])], 1) * pitch[where, None]
        return suppress(Detections(corners(boxes), scores, classes))


HEAD = Yolox
