"""Logits of every anchor: YOLOv8's family cut off before its decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.data.detections import Detections
from lowbit.detector.decoding import anchor_points, candidates, cells, sigmoid, suppress
from lowbit.detector.head import STRIDES, Head, Interface, anchored, take

# Bins of the distribution focal loss (https://arxiv.org/abs/2006.04388) in all of Ultralytics' detectors.
BINS = 16


@dataclass(frozen=True)
class Raw(Head):
    """[1, 64 + classes, anchors]: box logits, 16 bins of the distribution focal loss a side, then class logits.

    ``transposed``: anchors come before the values.
    """

    kind = "raw"
    form = "1 x (64 + classes) x anchors, or transposed"
    modules = ("Detect", "v10Detect")

    strides: tuple[int, ...] = STRIDES
    transposed: bool = False

    @classmethod
    def recognise(cls, file: Interface) -> Iterator[Self]:
        """By its anchors, where no sigmoid has made scores of the logits, or where it is declared."""
        values, transposed = anchored(file.only, cells(file.sides, file.hints.strides))
        if values > 4 * BINS and (file.asked(cls.kind) or not graph.ends_in_sigmoid(file.model)):
            yield cls(file.sides, values - 4 * BINS, file.hints.strides, transposed)

    def decode(self, outputs: Sequence[NDArray[np.float32]]) -> Detections:
        """Boxes from the expectation of each side's distance, then suppression as for decoded heads."""
        anchors, values = cells(self.sides, self.strides), 4 * BINS + self.classes
        (output,) = take(outputs, self, (1, anchors, values) if self.transposed else (1, values, anchors))
        columns = output[0].T if self.transposed else output[0]
        classes, where, scores = candidates(sigmoid(columns[4 * BINS :]))
        # An anchor may be a candidate of several classes; its box is decoded once.
        used, back = np.unique(where, return_inverse=True)
        return suppress(Detections(self._boxes(columns[: 4 * BINS, used], used)[back], scores, classes))

    def _boxes(self, logits: NDArray[np.float32], anchors: NDArray[np.int64]) -> NDArray[np.float32]:
        points, strides = anchor_points(self.sides, self.strides)
        bins = logits.reshape(4, BINS, -1)
        weights = np.exp(bins - bins.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        distance = np.einsum("srn,r->ns", weights, np.arange(BINS, dtype=np.float32))
        points, pitch = points[anchors], strides[anchors][:, None]
        boxes = np.concatenate([points - distance[:, :2], points + distance[:, 2:]], 1)
        return np.asarray(boxes * pitch, np.float32)


HEAD = Raw
