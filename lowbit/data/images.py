"""Image files: decoding, sizes, completeness, hashes."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lowbit.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# A decoder must not be talked into allocating gigabytes by a few bytes of header.
MAX_PIXELS = 100_000_000


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image to uint8 [height, width, 3], BGR, EXIF orientation ignored as COCO's boxes do.

    Raises :class:`InputError` if the file is missing, truncated, not an image or absurdly large.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    check_complete(path, data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise InputError(f"{path}: is no image that OpenCV can decode. Replace the file or take it out of the list.")
    return np.asarray(image, np.uint8)


def check_complete(path: Path, data: bytes) -> None:
    """Refuse empty and truncated JPEG and PNG files, and images of more than :data:`MAX_PIXELS` pixels.

    OpenCV decodes a truncated JPEG to an image with a grey rest and says nothing, so the end marker is looked for.
    Raises :class:`InputError`.
    """
    if not data:
        raise InputError(f"{path}: the file is empty. Fetch it again or take it out of the list.")
    truncated = (data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9", -65536) < 0) or (
        data[:8] == b"\x89PNG\r\n\x1a\n" and data.rfind(b"IEND", -64) < 0
    )
    if truncated:
        raise InputError(f"{path}: the image is truncated (no end marker). Fetch the file again.")
    width, height = _header_size(data)
    if width * height > MAX_PIXELS:
        raise InputError(f"{path}: {width} x {height} pixels is over the limit of {MAX_PIXELS}. Scale it down first.")


def _header_size(data: bytes) -> tuple[int, int]:
    """Width and height from a PNG's or JPEG's header, (0, 0) where there is none; decodes nothing."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data[:2] == b"\xff\xd8":
        at = 2
        while at + 9 <= len(data) and data[at] == 0xFF:
            marker = data[at + 1]
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
            at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0


def image_size(path: Path) -> tuple[int, int]:
    """An image's width and height in pixels, from its header where OpenCV need not decode it.

    Raises :class:`InputError` as :func:`read_image` does.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    check_complete(path, data)
    width, height = _header_size(data)
    if not width or not height:
        height, width = read_image(path).shape[:2]
    return width, height


def hash_images(paths: list[Path]) -> dict[str, Path]:
    """Hash every file and refuse the unreadable ones; two threads hide the disk's latency."""

    def one(path: Path) -> str:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}). Mend the list or the file.") from error
        check_complete(path, data)
        return hashlib.sha256(data).hexdigest()

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(pool.map(one, paths), paths, strict=True))


def is_file(path: Path) -> bool:
    """``Path.is_file`` that answers no to names that no file can have (too long, with a NUL)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
