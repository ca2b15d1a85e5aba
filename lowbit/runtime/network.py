"""An artifact as a strongly typed TensorRT network: parsed and built, by TensorRT itself or by TensorRT for RTX.

The network is strongly typed: TensorRT keeps the types that the graph states, Q/DQ pairs and casts included, and is free
in tactics only. That is what ``--precisionConstraints=obey`` asks for layer by layer, and the only mode of TensorRT 11.

TensorRT for RTX (https://docs.nvidia.com/deeplearning/tensorrt-rtx/) has the same parser and the same interface, and it
parses and builds without a GPU: it leaves tactics to the machine that runs the engine.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from lowbit import extras
from lowbit.errors import UnavailableError
from lowbit.runtime.base import Form


def unparsable(form: Form) -> str | None:
    """Why TensorRT's parser refuses artifacts of a form, on whatever GPU; None if it takes them."""
    if form.activation_bits == 8 and not form.symmetric:
        return "TensorRT takes symmetric Q/DQ only, and this tool's activations have zero points"
    return None


def rtx_reason() -> str | None:
    """Why TensorRT for RTX is not there, with the remedy; None if it is."""
    reason = extras.missing({"tensorrt_rtx": "lowbit[tensorrt-rtx]"})
    return f"TensorRT's parser without a GPU {reason}" if reason else None


def rtx() -> ModuleType:
    """TensorRT for RTX. Raises :class:`UnavailableError` where :func:`rtx_reason` has one."""
    if why := rtx_reason():
        raise UnavailableError(why)
    import tensorrt_rtx

    return tensorrt_rtx


class Network:
    """An ONNX file, parsed. ``api``: the module ``tensorrt`` or ``tensorrt_rtx``. ``log``: its warnings and errors.

    Raises :class:`UnavailableError` for a file that the parser refuses, with its own words.
    """

    def __init__(self, api: ModuleType, path: Path) -> None:
        self.api, self.log, self._path = api, list[str](), path
        self.logger = _logger(api, self.log)
        self.builder = api.Builder(self.logger)
        self.definition = self.builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = api.OnnxParser(self.definition, self.logger)
        if not parser.parse_from_file(str(path)):
            said = "; ".join(parser.get_error(number).desc() for number in range(parser.num_errors))
            raise UnavailableError(f"{path}: TensorRT {api.__version__} does not take it ({said[:300]})")
        self._parser = parser  # it owns the weights

    def config(self) -> Any:
        """A builder's configuration, whose engines tell everything about their layers."""
        found = self.builder.create_builder_config()
        found.profiling_verbosity = self.api.ProfilingVerbosity.DETAILED
        return found

    def build(self, config: Any) -> bytes:
        """The engine, serialized. Raises :class:`UnavailableError` if there are no kernels for it, with the log's end."""
        plan = self.builder.build_serialized_network(self.definition, config)
        if plan is None:
            said = " ".join(self.log[-3:])[-300:]
            raise UnavailableError(f"{self._path}: TensorRT {self.api.__version__} found no kernels for it ({said})")
        return bytes(plan)

    def convolution_types(self) -> dict[str, str]:
        """What every convolution gives, by its name: ``FLOAT``, ``HALF``."""
        layers = (self.definition.get_layer(number) for number in range(self.definition.num_layers))
        found = (layer for layer in layers if layer.type == self.api.LayerType.CONVOLUTION)
        return {layer.name: layer.get_output(0).dtype.name for layer in found}


def _logger(api: ModuleType, lines: list[str]) -> Any:
    class Logger(api.ILogger):  # type: ignore[misc, name-defined]  # a class of a module that is a value
        """Keeps what the terminal would show."""

        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            if severity <= api.ILogger.WARNING:
                lines.append(message)

    return Logger()
