"""Accuracy: COCO mAP by pycocotools, recall at a deployed threshold, and a paired bootstrap of the drop.

The bootstrap resamples images, not detections: every image's matches, found once by pycocotools, are weighted by how
often the image was drawn. With all weights one the result equals pycocotools' (tested).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowbit.datasets import Dataset
from lowbit.decode import Detections

# Where recall and misses are counted: Ultralytics' default confidence for deployment, and IoU 0.5.
DEPLOYED_CONFIDENCE = 0.25
RESAMPLES = 1000
_RECALL_POINTS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class Matches:
    """One category's detections over all images, best first, matched at each of T IoU thresholds.

    ``image``: int64 [D], index of the image. ``true``/``false``: bool [T, D]; neither where the match is ignored
    (crowd). ``objects``: int64 [I], counted objects an image.
    """

    image: NDArray[np.int64]
    true: NDArray[np.bool_]
    false: NDArray[np.bool_]
    objects: NDArray[np.int64]


@dataclass(frozen=True)
class Accuracy:
    """COCO metrics as fractions; NaN-free: a metric without any object is ``None``.

    ``recall``: share of objects found at confidence 0.25 and IoU 0.5; ``miss_rate``: the rest. ``ar``: COCO's AR@100.
    ``object_scores``: float64 [objects], for every counted object the score of what matched it at IoU 0.5, 0 if nothing
    did, in an order that depends on the data set only; ``object_images``: int64 [objects], index of its image.
    """

    map: float
    map50: float
    map75: float
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    ar: float
    recall: float
    miss_rate: float
    per_class: dict[str, float]
    matches: tuple[Matches, ...]
    object_scores: NDArray[np.float64]
    object_images: NDArray[np.int64]


def evaluate(dataset: Dataset, detections: Mapping[int, Detections]) -> Accuracy:
    """Score detections, in each picture's own pixels, keyed by image id, against a data set.

    Raises ``KeyError`` for an image without an entry (an empty entry says that nothing was detected).
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = [_coco_rows(image.id, detections[image.id], dataset.category_ids) for image in dataset.images]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO()
        truth.dataset = dataset.coco
        truth.createIndex()
        found = truth.loadRes(np.concatenate(rows)) if any(map(len, rows)) else _nothing(truth)
        scorer = COCOeval(truth, found, "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    stats = [float(value) for value in scorer.stats]
    names = {category["id"]: str(category["name"]) for category in dataset.coco["categories"]}
    per_category = _mean_where_defined(scorer.eval["precision"][:, :, :, 0, 2])
    matches = _matches(scorer, len(dataset.images))
    object_scores, object_images = _object_scores(scorer, len(dataset.images))
    recall = float((object_scores >= DEPLOYED_CONFIDENCE).mean()) if len(object_scores) else 0.0
    return Accuracy(
        map=max(stats[0], 0.0),
        map50=max(stats[1], 0.0),
        map75=max(stats[2], 0.0),
        map_small=_or_none(stats[3]),
        map_medium=_or_none(stats[4]),
        map_large=_or_none(stats[5]),
        ar=max(stats[8], 0.0),
        recall=recall,
        miss_rate=1.0 - recall,
        per_class={names[c]: v for c, v in zip(scorer.params.catIds, per_category, strict=True) if v is not None},
        matches=matches,
        object_scores=object_scores,
        object_images=object_images,
    )


def _coco_rows(image_id: int, found: Detections, category_ids: tuple[int, ...]) -> NDArray[np.float64]:
    """pycocotools' array form: image id, x, y, width, height, score, category id; float64 [n, 7]."""
    rows = np.empty((len(found), 7))
    rows[:, 0] = image_id
    rows[:, 1:3] = found.boxes[:, :2]
    rows[:, 3:5] = found.boxes[:, 2:] - found.boxes[:, :2]
    rows[:, 5] = found.scores
    rows[:, 6] = np.asarray(category_ids)[found.classes]
    return rows


def _nothing(truth: Any) -> Any:
    """pycocotools' loadRes cannot take an empty result; a detector that sees nothing must still be scored."""
    from pycocotools.coco import COCO

    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _mean_where_defined(precision: NDArray[np.float64]) -> list[float | None]:
    """AP of each category from precision [T, R, K]; None where a category has no object (marked -1)."""
    return [float(p.mean()) if (p > -1).all() else None for p in np.moveaxis(precision, 2, 0)]


def _or_none(value: float) -> float | None:
    return None if value < 0 else value


def _matches(scorer: Any, images: int) -> tuple[Matches, ...]:
    params = scorer.params
    areas, cap, levels = len(params.areaRng), params.maxDets[-1], len(params.iouThrs)
    out = []
    for k in range(len(params.catIds)):
        at = k * areas * images
        scores, owner, true, false = [], [], [], []
        objects = np.zeros(images, np.int64)
        for i, result in enumerate(scorer.evalImgs[at : at + images]):
            if result is None:
                continue
            objects[i] = np.count_nonzero(np.asarray(result["gtIgnore"]) == 0)
            count = len(result["dtScores"][:cap])
            hit = np.asarray(result["dtMatches"]).reshape(levels, -1)[:, :count] > 0
            skip = np.asarray(result["dtIgnore"]).reshape(levels, -1)[:, :count].astype(bool)
            scores.append(np.asarray(result["dtScores"][:cap], float))
            owner.append(np.full(count, i, np.int64))
            true.append(hit & ~skip)
            false.append(~hit & ~skip)
        if not objects.any():
            continue  # COCO leaves categories without objects out of the mean
        order = np.argsort(-np.concatenate(scores), kind="mergesort")
        out.append(
            Matches(
                np.concatenate(owner)[order],
                np.concatenate(true, 1)[:, order],
                np.concatenate(false, 1)[:, order],
                objects,
            )
        )
    return tuple(out)


def _object_scores(scorer: Any, images: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The score that found each counted object at IoU 0.5, by category, image and annotation, 0 where none did; and the
    index of its image."""
    areas = len(scorer.params.areaRng)
    found: list[float] = []
    owners: list[int] = []
    for k in range(len(scorer.params.catIds)):
        for i, result in enumerate(scorer.evalImgs[k * areas * images : k * areas * images + images]):
            if result is None:
                continue
            score_of = dict(zip(result["dtIds"], result["dtScores"], strict=True))
            # pycocotools sorts ignored objects last and keeps the others' order.
            matches = zip(np.asarray(result["gtMatches"])[0], result["gtIgnore"], strict=True)
            mine = [score_of[int(match)] if match > 0 else 0.0 for match, ignored in matches if not ignored]
            found += mine
            owners += [i] * len(mine)
    return np.asarray(found), np.asarray(owners, np.int64)


def compare(reference: Accuracy, quantized: Accuracy) -> dict[str, float]:
    """Drops from the reference, as fractions, of every metric that both have.

    ``miss_rate``: its rise. ``worst_class``: the largest drop of one class's AP. ``score_shift``: by how much scores of objects that both find
    at IoU 0.5 fall on average. ``lost``: share of all objects that the reference finds at confidence 0.25 and the
    quantized detector does not.
    """
    names = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "ar", "recall")
    pairs = {name: (getattr(reference, name), getattr(quantized, name)) for name in names}
    drops = {name: one - other for name, (one, other) in pairs.items() if one is not None and other is not None}
    drops["miss_rate"] = quantized.miss_rate - reference.miss_rate
    drops["worst_class"] = worst_class(reference, quantized)[1]
    before, after = reference.object_scores, quantized.object_scores
    both = (before > 0) & (after > 0)
    drops["score_shift"] = float((before[both] - after[both]).mean()) if both.any() else 0.0
    lost = (before >= DEPLOYED_CONFIDENCE) & (after < DEPLOYED_CONFIDENCE)
    drops["lost"] = float(lost.mean()) if len(lost) else 0.0
    return drops


@dataclass(frozen=True, slots=True)
class ImageChange:
    """How many objects of an image a quantized detector lost and gained at the deployed confidence."""

    image: int
    lost: int
    gained: int


def changed_images(reference: Accuracy, quantized: Accuracy, images: int) -> list[ImageChange]:
    """Every image, by index, in which objects were lost or gained; most lost first, then fewest gained."""
    before, after = (a.object_scores >= DEPLOYED_CONFIDENCE for a in (reference, quantized))
    lost, gained = (
        np.bincount(reference.object_images[w], minlength=images) for w in (before & ~after, after & ~before)
    )
    changes = [ImageChange(i, int(lost[i]), int(gained[i])) for i in range(images) if lost[i] or gained[i]]
    return sorted(changes, key=lambda change: (change.gained - change.lost, -change.lost, change.image))


def class_drops(reference: Accuracy, quantized: Accuracy) -> dict[str, float]:
    """The drop of every class's AP, as a fraction."""
    return {name: ap - quantized.per_class.get(name, 0.0) for name, ap in reference.per_class.items()}


def worst_class(reference: Accuracy, quantized: Accuracy) -> tuple[str, float]:
    """The class whose AP falls most, and by how much."""
    drops = class_drops(reference, quantized)
    name = max(sorted(drops), key=lambda n: drops[n])
    return name, drops[name]


def resampled_map(matches: tuple[Matches, ...], weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """mAP@[.5:.95] under each row of image weights, int [R, I]; float64 [R], NaN where no object was drawn.

    COCO's definition: precision made monotone from the right, sampled at 101 recalls, averaged over IoU thresholds and
    over the categories that have objects in the draw.
    """
    from scipy.sparse import csr_array

    draws, images = weights.shape
    by_image = np.ascontiguousarray(weights.T, dtype=np.float64)
    total = np.zeros(draws)
    categories = np.zeros(draws)
    for match in matches:
        objects = weights @ match.objects
        present = objects > 0
        sum_of_levels = np.zeros(draws)
        for true, false in zip(match.true, match.false, strict=True):
            at = np.flatnonzero(true)
            if not len(at):
                continue
            # Row p: how many false positives of each image rank between true positive p - 1 and p.
            wrong = np.flatnonzero(false[: at[-1]])
            segment = np.searchsorted(at, wrong)
            shape = (len(at), images)
            between = csr_array((np.ones(len(wrong)), (segment, match.image[wrong])), shape=shape)
            false_sum = np.cumsum(between @ by_image, 0)
            true_sum = np.cumsum(by_image[match.image[at]], 0)
            recall = true_sum / np.maximum(objects, 1)
            precision = true_sum / np.maximum(true_sum + false_sum, np.finfo(float).eps)
            envelope = np.maximum.accumulate(precision[::-1], 0)[::-1]
            reached = np.searchsorted(_RECALL_POINTS, recall.ravel(), side="right").reshape(recall.shape)
            steps = np.diff(reached, axis=0, prepend=0)
            sum_of_levels += (steps * envelope).sum(0) / len(_RECALL_POINTS)
        total += np.where(present, sum_of_levels / len(match.true), 0.0)
        categories += present
    with np.errstate(invalid="ignore"):
        return np.asarray(total / np.where(categories > 0, categories, np.nan))


def drop_interval(
    reference: Accuracy, quantized: Accuracy, images: int, *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The interval of ``reference.map - quantized.map``, by :func:`interval_of_drops`."""
    return interval_of_drops(reference.matches, quantized.matches, images, confidence=confidence, seed=seed)


def interval_of_drops(
    reference: tuple[Matches, ...],
    quantized: tuple[Matches, ...],
    images: int,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of the drop of mAP by a paired percentile bootstrap over images.

    Both detectors are scored on the same draws (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13).
    Seeded: the same inputs give the same interval.
    """
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(images, np.full(images, 1 / images), RESAMPLES)
    drops = resampled_map(reference, weights) - resampled_map(quantized, weights)
    tail = (1 - confidence) / 2 * 100
    low, high = np.nanpercentile(drops, [tail, 100 - tail])
    return float(low), float(high)
