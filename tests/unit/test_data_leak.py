"""Calibration images that are evaluation images are found, and no others."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lowbit.data.leak import check_leak, fingerprint
from lowbit.errors import InputError
from tests.unit.data_files import blobs, calibration_of, dataset_of, draw


def test_no_leak_between_different_images(tmp_path: Path) -> None:
    val = [draw(tmp_path / f"{n}.jpg", n).name for n in range(20)]
    calibration = [draw(tmp_path / f"{n}.jpg", n).name for n in range(100, 120)]
    check_leak(dataset_of(tmp_path, val), calibration_of(tmp_path, calibration))


@pytest.mark.parametrize(
    ("val", "leaked", "why"),
    [
        (("x.jpg", 1, 96, 95), ("copy.jpg", 1, 96, 95), "the same file"),
        (("000000000139.jpg", 1, 96, 95), ("000000000139.jpg", 2, 96, 95), "the same COCO id"),
        (("COCO_val2014_000000000139.jpg", 1, 96, 95), ("000000000139.png", 2, 96, 95), "the same COCO id"),
        (("x.png", 1, 192, 95), ("copy.jpg", 1, 96, 50), "a scaled or re-encoded copy"),
        (("x.jpg", 1, 192, 95), ("copy.jpg", 1, 192, 30), "a scaled or re-encoded copy"),
    ],
)
def test_leak(tmp_path: Path, val: tuple[str, int, int, int], leaked: tuple[str, int, int, int], why: str) -> None:
    for sub, (name, *how) in (("val", val), ("calib", leaked)):
        draw(tmp_path / sub / "own.jpg", {"val": 50, "calib": 60}[sub])
        draw(tmp_path / sub / name, *how)
    data = dataset_of(tmp_path / "val", [val[0], "own.jpg"])
    with pytest.raises(InputError, match=rf"list\.txt: 1 of its images .*{leaked[0]}, {why}"):
        check_leak(data, calibration_of(tmp_path / "calib", ["own.jpg", leaked[0]]))
    check_leak(data, calibration_of(tmp_path / "calib", ["own.jpg"]))


def test_plain_images_are_no_copies_of_each_other(tmp_path: Path) -> None:
    for name, value in (("dark.png", 10), ("light.png", 200)):
        cv2.imwrite(str(tmp_path / name), np.full((96, 96, 3), value, np.uint8))
    check_leak(dataset_of(tmp_path, ["dark.png"]), calibration_of(tmp_path, ["light.png"]))


def test_fingerprints_know_copies_from_other_images(tmp_path: Path) -> None:
    paths = []
    for name, image in {
        "original.png": blobs(640, 480),
        "copy.jpg": cv2.resize(blobs(640, 480), (320, 240), interpolation=cv2.INTER_AREA),
        "other.png": blobs(640, 480, seed=1),
    }.items():
        cv2.imwrite(str(tmp_path / name), image, [cv2.IMWRITE_JPEG_QUALITY, 50])
        paths.append(tmp_path / name)
    original, copy, other = map(fingerprint, paths)
    assert (original != copy).sum() < 20
    assert (original != other).sum() > 60
