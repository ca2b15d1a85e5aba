"""Kinds of errors after TIDE: one made by hand of every kind, and what each costs."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lowbit.data.coco import load_coco
from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections
from lowbit.measure.error_kinds import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    DUPLICATE,
    KINDS,
    LOCALIZATION,
    MISSED,
    find,
)
from lowbit.measure.metrics import evaluate

OBJECT = [100, 100, 200, 200]
# IoU with OBJECT: 1, 0.82, 0.25 and none.
SAME, NEAR, OFF, AWAY = OBJECT, [100, 100, 200, 222], [160, 100, 260, 200], [400, 400, 500, 500]
CAT, DOG = 0, 1


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """A cat at :data:`OBJECT` in either of two images, a dog in a third one."""
    images, annotations = [], []
    for number, category in ((1, 1), (2, 1), (3, 2)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((600, 600, 3), np.uint8))
        images.append({"id": number, "file_name": f"{number}.png", "width": 600, "height": 600})
        box = [100, 100, 100, 100]
        annotations.append(
            {"id": number, "image_id": number, "category_id": category, "bbox": box, "area": 1e4, "iscrowd": 0}
        )
    path = tmp_path / "instances.json"
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return load_coco(path)


def seen(*boxes: tuple[list[int], float, int]) -> Detections:
    ordered = sorted(boxes, key=lambda one: -one[1])
    return Detections(
        np.array([box for box, _, _ in ordered], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in ordered], np.float32),
        np.array([kind for _, _, kind in ordered], np.int64),
    )


RIGHT = {2: seen((SAME, 0.8, CAT)), 3: seen((SAME, 0.8, DOG))}


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(SAME, 0.9, CAT)], {}),
        ([(SAME, 0.9, CAT), (NEAR, 0.5, CAT)], {DUPLICATE: 1}),
        ([(SAME, 0.9, CAT), (AWAY, 0.5, CAT)], {BACKGROUND: 1}),
        ([(SAME, 0.9, CAT), (OFF, 0.5, CAT)], {LOCALIZATION: 1}),
        ([(SAME, 0.9, CAT), (SAME, 0.5, DOG)], {CLASSIFICATION: 1}),
        ([(SAME, 0.9, CAT), (OFF, 0.5, DOG)], {BOTH: 1}),
        ([], {MISSED: 1}),
        ([(OFF, 0.9, CAT)], {LOCALIZATION: 1}),  # not missed too
        ([(SAME, 0.9, DOG)], {CLASSIFICATION: 1}),
        ([(OFF, 0.9, DOG)], {BOTH: 1, MISSED: 1}),
        ([(SAME, 0.2, CAT), (AWAY, 0.2, CAT)], {MISSED: 1}),  # under the threshold
    ],
)
def test_every_error_has_its_kind(
    dataset: Dataset, boxes: list[tuple[list[int], float, int]], expected: dict[str, int]
) -> None:
    found = find(dataset, {1: seen(*boxes), **RIGHT}, 0.25)
    assert {kind: count for kind, count in found.counts.items() if count} == expected
    assert found.counts.keys() == found.ap50_costs.keys() == set(KINDS)


def test_swaps_say_which_class_was_taken_for_which(dataset: Dataset) -> None:
    found = find(dataset, {1: seen((SAME, 0.9, DOG)), 2: seen((SAME, 0.9, DOG)), 3: seen((SAME, 0.9, CAT))}, 0.25)
    assert found.swaps == {("cat", "dog"): 2, ("dog", "cat"): 1}


@pytest.mark.parametrize(
    ("boxes", "kind"),
    [
        ([(SAME, 0.5, CAT), (AWAY, 0.9, CAT)], BACKGROUND),
        ([(OFF, 0.9, CAT)], LOCALIZATION),
        ([(SAME, 0.9, DOG)], CLASSIFICATION),
        ([(OFF, 0.9, DOG), (SAME, 0.5, CAT)], BOTH),
        ([], MISSED),
    ],
)
def test_a_kind_costs_what_mending_it_gains(
    dataset: Dataset, boxes: list[tuple[list[int], float, int]], kind: str
) -> None:
    """With the only errors of its kind mended, AP50 is that of a detector without them, which is 1."""
    detections = {1: seen(*boxes), **RIGHT}
    found = find(dataset, detections, 0.25)
    lost = 1 - evaluate(dataset, detections).map50
    assert lost > 0.01
    assert found.ap50_costs[kind] == pytest.approx(lost)
    assert all(cost == 0 for other, cost in found.ap50_costs.items() if other != kind)


def test_of_two_errors_about_one_object_one_becomes_right(dataset: Dataset) -> None:
    detections = {1: seen((SAME, 0.9, DOG), (NEAR, 0.85, DOG)), **RIGHT}
    found = find(dataset, detections, 0.25)
    assert found.counts[CLASSIFICATION] == 2
    assert evaluate(dataset, detections).map50 + found.ap50_costs[CLASSIFICATION] == pytest.approx(1)
