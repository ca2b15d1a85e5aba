"""TensorRT engines, built by its Python package: the types of an artifact's graph, obeyed, and what became of them.

The network is strongly typed: TensorRT keeps the types that the graph states, Q/DQ pairs and casts included, and is free
in tactics only. That is what ``--precisionConstraints=obey`` asks for layer by layer, and the only mode of TensorRT 11.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowbit.errors import UnavailableError

# How the engine inspector names a tensor's type: TensorRT 8 in a sentence on its layout, later versions in a word.
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
_FLOATS = frozenset({"FP32", "FP16", "BF16"})
# Layers that move or hold numbers and compute nothing.
_MOVES = frozenset({"Reformat", "NoOp", "Constant"})


@dataclass(frozen=True, slots=True)
class Precisions:
    """What an engine computes in. ``layers``: how many of its layers take their first input as which type, most first,
    moves and layout changes not counted; ``float_convolutions``: the convolutions that take a float, by name."""

    layers: dict[str, int]
    float_convolutions: tuple[str, ...]


def reason() -> str | None:
    """Why no engine can be built here, with the remedy; None if one can."""
    for module, package in {"tensorrt": "'tensorrt-cu13<11'", "torch": "torch"}.items():
        if importlib.util.find_spec(module) is None:
            return f"TensorRT engines need {package}, which is not installed (pip install {package})"
    import torch

    return None if torch.cuda.is_available() else "TensorRT engines need an NVIDIA GPU, and torch sees none"


def read_precisions(information: str) -> Precisions:
    """Read the engine inspector's JSON. Raises ``ValueError`` for one that names its layers only, as an engine does that
    was built without detailed profiling verbosity."""
    layers = json.loads(information)["Layers"]
    if any(isinstance(layer, str) for layer in layers):
        raise ValueError("the engine names its layers only; build it with ProfilingVerbosity.DETAILED")
    working = [layer for layer in layers if layer["LayerType"] not in _MOVES and layer.get("Inputs")]
    types = [_type_of(layer["Inputs"][0]) for layer in working]
    floating = (
        layer["Name"]
        for layer, kind in zip(working, types, strict=True)
        if kind in _FLOATS and "conv" in f"{layer.get('ParameterType', '')} {layer['LayerType']}".lower()
    )
    return Precisions(dict(Counter(types).most_common()), tuple(floating))


def _type_of(tensor: Mapping[str, Any]) -> str:
    said = str(tensor.get("Format/Datatype", "")).lower()
    return next((name for name, pattern in _TYPES.items() if re.search(pattern, said)), said or "unknown")


class Engine:
    """An artifact as a TensorRT engine on the first GPU, its input and output bound to buffers there.

    Building takes minutes. ``tensor``: float32 [1, 3, S, S]. Raises :class:`UnavailableError` where :func:`reason` has one,
    and for a graph that TensorRT does not take, with TensorRT's own words.
    """

    def __init__(self, path: Path, tensor: NDArray[np.float32]) -> None:
        if why := reason():
            raise UnavailableError(why)
        import tensorrt  # type: ignore[import-not-found]  # only on machines with NVIDIA's GPUs
        import torch

        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        flag = int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(1 << flag)
        parser = tensorrt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(path)):
            said = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
            raise UnavailableError(f"{path}: TensorRT {tensorrt.__version__} does not take it ({said[:300]})")
        config = builder.create_builder_config()
        config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise UnavailableError(f"{path}: TensorRT {tensorrt.__version__} found no kernels for it")
        self._engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan)
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's stubs
        self._kept: list[Any] = []  # the context knows addresses only
        self._outputs: list[Any] = []
        for number in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(number)
            if self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT:
                buffer = torch.from_numpy(tensor).cuda()
            else:
                buffer = torch.empty(tuple(self._engine.get_tensor_shape(name)), dtype=torch.float32, device="cuda")
                self._outputs.append(buffer)
            self._kept.append(buffer)
            self._context.set_tensor_address(name, buffer.data_ptr())
        self.precisions = read_precisions(
            self._engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON)
        )

    def __call__(self) -> None:
        """One run, without copies from and to the host; returns when the GPU has done it."""
        self._context.execute_async_v3(self._stream.cuda_stream)
        self._stream.synchronize()

    def outputs(self) -> list[NDArray[np.float32]]:
        """What the last run gave, copied to the host."""
        return [buffer.cpu().numpy() for buffer in self._outputs]
