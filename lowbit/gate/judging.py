"""Everything that was measured of a case, against its limits, to one verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowbit.gate.limits import broken_limits
from lowbit.gate.policy import WARN, Policy
from lowbit.gate.verdict import Verdict, decide, decide_speed
from lowbit.measure.alone import Footprint, ProcessSpeedup
from lowbit.results import Status

# A reference that sees next to nothing was given the wrong data set, classes or input scaling.
BLIND = 0.02


@dataclass(frozen=True, slots=True)
class Costs:
    """What deploying a scheme's artifact costs, as far as it was measured. ``untimed``: why no times were taken;
    ``times_hidden``: times of this precision on this runtime say nothing."""

    footprint: Footprint | None = None
    speedup: ProcessSpeedup | None = None
    untimed: str | None = "no times were taken"
    times_hidden: bool = False


def judge(
    limits: dict[str, float],
    drops: dict[str, float],
    interval: tuple[float, float],
    bounds: tuple[float, float],
    int8_macs: float | None,
    *,
    kernels_hidden: bool = False,
    size_bytes: int | None = None,
    costs: Costs | None = None,
    inconclusive: Policy = WARN,
    images: int | None = None,
) -> Verdict:
    """The verdict on a scheme, from everything that was measured of it: :func:`decide` for mAP, :func:`decide_speed` for
    the speed-up if it has a limit, then every other limit.

    ``limits``: by :func:`lowbit.gate.absolute`. ``costs``: None where nothing of them was measured. What does not let a
    merge through has failed, whatever its interval says.
    """
    costs = costs or Costs()
    decisions = [decide(drops["map"], interval, bounds, limits["map"], inconclusive, images)]
    if costs.speedup is not None and "min_speedup" in limits:
        decisions.append(decide_speed(costs.speedup, limits["min_speedup"], inconclusive))
    broken = broken_limits(
        limits,
        drops,
        int8_macs,
        kernels_hidden=kernels_hidden,
        size_bytes=size_bytes,
        footprint=costs.footprint,
        untimed=costs.untimed,
        times_hidden=costs.times_hidden,
    )
    if not broken and all(decision.allowed for decision in decisions):
        open_ = any(decision.status is Status.INCONCLUSIVE for decision in decisions)
        said = tuple(reason for decision in decisions for reason in decision.reasons)
        return Verdict(Status.INCONCLUSIVE if open_ else Status.PASSED, True, said)
    # What a decision alone would let through is no reason to fail.
    stopped = (reason for decision in decisions if not decision.allowed for reason in decision.reasons)
    return Verdict(Status.FAILED, False, (*stopped, *broken))


def judge_reference(ap: float, detector: str, annotations: Path) -> Verdict:
    """The verdict on the float reference: one that sees next to nothing makes every drop from it meaningless."""
    if ap > BLIND:
        return Verdict(Status.PASSED, True, ())
    said = (
        f"{detector}: AP {ap:.4f} on {annotations}: the float detector sees next to nothing. Do data set, classes and "
        "input scaling belong to it?"
    )
    return Verdict(Status.FAILED, False, (said,))
