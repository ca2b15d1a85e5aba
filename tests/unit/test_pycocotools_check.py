"""lowbit's AP beside pycocotools', as every run holds them against each other."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lowbit.data.coco import load_coco
from lowbit.data.dataset import Dataset
from lowbit.errors import MetricError
from lowbit.measure import matching
from lowbit.measure.metrics import evaluate
from lowbit.measure.pycocotools_check import TOLERANCE, check, score
from tests.unit.test_metrics import CATEGORIES, TWO, Found, found, make_dataset, noisy, perfect


def assert_confirmed(dataset: Dataset, detections: Found) -> float:
    accuracy = evaluate(dataset, detections)
    checked = check(dataset, detections, accuracy)
    assert (accuracy.map, accuracy.map50) == pytest.approx((checked.map, checked.map50), abs=1e-12)
    return checked.map


@pytest.mark.parametrize("seed", range(4))
def test_random_objects_and_crowds(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    objects, detections = noisy(seed)
    assert any(crowd for *_, crowd in objects)
    dataset = make_dataset(objects, 12)
    before = copy.deepcopy(dataset.coco)
    assert 0.05 < assert_confirmed(dataset, detections) < 0.95
    assert dataset.coco == before
    assert capsys.readouterr() == ("", "")


def test_scores_that_tie() -> None:
    """What an integer detector gives: the order of equal scores decides."""
    objects, detections = noisy(5, noise=0.3)
    for one in detections.values():
        one.scores[:] = np.round(one.scores * 4) / 4
    assert 0 < assert_confirmed(make_dataset(objects, 12), detections) < 0.95


@pytest.mark.parametrize("class_map", [(90, 3), (-1, 90, 7, -1), (7,)])
def test_class_maps(class_map: tuple[int, ...]) -> None:
    """Classes in another order, classes that the data lack, and categories that the detector lacks."""
    objects, detections = noisy(6)
    dataset = make_dataset(objects, 12).with_classes(class_map)
    index = {CATEGORIES.index(category): number for number, category in enumerate(class_map) if category != -1}
    mapped = {}
    for image, seen in detections.items():
        known = np.array([one in index for one in seen.classes], bool)
        classes = np.array([index.get(int(one), class_map.index(-1) if -1 in class_map else 0) for one in seen.classes])
        kept = known | (-1 in class_map)
        mapped[image] = dataclasses.replace(
            seen, boxes=seen.boxes[kept], scores=seen.scores[kept], classes=classes[kept]
        )
    assert 0.05 < assert_confirmed(dataset, mapped) < 0.95


def test_no_detections_and_no_objects() -> None:
    nothing = {1: found([]), 2: found([])}
    assert assert_confirmed(make_dataset(TWO, 2), nothing) == 0
    assert assert_confirmed(make_dataset([], 2), perfect(TWO, 2)) == 0


def test_annotations_given_twice(tmp_path: Path) -> None:
    """Both count what was loaded; pycocotools on the file itself counts the second as missed. Ids from 0 do no harm."""
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((480, 640, 3), np.uint8))
    entries = [{"id": n, "image_id": 1, "category_id": 7, "bbox": [1, 2, 40, 50]} for n in range(2)]
    images = [{"id": 1, "file_name": "1.png", "width": 640, "height": 480}]
    path = tmp_path / "instances_toy.json"
    path.write_text(json.dumps({"images": images, "annotations": entries, "categories": [{"id": 7, "name": "cat"}]}))
    dataset = load_coco(path)
    assert "1 of 2 annotations were dropped" in dataset.notes[0]
    assert assert_confirmed(dataset, {1: found([([1, 2, 40, 50], 0.8, 0)])}) == pytest.approx(1)


@pytest.mark.parametrize("name", ["map", "map50"])
def test_both_numbers_are_said_where_they_differ(name: str) -> None:
    objects, detections = noisy(7)
    dataset = make_dataset(objects, 12)
    accuracy = evaluate(dataset, detections)
    right = getattr(accuracy, name)
    check(dataset, detections, dataclasses.replace(accuracy, **{name: right + TOLERANCE / 2}))
    for wrong in (right + 2 * TOLERANCE, right - 2 * TOLERANCE, float("nan")):
        with pytest.raises(MetricError) as caught:
            check(dataset, detections, dataclasses.replace(accuracy, **{name: wrong}))
        assert f"{name} is {wrong:.8f} by lowbit and {right:.8f} by pycocotools" in str(caught.value)


def test_a_fault_of_the_matcher_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd that is measured as a single object."""
    objects, detections = noisy(8)
    dataset = make_dataset(objects, 12)
    right = matching.overlap
    with monkeypatch.context() as patch:
        patch.setattr(matching, "overlap", lambda boxes, others, crowd: right(boxes, others, crowd & False))
        accuracy = evaluate(dataset, detections)
    with pytest.raises(MetricError, match="by pycocotools, of the same detections and objects"):
        check(dataset, detections, accuracy)
    assert score(dataset, detections).map == pytest.approx(evaluate(dataset, detections).map, abs=1e-12)
