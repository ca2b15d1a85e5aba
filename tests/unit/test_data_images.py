"""Image files that are read, and files that are none."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from lowbit.data.images import image_size, read_image
from lowbit.errors import InputError
from tests.unit.data_files import blobs


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_image_size(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), blobs(90, 60))
    assert image_size(path) == (90, 60)


def encoded(suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, blobs(200, 150))[1])


HUGE = b"\x89PNG\r\n\x1a\n" + bytes(8) + (60000).to_bytes(4, "big") * 2 + b"IEND"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"no image at all", "no image"),
        (encoded(".jpg")[:-200], "truncated"),
        (encoded(".png")[:-200], "truncated"),
        (HUGE, "over the limit"),
    ],
    ids=["empty", "text", "jpeg", "png", "bomb"],
)
def test_what_is_no_whole_image_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.jpg: .*{said}"):
        read_image(path)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_whole_images_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"good{suffix}"
    path.write_bytes(encoded(suffix))
    assert read_image(path).shape == (150, 200, 3)
