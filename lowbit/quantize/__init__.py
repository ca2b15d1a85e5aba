"""One module a tool, each with one ``build(job)``, and with what others ask of it: ``PACKAGES`` (what shapes its output
though it is not imported here, because a package that is imported here uses it), ``NEEDS`` (the modules that it imports
beyond lowbit's own, each with what to give to pip) and ``SYMMETRIC`` (whether every zero point of its artifacts is 0).

A tool gets the detector's FP32 ONNX, or, if it is one of :data:`TORCH_TOOLS`, its checkpoint.

``build`` writes ``job.output`` and returns what the manifest should know beyond the settings. It runs in a process of
its own (``python -m lowbit.quantize FOLDER``); it may print, crash and take memory as it likes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet
from lowbit.progress import Progress, Step

# Tools that quantize the torch module: their request names the detector, and they may learn from training images.
TORCH_TOOLS = frozenset({"brevitas"})
# Optional extras: second opinions, put beside ModelOpt's.
CROSSCHECK_TOOLS = frozenset({"nncf", "inc"})


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


def tool(name: str) -> Any:
    """The module of a tool: one of this package, or anybody's by its dotted name.

    Raises ``ImportError`` for an unknown tool or one whose packages are missing.
    """
    return importlib.import_module(module_of(name))


def module_of(name: str) -> str:
    """The name of a tool's module."""
    return name if "." in name else f"{__name__}.{name}"
