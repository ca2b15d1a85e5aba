"""Head outputs to detections: end-to-end 1xnx6, raw logits 1x(64+nc)xN with DFL, decoded 1x(4+nc)xN, YOLOv5's 1xNx(5+nc)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from lowbit.errors import InputError

MAX_DETECTIONS = 300
SCORE_FLOOR = 0.001
NMS_IOU = 0.7


class HeadKind(StrEnum):
    """What the network's one output holds."""

    END2END = "end2end"  # [1, n, 6]: x1 y1 x2 y2 score class, in the square's pixels, best first, no duplicates
    RAW = "raw"  # [1, 4 * reg_max + classes, anchors]: DFL box logits and class logits
    DECODED = "decoded"  # [1, 4 + classes, anchors]: centre x, centre y, width, height in pixels, then class scores
    OBJECTNESS = "objectness"  # [1, anchors, 5 + classes]: the same with an objectness score before the class scores


@dataclass(frozen=True, slots=True)
class HeadContract:
    """What a consumer must know to read a detector's output.

    ``size``: side of the square input in pixels. ``classes``: number of classes. ``reg_max`` (bins of the distribution
    focal loss, https://arxiv.org/abs/2006.04388) matters for raw heads only, ``strides`` for all that have anchors.
    ``transposed``: anchors come before the rows.
    """

    kind: HeadKind
    size: int
    classes: int
    strides: tuple[int, ...] = (8, 16, 32)
    reg_max: int = 16
    transposed: bool = False

    @property
    def anchors(self) -> int:
        """Number of anchors over all strides: one a cell, and three for a head with objectness, as YOLOv5's."""
        cells = sum((self.size // stride) ** 2 for stride in self.strides)
        return 3 * cells if self.kind is HeadKind.OBJECTNESS else cells

    @property
    def rows(self) -> int:
        """Values an anchor has before its class scores."""
        return {HeadKind.RAW: 4 * self.reg_max, HeadKind.OBJECTNESS: 5}.get(self.kind, 4)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """The shape of the output for one image."""
        if self.kind is HeadKind.END2END:
            return (1, MAX_DETECTIONS, 6)
        values = self.rows + self.classes
        return (1, self.anchors, values) if self.transposed else (1, values, self.anchors)


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections of one image, best first.

    ``boxes``: float32 [n, 4], x1 y1 x2 y2 in pixels. ``scores``: float32 [n] in [0, 1]. ``classes``: int64 [n].
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


def anchor_points(contract: HeadContract) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centres of the anchor cells in cell units, float32 [anchors, 2] (x, y), and their strides, float32 [anchors]."""
    points, strides = [], []
    for stride in contract.strides:
        cells = np.arange(contract.size // stride, dtype=np.float32) + 0.5
        y, x = np.meshgrid(cells, cells, indexing="ij")
        points.append(np.stack([x.ravel(), y.ravel()], 1))
        strides.append(np.full(x.size, stride, np.float32))
    return np.concatenate(points), np.concatenate(strides)


def decode(output: NDArray[np.float32], contract: HeadContract) -> Detections:
    """Read one image's output, of shape ``contract.output_shape``, in the square's pixels.

    Keeps at most 300 detections with a score of at least 0.001. All but end-to-end heads pass through class-aware
    non-maximum suppression at IoU 0.7. Raises :class:`InputError` for another shape.
    """
    if contract.kind is HeadKind.END2END:
        if output.ndim != 3 or output.shape[0] != 1 or output.shape[2] != 6:
            raise InputError(f"an end-to-end head gives 1 x n x 6, this output is {_shape(output)}: wrong head kind")
        rows = output[0][output[0, :, 4] >= SCORE_FLOOR][:MAX_DETECTIONS]
        order = np.argsort(-rows[:, 4], kind="stable")
        rows = rows[order]
        return Detections(rows[:, :4].copy(), rows[:, 4].copy(), np.rint(rows[:, 5]).astype(np.int64))
    if output.shape != contract.output_shape:
        expected = " x ".join(map(str, contract.output_shape))
        raise InputError(f"a {contract.kind} head gives {expected}, this output is {_shape(output)}: wrong head kind")
    values = output[0].T if contract.transposed else output[0]
    columns, scores = values[: contract.rows], values[contract.rows :]
    if contract.kind is HeadKind.RAW:
        scores = _sigmoid(scores)
    elif contract.kind is HeadKind.OBJECTNESS:
        scores = scores * columns[4]
    # One candidate a (class, anchor) pair, as Ultralytics' validator does.
    classes, anchors = np.nonzero(scores >= SCORE_FLOOR)
    candidates = scores[classes, anchors]
    if len(candidates) > 30_000:
        best = np.argpartition(-candidates, 30_000)[:30_000]
        classes, anchors, candidates = classes[best], anchors[best], candidates[best]
    used, where = np.unique(anchors, return_inverse=True)
    boxes = (_dfl if contract.kind is HeadKind.RAW else _corners)(columns, used, contract)[where]
    return suppress(Detections(boxes, candidates.astype(np.float32), classes.astype(np.int64)))


def suppress(detections: Detections, iou: float = NMS_IOU) -> Detections:
    """Class-aware greedy non-maximum suppression; returns at most 300 survivors, best first."""
    if not len(detections):
        return detections
    boxes = detections.boxes.astype(np.float64)
    corners_and_extent = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    kept = cv2.dnn.NMSBoxesBatched(
        corners_and_extent.tolist(), detections.scores.tolist(), detections.classes.tolist(), 0.0, iou
    )
    keep = np.asarray(kept, np.int64).ravel()
    keep = keep[np.argsort(-detections.scores[keep], kind="stable")][:MAX_DETECTIONS]
    return Detections(detections.boxes[keep], detections.scores[keep], detections.classes[keep])


def _dfl(logits: NDArray[np.float32], anchors: NDArray[np.int64], contract: HeadContract) -> NDArray[np.float32]:
    """Boxes x1 y1 x2 y2 of the chosen anchors: the expectation of each side's distance, times the stride."""
    points, strides = anchor_points(contract)
    sides = logits[:, anchors].reshape(4, contract.reg_max, -1)
    weights = np.exp(sides - sides.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    distance = np.einsum("srn,r->ns", weights, np.arange(contract.reg_max, dtype=np.float32))
    points, strides = points[anchors], strides[anchors][:, None]
    corners = np.concatenate([points - distance[:, :2], points + distance[:, 2:]], 1)
    return np.asarray(corners * strides, np.float32)


def _corners(columns: NDArray[np.float32], anchors: NDArray[np.int64], _: HeadContract) -> NDArray[np.float32]:
    centre, extent = columns[:2, anchors].T, columns[2:4, anchors].T
    return np.asarray(np.concatenate([centre - extent / 2, centre + extent / 2], 1), np.float32)


def _sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))), np.float32)


def _shape(array: NDArray[np.float32]) -> str:
    return " x ".join(map(str, array.shape))
