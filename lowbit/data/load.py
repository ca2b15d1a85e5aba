"""Data sets by the kind of their file."""

from __future__ import annotations

from pathlib import Path

from lowbit.data.coco import load_coco
from lowbit.data.dataset import Dataset, ImageRecord
from lowbit.data.images import read_header
from lowbit.data.lists import CalibrationSet, images_in, load_calibration
from lowbit.data.yolo import load_yolo
from lowbit.errors import InputError


def load_data(path: Path) -> Dataset:
    """Read labelled images: COCO annotations (``.json``) or Ultralytics' ``data.yaml``. Raises :class:`InputError`."""
    if path.suffix in (".yaml", ".yml"):
        return load_yolo(path)
    if path.suffix == ".txt" or path.is_dir():
        raise InputError(
            f"{path}: has no labels. Name COCO annotations (.json) or Ultralytics' data.yaml, or say --labels none to gate "
            "on agreement with the float detector."
        )
    return load_coco(path)


def load_unlabelled(path: Path, classes: int) -> Dataset:
    """Images to compare detectors on without labels: a list, a folder, or a labelled data set whose labels are not
    read. ``classes``: how many the detector has; they are named by their index. Raises :class:`InputError`.
    """
    if path.suffix in (".json", ".yaml", ".yml"):
        named = load_data(path)
        paths = [image.path for image in named.images]
        names = named.category_names if len(named.category_names) == classes else ()
    else:
        paths, names = images_in(Path("--dataset"), path), ()
    images = tuple(ImageRecord(number, file, *read_header(file).displayed) for number, file in enumerate(paths, 1))
    names = names or tuple(f"class {index}" for index in range(classes))
    coco = {
        "images": [{"id": i.id, "file_name": str(i.path), "width": i.width, "height": i.height} for i in images],
        "annotations": [],
        "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
    }
    return Dataset(path.stem.removeprefix("instances_"), path, images, tuple(range(classes)), names, coco, False)


def images_of(path: Path) -> CalibrationSet:
    """A labelled data set's images without their labels. Raises :class:`InputError` as :func:`load_data` does."""
    return CalibrationSet(path, tuple(image.path for image in load_data(path).images))


def load_images(path: Path) -> CalibrationSet:
    """Images to learn from: a list of them, or a labelled data set's. Raises :class:`InputError`."""
    return images_of(path) if path.suffix in (".json", ".yaml", ".yml") else load_calibration(path)
