"""Ultralytics' data sets: ``data.yaml`` and a text file of labels an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lowbit.data.dataset import Dataset, ImageRecord, Json, distinct_names
from lowbit.data.images import is_file, read_header
from lowbit.data.lists import images_in
from lowbit.errors import InputError

# A class, then the centre's x and y, width and height as fractions.
_Row = tuple[int, float, float, float, float]
# From this many boxes on, corners are told from odd boxes.
_FEW_BOXES = 3


def load_yolo(path: Path, split: str = "val") -> Dataset:
    """Read Ultralytics' ``data.yaml``: ``path``, ``val`` (or ``validation``; a folder or a list of images) and ``names``
    (or ``nc``, their number).

    Places are found as Ultralytics finds them: below ``path``, which is relative to the file's folder or the working
    directory; and without a leading ``../`` where they are not there, as Roboflow writes them beside the images. An
    image's labels are in the file with ``images`` in its folders replaced by ``labels`` and the suffix ``.txt``, a line an
    object: class, then centre and extent, or a polygon whose box is taken, as fractions of the image as displayed, with
    its EXIF orientation. An image without such a file has no objects (https://docs.ultralytics.com/datasets/detect/).
    Rows that repeat another are dropped, as Ultralytics does, and counted in the notes. With ``kpt_shape``, points and
    values of each, a row has keypoints behind its box, which are left.

    Raises :class:`InputError` for a file that is missing or malformed, and images or labels that are, and boxes that are
    corners.
    """
    data = _read_yaml(path)
    if split == "val" and "val" not in data:
        data["val"] = data.get("validation")
    if not data.get(split):
        raise InputError(f"{path}: has no '{split}'. Ultralytics' data sets name a folder or a list of images there.")
    names = _names(path, data)
    roots = _roots(path, data)
    given = data[split] if isinstance(data[split], list) else [data[split]]
    found = sorted({file for entry in given for file in images_in(path, _place(roots, str(entry)), roots)})
    records: list[ImageRecord] = []
    objects: list[Json] = []
    repeated = bare = 0
    keypoints = _keypoints(path, data)
    for number, file in enumerate(found, 1):
        width, height = read_header(file).displayed
        records.append(ImageRecord(number, file, width, height))
        labels = _label_file(file)
        rows, dropped = _labels(labels, len(names), keypoints) if is_file(labels) else ([], 0)
        bare += not is_file(labels)
        repeated += dropped
        objects += [_object(len(objects) + n, number, width, height, row) for n, row in enumerate(rows, 1)]
    if not objects:
        raise InputError(
            f"{path}: none of its {len(records)} images has labels. Label files are expected in 'labels' next to 'images'."
        )
    _refuse_corners(path, objects, records)
    notes = [f"{path}: {repeated} label rows were dropped, which repeat another of their image."] if repeated else []
    if bare > len(records) / 2:
        notes.append(
            f"{path}: {bare} of {len(records)} images have no label file, {_label_file(found[0])} and so on, and count as "
            "images without objects."
        )
    return Dataset(
        name=f"{path.absolute().parent.name if path.stem == 'data' else path.stem}-{split}",
        annotations=path,
        images=tuple(records),
        category_ids=tuple(names),
        category_names=tuple(names.values()),
        coco={
            "images": [{"id": i.id, "file_name": str(i.path), "width": i.width, "height": i.height} for i in records],
            "annotations": objects,
            "categories": [{"id": index, "name": name} for index, name in names.items()],
        },
        notes=tuple(notes),
    )


def _read_yaml(path: Path) -> Json:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check --dataset.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: is not YAML ({str(error).splitlines()[0]}).") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: is no table. Ultralytics' data sets have 'val' and 'names'.")
    return data


def _names(path: Path, data: Json) -> dict[int, str]:
    """Distinct class names by index."""
    given, count = data.get("names"), data.get("nc")
    if given is None and isinstance(count, int) and count > 0:
        given = [f"class_{index}" for index in range(count)]
    if not isinstance(given, list | dict) or not given:
        raise InputError(f"{path}: has no 'names'. Ultralytics' data sets list the classes there.")
    if isinstance(count, int) and count != len(given):
        raise InputError(f"{path}: 'names' has {len(given)} classes and 'nc' says {count}. Fix one of them.")
    listed = given.items() if isinstance(given, dict) else enumerate(given)
    names = {_class_index(path, index): str(name) for index, name in listed}
    if set(names) != set(range(len(names))):
        raise InputError(f"{path}: 'names' has the indices {sorted(names)}; they must count from 0 without gaps.")
    return distinct_names(sorted(names.items()))


def _class_index(path: Path, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: 'names' has the index {value!r}; whole numbers are needed.") from error


def _roots(path: Path, data: Json) -> tuple[Path, ...]:
    """The folders that 'val' may be relative to, the likeliest first."""
    below = data.get("path")
    bases = (path.parent, Path.cwd()) if below else (path.parent,)
    return tuple((base / str(below or ".")).resolve() for base in bases)


def _place(roots: tuple[Path, ...], entry: str) -> Path:
    """Where an entry of ``val`` lies; where it should lie, if it is nowhere."""
    entry = entry.replace("\\", "/")  # as Windows writes them
    names = (entry, entry.removeprefix("../"))
    places = [(root / name).resolve() for root in roots for name in names]
    return next((place for place in places if place.exists()), places[0])


def _object(number: int, image: int, width: int, height: int, row: _Row) -> Json:
    label, x, y, w, h = row
    box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
    entry = {"id": number, "image_id": image, "category_id": label, "bbox": box}
    return entry | {"area": box[2] * box[3], "iscrowd": 0}


def _keypoints(path: Path, data: Json) -> int:
    """How many values of keypoints follow a row's box."""
    shape = data.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise InputError(f"{path}: 'kpt_shape' is {str(shape)[:60]}, not the number of points and of values of each.")
    return int(shape[0] * shape[1])


def _refuse_corners(path: Path, objects: list[Json], images: list[ImageRecord]) -> None:
    """Boxes of x1 y1 x2 y2 are valid rows too; most then leave their image, which boxes of a centre do not."""
    sides = {image.id: (image.width, image.height) for image in images}
    outside = 0
    for entry in objects:
        x, y, w, h = entry["bbox"]
        width, height = sides[entry["image_id"]]
        slack = 0.02 * max(width, height)  # what labelling tools leave out of the frame
        outside += x < -slack or y < -slack or x + w > width + slack or y + h > height + slack
    if len(objects) >= _FEW_BOXES and outside > len(objects) / 2:
        raise InputError(
            f"{path}: {outside} of {len(objects)} boxes leave their image when read as centre and extent: they are corners, it "
            "seems. Ultralytics' rows are class, centre x, centre y, width, height: export them so."
        )


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _labels(file: Path, classes: int, keypoints: int) -> tuple[list[_Row], int]:
    """An image's objects, and how many rows were left out because they repeat another."""
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    rows = [_row(file, number, line, classes, keypoints) for number, line in enumerate(lines, 1) if line.strip()]
    # In Ultralytics' precision, and polygons by all their corners: two may share a box.
    first: dict[bytes, list[float]] = {}
    for row in rows:
        first.setdefault(np.array(row, np.float32).tobytes(), row)
    return [_box(row) for row in first.values()], len(rows) - len(first)


def _row(file: Path, number: int, line: str, classes: int, keypoints: int) -> list[float]:
    """A class and the fractions of a box or polygon. Raises :class:`InputError`."""
    try:
        row = [float(value) for value in line.split()]
    except ValueError as error:
        raise InputError(f"{file}: line {number}, {line[:60]!r}, is not numbers.") from error
    if keypoints and len(row) == 5 + keypoints:
        row = row[:5]
    label, values = row[0], row[1:]
    good = (len(values) == 4 and min(values[2:]) >= 0) or (len(values) >= 6 and len(values) % 2 == 0 and not keypoints)
    if not good or not 0 <= label < classes or label % 1 or not all(-0.01 <= value <= 1.01 for value in values):
        raise InputError(
            f"{file}: line {number}, {line[:60]!r}, is no class below {classes} with a box or polygon in fractions."
        )
    return row


def _box(row: list[float]) -> _Row:
    label, values = int(row[0]), row[1:]
    if len(values) == 4:
        return label, values[0], values[1], values[2], values[3]
    x, y = values[::2], values[1::2]
    return label, (min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)
