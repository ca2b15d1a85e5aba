"""What a detector says of one image."""

from __future__ import annotations

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
