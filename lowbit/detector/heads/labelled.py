"""Detections and their labels in outputs of their own: MMDeploy's detectors, and DETR's family with its postprocessing in the
graph (RT-DETR's and D-FINE's ``export_onnx.py``)."""

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

# The roles of three outputs by parts of their names, as exporters write them.
_NAMES = {"boxes": ("box",), "scores": ("score",), "labels": ("label", "class")}


@dataclass(frozen=True)
class Labelled(Head):
    """[1, n, 5] boxes x1 y1 x2 y2 in the input's pixels and score, [1, n] labels (MMDeploy); or [1, n, 4] boxes, [1, n]
    scores, [1, n] labels. Labels count from 0; a negative one is padding.

    ``order``: which output is which, by their place: boxes, labels, or boxes, scores, labels.
    """

    kind = "labelled"
    form = "boxes and scores 1 x n x 5, or in two outputs, and labels 1 x n"

    order: tuple[int, ...] = (0, 1)

    @classmethod
    def recognise(cls, file: Interface) -> Iterator[Self]:
        """Of two outputs by their shapes, of three by telling names; the number of classes must be named."""
        shapes, names = list(file.outputs.values()), list(file.outputs)
        if len(shapes) == 2:
            order = [place for place in (0, 1) if len(shapes[place]) == 3 and shapes[place][2] == 5]
            order += [place for place in (0, 1) if len(shapes[place]) == 2]
            rows = {shape[1] for shape in shapes if len(shape) > 1}
        elif len(shapes) == 3:
            found = [[i for i, name in enumerate(names) if _is(name, role)] for role in _NAMES]
            order = [place for places in found for place in places]
            widths = [shapes[place] for place in order] if len(set(order)) == 3 else []
            if [len(shape) for shape in widths] != [3, 2, 2] or widths[0][2] != 4:
                return
            rows = {shape[1] for shape in widths}
        else:
            return
        if len(order) != len(shapes) or len(rows - {0}) > 1:
            return
        if file.classes is None:
            raise InputError(
                f"{file.path}: its outputs are detections and do not say how many classes there are. Declare classes, the "
                "data set's category id of every class."
            )
        yield cls(file.sides, file.classes, tuple(order))

    def decode(self, outputs: Sequence[NDArray[np.float32]]) -> Detections:
        """The rows that have a label, best first."""
        if len(outputs) != len(self.order):
            raise self.wrong(outputs)
        ordered = [outputs[place] for place in self.order]
        if len(ordered) == 2:
            rows, labels = take(ordered, self, (1, 0, 5), (1, 0))
            boxes, scores = rows[0, :, :4], rows[0, :, 4]
        else:
            boxes, scores, labels = take(ordered, self, (1, 0, 4), (1, 0), (1, 0))
            boxes, scores = boxes[0], scores[0]
        classes = np.rint(labels[0]).astype(np.int64)
        kept = classes >= 0
        scores = self.probabilities(np.asarray(scores[kept], np.float32))
        return best(Detections(np.asarray(boxes[kept], np.float32), scores, classes[kept]))


def _is(name: str, role: str) -> bool:
    return any(part in name.lower() for part in _NAMES[role])


HEAD = Labelled
