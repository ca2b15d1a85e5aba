"""Image files that are read, and files that are none."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from lowbit.data.images import Header, read_header, read_image, upright_boxes
from lowbit.errors import InputError
from tests.unit.data_files import blobs


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_header(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), blobs(90, 60))
    assert read_header(path).stored == read_header(path).displayed == (90, 60)


def encoded(suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, blobs(200, 150))[1])


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header says this size, without its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"no image at all", "no image"),
        (encoded(".jpg")[:-200], "truncated"),
        (encoded(".png")[:-200], "truncated"),
        (png_of(60000, 60000), "over the limit"),
        (png_of(10000, 9000), "over the limit"),
    ],
    ids=["empty", "text", "jpeg", "png", "bomb", "big"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_whole_image_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.jpg: .*{said}"):
        read_image(path)


def test_another_opener_in_pillow_s_place_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ultralytics' looks for a package that it may have to install, for a file that is no image."""

    def opener(*_: object) -> None:
        raise ModuleNotFoundError("pi_heif")

    monkeypatch.setattr(Image, "open", opener)
    path = tmp_path / "a.png"
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png: is no image"):
        read_image(path)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_whole_images_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"good{suffix}"
    path.write_bytes(encoded(suffix))
    assert read_image(path).shape == (150, 200, 3)


FORMATS = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF"}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", FORMATS)
def test_images_are_read_as_they_are_displayed(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a{suffix}"
    lossless = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(blobs(90, 60)).save(path, FORMATS[suffix], exif=exif, **lossless)
    header = read_header(path)
    if suffix != ".tif":  # always turned while decoding
        assert (header.stored, header.orientation) == ((90, 60), orientation)
        assert read_image(path, as_stored=True).shape == (60, 90, 3)
    with Image.open(path) as image:
        displayed = np.asarray(ImageOps.exif_transpose(image))[..., ::-1]
    seen = read_image(path)
    assert seen.shape[1::-1] == header.displayed == displayed.shape[1::-1]
    # Two JPEG decoders differ by rounding.
    assert np.abs(seen.astype(int) - displayed).mean() < (2 if suffix == ".jpg" else 0.01)
    assert seen.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_turned_as_the_image_is(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((60, 90, 3), np.uint8)
    stored[10:25, 40:80] = 255
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    box = upright_boxes(np.array([[40, 10, 80, 25]], np.float32), Header(90, 60, orientation))
    ys, xs = np.nonzero(read_image(tmp_path / "a.png")[..., 0])
    assert box.tolist() == [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]


def test_metadata_that_make_no_sense(tmp_path: Path) -> None:
    Image.fromarray(blobs(90, 60)).save(tmp_path / "a.jpg", exif=b"Exif\0\0no TIFF header")
    exif = Image.Exif()
    exif[274] = 77
    Image.fromarray(blobs(90, 60)).save(tmp_path / "b.jpg", exif=exif)
    assert [read_header(tmp_path / name).orientation for name in ("a.jpg", "b.jpg")] == [1, 1]
