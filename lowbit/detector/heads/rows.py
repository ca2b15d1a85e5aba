"""One row a detection, as many as there are: the standard NonMaxSuppression operator in the graph, gathered as YOLOv7's
``--end2end`` export for ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lowbit.data.detections import Detections
from lowbit.detector.decoding import best
from lowbit.detector.head import Head, Interface, take
from lowbit.errors import InputError


@dataclass(frozen=True)
class Rows(Head):
    """[n, 7]: number of the image, x1 y1 x2 y2 in the input's pixels, class, score; n is the image's."""

    kind = "rows"
    form = "n x 7"

    @classmethod
    def recognise(cls, file: Interface) -> Iterator[Self]:
        """By its two dimensions and seven columns; the number of classes must be named."""
        shape = file.only
        if len(shape) != 2 or shape[1] != 7:
            return
        if file.classes is None:
            raise InputError(
                f"{file.path}: its rows are detections and do not say how many classes there are. Declare classes, the "
                "data set's category id of every class."
            )
        yield cls(file.sides, file.classes)

    def decode(self, outputs: Sequence[NDArray[np.float32]]) -> Detections:
        """The rows as they are, best first."""
        (rows,) = take(outputs, self, (0, 7))
        return best(Detections(rows[:, 1:5], self.probabilities(rows[:, 6]), np.rint(rows[:, 5]).astype(np.int64)))


HEAD = Rows
