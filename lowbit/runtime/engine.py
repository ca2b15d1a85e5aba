"""TensorRT engines of an artifact, built by its Python package, kept beside the store, and run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowbit import extras, files
from lowbit.errors import UnavailableError
from lowbit.runtime.inspector import read_precisions
from lowbit.runtime.network import Network
from lowbit.runtime.tensorrt import place

TIMING_CACHE = "timing.cache"


def reason() -> str | None:
    """Why no engine can be built here, with the remedy; None if one can."""
    if why := extras.missing(dict.fromkeys(("tensorrt", "torch"), "lowbit[tensorrt]")):
        return f"a TensorRT engine {why}"
    import torch

    return None if torch.cuda.is_available() else "TensorRT engines need an NVIDIA GPU, and torch sees none"


@dataclass(frozen=True, slots=True)
class Plan:
    """An engine, serialized. ``seconds``: what its build took; ``log``: TensorRT's warnings meanwhile; ``kept``: whether it
    was built earlier."""

    data: bytes
    seconds: float
    log: tuple[str, ...]
    kept: bool


def plan_of(api: ModuleType, path: Path, folder: Path, *, again: bool = False) -> Plan:
    """The engine of an ONNX file, as built in ``folder`` or built now and kept there; ``again``: built now in any case.

    ``api``: ``tensorrt`` or ``tensorrt_rtx``. ``folder`` is one GPU's and one version's (:func:`lowbit.runtime.tensorrt.place`); all builds there
    share TensorRT's timing cache, which spares the kernels that were timed before. Raises :class:`UnavailableError` for a
    file that TensorRT does not take.
    """
    name = files.sha256(path)
    stored, record = folder / f"{name}.plan", folder / f"{name}.json"
    if not again and stored.is_file() and record.is_file():
        found = json.loads(record.read_text(encoding="utf-8"))
        return Plan(stored.read_bytes(), found["seconds"], tuple(found["log"]), kept=True)
    start = time.perf_counter()
    network = Network(api, path)
    config, timings = network.config(), folder / TIMING_CACHE
    # A cache of another GPU or version is refused, and an empty one taken instead.
    known = config.create_timing_cache(timings.read_bytes() if timings.is_file() else b"")
    if not config.set_timing_cache(known, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    data = network.build(config)
    seconds, log = time.perf_counter() - start, tuple(dict.fromkeys(network.log))
    files.write_atomic(timings, bytes(config.get_timing_cache().serialize()))
    # The record last: a plan without one is not whole.
    record.unlink(missing_ok=True)
    files.write_atomic(stored, data)
    files.write_json(record, {"file": str(path), "seconds": seconds, "log": list(log)})
    return Plan(data, seconds, log, kept=False)


class Engine:
    """An artifact as a TensorRT engine on the first GPU, its input and output bound to buffers there.

    A first build takes minutes. ``tensor``: float32 [1, 3, S, S]; ``root``: a folder to keep engines in; ``macs``:
    multiply-accumulates by node name. Raises :class:`UnavailableError` where :func:`reason` has one, and for a graph that
    TensorRT does not take, with its own words.
    """

    def __init__(self, path: Path, tensor: NDArray[np.float32], root: Path, macs: Mapping[str, int]) -> None:
        if why := reason():
            raise UnavailableError(why)
        import tensorrt
        import torch

        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        folder = place(root, f"engines {tensorrt.__version__}")
        self.plan = plan_of(tensorrt, path, folder)
        self._engine = runtime.deserialize_cuda_engine(self.plan.data)
        if self._engine is None and self.plan.kept:
            # By a driver that takes it no more, or damaged.
            self.plan = plan_of(tensorrt, path, folder, again=True)
            self._engine = runtime.deserialize_cuda_engine(self.plan.data)
        if self._engine is None:
            raise UnavailableError(f"{path}: TensorRT {tensorrt.__version__} does not load the engine that it built")
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
            self._engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON),
            macs,
        )

    def __call__(self) -> None:
        """One run, without copies from and to the host; returns when the GPU has done it."""
        self._context.execute_async_v3(self._stream.cuda_stream)
        self._stream.synchronize()

    def outputs(self) -> list[NDArray[np.float32]]:
        """What the last run gave, copied to the host."""
        return [buffer.cpu().numpy() for buffer in self._outputs]
