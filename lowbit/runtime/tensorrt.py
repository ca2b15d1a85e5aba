"""TensorRT as ONNX Runtime's provider: the types of a graph, obeyed."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import extras, files
from lowbit.errors import LowbitError, UnavailableError
from lowbit.host import gpu
from lowbit.runtime.base import Form, Runtime
from lowbit.runtime.network import unparsable
from lowbit.runtime.options import SessionOptions
from lowbit.runtime.ort import BoundRun, BoundSession, GpuProvider, load_error

if TYPE_CHECKING:
    import onnxruntime

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
    times_fp8 = hides_kernels = compiles = True

    def keeps_floats(self, precision: str, weights_only: bool) -> bool:
        """Never: TensorRT reads Q/DQ pairs itself."""
        return False

    def missing(self) -> str | None:
        """TensorRT's library, which its package brings, and what ONNX Runtime's provider needs besides."""
        return library_reason() or super().missing()

    def refuses(self, form: Form) -> str | None:
        """What TensorRT's parser refuses, and what this machine's GPU has no kernels for."""
        return unparsable(form) or super().refuses(form)

    def with_tf32(self, options: SessionOptions, on: bool) -> SessionOptions:
        """TensorRT's builder has it on, and ONNX Runtime's provider (1.31) has no option for it."""
        if not on:
            raise UnavailableError(f"{self.title} can't be told to leave TF32 (measure with --tf32, or on CUDA)")
        return options

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
        # The provider's cache tells no weights apart, so every file has a folder of its own.
        root = options.cache or Path(_temporary().name)
        folder = place(root, f"{self.name} {found_version() or ''}")
        cache = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder / files.sha256(path)),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
        }
        (folder / files.sha256(path)).mkdir(parents=True, exist_ok=True)
        return super().create(path, replace(options, provider_config=(*options.provider_config, *cache.items())))


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    """A folder for engines, removed with the process."""
    return tempfile.TemporaryDirectory(prefix="lowbit-engines-")


def place(root: Path, of: str) -> Path:
    """Where what is compiled on this machine's GPU is kept: it runs on no other. ``of``: what compiles it, with its
    version."""
    device = gpu()
    capability = device.compute_capability if device else None
    about = f"{device.name if device else 'no GPU'} {capability or ''} {of}"
    return root / re.sub(r"[^A-Za-z0-9.]+", "-", about).strip("-")


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


def found_version() -> str | None:
    """The version of TensorRT's libraries, as far as pip knows it."""
    return next((version for version in found_versions().values() if version), None)


def found_versions() -> dict[str, str | None]:
    """Versions of TensorRT's packages by name, None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in (*PACKAGES, "tensorrt"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
