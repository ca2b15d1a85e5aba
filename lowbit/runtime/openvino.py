"""OpenVINO on the CPU, an optional extra: ``pip install 'lowbit[openvino]'``."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowbit import extras
from lowbit.errors import LowbitError, UnavailableError
from lowbit.runtime.base import Form, Kernels, Named, Runtime
from lowbit.runtime.options import SessionOptions

# Layers of an executed model whose multiply-accumulates count; fully connected ones are matrix products by a constant.
_WEIGHTED = frozenset({"Convolution", "GroupConvolution", "Deconvolution", "MatMul", "FullyConnected"})
_INTEGERS = frozenset({"i8", "u8"})


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str


class OpenVinoSession:
    """A compiled model with one request, which takes one image at a time."""

    def __init__(self, compiled: Any, path: Path) -> None:
        self._compiled, self._path = compiled, path
        self._request = compiled.create_infer_request()

    def get_inputs(self) -> Sequence[Named]:
        """The inputs, in the graph's order."""
        return [_Tensor(tensor.any_name) for tensor in self._compiled.inputs]

    def run(self, names: Sequence[str] | None, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these names, or all. Raises :class:`LowbitError`."""
        try:
            self._request.infer(dict(feed))
        except RuntimeError as error:
            raise LowbitError(f"{self._path}: OpenVINO failed in a run ({str(error)[:300]}).") from error
        outputs = [self._compiled.output(name) for name in names] if names else self._compiled.outputs
        return [self._request.get_tensor(output).data.copy() for output in outputs]

    def timed_run(self, tensor: NDArray[np.float32]) -> Callable[[], Any]:
        """A run from host memory to host memory."""
        return functools.partial(self.run, None, {self.get_inputs()[0].name: tensor})


class OpenVino(Runtime):
    """OpenVINO's CPU plugin."""

    name, title = "openvino", "OpenVINO"
    packages = ("openvino",)

    def reason(self) -> str | None:
        """Why it can't be used on this machine, with the remedy."""
        reason = extras.missing({"openvino": "lowbit[openvino]"})
        return f"{self.title} {reason}" if reason else None

    def refuses(self, form: Form) -> str | None:
        """What it would compute in FP32, so that the result says nothing of the scheme, or computes wrong."""
        if form.precision in ("fp16", "fp8"):
            return f"{self.title} on the CPU has no {form.precision.upper()} kernels: it computes such files in FP32"
        if form.weight_bits == 4:
            return f"{self.title} on the CPU has no kernels for 4-bit weights of convolutions"
        if form.activation_bits == 8 and form.symmetric:
            # Measured with 2026.4.1: the raw head of int8-modelopt-entropy has 1 dB of SQNR against ONNX Runtime without
            # optimization, and 26 dB once the same file's zero points are 128.
            return (
                f"{self.title} miscomputes a Concat of signed INT8 activations; their unsigned form (...-cpu) is right"
            )
        return None

    def options(self, precision: str, *, weights_only: bool = False, saturates: bool = False) -> SessionOptions:
        """The properties with which an artifact ships: in single precision where the file says so. By itself the plugin
        takes BF16 on processors that have it, and the same file would give other detections on them."""
        properties = (
            ("INFERENCE_PRECISION_HINT", "f32"),
            ("PERFORMANCE_HINT", "LATENCY"),
            ("ENABLE_CPU_PINNING", "YES"),
        )
        return SessionOptions(self.name, provider_config=properties)

    def open(self, path: Path, options: SessionOptions) -> OpenVinoSession:
        """Compile an ONNX file. Raises :class:`UnavailableError` without OpenVINO, :class:`LowbitError` for a file that it
        does not take, with its own words."""
        return OpenVinoSession(self._compile(path, options), path)

    def _compile(self, path: Path, options: SessionOptions, **properties: str) -> Any:
        if reason := self.reason():
            raise UnavailableError(reason)
        import openvino

        chosen = {**dict(options.provider_config), "INFERENCE_NUM_THREADS": options.threads, **properties}
        try:
            return openvino.Core().compile_model(str(path), "CPU", chosen)
        except RuntimeError as error:
            raise LowbitError(f"{path}: OpenVINO can't load it ({str(error)[:300]}).") from error

    def kernels(
        self, path: Path, options: SessionOptions, tensor: NDArray[np.float32], macs: Mapping[str, int]
    ) -> Kernels:
        """Read the executed model. A layer knows the nodes that it was made of, and the type that it computes in."""
        compiled = self._compile(path, options)
        layers = [_information(layer) for layer in compiled.get_runtime_model().get_ops()]
        weighted = [(layer, _macs(layer, macs)) for layer in layers if layer["layerType"] in _WEIGHTED]
        total = sum(count for _, count in weighted)
        integer = sum(count for layer, count in weighted if layer["runtimePrecision"] in _INTEGERS)
        floating = [(count, layer["name"]) for layer, count in weighted if layer["runtimePrecision"] not in _INTEGERS]
        return Kernels(
            integer / total if total else None,
            tuple(name for _, name in sorted(floating, reverse=True)),
            dict(Counter(self.title for layer in layers if layer["layerType"] != "Const")),
        )


RUNTIMES: tuple[Runtime, ...] = (OpenVino(),)


def _information(layer: Any) -> dict[str, str]:
    """What the executed model says of a layer, and its name."""
    said = {key: str(value.value) for key, value in layer.get_rt_info().items()}
    return {**said, "name": layer.get_friendly_name()}


def _macs(layer: Mapping[str, str], macs: Mapping[str, int]) -> int:
    """The multiply-accumulates of the nodes that a layer was made of."""
    return sum(macs.get(name, 0) for name in set(layer["originalLayersNames"].split(",")))
