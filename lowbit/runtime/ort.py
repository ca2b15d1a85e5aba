"""ONNX Runtime on the CPU and on CUDA: sessions, and the kernels that they run."""

from __future__ import annotations

import ctypes
import functools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lowbit import extras
from lowbit.errors import LowbitError, UnavailableError
from lowbit.host import gpu
from lowbit.runtime.base import Form, Kernels, Named, Runtime, Share
from lowbit.runtime.options import DEFAULT, SessionOptions

if TYPE_CHECKING:
    import onnxruntime

# Signed weights become unsigned ones where kernels would saturate: right on every processor, and slower on those.
PRECISE = ("session.x64quantprecision", "1")
INTEGER_OPS = frozenset(
    {
        "QLinearConv",
        "ConvInteger",
        "QLinearMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "QGemm",
    }
)
FLOAT_OPS = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose"}
)
# ONNX Runtime then knows which provider was given which node.
RECORD_ASSIGNMENT = ("session.record_ep_graph_assignment_info", "1")


class OrtSession:
    """A session of ONNX Runtime with one execution provider, and the CPU's for what that one does not take."""

    def __init__(self, raw: Any, path: Path, title: str) -> None:
        self.raw, self._path, self._title = raw, path, title

    def get_inputs(self) -> Sequence[Named]:
        """The inputs, in the graph's order."""
        return list(self.raw.get_inputs())

    def run(self, names: Sequence[str] | None, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these names, or all. Raises :class:`LowbitError` with what the provider said."""
        try:
            return list(self.raw.run(names, feed))
        except Exception as error:  # ORT's exceptions have no common base of their own
            raise LowbitError(f"{self._path}: {self._title} failed in a run ({str(error)[:300]}).") from error

    def timed_run(self, tensor: NDArray[np.float32]) -> Callable[[], Any]:
        """A run from host memory to host memory."""
        return functools.partial(self.raw.run, None, {self.raw.get_inputs()[0].name: tensor})

    def shares(self, macs: Mapping[str, int]) -> dict[str, Share]:
        """What every provider computes; nothing where there is one only."""
        return {}


class BoundSession(OrtSession):
    """One on a GPU: its timings have input and outputs bound there, and it knows which provider has which node."""

    def timed_run(self, tensor: NDArray[np.float32]) -> Callable[[], Any]:
        """A run from GPU memory to GPU memory."""
        return BoundRun(self.raw, tensor, "cuda")

    def shares(self, macs: Mapping[str, int]) -> dict[str, Share]:
        """What every provider computes. ``macs``: multiply-accumulates by a node's name."""
        found: dict[str, Share] = {}
        for provider, name, _ in self._assigned():
            before = found.get(provider, Share(0, 0))
            found[provider] = Share(before.nodes + 1, before.macs + macs.get(name, 0))
        return found

    def check_assignment(self) -> None:
        """Raise :class:`LowbitError` that lists the nodes with weights that are not this provider's."""
        elsewhere = [
            f"{name} ({provider})"
            for provider, name, op in self._assigned()
            if provider != self._title and op in INTEGER_OPS | FLOAT_OPS
        ]
        if elsewhere:
            raise LowbitError(
                f"{self._path}: {len(elsewhere)} convolutions and matrix products are not on {self._title}, so its time "
                f"would be another provider's: {', '.join(elsewhere)}."
            )

    def _assigned(self) -> list[tuple[str, str, str]]:
        """Provider, name and op of every node."""
        return [
            (part.ep_name, node.name, node.op_type)
            for part in self.raw.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ]


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


class Provider(Runtime):
    """An execution provider of ONNX Runtime. ``title`` is its name there."""

    packages: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu",)

    def options(self, precision: str, *, weights_only: bool = False, saturates: bool = False) -> SessionOptions:
        """The options with which an artifact of a precision ships."""
        # Without it a session's threads spin on after its run and take the cores from the session that runs next: with
        # two sessions taking turns, both slow down two- to threefold and their ratio is meaningless.
        config: tuple[tuple[str, str], ...] = (("session.force_spinning_stop", "1"),)
        if self.keeps_floats(precision, weights_only):
            config = (*config, ("session.disable_quant_qdq", "1"))
        if self.emulated and saturates:
            config = (*config, PRECISE)
        return SessionOptions(self.name, config=config)

    def keeps_floats(self, precision: str, weights_only: bool) -> bool:
        """Whether Q/DQ pairs are better left alone. ONNX Runtime leaves the DequantizeLinear of a weight for every run, in
        case an integer kernel wants it: where activations are in floating point none will, and folded once it costs
        nothing."""
        return weights_only

    def reason(self) -> str | None:
        """Why this provider can't be used on this machine, with the remedy."""
        import onnxruntime

        if self.title not in onnxruntime.get_available_providers():
            return f"this onnxruntime has no {self.title}; install onnxruntime-gpu"
        return None

    def refuses(self, form: Form) -> str | None:
        """Nothing: what the CPU has no kernels for, it emulates."""
        return None

    def open(self, path: Path, options: SessionOptions) -> OrtSession:
        """Open an ONNX file. Raises :class:`UnavailableError` if the provider is not there or refuses to load,
        :class:`LowbitError` if the file does."""
        if reason := self.reason():
            raise UnavailableError(reason)
        return OrtSession(self.create(path, options), path, self.title)

    def create(self, path: Path, options: SessionOptions) -> onnxruntime.InferenceSession:
        """ONNX Runtime's own session. Raises :class:`LowbitError` with what the provider said."""
        import onnxruntime

        provider = (self.title, dict(options.provider_config))
        try:
            # Without fallback: with it a provider that fails is replaced by the CPU's, now or in a run, and only the
            # terminal tells.
            return onnxruntime.InferenceSession(str(path), _settings(options), providers=[provider], enable_fallback=0)
        except Exception as error:  # ORT's exceptions have no common base of their own
            raise LowbitError(f"{path}: ONNX Runtime can't load it on {self.title} ({str(error)[:300]}).") from error

    def kernels(
        self, path: Path, options: SessionOptions, tensor: NDArray[np.float32], macs: Mapping[str, int]
    ) -> Kernels:
        """Profile one run and read which kernels did the work.

        The profile does not show the shapes of packed weights, so MACs come from the artifact's graph, and kernels find
        their node by its name, which ONNX Runtime keeps as the beginning of the names that it makes.
        """
        with tempfile.TemporaryDirectory() as folder:
            session = self.open(path, replace(options, profile=Path(folder) / "profile"))
            session.run(None, {session.get_inputs()[0].name: tensor})
            events = json.loads(Path(session.raw.end_profiling()).read_text(encoding="utf-8"))
        return replace(read_profile(events, macs), assignment=session.shares(macs))


class Cpu(Provider):
    """ONNX Runtime's CPU provider: the default."""

    name, title = DEFAULT, "CPUExecutionProvider"
    # It divides a tensor among threads and never a sum, so a session of one thread gives the same bits.
    int4, in_turns, pins, emulated = True, False, True, True

    def keeps_floats(self, precision: str, weights_only: bool) -> bool:
        """FP8 too: the provider fuses float8 Q/DQ into ops that it then has no kernels for."""
        return weights_only or precision == "fp8"


class GpuProvider(Provider):
    """One for NVIDIA's GPUs. ``library``: its shared library in ONNX Runtime's package."""

    gpu = True
    library: ClassVar[str]

    def reason(self) -> str | None:
        """Why this provider can't be used on this machine, with the remedy."""
        if gpu() is None:
            return (
                f"{self.title} needs an NVIDIA GPU; the driver shows none to this process (use a machine that has one, "
                "and there make gate or pixi run -e cuda gate)"
            )
        return super().reason() or self.missing()

    def missing(self) -> str | None:
        """Which of its libraries can't be loaded, with the remedy."""
        preload()
        error = self.library_error()
        return (
            f"{self.title} can't be loaded ({error}); torch's build for CUDA 13 brings its libraries ({extras.command('lowbit[torch]')})"
            if error
            else None
        )

    def refuses(self, form: Form) -> str | None:
        """FP8 on GPUs without kernels for it."""
        device = gpu()
        computes = device.compute_capability if device else None
        if form.precision == "fp8" and device and computes and computes < 8.9:
            return f"FP8 kernels need compute capability 8.9; {device.name} has {computes}"
        return None

    def open(self, path: Path, options: SessionOptions) -> OrtSession:
        """Raises :class:`LowbitError` too if nodes with weights were given to another provider."""
        if reason := self.reason():
            raise UnavailableError(reason)
        session = BoundSession(self.create(path, options), path, self.title)
        session.check_assignment()
        return session

    def create(self, path: Path, options: SessionOptions) -> onnxruntime.InferenceSession:
        """The session, which has this provider for sure. Raises :class:`UnavailableError` if it does not start."""
        try:
            raw = super().create(path, replace(options, config=(*options.config, RECORD_ASSIGNMENT)))
        except LowbitError as error:
            if why := self.library_error():
                raise UnavailableError(f"{self.title} can't be loaded ({why}). {error}") from error
            raise
        if self.title not in raw.get_providers():
            # ONNX Runtime leaves out a provider whose library does not load, and tells its log only.
            why = self.library_error() or "ONNX Runtime's log says why"
            raise UnavailableError(f"{self.title} is built in but did not start ({why}).")
        return raw

    def library_error(self) -> str | None:
        """What the dynamic linker says of the provider's library; None if it loads."""
        import onnxruntime

        return load_error(str(Path(onnxruntime.__file__).parent / "capi" / self.library))


class Cuda(GpuProvider):
    """ONNX Runtime's CUDA provider."""

    name, title, library = "cuda", "CUDAExecutionProvider", "libonnxruntime_providers_cuda.so"

    def with_tf32(self, options: SessionOptions, on: bool) -> SessionOptions:
        """Stated in any case: ONNX Runtime's default is on, and an FP32 row should say so."""
        return replace(options, provider_config=(*options.provider_config, ("use_tf32", str(int(on)))))


RUNTIMES: tuple[Runtime, ...] = (Cpu(), Cuda())


@functools.cache
def preload() -> None:
    """Load CUDA and cuDNN from the wheels that pip installs, once."""
    import onnxruntime

    onnxruntime.preload_dlls()


def load_error(library: str) -> str | None:
    """What the dynamic linker says of a shared library, None if it loads."""
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return None


def _settings(options: SessionOptions) -> onnxruntime.SessionOptions:
    import onnxruntime

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
    return settings


def read_profile(events: Sequence[dict[str, Any]], macs: Mapping[str, int]) -> Kernels:
    """What a profile's events say; ``macs``: a node's name or output to its MACs.

    Where one weighted node has no known MACs, the share of integer ones is not known either.
    """
    providers: dict[str, str] = {}
    ran: dict[str, tuple[str, int]] = {}
    hidden = False
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") != "Node" or not event.get("name", "").endswith("_kernel_time"):
            continue
        op, name = arguments.get("op_name", ""), event["name"].removesuffix("_kernel_time")
        providers[name] = arguments.get("provider", "")
        hidden |= op.startswith("TRTKernel")
        if op in INTEGER_OPS or op in FLOAT_OPS:
            origin = max((known for known in macs if name.startswith(known)), key=len, default=None)
            hidden |= origin is None
            ran[name] = (op, macs[origin] if origin else 0)
    total = sum(count for _, count in ran.values())
    integer = sum(count for op, count in ran.values() if op in INTEGER_OPS)
    floating = sorted(((count, name) for name, (op, count) in ran.items() if op in FLOAT_OPS), reverse=True)
    return Kernels(
        None if hidden or not total else integer / total,
        tuple(name for _, name in floating),
        dict(Counter(providers.values())),
    )
