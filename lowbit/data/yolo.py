"""Ultralytics' data sets: ``data.yaml`` and a text file of labels an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lowbit.data.dataset import Dataset, ImageRecord, Json
from lowbit.data.images import image_size, is_file
from lowbit.data.lists import images_in
from lowbit.errors import InputError


def load_yolo(path: Path, split: str = "val") -> Dataset:
    """Read Ultralytics' ``data.yaml``: ``path``, ``val`` (a folder or a list of images) and ``names``.

    An image's labels are in the file with ``images`` in its folders replaced by ``labels`` and the suffix ``.txt``, a
    line an object: class, then centre and extent, or a polygon whose box is taken, as fractions of the image. An image
    without such a file has no objects (https://docs.ultralytics.com/datasets/detect/).

    Raises :class:`InputError` for a file that is missing or malformed, and images or labels that are.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check --dataset.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: is not YAML ({str(error).splitlines()[0]}).") from error
    if not isinstance(data, dict) or not data.get(split) or not isinstance(data.get("names"), list | dict):
        raise InputError(f"{path}: has no '{split}' or no 'names'. Ultralytics' data sets name both.")
    listed = data["names"].items() if isinstance(data["names"], dict) else enumerate(data["names"])
    names = {_class_index(path, index): str(name) for index, name in listed}
    if set(names) != set(range(len(names))):
        raise InputError(f"{path}: 'names' has the indices {sorted(names)}; they must count from 0 without gaps.")
    base = (path.parent / str(data.get("path") or ".")).resolve()
    given = data[split] if isinstance(data[split], list) else [data[split]]
    found = [file for entry in given for file in images_in(path, base / str(entry))]
    images: list[Json] = []
    annotations: list[Json] = []
    for number, file in enumerate(sorted(set(found)), 1):
        width, height = image_size(file)
        images.append({"id": number, "file_name": str(file), "width": width, "height": height})
        for label, x, y, w, h in _yolo_labels(file, len(names)):
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": label, "bbox": box}
                | {"area": box[2] * box[3], "iscrowd": 0}
            )
    if not annotations:
        raise InputError(f"{path}: none of its {len(images)} images has labels. They lie in 'labels' beside 'images'.")
    coco = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": names[index]} for index in sorted(names)],
    }
    return Dataset(
        name=f"{path.parent.name if path.stem == 'data' else path.stem}-{split}",
        annotations=path,
        images=tuple(ImageRecord(i["id"], Path(i["file_name"]), i["width"], i["height"]) for i in images),
        category_ids=tuple(sorted(names)),
        category_names=tuple(names[index] for index in sorted(names)),
        coco=coco,
    )


def _class_index(path: Path, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: 'names' has the index {value!r}; whole numbers are needed.") from error


def _yolo_labels(image: Path, classes: int) -> list[tuple[int, float, float, float, float]]:
    """An image's objects: class, centre x and y, width and height as fractions."""
    parts = list(image.parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    file = Path(*parts).with_suffix(".txt")
    if not is_file(file):
        return []
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            label, *values = (float(value) for value in line.split())
        except ValueError as error:
            raise InputError(f"{file}: line {number}, {line[:60]!r}, is not numbers.") from error
        good = len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)
        if not good or not 0 <= label < classes or label % 1 or not all(-0.01 <= value <= 1.01 for value in values):
            raise InputError(
                f"{file}: line {number}, {line[:60]!r}, is no class below {classes} with a box or polygon in fractions."
            )
        if len(values) > 4:
            x, y = values[::2], values[1::2]
            values = [(min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]
        found.append((int(label), values[0], values[1], values[2], values[3]))
    return found
