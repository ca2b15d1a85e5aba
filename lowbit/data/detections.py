"""What a detector says of one image."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections of one image, best first.

    ``boxes``: float32 [n, 4], x1 y1 x2 y2 in pixels. ``scores``: float32 [n] in [0, 1]. ``classes``: int64 [n].
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


def to_npz(found: Mapping[int, Detections]) -> bytes:
    """Detections by image id as a NumPy archive: images [i], every image's id; image_id [n], boxes [n, 4] (x1 y1 x2 y2,
    pixels), scores [n], classes [n]."""
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        images=np.array(list(found), np.int64),
        image_id=np.concatenate([np.full(len(seen), image, np.int64) for image, seen in found.items()]),
        boxes=np.concatenate([seen.boxes for seen in found.values()]),
        scores=np.concatenate([seen.scores for seen in found.values()]),
        classes=np.concatenate([seen.classes for seen in found.values()]),
    )
    return stream.getvalue()


def from_npz(data: bytes) -> dict[int, Detections]:
    """What :func:`to_npz` wrote. Raises ``ValueError``, ``KeyError`` or ``zipfile.BadZipFile`` for anything else."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        images, owner = stored["images"], stored["image_id"]
        boxes, scores, classes = stored["boxes"], stored["scores"], stored["classes"]
    # Image by image, in the order of ``images``.
    counts = Counter(owner.tolist())
    ends = np.cumsum([0, *(counts[image] for image in images.tolist())]).tolist()
    return {
        image: Detections(boxes[start:end], scores[start:end], classes[start:end])
        for image, start, end in zip(images.tolist(), ends[:-1], ends[1:], strict=True)
    }
