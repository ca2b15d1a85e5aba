"""What a detector is measured on: images, their objects and their categories, whatever format they were read from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lowbit import files
from lowbit.data.images import hash_images
from lowbit.errors import InputError

Json = dict[str, Any]


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set; ``width`` and ``height`` in pixels."""

    id: int
    path: Path
    width: int
    height: int


@dataclass(frozen=True)
class Dataset:
    """A COCO-format detection data set. Class index i of a detector is category ``category_ids[i]``.

    ``annotations``: the file that it was read from. ``coco``: what COCO's JSON says; no annotations where the images
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
        """SHA-256 of every image's bytes, to its path."""
        return hash_images([image.path for image in self.images])

    @cached_property
    def digest(self) -> str:
        """One hash over the annotations and all images' bytes."""
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


def check_classes(dataset: Dataset, classes: int, detector: str) -> None:
    """Raise :class:`InputError` unless the data set has exactly the detector's number of classes."""
    if len(dataset.category_ids) != classes:
        raise InputError(
            f"{dataset.annotations}: has {len(dataset.category_ids)} categories (ids {dataset.category_ids[0]} to "
            f"{dataset.category_ids[-1]}), but {detector} has {classes} classes. Name the data set that the detector "
            "was trained for with --dataset."
        )
