"""Letterbox and its inverse: the one preprocessing of calibration, evaluation and timing.

An image is scaled to fit the detector's input, centred on grey 114 (Ultralytics' value), and turned into float32 NCHW
with the colour order and the scaling that the detector's :class:`InputSpec` says: RGB in [0, 1] unless declared otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from lowbit.data.images import read_image
from lowbit.errors import InputError

PAD_VALUE = 114
Resize = Literal["letterbox", "corner", "stretch"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a detector wants to be shown.

    ``height``, ``width``: of its input in pixels; without a width it is square. ``colors``: ``rgb`` or ``bgr``. ``mean``,
    ``std``: of each channel in that order, in units of [0, 255]; the network gets ``(pixel - mean) / std``. ``resize``:
    ``letterbox`` keeps the aspect ratio and centres the image on grey, ``corner`` puts it to the top left instead (as
    YOLOX does), ``stretch`` fills the input without regard to the aspect ratio (as DETR's family does). Raises
    :class:`InputError` for others.
    """

    height: int
    width: int = 0
    colors: str = "rgb"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (255.0, 255.0, 255.0)
    resize: Resize = "letterbox"

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", self.width or self.height)
        if self.resize not in get_args(Resize):
            raise InputError(f"resize = {self.resize!r} is none of {', '.join(get_args(Resize))}.")
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
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    @property
    def size(self) -> int:
        """The longer side in pixels: the side of a square input."""
        return max(self.sides)

    @property
    def preprocessing(self) -> str:
        """Enters the key of every artifact: calibration data made by another preprocessing are other data."""
        plain = self.mean == (0, 0, 0) and self.std == (255, 255, 255)
        scaling = "unit" if plain else f"{self.mean}-{self.std}"
        return f"{self.resize}-{PAD_VALUE}-bilinear-{self.colors}-{scaling}/2"


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where an image lies in the input: ``x' = x * scale_x + left``, ``y' = y * scale_y + top``; pixels."""

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: int
    top: int

    @classmethod
    def fit(cls, width: int, height: int, spec: InputSpec) -> Letterbox:
        """The placement of a ``width`` x ``height`` image.

        The scales are those of the resized image, whose sides are whole pixels, so the inverse is exact.
        """
        if spec.resize == "stretch":
            return cls(width, height, spec.width / width, spec.height / height, 0, 0)
        ratio = min(spec.width / width, spec.height / height)
        new_width, new_height = max(1, round(width * ratio)), max(1, round(height * ratio))
        left, top = (spec.width - new_width) // 2, (spec.height - new_height) // 2
        if spec.resize == "corner":
            left = top = 0
        return cls(width, height, new_width / width, new_height / height, left, top)

    def to_input(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes x1 y1 x2 y2, float [n, 4], from the image's pixels to the input's."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        return (boxes * scale + np.array([self.left, self.top] * 2)).astype(np.float32)

    def to_image(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes x1 y1 x2 y2, float [n, 4], from the input's pixels to the image's, clipped to the image."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        back = (boxes - np.array([self.left, self.top] * 2)) / scale
        return np.clip(back, 0, np.array([self.width, self.height] * 2)).astype(np.float32)


def letterbox(image: NDArray[np.uint8], spec: InputSpec) -> tuple[NDArray[np.uint8], Letterbox]:
    """Place a BGR image, uint8 [h, w, 3], in the input; returns uint8 [height, width, 3] and the placement."""
    height, width = image.shape[:2]
    place = Letterbox.fit(width, height, spec)
    new_width, new_height = round(width * place.scale_x), round(height * place.scale_y)
    resized = image
    if (new_width, new_height) != (width, height):
        resized = np.asarray(cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR), np.uint8)
    canvas = np.full((*spec.sides, 3), PAD_VALUE, np.uint8)
    canvas[place.top : place.top + new_height, place.left : place.left + new_width] = resized
    return canvas, place


def to_tensor(canvas: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """uint8 BGR [height, width, 3] to float32 [1, 3, height, width] in the detector's colour order and scaling."""
    planes = cv2.split(canvas)
    tensor = np.empty((1, 3, *canvas.shape[:2]), np.float32)
    ordered = planes[::-1] if spec.colors == "rgb" else planes
    for plane, target, mean, std in zip(ordered, tensor[0], spec.mean, spec.std, strict=True):
        gain = np.float32(1 / std)
        np.multiply(plane, gain, out=target, dtype=np.float32)
        if mean:
            target -= np.float32(mean) * gain
    return tensor


def preprocess(path: Path, spec: InputSpec, *, as_stored: bool = False) -> tuple[NDArray[np.float32], Letterbox]:
    """A file to the network's input, float32 [1, 3, height, width], and the placement that maps its boxes back.

    The file's EXIF orientation is applied, or left with ``as_stored``. Raises :class:`InputError` as :func:`read_image`
    does.
    """
    canvas, place = letterbox(read_image(path, as_stored=as_stored), spec)
    return to_tensor(canvas, spec), place
