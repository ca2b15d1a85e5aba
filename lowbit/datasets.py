"""What a detector is measured on and calibrated with: COCO-format data sets, calibration lists, the leak check."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowbit import files
from lowbit.errors import InputError

Json = dict[str, Any]
# pycocotools keeps ids as float64, which cannot tell larger integers from their neighbours.
_MAX_INTEGER = 2**53


@dataclass(frozen=True)
class ImageRecord:
    """One picture of a data set; ``width`` and ``height`` in pixels."""

    id: int
    path: Path
    width: int
    height: int


@dataclass(frozen=True)
class Dataset:
    """A COCO-format detection data set. Class index i of a detector is category ``category_ids[i]``."""

    name: str
    annotations: Path
    images: tuple[ImageRecord, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    coco: Json = field(repr=False, compare=False)

    @cached_property
    def image_hashes(self) -> dict[str, Path]:
        """SHA-256 of every picture's bytes, to its path."""
        return _hash_pictures([image.path for image in self.images])

    @cached_property
    def digest(self) -> str:
        """One hash over the annotations' and all pictures' bytes."""
        return files.digest([files.sha256(self.annotations), *self.image_hashes])


@dataclass(frozen=True)
class CalibrationSet:
    """An ordered list of pictures for calibration, and the list file that named them."""

    source: Path
    paths: tuple[Path, ...]

    @cached_property
    def image_hashes(self) -> dict[str, Path]:
        """SHA-256 of every picture's bytes, to its path."""
        return _hash_pictures(list(self.paths))

    @cached_property
    def digest(self) -> str:
        """One hash over all pictures' bytes, in order: what calibration depends on, wherever the files lie."""
        return files.digest(list(self.image_hashes))

    def first(self, count: int) -> CalibrationSet:
        """The first ``count`` pictures."""
        return CalibrationSet(self.source, self.paths[:count])

    def batches(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Stream the pictures, float32 [1, 3, size, size] each; never more than one in memory."""
        from lowbit.imaging import preprocess

        for path in self.paths:
            yield preprocess(path, size)[0]


def _hash_pictures(paths: list[Path]) -> dict[str, Path]:
    """Hash every file and refuse the unreadable ones; two threads hide the disk's latency."""
    from lowbit.imaging import check_complete

    def one(path: Path) -> str:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}). Mend the list or the file.") from error
        check_complete(path, data)
        return hashlib.sha256(data).hexdigest()

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(pool.map(one, paths), paths, strict=True))


def load_coco(path: Path, pictures: Path | None = None) -> Dataset:
    """Read ``instances_*.json``.

    ``pictures``: folder that the file names are relative to; default: the JSON's folder, its parent, or a folder there
    with COCO's own names (``val2017``, ``train2017``, ``images``), whichever holds the first picture.

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
    folder = pictures or _picture_folder(path, str(_field(path, "images", data["images"][0], "file_name")))
    images = [_image(path, folder, entry) for entry in data["images"]]
    known = {image.id for image in images}
    if len(known) != len(images):
        raise InputError(f"{path}: 'images' repeats an id. Give every image an id of its own.")
    for entry in data["annotations"]:
        _check_annotation(path, entry, known, set(category_ids))
    if all(entry.get("iscrowd", 0) for entry in data["annotations"]):
        raise InputError(f"{path}: has crowds only (iscrowd 1), which count neither way. Label single objects.")
    # pycocotools reads these two without asking.
    for entry in data["annotations"]:
        entry.setdefault("iscrowd", 0)
        entry.setdefault("area", entry["bbox"][2] * entry["bbox"][3])
    for number, entry in enumerate(data["annotations"], 1):
        # pycocotools marks a match by the annotation's id, so an id of 0 reads as "no match".
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
    if not _is_file(file):
        raise InputError(f"{path}: image {name!r} is not in {folder}. Put the pictures there or mend the file name.")
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


def _is_file(path: Path) -> bool:
    """``Path.is_file`` that answers no to names that no file can have (too long, with a NUL)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _picture_folder(path: Path, first: str) -> Path:
    bases = (path.parent, path.parent.parent)
    places = [*bases, *(base / name for base in bases for name in ("val2017", "train2017", "images"))]
    for place in places:
        if _is_file(place / first):
            return place
    tried = ", ".join(map(str, places))
    raise InputError(f"{path}: the first picture, {first!r}, is in none of {tried}. Put the pictures in one of them.")


def check_classes(dataset: Dataset, classes: int, detector: str) -> None:
    """Raise :class:`InputError` unless the data set has exactly the detector's number of classes."""
    if len(dataset.category_ids) != classes:
        raise InputError(
            f"{dataset.annotations}: has {len(dataset.category_ids)} categories (ids {dataset.category_ids[0]} to "
            f"{dataset.category_ids[-1]}), but {detector} has {classes} classes. Name the data set that the detector "
            "was trained for with --dataset."
        )


def load_calibration(path: Path) -> CalibrationSet:
    """Read a calibration list: one picture a line, relative to the list's folder; blank lines and # comments pass.

    Raises :class:`InputError` for a missing, unreadable or empty list and for pictures that are not there.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such calibration list. Write one picture's path a line and check --calibration."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read as text ({error}). --calibration takes a list of pictures."
        ) from error
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise InputError(f"{path}: the calibration list is empty. List 50 to 500 pictures like those of deployment.")
    paths = tuple(path.parent / name for name in names)
    missing = [str(p) for p in paths if not _is_file(p)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{path}: {missing[0]}{more} does not exist. Paths are relative to the list's folder.")
    if len(set(paths)) != len(paths):
        raise InputError(f"{path}: names a picture twice. List every picture once.")
    return CalibrationSet(path, paths)


# COCO's file names are image ids, so the same name is the same picture, however it was encoded.
_COCO_NAME = re.compile(r"(?:COCO_\w+_)?(\d{12})\.\w+", re.ASCII)
# Of 256 fingerprint bits: copies of COCO pictures at two thirds the size and JPEG quality 30 differ in at most 35, and
# different pictures of COCO val and train in at least 57.
_SAME_PICTURE_BITS = 40


def pictures_of(path: Path) -> CalibrationSet:
    """A COCO file's pictures without their labels. Raises :class:`InputError` as :func:`load_coco` does."""
    return CalibrationSet(path, tuple(image.path for image in load_coco(path).images))


def check_leak(dataset: Dataset, calibration: CalibrationSet) -> None:
    """Raise :class:`InputError` if calibration saw an evaluation picture: by content, by COCO id, or as a copy.

    Copies that were scaled or encoded again are found by their difference hash (:func:`lowbit.imaging.fingerprint`).
    """
    from lowbit.imaging import fingerprint

    same = dataset.image_hashes.keys() & calibration.image_hashes.keys()
    leaks = {calibration.image_hashes[h]: "the same file" for h in same}
    ids = {match.group(1) for image in dataset.images if (match := _COCO_NAME.fullmatch(image.path.name))}
    for path in calibration.paths:
        match = _COCO_NAME.fullmatch(path.name)
        if match and match.group(1) in ids:
            leaks.setdefault(path, "the same COCO id")
    with ThreadPoolExecutor(2) as pool:
        seen = np.stack(list(pool.map(fingerprint, [image.path for image in dataset.images])))
        mine = list(pool.map(fingerprint, calibration.paths))
    for path, bits in zip(calibration.paths, mine, strict=True):
        # A picture without structure (one colour) has no fingerprint to compare.
        if bits.any() and int((seen != bits).sum(1).min()) <= _SAME_PICTURE_BITS:
            leaks.setdefault(path, "a scaled or re-encoded copy")
    if leaks:
        examples = "; ".join(f"{path.name}, {why}" for path, why in sorted(leaks.items())[:3])
        raise InputError(
            f"{calibration.source}: {len(leaks)} of its pictures are evaluation pictures of {dataset.annotations} "
            f"({examples}). Calibrate on other pictures: the measured drop would be too small."
        )
