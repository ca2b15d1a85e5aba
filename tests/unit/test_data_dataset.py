"""Class counts and class maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lowbit.data.coco import load_coco
from lowbit.data.dataset import check_classes
from lowbit.data.detections import Detections
from lowbit.errors import InputError
from lowbit.metrics import evaluate
from tests.unit.data_files import good, write


def test_class_maps(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path, good())).with_classes((90, -1, 13))
    assert (data.category_ids, data.category_names) == ((90, -1, 13), ("toothbrush", "not in the data", "stop sign"))
    check_classes(data, 3, "toy")
    box = np.array([[0, 0, 10, 20]] * 2, np.float32)
    seen = Detections(box, np.array([0.9, 0.8], np.float32), np.array([1, 2]))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    result = evaluate(data, {4: seen, 9: nothing})
    assert result.per_class == {"stop sign": pytest.approx(1)}  # what is not in the data counts neither way
    for bad in ((90, 14), (90, 90), (-1, -1)):
        with pytest.raises(InputError, match=r"instances_mine\.json: 'classes'"):
            load_coco(tmp_path / "instances_mine.json").with_classes(bad)


def test_class_count(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path, good()))
    check_classes(data, 2, "toy")
    with pytest.raises(InputError, match=r"instances_mine\.json: has 2 categories \(ids 13 to 90\), but toy has 80"):
        check_classes(data, 80, "toy")
