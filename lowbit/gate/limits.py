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
from lowbit.measure.alone import Footprint

# Shares of FP32's accuracy that MLPerf Inference asks of a quantized model in its closed division.
PRESETS = {"mlperf-99": {"relative": 0.99}, "mlperf-99.9": {"relative": 0.999}}
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
# SHA-256 of a detector's weights, as lowbit.detector.Detector.weights_sha256 computes it.
Weights = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Limits(toml.Table):
    """Allowed drops as fractions (``score_shift``: of a score; ``miss_rate``: its rise). ``relative``: the least AP, as a
    share of FP32's on the same images. ``int8_macs``: the least share of multiply-accumulates in integer kernels on the CPU
    provider. ``max_bytes``: the largest artifact. ``max_memory_bytes``: what loading and running it may add to a process,
    ``max_load_seconds``: the time until it can run (:class:`lowbit.measure.alone.Footprint`). ``min_speedup``: the least
    speed over FP32's on the same runtime, over several processes (:class:`lowbit.measure.alone.ProcessSpeedup`). One of ``map`` and ``relative`` is needed; of both the stricter counts."""

    map: Fraction | None = None
    relative: Fraction | None = None
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
    max_bytes: Annotated[int, Field(gt=0, strict=True)] | None = None
    max_memory_bytes: Annotated[int, Field(gt=0, strict=True)] | None = None
    max_load_seconds: Annotated[float, Field(gt=0)] | None = None
    min_speedup: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _judges_map(self) -> Limits:
        if self.map is None and self.relative is None:
            raise ValueError("has neither map nor relative, one of which is needed")
        return self


def _short_form(given: Any) -> Any:
    """A number is the allowed drop of mAP, a word a preset."""
    if isinstance(given, str):
        if given not in PRESETS:
            raise ValueError(f"is no preset; known: {', '.join(PRESETS)}")
        return PRESETS[given]
    return given if isinstance(given, dict) else {"map": given}


class LimitsTable(toml.Table):
    """One table of ``thresholds.toml``. ``weights``: of the detectors that it is for, where the name is not enough."""

    weights: tuple[Weights, ...] = ()
    limits: dict[str, Annotated[Limits, BeforeValidator(_short_form)]]

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
    mAP, a preset's name, or a table of :class:`Limits`. A table that names ``weights`` is for these weights, whatever their file is called,
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
    fractions = ", ".join(name for name in Limits.model_fields if name not in _AMOUNTS)
    amounts = "; or ".join(f"{name}, {kind}" for name, kind in _AMOUNTS.items())
    remedy = (
        f"A limit is a fraction between 0 and 1 (1.0 point is 0.010) of: {fractions}; or {amounts}; or a preset: "
        f"{', '.join(PRESETS)}."
    )
    return Thresholds(path, toml.read(path, dict[str, LimitsTable], remedy), base)


def absolute(limits: dict[str, float], reference: float) -> dict[str, float]:
    """The same limits with an allowed drop of mAP in place of ``relative``. ``reference``: FP32's AP, a fraction."""
    if "relative" not in limits:
        return limits
    rest = {name: limit for name, limit in limits.items() if name != "relative"}
    allowed = (1 - limits["relative"]) * reference
    return {**rest, "map": min(allowed, limits.get("map", allowed))}


# Limits on what is no fraction, and what they are.
_AMOUNTS = {
    "max_bytes": "a whole number",
    "max_memory_bytes": "a whole number",
    "max_load_seconds": "a number above 0",
    "min_speedup": "a ratio above 0",
}
# Those on what takes a quiet machine to measure, and on what a process of its own says.
TIMED = ("max_load_seconds", "min_speedup")
FOOTPRINT = ("max_memory_bytes", "max_load_seconds")
# Limits on what is no drop.
_OTHERS = frozenset({"map", "int8_macs", *_AMOUNTS})


def broken_limits(
    limits: dict[str, float],
    drops: dict[str, float],
    int8_macs: float | None,
    *,
    kernels_hidden: bool = False,
    size_bytes: int | None = None,
    footprint: Footprint | None = None,
    untimed: str | None = None,
    times_hidden: bool = False,
) -> list[str]:
    """Every limit that is broken, in words, but for mAP's and the speed-up's where it was measured. These compare point
    estimates; mAP and the speed-up are judged by their intervals.

    A limit on something that was not measured counts as broken. ``kernels_hidden``: the runtime does not report which
    kernels ran, so ``int8_macs`` is not required. ``untimed``: why no times were taken, None where they were;
    ``times_hidden``: the runtime's times say nothing, so limits on them are not required.
    """
    said = [
        f"{name} {'rises' if name == 'miss_rate' else 'drops'} {points(drops[name])} points, limit {points(limit)}"
        for name, limit in limits.items()
        if name not in _OTHERS and name in drops and drops[name] > limit
    ]
    said += [
        f"{name} was not measured and has the limit {points(limit)}: label what it counts, or take the limit out"
        for name, limit in limits.items()
        if name not in _OTHERS and name not in drops
    ]
    if int8_macs is None and "int8_macs" in limits and not kernels_hidden:
        said.append("the share of MACs in integer kernels was not measured and has a limit")
    if int8_macs is not None and int8_macs < limits.get("int8_macs", 0.0):
        said.append(
            f"{int8_macs:.1%} of the MACs ran in integer kernels, at least {limits['int8_macs']:.1%} are expected"
        )
    if size_bytes is not None and size_bytes > limits.get("max_bytes", size_bytes):
        said.append(f"the artifact has {size_bytes} bytes, at most {limits['max_bytes']:.0f} are allowed")
    return said + _broken_costs(limits, footprint, None if times_hidden else untimed, times_hidden=times_hidden)


def _broken_costs(
    limits: dict[str, float], footprint: Footprint | None, untimed: str | None, *, times_hidden: bool
) -> list[str]:
    """Limits on what deploying the artifact costs that are broken or, not being measured, count as broken."""
    if untimed:
        said = [f"{name} has a limit and was not measured: {untimed}" for name in TIMED if name in limits]
    else:
        said = []
    memory, seconds = limits.get("max_memory_bytes"), limits.get("max_load_seconds")
    if memory is not None and footprint is None:
        said.append("max_memory_bytes has a limit, and no memory was measured")
    if memory is not None and footprint is not None and footprint.memory_bytes > memory:
        said.append(
            f"loading and running the artifact adds {footprint.memory_bytes} bytes of memory, at most {memory:.0f} are allowed"
        )
    timed = not untimed and not times_hidden
    if timed and seconds is not None and footprint is not None and footprint.load_seconds > seconds:
        said.append(f"the artifact takes {footprint.load_seconds:.3f} s to load, at most {seconds:.3f} s are allowed")
    return said
