"""What a detector is measured on and calibrated with: COCO-format data sets, calibration lists, the leak check."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import files
from lowbit.errors import InputError

if TYPE_CHECKING:
    from lowbit.decode import Detections
    from lowbit.imaging import InputSpec

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
    """A COCO-format detection data set. Class index i of a detector is category ``category_ids[i]``.

    ``annotations``: the file that it was read from. ``coco``: what COCO's JSON says; no annotations where the pictures
    are not ``labelled``.
    """

    name: str
    annotations: Path
    images: tuple[ImageRecord, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    coco: Json = field(repr=False, compare=False)
    labelled: bool = True

    @cached_property
    def image_hashes(self) -> dict[str, Path]:
        """SHA-256 of every picture's bytes, to its path."""
        return _hash_pictures([image.path for image in self.images])

    @cached_property
    def digest(self) -> str:
        """One hash over the annotations and all pictures' bytes."""
        # Of a COCO file its bytes: other formats are spread over many files.
        labels = files.sha256(self.annotations) if self.annotations.suffix == ".json" else files.digest(self.coco)
        return files.digest([labels, *self.image_hashes])

    def with_classes(self, category_ids: tuple[int, ...]) -> Dataset:
        """The same data with a detector's class index i as category ``category_ids[i]``, -1 for one not in the data.

        Raises :class:`InputError` for an id that the data set does not have, or one given twice.
        """
        names = {category["id"]: str(category["name"]) for category in self.coco["categories"]}
        used = [category for category in category_ids if category != -1]
        strays = sorted(set(used) - names.keys())
        if strays or len(set(used)) != len(used) or not used:
            raise InputError(
                f"{self.annotations}: 'classes' names {strays[:5] or 'a category twice, or none'}; the data set has the "
                f"ids {sorted(names)[:3]} ... {max(names)}. Give every class index its category id, or -1."
            )
        return dataclasses.replace(
            self, category_ids=category_ids, category_names=tuple(names.get(c, "not in the data") for c in category_ids)
        )


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

    def batches(self, spec: InputSpec) -> Iterator[NDArray[np.float32]]:
        """Stream the pictures, float32 [1, 3, size, size] each; never more than one in memory."""
        from lowbit.imaging import preprocess

        for path in self.paths:
            yield preprocess(path, spec)[0]


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


def load_data(path: Path) -> Dataset:
    """Read labelled pictures: COCO annotations (``.json``) or Ultralytics' ``data.yaml``. Raises :class:`InputError`."""
    if path.suffix in (".yaml", ".yml"):
        return load_yolo(path)
    if path.suffix == ".txt" or path.is_dir():
        raise InputError(
            f"{path}: has no labels. Name COCO annotations (.json) or Ultralytics' data.yaml, or say --labels none to gate "
            "on agreement with the float detector."
        )
    return load_coco(path)


def load_yolo(path: Path, split: str = "val") -> Dataset:
    """Read Ultralytics' ``data.yaml``: ``path``, ``val`` (a folder or a list of pictures) and ``names``.

    A picture's labels are in the file with ``images`` in its folders replaced by ``labels`` and the suffix ``.txt``, a
    line an object: class, then centre and extent, or a polygon whose box is taken, as fractions of the picture. A picture
    without such a file has no objects (https://docs.ultralytics.com/datasets/detect/).

    Raises :class:`InputError` for a file that is missing or malformed, and pictures or labels that are.
    """
    import yaml

    from lowbit.imaging import picture_size

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
    pictures = [picture for entry in given for picture in _pictures_in(path, base / str(entry))]
    images: list[Json] = []
    annotations: list[Json] = []
    for number, picture in enumerate(sorted(set(pictures)), 1):
        width, height = picture_size(picture)
        images.append({"id": number, "file_name": str(picture), "width": width, "height": height})
        for label, x, y, w, h in _yolo_labels(picture, len(names)):
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": label, "bbox": box}
                | {"area": box[2] * box[3], "iscrowd": 0}
            )
    if not annotations:
        raise InputError(
            f"{path}: none of its {len(images)} pictures has labels. They lie in 'labels' beside 'images'."
        )
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


_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def _class_index(path: Path, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: 'names' has the index {value!r}; whole numbers are needed.") from error


def _pictures_in(path: Path, place: Path) -> list[Path]:
    """The pictures of a folder and those below it, or of a list; ``path`` is who named it."""
    if place.is_dir():
        found = sorted(file for file in place.rglob("*") if file.suffix.lower() in _PICTURES)
        if not found:
            raise InputError(f"{place}: has no pictures, and {path} names it.")
        return found
    if place.suffix == ".txt" and _is_file(place):
        return list(load_calibration(place).paths)
    raise InputError(f"{place}: is neither a folder nor a list of pictures (.txt), and {path} names it.")


def _yolo_labels(picture: Path, classes: int) -> list[tuple[int, float, float, float, float]]:
    """A picture's objects: class, centre x and y, width and height as fractions."""
    parts = list(picture.parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    file = Path(*parts).with_suffix(".txt")
    if not _is_file(file):
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


def load_unlabelled(path: Path, classes: int) -> Dataset:
    """Pictures to compare detectors on without labels: a list, a folder, or a labelled data set whose labels are not
    read. ``classes``: how many the detector has; they are named by their index. Raises :class:`InputError`.
    """
    from lowbit.imaging import picture_size

    if path.suffix in (".json", ".yaml", ".yml"):
        named = load_data(path)
        paths = [image.path for image in named.images]
        names = named.category_names if len(named.category_names) == classes else ()
    else:
        paths, names = _pictures_in(Path("--dataset"), path), ()
    images = tuple(ImageRecord(number, picture, *picture_size(picture)) for number, picture in enumerate(paths, 1))
    names = names or tuple(f"class {index}" for index in range(classes))
    coco = {
        "images": [{"id": i.id, "file_name": str(i.path), "width": i.width, "height": i.height} for i in images],
        "annotations": [],
        "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
    }
    return Dataset(path.stem.removeprefix("instances_"), path, images, tuple(range(classes)), names, coco, False)


def labelled_by(dataset: Dataset, detections: Mapping[int, Detections], confidence: float, folder: Path) -> Dataset:
    """A data set whose objects are a detector's detections of at least ``confidence``, kept as COCO annotations in
    ``folder``: what agreement with that detector is measured on. Raises :class:`InputError` if there are none.
    """
    annotations: list[Json] = []
    for image in dataset.images:
        found = detections[image.id]
        for box, score, label in zip(found.boxes.tolist(), found.scores, found.classes.tolist(), strict=True):
            if score >= confidence:
                x, y, right, bottom = box
                entry = {"image_id": image.id, "category_id": dataset.category_ids[label], "iscrowd": 0}
                area = (right - x) * (bottom - y)
                annotations.append(
                    {"id": len(annotations) + 1, "bbox": [x, y, right - x, bottom - y], "area": area} | entry
                )
    if not annotations:
        raise InputError(
            f"{dataset.annotations}: the float detector is confident ({confidence}) of nothing on its {len(dataset.images)} "
            "pictures. Are input size, colours and scaling right, and are the pictures of its world?"
        )
    images = [entry | {"file_name": str(Path(entry["file_name"]).resolve())} for entry in dataset.coco["images"]]
    coco = {**dataset.coco, "images": images, "annotations": annotations}
    path = folder / f"instances_{dataset.name}-agreement-{files.digest(coco)[:12]}.json"
    files.write_json(path, coco)
    return dataclasses.replace(load_coco(path), name=f"{dataset.name} (agreement with FP32)")


def confident(
    pictures: Sequence[Path], classes: int, detections: Mapping[int, Detections], confidence: float
) -> Dataset | None:
    """The same for plain pictures, the first of which has id 1; None if nothing is seen on them."""
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "pictures.txt"
        listing.write_text("".join(f"{picture.resolve()}\n" for picture in pictures), encoding="utf-8")
        dataset = load_unlabelled(listing, classes)
        try:
            return labelled_by(dataset, detections, confidence, Path(folder))
        except InputError:
            return None


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
    """A labelled data set's pictures without their labels. Raises :class:`InputError` as :func:`load_data` does."""
    return CalibrationSet(path, tuple(image.path for image in load_data(path).images))


def load_pictures(path: Path) -> CalibrationSet:
    """Pictures to learn from: a list of them, or a labelled data set's. Raises :class:`InputError`."""
    return pictures_of(path) if path.suffix in (".json", ".yaml", ".yml") else load_calibration(path)


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
