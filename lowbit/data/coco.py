"""COCO annotations (https://cocodataset.org/#format-data), read and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lowbit.data.dataset import Dataset, ImageRecord, Json
from lowbit.data.images import is_file
from lowbit.errors import InputError

# pycocotools keeps ids as float64, which cannot tell larger integers from their neighbours.
_MAX_INTEGER = 2**53


def load_coco(path: Path, root: Path | None = None) -> Dataset:
    """Read ``instances_*.json``.

    ``root``: folder that the file names are relative to; default: the JSON's folder, its parent, or a folder there
    with COCO's own names (``val2017``, ``train2017``, ``images``), whichever holds the first image.

    Raises :class:`InputError` for a missing or malformed file, no images, an image without file, boxes that are no
    boxes, or annotations that point to unknown images or categories.
    """
    data = _read_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            raise InputError(f"{path}: has no list '{key}'. A COCO file has 'images', 'annotations' and 'categories'.")
    if not data["images"]:
        raise InputError(f"{path}: lists no images, so there is nothing to evaluate on.")
    if not data["annotations"]:
        raise InputError(f"{path}: has no annotations; mAP needs labelled objects.")
    categories = sorted(
        (_integer(path, "categories", c, "id"), str(_field(path, "categories", c, "name"))) for c in data["categories"]
    )
    category_ids = tuple(c[0] for c in categories)
    if not categories or len(set(category_ids)) != len(category_ids):
        raise InputError(f"{path}: 'categories' is empty or repeats an id. Give every class one id.")
    folder = root or _image_folder(path, str(_field(path, "images", data["images"][0], "file_name")))
    images = [_image(path, folder, entry) for entry in data["images"]]
    known = {image.id for image in images}
    if len(known) != len(images):
        raise InputError(f"{path}: 'images' repeats an id. Give every image an id of its own.")
    for entry in data["annotations"]:
        _check_annotation(path, entry, known, set(category_ids))
    if all(entry.get("iscrowd", 0) for entry in data["annotations"]):
        raise InputError(f"{path}: has crowds only (iscrowd 1), which count neither way. Label single objects.")
    # Optional in hand-made files; scoring reads both.
    for entry in data["annotations"]:
        entry.setdefault("iscrowd", 0)
        entry.setdefault("area", entry["bbox"][2] * entry["bbox"][3])
    for number, entry in enumerate(data["annotations"], 1):
        # Files with ids that repeat, or none: nothing may depend on them.
        entry["id"] = number
    return Dataset(
        name=path.stem.removeprefix("instances_"),
        annotations=path,
        images=tuple(sorted(images, key=lambda image: image.id)),
        category_ids=category_ids,
        category_names=tuple(c[1] for c in categories),
        coco=data,
    )


def _read_json(path: Path) -> Json:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such annotation file. Check --dataset.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}). Check --dataset.") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error}). Export the annotations again.") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds a JSON {type(data).__name__}, not an object. COCO files are objects.")
    return data


def _field(path: Path, where: str, entry: Any, key: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise InputError(f"{path}: an entry of '{where}' has no '{key}': {str(entry)[:120]}")
    return entry[key]


def _integer(path: Path, where: str, entry: Any, key: str) -> int:
    value = _field(path, where, entry, key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{path}: '{key}' in '{where}' is {str(value)[:60]!r}; a whole number is needed.")
    if abs(value) > _MAX_INTEGER:
        raise InputError(
            f"{path}: '{key}' in '{where}' is {str(value)[:60]}; at most {_MAX_INTEGER} can be told apart."
        )
    return value


def _image(path: Path, folder: Path, entry: Any) -> ImageRecord:
    name = str(_field(path, "images", entry, "file_name"))
    width, height = (_integer(path, "images", entry, key) for key in ("width", "height"))
    if width < 1 or height < 1:
        raise InputError(f"{path}: image {name!r} is {width} x {height} pixels. Mend its entry.")
    file = folder / name
    if not is_file(file):
        raise InputError(f"{path}: image {name!r} is not in {folder}. Put the images there or mend the file name.")
    return ImageRecord(_integer(path, "images", entry, "id"), file, width, height)


def _check_annotation(path: Path, entry: Any, images: set[int], categories: set[int]) -> None:
    image, category = (_integer(path, "annotations", entry, key) for key in ("image_id", "category_id"))
    if image not in images:
        raise InputError(f"{path}: an annotation names image {image}, which 'images' does not list.")
    if category not in categories:
        raise InputError(f"{path}: an annotation names category {category}, which 'categories' does not list.")
    box = _field(path, "annotations", entry, "bbox")
    good = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) and box[2] >= 0 and box[3] >= 0
    if not good:
        raise InputError(f"{path}: bbox {str(box)[:80]} of image {image} is not [x, y, width >= 0, height >= 0].")
    area, crowd = entry.get("area", 0), entry.get("iscrowd", 0)
    if not _is_number(area) or area < 0:
        raise InputError(f"{path}: area {str(area)[:60]!r} of image {image} is no number of square pixels.")
    if crowd not in (0, 1):
        raise InputError(f"{path}: iscrowd {str(crowd)[:60]!r} of image {image} is neither 0 nor 1.")


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number of a size that means pixels."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e9 <= value <= 1e9


def _image_folder(path: Path, first: str) -> Path:
    bases = (path.parent, path.parent.parent)
    places = [*bases, *(base / name for base in bases for name in ("val2017", "train2017", "images"))]
    for place in places:
        if is_file(place / first):
            return place
    tried = ", ".join(map(str, places))
    raise InputError(f"{path}: the first image, {first!r}, is in none of {tried}. Put the images in one of them.")
