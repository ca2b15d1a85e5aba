"""How a detector is quantized: the catalogue of schemes and the grammar of their ids.

A new scheme is one entry of :data:`CATALOGUE`. Ids are ``<precision>-<tool>[-<method>][-<option>...]`` in lower case,
unique, and fixed once published, because people type them after ``-k``.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lowbit import plugins
from lowbit.errors import InputError

_GRAMMAR = re.compile(r"(?:fp32|fp16|int8|fp8|w\d+a\d+|mixed|auto)(?:-[a-z][a-z0-9]*(?:-[a-z0-9.]+)*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to make an artifact.

    ``tool`` names a module of :mod:`lowbit.quantize`, or a tool that another package brings; ``settings`` are that tool's options (JSON-able) and enter the
    artifact's key; ``precision`` decides thresholds and capability; ``summary`` is one line for tables.
    """

    id: str
    precision: str
    tool: str
    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not _GRAMMAR.fullmatch(self.id):
            raise ValueError(f"scheme id {self.id!r} is not <precision>-<tool>[-<method>][-<option>...]")
        if self.id.split("-")[0] != self.precision:
            raise ValueError(f"scheme {self.id!r} says {self.precision!r} as its precision")

    @property
    def quantized(self) -> bool:
        """Whether this is anything but the float reference."""
        return self.precision not in ("fp32", "fp16")

    @property
    def weight_bits(self) -> int:
        """Bits of a weight as the precision names them; the fewest of a ``mixed`` scheme, 32 for float schemes."""
        return self._bits(0, "weight_bits")

    @property
    def activation_bits(self) -> int:
        """Bits of a quantized activation; 16 means floating point."""
        return self._bits(1, "activation_bits")

    @property
    def weights_only(self) -> bool:
        """Whether activations stay in floating point."""
        return self.quantized and self.activation_bits == 16

    def _bits(self, which: int, setting: str) -> int:
        if not self.quantized:
            return 32
        named = re.fullmatch(r"w(\d+)a(\d+)", self.precision)
        return int(named.group(which + 1)) if named else int(self.settings.get(setting, 8))


def _catalogue(*schemes: Scheme) -> Mapping[str, Scheme]:
    by_id = {scheme.id: scheme for scheme in schemes}
    if len(by_id) != len(schemes):
        raise ValueError("two schemes share an id")
    return MappingProxyType(by_id)


def _brevitas(scheme_id: str, summary: str, *, scales: str = "channel", **more: Any) -> Scheme:
    """A Brevitas scheme, whose precision names the bits of weights and activations."""
    precision = scheme_id.split("-")[0]
    weight, activation = map(int, re.findall(r"\d+", precision))
    settings = {"weight_bits": weight, "activation_bits": activation, "scales": scales, **more}
    if activation == 8:
        settings["inputs"] = "whole-range"
    return Scheme(scheme_id, precision, "brevitas", f"Brevitas QCDQ, {summary}", settings)


# Minutes of a search, on the reference machine of lowbit.quantize.budget, where the user names no others.
SEARCH_MINUTES = 20.0


def _within(family: str, kind: str, value: str) -> Scheme:
    """A scheme that is searched for: ``d``, within a drop in points; ``b``, within bits a weight. ``family``: how its id
    begins.

    Raises ``KeyError`` for a family that there is not.
    """
    within = f"within {value} point{'s' * (value != '1.0')} of agreement on calibration images"
    drop = {"max_drop": round(float(value) / 100, 6)}
    families: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
        ("auto-ort", "d"): (
            "INT8 by a recipe found for the detector: ranges, and what stays in float within 5 % of the speed, "
            f"{within} if there is one",
            {**drop, "minutes": SEARCH_MINUTES, "least_speed": 0.95},
        ),
        ("mixed-native", "d"): (
            f"INT4, INT8, FP8 and float weights on the ONNX graph itself, the fewest bits {within}",
            {"weight_bits": 4, "activation_bits": 16, **drop},
        ),
        ("mixed-ort", "d"): (
            f"INT8 and float convolutions, min-max, the fewest multiply-accumulates in float {within}",
            {"calibration_method": "minmax", **drop},
        ),
        ("mixed-brevitas", "d"): (
            f"Brevitas QCDQ, 8 and 4-bit weights, the fewest bits {within}",
            {"weight_bits": 4, "activation_bits": 16, "scales": "channel", **drop},
        ),
        ("mixed-brevitas", "b"): (
            f"Brevitas QCDQ, 8 and 4-bit weights, the least noisy {value} bits, rounding compensated on calibration "
            "images (GPTQ)",
            {"weight_bits": 4, "activation_bits": 16, "scales": "channel", "max_bits": float(value), "gptq": 32},
        ),
    }
    summary, settings = families[family, kind]
    precision, tool = family.split("-")
    return Scheme(f"{family}-{kind}{value}", precision, tool, summary, settings)


# Learning starts from compensated rounding, and at a low rate: what it moves far it does not bring back.
_TUNED: dict[str, Any] = {
    "max_bits": 4.3,
    "gptq": 32,
    "recovery": {"reach": 1.0, "images": "training", "steps": 1200, "widths": [8, 6, 5]},
}
_LABELLED: dict[str, Any] = {**_TUNED, "recovery": {**_TUNED["recovery"], "labels": 0.05}}


CATALOGUE = _catalogue(
    Scheme("fp32", "fp32", "export", "the detector's own float export: the reference of every comparison"),
    Scheme("fp32-lean", "fp32", "lean", "the float export, decoding only the boxes of anchors that survive"),
    Scheme("fp16", "fp16", "half", "the float export in half precision, decode tail in float: what a GPU would run"),
    Scheme(
        "int8-modelopt-max",
        "int8",
        "modelopt",
        "ModelOpt ONNX PTQ, symmetric INT8, max calibration; laid out for TensorRT",
        {"mode": "int8", "calibration_method": "max"},
    ),
    Scheme(
        "int8-modelopt-entropy",
        "int8",
        "modelopt",
        "ModelOpt ONNX PTQ, symmetric INT8, entropy calibration; laid out for TensorRT",
        {"mode": "int8", "calibration_method": "entropy"},
    ),
    Scheme(
        "int8-modelopt-entropy-headfp",
        "int8",
        "modelopt",
        "the same with the whole detection head kept in float",
        {"mode": "int8", "calibration_method": "entropy", "float_head": True},
    ),
    *(
        Scheme(
            f"int8-modelopt-k{count}",
            "int8",
            "modelopt",
            f"entropy calibration with the {count} most sensitive convolutions kept in float",
            {"mode": "int8", "calibration_method": "entropy", "float_top": count},
        )
        for count in (5, 10, 20)
    ),
    *(
        Scheme(
            f"fp8-modelopt-k{count}",
            "fp8",
            "modelopt",
            f"ModelOpt ONNX PTQ, FP8 (E4M3){f', the {count} most sensitive convolutions kept in float' * bool(count)}",
            {"mode": "fp8", "calibration_method": "max", "float_top": count},
        )
        for count in (0, 5, 10, 20)
    ),
    *(
        Scheme(
            f"{start}-fp16",
            start.split("-")[0],
            "half",
            f"the weights and scales of {start}, the rest in half precision, decode tail in float; for TensorRT",
            {"start": start},
        )
        for start in ("int8-modelopt-entropy", "fp8-modelopt-k0")
    ),
    Scheme(
        "int8-ort-minmax",
        "int8",
        "ort",
        "ONNX Runtime static PTQ, U8 activations, S8 per-channel weights, min-max; laid out for CPU",
        {"calibration_method": "minmax"},
    ),
    Scheme(
        "int8-ort-entropy",
        "int8",
        "ort",
        "ONNX Runtime static PTQ, U8 activations, S8 per-channel weights, entropy; laid out for CPU",
        {"calibration_method": "entropy"},
    ),
    *(
        Scheme(
            f"{start}-cpu",
            start.split("-")[0],
            "lower",
            f"the weights and scales of {start}, laid out for ONNX Runtime's CPU kernels",
            {"start": start},
        )
        for start in ("int8-modelopt-entropy", "w8a8-brevitas")
    ),
    Scheme(
        "int8-nncf",
        "int8",
        "nncf",
        "Intel NNCF static PTQ on the ONNX graph, an optional extra for cross-checks",
        {"preset": "mixed"},
    ),
    Scheme(
        "int8-inc",
        "int8",
        "inc",
        "Intel Neural Compressor static PTQ on the ONNX graph, an optional extra for cross-checks",
    ),
    _brevitas("w8a16-brevitas", "8-bit weights per channel, float activations: the pipeline's self-test"),
    _brevitas("w8a8-brevitas", "8-bit weights per channel, 8-bit inputs of convolutions"),
    _brevitas("w8a8-brevitas-symmetric", "the same with signed inputs of zero point 0, for TensorRT", symmetric=True),
    _brevitas("w4a16-brevitas-tensor", "4-bit weights, one scale a tensor: the naive reference", scales="tensor"),
    _brevitas("w4a8-brevitas-tensor", "the same with 8-bit inputs", scales="tensor"),
    _brevitas("w4a16-brevitas-channel", "4-bit weights, least-squares scales per channel, rounded to nearest"),
    *(
        _brevitas(
            f"w4a16-brevitas-k{count}",
            f"4-bit weights rounded to nearest, the {count} most sensitive convolutions at 8 bits",
            eight_top=count,
        )
        for count in (10, 20)
    ),
    _brevitas(
        "w4a16-brevitas-gptq",
        "the least noisy 4.6 bits, rounding compensated on calibration images (GPTQ), biases corrected",
        max_bits=4.6,
        gptq=32,
    ),
    _brevitas("w4a8-brevitas-gptq", "the same weights with 8-bit inputs", start="w4a16-brevitas-gptq"),
    _within("auto-ort", "d", "0.5"),
    _within("mixed-native", "d", "1.0"),
    _within("mixed-ort", "d", "1.0"),
    _within("mixed-brevitas", "d", "1.0"),
    _within("mixed-brevitas", "b", "6.0"),
    _brevitas(
        "w4a16-brevitas-qat", "4.3 bits, compensated, then fine-tuned without labels on training images", **_TUNED
    ),
    _brevitas("w4a16-brevitas-qat-labels", "the same with the detection loss on their labels", **_LABELLED),
    _brevitas(
        "w4a8-brevitas-qat",
        "the weights of w4a16-brevitas-qat with 8-bit inputs",
        start="w4a16-brevitas-qat",
    ),
)


@functools.cache
def catalogue() -> Mapping[str, Scheme]:
    """Every scheme by its id: lowbit's own, then what the tools of other packages bring as ``SCHEMES``.

    Raises :class:`InputError` for a package that can't be imported and for a scheme that does not say its tool, or takes
    another one's id.
    """
    found = dict(CATALOGUE)
    for name, module in plugins.modules().items():
        for scheme in getattr(plugins.load(name), "SCHEMES", ()):
            said = f"{module}: its scheme {getattr(scheme, 'id', scheme)!r}"
            if not isinstance(scheme, Scheme):
                raise InputError(f"{said} is no lowbit.schemes.Scheme.")
            if scheme.tool != name or scheme.id.split("-")[1:2] != [name]:
                raise InputError(
                    f"{said} of the tool {scheme.tool!r} has to be <precision>-{name}... of the tool {name!r}."
                )
            if scheme.id in found:
                raise InputError(f"{said} is there already. Give it another id.")
            found[scheme.id] = scheme
    return MappingProxyType(found)


def find_scheme(scheme_id: str) -> Scheme:
    """The scheme of an id: one of :func:`catalogue`, or ``auto-ort-d<points>``, ``mixed-<tool>-d<points>`` and
    ``mixed-brevitas-b<bits>`` with any number, which has one id however it is written: ``d1.0`` for ``d1.00``. Raises
    :class:`InputError` that names the nearest ids."""
    if scheme_id in CATALOGUE:
        return CATALOGUE[scheme_id]
    family = re.fullmatch(r"(auto-ort|mixed-[a-z]+)-([db])(\d{1,2}\.\d{1,2})", scheme_id, re.ASCII)
    with contextlib.suppress(KeyError):
        if family:
            tool, kind, number = family.groups()
            found = _within(tool, kind, str(float(number)))
            return CATALOGUE.get(found.id, found)
    if scheme_id in catalogue():
        return catalogue()[scheme_id]
    near = difflib.get_close_matches(scheme_id, catalogue(), n=3, cutoff=0.4) or list(catalogue())
    raise InputError(f"there is no scheme {scheme_id!r}. Nearest: {', '.join(near)}.") from None


def origins(scheme: Scheme) -> list[Scheme]:
    """A scheme and those whose artifacts it starts from, itself first."""
    found = [scheme]
    while start := found[-1].settings.get("start"):
        found.append(find_scheme(start))
    return found
