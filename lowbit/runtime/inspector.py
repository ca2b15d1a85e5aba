"""What TensorRT's engine inspector says of an engine: which type computes which part of the work.

``IEngineInspector`` gives JSON, a layer an entry (TensorRT's developer guide, "Engine Inspector"). What a layer takes in
says little of what it computes in: a convolution with INT8 inputs may be given to a kernel that widens them. So the kernel
is asked first, by its name, then the stored weights, and the inputs last.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# How the inspector names a tensor's type: TensorRT 8 in a sentence on its layout, later versions in a word.
_TYPES = {
    "FP8": r"fp8|e4m3",
    "FP4": r"fp4|e2m1",
    "INT8": r"int8",
    "INT4": r"int4",
    "INT32": r"int32",
    "INT64": r"int64",
    "BF16": r"bf16|bfloat16",
    "FP16": r"fp16|half",
    "FP32": r"fp32|float",
    "BOOL": r"bool",
}
FLOATS = ("FP32", "BF16", "FP16")
# Kernels name the operands and the accumulator: i8i8_i8i32_f32 takes INT8, f16f16_f16f32_f32 half precision; cuBLAS' and
# older ones name the instruction: h16816 and hmma in half precision, i8816 and imma in INT8.
_OPERANDS = re.compile(r"_(e4m3|e5m2|bf16|tf32|f16|f32|i8)(?:e4m3|e5m2|bf16|f16|f32|i8|i32)(?=_(?:bf|f)\d+)")
_INSTRUCTION = re.compile(r"(?:^|_)(int8|imma|i8816|i16832|hmma|h1688|h16816|s16816|sgemm|scudnn)")
_KERNELS = {
    "FP8": ("e4m3", "e5m2"),
    "INT8": ("i8", "int8", "imma", "i8816", "i16832"),
    "BF16": ("bf16",),
    "FP16": ("f16", "hmma", "h1688", "h16816", "s16816"),
    "FP32": ("f32", "tf32", "sgemm", "scudnn"),
}
# Layers that move, hold or wait for numbers and compute nothing.
_MOVES = frozenset({"Reformat", "NoOp", "Constant", "signal", "wait"})
# Convolutions are also named so where Myelin, which fuses what is around them, compiles them.
_WEIGHTED = re.compile(r"conv|gemm|matmul|matrixmultiply|correlation|fullyconnected", re.IGNORECASE)
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
# Fused names: `a + PWN(b, c)`, and `a || b` for convolutions of one input that became one.
_JOINTS = re.compile(r" \+ | \|\| |, |PWN\(|\)")


@dataclass(frozen=True, slots=True)
class Precisions:
    """What an engine computes in. ``layers``: how many of its layers compute in which type, most first, moves and layout
    changes not counted; ``mac_fractions``: the share of the multiply-accumulates of convolutions and matrix products by type,
    None where one of them is in no layer; ``float_convolutions``: the layers of such that compute in a float type wider
    than 8 bits, largest first."""

    layers: dict[str, int]
    mac_fractions: dict[str, float] | None
    float_convolutions: tuple[str, ...]


def read_precisions(information: str, macs: Mapping[str, int]) -> Precisions:
    """Read the engine inspector's JSON. ``macs``: multiply-accumulates by the name of the artifact's node.

    Raises ``ValueError`` for an engine that names its layers only, as one does that was built without detailed profiling
    verbosity.
    """
    layers = json.loads(information)["Layers"]
    if any(isinstance(layer, str) for layer in layers):
        raise ValueError("the engine names its layers only; build it with ProfilingVerbosity.DETAILED")
    working = [layer for layer in layers if layer["LayerType"] not in _MOVES and layer.get("Inputs")]
    found = [(layer, computes_in(layer), _nodes(layer) & macs.keys()) for layer in working]
    weighted = [(kind, sum(macs[node] for node in nodes), layer["Name"]) for layer, kind, nodes in found if nodes]
    shares: Counter[str] = Counter()
    for kind, count, _ in weighted:
        shares[kind] += count
    whole = sum(shares.values()) == sum(macs.values()) > 0
    # What no node is known of counts too, by what the layer calls itself.
    others = [(kind, 0, layer["Name"]) for layer, kind, nodes in found if not nodes and _is_weighted(layer)]
    floating = sorted((entry for entry in weighted + others if entry[0] in FLOATS), key=lambda entry: -entry[1])
    return Precisions(
        dict(Counter(kind for _, kind, _ in found).most_common()),
        {kind: count / shares.total() for kind, count in shares.most_common()} if whole else None,
        tuple(name for _, _, name in floating),
    )


def computes_in(layer: Mapping[str, Any]) -> str:
    """The type that a layer computes in: its kernel's, else its weights', else the widest of its inputs."""
    tactic = str(layer.get("TacticName", "")).lower()
    for pattern in (_OPERANDS, _INSTRUCTION):
        if said := pattern.findall(tactic):  # the last: before the operands come the types of input and output
            return next(kind for kind, words in _KERNELS.items() if said[-1] in words)
    weights = layer.get("Weights")
    if isinstance(weights, dict) and weights.get("Count", 1):
        return _type(str(weights.get("Type", "")))
    inputs = [_type(str(one.get("Format/Datatype") or one.get("Datatype") or "")) for one in layer["Inputs"]]
    return next((kind for kind in FLOATS if kind in inputs), inputs[0])


def _is_weighted(layer: Mapping[str, Any]) -> bool:
    return _WEIGHTED.search(f"{layer.get('ParameterType', '')} {layer['LayerType']}") is not None


def _nodes(layer: Mapping[str, Any]) -> set[str]:
    """The ONNX nodes that a layer was made of, by its metadata, or by its name where there are none."""
    said = _ONNX_LAYER.findall(str(layer.get("Metadata", "")))
    return set(said or _JOINTS.split(str(layer["Name"])))


def _type(said: str) -> str:
    text = said.lower()
    return next((name for name, pattern in _TYPES.items() if re.search(pattern, text)), text or "unknown")
