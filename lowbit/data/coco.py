"""COCO annotations (https://cocodataset.org/#format-data), read and checked."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lowbit.data.dataset import Dataset, ImageRecord, Json, distinct_names
from lowbit.data.images import Header, is_file, read_header
from lowbit.errors import InputError

# pycocotools keeps ids as float64, which cannot tell larger integers from their neighbours.
_MAX_INTEGER = 2**53
# COCO's own folders, and those of Roboflow, Label Studio and CVAT (images) and FiftyOne (data).
_FOLDERS = ("val2017", "train2017", "images", "data")
# From this many boxes on, a mistaken box format is told from odd boxes; percent look like small boxes in a corner.
_FEW_BOXES, _MANY_BOXES = 3, 20
_PERCENT = 100


def load_coco(path: Path, root: Path | None = None) -> Dataset:
    """Read ``instances_*.json``.

    ``root``: folder that the file names are relative to; default: the JSON's folder, its parent, or a folder there
    with a usual name (``val2017``, ``train2017``, ``images``, ``data``, and in it one named as the split), whichever
    holds the first image.

    Every image's ``width`` and ``height`` are held against its file. They say in which frame its boxes are, where the
    file has an EXIF orientation: as stored, or as displayed. An entry without them takes the file's displayed size.

    Annotations that repeat another's image, category, box and crowd flag are dropped, and counted in the notes: an object
    that is labelled twice cannot be found twice. pycocotools on the file itself counts each, and its AP is lower.

    Raises :class:`InputError` for a missing or malformed file, no images, an image without file or of another size, boxes
    that are no boxes, or annotations that point to unknown images or categories.
    """
    data = _read_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            raise InputError(f"{path}: has no list '{key}'. A COCO file has 'images', 'annotations' and 'categories'.")
    if not data["images"]:
        raise InputError(f"{path}: lists no images, so there is nothing to evaluate on.")
    if not data["annotations"]:
        raise InputError(f"{path}: has no annotations; mAP needs labelled objects.")
    names = _categories(path, data["categories"])
    images, notes = _images(path, root, data["images"])
    known = {image.id for image in images}
    for entry in data["annotations"]:
        _check_annotation(path, entry, known, names.keys())
    if all(entry.get("iscrowd", 0) for entry in data["annotations"]):
        raise InputError(f"{path}: has crowds only (iscrowd 1), which count neither way. Label single objects.")
    _check_box_format(path, data["annotations"], images)
    objects = _distinct(data["annotations"])
    if repeated := len(data["annotations"]) - len(objects):
        notes.append(
            f"{path}: {repeated} of {len(data['annotations'])} annotations were dropped, which repeat another's image, "
            "category and box."
        )
    for number, entry in enumerate(objects, 1):
        # Optional in hand-made files; scoring reads both.
        entry["iscrowd"] = int(entry.get("iscrowd", 0))
        entry.setdefault("area", entry["bbox"][2] * entry["bbox"][3])
        # Files with ids that repeat, or none: nothing may depend on them.
        entry["id"] = number
    sizes = {image.id: {"width": image.width, "height": image.height} for image in images}
    return Dataset(
        name=_name(path),
        annotations=path,
        images=tuple(sorted(images, key=lambda image: image.id)),
        category_ids=tuple(names),
        category_names=tuple(names.values()),
        coco={
            **data,
            "images": [entry | sizes[entry["id"]] for entry in data["images"]],
            "annotations": objects,
            "categories": [entry | {"name": names[entry["id"]]} for entry in data["categories"]],
        },
        notes=tuple(notes),
    )


def _name(path: Path) -> str:
    """What the data set is called: Roboflow names every split's file alike."""
    return path.absolute().parent.name if path.stem == "_annotations.coco" else path.stem.removeprefix("instances_")


def _read_json(path: Path) -> Json:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such annotation file. Check --dataset.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}). Check --dataset.") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is not JSON ({error}). Export the annotations as COCO, to one .json file."
        ) from error
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: holds a JSON {type(data).__name__}, not an object. COCO files are objects: export the annotations as "
            "COCO, not as the tool's own JSON or as results."
        )
    return data


def _categories(path: Path, entries: list[Any]) -> dict[int, str]:
    """Distinct names by id, in the ids' order."""
    listed = sorted(
        (_integer(path, "categories", entry, "id"), str(_field(path, "categories", entry, "name"))) for entry in entries
    )
    if not listed or len({number for number, _ in listed}) != len(listed):
        raise InputError(f"{path}: 'categories' is empty or repeats an id. Give every class one id.")
    return distinct_names(listed)


@dataclass(frozen=True)
class _Entry:
    """One of 'images': the record as displayed, the file's header, and the size that is annotated, if any."""

    name: str
    record: ImageRecord
    header: Header
    annotated: tuple[int, int] | None

    @property
    def fits(self) -> set[bool]:
        """In which frames the annotated size is the file's: ``as_stored``'s values. Both for a file that is upside down,
        mirrored or square, and for one without an annotated size."""
        stored, displayed = self.header.stored, self.header.displayed
        frames = ((True, stored), (False, displayed))
        return {as_stored for as_stored, size in frames if self.annotated in (None, size)}


def _images(path: Path, root: Path | None, entries: list[Any]) -> tuple[list[ImageRecord], list[str]]:
    """The images, each in the frame of its boxes, and what was assumed."""
    folder = root or _image_folder(path, str(_field(path, "images", entries[0], "file_name")))
    found = [_image(path, folder, entry) for entry in entries]
    for what, values in (("an id", [e.record.id for e in found]), ("a file", [e.record.path for e in found])):
        if len(set(values)) != len(values):
            raise InputError(f"{path}: 'images' repeats {what}. Give every image one entry and an id of its own.")
    for entry in found:
        if not entry.fits:
            raise InputError(_wrong_size(path, entry))
    turned = [entry for entry in found if entry.header.orientation != 1]
    certain = {as_stored for entry in turned if len(entry.fits) == 1 for as_stored in entry.fits}
    open_ones = [entry for entry in turned if len(entry.fits) == 2]
    if open_ones and len(certain) == 2:
        raise InputError(
            f"{path}: image {open_ones[0].name!r} has EXIF orientation {open_ones[0].header.orientation}, its width and "
            "height do not say whether its boxes are in the stored or the displayed frame, and the other images are of "
            "both kinds. Save the images upright and without the tag."
        )
    default = certain.pop() if len(certain) == 1 else False
    notes = []
    if open_ones:
        notes.append(
            f"{path}: {len(open_ones)} images have an EXIF orientation that width and height do not show, "
            f"{open_ones[0].name!r} the first. Their boxes were taken as {'stored' if default else 'displayed'}."
        )
    return [_in_frame(entry, default) for entry in found], notes


def _in_frame(entry: _Entry, default: bool) -> ImageRecord:
    if entry.header.orientation == 1:
        return entry.record
    as_stored = default if len(entry.fits) == 2 else entry.fits.pop()
    width, height = entry.header.stored if as_stored else entry.header.displayed
    return replace(entry.record, width=width, height=height, as_stored=as_stored)


def _wrong_size(path: Path, entry: _Entry) -> str:
    width, height = entry.annotated or (0, 0)
    stored, displayed = entry.header.stored, entry.header.displayed
    also = f", displayed as {displayed[0]} x {displayed[1]}" if displayed != stored else ""
    return (
        f"{path}: image {entry.name!r} is annotated as {width} x {height} pixels, and its file {entry.record.path} is "
        f"{stored[0]} x {stored[1]}{also}. Its boxes would be in the wrong place. Export the annotations for these files."
    )


def _image(path: Path, folder: Path, entry: Any) -> _Entry:
    name = str(_field(path, "images", entry, "file_name"))
    annotated = None
    # Optional to some exporters; null means the same.
    if entry.get("width") is not None or entry.get("height") is not None:
        width, height = (_integer(path, "images", entry, key) for key in ("width", "height"))
        if width < 1 or height < 1:
            raise InputError(f"{path}: image {name!r} is {width} x {height} pixels. Fix its entry.")
        annotated = width, height
    file = _file_in(folder, name)
    if file is None:
        if "://" in name:
            raise InputError(
                f"{path}: image {name[:200]!r} is a URL. Download the images and give their file names relative to {folder}."
            )
        raise InputError(f"{path}: image {name!r} is not in {folder}. Put the images there or fix the file name.")
    header = read_header(file)
    record = ImageRecord(_integer(path, "images", entry, "id"), file, *header.displayed)
    return _Entry(name, record, header, annotated)


def _file_in(folder: Path, name: str) -> Path | None:
    """The file of an image's name, which exporters on Windows write with backslashes; None if it is not there."""
    return next((folder / one for one in (name, name.replace("\\", "/")) if is_file(folder / one)), None)


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


def _check_annotation(path: Path, entry: Any, images: Container[int], categories: Container[int]) -> None:
    image, category = (_integer(path, "annotations", entry, key) for key in ("image_id", "category_id"))
    if image not in images:
        raise InputError(f"{path}: an annotation names image {image}, which 'images' does not list.")
    if category not in categories:
        raise InputError(f"{path}: an annotation names category {category}, which 'categories' does not list.")
    if "bbox" not in entry and "segmentation" in entry:
        raise InputError(
            f"{path}: an annotation of image {image} has a segmentation and no 'bbox'. Export boxes, or compute them from "
            "the masks (pycocotools.mask.toBbox)."
        )
    box = _field(path, "annotations", entry, "bbox")
    good = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) and box[2] >= 0 and box[3] >= 0
    if not good:
        raise InputError(f"{path}: bbox {str(box)[:80]} of image {image} is not [x, y, width >= 0, height >= 0].")
    area, crowd = entry.get("area", 0), entry.get("iscrowd", 0)
    if not _is_number(area) or area < 0:
        raise InputError(f"{path}: area {str(area)[:60]!r} of image {image} is no number of square pixels.")
    if crowd not in (0, 1):
        raise InputError(f"{path}: iscrowd {str(crowd)[:60]!r} of image {image} is neither 0 nor 1.")


def _check_box_format(path: Path, entries: Sequence[Json], images: Sequence[ImageRecord]) -> None:
    """Refuse boxes that are all fractions of the image, or all corners: COCO's are x, y, width, height in pixels."""
    if len(entries) < _FEW_BOXES:
        return
    sizes = {image.id: (image.width, image.height) for image in images}
    if all(0 <= value <= 1 for entry in entries for value in entry["bbox"]):
        raise InputError(
            f"{path}: every bbox is within [0, 1], as {entries[0]['bbox']}: fractions of the image, it seems. COCO's are "
            "[x, y, width, height] in pixels."
        )
    outside = corners = percent = 0
    for entry in entries:
        x, y, right, bottom = entry["bbox"]
        width, height = sizes[entry["image_id"]]
        outside += x + right > width + 1 or y + bottom > height + 1
        percent += max(x + right, y + bottom) <= _PERCENT and min(width, height) > _PERCENT * 2
        corners += 0 <= x <= right <= width + 1 and 0 <= y <= bottom <= height + 1
    if percent == len(entries) >= _MANY_BOXES and any(
        max(b[0] + b[2], b[1] + b[3]) > 0.8 * _PERCENT for b in (entry["bbox"] for entry in entries)
    ):
        raise InputError(
            f"{path}: every bbox ends within {_PERCENT} pixels of its image's corner, as {entries[0]['bbox']}, and no image is "
            "that small: percent of the image, it seems, as Label Studio writes them. COCO's are [x, y, width, height] in "
            "pixels."
        )
    if corners == len(entries) and outside > len(entries) / 2:
        raise InputError(
            f"{path}: {outside} of {len(entries)} boxes leave their image, and all of them are within it when read as "
            "corners [x1, y1, x2, y2]. COCO's are [x, y, width, height]: export them so."
        )


def _distinct(entries: list[Json]) -> list[Json]:
    """The first of all annotations with the same image, category, box and crowd flag."""
    first: dict[tuple[Any, ...], Json] = {}
    for entry in entries:
        first.setdefault((entry["image_id"], entry["category_id"], *entry["bbox"], entry.get("iscrowd", 0)), entry)
    return list(first.values())


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number of a size that means pixels."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e9 <= value <= 1e9


def _image_folder(path: Path, first: str) -> Path:
    if "://" in first:
        return path.parent  # refused as a URL
    bases = (path.parent, path.parent.parent)
    # CVAT has a folder for every subset below images.
    names = [*_FOLDERS, f"images/{path.stem.removeprefix('instances_')}"]
    places = [*bases, *(base / name for base in bases for name in names)]
    for place in places:
        if _file_in(place, first):
            return place
    tried = ", ".join(map(str, places))
    raise InputError(f"{path}: the first image, {first!r}, is in none of {tried}. Put the images in one of them.")
