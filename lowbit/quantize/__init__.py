"""One module a tool, each with its :class:`Tool`, ``TOOL``. Other packages bring theirs by an entry point
(:mod:`lowbit.plugins`).

A build runs in a process of its own (``python -m lowbit.quantize FOLDER``); it may print, crash and take memory as it likes.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowbit import plugins
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet
from lowbit.errors import InputError
from lowbit.progress import Progress, Step


@dataclass(frozen=True)
class Job:
    """What one build gets. ``source``: FP32 ONNX or checkpoint; ``output``: the ONNX file to write.

    ``training``: images to recover accuracy on, ``training_labels``: the data set that labels them, if the settings
    use labels, and ``training_classes``, its category of every class. ``start``: the folder of the artifact that this one
    starts from, if the settings name one. ``unfinished``: a folder that outlives an interrupted build, for what the next
    one can resume from. ``trust``: whether ``source`` may be unpickled whatever its origin.
    """

    scheme: str
    settings: dict[str, Any]
    source: Path
    identity: dict[str, Any]
    input: InputSpec
    calibration: CalibrationSet
    output: Path
    unfinished: Path
    progress: Progress
    training: tuple[Path, ...] = ()
    training_labels: Path | None = None
    training_classes: tuple[int, ...] = ()
    start: Path | None = None
    trust: bool = False


@dataclass(frozen=True)
class Promises:
    """What a tool's artifacts hold. The suite's tests of structure hold them to it.

    ``symmetric``: every zero point is 0, so that runtimes which take no others can execute them. ``activations``: ONNX
    dtypes that quantized inputs of convolutions may have. ``weights``: dtypes of quantized weights, where they are not the
    one that the scheme's bits say. ``integer_ops``: what is quantized wherever it feeds no node kept in float.
    ``torch_parity``: the manifest's field of that name compares the graph with the quantized torch module.
    ``keeps_scales``: every scale of the artifact that it starts from is kept.
    """

    symmetric: bool
    activations: frozenset[str] = frozenset({"INT8", "UINT8"})
    weights: frozenset[str] | None = None
    integer_ops: frozenset[str] = frozenset()
    torch_parity: bool = False
    keeps_scales: bool = False


@dataclass(frozen=True)
class Tool:
    """What makes artifacts.

    ``build`` writes ``job.output`` and returns what the manifest should know beyond the settings (JSON-able).
    ``takes_checkpoint``: it quantizes the detector's torch module, not its FP32 ONNX, and may learn from training images.
    ``needs``: modules that it imports beyond what lowbit's core installs, each with what to give to pip. ``packages``: distributions that
    shape its output though it does not import them, because one that it imports uses them. ``crosscheck``: it is there for
    a second opinion, put beside ModelOpt's.
    """

    build: Callable[[Job], dict[str, Any]]
    promises: Promises
    takes_checkpoint: bool = False
    needs: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    crosscheck: bool = False

    def promised(self, settings: Mapping[str, Any]) -> Promises:
        """What artifacts of these settings hold: ``symmetric`` among them makes activations INT8 with zero point 0."""
        if settings.get("symmetric"):
            return replace(self.promises, symmetric=True, activations=frozenset({"INT8"}))
        return self.promises


class CalibrationReader:
    """The calibration reader of ONNX Runtime's quantizer and of ModelOpt: one image at a time, nothing kept."""

    def __init__(self, job: Job, input_name: str) -> None:
        self._job = job
        self._input = input_name
        self.set_range(0, len(self))

    def __len__(self) -> int:
        return len(self._job.calibration.paths)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read images ``start_index`` up to but not including ``end_index`` next."""
        paths = self._job.calibration.paths[start_index:end_index]
        self._stream: Iterator[NDArray[np.float32]] = CalibrationSet(self._job.calibration.source, paths).batches(
            self._job.input
        )
        self._done = start_index

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next input, ``{name: float32 [1, 3, size, size]}``, or None at the end."""
        batch = next(self._stream, None)
        if batch is None:
            return None
        self._done += 1
        self._job.progress(Step("calibrating", self._done, len(self), "images"))
        return {self._input: batch}

    def get_first(self) -> dict[str, NDArray[np.float32]]:
        """The first input, without moving on (ModelOpt probes shapes with it)."""
        return {self._input: next(self._job.calibration.batches(self._job.input))}

    def rewind(self) -> None:
        """Start again from the first image."""
        self.set_range(0, len(self))


def tool(name: str) -> Tool:
    """A tool by its name, or by the dotted name of its module.

    Raises :class:`InputError` for an unknown tool and for a module without one.
    """
    known = module_of(name)
    module = plugins.load(name) if name in plugins.modules() else importlib.import_module(known)
    found = getattr(module, "TOOL", None)
    if not isinstance(found, Tool):
        raise InputError(f"{module.__name__}: has no TOOL, a lowbit.quantize.Tool (docs/extending.md).")
    return found


def module_of(name: str) -> str:
    """The name of a tool's module. Raises :class:`InputError` for an unknown tool, and for a name that is taken."""
    if "." in name:
        return name
    own = f"{__name__}.{name}"
    found = [module for module in (importlib.util.find_spec(own) and own, plugins.modules().get(name)) if module]
    if not found:
        raise InputError(f"there is no tool {name!r}. Is the package that brings it installed?")
    if len(found) > 1:
        raise InputError(f"{found[1]}: its tool is named {name!r}, as a module of lowbit's. Give it another name.")
    return found[0]
