"""The images on which a quantized detector differs most from FP32, drawn with both detectors' boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lowbit import files
from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections
from lowbit.data.images import read_image
from lowbit.measure.metrics import DEPLOYED_CONFIDENCE, ImageChange
from lowbit.results import ChangedImage

# Two panels beside each other must fit a laptop's screen and a printed page.
_PANEL = 420
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


def choose(changes: Sequence[ImageChange], lost: int = 2, gained: int = 1) -> list[ImageChange]:
    """The images with the largest loss and those with the largest gain; none twice."""
    worst = [change for change in changes[:lost] if change.lost > change.gained]
    best = [change for change in reversed(changes[-gained:]) if change.gained > change.lost]
    return worst + best


def save(
    dataset: Dataset,
    changes: Sequence[ImageChange],
    reference: Mapping[int, Detections],
    quantized: Mapping[int, Detections],
    folder: Path,
    name: str,
) -> list[ChangedImage]:
    """Write ``images/<name>-<n>.jpg`` under a run's folder: FP32 left, quantized right; returns what to record."""
    records = []
    for number, change in enumerate(changes, 1):
        image = dataset.images[change.image]
        pixels = read_image(image.path, as_stored=image.as_stored)
        panels = [
            _panel(pixels, found[image.id], dataset.category_names, title)
            for found, title in ((reference, "FP32"), (quantized, "quantized"))
        ]
        gap = np.full((panels[0].shape[0], 6, 3), 255, np.uint8)
        ok, data = cv2.imencode(".jpg", np.hstack([panels[0], gap, panels[1]]), [cv2.IMWRITE_JPEG_QUALITY, 80])
        if not ok:
            raise RuntimeError(f"OpenCV could not encode {image.path} as JPEG")
        target = folder / "images" / f"{name}-{number}.jpg"
        files.write_atomic(target, data.tobytes())
        records.append(
            ChangedImage(
                file=str(target.relative_to(folder)), image=image.path.name, lost=change.lost, gained=change.gained
            )
        )
    return records


def _panel(pixels: NDArray[np.uint8], found: Detections, names: tuple[str, ...], title: str) -> NDArray[np.uint8]:
    ratio = _PANEL / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * ratio)), max(1, round(pixels.shape[0] * ratio)))
    canvas = np.ascontiguousarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    for index in np.flatnonzero(found.scores >= DEPLOYED_CONFIDENCE)[::-1]:
        x1, y1, x2, y2 = (int(v) for v in np.rint(found.boxes[index] * ratio))
        # Dark on light: seen on any image, and in print without colour.
        cv2.rectangle(canvas, (x1, y1), (x2, y2), _PAPER, 3)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), _INK, 1)
        _label(canvas, f"{names[int(found.classes[index])]} {found.scores[index]:.2f}", x1, y1)
    _label(canvas, title, 2, 14, scale=0.5)
    return np.asarray(canvas, np.uint8)


def _label(canvas: NDArray[np.uint8], text: str, left: int, bottom: int, scale: float = 0.36) -> None:
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    bottom = max(bottom, height + base)
    left = max(0, min(left, canvas.shape[1] - width))
    cv2.rectangle(canvas, (left, bottom - height - base), (left + width, bottom), _PAPER, cv2.FILLED)
    cv2.putText(canvas, text, (left, bottom - base + 1), cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, 1, cv2.LINE_AA)
