"""The images that are not trained on: they decide which step of a training is exported."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections
from lowbit.data.pseudo_labels import confident
from lowbit.detector.torch_module import Raw
from lowbit.measure.metrics import DEPLOYED_CONFIDENCE, evaluate
from lowbit.quantize.qat.losses import losses


@dataclass
class HeldOut:
    """Images that are not trained on: as squares float32 [n, 3, size, size], and what the teacher makes of them."""

    images: tuple[Path, ...]
    squares: Tensor
    targets: list[Raw]
    detect: Callable[[nn.Module, Path], Detections] | None
    truth: Dataset | None = None

    def ask(self, teacher: nn.Module) -> None:
        """Take what the teacher is confident of for the truth."""
        if self.detect is not None:
            classes = self.targets[0][2].shape[1]
            self.truth = confident(self.images, classes, self._seen(self.detect, teacher), DEPLOYED_CONFIDENCE)

    def loss(self, network: nn.Module) -> float:
        """Of the raw head alone."""
        with torch.inference_mode():
            found = [losses(network(s[None]), t)[:2] for s, t in zip(self.squares, self.targets, strict=True)]
        return float(np.mean([float(classes + boxes) for classes, boxes in found]))

    def agreement(self, network: nn.Module) -> float:
        """AP with the teacher's confident boxes as the truth; NaN if there are none."""
        if self.truth is None or self.detect is None:
            return math.nan
        return evaluate(self.truth, self._seen(self.detect, network)).map

    def _seen(self, detect: Callable[[nn.Module, Path], Detections], network: nn.Module) -> dict[int, Detections]:
        return {number: detect(network, image) for number, image in enumerate(self.images, 1)}
