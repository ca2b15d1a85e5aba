"""The cheapest assignment of bits to convolutions that stays within a drop.

Every convolution's noise at every number of bits is measured alone (:mod:`lowbit.sensitivity.native`) and taken as
additive, which holds while it is small. For a limit on the sum, the cheapest assignment is an integer program (HiGHS, by
``scipy.optimize.milp``). The limit that keeps the drop is not known, so it is found by bisection: each candidate is built
and its agreement with the float graph measured on pictures that the noise was not measured on. Nothing here sees
evaluation data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowbit.errors import BuildError

FLOAT = 32
# Bits a stored scale takes.
_SCALE_BITS = 32


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate. ``limit``: on the summed noise; ``bits``: of every convolution; ``cost``: of the assignment;
    ``noise``: predicted sum; ``drop``: measured fall of agreement, a fraction of AP."""

    limit: float
    bits: dict[str, int]
    cost: float
    noise: float
    drop: float


def assign(
    bounded: Mapping[str, Mapping[int, float]], minimized: Mapping[str, Mapping[int, float]], limit: float
) -> dict[str, int] | None:
    """The assignment with the least sum of ``minimized`` whose sum of ``bounded`` is at most ``limit``; None if there is
    none.

    Both are given for every layer at every number of bits that it may have. Among equal sums the assignment with less of
    what is bounded; the same input gives the same answer.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    choices = [(layer, bits) for layer in bounded for bits in bounded[layer]]
    costs = np.array([minimized[layer][bits] for layer, bits in choices], float)
    sums = np.array([bounded[layer][bits] for layer, bits in choices], float)
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
    return {layer: bits for (layer, bits), taken in zip(choices, found.x, strict=True) if taken > 0.5}


def noise_of(sqnr_db: float) -> float:
    """Noise power over signal power of an SQNR in dB."""
    return float(10 ** (-sqnr_db / 10))


def within_budget(
    noise: Mapping[str, Mapping[int, float]],
    parameters: Mapping[str, int],
    channels: Mapping[str, int],
    budget: float,
) -> dict[str, int]:
    """The least noisy assignment of at most ``budget`` bits a weight, scales included.

    Raises :class:`BuildError` for a budget below the cheapest assignment.
    """
    cost = {name: {bits: float(bits * parameters[name]) for bits in noise[name]} for name in noise}
    room = budget * sum(parameters.values()) - _SCALE_BITS * sum(channels.values())
    found = assign(cost, noise, room)
    if found is None:
        least = weight_bits({name: min(noise[name]) for name in noise}, parameters, channels)
        raise BuildError(f"{budget} bits a weight are below the {least:.2f} of the cheapest assignment. Allow more.")
    return found


def search(
    noise: Mapping[str, Mapping[int, float]],
    cost: Mapping[str, Mapping[int, float]],
    drop_of: Callable[[dict[str, int]], float],
    max_drop: float,
    *,
    steps: int = 8,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Point, list[Point]]:
    """The cheapest candidate whose measured drop is at most ``max_drop``, and every candidate that was tried.

    Bisects the logarithm of the limit between the least and the most noisy assignment. Raises :class:`BuildError` if not
    even the least noisy one stays within the drop.
    """
    least = sum(min(layer.values()) for layer in noise.values())
    most = sum(max(layer.values()) for layer in noise.values())
    tried: list[Point] = []

    def attempt(limit: float) -> Point:
        bits = assign(noise, cost, limit)
        assert bits is not None  # the least noisy assignment is always within the limits tried here
        known = next((point for point in tried if point.bits == bits), None)
        if known is not None:
            return known
        progress(f"measuring candidate {len(tried) + 1}")
        total = sum(cost[layer][count] for layer, count in bits.items())
        point = Point(limit, bits, total, sum(noise[n][b] for n, b in bits.items()), drop_of(bits))
        tried.append(point)
        return point

    safe = attempt(least * (1 + 1e-9) + 1e-30)
    if safe.drop > max_drop:
        raise BuildError(
            f"the least noisy assignment loses {safe.drop * 100:.2f} points of agreement, and {max_drop * 100:.2f} are allowed. "
            "Allow more, or offer more bits."
        )
    best = attempt(most)
    if best.drop > max_drop:
        low, high = math.log(max(safe.noise, 1e-30)), math.log(most)
        best = safe
        for _ in range(steps):
            middle = (low + high) / 2
            point = attempt(math.exp(middle))
            if point.drop <= max_drop:
                low = middle
                best = min(best, point, key=lambda p: (p.cost, p.drop))
            else:
                high = middle
    return best, tried


def weight_bits(bits: Mapping[str, int], parameters: Mapping[str, int], channels: Mapping[str, int]) -> float:
    """Average bits a weight, a float32 scale an output channel of every quantized convolution included."""
    total = sum(parameters[name] * count for name, count in bits.items())
    total += sum(channels[name] * _SCALE_BITS for name, count in bits.items() if count != FLOAT)
    return total / sum(parameters[name] for name in bits)


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in both cost and drop, cheapest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, p.drop)):
        if not best or point.drop < best[-1].drop:
            best.append(point)
    return best


def trace(points: Sequence[Point]) -> list[dict[str, Any]]:
    """What was tried, JSON-able, in order."""
    return [{"limit": p.limit, "cost": p.cost, "noise": p.noise, "drop": p.drop, "bits": p.bits} for p in points]
