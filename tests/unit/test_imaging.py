"""The one preprocessing, its inverse, and pictures that are none."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit.errors import InputError
from lowbit.imaging import (
    PAD_VALUE,
    InputSpec,
    Letterbox,
    fingerprint,
    letterbox,
    picture_size,
    preprocess,
    read_image,
    to_tensor,
)

sides = st.integers(1, 3000)


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 9, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@given(width=sides, height=sides, size=st.integers(32, 1280), corners=st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_boxes_map_back_exactly(width: int, height: int, size: int, corners: list[float]) -> None:
    place = Letterbox.fit(width, height, size)
    box = np.array([corners], np.float32) * np.array([width, height] * 2, np.float32)
    back = place.to_picture(place.to_square(box))
    # One float32 step of the square's pixels, seen from the picture.
    assert np.abs(back - box).max() <= 2e-6 * size / min(place.scale_x, place.scale_y) + 1e-4


@given(width=sides, height=sides, size=st.integers(32, 1280))
def test_the_picture_lies_in_the_middle_and_fits(width: int, height: int, size: int) -> None:
    place = Letterbox.fit(width, height, size)
    corners = place.to_square(np.array([[0, 0, width, height]], np.float32))[0]
    assert corners[0] >= 0
    assert corners[1] >= 0
    assert corners[2] <= size + 1e-3
    assert corners[3] <= size + 1e-3
    for low, high in ((corners[0], corners[2]), (corners[1], corners[3])):
        assert abs(low - (size - high)) <= 1 + 1e-3
    assert max(corners[2] - corners[0], corners[3] - corners[1]) == pytest.approx(size, abs=1e-3)


def test_boxes_outside_are_clipped_to_the_picture() -> None:
    place = Letterbox.fit(100, 50, 64)
    back = place.to_picture(np.array([[-10, -10, 90, 90]], np.float32))
    assert back.tolist() == [[0, 0, 100, 50]]


@pytest.mark.parametrize(("width", "height"), [(640, 480), (30, 400), (64, 64), (1, 1000), (7, 5)])
def test_letterbox_pads_with_grey_and_keeps_the_picture(width: int, height: int) -> None:
    square, place = letterbox(np.full((height, width, 3), 200, np.uint8), 64)
    assert square.shape == (64, 64, 3)
    inside = np.zeros((64, 64), bool)
    x1, y1, x2, y2 = np.rint(place.to_square(np.array([[0, 0, width, height]], np.float32))[0]).astype(int)
    inside[y1:y2, x1:x2] = True
    assert (square[inside] == 200).all()
    assert (square[~inside] == PAD_VALUE).all()


def test_the_tensor_is_rgb_in_unit_range() -> None:
    square = np.zeros((32, 32, 3), np.uint8)
    square[..., 2] = 255  # red, in OpenCV's order
    square[0, 0] = (51, 0, 0)
    tensor = to_tensor(square, InputSpec(len(square)))
    assert (tensor.shape, tensor.dtype) == ((1, 3, 32, 32), np.float32)
    assert tensor.flags["C_CONTIGUOUS"]
    assert tensor[0, :, 5, 5].tolist() == [1, 0, 0]
    assert tensor[0, :, 0, 0] == pytest.approx([0, 0, 0.2])


def test_declared_colours_and_scaling() -> None:
    square = np.zeros((32, 32, 3), np.uint8)
    square[:] = (10, 20, 30)  # blue, green, red
    plain = to_tensor(square, InputSpec(32, colors="bgr", std=(1.0, 1.0, 1.0)))
    assert plain[0, :, 3, 3].tolist() == [10, 20, 30]
    normal = to_tensor(square, InputSpec(32, mean=(30.0, 10.0, 0.0), std=(10.0, 5.0, 2.0)))
    assert normal[0, :, 3, 3] == pytest.approx([0, 2, 5])
    assert normal.dtype == np.float32


def test_every_spec_has_a_name_of_its_own() -> None:
    specs = [InputSpec(64), InputSpec(64, colors="bgr"), InputSpec(64, std=(1.0,) * 3), InputSpec(64, mean=(1.0,) * 3)]
    assert len({spec.preprocessing for spec in specs}) == 4
    # Artifacts that were built under this name stay valid.
    assert specs[0].preprocessing == "letterbox-114-bilinear-rgb-unit/1"
    assert [InputSpec.of_json(json.loads(json.dumps(asdict(spec)))) for spec in specs] == specs


@pytest.mark.parametrize(
    "bad", [{"colors": "grb"}, {"mean": (0.0, 0.0)}, {"std": (1.0, 0.0, 1.0)}, {"std": (1.0, float("nan"), 1.0)}]
)
def test_input_specs_that_make_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        InputSpec(64, **bad)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_picture_size(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), picture(90, 60))
    assert picture_size(path) == (90, 60)


def test_a_file_becomes_the_network_s_input(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(90, 60))
    tensor, place = preprocess(tmp_path / "a.png", InputSpec(64))
    assert tensor.shape == (1, 3, 64, 64)
    assert (place.width, place.height) == (90, 60)


def encoded(suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, picture(200, 150))[1])


HUGE = b"\x89PNG\r\n\x1a\n" + bytes(8) + (60000).to_bytes(4, "big") * 2 + b"IEND"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"no picture at all", "no picture"),
        (encoded(".jpg")[:-200], "truncated"),
        (encoded(".png")[:-200], "truncated"),
        (HUGE, "over the limit"),
    ],
    ids=["empty", "text", "jpeg", "png", "bomb"],
)
def test_what_is_no_whole_picture_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.jpg: .*{said}"):
        read_image(path)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_whole_pictures_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"good{suffix}"
    path.write_bytes(encoded(suffix))
    assert read_image(path).shape == (150, 200, 3)


def test_fingerprints_know_copies_from_other_pictures(tmp_path: Path) -> None:
    paths = []
    for name, image in {
        "original.png": picture(640, 480),
        "copy.jpg": cv2.resize(picture(640, 480), (320, 240), interpolation=cv2.INTER_AREA),
        "other.png": picture(640, 480, seed=1),
    }.items():
        cv2.imwrite(str(tmp_path / name), image, [cv2.IMWRITE_JPEG_QUALITY, 50])
        paths.append(tmp_path / name)
    original, copy, other = map(fingerprint, paths)
    assert (original != copy).sum() < 20
    assert (original != other).sum() > 60
