"""Layer sensitivity: ModelOpt AutoQuant on the torch module, layer-wise quantization on the ONNX graph, and the bit
allocation that is chosen from it.

A :class:`Combination` is one cell of the sweep's grid; its id is what people type after ``-k``.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any

from lowbit.errors import InputError

WEIGHTS = ("int4", "int8", "fp4", "fp8")
ACTIVATIONS = ("int4", "int8", "fp4", "fp8", "fp16")
GRANULARITIES = ("per_channel", "per_layer")
# ModelOpt's notation: bits of an integer; exponent and mantissa bits of a float.
_NUM_BITS: dict[str, int | tuple[int, int]] = {"int4": 4, "int8": 8, "fp4": (2, 1), "fp8": (4, 3)}
BITS = {"int4": 4, "int8": 8, "fp4": 4, "fp8": 8, "fp16": 16}


@dataclass(frozen=True, slots=True)
class Combination:
    """Dtypes of weights and activations, and what shares a scale: ``per_channel`` or ``per_layer``."""

    weight: str
    activation: str
    granularity: str

    @property
    def id(self) -> str:
        """``<weight>-<activation>-<granularity>``."""
        return f"{self.weight}-{self.activation}-{self.granularity}"

    @property
    def preset(self) -> str:
        """Name of the ModelOpt preset that the combination starts from."""
        return {
            "fp4": "NVFP4_DEFAULT_CFG",
            "fp8": "FP8_DEFAULT_CFG",
        }.get("fp4" if "fp4" in (self.weight, self.activation) else self.weight, "INT8_DEFAULT_CFG")


GRID = tuple(Combination(*parts) for parts in itertools.product(WEIGHTS, ACTIVATIONS, GRANULARITIES))


def find_combination(combination_id: str) -> Combination:
    """The combination of an id. Raises :class:`InputError` that says how ids are made."""
    for combination in GRID:
        if combination.id == combination_id:
            return combination
    raise InputError(
        f"there is no combination {combination_id!r}: <weight>-<activation>-<granularity> of {', '.join(WEIGHTS)}; "
        f"{', '.join(ACTIVATIONS)}; {', '.join(GRANULARITIES)}."
    )


def config_of(combination: Combination, presets: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """ModelOpt's configuration of a combination, and what was changed in its preset.

    ``presets``: the module ``modelopt.torch.quantization``. The preset's quantizers get the combination's dtypes and
    axes: weights 0 (output channels) or none, activations 1 or none. Raises ``ValueError`` with the reason for a preset
    that needs ``block_sizes``: blocks run along the last axis, which of a convolution is the kernel's width.
    """
    config = copy.deepcopy(getattr(presets, combination.preset))
    changed: dict[str, Any] = {}
    per_channel = combination.granularity == "per_channel"
    for entry in config["quant_cfg"]:
        name = entry["quantizer_name"]
        if name not in ("*weight_quantizer", "*input_quantizer"):
            continue
        if "block_sizes" in entry.get("cfg", {}):
            raise ValueError(
                f"{combination.preset} needs block_sizes, along the last axis; a convolution's is its kernel's width, and "
                f"{combination.granularity} would contradict it"
            )
        weight = name == "*weight_quantizer"
        dtype = combination.weight if weight else combination.activation
        if dtype == "fp16":
            entry.pop("cfg", None)
            entry["enable"] = False
        else:
            axis = (0 if weight else 1) if per_channel else None
            entry["cfg"] = {**entry.get("cfg", {}), "num_bits": _NUM_BITS[dtype], "axis": axis}
        changed[name] = entry.get("cfg", {"enable": False})
    config["algorithm"] = "max"
    return config, changed
