"""Letterbox and its inverse: the one preprocessing of calibration, evaluation and timing.

An image is scaled to fit a square, centred on grey 114 (Ultralytics' value), and turned into float32 NCHW with the
colour order and the scaling that the detector's :class:`InputSpec` says: RGB in [0, 1] unless declared otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lowbit.data.images import read_image
from lowbit.errors import InputError

PAD_VALUE = 114


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
    """Where an image lies in its square: ``x' = x * scale_x + left``, ``y' = y * scale_y + top``; pixels."""

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: int
    top: int

    @classmethod
    def fit(cls, width: int, height: int, size: int) -> Letterbox:
        """The placement of a ``width`` x ``height`` image in a ``size`` x ``size`` square.

        The scales are those of the resized image, whose sides are whole pixels, so the inverse is exact.
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
        """Boxes x1 y1 x2 y2, float [n, 4], from the image's pixels to the square's."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        return (boxes * scale + np.array([self.left, self.top] * 2)).astype(np.float32)

    def to_image(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes x1 y1 x2 y2, float [n, 4], from the square's pixels to the image's, clipped to the image."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        back = (boxes - np.array([self.left, self.top] * 2)) / scale
        return np.clip(back, 0, np.array([self.width, self.height] * 2)).astype(np.float32)


def letterbox(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], Letterbox]:
    """Place a BGR image, uint8 [h, w, 3], in a square; returns uint8 [size, size, 3] and the placement."""
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
