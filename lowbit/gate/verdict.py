"""Thresholds to verdicts."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from lowbit.errors import InputError


class Verdict(StrEnum):
    """What the gate says of one scheme on one detector."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, whether it lets a merge through, and why in one sentence."""

    verdict: Verdict
    allowed: bool
    reason: str


# What a limit can be on beside mAP: allowed drops as fractions (``score_shift``: of a score), and the least share of
# MACs in integer kernels on the CPU provider.
DROPS = (
    "map",
    "map50",
    "map75",
    "map_small",
    "map_medium",
    "map_large",
    "recall",
    "miss_rate",
    "worst_class",
    "score_shift",
)
LEAST = ("int8_macs",)


@dataclass(frozen=True)
class Thresholds:
    """Limits read from ``thresholds.toml``: ``[default]`` and ``[<detector>]`` tables.

    A key is a precision (``int8``) or a whole scheme id; the most specific one counts. A value is the allowed drop of
    mAP, or a table of limits that has ``map`` and any of :data:`DROPS` and :data:`LEAST`. What a file does not cover is
    looked up in ``base``, lowbit's own.
    """

    source: Path
    tables: dict[str, dict[str, dict[str, float]]]
    base: Thresholds | None = None

    def limits(self, detector: str, scheme: str, precision: str) -> dict[str, float]:
        """The limits of a scheme. Raises :class:`InputError` if no entry covers its precision."""
        for table in (detector, "default"):
            for key in (scheme, precision):
                if key in self.tables.get(table, {}):
                    return self.tables[table][key]
        if self.base is not None:
            return self.base.limits(detector, scheme, precision)
        raise InputError(
            f"{self.source}: no threshold for {scheme} or {precision}. Add '{precision} = 0.01' to [default]."
        )


def load_thresholds(path: Path, base: Thresholds | None = None) -> Thresholds:
    """Read thresholds that go before ``base``. Raises :class:`InputError` for a missing or malformed file or a limit outside [0, 1]."""
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for name, table in _read_toml(path).items():
        if not isinstance(table, dict):
            raise InputError(f"{path}: '{name}' stands outside a table. Put it under [default] or [<detector>].")
        tables[name] = {key: _limits(path, f"[{name}] {key}", value) for key, value in table.items()}
    return Thresholds(path, tables, base)


def _limits(path: Path, where: str, value: Any) -> dict[str, float]:
    given = value if isinstance(value, dict) else {"map": value}
    unknown = given.keys() - {*DROPS, *LEAST}
    if unknown or "map" not in given:
        raise InputError(f"{path}: {where} needs 'map' and may have {', '.join((*DROPS[1:], *LEAST))}, not {unknown}.")
    for key, limit in given.items():
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit <= 1:
            raise InputError(f"{path}: {where}: {key} = {limit!r} is no fraction between 0 and 1 (1.0 point is 0.010).")
    return {key: float(limit) for key, limit in given.items()}


def broken_limits(limits: dict[str, float], drops: dict[str, float], int8_macs: float | None) -> list[str]:
    """Every limit but mAP's that is broken, in words. These compare point estimates; mAP is judged by its interval."""
    said = [
        f"{name} {'rises' if name == 'miss_rate' else 'drops'} {points(drops[name])} points, limit {points(limit)}"
        for name, limit in limits.items()
        if name != "map" and name in drops and drops[name] > limit
    ]
    if int8_macs is not None and int8_macs < limits.get("int8_macs", 0.0):
        said.append(
            f"{int8_macs:.1%} of the MACs ran in integer kernels, at least {limits['int8_macs']:.1%} are expected"
        )
    return said


def decide(
    drop: float, interval: tuple[float, float], threshold: float, inconclusive: str = "warn", images: int | None = None
) -> Decision:
    """Judge a drop (fractions of mAP), measured on ``images`` images, by its 95 % interval.

    Passed when the whole interval is within the threshold, failed when all of it is beyond, else inconclusive:
    ``inconclusive`` then lets it through (``pass``), stops it (``fail``) or follows the point estimate (``warn``).
    """
    low, high = interval
    said = f"drop {points(drop)} [{points(low)}, {points(high)}] points, threshold {points(threshold)}"
    if high <= threshold:
        return Decision(Verdict.PASSED, True, said)
    if low > threshold:
        return Decision(Verdict.FAILED, False, said)
    allowed = {"pass": True, "fail": False, "warn": drop <= threshold}[inconclusive]
    by = "the point estimate decides" if inconclusive == "warn" else f"--inconclusive={inconclusive} decides"
    settle = f"; {_settling(drop, interval, threshold, images)} would settle it" if images else ""
    return Decision(Verdict.INCONCLUSIVE, allowed, f"{said}: the interval holds the threshold, {by}{settle}")


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


@dataclass(frozen=True, slots=True)
class ExpectedFailure:
    """A scheme that is known to miss a test on a detector: data with a measured reason, and what the failure says."""

    detector: str
    scheme: str
    test: str
    exception: str
    text: str
    reason: str


def load_expected_failures(path: Path) -> tuple[ExpectedFailure, ...]:
    """Read ``[[expected]]`` entries. Raises :class:`InputError` for missing, unknown or repeated ones."""
    entries = _read_toml(path).get("expected", [])
    names = set(ExpectedFailure.__slots__)
    out: list[ExpectedFailure] = []
    for entry in entries:
        if set(entry) != names or not all(isinstance(v, str) and v for v in entry.values()):
            raise InputError(
                f"{path}: an entry must have exactly the texts {sorted(names)}, this one has {sorted(entry)}."
            )
        out.append(ExpectedFailure(**entry))
    keys = [(e.detector, e.scheme, e.test) for e in out]
    if len(set(keys)) != len(keys):
        raise InputError(f"{path}: two entries expect the same test to fail. Keep one.")
    return tuple(out)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not TOML ({error}).") from error
