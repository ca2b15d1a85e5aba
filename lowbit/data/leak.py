"""Calibration must not see evaluation images: how that is checked."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lowbit.data.dataset import Dataset
from lowbit.data.lists import CalibrationSet
from lowbit.errors import InputError

# COCO's file names are image ids, so the same name is the same image, however it was encoded.
_COCO_NAME = re.compile(r"(?:COCO_\w+_)?(\d{12})\.\w+", re.ASCII)
# Of 256 fingerprint bits: copies of COCO images at two thirds the size and JPEG quality 30 differ in at most 35, and
# different images of COCO val and train in at least 57.
_SAME_IMAGE_BITS = 40
FINGERPRINT_BITS = 256


def fingerprint(path: Path) -> NDArray[np.bool_]:
    """A difference hash, bool [256]: which of 16 x 16 neighbouring grey cells gets brighter to the right.

    It changes little when an image is scaled or compressed again (Krawetz, "Kind of Like That", 2013).
    """
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_IGNORE_ORIENTATION
    grey = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), flags)
    if grey is None:
        raise InputError(f"{path}: is no image that OpenCV can decode. Replace the file or take it out of the list.")
    cells = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.asarray(cells[:, 1:] > cells[:, :-1]).ravel()


def check_leak(dataset: Dataset, calibration: CalibrationSet) -> None:
    """Raise :class:`InputError` if calibration saw an evaluation image: by content, by COCO id, or as a copy.

    Copies that were scaled or encoded again are found by their difference hash (:func:`fingerprint`).
    """
    same = dataset.image_hashes.keys() & calibration.image_hashes.keys()
    leaks = {calibration.image_hashes[h]: "the same file" for h in same}
    ids = {match.group(1) for image in dataset.images if (match := _COCO_NAME.fullmatch(image.path.name))}
    for path in calibration.paths:
        match = _COCO_NAME.fullmatch(path.name)
        if match and match.group(1) in ids:
            leaks.setdefault(path, "the same COCO id")
    with ThreadPoolExecutor(2) as pool:
        seen = np.stack(list(pool.map(fingerprint, [image.path for image in dataset.images])))
        mine = list(pool.map(fingerprint, calibration.paths))
    for path, bits in zip(calibration.paths, mine, strict=True):
        # An image without structure (one colour) has no fingerprint to compare.
        if bits.any() and int((seen != bits).sum(1).min()) <= _SAME_IMAGE_BITS:
            leaks.setdefault(path, "a scaled or re-encoded copy")
    if leaks:
        examples = "; ".join(f"{path.name}, {why}" for path, why in sorted(leaks.items())[:3])
        raise InputError(
            f"{calibration.source}: {len(leaks)} of its images are evaluation images of {dataset.annotations} "
            f"({examples}). Calibrate on other images: the measured drop would be too small."
        )
