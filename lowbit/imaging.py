"""Letterbox and its inverse: the one preprocessing of calibration, evaluation and timing.

A picture is scaled to fit a square, centred on grey 114 (Ultralytics' value), and turned into float32 NCHW with the
colour order and the scaling that the detector's :class:`InputSpec` says: RGB in [0, 1] unless declared otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lowbit.errors import InputError

PAD_VALUE = 114
# A decoder must not be talked into allocating gigabytes by a few bytes of header.
MAX_PIXELS = 100_000_000


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a detector wants to be shown.

    ``size``: side of the square in pixels. ``colors``: ``rgb`` or ``bgr``. ``mean``, ``std``: of each channel in that
    order, in units of [0, 255]; the network gets ``(pixel - mean) / std``. Raises :class:`InputError` for others.
    """

    size: int
    colors: str = "rgb"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (255.0, 255.0, 255.0)

    def __post_init__(self) -> None:
        if self.colors not in ("rgb", "bgr"):
            raise InputError(f"colors = {self.colors!r} is neither 'rgb' nor 'bgr'.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not np.isfinite(values).all():
                raise InputError(f"{name} = {list(values)} is not three finite numbers, one a channel.")
        if min(self.std) <= 0:
            raise InputError(f"std = {list(self.std)}: must be above 0; 255 turns [0, 255] into [0, 1].")

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> InputSpec:
        """From what ``dataclasses.asdict`` and JSON made of one."""
        return cls(values["size"], values["colors"], tuple(values["mean"]), tuple(values["std"]))

    @property
    def preprocessing(self) -> str:
        """Enters the key of every artifact: calibration data made by another preprocessing are other data."""
        plain = self.mean == (0, 0, 0) and self.std == (255, 255, 255)
        scaling = "unit" if plain else f"{self.mean}-{self.std}"
        return f"letterbox-{PAD_VALUE}-bilinear-{self.colors}-{scaling}/1"


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a picture lies in its square: ``x' = x * scale_x + left``, ``y' = y * scale_y + top``; pixels."""

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: int
    top: int

    @classmethod
    def fit(cls, width: int, height: int, size: int) -> Letterbox:
        """The placement of a ``width`` x ``height`` picture in a ``size`` x ``size`` square.

        The scales are those of the resized picture, whose sides are whole pixels, so the inverse is exact.
        """
        ratio = min(size / width, size / height)
        new_width, new_height = max(1, round(width * ratio)), max(1, round(height * ratio))
        return cls(
            width,
            height,
            new_width / width,
            new_height / height,
            (size - new_width) // 2,
            (size - new_height) // 2,
        )

    def to_square(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes x1 y1 x2 y2, float [n, 4], from the picture's pixels to the square's."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        return (boxes * scale + np.array([self.left, self.top] * 2)).astype(np.float32)

    def to_picture(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes x1 y1 x2 y2, float [n, 4], from the square's pixels to the picture's, clipped to the picture."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        back = (boxes - np.array([self.left, self.top] * 2)) / scale
        return np.clip(back, 0, np.array([self.width, self.height] * 2)).astype(np.float32)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode a picture to uint8 [height, width, 3], BGR, EXIF orientation ignored as COCO's boxes do.

    Raises :class:`InputError` if the file is missing, truncated, not a picture or absurdly large.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    check_complete(path, data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise InputError(f"{path}: is no picture that OpenCV can decode. Replace the file or take it out of the list.")
    return np.asarray(image, np.uint8)


def check_complete(path: Path, data: bytes) -> None:
    """Refuse empty and truncated JPEG and PNG files, and pictures of more than :data:`MAX_PIXELS` pixels.

    OpenCV decodes a truncated JPEG to a picture with a grey rest and says nothing, so the end marker is looked for.
    Raises :class:`InputError`.
    """
    if not data:
        raise InputError(f"{path}: the file is empty. Fetch it again or take it out of the list.")
    truncated = (data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9", -65536) < 0) or (
        data[:8] == b"\x89PNG\r\n\x1a\n" and data.rfind(b"IEND", -64) < 0
    )
    if truncated:
        raise InputError(f"{path}: the picture is truncated (no end marker). Fetch the file again.")
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


def picture_size(path: Path) -> tuple[int, int]:
    """A picture's width and height in pixels, from its header where OpenCV need not decode it.

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


def letterbox(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], Letterbox]:
    """Place a BGR picture, uint8 [h, w, 3], in a square; returns uint8 [size, size, 3] and the placement."""
    height, width = image.shape[:2]
    place = Letterbox.fit(width, height, size)
    new_width, new_height = round(width * place.scale_x), round(height * place.scale_y)
    resized = image
    if (new_width, new_height) != (width, height):
        resized = np.asarray(cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR), np.uint8)
    square = np.full((size, size, 3), PAD_VALUE, np.uint8)
    square[place.top : place.top + new_height, place.left : place.left + new_width] = resized
    return square, place


def to_tensor(square: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """uint8 BGR [size, size, 3] to float32 [1, 3, size, size] in the detector's colour order and scaling."""
    planes = cv2.split(square)
    tensor = np.empty((1, 3, *square.shape[:2]), np.float32)
    ordered = planes[::-1] if spec.colors == "rgb" else planes
    for plane, target, mean, std in zip(ordered, tensor[0], spec.mean, spec.std, strict=True):
        gain = np.float32(1 / std)
        np.multiply(plane, gain, out=target, dtype=np.float32)
        if mean:
            target -= np.float32(mean) * gain
    return tensor


def preprocess(path: Path, spec: InputSpec) -> tuple[NDArray[np.float32], Letterbox]:
    """A file to the network's input, float32 [1, 3, size, size], and the placement that maps its boxes back.

    Raises :class:`InputError` as :func:`read_image` does.
    """
    square, place = letterbox(read_image(path), spec.size)
    return to_tensor(square, spec), place


FINGERPRINT_BITS = 256


def fingerprint(path: Path) -> NDArray[np.bool_]:
    """A difference hash, bool [256]: which of 16 x 16 neighbouring grey cells gets brighter to the right.

    It changes little when a picture is scaled or compressed again (Krawetz, "Kind of Like That", 2013).
    """
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_IGNORE_ORIENTATION
    grey = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), flags)
    if grey is None:
        raise InputError(f"{path}: is no picture that OpenCV can decode. Replace the file or take it out of the list.")
    cells = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.asarray(cells[:, 1:] > cells[:, :-1]).ravel()
