"""Accuracy against pycocotools itself, the bootstrap, and the numbers that are compared between two detectors."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lowbit.data.coco import load_coco
from lowbit.data.dataset import Dataset, ImageRecord
from lowbit.data.detections import Detections
from lowbit.measure.metrics import Accuracy, compare, drop_interval, evaluate, resampled_map, uncertainty, worst_class

CATEGORIES = (3, 7, 90)
Found = dict[int, Detections]
# image id, category id, [x, y, width, height], iscrowd
Objects = list[tuple[int, int, list[float], int]]


def make_dataset(objects: Objects, images: int, categories: tuple[int, ...] = CATEGORIES) -> Dataset:
    """A data set without images: metrics never read any."""
    annotations = [
        {"id": n, "image_id": i, "category_id": c, "bbox": list(box), "area": box[2] * box[3], "iscrowd": crowd}
        for n, (i, c, box, crowd) in enumerate(objects, 1)
    ]
    ids = range(1, images + 1)
    names = tuple(f"class{c}" for c in categories)
    coco = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 640, "height": 480} for i in ids],
        "annotations": annotations,
        "categories": [{"id": c, "name": name} for c, name in zip(categories, names, strict=True)],
    }
    records = tuple(ImageRecord(i, Path(f"{i}.png"), 640, 480) for i in ids)
    return Dataset("toy", Path("instances_toy.json"), records, categories, names, coco)


def found(rows: list[tuple[list[float], float, int]]) -> Detections:
    """Detections from (x, y, width, height), score and class index."""
    rows = sorted(rows, key=lambda row: -row[1])
    boxes = np.array([[x, y, x + w, y + h] for (x, y, w, h), _, _ in rows], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([r[1] for r in rows], np.float32), np.array([r[2] for r in rows], np.int64))


def noisy(seed: int, images: int = 12, noise: float = 0.12, misses: float = 0.15) -> tuple[Objects, Found]:
    """Random objects of all sizes, some of them crowds, and a detector that moves, misses, repeats and invents."""
    rng = np.random.default_rng(seed)
    objects: Objects = []
    detections: Found = {}
    for image in range(1, images + 1):
        rows: list[tuple[list[float], float, int]] = []
        for _ in range(int(rng.integers(1, 9))):
            side = rng.choice([14.0, 60.0, 200.0]) * rng.uniform(0.7, 1.3, 2)
            box = [float(v) for v in (*rng.uniform(0, 300, 2), *side)]
            index = int(rng.integers(len(CATEGORIES)))
            objects.append((image, CATEGORIES[index], box, int(rng.random() < 0.15)))
            for _ in range(int(rng.choice([1, 1, 1, 2]))):
                if rng.random() < misses:
                    continue
                moved = np.array(box) + rng.normal(0, noise, 4) * np.array([*side, *side])
                label = index if rng.random() < 0.9 else int(rng.integers(len(CATEGORIES)))
                rows.append(([*moved[:2], *np.maximum(moved[2:], 2)], float(rng.random()), label))
        rows += [
            ([*rng.uniform(0, 300, 2), *rng.uniform(5, 200, 2)], float(rng.random()), int(rng.integers(3)))
            for _ in range(int(rng.integers(0, 6)))
        ]
        detections[image] = found(rows)
    return objects, detections


def pycocotools(dataset: Dataset, detections: Found) -> Any:
    """COCOeval as its own demo runs it, fed by JSON-like results instead of an array."""
    results = [
        {
            "image_id": i,
            "category_id": dataset.category_ids[c],
            "bbox": [float(x1), float(y1), float(x2) - float(x1), float(y2) - float(y1)],
            "score": float(score),
        }
        for i, d in detections.items()
        for (x1, y1, x2, y2), score, c in zip(d.boxes, d.scores, d.classes, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(dataset.coco)
        truth.createIndex()
        scorer = COCOeval(truth, truth.loadRes(results), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return scorer


def perfect(objects: Objects, images: int, score: float = 0.9) -> Found:
    """Every object, exactly where it is."""
    rows = [(i, (box, score, CATEGORIES.index(c))) for i, c, box, _ in objects]
    return {i: found([row for owner, row in rows if owner == i]) for i in range(1, images + 1)}


def score(objects: Objects, detections: Found, images: int, confidence: float = 0.25) -> Accuracy:
    return evaluate(make_dataset(objects, images), detections, confidence)


TWO: Objects = [(1, 3, [10, 10, 100, 100], 0), (1, 7, [200, 50, 50, 80], 0), (2, 3, [30, 40, 20, 20], 0)]


def test_perfect_detections() -> None:
    result = score(TWO, perfect(TWO, 2), 2)
    values = [result.map, result.map50, result.map75, result.map_small, result.map_medium, result.map_large, result.ar]
    assert values == pytest.approx([1] * 7, abs=1e-12)
    assert (result.recall, result.miss_rate) == (1, 0)
    assert result.per_class == pytest.approx({"class3": 1, "class7": 1})  # class90 has no object
    assert result.object_scores.tolist() == pytest.approx([0.9] * 3)


def test_nothing_detected() -> None:
    result = score(TWO, {1: found([]), 2: found([])}, 2)
    assert (result.map, result.map50, result.ar, result.recall, result.miss_rate) == (0, 0, 0, 0, 1)
    assert result.per_class == {"class3": 0, "class7": 0}
    assert resampled_map(result.matches, np.ones((1, 2), np.int64)).tolist() == [0]


def test_metric_without_objects_is_none() -> None:
    objects = [TWO[0]]
    result = score(objects, perfect(objects, 1), 1)
    assert (result.map_small, result.map_medium) == (None, None)
    assert result.map_large == pytest.approx(1)


def test_image_without_entry_is_an_error() -> None:
    with pytest.raises(KeyError):
        score(TWO, {1: found([])}, 2)


def assert_same_metrics(result: Accuracy, scorer: Any) -> None:
    names = ["map", "map50", "map75", "map_small", "map_medium", "map_large", None, None, "ar"]
    for name, expected in zip(names, scorer.stats, strict=False):
        if name is not None:
            assert getattr(result, name) == pytest.approx(expected, abs=1e-12), name


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools(seed: int) -> None:
    objects, detections = noisy(seed)
    dataset = make_dataset(objects, 12)
    result, scorer = evaluate(dataset, detections), pycocotools(dataset, detections)
    assert_same_metrics(result, scorer)
    precision = scorer.eval["precision"][:, :, :, 0, 2]
    expected_classes = {f"class{c}": precision[:, :, k].mean() for k, c in enumerate(CATEGORIES)}
    assert result.per_class == pytest.approx(expected_classes, abs=1e-12)
    assert 0.05 < result.map < 0.95  # the data are neither trivial nor hopeless
    assert any(crowd for *_, crowd in objects)


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_where_scores_and_overlaps_tie(seed: int) -> None:
    """Few places, sides and scores, crowds among them, areas at COCO's bounds, and more than 100 detections."""
    rng = np.random.default_rng(seed)

    def box() -> list[float]:
        return [float(v) for v in (*(16 * rng.integers(0, 6, 2)), *rng.choice([16, 32, 48, 96, 128], 2))]

    objects = [
        (i, CATEGORIES[int(rng.integers(3))], box(), int(rng.random() < 0.3)) for i in (1, 2, 3) for _ in range(9)
    ]
    detections = {
        i: found([(box(), float(rng.choice([0.2, 0.5, 0.9])), int(rng.integers(3))) for _ in range(count)])
        for i, count in zip((1, 2, 3), (0, 40, 600), strict=True)
    }
    dataset = make_dataset(objects, 3)
    result, scorer = evaluate(dataset, detections), pycocotools(dataset, detections)
    assert_same_metrics(result, scorer)
    score_of = {one["id"]: one["score"] for one in scorer.cocoDt.anns.values()}
    scores = [
        score_of.get(int(by), 0.0)
        for entry in scorer.evalImgs[: 4 * 3 * 3]
        if entry is not None and entry["aRng"] == [0, 1e10]
        for by, ignored in zip(entry["gtMatches"][0], entry["gtIgnore"], strict=True)
        if not ignored
    ]
    assert result.object_scores.tolist() == scores
    assert 0 < result.map < 0.95


@pytest.mark.parametrize("seed", range(6))
def test_unit_weights_give_the_map(seed: int) -> None:
    objects, detections = noisy(seed + 100)
    result = score(objects, detections, 12)
    weights = np.ones((3, 12), np.int64)
    assert resampled_map(result.matches, weights) == pytest.approx([result.map] * 3, abs=1e-12)


@pytest.mark.parametrize(("seed", "image"), [(0, 1), (1, 5), (2, 12), (3, 7)])
def test_weight_two_is_a_duplicated_image(seed: int, image: int) -> None:
    objects, detections = noisy(seed + 200)
    weights = np.ones((1, 12), np.int64)
    weights[0, image - 1] = 2
    once = score(objects, detections, 12)
    doubled = make_dataset(objects + [(13, c, box, crowd) for i, c, box, crowd in objects if i == image], 13)
    expected = pycocotools(doubled, {**detections, 13: detections[image]}).stats[0]
    assert resampled_map(once.matches, weights)[0] == pytest.approx(expected, abs=1e-12)
    assert abs(expected - once.map) > 1e-6  # or weights would not matter


def test_weight_zero_is_a_left_out_image() -> None:
    objects, detections = noisy(300)
    weights = np.ones((1, 12), np.int64)
    weights[0, 11] = 0
    expected = score([o for o in objects if o[0] != 12], {i: d for i, d in detections.items() if i != 12}, 11).map
    assert resampled_map(score(objects, detections, 12).matches, weights)[0] == pytest.approx(expected, abs=1e-12)


def test_draw_without_objects_is_nan() -> None:
    result = score([TWO[0]], {1: found([]), 2: found([])}, 2)
    values = resampled_map(result.matches, np.array([[0, 2], [2, 0]]))
    assert np.isnan(values[0])
    assert values[1] == 0


def test_interval_of_identical_detectors_is_a_point() -> None:
    objects, detections = noisy(1)
    result = score(objects, detections, 12)
    assert drop_interval(result, result, 12) == (0, 0)


def test_interval_is_seeded() -> None:
    objects, detections = noisy(1)
    before = score(objects, detections, 12)
    after = score(objects, {i: d if i % 3 else found([]) for i, d in detections.items()}, 12)
    first = drop_interval(before, after, 12, seed=4)
    assert drop_interval(before, after, 12, seed=4) == first
    assert drop_interval(before, after, 12, seed=5) != first
    narrow = drop_interval(before, after, 12, seed=4, confidence=0.5)
    assert first[0] < narrow[0] < narrow[1] < first[1]


def test_one_sided_bounds_are_the_ends_of_the_two_sided_90_percent_interval() -> None:
    objects, detections = noisy(1)
    before = score(objects, detections, 12)
    after = score(objects, {i: d if i % 3 else found([]) for i, d in detections.items()}, 12)
    both = uncertainty(before, after, 12)
    assert both.interval == pytest.approx(drop_interval(before, after, 12))
    assert both.bounds == pytest.approx(drop_interval(before, after, 12, confidence=0.9))
    assert both.interval[0] < both.bounds[0] < both.bounds[1] < both.interval[1]


def test_interval_of_a_clearly_worse_detector_excludes_zero() -> None:
    objects, _ = noisy(2, images=30)
    before = score(objects, perfect(objects, 30), 30)
    worse = {i: Detections(d.boxes + np.float32(30), d.scores, d.classes) for i, d in perfect(objects, 30).items()}
    after = score(objects, worse, 30)
    low, high = drop_interval(before, after, 30)
    assert 0 < low <= before.map - after.map <= high
    swapped = drop_interval(after, before, 30)
    assert swapped == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize(("confidence", "recall"), [(0.24, 2 / 3), (0.25, 1.0), (0.26, 1.0)])
def test_recall_counts_what_is_deployed(confidence: float, recall: float) -> None:
    detections = perfect(TWO, 2)
    detections[2] = found([(TWO[2][2], confidence, 0)])
    result = score(TWO, detections, 2)
    assert result.recall == pytest.approx(recall)
    assert result.miss_rate == pytest.approx(1 - recall)
    assert result.map50 == pytest.approx(1)  # mAP does not mind


def test_crowds_are_no_objects() -> None:
    objects: Objects = [*TWO, (2, 3, [300, 300, 200, 100], 1)]
    result = score(objects, perfect(TWO, 2), 2)
    assert len(result.object_scores) == 3
    assert (result.recall, result.map) == (1, pytest.approx(1))


def test_compare_by_hand() -> None:
    before = score(TWO, perfect(TWO, 2, 0.9), 2)
    # Image 1: class 3 found with 0.5, class 7 with 0.1. Image 2: class 3 not found.
    after = score(TWO, {1: found([(TWO[0][2], 0.5, 0), (TWO[1][2], 0.1, 1)]), 2: found([])}, 2)
    half = 51 / 101  # recall 0.5 covers the points 0.00 to 0.50
    assert after.per_class == pytest.approx({"class3": half, "class7": 1})
    drops = compare(before, after)
    assert drops["map"] == pytest.approx(1 - (half + 1) / 2)
    assert drops["map50"] == pytest.approx(drops["map"])
    assert drops["map_small"] == pytest.approx(1)  # the 20 x 20 object of image 2
    assert drops["map_large"] == pytest.approx(0)
    assert drops["recall"] == pytest.approx(2 / 3)
    assert drops["lost"] == pytest.approx(2 / 3)
    assert drops["score_shift"] == pytest.approx((0.4 + 0.8) / 2)
    assert worst_class(before, after) == ("class3", pytest.approx(1 - half))
    assert drops["worst_class"] == pytest.approx(1 - half)
    # What the other one finds in addition is not lost, and its drops are negative.
    back = compare(after, before)
    assert back["lost"] == 0
    assert back["score_shift"] == pytest.approx(-0.6)
    assert back["map"] == pytest.approx(-drops["map"])


def test_compare_leaves_out_what_has_no_object() -> None:
    objects = [TWO[0]]
    result = score(objects, perfect(objects, 1), 1)
    drops = compare(result, result)
    assert "map_small" not in drops
    assert all(value == 0 for value in drops.values())


def test_compare_when_nothing_is_found() -> None:
    nothing = score(TWO, {1: found([]), 2: found([])}, 2)
    drops = compare(score(TWO, perfect(TWO, 2), 2), nothing)
    assert (drops["map"], drops["lost"], drops["score_shift"]) == (pytest.approx(1), 1, 0)


def test_worst_class_takes_the_first_of_equals() -> None:
    before = score(TWO, perfect(TWO, 2), 2)
    assert worst_class(before, score(TWO, {1: found([]), 2: found([])}, 2)) == ("class3", pytest.approx(1))


def test_loaded_data_set_without_area_and_crowd(tmp_path: Path) -> None:
    """load_coco fills in what pycocotools needs, so its data can be scored as they are."""
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((480, 640, 3), np.uint8))
    annotations = [{"id": 0, "image_id": 1, "category_id": 7, "bbox": [1, 2, 40, 50]}]
    images = [{"id": 1, "file_name": "1.png", "width": 640, "height": 480}]
    path = tmp_path / "instances_toy.json"
    categories = [{"id": 7, "name": "cat"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    result = evaluate(load_coco(path), {1: found([([1, 2, 40, 50], 0.8, 0)])})
    assert (result.map, result.recall) == (pytest.approx(1), 1)
    assert result.map_medium == pytest.approx(1)


@pytest.mark.parametrize(("threshold", "recall", "lost"), [(0.0, 2 / 3, 0), (0.3, 2 / 3, 0), (0.301, 1 / 3, 1 / 3)])
def test_recall_and_losses_are_those_at_the_users_threshold(threshold: float, recall: float, lost: float) -> None:
    """A score equal to it is kept, though 0.3 is more than its float32, and what nothing matched is never found."""
    detections = perfect(TWO, 2)
    before = score(TWO, detections, 2, threshold)
    detections[2] = found([])
    detections[1] = found([(TWO[0][2], 0.3, 0), (TWO[1][2], 0.9, 1)])
    after = score(TWO, detections, 2, threshold)
    assert (before.recall, before.confidence, after.confidence) == (1.0, threshold, threshold)
    assert (after.recall, after.miss_rate) == pytest.approx((recall, 1 - recall))
    drops = compare(before, after)
    assert drops["recall"] == pytest.approx(1 - recall) == drops["miss_rate"]
    assert drops["lost"] == pytest.approx(1 / 3 + lost)
