"""A drop, its interval and a threshold to a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lowbit.gate.policy import WARN, Policy
from lowbit.measure.alone import ProcessSpeedup
from lowbit.results import Status


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of one scheme on one detector: how it ended, whether that lets a merge through, and why, in a
    sentence each."""

    status: Status
    allowed: bool
    reasons: tuple[str, ...]

    @property
    def reason(self) -> str:
        """All reasons in one line."""
        return "; ".join(self.reasons)


def decide(
    drop: float,
    interval: tuple[float, float],
    bounds: tuple[float, float],
    threshold: float,
    inconclusive: Policy = WARN,
    images: int | None = None,
) -> Verdict:
    """Judge a drop (fractions of mAP), measured on ``images`` images, by two one-sided tests at the 5 % level.

    ``interval``: its two-sided 95 % interval, which is said and decides nothing; ``bounds``: its one-sided 95 % bounds, lower
    and upper. Passed when the upper bound is within the threshold (that the drop is larger is rejected), failed when the
    lower bound is beyond it (that the drop is within is rejected), else inconclusive, and ``inconclusive`` decides.
    """
    low, high = bounds
    said = f"drop {points(drop)} points, 95 % CI [{points(interval[0])}, {points(interval[1])}], threshold {points(threshold)}"
    if high <= threshold:
        return Verdict(
            Status.PASSED, True, (f"{said}: at most {points(high)} by the one-sided 95 % bound, which decides",)
        )
    if low > threshold:
        return Verdict(
            Status.FAILED, False, (f"{said}: at least {points(low)} by the one-sided 95 % bound, which decides",)
        )
    between = f"the one-sided 95 % bounds, {points(low)} and {points(high)}, lie on both sides of the threshold"
    settle = f"; {_settling(drop, bounds, threshold, images)} would settle it" if images else ""
    allowed = inconclusive.allows(drop <= threshold)
    return Verdict(Status.INCONCLUSIVE, allowed, (f"{said}: {between}, {inconclusive.said}{settle}",))


def decide_speed(speedup: ProcessSpeedup, least: float, inconclusive: Policy = WARN) -> Verdict:
    """Judge a speed-up by two one-sided tests at the 5 % level, as :func:`decide` does a drop. ``least``: the ratio that is
    asked for."""
    low, high = speedup.bounds
    said = (
        f"speed-up {speedup.ratio:.2f}x, 95 % CI [{speedup.interval[0]:.2f}, {speedup.interval[1]:.2f}] over "
        f"{len(speedup.by_process)} processes, at least {least:.2f}x asked for"
    )
    if low >= least:
        return Verdict(
            Status.PASSED, True, (f"{said}: at least {low:.2f}x by the one-sided 95 % bound, which decides",)
        )
    if high < least:
        return Verdict(
            Status.FAILED, False, (f"{said}: at most {high:.2f}x by the one-sided 95 % bound, which decides",)
        )
    between = f"the one-sided 95 % bounds, {low:.2f}x and {high:.2f}x, lie on both sides of that"
    allowed = inconclusive.allows(speedup.ratio >= least)
    return Verdict(Status.INCONCLUSIVE, allowed, (f"{said}: {between}, {inconclusive.said}",))


def _settling(drop: float, bounds: tuple[float, float], threshold: float, images: int) -> str:
    """How many images like these make the bounds leave the threshold out, if the drop stays what it is.

    A bound's distance from the drop shrinks with the square root of the number of images.
    """
    side = bounds[1] - drop if drop <= threshold else drop - bounds[0]
    distance = abs(threshold - drop)
    needed = images * (side / distance) ** 2 if distance > 0 else math.inf
    return f"about {math.ceil(needed / 10) * 10} images" if needed < 100_000 else "no practical number of images"


def points(fraction: float) -> str:
    """A fraction of mAP as points with two decimals."""
    return f"{fraction * 100:.2f}"
