"""Images without labels, and a detector's detections as their objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lowbit.data.detections import Detections
from lowbit.data.load import load_data, load_unlabelled
from lowbit.data.pseudo_labels import labelled_by
from lowbit.errors import InputError
from lowbit.measure.metrics import evaluate
from tests.unit.data_files import write_yolo


def test_images_without_labels(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    with pytest.raises(InputError, match=r"has no labels.*--labels none"):
        load_data(tmp_path / "images")
    data = load_unlabelled(tmp_path / "images", 2)
    assert (len(data.images), data.labelled, data.category_names) == (3, False, ("class 0", "class 1"))
    assert load_unlabelled(tmp_path / "data.yaml", 2).category_names == ("cat", "dog")
    box = np.array([[1, 2, 11, 22], [5, 5, 9, 9]], np.float32)
    seen = Detections(box, np.array([0.9, 0.1], np.float32), np.array([1, 0]))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    truth = labelled_by(data, {1: seen, 2: nothing, 3: nothing}, 0.25, tmp_path / "store")
    (entry,) = truth.coco["annotations"]
    assert (entry["category_id"], entry["bbox"]) == (1, [1, 2, 10, 20])
    assert "agreement" in truth.name and truth.labelled
    assert evaluate(truth, {1: seen, 2: nothing, 3: nothing}).map == pytest.approx(1)
    # What the truth was made of can be read again, for comparing runs.
    assert load_data(truth.annotations).digest == truth.digest
    with pytest.raises(InputError, match=r"confident .* of nothing on its 3 images"):
        labelled_by(data, {1: nothing, 2: nothing, 3: nothing}, 0.25, tmp_path / "store")
