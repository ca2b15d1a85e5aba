"""The confidence threshold that a quantized detector needs to behave as FP32 did at the user's.

Quantization shifts scores, so the threshold that was tuned for FP32 is another operating point afterwards. Precision and
recall at a threshold count the detections of the whole data set whose score is at least the threshold, matched one to
one with objects at IoU 0.5. False positives of classes without objects are among them, which COCO's AP leaves out; what
matches a crowd counts neither way, nor do classes of the detector that the data set does not have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowbit.measure.metrics import Accuracy, Found, image_draws

# What is proposed: a threshold that one types. The user's own is a candidate too.
_STEPS = np.arange(1, 1001) / 1000
# Where curves are sampled: closer together where scores lie densest.
_CURVE = np.array([0.001, 0.005, 0.01, *np.arange(1, 50) / 50])
CALIBRATION_BINS = 10

_Flags = NDArray[np.bool_]
_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Point:
    """A detector at one threshold. ``precision`` is None where nothing is detected."""

    threshold: float
    precision: float | None
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision, None where nothing is detected, and recall at about 50 ascending thresholds, to four decimals."""

    thresholds: tuple[float, ...]
    precision: tuple[float | None, ...]
    recall: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One detector over all thresholds. ``at_confidence``: at the user's; ``best_f1``: where F1 is largest;
    ``calibration_error``: :func:`calibration_error` of what the user's threshold keeps."""

    at_confidence: Point
    best_f1: Point
    calibration_error: float | None
    curve: Curve


@dataclass(frozen=True, slots=True)
class Proposal:
    """The quantized detector at a threshold to use instead, and the threshold's 95 % interval."""

    at: Point
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Shift:
    """The median fall of the scores of a class's objects that both detectors find, at any score, and their number."""

    median: float
    objects: int


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What becomes of the user's threshold, ``confidence``.

    ``same_precision``: the lowest threshold at which the quantized detector's precision is at least FP32's at
    ``confidence``. Precision is not monotone, so higher thresholds may miss it; the lowest one finds most. ``same_recall``:
    the highest threshold at which its recall is at least FP32's. Each is None where no threshold reaches it, and where
    FP32 finds no object at ``confidence``. ``score_shift``: by class.
    """

    confidence: float
    reference: Behaviour
    quantized: Behaviour
    same_precision: Proposal | None
    same_recall: Proposal | None
    score_shift: dict[str, Shift]


def operating_point(reference: Accuracy, quantized: Accuracy, images: int, confidence: float) -> OperatingPoint:
    """Compare two detectors' behaviour over thresholds; ``images``: of the data set.

    Thresholds are multiples of 0.001, or ``confidence`` itself. Of those that keep the same detections the nearest to
    ``confidence`` is taken. Intervals are of the paired percentile bootstrap over images, on the draws of
    :func:`lowbit.measure.metrics.interval_of_drops`; a draw in which no threshold reaches FP32's precision counts as 1,
    one in which none reaches its recall as 0.
    """
    thresholds = np.union1d(_STEPS, confidence)
    place = int(np.searchsorted(thresholds, confidence))
    once = np.ones((1, images), np.int64)
    before, after = (_count(one, thresholds, once) for one in (reference, quantized))
    point = _proposed(before, after, thresholds, place)
    weights = image_draws(images)
    drawn = _proposed(_count(reference, thresholds, weights), _count(quantized, thresholds, weights), thresholds, place)

    def proposal(index: _Ints, indices: _Ints, unreached: float) -> Proposal | None:
        at = int(index[0])
        if at < 0:
            return None
        indices = indices[indices != _NOTHING]
        low, high = np.percentile(np.where(indices >= 0, thresholds[indices], unreached), [2.5, 97.5])
        return Proposal(after.point(thresholds, at), (float(low), float(high)))

    return OperatingPoint(
        confidence,
        _behaviour(reference, before, thresholds, place),
        _behaviour(quantized, after, thresholds, place),
        proposal(point[0], drawn[0], 1.0),
        proposal(point[1], drawn[1], 0.0),
        _score_shift(reference, quantized),
    )


def calibration_error(found: Found, confidence: float) -> float | None:
    """How far scores are from precision: the expected calibration error of detections of at least ``confidence``.

    Ten bins of equal width over the scores; the absolute difference of each bin's mean score and precision at IoU 0.5,
    weighted by its detections (Guo et al., On Calibration of Modern Neural Networks, ICML 2017; of detections: Kueppers
    et al., Multivariate Confidence Calibration for Object Detection, CVPR Workshops 2020). Those below ``confidence``
    are left out: there are hundreds an image, near 0 and nearly always wrong, and they would hide the rest. None where
    nothing is kept.
    """
    kept = found.scores >= np.float32(confidence)
    scores, true = found.scores[kept], found.true[kept]
    if not len(scores):
        return None
    bins = np.clip(scores * CALIBRATION_BINS, 0, CALIBRATION_BINS - 1).astype(np.int64)
    return float(np.abs(np.bincount(bins, scores - true)).sum() / len(scores))


# In place of a threshold's index: no threshold reaches what is asked; FP32 finds nothing, so nothing is asked.
_UNREACHED, _NOTHING = -1, -2


@dataclass(frozen=True, slots=True)
class _Counts:
    """In R draws at G thresholds: detections that are kept and those of them that find an object, int64 [R, G]; objects,
    int64 [R]."""

    kept: _Ints
    true: _Ints
    objects: _Ints

    def point(self, thresholds: _Floats, at: int) -> Point:
        """The first draw at one of the thresholds."""
        kept, true, objects = int(self.kept[0, at]), int(self.true[0, at]), int(self.objects[0])
        return Point(
            float(thresholds[at]),
            true / kept if kept else None,
            true / objects if objects else 0.0,
            2 * true / (kept + objects) if kept + objects else 0.0,
        )


def _count(accuracy: Accuracy, thresholds: _Floats, weights: _Ints) -> _Counts:
    """Count under each row of image weights, int64 [R, I]."""
    from scipy.sparse import csr_array

    found, images = accuracy.found, weights.shape[1]
    # How many thresholds keep it; compared in float32, as detectors give scores.
    reached = np.searchsorted(thresholds.astype(np.float32), found.scores, side="right")

    def kept(chosen: _Flags | slice) -> _Ints:
        image, steps = found.image[chosen], reached[chosen]
        shape = images, len(thresholds) + 1
        by_image = csr_array((np.ones(len(image), np.int64), (image, steps)), shape=shape)
        return np.cumsum((weights @ by_image)[:, ::-1], 1)[:, -2::-1]

    return _Counts(kept(slice(None)), kept(found.true), weights @ np.bincount(accuracy.object_images, minlength=images))


def _proposed(before: _Counts, after: _Counts, thresholds: _Floats, place: int) -> tuple[_Ints, _Ints]:
    """The indices of the thresholds with FP32's precision and with its recall, int64 [R] each."""
    kept, true = before.kept[:, place, None], before.true[:, place, None]
    # In integers, so that equal precisions are equal.
    precise = (after.kept > 0) & (after.true * kept >= true * after.kept)
    recalled = after.true >= true
    last = len(thresholds) - 1
    found = []
    for reached, best in ((precise, precise.argmax(1)), (recalled, last - recalled[:, ::-1].argmax(1))):
        nearest = _nearest(after.kept, best, thresholds, place)
        nearest = np.where(reached.any(1), nearest, _UNREACHED)
        found.append(np.where(true[:, 0] > 0, nearest, _NOTHING))
    return found[0], found[1]


def _nearest(kept: _Ints, chosen: _Ints, thresholds: _Floats, place: int) -> _Ints:
    """Of the thresholds that keep what each row's ``chosen`` one keeps, the index of the nearest to the user's."""
    same = kept == np.take_along_axis(kept, chosen[:, None], 1)
    return np.where(same, np.abs(thresholds - thresholds[place]), np.inf).argmin(1)


def _behaviour(accuracy: Accuracy, counts: _Counts, thresholds: _Floats, place: int) -> Behaviour:
    total = counts.kept + counts.objects[:, None]
    best = (2 * counts.true / np.maximum(total, 1)).argmax(1)
    points = [counts.point(thresholds, int(at)) for at in np.searchsorted(thresholds, _CURVE)]
    return Behaviour(
        counts.point(thresholds, place),
        counts.point(thresholds, int(_nearest(counts.kept, best, thresholds, place)[0])),
        calibration_error(accuracy.found, float(thresholds[place])),
        Curve(
            tuple(point.threshold for point in points),
            tuple(None if point.precision is None else round(point.precision, 4) for point in points),
            tuple(round(point.recall, 4) for point in points),
        ),
    )


def _score_shift(reference: Accuracy, quantized: Accuracy) -> dict[str, Shift]:
    both = (reference.object_scores > 0) & (quantized.object_scores > 0)
    falls, classes = (reference.object_scores - quantized.object_scores)[both], reference.object_classes[both]
    by_class = {str(name): falls[classes == name] for name in np.unique(classes)}
    return {name: Shift(float(np.median(mine)), len(mine)) for name, mine in by_class.items()}
