"""A box and class scores a query, without suppression: DETR, RT-DETR, RF-DETR and D-FINE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.data.detections import Detections
from lowbit.detector.decoding import best, candidates, cells, corners, sigmoid
from lowbit.detector.head import Head, Interface, take
from lowbit.errors import InputError


@dataclass(frozen=True)
class Detr(Head):
    """[1, queries, 4]: centre x, centre y, width, height, as shares of the input's sides; [1, queries, columns]: classes.

    ``scores`` says what the columns hold. ``sigmoid``: logits, each class for itself (RT-DETR, RF-DETR, D-FINE).
    ``softmax``: logits, and a last one for no object (DETR). ``probability``: probabilities. ``boxes_first``: in the
    order of outputs. ``joined``: one output [1, queries, 4 + classes], as Ultralytics exported RT-DETR up to 8.3.
    ``chosen``: one output [1, n, 6], box, score and class of the best pairs, as it does since 8.4.
    """

    kind = "detr"
    form = "boxes 1 x queries x 4 in [0, 1] and logits 1 x queries x classes"
    resize = "stretch"
    modules = ("RTDETRDecoder",)
    remedy_for_logits = 'Declare what they are: head = { kind = "detr", scores = "sigmoid" }, or "softmax".'
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"scores": ("sigmoid", "softmax", "probability")}

    scores: str
    boxes_first: bool = True
    joined: bool = False
    chosen: bool = False

    @classmethod
    def recognise(cls, file: Interface) -> Iterator[Self]:
        """By two outputs of one length that is not a number of anchors, or one with as many columns as are named. What
        the columns hold is declared, or the graph's last operator or the number of classes says it."""
        shapes = list(file.outputs.values())
        anchors = {cells(file.sides, file.hints.strides) * times for times in (1, 3)}
        if any(len(shape) != 3 or shape[0] != 1 for shape in shapes):
            return
        if not file.asked(cls.kind) and any(shape[1] in anchors for shape in shapes):
            return
        if len(shapes) == 1 and shapes[0][2] > 4:
            columns, told = shapes[0][2] - 4, file.module in cls.modules
            if columns == 2 and file.classes and (told or (file.asked(cls.kind) and file.classes != 2)):
                yield cls(file.sides, file.classes, "probability", chosen=True)
            elif file.classes == columns or file.asked(cls.kind):
                yield cls(file.sides, columns, file.hints.options.get("scores", "probability"), joined=True)
        if len(shapes) != 2 or shapes[0][1] != shapes[1][1] or 4 not in (shapes[0][2], shapes[1][2]):
            return
        first = shapes[0][2] == 4 and (shapes[1][2] != 4 or not _is_boxes(list(file.outputs)[1]))
        columns = shapes[1 if first else 0][2]
        scores = file.hints.options.get("scores") or _scores(file, 1 if first else 0, columns)
        yield cls(file.sides, columns - (scores == "softmax"), scores, first)

    def decode(self, outputs: Sequence[NDArray[np.float32]]) -> Detections:
        """The 300 best pairs of a query and a class; of a softmax, a query's best class."""
        if self.chosen:
            (output,) = take(outputs, self, (1, 0, 6))
            rows = output[0]
            scores = self.probabilities(rows[:, 4])
            return best(Detections(self._in_pixels(rows[:, :4]), scores, np.rint(rows[:, 5]).astype(np.int64)))
        columns = self.classes + (self.scores == "softmax")
        if self.joined:
            (output,) = take(outputs, self, (1, 0, 4 + columns))
            boxes, logits = output[0, :, :4], output[0, :, 4:]
        else:
            shapes = ((1, 0, 4), (1, 0, columns)) if self.boxes_first else ((1, 0, columns), (1, 0, 4))
            found = take(outputs, self, *shapes)
            boxes, logits = (output[0] for output in (found if self.boxes_first else found[::-1]))
        classes, queries, scores = candidates(self._probabilities(logits).T)
        return best(Detections(self._in_pixels(boxes)[queries], scores, classes))

    def _in_pixels(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        height, width = self.sides
        return corners(boxes * np.array([width, height, width, height], np.float32))

    def _probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.scores == "probability":
            return self.probabilities(logits)
        if self.scores == "sigmoid":
            return sigmoid(logits)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        shares = (powers / powers.sum(1, keepdims=True))[:, :-1]
        return np.asarray(np.where(shares == shares.max(1, keepdims=True), shares, 0), np.float32)


def _is_boxes(name: str) -> bool:
    return any(word in name.lower() for word in ("box", "det", "coord"))


def _scores(file: Interface, number: int, columns: int) -> str:
    """What the class columns hold, as the graph or the number of classes says."""
    last = graph.made_by(file.model, list(file.outputs)[number])
    if last in ("Sigmoid", "Softmax"):
        return "probability"
    if file.classes in (columns, columns - 1):
        return "sigmoid" if file.classes == columns else "softmax"
    raise InputError(
        f"{file.path}: its {columns} class logits can be for {columns} classes (sigmoid) or for {columns - 1} and no "
        'object (softmax). Declare which: head = { kind = "detr", scores = "sigmoid" }, or "softmax".'
    )


HEAD = Detr
