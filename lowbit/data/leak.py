"""Calibration must not see evaluation images: how that is checked."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lowbit.data.dataset import Dataset
from lowbit.data.images import read_image
from lowbit.data.lists import CalibrationSet
from lowbit.errors import InputError

# Of 256 fingerprint bits: copies of COCO images at two thirds the size and JPEG quality 30 differ in at most 36, and
# different images of COCO val and train in at least 57. Frames of one fixed camera are below it too.
_SIMILAR_BITS = 40
# Of 256 grey levels, the largest difference of any cell of a 32 x 32 grid. Copies of 60 COCO and 40 drawn images: at most
# 5 at JPEG quality 30, in the median 5 and 7 at two thirds and half the size. Frames of one camera with sensor noise and
# an object of a twentieth of the side elsewhere: at least 14. What lies between is rather called similar than a copy: one
# found copy is enough to refuse a list.
_COPY_LEVELS = 8
_GRID = 32


def fingerprint(path: Path) -> NDArray[np.bool_]:
    """A difference hash, bool [256]: which of 16 x 16 neighbouring grey cells gets brighter to the right.

    It changes little when an image is scaled or compressed again (Krawetz, "Kind of Like That", 2013).
    """
    grey = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_4)
    if grey is None:
        raise InputError(f"{path}: is no image that OpenCV can decode. Replace the file or take it out of the list.")
    cells = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.asarray(cells[:, 1:] > cells[:, :-1]).ravel()


def check_leak(dataset: Dataset, calibration: CalibrationSet, *, allow_similar: bool = False) -> tuple[str, ...]:
    """Refuse calibration images that are evaluation images; returns what else the user should know, a sentence each.

    A file with the same bytes is refused, whatever its name. One whose pixels are the same but for scaling and
    compression is refused too, unless ``allow_similar``: an empty scene before a fixed camera looks so. One that is only
    similar, such as other frames of that camera, is counted in what is returned.

    Raises :class:`InputError`.
    """
    if same := same_files(dataset, calibration):
        raise InputError(_refusal(dataset, calibration, same, "the same file"))
    copies, similar = look_alikes(dataset, calibration)
    if copies and not allow_similar:
        text = _refusal(dataset, calibration, copies, "a scaled or re-encoded copy")
        raise InputError(f"{text} If they are other frames of a fixed camera, use --allow-similar.")
    alike = copies + similar
    if not alike:
        return ()
    return (
        f"{calibration.source}: {len(alike)} of its {len(calibration.paths)} images look like evaluation images of "
        f"{dataset.annotations} ({alike[0].name} the first), as frames of one camera do. The measured drop may be smaller "
        "than on other scenes.",
    )


def _refusal(dataset: Dataset, calibration: CalibrationSet, leaks: Sequence[Path], why: str) -> str:
    examples = "; ".join(f"{path.name}, {why}" for path in sorted(leaks)[:3])
    return (
        f"{calibration.source}: {len(leaks)} of its images are evaluation images of {dataset.annotations} ({examples}). "
        "Calibrate on other images: the measured drop would be too small."
    )


def same_files(dataset: Dataset, calibration: CalibrationSet) -> list[Path]:
    """Which calibration images have the bytes of an evaluation image, whatever their name."""
    known = set(dataset.image_hashes)
    return [path for path, one in zip(calibration.paths, calibration.image_hashes, strict=True) if one in known]


def look_alikes(dataset: Dataset, calibration: CalibrationSet) -> tuple[list[Path], list[Path]]:
    """Which calibration images are scaled or re-encoded copies of an evaluation image, and which others are similar to
    one. Raises :class:`InputError` for a file that is no image."""
    evaluated = [image.path for image in dataset.images]
    paths = calibration.paths
    with ThreadPoolExecutor(2) as pool:
        seen = np.stack(list(pool.map(fingerprint, evaluated)))
        mine = list(pool.map(fingerprint, paths))
    cells = cache(_cells)
    copies: list[Path] = []
    similar: list[Path] = []
    for path, bits in zip(paths, mine, strict=True):
        # An image without structure (one colour) has no fingerprint to compare.
        near = np.flatnonzero((seen != bits).sum(1) <= _SIMILAR_BITS) if bits.any() else ()
        if not len(near):
            continue
        own = cells(path)
        least = min(np.abs(own - cells(evaluated[one])).max() for one in map(int, near))
        (copies if least <= _COPY_LEVELS else similar).append(path)
    return copies, similar


def _cells(path: Path) -> NDArray[np.int64]:
    """Mean grey levels of a 32 x 32 grid, [32, 32]."""
    grey = cv2.cvtColor(read_image(path), cv2.COLOR_BGR2GRAY)
    return cv2.resize(grey, (_GRID, _GRID), interpolation=cv2.INTER_AREA).astype(np.int64)
