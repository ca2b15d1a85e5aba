"""The drawn data sets of shapes10n, made on first use and kept."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

from lowbit import files
from lowbit.bundled.scenes import SCENES_VERSION, SPLIT_SEEDS, write_split
from lowbit.data.coco import load_coco
from lowbit.data.dataset import Dataset
from lowbit.data.lists import CalibrationSet, load_calibration
from lowbit.data.load import images_of


def _split(folder: Path, split: str, count: int) -> Path:
    """The folder that holds ``count`` drawn images of ``split``; drawn now if they are not there yet.

    The versions of what draws them are part of the folder's name: images of other versions are other images.
    """
    versions = f"v{SCENES_VERSION}-numpy{np.__version__}-cv{cv2.__version__}"
    target = folder / f"shapes10-{split}{count}-{versions}"
    target.mkdir(parents=True, exist_ok=True)
    with FileLock(target / ".lock"):
        if not (target / f"instances_{split}.json").exists():
            write_split(target, split, count)
    return target


def validation(folder: Path, count: int) -> Dataset:
    """``count`` drawn validation images with their boxes, kept under ``folder``."""
    target = _split(folder, "val", count)
    return load_coco(target / "instances_val.json", target)


def calibration(folder: Path, count: int) -> CalibrationSet:
    """``count`` drawn calibration images, from seeds that neither training nor validation uses."""
    assert len(set(SPLIT_SEEDS.values())) == len(SPLIT_SEEDS)
    target = _split(folder, "calibration", count)
    listing = target / "calibration.txt"
    if not listing.exists():
        files.write_atomic(listing, "".join(f"calibration/{i:06d}.png\n" for i in range(count)))
    return load_calibration(listing)


def training(folder: Path, count: int) -> CalibrationSet:
    """The first ``count`` images that shapes10n was trained on; their source is the COCO file that labels them."""
    target = _split(folder, "train", count)
    return images_of(target / "instances_train.json")
