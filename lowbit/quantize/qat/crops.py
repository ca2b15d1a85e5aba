"""The training batches: random crops of images, with the labels that are visible in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowbit.data.images import read_image
from lowbit.data.letterbox import PAD_VALUE
from lowbit.quantize.qat.plan import Plan

# Decoded images that stay in memory, together.
_KEPT_BYTES = 2**30
# Ultralytics' form of labels: "batch_idx" [n], "cls" [n, 1], "bboxes" [n, 4] centre and extent as fractions.
Targets = dict[str, Tensor]


@dataclass(frozen=True)
class Labels:
    """An image's objects: ``boxes`` float32 [n, 4], x1 y1 x2 y2 in its own pixels, ``classes`` int64 [n]."""

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]


class Crops:
    """Random crops of images: scaled, cut or padded to a square, mirrored half of the time, lighter or darker; half
    of the squares are put together from four. The teacher answers whatever it is shown, so no label must survive this.

    A step's batch depends on seed, step and rank only, so that a resumed run sees what an uninterrupted one would.
    """

    def __init__(
        self, paths: tuple[Path, ...], plan: Plan, longest: int, labels: Mapping[Path, Labels] | None = None
    ) -> None:
        """``longest``: images are first scaled to this longer side, in pixels."""
        self._paths, self._plan, self._longest, self._labels = paths, plan, longest, labels or {}
        self._kept: dict[int, tuple[NDArray[np.uint8], float]] = {}
        self._bytes = 0

    def _image(self, index: int) -> tuple[NDArray[np.uint8], float]:
        """An image and its scale."""
        if index in self._kept:
            return self._kept[index]
        image = read_image(self._paths[index])
        ratio = self._longest / max(image.shape[:2])
        image = _resized(image, ratio)
        if self._bytes + image.nbytes <= _KEPT_BYTES:
            self._kept[index] = image, ratio
            self._bytes += image.nbytes
        return image, ratio

    def _crop(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Labels]:
        size, index = self._plan.size, int(rng.integers(len(self._paths)))
        image, ratio = self._image(index)
        zoom = float(rng.uniform(0.5, 1.1))
        height, width = (max(16, round(side * zoom)) for side in image.shape[:2])
        top, left = int(rng.integers(max(0, height - size) + 1)), int(rng.integers(max(0, width - size) + 1))
        shown = min(size, height), min(size, width)
        down, right = int(rng.integers(size - shown[0] + 1)), int(rng.integers(size - shown[1] + 1))
        # Scales the window only, not the whole image; pixel centres map as cv2.resize maps them.
        x, y = width / image.shape[1], height / image.shape[0]
        window = np.array([[x, 0, x / 2 - 0.5 - left], [0, y, y / 2 - 0.5 - top]])
        cut = cv2.warpAffine(image, window, shown[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        # Gain and offset of an image that was taken in another light.
        light = np.arange(256) * rng.uniform(0.7, 1.3) + rng.uniform(-20, 20)
        square = np.full((size, size, 3), PAD_VALUE, np.uint8)
        square[down : down + shown[0], right : right + shown[1]] = cv2.LUT(
            cut, np.clip(np.rint(light), 0, 255).astype(np.uint8)
        )
        mirrored = bool(rng.random() < 0.5)
        found = self._labels.get(self._paths[index], Labels(np.zeros((0, 4), np.float32), np.zeros(0, np.int64)))
        moved = found.boxes * (ratio * zoom) + np.array([right - left, down - top] * 2, np.float32)
        labels = _shown(Labels(moved, found.classes), right, down, right + shown[1], down + shown[0])
        if mirrored:
            boxes = labels.boxes
            boxes = np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], 1)
            square, labels = square[:, ::-1], Labels(boxes, labels.classes)
        return square, labels

    def _square(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Labels]:
        """One crop, or four that meet in a random point."""
        if rng.random() < 0.5:
            return self._crop(rng)
        size = self._plan.size
        x, y = (int(v) for v in rng.integers(round(0.3 * size), round(0.7 * size), 2))
        square, parts = np.empty((size, size, 3), np.uint8), []
        for x1, y1, x2, y2 in ((0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)):
            crop, labels = self._crop(rng)
            square[y1:y2, x1:x2] = crop[y1:y2, x1:x2]
            parts.append(_shown(labels, x1, y1, x2, y2))
        boxes, classes = (np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "classes"))
        return square, Labels(boxes, classes)

    def batch(self, step: int, rank: int) -> tuple[Tensor, Targets]:
        """float32 [batch, 3, size, size] RGB in [0, 1], channels last, and what is labelled in it."""
        rng = np.random.default_rng([self._plan.seed, step, rank])
        squares, labels = zip(*(self._square(rng) for _ in range(self._plan.batch)), strict=True)
        stack = np.stack([square[..., ::-1].transpose(2, 0, 1) for square in squares])
        pixels = torch.from_numpy(np.ascontiguousarray(stack)).float().div_(255)
        boxes = np.concatenate([label.boxes for label in labels]) / self._plan.size
        targets = {
            "batch_idx": torch.from_numpy(
                np.repeat(np.arange(len(labels)), [len(one.boxes) for one in labels])
            ).float(),
            "cls": torch.from_numpy(np.concatenate([label.classes for label in labels])).float()[:, None],
            "bboxes": torch.from_numpy(
                np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
            ).float(),
        }
        return pixels.contiguous(memory_format=torch.channels_last), targets


def _shown(labels: Labels, left: int, top: int, right: int, bottom: int) -> Labels:
    """The objects within a window, cut at its edges: those of which a quarter shows, and more than two pixels."""
    boxes = np.clip(labels.boxes, [left, top] * 2, [right, bottom] * 2).astype(np.float32)
    shown, whole = boxes[:, 2:] - boxes[:, :2], labels.boxes[:, 2:] - labels.boxes[:, :2]
    keep = (shown > 2).all(1) & (shown.prod(1) >= 0.25 * whole.prod(1))
    return Labels(boxes[keep], labels.classes[keep])


def _resized(image: NDArray[np.uint8], ratio: float) -> NDArray[np.uint8]:
    height, width = (max(16, round(side * ratio)) for side in image.shape[:2])
    method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
