"""Ultralytics' data sets: what is read, and what is refused with the file's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowbit.data.detections import Detections
from lowbit.data.load import load_data
from lowbit.errors import InputError
from lowbit.metrics import evaluate
from tests.unit.data_files import write_yolo


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
        ({"names": None}, r"data\.yaml: has no 'val' or no 'names'"),
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
