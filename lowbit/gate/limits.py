"""``thresholds.toml``: what a scheme may lose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from lowbit import toml
from lowbit.errors import InputError
from lowbit.gate.verdict import points

Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
# SHA-256 of a detector's weights, as lowbit.detector.Detector.weights_sha256 computes it.
Weights = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Limits(toml.Table):
    """Allowed drops as fractions (``score_shift``: of a score; ``miss_rate``: its rise), and ``int8_macs``, the least
    share of multiply-accumulates in integer kernels on the CPU provider."""

    map: Fraction
    map50: Fraction | None = None
    map75: Fraction | None = None
    map_small: Fraction | None = None
    map_medium: Fraction | None = None
    map_large: Fraction | None = None
    recall: Fraction | None = None
    miss_rate: Fraction | None = None
    worst_class: Fraction | None = None
    score_shift: Fraction | None = None
    int8_macs: Fraction | None = None


def _map_alone(given: Any) -> Any:
    return given if isinstance(given, dict) else {"map": given}


class LimitsTable(toml.Table):
    """One table of ``thresholds.toml``. ``weights``: of the detectors that it is for, where the name is not enough."""

    weights: tuple[Weights, ...] = ()
    limits: dict[str, Annotated[Limits, BeforeValidator(_map_alone)]]

    @model_validator(mode="before")
    @classmethod
    def _of_keys(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            raise ValueError("stands outside a table, and belongs under [default] or [<detector>]")
        rest = {key: value for key, value in given.items() if key != "weights"}
        return {"limits": rest, **({"weights": given["weights"]} if "weights" in given else {})}


@dataclass(frozen=True)
class Thresholds:
    """Limits read from ``thresholds.toml``: ``[default]`` and ``[<detector>]`` tables.

    A key is a precision (``int8``) or a whole scheme id; the most specific one counts. A value is the allowed drop of
    mAP, or a table of :class:`Limits`. A table that names ``weights`` is for these weights, whatever their file is called,
    and for no others. What a file does not cover is looked up in ``base``, lowbit's own.
    """

    source: Path
    tables: Mapping[str, LimitsTable]
    base: Thresholds | None = None

    def limits(self, detector: str, scheme: str, precision: str, weights: str | None = None) -> dict[str, float]:
        """The limits of a scheme on a detector with these ``weights`` (SHA-256).

        Raises :class:`InputError` if no entry covers its precision.
        """
        own = [t for name, t in self.tables.items() if (weights in t.weights if t.weights else name == detector)]
        for table in (*own, *(t for name, t in self.tables.items() if name == "default")):
            for key in (scheme, precision):
                if key in table.limits:
                    return table.limits[key].model_dump(exclude_none=True)
        if self.base is not None:
            return self.base.limits(detector, scheme, precision, weights)
        raise InputError(
            f"{self.source}: no threshold for {scheme} or {precision}. Add '{precision} = 0.01' to [default]."
        )


def load_thresholds(path: Path, base: Thresholds | None = None) -> Thresholds:
    """Read thresholds that go before ``base``. Raises :class:`InputError` for a missing or malformed file or a limit outside [0, 1]."""
    remedy = f"A limit is a fraction between 0 and 1 (1.0 point is 0.010) of: {', '.join(Limits.model_fields)}."
    return Thresholds(path, toml.read(path, dict[str, LimitsTable], remedy), base)


def broken_limits(
    limits: dict[str, float], drops: dict[str, float], int8_macs: float | None, *, kernels_hidden: bool = False
) -> list[str]:
    """Every limit but mAP's that is broken, in words. These compare point estimates; mAP is judged by its interval.

    A limit on something that was not measured counts as broken. ``kernels_hidden``: the runtime does not report which
    kernels ran, so ``int8_macs`` is not required.
    """
    said = [
        f"{name} {'rises' if name == 'miss_rate' else 'drops'} {points(drops[name])} points, limit {points(limit)}"
        for name, limit in limits.items()
        if name != "map" and name in drops and drops[name] > limit
    ]
    said += [
        f"{name} was not measured and has the limit {points(limit)}: label what it counts, or take the limit out"
        for name, limit in limits.items()
        if name != "int8_macs" and name not in drops
    ]
    if int8_macs is None and "int8_macs" in limits and not kernels_hidden:
        said.append("the share of MACs in integer kernels was not measured and has a limit")
    if int8_macs is not None and int8_macs < limits.get("int8_macs", 0.0):
        said.append(
            f"{int8_macs:.1%} of the MACs ran in integer kernels, at least {limits['int8_macs']:.1%} are expected"
        )
    return said
