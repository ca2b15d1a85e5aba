"""A detector's confident detections as the ground truth of unlabelled images."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowbit import files
from lowbit.data.coco import load_coco
from lowbit.data.dataset import Dataset, Json
from lowbit.data.load import load_unlabelled
from lowbit.errors import InputError

if TYPE_CHECKING:
    from lowbit.data.detections import Detections


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
            "images. Are input size, colours and scaling right, and are the images of its world?"
        )
    images = [
        {"id": image.id, "file_name": str(image.path.resolve()), "width": image.width, "height": image.height}
        for image in dataset.images
    ]
    coco = {**dataset.coco, "images": images, "annotations": annotations}
    # Named by what it says, not by where the images lie.
    content = files.digest([dataset.digest, annotations])
    path = folder / f"instances_{dataset.name}-agreement-{content[:12]}.json"
    files.write_json(path, coco)
    return dataclasses.replace(load_coco(path), name=f"{dataset.name} (agreement with FP32)")


def confident(
    paths: Sequence[Path], classes: int, detections: Mapping[int, Detections], confidence: float
) -> Dataset | None:
    """The same for plain images, the first of which has id 1; None if nothing is seen on them."""
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "images.txt"
        listing.write_text("".join(f"{path.resolve()}\n" for path in paths), encoding="utf-8")
        dataset = load_unlabelled(listing, classes)
        try:
            return labelled_by(dataset, detections, confidence, Path(folder))
        except InputError:
            return None
