"""The threshold that a quantized detector needs: by hand, and recounted from what pycocotools matches."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.data.detections import Detections
from lowbit.measure.metrics import evaluate, image_draws
from lowbit.measure.operating_point import OperatingPoint, Point, Shift, calibration_error, operating_point
from tests.unit.test_metrics import Found, Objects, found, make_dataset, noisy, pycocotools, score

# Four objects of class 3 in a row, and where no object is.
BOXES = [[100.0 * n, 10.0, 50.0, 50.0] for n in range(5)]
FOUR: Objects = [(1, 3, box, 0) for box in BOXES[:4]]
NOWHERE = [[100.0 * n, 300.0, 50.0, 50.0] for n in range(5)]


def seen(true: list[float], false: list[float] = [], *, label: int = 0) -> Found:  # noqa: B006
    """One image: the first objects found with these scores, and false positives of a class with those."""
    rows = [(BOXES[n], value, 0) for n, value in enumerate(true)]
    return {1: found(rows + [(NOWHERE[n], value, label) for n, value in enumerate(false)])}


def compared(
    reference: Found, quantized: Found, confidence: float, objects: Objects = FOUR, images: int = 1
) -> OperatingPoint:
    return operating_point(score(objects, reference, images), score(objects, quantized, images), images, confidence)


REFERENCE = seen([0.9, 0.8, 0.5], [0.7])  # at 0.35: three of four detections, three of four objects


def test_lowest_threshold_with_the_precision_though_precision_is_not_monotone() -> None:
    """0 of 1, 1 of 2, 2 of 3, 3 of 4, 3 of 5: from above the first threshold fails already, and it is reached at 0.3."""
    result = compared(REFERENCE, seen([0.5, 0.4, 0.3], [0.6, 0.2, 0.1]), 0.35)
    assert result.reference.at_confidence == Point(0.35, 0.75, 0.75, 0.75)
    assert result.quantized.at_confidence == Point(0.35, 2 / 3, 0.5, 4 / 7)
    assert result.same_precision is not None and result.same_recall is not None
    assert result.same_precision.at == result.same_recall.at == Point(0.3, 0.75, 0.75, 0.75)
    # The one image is all that is drawn.
    assert result.same_precision.interval == result.same_recall.interval == (0.3, 0.3)
    assert result.quantized.best_f1 == result.same_precision.at
    assert result.reference.best_f1 == Point(0.35, 0.75, 0.75, 0.75)


def test_recall_that_needs_more_false_positives() -> None:
    result = compared(REFERENCE, seen([0.9, 0.8, 0.1], [0.7, 0.2]), 0.35)
    assert result.same_precision is not None and result.same_recall is not None
    assert result.same_precision.at == Point(0.701, 1.0, 0.5, 2 / 3)
    assert result.same_recall.at == Point(0.1, 0.6, 0.75, 2 / 3)


def test_what_cannot_be_reached_is_none() -> None:
    result = compared(REFERENCE, seen([0.5, 0.4], [0.6]), 0.35)
    assert result.same_recall is None
    assert result.same_precision is None
    assert result.quantized.best_f1 == Point(0.35, 2 / 3, 0.5, 4 / 7)


def test_a_threshold_takes_all_of_a_tie() -> None:
    """The third object and a false positive have the same score: no threshold is between them."""
    result = compared(seen([0.9, 0.8, 0.5]), seen([0.9, 0.5, 0.5], [0.5]), 0.4)
    assert result.same_precision is not None and result.same_recall is not None
    assert result.same_precision.at == Point(0.501, 1.0, 0.25, 0.4)
    assert result.same_recall.at == Point(0.4, 0.75, 0.75, 0.75)


@pytest.mark.parametrize(("confidence", "kept"), [(0.5, 1), (0.25, 2), (0.2500001, 1)])
def test_a_score_at_the_threshold_is_kept(confidence: float, kept: int) -> None:
    point = compared(seen([0.75, 0.25]), seen([]), confidence).reference.at_confidence
    assert (point.threshold, point.recall) == (confidence, kept / 4)


def test_false_positives_of_a_class_without_objects_count() -> None:
    """COCO's AP leaves them out."""
    clean, noise = seen([0.9, 0.8]), seen([0.9, 0.8], [0.7, 0.6], label=2)
    result = compared(clean, noise, 0.5)
    assert score(FOUR, clean, 1).map == score(FOUR, noise, 1).map
    assert result.quantized.at_confidence == Point(0.5, 0.5, 0.5, 0.5)
    assert result.same_precision is not None and result.same_precision.at == Point(0.701, 1.0, 0.5, 2 / 3)


def test_a_class_that_the_data_set_does_not_have_cannot_be_wrong() -> None:
    """Nobody labelled its objects: what is found of it is neither true nor false."""
    dataset = dataclasses.replace(make_dataset(FOUR, 1), category_ids=(3, 7, -1))
    dataset.coco["categories"].pop()
    accuracy = evaluate(dataset, seen([0.9, 0.8], [0.7], label=2))
    assert accuracy.found.scores.tolist() == pytest.approx([0.9, 0.8])
    assert evaluate(dataset, seen([0.9, 0.8], [0.7], label=1)).found.true.tolist() == [True, True, False]


def test_crowds_count_neither_way() -> None:
    objects: Objects = [*FOUR, (1, 3, [0, 290, 600, 100], 1)]
    result = compared(REFERENCE, REFERENCE, 0.35, objects)
    assert result.reference.at_confidence == Point(0.35, 1.0, 0.75, 6 / 7)


@pytest.mark.parametrize(
    ("reference", "quantized"), [(REFERENCE, seen([])), (seen([]), REFERENCE), (seen([0.2]), REFERENCE)]
)
def test_nothing_detected(reference: Found, quantized: Found) -> None:
    """By the quantized detector; by FP32; by FP32 at the user's threshold: then there is nothing to reach."""
    result = compared(reference, quantized, 0.35)
    assert result.same_precision is None and result.same_recall is None
    empty = result.quantized if quantized is not REFERENCE else result.reference
    assert empty.at_confidence == Point(0.35, None, 0.0, 0.0)
    assert empty.calibration_error is None
    assert result.score_shift == {} or reference[1].scores[0] > 0


def test_the_same_detections_need_no_other_threshold() -> None:
    """Any threshold from 0.001 to 0.9 keeps the same, so the user's stays."""
    result = compared(seen([0.9] * 4), seen([0.9] * 4), 0.2537)
    assert result.same_precision is not None and result.same_recall is not None
    assert result.same_precision.at == result.same_recall.at == Point(0.2537, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_thresholds_at_the_ends(confidence: float) -> None:
    result = compared(REFERENCE, REFERENCE, confidence)
    assert result.reference.at_confidence.recall == (0.75 if confidence == 0 else 0)
    assert (result.same_precision is None) == (confidence == 1)


def test_calibration_error_by_hand() -> None:
    """0.9 right and 0.9 wrong lie in one bin and are 0.8 off together, 0.375 right alone 0.625; 0.125 is not kept."""
    values = score(FOUR, seen([0.9, 0.375, 0.125], [0.9]), 1).found
    assert calibration_error(values, 0.25) == pytest.approx((0.8 + 0.625) / 3)
    assert calibration_error(values, 0.1) == pytest.approx((0.8 + 0.625 + 0.875) / 4)
    assert calibration_error(values, 0.95) is None


def test_score_shift_is_the_median_fall_by_class() -> None:
    objects: Objects = [*FOUR, (1, 7, BOXES[4], 0)]
    one = {1: found([(box, 0.75, 0) for box in BOXES[:4]] + [(BOXES[4], 0.5, 1)])}
    # The fourth object is not found, and does not count.
    other = {1: found([(BOXES[n], s, 0) for n, s in enumerate([0.5, 0.25, 0.625])] + [(BOXES[4], 0.75, 1)])}
    assert compared(one, other, 0.25, objects).score_shift == {"class3": Shift(0.25, 3), "class7": Shift(-0.25, 1)}
    missed = {1: found([(BOXES[0], 0.5, 0)])}
    assert compared(one, missed, 0.25, objects).score_shift == {"class3": Shift(0.25, 1)}


def test_curves_are_short_and_ascending() -> None:
    objects, detections = noisy(5)
    curve = compared(detections, detections, 0.3, objects, 12).reference.curve
    assert list(curve.thresholds) == sorted(set(curve.thresholds)) and 45 <= len(curve.thresholds) <= 55
    assert curve.thresholds[0] == 0.001 and 0.98 in curve.thresholds
    assert list(curve.recall) == sorted(curve.recall, reverse=True) and curve.recall[0] > curve.recall[-1]
    for at, precision, recall in zip(curve.thresholds, curve.precision, curve.recall, strict=True):
        point = compared(detections, detections, at, objects, 12).reference.at_confidence
        assert recall == pytest.approx(point.recall, abs=5e-5)
        assert precision == (None if point.precision is None else pytest.approx(point.precision, abs=5e-5))


def counted(scorer: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
    """Scores and hits of the detections that count at IoU 0.5, by pycocotools, and the number of objects."""
    images = [one for one in scorer.evalImgs if one is not None and one["aRng"] == [0, 1e10]]
    scores = np.concatenate([one["dtScores"] for one in images])
    kept = np.concatenate([~one["dtIgnore"][0].astype(bool) for one in images])
    true = np.concatenate([one["dtMatches"][0] > 0 for one in images])
    return scores[kept], true[kept], sum(int((~one["gtIgnore"].astype(bool)).sum()) for one in images)


def shifted(detections: Found, factor: float, seed: int) -> Found:
    """The same boxes with other scores, in other order."""
    rng = np.random.default_rng(seed)
    moved = {}
    for image, one in detections.items():
        scores = np.clip(one.scores * factor + rng.normal(0, 0.05, len(one.scores)), 0.001, 1).round(2)
        order = np.argsort(-scores, kind="stable")
        moved[image] = Detections(one.boxes[order], scores[order].astype(np.float32), one.classes[order])
    return moved


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.floats(0.3, 1.3), st.sampled_from([0.001, 0.25, 0.2537, 0.5, 0.9]), st.floats(0.05, 0.4)
)
def test_recounting_finds_the_precision_and_nothing_lower(
    seed: int, factor: float, confidence: float, misses: float
) -> None:
    objects, detections = noisy(seed, misses=misses)
    dataset, changed = make_dataset(objects, 12), shifted(detections, factor, seed)
    result = operating_point(evaluate(dataset, detections), evaluate(dataset, changed), 12, confidence)
    scores, true, count = counted(pycocotools(dataset, detections))
    wanted_kept, wanted_true = (
        int((scores >= np.float32(confidence)).sum()),
        int(true[scores >= np.float32(confidence)].sum()),
    )
    assert result.reference.at_confidence.recall == wanted_true / count
    assert result.reference.at_confidence.precision == (wanted_true / wanted_kept if wanted_kept else None)
    scores, true, count = counted(pycocotools(dataset, changed))
    rows = {}
    for threshold in sorted({*(n / 1000 for n in range(1, 1001)), confidence}):
        kept = scores >= np.float32(threshold)
        rows[threshold] = int(kept.sum()), int(true[kept].sum())
    precise = [t for t, (k, n) in rows.items() if k and n * wanted_kept >= wanted_true * k]
    recalled = [t for t, (k, n) in rows.items() if n >= wanted_true]
    for proposal, reached, best in ((result.same_precision, precise, min), (result.same_recall, recalled, max)):
        if not reached or not wanted_true:
            assert proposal is None
            continue
        assert proposal is not None
        point = proposal.at
        kept_there, true_there = rows[point.threshold]
        assert point.threshold in reached
        assert point.precision == true_there / kept_there and point.recall == true_there / count
        alike = [t for t in rows if rows[t] == rows[best(reached)]]
        assert abs(point.threshold - confidence) == min(abs(t - confidence) for t in alike) and point.threshold in alike


def test_draws_in_which_nothing_reaches_it_are_the_ends() -> None:
    """FP32 finds both objects of the first image and invents two on the second; the quantized detector the reverse."""
    objects: Objects = [(image, 3, box, 0) for image in (1, 2) for box in BOXES[:2]]
    good, bad = (found([(box, 0.9, 0) for box in boxes[:2]]) for boxes in (BOXES, NOWHERE))
    result = compared({1: good, 2: bad}, {1: bad, 2: good}, 0.3, objects, 2)
    assert result.same_precision is not None and result.same_recall is not None
    assert result.same_precision.interval == (0.3, 1.0)
    assert result.same_recall.interval == (0.0, 0.3)
    # A draw of the second image alone says nothing: FP32 finds no object in it.
    same = compared({1: good, 2: bad}, {1: good, 2: bad}, 0.3, objects, 2)
    assert same.same_precision is not None and same.same_recall is not None
    assert same.same_precision.interval == same.same_recall.interval == (0.3, 0.3)


def test_interval_is_that_of_the_same_rule_in_every_draw() -> None:
    objects, detections = noisy(9)
    dataset, changed, confidence = make_dataset(objects, 12), shifted(detections, 0.6, 9), 0.3
    reference, quantized = evaluate(dataset, detections), evaluate(dataset, changed)
    result = operating_point(reference, quantized, 12, confidence)
    thresholds = np.arange(1, 1001) / 1000
    precise, recalled = [], []
    for weights in image_draws(12):
        times = weights[reference.found.image]
        kept_there = np.repeat(reference.found.true, times)[
            np.repeat(reference.found.scores, times) >= np.float32(confidence)
        ]
        times = weights[quantized.found.image]
        scores, true = np.repeat(quantized.found.scores, times), np.repeat(quantized.found.true, times)
        kept = len(scores) - np.searchsorted(np.sort(scores), thresholds.astype(np.float32))
        hits = true.sum() - np.searchsorted(np.sort(scores[true]), thresholds.astype(np.float32))
        for reached, found_at, best, missing in (
            ((kept > 0) & (hits * len(kept_there) >= kept_there.sum() * kept), precise, min, 1.0),
            (hits >= kept_there.sum(), recalled, max, 0.0),
        ):
            if not reached.any():
                found_at.append(missing)
                continue
            alike = thresholds[kept == kept[best(np.flatnonzero(reached))]]
            found_at.append(float(alike[np.abs(alike - confidence).argmin()]))
    for proposal, found_at in ((result.same_precision, precise), (result.same_recall, recalled)):
        assert proposal is not None
        assert proposal.interval == pytest.approx(tuple(np.percentile(found_at, [2.5, 97.5])))
        assert proposal.interval[0] < proposal.at.threshold < proposal.interval[1]
