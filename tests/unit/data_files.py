"""Small data sets for tests, written to disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from lowbit.data.coco import load_coco
from lowbit.data.dataset import Dataset
from lowbit.data.lists import CalibrationSet, load_calibration

Json = dict[str, Any]


def good() -> Json:
    """Two images out of order, two of COCO's ninety ids."""
    return {
        "images": [
            {"id": 9, "file_name": "b.png", "width": 96, "height": 96},
            {"id": 4, "file_name": "a.png", "width": 96, "height": 96},
        ],
        "annotations": [
            {"id": 5, "image_id": 9, "category_id": 90, "bbox": [1, 2, 30, 40.5], "area": 600, "iscrowd": 1},
            {"id": 6, "image_id": 4, "category_id": 13, "bbox": [0, 0, 10, 20]},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 13, "name": "stop sign"}],
    }


def blobs(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """An image with structure, uint8 [height, width, 3]; the same scene at every size."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def draw(path: Path, seed: int, side: int = 96, quality: int = 95) -> Path:
    """An image with structure: smooth random blobs, the same scene at every size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    image = cv2.resize(coarse, (192, 192), interpolation=cv2.INTER_CUBIC)
    image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else [])
    return path


def write(folder: Path, data: Any, images: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    """Write a COCO file and its images; text is written as it is."""
    for number, name in enumerate(images):
        draw(folder / name, number)
    path = folder / "instances_mine.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def dataset_of(folder: Path, names: list[str]) -> Dataset:
    images = [{"id": n, "file_name": name} for n, name in enumerate(names, 1)]
    data = {
        "images": images,
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    path = folder / "instances_val.json"
    path.write_text(json.dumps(data))
    return load_coco(path)


def calibration_of(folder: Path, names: list[str]) -> CalibrationSet:
    path = folder / "list.txt"
    path.write_text("\n".join(names))
    return load_calibration(path)


def write_yolo(folder: Path, **change: Any) -> Path:
    """Ultralytics' layout: two labelled images and one without objects; a box and a polygon."""
    for number, labels in enumerate(("1 0.5 0.5 0.25 0.5\n", "0 0.1 0.2 0.5 0.2 0.5 0.6\n\n", None)):
        draw(folder / "images" / "val" / f"{number}.png", number)
        if labels:
            (folder / "labels" / "val").mkdir(parents=True, exist_ok=True)
            (folder / "labels" / "val" / f"{number}.txt").write_text(labels)
    data = {"path": ".", "train": "images/train", "val": "images/val", "names": {0: "cat", 1: "dog"}, **change}
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return path
