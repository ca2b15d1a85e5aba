"""Thresholds to verdicts."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Thresholds:
    """Allowed mAP drops as fractions, read from ``thresholds.toml``: ``[default]`` and ``[<detector>]`` tables.

    A key is a precision (``int8``) or a whole scheme id; the most specific one counts.
    """

    source: Path
    tables: dict[str, dict[str, float]]

    def drop(self, detector: str, scheme: str, precision: str) -> float:
        """The allowed drop. Raises :class:`InputError` if no entry covers the precision."""
        for table in (detector, "default"):
            for key in (scheme, precision):
                if key in self.tables.get(table, {}):
                    return self.tables[table][key]
        raise InputError(
            f"{self.source}: no threshold for {scheme} or {precision}. Add '{precision} = 0.01' to [default]."
        )


def load_thresholds(path: Path) -> Thresholds:
    """Read thresholds. Raises :class:`InputError` for a missing or malformed file or a drop outside [0, 1]."""
    data = _read_toml(path)
    tables: dict[str, dict[str, float]] = {}
    for name, table in data.items():
        if not isinstance(table, dict):
            raise InputError(f"{path}: '{name}' stands outside a table. Put it under [default] or [<detector>].")
        for key, value in table.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InputError(
                    f"{path}: [{name}] {key} = {value!r} is no fraction of mAP between 0 and 1 (1.0 point is 0.010)."
                )
        tables[name] = {key: float(value) for key, value in table.items()}
    return Thresholds(path, tables)


def decide(drop: float, interval: tuple[float, float], threshold: float, inconclusive: str = "warn") -> Decision:
    """Judge a drop (fractions of mAP) by its 95 % interval.

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
    return Decision(Verdict.INCONCLUSIVE, allowed, f"{said}: the interval holds the threshold, {by}")


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
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not TOML ({error}).") from error
