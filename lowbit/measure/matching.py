"""COCO's matching of detections with objects, over all images at once.

The definition is pycocotools' ``COCOeval.evaluateImg`` for boxes, ties included, so that nothing depends on which of the
two counted (tested against it); here one step is taken for the first detection of every image and category, then for
the second ones, each over all area ranges and IoU thresholds, instead of one step a detection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
# All, small, medium, large: least and largest area of an object in square pixels.
AREAS = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])
MAX_DETECTIONS = 100  # of a category in an image
_CHUNK = 1024

_Flags = NDArray[np.bool_]
_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Matching:
    """What became of D detections in A area ranges at T IoU thresholds; K categories by ascending id, I images.

    ``category``, ``image``: int64 [D], ``scores``: float64 [D], ``boxes``: float64 [D, 4], x, y, width and height in
    pixels; detections are ordered by category, then best first.
    ``matched``: bool [A, T, D], whether an object was found; ``ignored``: bool [A, T, D], counts neither way.
    ``objects``: int64 [A, K, I], counted ones. ``object_scores``: float64 [objects], for every object but crowds, by
    category, image and annotation, the score of what matched it at IoU 0.5, 0 if nothing did; ``object_categories`` and
    ``object_images``: int64 [objects], ``object_boxes``: float64 [objects, 4].
    """

    category: _Ints
    image: _Ints
    scores: _Floats
    boxes: _Floats
    matched: _Flags
    ignored: _Flags
    objects: _Ints
    object_scores: _Floats
    object_categories: _Ints
    object_images: _Ints
    object_boxes: _Floats


@dataclass(frozen=True, slots=True)
class _Boxes:
    """Boxes float64 [n, 4] (x, y, width, height), ordered by ``pair``, category times images plus image."""

    pair: _Ints
    boxes: _Floats
    first: _Ints
    count: _Ints

    @classmethod
    def ordered(cls, pair: _Ints, boxes: _Floats, pairs: int) -> _Boxes:
        count = np.bincount(pair, minlength=pairs)
        return cls(pair, boxes, np.cumsum(count) - count, count)


def match(dataset: Dataset, detections: Mapping[int, Detections]) -> Matching:
    """Match detections, in each image's own pixels, keyed by image id, with a data set's objects.

    Raises ``KeyError`` for an image without an entry (an empty entry says that nothing was detected).
    """
    images, categories = len(dataset.images), len(dataset.category_ids)
    found, scores = _found(dataset, detections)
    objects, areas, crowd = _objects(dataset)
    # [A, n], pycocotools' _ignore.
    skipped = crowd | (areas < AREAS[:, :1]) | (areas > AREAS[:, 1:])
    shape = len(AREAS), len(IOU_THRESHOLDS), len(scores)
    matched, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    found_by = np.zeros(len(objects.pair))
    both = np.flatnonzero((objects.count > 0) & (found.count > 0))
    both = both[np.argsort(objects.count[both], kind="stable")]  # a chunk is as wide as its widest
    for start in range(0, len(both), _CHUNK):
        chunk = both[start : start + _CHUNK]
        chunk = chunk[np.argsort(-found.count[chunk], kind="stable")]
        _match_pairs(chunk, found, scores, objects, crowd, skipped, matched, ignored, found_by)
    extent = found.boxes[:, 2] * found.boxes[:, 3]
    ignored |= ~matched & ((extent < AREAS[:, :1]) | (extent > AREAS[:, 1:]))[:, None]
    order = np.lexsort((-scores, found.pair // images))
    counted = [np.bincount(objects.pair[~skip], minlength=categories * images) for skip in skipped]
    return Matching(
        category=(found.pair // images)[order],
        image=(found.pair % images)[order],
        scores=scores[order],
        boxes=found.boxes[order],
        matched=matched.take(order, 2),
        ignored=ignored.take(order, 2),
        objects=np.stack(counted).reshape(len(AREAS), categories, images),
        object_scores=found_by[~crowd],
        object_categories=(objects.pair // images)[~crowd],
        object_images=(objects.pair % images)[~crowd],
        object_boxes=objects.boxes[~crowd],
    )


def _found(dataset: Dataset, detections: Mapping[int, Detections]) -> tuple[_Boxes, _Floats]:
    """The best :data:`MAX_DETECTIONS` of every category and image, best first, and their scores."""
    seen = [detections[image.id] for image in dataset.images]
    owner = np.repeat(np.arange(len(seen)), [len(one) for one in seen])
    boxes = np.concatenate([np.asarray(one.boxes, float).reshape(-1, 4) for one in seen])
    boxes[:, 2:] -= boxes[:, :2]
    scores = np.concatenate([np.asarray(one.scores, float) for one in seen])
    place = np.argsort(np.argsort(dataset.category_ids))
    pair = place[np.concatenate([np.asarray(one.classes, np.int64) for one in seen])] * len(seen) + owner
    order = np.lexsort((-scores, pair))
    pair = pair[order]
    rank = np.arange(len(pair)) - np.searchsorted(pair, pair)
    order, pair = order[rank < MAX_DETECTIONS], pair[rank < MAX_DETECTIONS]
    return _Boxes.ordered(pair, boxes[order], len(dataset.category_ids) * len(seen)), scores[order]


def _objects(dataset: Dataset) -> tuple[_Boxes, _Floats, _Flags]:
    """The labelled objects, their areas in square pixels, and whether each is a crowd."""
    entries = dataset.coco["annotations"]
    image = {one.id: number for number, one in enumerate(dataset.images)}
    category = {one: number for number, one in enumerate(sorted(dataset.category_ids))}
    pair = np.array([category[e["category_id"]] * len(image) + image[e["image_id"]] for e in entries], np.int64)
    order = np.argsort(pair, kind="stable")
    boxes = np.array([e["bbox"] for e in entries], float).reshape(-1, 4)
    areas = np.array([e["area"] for e in entries], float)
    crowd = np.array([bool(e["iscrowd"]) for e in entries], bool)
    return _Boxes.ordered(pair[order], boxes[order], len(category) * len(image)), areas[order], crowd[order]


def _match_pairs(
    pairs: _Ints,
    found: _Boxes,
    scores: _Floats,
    objects: _Boxes,
    crowd: _Flags,
    skipped: _Flags,
    matched: _Flags,
    ignored: _Flags,
    found_by: _Floats,
) -> None:
    """Match the detections and objects of ``pairs``, most detections first, into the last three arrays."""
    width = int(objects.count[pairs].max())
    slot = np.arange(width)
    there = slot < objects.count[pairs][:, None]  # [pairs, width]
    at = np.where(there, objects.first[pairs][:, None] + slot, 0)
    many = crowd[at]
    leave = skipped[:, at].transpose(1, 0, 2)[:, :, None]  # [pairs, A, 1, width]
    free = np.repeat(np.ones_like(leave), len(IOU_THRESHOLDS), 2)
    least = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]
    for rank in range(int(found.count[pairs[0]])):
        active = int(np.count_nonzero(found.count[pairs] > rank))
        detection = found.first[pairs[:active]] + rank
        iou = overlap(found.boxes[detection], objects.boxes[at[:active]], many[:active])
        iou = np.where(there[:active], iou, -1.0)[:, None, None]
        near = iou >= least
        counted = near & free[:active] & ~leave[:active]
        # A crowd may be found many times.
        spare = near & (free[:active] | many[:active, None, None]) & leave[:active]
        hit: _Flags = np.any(counted, -1)
        waste: _Flags = np.any(spare, -1)
        # Of equal overlaps the last object is taken, as pycocotools does.
        best = np.where(np.where(hit[..., None], counted, spare), iou, -1.0)
        chosen = width - 1 - best[..., ::-1].argmax(-1)
        any_hit: _Flags = hit | waste
        matched[:, :, detection] = any_hit.transpose(1, 2, 0)
        ignored[:, :, detection] = (any_hit & ~hit).transpose(1, 2, 0)
        p, a, t = np.nonzero(any_hit)
        free[p, a, t, chosen[p, a, t]] = False
        lowest = hit[:, 0, 0]
        found_by[at[:active][lowest, chosen[lowest, 0, 0]]] = scores[detection[lowest]]


def overlap(boxes: _Floats, objects: _Floats, crowd: _Flags) -> _Floats:
    """IoU of boxes [p, 4] with objects [p, g, 4]; with a crowd, the share of the box that lies in it. pycocotools'
    ``bbIou``, in its order of operations."""
    boxes = boxes[:, None]
    low = np.maximum(boxes[..., :2], objects[..., :2])
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], objects[..., :2] + objects[..., 2:])
    sides = high - low
    common = np.where((sides > 0).all(-1), sides[..., 0] * sides[..., 1], 0.0)
    area = boxes[..., 2] * boxes[..., 3]
    union = np.where(crowd, area, area + objects[..., 2] * objects[..., 3] - common)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(common / union)
