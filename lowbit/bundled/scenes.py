"""Scenes that this project draws itself: the data set of the bundled detector ``shapes10n``.

A scene is a 320 x 320 BGR image of up to fourteen shapes before a textured, cluttered background. Ten classes,
several of them hard to tell apart when they are small (circle, hexagon, pentagon; square, rectangle; circle, ellipse),
objects from 8 px to half the frame, occlusion, low contrast, distractors that are no class, blur and sensor noise. One
integer seed makes one scene; the same seed gives the same scene with the same versions of NumPy and OpenCV.

The three splits draw from disjoint seed ranges, so no image of one is an image of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lowbit import files

CLASSES = (
    "circle",
    "ellipse",
    "square",
    "rectangle",
    "triangle",
    "pentagon",
    "hexagon",
    "star",
    "cross",
    "ring",
)
SIZE = 320
MIN_OBJECT = 8.0
MAX_OBJECT = 160.0
SUBPIXEL_BITS = 4
# Bump when the drawing changes: weights trained on other scenes no longer fit, and caches of drawn images must go.
SCENES_VERSION = 1
SPLIT_SEEDS = {"train": 10_000_000, "val": 20_000_000, "calibration": 30_000_000}


@dataclass(frozen=True, slots=True)
class Scene:
    """One drawn scene.

    ``image``: uint8 [320, 320, 3], BGR. ``boxes``: float32 [n, 4], x1 y1 x2 y2 in pixels, around what is visible.
    ``classes``: int64 [n], indices into :data:`CLASSES`.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]


def _noise(rng: np.random.Generator, octaves: tuple[int, ...], gain: float) -> NDArray[np.float32]:
    """Coloured multi-octave noise, float32 [320, 320, 3], zero mean."""
    out = np.zeros((SIZE, SIZE, 3), np.float32)
    for cells in octaves:
        grid = rng.standard_normal((cells, cells, 3), np.float32)
        out += cv2.resize(grid, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) * np.float32(gain * cells**-0.35)
    return out


def _regular(n: int, radius: float, phase: float) -> NDArray[np.float64]:
    angle = phase + np.arange(n) * 2 * np.pi / n
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def _rotated(points: NDArray[np.float64], phase: float) -> NDArray[np.float64]:
    c, s = np.cos(phase), np.sin(phase)
    return points @ np.array([[c, s], [-s, c]])


def _outline(name: str, radius: float, phase: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """The polygon of a shape around the origin, [m, 2]; ``radius`` is half its longest extent in pixels."""
    if name in ("circle", "ring"):
        return _regular(48, radius, phase)
    if name == "ellipse":
        return _rotated(_regular(48, radius, 0.0) * [1.0, rng.uniform(0.5, 0.75)], phase)
    if name in ("square", "rectangle"):
        aspect = 1.0 if name == "square" else rng.uniform(0.45, 0.75)
        half = np.array([1.0, aspect]) / np.hypot(1.0, aspect) * radius
        return _rotated(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half, phase)
    if name == "triangle":
        return _regular(3, radius, phase)
    if name == "pentagon":
        return _regular(5, radius, phase)
    if name == "hexagon":
        return _regular(6, radius, phase)
    if name == "star":
        points = _regular(10, radius, phase)
        points[1::2] *= rng.uniform(0.4, 0.55)
        return points
    if name == "cross":
        a, b = radius * 0.95, radius * rng.uniform(0.26, 0.38)
        corners = [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b), (-a, b), (-a, -b)]
        return _rotated(np.array([*corners, (-b, -b)], float), phase)
    raise ValueError(f"no shape is called {name!r}; known: {', '.join(CLASSES)}")


def _mask(points: NDArray[np.float64], hole: float = 0.0) -> NDArray[np.uint8]:
    """Anti-aliased coverage of a polygon, uint8 [320, 320]; ``hole`` scales a copy that is cut out of its middle."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    scale = 1 << SUBPIXEL_BITS
    cv2.fillPoly(mask, [np.round(points * scale).astype(np.int32)], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    if hole:
        centre = points.mean(0)
        inner = np.round((centre + (points - centre) * hole) * scale).astype(np.int32)
        cut = np.zeros_like(mask)
        cv2.fillPoly(cut, [inner], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        mask = cv2.subtract(mask, cut)
    return mask


def _fill(rng: np.random.Generator, background: NDArray[np.float32]) -> NDArray[np.float32]:
    """An object's surface, float32 [320, 320, 3]: solid, shaded or striped, sometimes near the background's colour."""
    colour = rng.uniform(15, 240, 3).astype(np.float32)
    contrast = colour - background
    # At least 28 grey levels away in some channel: an invisible object would be a labelling error.
    if np.abs(contrast).max() < 28:
        colour = background + np.where(contrast >= 0, 40, -40).astype(np.float32)
    surface = np.broadcast_to(colour, (SIZE, SIZE, 3)).copy()
    kind = rng.random()
    if kind < 0.35:
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE - 0.5
        shade = (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)
        surface += shade[..., None] * rng.uniform(40, 220, 3).astype(np.float32)
    elif kind < 0.5:
        angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(5, 16)
        y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)).astype(np.float32)
        surface += wave[..., None] * rng.uniform(10, 45)
    return surface


def _paint(canvas: NDArray[np.float32], mask: NDArray[np.uint8], surface: NDArray[np.float32], opacity: float) -> None:
    alpha = mask.astype(np.float32)[..., None] * np.float32(opacity / 255)
    canvas += alpha * (surface - canvas)


def _clutter(canvas: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Lines, blobs and heptagons: what the detector must learn to pass over."""
    for _ in range(rng.integers(2, 9)):
        colour = [float(c) for c in rng.uniform(0, 255, 3)]
        a, b = rng.integers(-40, SIZE + 40, (2, 2))
        kind = rng.random()
        if kind < 0.5:
            cv2.line(canvas, tuple(map(int, a)), tuple(map(int, b)), colour, int(rng.integers(1, 4)), cv2.LINE_AA)
        elif kind < 0.75:
            axes = (int(rng.integers(10, 90)), int(rng.integers(10, 90)))
            start = int(rng.integers(0, 360))
            sweep = int(rng.integers(40, 200))
            cv2.ellipse(canvas, tuple(map(int, a)), axes, 0, start, start + sweep, colour, 2, cv2.LINE_AA)
        else:
            wobble = _regular(7, rng.uniform(8, 50), rng.uniform(0, 7)) * rng.uniform(0.5, 1.2, (7, 1))
            _paint(canvas, _mask(wobble + a), np.full_like(canvas, colour), rng.uniform(0.4, 0.9))


def draw(seed: int) -> Scene:
    """Draw the scene of ``seed``.

    Boxes surround the visible part of an object. A new object is placed only where it leaves at least 35 % of every
    earlier one in sight, so every painted object is labelled.
    """
    rng = np.random.default_rng(seed)
    base = rng.uniform(25, 230, 3).astype(np.float32)
    canvas = base + _noise(rng, (3, 9, 28, 80), float(rng.uniform(12, 40)))
    _clutter(canvas, rng)
    count = int(rng.integers(3, 15))
    # Largest first, so that small ones are not buried; log-uniform sizes, so that every scale has its share.
    extents = np.sort(np.exp(rng.uniform(np.log(MIN_OBJECT), np.log(MAX_OBJECT), count)))[::-1]
    masks: list[NDArray[np.bool_]] = []
    full: list[float] = []
    labels: list[int] = []
    for extent in extents:
        label = int(rng.integers(len(CLASSES)))
        radius = float(extent) / 2
        outline = _outline(CLASSES[label], radius, rng.uniform(0, 2 * np.pi), rng)
        surface = _fill(rng, base)
        for _attempt in range(6):
            margin = radius * rng.uniform(0.4, 1.0)
            centre = rng.uniform(margin, SIZE - margin, 2)
            mask = _mask(outline + centre, hole=0.55 if CLASSES[label] == "ring" else 0.0)
            cover = mask > 127
            area = float(cover.sum())
            left = [m & ~cover for m in masks]
            if area > 0 and all(part.sum() >= 0.35 * size for part, size in zip(left, full, strict=True)):
                masks = [*left, cover]
                full.append(area)
                labels.append(label)
                _paint(canvas, mask, surface, rng.uniform(0.75, 1.0))
                break
    boxes = []
    for mask_visible in masks:
        ys, xs = np.flatnonzero(mask_visible.any(1)), np.flatnonzero(mask_visible.any(0))
        boxes.append((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1))
    if rng.random() < 0.4:
        canvas = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.4, 1.1)))
    canvas += rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(1, 11))
    canvas = canvas * np.float32(rng.uniform(0.65, 1.2)) + np.float32(rng.uniform(-20, 20))
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Scene(image, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64))


def write_split(folder: Path, split: str, count: int) -> Path:
    """Draw ``count`` scenes of ``split`` into ``folder`` as PNG files with a COCO file beside them.

    Returns the path of ``instances_<split>.json``, which is written last and atomically: where it exists, the images
    do. Raises ``KeyError`` for an unknown split.
    """
    first = SPLIT_SEEDS[split]
    target = folder / f"instances_{split}.json"
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        scene = draw(first + index)
        name = f"{split}/{index:06d}.png"
        ok, data = cv2.imencode(".png", scene.image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not ok:
            raise RuntimeError(f"OpenCV could not encode {name} as PNG")
        files.write_atomic(folder / name, data.tobytes())
        images.append({"id": index + 1, "file_name": name, "width": SIZE, "height": SIZE})
        for box, label in zip(scene.boxes.tolist(), scene.classes.tolist(), strict=True):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    files.write_json(target, {"images": images, "annotations": annotations, "categories": categories})
    return target
