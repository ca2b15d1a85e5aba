"""``thresholds.toml``: what a scheme may lose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from lowbit import toml
from lowbit.errors import InputError
from lowbit.gate.verdict import points
from lowbit.measure.alone import Footprint

# Shares of FP32's accuracy that MLPerf Inference asks of a quantized model in its closed division.
PRESETS = {"mlperf-99": {"relative": 0.99}, "mlperf-99.9": {"relative": 0.999}}
_Preset = Annotated[str, WithJsonSchema({"enum": [*PRESETS]})]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
# SHA-256 of a detector's weights, as lowbit.detector.Detector.weights_sha256 computes it.
Weights = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Limits(toml.Table):
    """What a scheme may lose and cost. One of ``map`` and ``relative`` is needed; of both the stricter counts. A drop is
    FP32's value less the scheme's on the same images, as a fraction: 1.0 point is 0.010."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["map"]}, {"required": ["relative"]}]})

    map: Fraction | None = Field(default=None, description="Allowed drop of COCO AP@[.5:.95].")
    relative: Fraction | None = Field(default=None, description="The least AP, as a share of FP32's.")
    map50: Fraction | None = Field(default=None, description="Allowed drop of AP at IoU 0.5.")
    map75: Fraction | None = Field(default=None, description="Allowed drop of AP at IoU 0.75.")
    map_small: Fraction | None = Field(default=None, description="Allowed drop of AP on small objects.")
    map_medium: Fraction | None = Field(default=None, description="Allowed drop of AP on medium objects.")
    map_large: Fraction | None = Field(default=None, description="Allowed drop of AP on large objects.")
    recall: Fraction | None = Field(
        default=None,
        description="Allowed drop of recall at the confidence threshold that the detector is deployed with.",
    )
    miss_rate: Fraction | None = Field(
        default=None, description="Allowed rise of the miss rate at the same confidence threshold."
    )
    worst_class: Fraction | None = Field(default=None, description="Allowed drop of AP of the class that loses most.")
    score_shift: Fraction | None = Field(
        default=None, description="Allowed drop of the mean score, as a fraction of a score."
    )
    int8_macs: Fraction | None = Field(
        default=None,
        description="The least share of multiply-accumulates in integer kernels of ONNX Runtime's CPU provider.",
    )
    max_bytes: Annotated[int, Field(gt=0, strict=True)] | None = Field(
        default=None, description="The largest artifact, in bytes."
    )
    max_memory_bytes: Annotated[int, Field(gt=0, strict=True)] | None = Field(
        default=None, description="The most memory that loading and running it may add to a process, in bytes."
    )
    max_load_seconds: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="The longest time until it can run, in seconds."
    )
    min_speedup: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="The least speed over FP32's on the same runtime, over several processes: 1.5 is 1.5x.",
    )

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


def _as_written(found: dict[str, Any]) -> None:
    """In a file limits stand beside ``weights``, and not in a table of their own."""
    found.pop("required")
    found["additionalProperties"] = found["properties"].pop("limits")["additionalProperties"]


class LimitsTable(toml.Table):
    """Limits by precision or scheme id: a number is the allowed drop of AP, a word a preset."""

    model_config = ConfigDict(json_schema_extra=_as_written)

    weights: tuple[Weights, ...] = Field(
        default=(),
        description="SHA-256 of the weights that the table is for, whatever their file is called. Default: the detector of "
        "the table's name.",
    )
    limits: dict[
        str, Annotated[Limits, BeforeValidator(_short_form, json_schema_input_type=Fraction | _Preset | Limits)]
    ]

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


def schema() -> dict[str, Any]:
    """The JSON Schema, draft 7, of ``thresholds.toml``."""
    return toml.schema(dict[str, LimitsTable], "thresholds.toml")


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
