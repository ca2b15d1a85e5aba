"""Networks of a few hundred weights, and what trains them; and a whole detector, small."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lowbit.detector.torch_module import Raw
from lowbit.quantize.qat.plan import Plan

PLAN = Plan(steps=30, rate=1e-2, batch=2, size=32, checks=5)


def small_yolov10() -> dict[str, Any]:
    """Every part of YOLOv10's architecture once, narrow: what Ultralytics makes a detector of, with strides 8 to 32."""
    backbone = [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C2f", [16, True]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "SCDown", [64, 3, 2]],
        [-1, 1, "SCDown", [128, 3, 2]],
        [-1, 1, "SPPF", [128, 5]],
        [-1, 1, "PSA", [128]],
    ]
    neck = [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 4], 1, "Concat", [1]],
        [-1, 1, "C2fCIB", [32, True, True]],
        [[3, 10, 7], 1, "v10Detect", ["nc"]],
    ]
    return {"nc": 80, "backbone": backbone, "head": neck}


class Toy(nn.Module):
    """One stride-8 level, two bins a side, three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, 8)
        self.boxes, self.scores = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, images: Tensor) -> Raw:
        features = self.stem(images)
        return [features], self.boxes(features).flatten(2), self.scores(features).flatten(2)


def nothing(_: object) -> None:
    """Neither bounds nor says anything; a function, so that processes can be given it."""


def one_width(_: object, __: int) -> None:
    """For weights without bits."""


def no_scales(_: str) -> bool:
    return False


class Network(nn.Module):
    """A plain and a depthwise convolution, and one that sees their inputs' correlations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = nn.Conv2d(16, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = nn.functional.silu(self.first(images))
        return self.last(nn.functional.silu(self.depthwise(x)))
