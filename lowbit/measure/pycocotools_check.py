"""Every AP that lowbit reports, computed a second time by pycocotools: a cross-check of lowbit's own matching.

Both get the same objects and the same detections in memory, and both follow one definition (COCOeval for boxes), so that
nothing but rounding may differ. What a data set's file says and its loader left out on purpose (annotations given twice,
categories that the detector does not have) is left out for both.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections
from lowbit.errors import MetricError
from lowbit.measure.matching import MAX_DETECTIONS
from lowbit.measure.metrics import Accuracy

# Two sums of the same float64 numbers in another order differ by less; one detection that is matched otherwise costs more,
# on a data set with fewer than a million objects.
TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Checked:
    """pycocotools' AP, averaged over IoU 0.5 to 0.95 and at IoU 0.5, fractions."""

    map: float
    map50: float


def check(dataset: Dataset, detections: Mapping[int, Detections], accuracy: Accuracy) -> Checked:
    """pycocotools' AP of the detections that ``accuracy`` was measured of, keyed by image id, in each image's own pixels.

    Raises :class:`MetricError` with both numbers where they differ by more than :data:`TOLERANCE`.
    """
    found = score(dataset, detections)
    for name in ("map", "map50"):
        own, other = getattr(accuracy, name), getattr(found, name)
        if not abs(own - other) <= TOLERANCE:
            raise MetricError(
                f"{dataset.annotations}: {name} is {own:.8f} by lowbit and {other:.8f} by pycocotools, of the same "
                "detections and objects. One of the two is wrong, so neither is reported. Please report it with the data set."
            )
    return found


def score(dataset: Dataset, detections: Mapping[int, Detections]) -> Checked:
    """AP by pycocotools alone. 0 where the data set has no object that counts."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        scorer = COCOeval(_objects(dataset), _results(dataset, detections), "bbox")
        # What AP needs: all areas in one range, and one bound on the detections. The other ranges take three times as long.
        scorer.params.areaRng, scorer.params.areaRngLbl = scorer.params.areaRng[:1], scorer.params.areaRngLbl[:1]
        scorer.params.maxDets = [MAX_DETECTIONS]
        scorer.evaluate()
        scorer.accumulate()
    # [IoU thresholds, recalls, categories]; -1 for a category without objects.
    precision = scorer.eval["precision"][..., 0, 0]
    return Checked(_mean(precision), _mean(precision[0]))


def _mean(precision: Any) -> float:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else 0.0


def _objects(dataset: Dataset) -> Any:
    """The data set as pycocotools keeps it. It writes into the entries, so they are copied; and it takes an object of
    id 0 for none, so they are numbered from 1."""
    entries = [
        {"id": number, **{key: entry[key] for key in ("image_id", "category_id", "bbox", "area", "iscrowd")}}
        for number, entry in enumerate(dataset.coco["annotations"], 1)
    ]
    return _coco(dataset, entries)


def _results(dataset: Dataset, detections: Mapping[int, Detections]) -> Any:
    """Detections as ``COCO.loadRes`` keeps them, which fails without any and copies each several times."""
    entries: list[dict[str, Any]] = []
    for image in dataset.images:
        seen = detections[image.id]
        boxes = np.asarray(seen.boxes, np.float64).reshape(-1, 4)
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        areas = boxes[:, 2] * boxes[:, 3]
        columns = boxes.tolist(), areas.tolist(), seen.scores.tolist(), seen.classes.tolist()
        entries += [
            {
                "id": number,
                "image_id": image.id,
                "category_id": dataset.category_ids[index],
                "bbox": box,
                "area": area,
                "iscrowd": 0,
                "score": score,
            }
            for number, (box, area, score, index) in enumerate(zip(*columns, strict=True), len(entries) + 1)
        ]
    return _coco(dataset, entries)


def _coco(dataset: Dataset, annotations: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    loaded = COCO()
    loaded.dataset = {
        "images": [{"id": image.id} for image in dataset.images],
        "categories": dataset.coco["categories"],
        "annotations": annotations,
    }
    loaded.createIndex()
    return loaded
