"""A drop, its interval and a threshold to a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    drop: float, interval: tuple[float, float], threshold: float, inconclusive: str = "warn", images: int | None = None
) -> Verdict:
    """Judge a drop (fractions of mAP), measured on ``images`` images, by its 95 % interval.

    Passed when the whole interval is within the threshold, failed when all of it is beyond, else inconclusive:
    ``inconclusive`` then lets it through (``pass``), stops it (``fail``) or follows the point estimate (``warn``).
    """
    low, high = interval
    said = f"drop {points(drop)} [{points(low)}, {points(high)}] points, threshold {points(threshold)}"
    if high <= threshold:
        return Verdict(Status.PASSED, True, (said,))
    if low > threshold:
        return Verdict(Status.FAILED, False, (said,))
    allowed = {"pass": True, "fail": False, "warn": drop <= threshold}[inconclusive]
    by = "the point estimate decides" if inconclusive == "warn" else f"--inconclusive={inconclusive} decides"
    settle = f"; {_settling(drop, interval, threshold, images)} would settle it" if images else ""
    return Verdict(Status.INCONCLUSIVE, allowed, (f"{said}: the 95 % CI contains the threshold, {by}{settle}",))


def _settling(drop: float, interval: tuple[float, float], threshold: float, images: int) -> str:
    """How many images like these make the interval leave the threshold out, if the drop stays what it is.

    The interval's half on the threshold's side shrinks with the square root of the number of images.
    """
    side = interval[1] - drop if drop <= threshold else drop - interval[0]
    distance = abs(threshold - drop)
    needed = images * (side / distance) ** 2 if distance > 0 else math.inf
    return f"about {math.ceil(needed / 10) * 10} images" if needed < 100_000 else "no practical number of images"


def points(fraction: float) -> str:
    """A fraction of mAP as points with two decimals."""
    return f"{fraction * 100:.2f}"
