"""Networks of a few hundred weights, and what trains them."""

from __future__ import annotations

from torch import Tensor, nn

from lowbit.qat.distillation import Plan, Raw

PLAN = Plan(steps=30, rate=1e-2, batch=2, size=32, checks=5)


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
