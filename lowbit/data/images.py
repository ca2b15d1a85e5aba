"""Image files: headers, EXIF orientation, decoding, completeness, hashes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lowbit.errors import InputError

# Pillow's own, taken before Ultralytics puts another one in its place, which installs a package for files that are no image.
_open_image = Image.open
# What Ultralytics takes for an image in a folder, so that both see the same images there; one that OpenCV cannot decode
# is refused when it is read.
SUFFIXES = (
    ".avif",
    ".bmp",
    ".dng",
    ".heic",
    ".heif",
    ".jp2",
    ".jpeg",
    ".jpg",
    ".mpo",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
)
# A decoder must not be talked into allocating gigabytes by a few bytes of header. Pillow's own limit.
MAX_PIXELS = 89_478_485
_ORIENTATION_TAG = 274


@dataclass(frozen=True, slots=True)
class Header:
    """What an image file says before it is decoded.

    ``width`` and ``height``: pixels as they are stored. ``orientation``: EXIF's, 1 to 8; 1 is displayed as stored, 2 to 4
    are mirrored or upside down, 5 to 8 have width and height exchanged.
    """

    width: int
    height: int
    orientation: int

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height of what the file holds."""
        return self.width, self.height

    @property
    def displayed(self) -> tuple[int, int]:
        """Width and height of what a viewer shows."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(path: Path) -> Header:
    """An image file's size and orientation; decodes nothing where Pillow knows the format.

    Raises :class:`InputError` as :func:`read_image` does.
    """
    data = _bytes_of(path)
    check_complete(path, data)
    return _header(path, data)


def read_image(path: Path, *, as_stored: bool = False) -> NDArray[np.uint8]:
    """Decode an image to uint8 [height, width, 3], BGR, as a viewer displays it: its EXIF orientation is applied.

    ``as_stored``: leave the orientation, for boxes that were drawn without it. Raises :class:`InputError` if the file is
    missing, truncated, not an image or absurdly large.
    """
    data = _bytes_of(path)
    check_complete(path, data)
    stored = _decode(path, data, cv2.IMREAD_COLOR)
    return stored if as_stored else upright(stored, _header(path, data).orientation)


def upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Stored pixels [height, width, ...] as EXIF ``orientation`` displays them (CIPA DC-008, tag 274)."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)


def upright_boxes(boxes: NDArray[np.float32], header: Header) -> NDArray[np.float32]:
    """Boxes x1 y1 x2 y2, float [n, 4], from the stored pixels of an image to those that are displayed."""
    x1, y1, x2, y2 = boxes.T
    width, height = header.stored
    if header.orientation >= 5:
        x1, y1, x2, y2, width, height = y1, x1, y2, x2, height, width
    if header.orientation in (3, 4, 7, 8):
        y1, y2 = height - y2, height - y1
    if header.orientation in (2, 3, 6, 7):
        x1, x2 = width - x2, width - x1
    return np.stack([x1, y1, x2, y2], 1).astype(np.float32)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Fix the list or the file.") from error


def _decode(path: Path, data: bytes, flags: int) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise InputError(f"{path}: is no image that OpenCV can decode. Replace the file or take it out of the list.")
    return np.asarray(image, np.uint8)


def check_complete(path: Path, data: bytes) -> None:
    """Refuse empty and truncated JPEG and PNG files, and images of more than :data:`MAX_PIXELS` pixels.

    OpenCV decodes a truncated JPEG to an image with a grey rest and says nothing, so the end marker is looked for: behind
    the start of the pixels, for a thumbnail in the header has one too, and to the end, for phones append films.
    Raises :class:`InputError`.
    """
    if not data:
        raise InputError(f"{path}: the file is empty. Fetch it again or take it out of the list.")
    truncated = (data[:2] == b"\xff\xd8" and data.find(b"\xff\xd9", _jpeg_pixels(data)) < 0) or (
        data[:8] == b"\x89PNG\r\n\x1a\n" and data.rfind(b"IEND", -64) < 0
    )
    if truncated:
        raise InputError(f"{path}: the image is truncated (no end marker). Fetch the file again.")
    header = _header(path, data)
    if header.width * header.height > MAX_PIXELS:
        raise InputError(
            f"{path}: {header.width} x {header.height} pixels is over the limit of {MAX_PIXELS}. Scale it down first."
        )


def _header(path: Path, data: bytes) -> Header:
    try:
        image = _open_image(io.BytesIO(data))
    except (
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:  # a warning that is an error to some
        raise InputError(f"{path}: is over the limit of {MAX_PIXELS} pixels ({error}). Scale it down first.") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        height, width = _decode(path, data, cv2.IMREAD_COLOR).shape[:2]
        return Header(width, height, 1)
    with image:
        # OpenCV and Pillow both turn this format while decoding and give the displayed size.
        orientation = 1 if image.format == "TIFF" else _orientation(image)
        return Header(*image.size, orientation)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none or it makes no sense."""
    # Not Image.getexif(), which also takes an orientation from XMP: neither OpenCV nor browsers do.
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        value = exif.get(_ORIENTATION_TAG)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, IndexError, Warning):
        value = None
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _jpeg_pixels(data: bytes) -> int:
    """Where the header of a JPEG ends: behind its segments of known length (ITU-T T.81, B.1.1.4)."""
    place = 2
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != b"\xda":
        # Markers may be padded with any number of 0xff, and 0x01 and 0xd0 to 0xd7 have no length.
        code = data[place + 1 : place + 2]
        if code == b"\xff":
            place += 1
        elif code == b"\x01" or b"\xd0" <= code <= b"\xd7":
            place += 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return place


def hash_images(paths: Sequence[Path]) -> tuple[str, ...]:
    """SHA-256 of every file's bytes, in order. Raises :class:`InputError` for files that are missing or incomplete."""

    def one(path: Path) -> str:
        data = _bytes_of(path)
        check_complete(path, data)
        return hashlib.sha256(data).hexdigest()

    # Two threads hide the disk's latency.
    with ThreadPoolExecutor(2) as pool:
        return tuple(pool.map(one, paths))


def is_file(path: Path) -> bool:
    """``Path.is_file`` that answers no to names that no file can have (too long, with a NUL)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
