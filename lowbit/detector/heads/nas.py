"""Corners of boxes and class scores of every anchor, in two outputs: YOLO-NAS without its own suppression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lowbit.data.detections import Detections
from lowbit.detector.decoding import candidates, cells, suppress
from lowbit.detector.head import STRIDES, Head, Interface, take


@dataclass(frozen=True)
class Nas(Head):
    """[1, anchors, 4]: x1 y1 x2 y2 in the input's pixels; [1, anchors, classes]: scores in [0, 1]."""

    kind = "nas"
    form = "boxes 1 x anchors x 4 and scores 1 x anchors x classes"

    strides: tuple[int, ...] = STRIDES

    @classmethod
    def recognise(cls, file: Interface) -> Iterator[Self]:
        """By two outputs, boxes first, of a row an anchor."""
        shapes, anchors = list(file.outputs.values()), cells(file.sides, file.hints.strides)
        if len(shapes) == 2 and shapes[0] == (1, anchors, 4) and shapes[1][:2] == (1, anchors) and len(shapes[1]) == 3:
            yield cls(file.sides, shapes[1][2], file.hints.strides)

    def decode(self, outputs: Sequence[NDArray[np.float32]]) -> Detections:
        """Class-aware non-maximum suppression at IoU 0.7 of all boxes with a score."""
        anchors = cells(self.sides, self.strides)
        boxes, scores = take(outputs, self, (1, anchors, 4), (1, anchors, self.classes))
        classes, where, found = candidates(self.probabilities(scores[0].T))
        return suppress(Detections(np.asarray(boxes[0][where], np.float32), found, classes))


HEAD = Nas
