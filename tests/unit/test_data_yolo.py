"""Ultralytics' data sets: what is read, and what is refused with the file's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from lowbit.data.detections import Detections
from lowbit.data.load import load_data
from lowbit.errors import InputError
from lowbit.measure.metrics import evaluate
from tests.unit.data_files import blobs, draw, write_yolo


def test_yolo_labels(tmp_path: Path) -> None:
    data = load_data(write_yolo(tmp_path))
    assert [image.path.name for image in data.images] == ["0.png", "1.png", "2.png"]
    assert (data.category_ids, data.category_names) == ((0, 1), ("cat", "dog"))
    boxes = {entry["image_id"]: (entry["category_id"], entry["bbox"]) for entry in data.coco["annotations"]}
    assert boxes[1] == (1, pytest.approx([36, 24, 24, 48]))
    assert boxes[2] == (0, pytest.approx([9.6, 19.2, 38.4, 38.4]))
    found = {
        image.id: Detections(
            np.array(
                [[x, y, x + w, y + h] for owner, (_, (x, y, w, h)) in boxes.items() if owner == image.id], np.float32
            ).reshape(-1, 4),
            np.ones(int(image.id in boxes), np.float32),
            np.array([label for owner, (label, _) in boxes.items() if owner == image.id], np.int64),
        )
        for image in data.images
    }
    result = evaluate(data, found)
    assert (result.map, result.per_class) == (pytest.approx(1), pytest.approx({"cat": 1, "dog": 1}))


def test_the_digest_of_yolo_labels_follows_them(tmp_path: Path) -> None:
    path = write_yolo(tmp_path)
    before = load_data(path).digest
    assert load_data(path).digest == before
    (tmp_path / "labels" / "val" / "0.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    assert load_data(path).digest != before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"val": None}, r"data\.yaml: has no 'val'"),
        ({"names": None}, r"data\.yaml: has no 'names'"),
        ({"names": {0: "cat", 2: "dog"}}, r"data\.yaml: 'names' has the indices \[0, 2\]"),
        ({"names": {"a": "cat"}}, r"data\.yaml: 'names' has the index 'a'"),
        ({"names": ["cat"]}, r"0\.txt: line 1, '1 0.5 0.5 0.25 0.5', is no class below 1"),
        ({"val": "images/test"}, r"images/test: is neither a folder nor a list"),
    ],
)
def test_bad_yolo_data_sets(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_data(write_yolo(tmp_path, **change))


@pytest.mark.parametrize(
    "line", ["1 0.5 0.5 0.25", "1.5 0.5 0.5 0.1 0.1", "0 2 0.5 0.1 0.1", "a b c d e", "0 1 nan 1 1"]
)
def test_bad_yolo_labels(tmp_path: Path, line: str) -> None:
    path = write_yolo(tmp_path)
    (tmp_path / "labels" / "val" / "1.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(InputError, match=r"1\.txt: line 2"):
        load_data(path)


def turn(path: Path, orientation: int = 6) -> None:
    """Give an image that EXIF orientation."""
    exif = Image.Exif()
    exif[274] = orientation
    with Image.open(path) as image:
        image.save(path, exif=exif)


def test_labels_are_fractions_of_the_image_as_displayed(tmp_path: Path) -> None:
    path = write_yolo(tmp_path)
    before = load_data(path).digest
    cv2.imwrite(str(tmp_path / "images" / "val" / "0.png"), blobs(90, 60))
    turn(tmp_path / "images" / "val" / "0.png")
    data = load_data(path)
    image = data.images[0]
    assert (image.width, image.height, image.as_stored) == (60, 90, False)
    assert data.coco["annotations"][0]["bbox"] == pytest.approx([22.5, 22.5, 15, 45])
    assert data.digest != before


def test_rows_that_repeat_are_dropped_and_counted(tmp_path: Path) -> None:
    path = write_yolo(tmp_path)
    for file in (tmp_path / "labels").rglob("*.txt"):
        file.write_text(file.read_text() * 2)
    data = load_data(path)
    assert len(data.coco["annotations"]) == 2
    assert data.notes == (f"{path}: 2 label rows were dropped, which repeat another of their image.",)
    assert load_data(write_yolo(tmp_path)).notes == ()


def test_polygons_that_share_a_box_are_kept(tmp_path: Path) -> None:
    path = write_yolo(tmp_path)
    rows = "0 0.1 0.2 0.5 0.2 0.5 0.6\n0 0.1 0.2 0.1 0.6 0.5 0.6\n"
    (tmp_path / "labels" / "val" / "1.txt").write_text(rows)
    assert len(load_data(path).coco["annotations"]) == 3


@pytest.mark.parametrize("val", ["../valid/images", "valid/images", ["../valid/images"]])
@pytest.mark.parametrize("key", ["val", "validation"])
def test_roboflow_s_layout(tmp_path: Path, key: str, val: str | list[str]) -> None:
    for kind in ("images", "labels"):
        (tmp_path / "valid" / kind).mkdir(parents=True)
    draw(tmp_path / "valid" / "images" / "a.jpg", 1)
    (tmp_path / "valid" / "labels" / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump({"train": "../train/images", key: val, "nc": 1, "names": ["cat"]}))
    assert [image.path for image in load_data(path).images] == [tmp_path / "valid" / "images" / "a.jpg"]


@pytest.mark.parametrize("line", ["./images/val/0.png", "images/val/0.png"])
def test_a_list_of_images(tmp_path: Path, line: str) -> None:
    path = write_yolo(tmp_path, val="val.txt")
    (tmp_path / "val.txt").write_text(f"{line}\n", encoding="utf-8-sig")
    assert [image.path.name for image in load_data(path).images] == ["0.png"]


def test_a_list_elsewhere_is_relative_to_the_data_set_too(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, val="lists/val.txt")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "val.txt").write_text("images/val/0.png\n")
    assert [image.path.name for image in load_data(path).images] == ["0.png"]


def test_the_path_may_be_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yolo(tmp_path / "sets" / "pets")
    other = tmp_path / "configs" / "pets.yaml"
    other.parent.mkdir()
    other.write_text(yaml.safe_dump({"path": "sets/pets", "val": "images/val", "names": ["cat", "dog"]}))
    monkeypatch.chdir(tmp_path)
    assert len(load_data(other).images) == 3


def test_byte_order_marks(tmp_path: Path) -> None:
    path = write_yolo(tmp_path)
    before = load_data(path).digest
    for file in (path, *(tmp_path / "labels").rglob("*.txt")):
        file.write_text(file.read_text(), encoding="utf-8-sig")
    assert load_data(path).digest == before


def test_classes_by_number_only(tmp_path: Path) -> None:
    assert load_data(write_yolo(tmp_path, names=None, nc=2)).category_names == ("class_0", "class_1")
    with pytest.raises(InputError, match=r"'names' has 2 classes and 'nc' says 3"):
        load_data(write_yolo(tmp_path, nc=3))


def test_class_names_that_repeat(tmp_path: Path) -> None:
    assert load_data(write_yolo(tmp_path, names=["cat", "cat"])).category_names == ("cat (id 0)", "cat (id 1)")
