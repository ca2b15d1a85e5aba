"""What a detector is measured on: images, their objects and their categories, whatever format they were read from."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowbit import files
from lowbit.data.images import hash_images, read_header, upright_boxes
from lowbit.errors import InputError

Json = dict[str, Any]
_ABSENT = -1


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set.

    ``width`` and ``height``: pixels of the frame that its boxes are in. ``as_stored``: that frame is the file's without
    the EXIF orientation that it has (:func:`lowbit.data.images.read_image`).
    """

    id: int
    path: Path
    width: int
    height: int
    as_stored: bool = False


@dataclass(frozen=True)
class Dataset:
    """A COCO-format detection data set. Class index i of a detector is category ``category_ids[i]``.

    ``annotations``: the file that it was read from. ``coco``: its images, objects and categories as COCO's JSON says
    them, without objects where the images are not ``labelled``. ``notes``: what was dropped or assumed in reading it, a
    sentence each, for the user. ``sampled_from``: how many images there were, if these are a sample of them.
    """

    name: str
    annotations: Path
    images: tuple[ImageRecord, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    coco: Json = field(repr=False, compare=False)
    labelled: bool = True
    notes: tuple[str, ...] = ()
    sampled_from: int | None = None

    @cached_property
    def image_hashes(self) -> tuple[str, ...]:
        """SHA-256 of every image's bytes, in the order of ``images``."""
        return hash_images([image.path for image in self.images])

    @cached_property
    def digest(self) -> str:
        """One hash over all that a score depends on, wherever the files lie: the images' bytes and how they are turned,
        the objects, and the detector's class of every object."""
        index = {category: number for number, category in enumerate(self.category_ids)}
        images = [
            [image.id, content, image.width, image.height, image.as_stored]
            for image, content in zip(self.images, self.image_hashes, strict=True)
        ]
        objects = [
            [entry["image_id"], index[entry["category_id"]], *entry["bbox"], entry["area"], entry["iscrowd"]]
            for entry in self.coco["annotations"]
        ]
        return files.digest({"images": images, "objects": objects, "names": self.category_names})

    def objects_as_displayed(self) -> dict[Path, tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """What to learn from, by image: boxes x1 y1 x2 y2, float32 [n, 4], in pixels of the displayed image, and the
        detector's classes, int64 [n]. Crowds are left out."""
        index = {category: number for number, category in enumerate(self.category_ids)}
        mine: dict[int, list[Json]] = {image.id: [] for image in self.images}
        for entry in self.coco["annotations"]:
            if not entry["iscrowd"]:
                mine[entry["image_id"]].append(entry)
        found = {}
        for image in self.images:
            boxes = np.array([entry["bbox"] for entry in mine[image.id]], np.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            if image.as_stored:
                boxes = upright_boxes(boxes, read_header(image.path))
            found[image.path] = boxes, np.array([index[entry["category_id"]] for entry in mine[image.id]], np.int64)
        return found

    def sampled(self, count: int) -> Dataset:
        """``count`` of the images, evenly spaced in their order, because lists are often sorted by source or class; the data
        set itself if it has no more. A note says so, and what it does to confidence intervals.

        Raises :class:`InputError` if none of the objects is on them.
        """
        total = len(self.images)
        if total <= count:
            return self
        images = tuple(self.images[number * total // count] for number in range(count))
        ids = {image.id for image in images}
        objects = [entry for entry in self.coco["annotations"] if entry["image_id"] in ids]
        if self.labelled and not objects:
            raise InputError(
                f"{self.annotations}: none of the {count} images of a quick run has an object. Run on all."
            )
        kept = [entry for entry in self.coco["images"] if entry["id"] in ids]
        # The standard error of a mean over images.
        wider = math.sqrt(total / count)
        note = (
            f"{self.annotations}: a quick run on {count} of {total} images. Confidence intervals are about {wider:.1f} times "
            "as wide as on all of them."
        )
        coco = {**self.coco, "images": kept, "annotations": objects}
        return dataclasses.replace(self, images=images, coco=coco, notes=(*self.notes, note), sampled_from=total)

    def with_classes(self, category_ids: Sequence[int]) -> Dataset:
        """The same images for a detector whose class index i is category ``category_ids[i]``, -1 for a class that is not
        in the data. Objects of other categories are left out: the detector cannot name them.

        Raises :class:`InputError` for an id that the data set does not have, or one given twice, and if no object is left.
        """
        names = {category["id"]: str(category["name"]) for category in self.coco["categories"]}
        used = [category for category in category_ids if category != _ABSENT]
        strays = sorted(set(used) - names.keys())
        if strays or len(set(used)) != len(used) or not used:
            raise InputError(
                f"{self.annotations}: 'classes' names {strays[:5] or 'a category twice, or none'}; the data set has the "
                f"ids {sorted(names)[:3]} ... {max(names)}. Give every class index its category id, or -1."
            )
        objects = [entry for entry in self.coco["annotations"] if entry["category_id"] in set(used)]
        if self.labelled and not objects:
            raise InputError(
                f"{self.annotations}: has no object of the categories {used[:5]} that 'classes' names. Fix the class map."
            )
        categories = [category for category in self.coco["categories"] if category["id"] in set(used)]
        return dataclasses.replace(
            self,
            category_ids=tuple(category_ids),
            category_names=tuple(names.get(c, "not in the data") for c in category_ids),
            coco={**self.coco, "annotations": objects, "categories": categories},
        )

    def fitted(self, classes: int, detector: str, class_map: Sequence[int] | None = None) -> Dataset:
        """The data set as a detector of ``classes`` classes is measured on it: by ``class_map``, the category id of every
        class index, or else with class index i as the i-th category by id.

        Categories without objects are left out, with a note, where the detector has exactly the others: an export lists
        its supercategory as category 0. Raises :class:`InputError` where the numbers do not fit.
        """
        if class_map is not None and self.labelled:
            if len(class_map) != classes:
                raise InputError(
                    f"{self.annotations}: 'classes' maps {len(class_map)} class indices, but {detector} has {classes} "
                    "classes. Give every class index its category id, or -1."
                )
            return self.with_classes(class_map)
        if len(self.category_ids) == classes:
            return self
        kept = self._used(classes)
        if kept is None:
            raise InputError(
                f"{self.annotations}: has {len(self.category_ids)} categories (ids {self.category_ids[0]} to "
                f"{self.category_ids[-1]}), but {detector} has {classes} classes. Name the data set that the detector "
                "was trained for with --dataset, or say in lowbit.toml which category each class is: classes = [...]."
            )
        dropped = [name for c, name in zip(self.category_ids, self.category_names, strict=True) if c not in kept]
        note = (
            f"{self.annotations}: {len(dropped)} of {len(self.category_ids)} categories were left out, which have no "
            f"objects and of which {detector} has no classes: {', '.join(map(repr, dropped[:5]))}."
        )
        return dataclasses.replace(self.with_classes(kept), notes=(*self.notes, note))

    def _used(self, classes: int) -> tuple[int, ...] | None:
        """The categories that a detector of ``classes`` classes must have, None if that is not certain."""
        counts = Counter(entry["category_id"] for entry in self.coco["annotations"])
        with_objects = tuple(c for c in self.category_ids if counts[c])
        if len(with_objects) == classes:
            return with_objects
        # A small data set may lack objects of real classes too: then only what others name as their supercategory goes.
        above = {str(category.get("supercategory")) for category in self.coco["categories"]}
        groups = {c for c, name in zip(self.category_ids, self.category_names, strict=True) if name in above}
        others = tuple(c for c in self.category_ids if counts[c] or c not in groups)
        return others if len(others) == classes else None


def distinct_names(names: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Category names by id; those that several categories share get their id, for results are kept by name."""
    listed = dict(names)
    shared = {name for name, count in Counter(listed.values()).items() if count > 1}
    return {number: f"{name} (id {number})" if name in shared else name for number, name in listed.items()}
