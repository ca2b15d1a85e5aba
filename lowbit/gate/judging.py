"""Everything that was measured of a case, against its limits, to one verdict."""

from __future__ import annotations

from pathlib import Path

from lowbit.gate.limits import broken_limits
from lowbit.gate.policy import WARN, Policy
from lowbit.gate.verdict import Verdict, decide
from lowbit.results import Status

# A reference that sees next to nothing was given the wrong data set, classes or input scaling.
BLIND = 0.02


def judge(
    limits: dict[str, float],
    drops: dict[str, float],
    interval: tuple[float, float],
    bounds: tuple[float, float],
    int8_macs: float | None,
    *,
    kernels_hidden: bool = False,
    size_bytes: int | None = None,
    inconclusive: Policy = WARN,
    images: int | None = None,
) -> Verdict:
    """The verdict on a scheme, from everything that was measured of it: :func:`decide` for mAP, then every other limit.

    ``limits``: by :func:`lowbit.gate.absolute`. What does not let a merge through has failed, whatever its interval says.
    """
    decision = decide(drops["map"], interval, bounds, limits["map"], inconclusive, images)
    broken = broken_limits(limits, drops, int8_macs, kernels_hidden=kernels_hidden, size_bytes=size_bytes)
    if decision.allowed and not broken:
        return decision
    # What mAP alone would let through is no reason to fail.
    reasons = (*(() if decision.allowed else decision.reasons), *broken)
    return Verdict(Status.FAILED, False, reasons)


def judge_reference(ap: float, detector: str, annotations: Path) -> Verdict:
    """The verdict on the float reference: one that sees next to nothing makes every drop from it meaningless."""
    if ap > BLIND:
        return Verdict(Status.PASSED, True, ())
    said = (
        f"{detector}: AP {ap:.4f} on {annotations}: the float detector sees next to nothing. Do data set, classes and "
        "input scaling belong to it?"
    )
    return Verdict(Status.FAILED, False, (said,))
