"""ONNX Runtime's execution providers: the sessions that they open, and what this machine can do.

The deployed artifact is what is measured: :func:`open_session` makes the session for accuracy and for latency alike.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit.errors import LowbitError, UnavailableError
from lowbit.host import gpu
from lowbit.runtime.options import PROVIDERS, SessionOptions, available_cores

if TYPE_CHECKING:
    import onnx
    import onnxruntime


# Signed weights become unsigned ones where kernels would saturate: right on every processor, and slower on those.
PRECISE = ("session.x64quantprecision", "1")


def deployed_options(
    precision: str, provider: str = "cpu", *, weights_only: bool = False, saturates: bool = False
) -> SessionOptions:
    """The session options with which an artifact of a precision ships on a provider. ``weights_only``: its activations are
    in floating point. ``saturates``: its weights allow sums that kernels of this processor lose
    (:func:`lowbit.emulation.saturates_here`), so that it must run without those kernels."""
    # Without it a session's threads spin on after its run and take the cores from the session that runs next: with two
    # sessions taking turns, both slow down two- to threefold and their ratio is meaningless.
    config: tuple[tuple[str, str], ...] = (("session.force_spinning_stop", "1"),)
    if (provider == "cpu" and precision == "fp8") or (provider != "trt" and weights_only):
        # ORT's CPU provider fuses float8 Q/DQ into ops that it then has no kernels for. And it leaves the DequantizeLinear
        # of a weight for every run, in case an integer kernel wants it: none will, and folded once it costs nothing.
        config = (*config, ("session.disable_quant_qdq", "1"))
    if provider == "cpu" and saturates:
        config = (*config, PRECISE)
    return SessionOptions(provider, config=config, provider_config=_provider_config(precision, provider))


def _provider_config(precision: str, provider: str) -> tuple[tuple[str, str], ...]:
    """The execution provider's options of a precision: with them TensorRT keeps to the graph's Q/DQ or to FP16."""
    if provider != "trt":
        return ()
    if precision == "fp16":
        return (("trt_fp16_enable", "1"), ("trt_cuda_graph_enable", "1"))
    quantized = (("trt_int8_enable", "1"),) if precision in ("int8", "w8a8", "w4a8") else ()
    return (*quantized, ("trt_cuda_graph_enable", "1"))


def open_session(path: Path, options: SessionOptions) -> onnxruntime.InferenceSession:
    """Open an ONNX file with exactly one provider (and its CPU fallback).

    Raises :class:`UnavailableError` if the provider is not there or refuses to load, :class:`LowbitError` if the file
    does.
    """
    import onnxruntime

    reason = provider_reason(options.provider)
    if reason:
        raise UnavailableError(reason)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if options.optimized else levels.ORT_DISABLE_ALL
    if options.cores[1:]:
        # Of the threads that ONNX Runtime starts; it counts processors from 1.
        affinities = ";".join(str(core + 1) for core in options.cores[1:])
        settings.add_session_config_entry("session.intra_op_thread_affinities", affinities)
    for key, value in options.config:
        settings.add_session_config_entry(key, value)
    if options.profile:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(options.profile)
    wanted = PROVIDERS[options.provider]
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=[(wanted, dict(options.provider_config))])
    except Exception as error:  # ORT's exceptions have no common base of their own
        raise LowbitError(f"{path}: ONNX Runtime can't load it on {wanted} ({str(error)[:300]}).") from error
    if wanted not in session.get_providers():
        raise UnavailableError(f"{wanted} is built in but did not start (missing CUDA libraries or driver).")
    return session


def plain_session(
    model: onnx.ModelProto, config: tuple[tuple[str, str], ...] = (), *, optimized: bool = True
) -> onnxruntime.InferenceSession:
    """Open a model in memory on the CPU, for what lowbit computes while it builds or examines an artifact.

    ``config``: session configuration entries. ``optimized``: False is ``ORT_DISABLE_ALL``. What ONNX Runtime raises of a
    model that it does not take is left to the caller, who knows the file.
    """
    import onnxruntime

    settings = _settings(config)
    levels = onnxruntime.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=[PROVIDERS["cpu"]])


def optimized_graph(
    model: onnx.ModelProto, config: tuple[tuple[str, str], ...] = (), *, disabled: Sequence[str] = ()
) -> onnx.ModelProto:
    """The graph as ONNX Runtime's optimizer leaves it for the CPU, but for memory layouts, which suit one processor.

    ``disabled``: names of its rewrites to leave out. What it raises of a model that it does not take is left to the
    caller, who knows the file.
    """
    import onnx
    import onnxruntime

    settings = _settings(config)
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        settings.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=[PROVIDERS["cpu"]], disabled_optimizers=list(disabled)
        )
        return onnx.load(settings.optimized_model_filepath)


def _settings(config: tuple[tuple[str, str], ...]) -> onnxruntime.SessionOptions:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = available_cores()
    settings.log_severity_level = 3
    for key, value in config:
        settings.add_session_config_entry(key, value)
    return settings


@functools.cache
def kernels_saturate() -> bool:
    """Whether ONNX Runtime's integer kernels lose sums on this processor: without VNNI they add two products in 16 bits.

    By one convolution whose only sum, 2 * 255 * 127, does not fit them.
    """
    import onnx
    from onnx import helper, numpy_helper

    stored: dict[str, Any] = {"one": np.float32(1), "wide": np.float32(512), "unsigned": np.uint8(0)}
    stored |= {"signed": np.int8(0), "weight": np.full((1, 2, 1, 1), 127, np.int8)}
    inputs = ["data", "one", "unsigned", "weight", "one", "signed", "wide", "unsigned"]
    body = helper.make_graph(
        [helper.make_node("QLinearConv", inputs, ["sum"])],
        "probe",
        [helper.make_tensor_value_info("data", onnx.TensorProto.UINT8, [1, 2, 1, 1])],
        [helper.make_tensor_value_info("sum", onnx.TensorProto.UINT8, [1, 1, 1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = plain_session(model).run(None, {"data": np.full((1, 2, 1, 1), 255, np.uint8)})[0]
    return bool(found.item() != np.rint(2 * 255 * 127 / 512))


_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class BoundRun:
    """One run of a session with its input and its outputs bound on ``device`` (``cpu``, ``cuda``): nothing is copied
    between host and device, and addresses stay, as CUDA graphs ask for. ``tensor``: float32 [n, 3, S, S]."""

    def __init__(self, session: onnxruntime.InferenceSession, tensor: NDArray[np.float32], device: str) -> None:
        import onnxruntime

        make = onnxruntime.OrtValue
        self._session, self._binding = session, session.io_binding()
        # Kept alive: the binding knows addresses only.
        self._input = make.ortvalue_from_numpy(tensor, device, 0)
        self.outputs = [
            make.ortvalue_from_shape_and_type(o.shape, _FLOATS[o.type], device, 0) for o in session.get_outputs()
        ]
        self._binding.bind_ortvalue_input(session.get_inputs()[0].name, self._input)
        for output, place in zip(session.get_outputs(), self.outputs, strict=True):
            self._binding.bind_ortvalue_output(output.name, place)

    def __call__(self) -> None:
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()


def timed_run(session: onnxruntime.InferenceSession, tensor: NDArray[np.float32], provider: str) -> Callable[[], Any]:
    """What a timing repeats: on a GPU without copies from and to the host, which belong to the pipeline around it."""
    if provider == "cpu":
        return functools.partial(session.run, None, {session.get_inputs()[0].name: tensor})
    return BoundRun(session, tensor, "cuda")


@functools.cache
def provider_reason(provider: str) -> str | None:
    """Why a provider can't be used on this machine, with the remedy; None if it can."""
    import onnxruntime

    if provider not in PROVIDERS:
        return f"there is no provider {provider!r}; known: {', '.join(PROVIDERS)}"
    if provider != "cpu" and gpu() is None:
        return f"{PROVIDERS[provider]} needs an NVIDIA GPU; the driver shows none to this process (use a machine that has one: pixi run -e cuda gate)"
    if provider == "cuda":
        preload = getattr(onnxruntime, "preload_dlls", None)
        if preload:
            preload()  # takes CUDA and cuDNN from torch's wheels
    if provider == "trt" and not _installed("tensorrt"):
        return "TensorRT is not installed (pip install 'tensorrt-cu13<11'; ONNX Runtime's provider is built for TensorRT 10)"
    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        return f"this onnxruntime has no {PROVIDERS[provider]}; install onnxruntime-gpu"
    return None


def _installed(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


# What a tool imports, and the package to install for it.
_NEEDS = {
    "export": {"ultralytics": "ultralytics"},
    "modelopt": {"modelopt": "nvidia-modelopt"},
    "nncf": {"nncf": "nncf"},
    # Its metadata still ask for numpy 1; it runs with 2.
    "inc": {
        "onnx_neural_compressor": "--no-deps onnx-neural-compressor",
        "prettytable": "prettytable",
        "transformers": "transformers",
    },
    "brevitas": {"brevitas": "brevitas", "onnxoptimizer": "onnxoptimizer", "lightning_fabric": "lightning-fabric"},
}


def capability(precision: str, tool: str, provider: str) -> str | None:
    """The one table of what can be done: provider x dtype x compute capability x installed tool.

    Returns None if an artifact of ``precision`` made by ``tool`` can run on ``provider`` here, else the reason.
    """
    reason = provider_reason(provider)
    if reason:
        return reason
    for module, package in _NEEDS.get(tool, {}).items():
        if not _installed(module):
            return f"the tool {tool} needs {package}, which is not installed (pip install -c constraints.txt {package})"
    device = gpu()
    computes = device.compute_capability if device else None
    if precision == "fp8" and provider != "cpu" and device and computes and computes < 8.9:
        return f"FP8 kernels need compute capability 8.9; {device.name} has {computes}"
    return None
