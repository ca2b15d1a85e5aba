"""The one preprocessing and its inverse."""

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

from lowbit.data.letterbox import PAD_VALUE, InputSpec, Letterbox, Resize, letterbox, preprocess, to_tensor
from lowbit.errors import InputError
from tests.unit.data_files import blobs

sides = st.integers(1, 3000)


@given(width=sides, height=sides, size=st.integers(32, 1280), corners=st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_boxes_map_back_exactly(width: int, height: int, size: int, corners: list[float]) -> None:
    place = Letterbox.fit(width, height, InputSpec(size))
    box = np.array([corners], np.float32) * np.array([width, height] * 2, np.float32)
    back = place.to_image(place.to_input(box))
    # One float32 step of the square's pixels, seen from the image.
    assert np.abs(back - box).max() <= 2e-6 * size / min(place.scale_x, place.scale_y) + 1e-4


@given(width=sides, height=sides, size=st.integers(32, 1280))
def test_the_image_lies_in_the_middle_and_fits(width: int, height: int, size: int) -> None:
    place = Letterbox.fit(width, height, InputSpec(size))
    corners = place.to_input(np.array([[0, 0, width, height]], np.float32))[0]
    assert corners[0] >= 0
    assert corners[1] >= 0
    assert corners[2] <= size + 1e-3
    assert corners[3] <= size + 1e-3
    for low, high in ((corners[0], corners[2]), (corners[1], corners[3])):
        assert abs(low - (size - high)) <= 1 + 1e-3
    assert max(corners[2] - corners[0], corners[3] - corners[1]) == pytest.approx(size, abs=1e-3)


@pytest.mark.parametrize("resize", ["letterbox", "corner", "stretch"])
def test_rectangular_inputs_and_their_inverse(resize: Resize) -> None:
    spec = InputSpec(64, 96, resize=resize)
    image = np.full((50, 50, 3), 200, np.uint8)
    canvas, place = letterbox(image, spec)
    x1, y1, x2, y2 = place.to_input(np.array([[0, 0, 50, 50]], np.float32))[0]
    expected = {"letterbox": (16, 0, 80, 64), "corner": (0, 0, 64, 64), "stretch": (0, 0, 96, 64)}
    assert (x1, y1, x2, y2) == pytest.approx(expected[resize])
    assert canvas.shape == (64, 96, 3)
    assert (canvas[int(y1) : int(y2), int(x1) : int(x2)] == 200).all()
    assert (canvas == 200).mean() == pytest.approx((x2 - x1) * (y2 - y1) / (64 * 96))
    box = np.array([[5, 10, 20, 40]], np.float32)
    assert place.to_image(place.to_input(box)) == pytest.approx(box, abs=1e-4)


def test_boxes_outside_are_clipped_to_the_image() -> None:
    place = Letterbox.fit(100, 50, InputSpec(64))
    back = place.to_image(np.array([[-10, -10, 90, 90]], np.float32))
    assert back.tolist() == [[0, 0, 100, 50]]


@pytest.mark.parametrize(("width", "height"), [(640, 480), (30, 400), (64, 64), (1, 1000), (7, 5)])
def test_letterbox_pads_with_grey_and_keeps_the_image(width: int, height: int) -> None:
    square, place = letterbox(np.full((height, width, 3), 200, np.uint8), InputSpec(64))
    assert square.shape == (64, 64, 3)
    inside = np.zeros((64, 64), bool)
    x1, y1, x2, y2 = np.rint(place.to_input(np.array([[0, 0, width, height]], np.float32))[0]).astype(int)
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
    specs = [
        InputSpec(64),
        InputSpec(64, colors="bgr"),
        InputSpec(64, std=(1.0,) * 3),
        InputSpec(64, mean=(1.0,) * 3),
        InputSpec(64, 96, resize="stretch"),
    ]
    assert len({spec.preprocessing for spec in specs}) == 5
    # Artifacts that were built under this name stay valid.
    assert specs[0].preprocessing == "letterbox-114-bilinear-rgb-unit/2"
    assert [InputSpec.of_json(json.loads(json.dumps(asdict(spec)))) for spec in specs] == specs


@pytest.mark.parametrize(
    "bad",
    [
        {"colors": "grb"},
        {"resize": "crop"},
        {"mean": (0.0, 0.0)},
        {"std": (1.0, 0.0, 1.0)},
        {"std": (1.0, float("nan"), 1.0)},
    ],
)
def test_input_specs_that_make_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        InputSpec(64, **bad)


def test_a_file_becomes_the_network_s_input(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), blobs(90, 60))
    tensor, place = preprocess(tmp_path / "a.png", InputSpec(64))
    assert tensor.shape == (1, 3, 64, 64)
    assert (place.width, place.height) == (90, 60)
