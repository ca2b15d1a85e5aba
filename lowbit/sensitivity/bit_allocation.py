"""Bit allocation: the cheapest assignment of dtypes to convolutions that stays within a drop.

The quantization noise of every convolution in every dtype is measured with that convolution quantized alone
(:mod:`lowbit.sensitivity.layerwise`). The sum is taken for the noise of an assignment, which holds while the noise is
small. Within a budget of cost, the least noisy assignment is an integer program (HiGHS, by ``scipy.optimize.milp``).
Which budget keeps the drop is not known, so it is found by bisection: each candidate is built, and its agreement with
the float graph is measured on other images than the noise. Evaluation data are never used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowbit.errors import BuildError
from lowbit.progress import Progress, Step, silent

FLOAT = "float"
# Bits of a stored weight.
BITS = {"int4": 4, "int8": 8, "fp8": 8, FLOAT: 32}
# Bits of a stored scale.
_SCALE_BITS = 32

Table = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate. ``limit``: on the cost; ``dtypes``: of every convolution; ``cost``: of the assignment;
    ``noise``: predicted sum; ``drop``: measured fall of agreement, a fraction of AP."""

    limit: float
    dtypes: dict[str, str]
    cost: float
    noise: float
    drop: float


def assign(bounded: Table, minimized: Table, limit: float) -> dict[str, str] | None:
    """The assignment with the least sum of ``minimized`` whose sum of ``bounded`` is at most ``limit``; None if there is
    none.

    Both are given for every layer in every dtype that it may have, and are not negative. Among equal sums the assignment with less of
    what is bounded; the same input gives the same answer.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    # What breaks the limit alone is no choice; without it, no coefficient is far from the limit's own size.
    choices = [(layer, dtype) for layer in bounded for dtype in bounded[layer] if bounded[layer][dtype] <= limit]
    if {layer for layer, _ in choices} != set(bounded):
        return None
    costs = np.array([minimized[layer][dtype] for layer, dtype in choices], float)
    sums = np.array([bounded[layer][dtype] for layer, dtype in choices], float)
    one = np.zeros((len(bounded), len(choices)))
    rows = {layer: row for row, layer in enumerate(bounded)}
    for column, (layer, _) in enumerate(choices):
        one[rows[layer], column] = 1
    # In units of the limit and of the dearest choice: the solver's tolerances are absolute.
    scale = max(limit, 1e-30)
    slack = 1e-6 * sums / max(sums.max(), 1e-30)
    found = milp(
        costs / max(costs.max(), 1e-30) + slack,
        constraints=[LinearConstraint(one, 1, 1), LinearConstraint(sums / scale, -np.inf, limit / scale)],
        integrality=np.ones(len(choices)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-6, "time_limit": 60.0},
    )
    if found.x is None:
        return None
    return {layer: dtype for (layer, dtype), taken in zip(choices, found.x, strict=True) if taken > 0.5}


def noise_of(sqnr_db: float) -> float:
    """Noise power over signal power of an SQNR in dB."""
    return float(10 ** (-sqnr_db / 10))


def storage(
    dtypes: Sequence[str], parameters: Mapping[str, int], channels: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Bits that every layer takes in every dtype: its weights, and a float32 scale an output channel if it is quantized."""
    return {
        layer: {d: float(BITS[d] * count + _SCALE_BITS * channels[layer] * (d != FLOAT)) for d in dtypes}
        for layer, count in parameters.items()
    }


def within_budget(noise: Table, cost: Table, parameters: Mapping[str, int], budget: float) -> dict[str, str]:
    """The least noisy assignment of at most ``budget`` bits a weight, scales included; ``cost``: :func:`storage`.

    Raises :class:`BuildError` for a budget below the cheapest assignment.
    """
    found = assign(cost, noise, budget * sum(parameters.values()))
    if found is None:
        least = weight_bits({layer: min(cost[layer], key=cost[layer].__getitem__) for layer in cost}, cost, parameters)
        raise BuildError(f"{budget} bits a weight are below the {least:.2f} of the cheapest assignment. Allow more.")
    return found


def search(
    noise: Table,
    cost: Table,
    drop_of: Callable[[dict[str, str]], float],
    max_drop: float,
    *,
    steps: int = 8,
    progress: Progress = silent,
) -> tuple[Point, list[Point]]:
    """The cheapest candidate whose measured drop is at most ``max_drop``, and every candidate that was tried, in order.

    Bisects the logarithm of the budget between the cheapest and the least noisy assignment; ``drop_of`` is called once a
    candidate. Raises :class:`BuildError` if not even the least noisy one stays within the drop.
    """
    tried: list[Point] = []

    def attempt(dtypes: dict[str, str] | None, limit: float) -> Point:
        assert dtypes is not None  # every limit here is at least that of the cheapest assignment
        known = next((point for point in tried if point.dtypes == dtypes), None)
        if known is not None:
            return known
        progress(Step(f"measuring candidate {len(tried) + 1}"))
        total = sum(cost[layer][dtype] for layer, dtype in dtypes.items())
        summed = sum(noise[layer][dtype] for layer, dtype in dtypes.items())
        point = Point(limit, dtypes, total, summed, drop_of(dtypes))
        tried.append(point)
        return point

    # Ties are broken by the other criterion.
    quietest = {layer: min(noise[layer], key=lambda d: (noise[layer][d], cost[layer][d])) for layer in noise}
    cheapest = {layer: min(cost[layer], key=lambda d: (cost[layer][d], noise[layer][d])) for layer in noise}
    high, low = (sum(cost[layer][d] for layer, d in dtypes.items()) for dtypes in (quietest, cheapest))
    best = attempt(quietest, high)
    if best.drop > max_drop:
        raise BuildError(
            f"the least noisy assignment loses {best.drop * 100:.2f} points of agreement, and {max_drop * 100:.2f} are allowed. "
            "Allow more, or offer more bits."
        )
    least = attempt(cheapest, low)
    if least.drop <= max_drop:
        return least, tried
    for _ in range(steps):
        middle = math.sqrt(low * high)
        point = attempt(assign(cost, noise, middle * (1 + 1e-9)), middle)
        if point.drop <= max_drop:
            high = middle
            best = min(best, point, key=lambda p: (p.cost, p.drop))
        else:
            low = middle
    return best, tried


def weight_bits(dtypes: Mapping[str, str], cost: Table, parameters: Mapping[str, int]) -> float:
    """Average bits a weight, scales included; ``cost``: :func:`storage`."""
    return sum(cost[layer][dtype] for layer, dtype in dtypes.items()) / sum(parameters[layer] for layer in dtypes)


def trace(points: Sequence[Point]) -> list[dict[str, Any]]:
    """What was tried, JSON-able, in order."""
    return [{"limit": p.limit, "cost": p.cost, "noise": p.noise, "drop": p.drop, "dtypes": p.dtypes} for p in points]
