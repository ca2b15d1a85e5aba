"""TensorRT: ONNX Runtime's provider, and engines that its Python package builds: the types of a graph, obeyed."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import extras
from lowbit.errors import LowbitError, UnavailableError
from lowbit.runtime.base import Form, Runtime
from lowbit.runtime.network import Network, unparsable
from lowbit.runtime.options import SessionOptions
from lowbit.runtime.ort import BoundRun, BoundSession, GpuProvider, load_error

if TYPE_CHECKING:
    import onnxruntime

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


# What ONNX Runtime's provider is linked to, and the package that fits it and CUDA 13.
LIBRARY = "libnvinfer.so.10"
PACKAGES = ("tensorrt-cu13", "tensorrt-cu13-libs", "tensorrt-cu13-bindings")
INSTALL = extras.command("lowbit[tensorrt]")
# With it the provider captures a run as a CUDA graph and replays that, with the addresses of the first run: plain runs
# give the first run's outputs again (https://github.com/microsoft/onnxruntime/issues/20050).
CUDA_GRAPH = ("trt_cuda_graph_enable", "1")


class TrtSession(BoundSession):
    """A session of the TensorRT provider, which never captures a CUDA graph: only its timed run has one."""

    def __init__(self, raw: Any, path: Path, title: str, capture: Callable[[], Any]) -> None:
        super().__init__(raw, path, title)
        self._capture = capture

    def timed_run(self, tensor: NDArray[np.float32]) -> Callable[[], Any]:
        """Runs of a CUDA graph, in a session of their own, which has this one binding for its life.

        Raises :class:`LowbitError` if they give other outputs than a plain run.
        """
        run = BoundRun(self._capture(), tensor, "cuda")
        run()
        plain = self.run(None, {self.get_inputs()[0].name: tensor})
        for wanted, found in zip(plain, run.outputs, strict=True):
            if not np.allclose(found.numpy(), wanted, rtol=1e-3, atol=1e-3):
                raise LowbitError(f"{self._path}: TensorRT's CUDA graph gives other outputs than a plain run.")
        return run


class TensorRt(GpuProvider):
    """ONNX Runtime's TensorRT provider. Without its fp16 and int8 flags it builds a strongly typed network."""

    name, title, library = "trt", "TensorrtExecutionProvider", "libonnxruntime_providers_tensorrt.so"
    packages = ("onnxruntime-gpu", *PACKAGES)
    times_fp8 = hides_kernels = True

    def keeps_floats(self, precision: str, weights_only: bool) -> bool:
        """Never: TensorRT reads Q/DQ pairs itself."""
        return False

    def missing(self) -> str | None:
        """TensorRT's library, which its package brings, and what ONNX Runtime's provider needs besides."""
        return library_reason() or super().missing()

    def refuses(self, form: Form) -> str | None:
        """What TensorRT's parser refuses, and what this machine's GPU has no kernels for."""
        return unparsable(form) or super().refuses(form)

    def open(self, path: Path, options: SessionOptions) -> TrtSession:
        """A session for accuracy, parity, kernels and the end-to-end latency; a CUDA graph would be wrong in all."""
        if CUDA_GRAPH in options.provider_config:
            raise ValueError("a session for run() must not capture a CUDA graph; timed_run() captures its own")
        if reason := self.reason():
            raise UnavailableError(reason)
        captured = replace(options, provider_config=(*options.provider_config, CUDA_GRAPH))
        session = TrtSession(self.create(path, options), path, self.title, lambda: self.create(path, captured))
        session.check_assignment()
        return session

    def create(self, path: Path, options: SessionOptions) -> onnxruntime.InferenceSession:
        """Every session of an artifact has the engine that its first one built, which takes minutes."""
        cache = (("trt_engine_cache_enable", "1"), ("trt_engine_cache_path", _engines(path).name))
        return super().create(path, replace(options, provider_config=(*options.provider_config, *cache)))


@functools.cache
def _engines(path: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for one artifact's engine, removed with the process: the provider's cache tells no weights apart."""
    return tempfile.TemporaryDirectory(prefix=f"lowbit-engine-{path.stem}-")


RUNTIMES: tuple[Runtime, ...] = (TensorRt(),)


@functools.cache
def library_reason() -> str | None:
    """Why TensorRT's library can't be loaded, with what was found and the remedy; None if it can."""
    with contextlib.suppress(ImportError):
        import tensorrt  # noqa: F401  # it loads its libraries from where pip put them
    error = load_error(LIBRARY)
    if error is None:
        return None
    found = (
        ", ".join(f"{name} {version}" for name, version in found_versions().items() if version) or "no package of it"
    )
    return f"TensorRT's {LIBRARY} can't be loaded ({error}); found: {found}. {INSTALL}; ONNX Runtime is built for TensorRT 10"


def found_versions() -> dict[str, str | None]:
    """Versions of TensorRT's packages by name, None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in (*PACKAGES, "tensorrt"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def reason() -> str | None:
    """Why no engine can be built here, with the remedy; None if one can."""
    if why := extras.missing(dict.fromkeys(("tensorrt", "torch"), "lowbit[tensorrt]")):
        return f"a TensorRT engine {why}"
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
        import tensorrt
        import torch

        network = Network(tensorrt, path)
        plan = network.build(network.config())
        self._engine = tensorrt.Runtime(network.logger).deserialize_cuda_engine(plan)
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
