"""What kinds of errors a detector makes, after TIDE (Bolya et al., TIDE: A General Toolbox for Identifying Object Detection
Errors, ECCV 2020, section 2.2): every false positive and every missed object has one kind, and each kind a cost, the AP50
that would be gained were its errors mended.

With the largest IoU of a false positive and an object, foreground from 0.5 on and background up to 0.1:

- localization: an object of its class, IoU from 0.1 to 0.5;
- classification: an object of another class, IoU of 0.5 and more;
- duplicate: an object of its class, IoU of 0.5 and more, that a better detection has found;
- background: no object with an IoU of more than 0.1;
- both: the rest, an object of another class, IoU from 0.1 to 0.5.

Missed is an object that no detection found, unless one is off by its class or its place only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections
from lowbit.measure.matching import Matching, match, overlap
from lowbit.measure.metrics import average_precision, detected

CLASSIFICATION, LOCALIZATION, BOTH = "classification", "localization", "both"
DUPLICATE, BACKGROUND, MISSED = "duplicate", "background", "missed"
KINDS = (CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND, MISSED)
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1


@dataclass(frozen=True, slots=True)
class ErrorKinds:
    """``counts``: how many errors of each of :data:`KINDS` there are at the confidence that was asked for. ``ap50_costs``:
    by how much AP50, which sees all detections, would rise without that kind, a fraction. ``swaps``: at that confidence, how
    often an object of the first class was taken for one of the second."""

    counts: dict[str, int]
    ap50_costs: dict[str, float]
    swaps: dict[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class _Errors:
    """False positives, int64 [F] each: indices into the matching's detections, of :data:`KINDS`, and of the object that a
    classification or localization error is about, -1 else."""

    detection: NDArray[np.int64]
    kind: NDArray[np.int64]
    about: NDArray[np.int64]


def find(dataset: Dataset, detections: Mapping[int, Detections], confidence: float) -> ErrorKinds:
    """Tell the errors apart. ``detections``: in each image's own pixels, keyed by image id. ``confidence``: from which score
    on errors are counted.

    Raises ``KeyError`` for an image without an entry (an empty entry says that nothing was detected).
    """
    matching = match(dataset, detections)
    errors = _classify(matching)
    counts, swaps = _at(confidence, matching, errors)
    names = {category["id"]: str(category["name"]) for category in dataset.coco["categories"]}
    ids = [names.get(one, "") for one in sorted(dataset.category_ids)]
    return ErrorKinds(counts, _costs(matching, errors), {(ids[a], ids[b]): n for (a, b), n in sorted(swaps.items())})


def _classify(matching: Matching) -> _Errors:
    wrong = np.flatnonzero(~matching.matched[0, 0] & ~matching.ignored[0, 0])
    kind = np.full(len(wrong), KINDS.index(BACKGROUND))
    about = np.full(len(wrong), -1)
    used = matching.object_scores > 0
    by_image = np.argsort(matching.object_images, kind="stable")
    first = np.searchsorted(matching.object_images[by_image], np.arange(matching.objects.shape[2] + 1))
    owner = matching.image[wrong]
    order = np.argsort(owner, kind="stable")
    for image in np.unique(owner):
        start, stop = np.searchsorted(owner[order], (image, image + 1))
        rows, objects = order[start:stop], by_image[first[image] : first[image + 1]]
        if len(objects):
            kind[rows], about[rows] = _kinds(matching, wrong[rows], objects, used[objects])
    return _Errors(wrong, kind, about)


def _kinds(
    matching: Matching, wrong: NDArray[np.int64], objects: NDArray[np.int64], used: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Kinds of one image's false positives, and the objects that they are about."""
    boxes = np.broadcast_to(matching.object_boxes[objects], (len(wrong), len(objects), 4))
    iou = overlap(matching.boxes[wrong], boxes, np.zeros(boxes.shape[:2], bool))
    same = matching.category[wrong][:, None] == matching.object_categories[objects]
    own, others = np.where(same, iou, 0.0), np.where(same, 0.0, iou)
    misplaced = (own.max(1) >= BACKGROUND_IOU) & (own.max(1) <= FOREGROUND_IOU)
    confused = others.max(1) >= FOREGROUND_IOU
    conditions = {
        LOCALIZATION: misplaced,
        CLASSIFICATION: confused,
        DUPLICATE: np.where(used, own, 0.0).max(1) >= FOREGROUND_IOU,
        BACKGROUND: iou.max(1) <= BACKGROUND_IOU,
    }
    kind = np.select(list(conditions.values()), [KINDS.index(one) for one in conditions], KINDS.index(BOTH))
    target = np.select([misplaced, confused], [objects[own.argmax(1)], objects[others.argmax(1)]], -1)
    return kind, target


def _missed(matching: Matching, errors: _Errors, confidence: float) -> NDArray[np.bool_]:
    """Bool [objects]: those that no detection from ``confidence`` on found or is about."""
    sure = detected(matching.scores[errors.detection], confidence)
    about = errors.about[sure]
    missed = ~detected(matching.object_scores, confidence)
    missed[about[about >= 0]] = False
    return missed


def _at(confidence: float, matching: Matching, errors: _Errors) -> tuple[dict[str, int], Counter[tuple[int, int]]]:
    sure = detected(matching.scores[errors.detection], confidence)
    numbers = np.bincount(errors.kind[sure], minlength=len(KINDS))
    counts = dict(zip(KINDS, numbers.tolist(), strict=True))
    counts[MISSED] = int(_missed(matching, errors, confidence).sum())
    confused = sure & (errors.kind == KINDS.index(CLASSIFICATION))
    pairs = zip(
        matching.object_categories[errors.about[confused]].tolist(),
        matching.category[errors.detection[confused]].tolist(),
        strict=True,
    )
    return counts, Counter(pairs)


def _costs(matching: Matching, errors: _Errors) -> dict[str, float]:
    """By kind, AP50 with its errors mended minus AP50."""
    objects = matching.objects[0].sum(1)
    counted = ~matching.ignored[0, 0]
    true = matching.matched[0, 0] & counted
    usual = _ap50(matching.category, matching.scores, true, counted, objects)
    costs = {}
    for number, kind in enumerate(KINDS):
        mended = counted.copy()
        category, right, left = matching.category.copy(), true.copy(), objects
        if kind == MISSED:
            missed = matching.object_categories[_missed(matching, errors, 0.0)]
            left = objects - np.bincount(missed, minlength=len(objects))
        else:
            mine = errors.kind == number
            mended[errors.detection[mine]] = False
            kept = _best_of_each(matching, errors, mine)
            at, about = errors.detection[kept], errors.about[kept]
            mended[at], right[at], category[at] = True, True, matching.object_categories[about]
        costs[kind] = _ap50(category, matching.scores, right, mended, left) - usual
    return costs


def _best_of_each(matching: Matching, errors: _Errors, mine: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Of the errors that are about one object that nothing found, the one with the best score, which mending makes right;
    the others would be duplicates."""
    free = np.flatnonzero(mine & (errors.about >= 0))
    free = free[matching.object_scores[errors.about[free]] == 0]
    free = free[np.argsort(-matching.scores[errors.detection[free]], kind="stable")]
    return free[np.unique(errors.about[free], return_index=True)[1]]


def _ap50(
    category: NDArray[np.int64],
    scores: NDArray[np.float64],
    true: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    objects: NDArray[np.int64],
) -> float:
    """Mean of the categories that have objects."""
    order = np.flatnonzero(counted)
    order = order[np.lexsort((-scores[order], category[order]))]
    edges = np.searchsorted(category[order], np.arange(len(objects) + 1))
    found = [
        average_precision(true[order[edges[k] : edges[k + 1]]], int(objects[k])) for k in np.flatnonzero(objects > 0)
    ]
    return float(np.mean(found)) if found else 0.0
