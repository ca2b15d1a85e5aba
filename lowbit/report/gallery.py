"""The images on which a quantized detector differs most from FP32, drawn with both detectors' boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lowbit import files
from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections
from lowbit.data.images import read_image
from lowbit.measure.metrics import ImageChange
from lowbit.results import ChangedImage, Entry, Status

# Two panels beside each other must fit a laptop's screen and a printed page.
_PANEL = 420
# What a page holds: images of an entry, bytes of one, and of all of them. A report is mailed, and kept by every job.
_IMAGES, _IMAGE_BYTES, _PAGE_BYTES = 3, 28_000, 1_200_000
_QUALITIES = (60, 35, 20)
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
    confidence: float,
) -> list[ChangedImage]:
    """Write ``images/<name>-<n>.jpg`` under a run's folder: FP32 left, quantized right, with the boxes whose
    score is at least ``confidence``; returns what to record."""
    records = []
    for number, change in enumerate(changes, 1):
        image = dataset.images[change.image]
        pixels = read_image(image.path, as_stored=image.as_stored)
        panels = [
            _panel(pixels, found[image.id], dataset.category_names, title, confidence)
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


@dataclass(frozen=True)
class Shown:
    """What the page shows of an entry's changed images: WebP files with what is to be said of each, and how many are left out."""

    images: list[tuple[bytes, ChangedImage]]
    left_out: int


def embed(entries: Sequence[Entry], recommended: Sequence[bool], folder: Path) -> list[Shown | None]:
    """What a page of these entries shows of their changed images: those of the ``recommended``, then of what failed or is
    inconclusive, the largest drop first, within a fixed number of bytes for the whole page. None: no images to be shown.

    ``folder``: the run's; files outside of it and what is no image are left out.
    """
    judged = (Status.FAILED, Status.ERROR, Status.INCONCLUSIVE)
    found: list[Shown | None] = [None] * len(entries)
    room = _PAGE_BYTES
    for index in sorted(range(len(entries)), key=lambda n: (not recommended[n], -(entries[n].drop or 0.0))):
        entry = entries[index]
        if not entry.changed_images or not (recommended[index] or entry.status in judged):
            continue
        images = []
        for image in entry.changed_images[:_IMAGES]:
            data = _small(folder, image) if room >= _IMAGE_BYTES else None
            if data is not None:
                images.append((data, image))
                room -= len(data)
        found[index] = Shown(images, len(entry.changed_images) - len(images))
    return found


def _small(folder: Path, image: ChangedImage) -> bytes | None:
    """A drawn image as WebP of at most ``_IMAGE_BYTES``, None for what is gone, elsewhere or no image."""
    path = (folder / image.file).resolve()
    pixels = cv2.imread(str(path)) if path.is_file() and path.is_relative_to(folder.resolve()) else None
    while pixels is not None and min(pixels.shape[:2]) > 1:
        for quality in _QUALITIES:
            ok, data = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, quality])
            if not ok:
                raise RuntimeError(f"OpenCV could not encode {path} as WebP")
            if data.nbytes <= _IMAGE_BYTES:
                return data.tobytes()
        pixels = cv2.resize(pixels, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    return None


def _panel(
    pixels: NDArray[np.uint8], found: Detections, names: tuple[str, ...], title: str, confidence: float
) -> NDArray[np.uint8]:
    ratio = _PANEL / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * ratio)), max(1, round(pixels.shape[0] * ratio)))
    canvas = np.ascontiguousarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    for index in np.flatnonzero(found.scores >= confidence)[::-1]:
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
