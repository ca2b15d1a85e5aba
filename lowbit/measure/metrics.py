"""Accuracy: COCO mAP, recall at a deployed threshold, and a paired bootstrap of the drop.

The bootstrap resamples images, not detections: every image's matches, found once, are weighted by how often the image was
drawn. The metrics, and the bootstrap's with all weights one, equal pycocotools' (tested).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections
from lowbit.measure.matching import Matching, match

# Where recall and misses are counted if nobody says where: Ultralytics' default confidence for deployment.
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


@dataclass(frozen=True, slots=True)
class Found:
    """Detections of all categories of the data set, those without objects among them, matched at IoU 0.5; without those
    that match a crowd, which count neither way. ``image``: int64 [D], index of the image; ``scores``: float64 [D];
    ``true``: bool [D], whether an object was found."""

    image: NDArray[np.int64]
    scores: NDArray[np.float64]
    true: NDArray[np.bool_]


@dataclass(frozen=True)
class Accuracy:
    """COCO metrics as fractions; NaN-free: a metric without any object is ``None``.

    ``recall``: share of objects found at ``confidence`` and IoU 0.5; ``miss_rate``: the rest. ``ar``: COCO's AR@100.
    ``object_scores``: float64 [objects], for every counted object the score of what matched it at IoU 0.5, 0 if nothing
    did, in an order that depends on the data set only; ``object_classes``: str [objects], its class's name;
    ``object_images``: int64 [objects], index of its image.
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
    confidence: float
    per_class: dict[str, float]
    matches: tuple[Matches, ...]
    found: Found
    object_scores: NDArray[np.float64]
    object_classes: NDArray[np.str_]
    object_images: NDArray[np.int64]

    @property
    def detected(self) -> NDArray[np.bool_]:
        """Whether each object is found at ``confidence``, bool [objects]."""
        return detected(self.object_scores, self.confidence)


def detected(scores: NDArray[np.float64], confidence: float) -> NDArray[np.bool_]:
    """Which scores are those of detections at a confidence threshold."""
    # In float32, as detectors give scores; a score of 0 is that of nothing.
    return (scores > 0) & (scores >= np.float32(confidence))


def evaluate(
    dataset: Dataset, detections: Mapping[int, Detections], confidence: float = DEPLOYED_CONFIDENCE
) -> Accuracy:
    """Score detections, in each image's own pixels, keyed by image id, against a data set. ``confidence``: where recall is
    counted.

    Raises ``KeyError`` for an image without an entry (an empty entry says that nothing was detected).
    """
    matching = match(dataset, detections)
    # [A, T, K] and [A, T, K], NaN for a category without objects.
    precision, recall = _precision_and_recall(matching)
    names = {category["id"]: str(category["name"]) for category in dataset.coco["categories"]}
    ids = sorted(dataset.category_ids)
    per_category = precision[0].mean(0)
    scores = matching.object_scores
    found = float(detected(scores, confidence).mean()) if len(scores) else 0.0
    return Accuracy(
        map=_mean(precision[0]) or 0.0,
        map50=_mean(precision[0, 0]) or 0.0,
        map75=_mean(precision[0, 5]) or 0.0,
        map_small=_mean(precision[1]),
        map_medium=_mean(precision[2]),
        map_large=_mean(precision[3]),
        ar=_mean(recall[0]) or 0.0,
        recall=found,
        miss_rate=1.0 - found,
        confidence=confidence,
        per_class={names[c]: float(value) for c, value in zip(ids, per_category, strict=True) if not np.isnan(value)},
        matches=_matches(matching),
        # Of classes that the data set does not have nobody labelled an object, so that nothing they find is wrong.
        found=_found(matching, np.isin(ids, list(names))),
        object_scores=scores,
        object_classes=np.array([names.get(c, "") for c in ids])[matching.object_categories],
        object_images=matching.object_images,
    )


def _precision_and_recall(matching: Matching) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """COCO's average precision and largest recall, [areas, thresholds, categories], NaN without objects."""
    areas, levels = matching.matched.shape[:2]
    objects = matching.objects.sum(2)
    precision = np.full((areas, levels, objects.shape[1]), np.nan)
    recall = precision.copy()
    for k, part in enumerate(_categories(matching)):
        for a, t in itertools.product(np.flatnonzero(objects[:, k]), range(levels)):
            true = matching.matched[a, t, part][~matching.ignored[a, t, part]]
            precision[a, t, k] = average_precision(true, int(objects[a, k]))
            recall[a, t, k] = np.count_nonzero(true) / objects[a, k]
    return precision, recall


def average_precision(true: NDArray[np.bool_], objects: int) -> float:
    """COCO's average precision of one category's counted detections, bool [D], best first; ``objects``: how many there are,
    at least one.

    Precision is made monotone from the right and sampled at 101 recalls, as pycocotools' ``accumulate`` does.
    """
    # Between true positives precision only falls and recall stands still.
    at = np.flatnonzero(true)
    found = np.arange(1, len(at) + 1)
    envelope = np.maximum.accumulate((found / (at + 1))[::-1])[::-1]
    sampled = np.searchsorted(found / objects, _RECALL_POINTS, side="left")
    return float(envelope[sampled[sampled < len(at)]].sum() / len(_RECALL_POINTS))


def _categories(matching: Matching) -> list[slice]:
    """Where each category's detections are."""
    edges = np.searchsorted(matching.category, np.arange(matching.objects.shape[1] + 1))
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _mean(values: NDArray[np.float64]) -> float | None:
    """The mean over what is defined, ``None`` if nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _matches(matching: Matching) -> tuple[Matches, ...]:
    """Those over all areas, a category each; COCO leaves categories without objects out of the mean."""
    return tuple(
        Matches(
            matching.image[part],
            matching.matched[0, :, part] & ~matching.ignored[0, :, part],
            ~matching.matched[0, :, part] & ~matching.ignored[0, :, part],
            objects,
        )
        for part, objects in zip(_categories(matching), matching.objects[0], strict=True)
        if objects.any()
    )


def _found(matching: Matching, labelled: NDArray[np.bool_]) -> Found:
    """``labelled``: bool [K], the categories that the data set has."""
    counted = ~matching.ignored[0, 0] & labelled[matching.category]
    return Found(matching.image[counted], matching.scores[counted], matching.matched[0, 0, counted])


def compare(reference: Accuracy, quantized: Accuracy) -> dict[str, float]:
    """Drops from the reference, as fractions, of every metric that both have.

    ``miss_rate``: its rise. ``worst_class``: the largest drop of one class's AP. ``score_shift``: by how much scores of objects that both find
    at IoU 0.5 fall on average. ``lost``: share of all objects that the reference finds at its confidence and the
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
    lost = reference.detected & ~quantized.detected
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
    before, after = reference.detected, quantized.detected
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
    for found in matches:
        objects = weights @ found.objects
        present = objects > 0
        sum_of_levels = np.zeros(draws)
        for true, false in zip(found.true, found.false, strict=True):
            at = np.flatnonzero(true)
            if not len(at):
                continue
            # Row p: how many false positives of each image rank between true positive p - 1 and p.
            wrong = np.flatnonzero(false[: at[-1]])
            segment = np.searchsorted(at, wrong)
            shape = (len(at), images)
            between = csr_array((np.ones(len(wrong)), (segment, found.image[wrong])), shape=shape)
            false_sum = np.cumsum(between @ by_image, 0)
            true_sum = np.cumsum(by_image[found.image[at]], 0)
            recall = true_sum / np.maximum(objects, 1)
            precision = true_sum / np.maximum(true_sum + false_sum, np.finfo(float).eps)
            envelope = np.maximum.accumulate(precision[::-1], 0)[::-1]
            reached = np.searchsorted(_RECALL_POINTS, recall.ravel(), side="right").reshape(recall.shape)
            steps = np.diff(reached, axis=0, prepend=0)
            sum_of_levels += (steps * envelope).sum(0) / len(_RECALL_POINTS)
        total += np.where(present, sum_of_levels / len(found.true), 0.0)
        categories += present
    with np.errstate(invalid="ignore"):
        return np.asarray(total / np.where(categories > 0, categories, np.nan))


def image_draws(images: int, seed: int = 0) -> NDArray[np.int64]:
    """How often each image was drawn in each resample of the bootstrap, int64 [RESAMPLES, images]; seeded."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLES)


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
    """The two-sided interval of the drop of mAP: the percentiles of :func:`drop_draws`."""
    return _percentiles(drop_draws(reference, quantized, images, seed), (1 - confidence) / 2)


def drop_draws(
    reference: tuple[Matches, ...], quantized: tuple[Matches, ...], images: int, seed: int = 0
) -> NDArray[np.float64]:
    """The drop of mAP in each resample of a paired bootstrap over images, float64 [RESAMPLES], NaN where no object was
    drawn.

    Both detectors are scored on the same draws. Seeded: the same inputs give the same drops.
    """
    weights = image_draws(images, seed)
    return resampled_map(reference, weights) - resampled_map(quantized, weights)


@dataclass(frozen=True, slots=True)
class DropInterval:
    """What the bootstrap says of a drop of mAP. ``interval``: its two-sided 95 % interval; ``bounds``: its one-sided 95 %
    bounds, the lower and the upper one, each exceeded with a probability of 5 %."""

    interval: tuple[float, float]
    bounds: tuple[float, float]


def uncertainty(reference: Accuracy, quantized: Accuracy, images: int) -> DropInterval:
    """The percentile bootstrap's intervals of ``reference.map - quantized.map``: of the same drops the 2.5th and 97.5th
    percentile, and the 5th and the 95th as one-sided bounds (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    ch. 13)."""
    drops = drop_draws(reference.matches, quantized.matches, images)
    return DropInterval(_percentiles(drops, 0.025), _percentiles(drops, 0.05))


def _percentiles(drops: NDArray[np.float64], tail: float) -> tuple[float, float]:
    low, high = np.nanpercentile(drops, [tail * 100, 100 - tail * 100])
    return float(low), float(high)
