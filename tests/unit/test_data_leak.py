"""Calibration images that are evaluation images are found, and no others."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lowbit.bundled.scenes import draw as draw_scene
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


def test_names_of_digits_say_nothing(tmp_path: Path) -> None:
    """Frame counters look like COCO's file names."""
    for sub, seed in (("val", 1), ("calib", 2)):
        draw(tmp_path / sub / "000000000139.jpg", seed)
    data = dataset_of(tmp_path / "val", ["000000000139.jpg"])
    assert check_leak(data, calibration_of(tmp_path / "calib", ["000000000139.jpg"])) == ()


def frame(path: Path, seed: int, *, empty: bool = False) -> str:
    """A frame of one fixed camera: a drawn scene's background, sensor noise and, unless ``empty``, an object."""
    rng = np.random.default_rng(seed)
    image = draw_scene(7).image + rng.normal(0, 4, (320, 320, 3))
    if not empty:
        x, y = rng.integers(0, 280, 2)
        image[y : y + 32, x : x + 32] = (40, 220, 250)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.clip(image, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return path.name


def test_frames_of_one_camera_pass_with_a_note(tmp_path: Path) -> None:
    val = [frame(tmp_path / "val" / f"{n}.jpg", n) for n in range(20)]
    calibration = [frame(tmp_path / "calib" / f"{n}.jpg", 100 + n) for n in range(10)]
    data = dataset_of(tmp_path / "val", val)
    (note,) = check_leak(data, calibration_of(tmp_path / "calib", calibration))
    assert "10 of its 10 images look like evaluation images" in note


def test_empty_frames_pass_when_the_user_says_so(tmp_path: Path) -> None:
    val = [frame(tmp_path / "val" / "0.jpg", 0, empty=True)]
    data = dataset_of(tmp_path / "val", val)
    calibration = calibration_of(tmp_path / "calib", [frame(tmp_path / "calib" / "0.jpg", 1, empty=True)])
    with pytest.raises(InputError, match=r"0\.jpg, a scaled or re-encoded copy.*--allow-similar"):
        check_leak(data, calibration)
    (note,) = check_leak(data, calibration, allow_similar=True)
    assert "1 of its 1 images look like" in note


def test_the_same_file_is_refused_whatever_is_allowed(tmp_path: Path) -> None:
    frame(tmp_path / "val" / "0.jpg", 0)
    frame(tmp_path / "calib" / "other.jpg", 0)
    calibration = calibration_of(tmp_path / "calib", ["other.jpg"])
    with pytest.raises(InputError, match=r"other\.jpg, the same file"):
        check_leak(dataset_of(tmp_path / "val", ["0.jpg"]), calibration, allow_similar=True)
