"""What head adapters share: anchor cells, box forms, the choice of candidates, non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from lowbit.data.detections import Detections

# As Ultralytics' validator: COCO evaluates at most 100 detections an image, of any score.
MAX_DETECTIONS = 300
SCORE_FLOOR = 0.001
NMS_IOU = 0.7
_MOST_CANDIDATES = 30_000

Floats = NDArray[np.float32]


def cells(sides: tuple[int, int], strides: Sequence[int]) -> int:
    """Number of cells over all strides of an input of ``sides`` (height, width) in pixels."""
    return sum((sides[0] // stride) * (sides[1] // stride) for stride in strides)


def cell_corners(sides: tuple[int, int], strides: Sequence[int]) -> tuple[Floats, Floats]:
    """Top left corners of all cells in cell units, float32 [cells, 2] (x, y), and their strides, float32 [cells].

    Finest stride first as ``strides`` lists them, row by row.
    """
    points, pitches = [], []
    for stride in strides:
        y, x = np.meshgrid(*(np.arange(side // stride, dtype=np.float32) for side in sides), indexing="ij")
        points.append(np.stack([x.ravel(), y.ravel()], 1))
        pitches.append(np.full(x.size, stride, np.float32))
    return np.concatenate(points), np.concatenate(pitches)


def anchor_points(sides: tuple[int, int], strides: Sequence[int]) -> tuple[Floats, Floats]:
    """The centres of the same cells, in cell units, and their strides."""
    points, pitches = cell_corners(sides, strides)
    return points + np.float32(0.5), pitches


def corners(boxes: Floats) -> Floats:
    """Boxes centre x, centre y, width, height, [n, 4], as x1 y1 x2 y2."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.asarray(np.concatenate([centre - half, centre + half], 1), np.float32)


def sigmoid(x: Floats) -> Floats:
    """The logistic function, without overflow."""
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))), np.float32)


def candidates(scores: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Class, anchor and score of every pair with a score of at least 0.001, of scores [classes, anchors].

    One candidate a pair, as Ultralytics' validator does; the best 30,000 of more.
    """
    classes, anchors = np.nonzero(scores >= SCORE_FLOOR)
    found = np.asarray(scores[classes, anchors], np.float32)
    if len(found) > _MOST_CANDIDATES:
        best = np.argpartition(-found, _MOST_CANDIDATES)[:_MOST_CANDIDATES]
        classes, anchors, found = classes[best], anchors[best], found[best]
    return classes.astype(np.int64), anchors.astype(np.int64), found


def best(detections: Detections) -> Detections:
    """At most 300 detections with a score of at least 0.001, best first, in the given order among equals."""
    kept = np.flatnonzero(detections.scores >= SCORE_FLOOR)
    kept = kept[np.argsort(-detections.scores[kept], kind="stable")][:MAX_DETECTIONS]
    return Detections(
        np.asarray(detections.boxes[kept], np.float32),
        np.asarray(detections.scores[kept], np.float32),
        np.asarray(detections.classes[kept], np.int64),
    )


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
