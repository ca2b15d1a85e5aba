"""What every runtime says of itself, and what it does.

To add one, write a module of this package that names its runtimes in ``RUNTIMES``. Nothing else knows it by name.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from lowbit.runtime.options import SessionOptions, one_a_core


@dataclass(frozen=True, slots=True)
class Form:
    """What an artifact asks of a runtime.

    ``precision``: the first word of its scheme's id. ``weight_bits``, ``activation_bits``: of what is quantized, 16 and 32
    for floating point. ``symmetric``: whether every zero point is 0.
    """

    precision: str
    weight_bits: int
    activation_bits: int
    symmetric: bool


@dataclass(frozen=True, slots=True)
class Share:
    """What one execution provider computes of a graph: how many nodes, and their multiply-accumulates."""

    nodes: int
    macs: int


@dataclass(frozen=True, slots=True)
class Kernels:
    """Which kernels a session ran. ``int8_mac_fraction``: share of the multiply-accumulates of convolutions and matrix
    products that ran as integer kernels; ``None`` where a runtime hides its kernels. ``float_nodes``: weighted nodes
    that ran in float, largest first. ``providers``: nodes a provider ran. ``assignment``: what each provider was given of
    the optimized graph; empty where a runtime has one provider only."""

    int8_mac_fraction: float | None
    float_nodes: tuple[str, ...]
    providers: dict[str, int]
    assignment: dict[str, Share] = field(default_factory=dict)


class Named(Protocol):
    """A tensor of a graph's interface."""

    @property
    def name(self) -> str:
        """Its name in the graph."""


class Session(Protocol):
    """An artifact, opened: the part of ONNX Runtime's session interface that lowbit uses, and a run to be timed."""

    def get_inputs(self) -> Sequence[Named]:
        """The inputs, in the graph's order."""

    def run(self, names: Sequence[str] | None, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these names, or all, for ``feed``, a tensor an input. Raises :class:`LowbitError`."""

    def timed_run(self, tensor: NDArray[np.float32]) -> Callable[[], Any]:
        """What a timing repeats on ``tensor``, float32 [n, 3, S, S]: on a GPU without copies from and to the host, which
        belong to the pipeline around it."""


class Runtime(abc.ABC):
    """One way to execute an artifact; an instance has no state.

    ``name``: the last part of test ids, and what results call it. ``title``: its full name. ``gpu``: needs an NVIDIA GPU.
    ``packages``: distributions whose versions belong to its numbers. ``int4``: reads 4-bit weights; others get their INT8
    form. ``times_fp8``: runs FP8 at a speed that says something. ``hides_kernels``: does not tell which kernels ran.
    ``in_turns``: a session takes one image at a time. ``pins``: places its threads on processors that lowbit chooses.
    ``compiles``: takes minutes to compile an artifact, and keeps what comes of it in the options' ``cache``.
    ``emulated``: :mod:`lowbit.measure.emulation` computes what its integer kernels do.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    gpu: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ()
    int4: ClassVar[bool] = False
    times_fp8: ClassVar[bool] = False
    hides_kernels: ClassVar[bool] = False
    in_turns: ClassVar[bool] = True
    pins: ClassVar[bool] = False
    compiles: ClassVar[bool] = False
    emulated: ClassVar[bool] = False

    def __repr__(self) -> str:
        return self.name

    @abc.abstractmethod
    def reason(self) -> str | None:
        """Why it can't be used on this machine, with the remedy; None if it can."""

    @abc.abstractmethod
    def refuses(self, form: Form) -> str | None:
        """Why it can't execute artifacts of a form, wherever it runs; None if it can."""

    @abc.abstractmethod
    def options(self, precision: str, *, weights_only: bool = False, saturates: bool = False) -> SessionOptions:
        """The options with which an artifact of a precision ships. ``weights_only``: its activations are in floating
        point. ``saturates``: its weights allow sums that kernels of this processor lose
        (:func:`lowbit.measure.emulation.saturates_here`), so that it must run without those kernels."""

    @abc.abstractmethod
    def open(self, path: Path, options: SessionOptions) -> Session:
        """Open an ONNX file. Raises :class:`UnavailableError` if the runtime can't be used here, :class:`LowbitError` if it
        does not take the file."""

    @abc.abstractmethod
    def kernels(
        self, path: Path, options: SessionOptions, tensor: NDArray[np.float32], macs: Mapping[str, int]
    ) -> Kernels:
        """Run an ONNX file and tell which kernels did the work. ``macs``: multiply-accumulates by a node's name or its
        output's."""

    def with_tf32(self, options: SessionOptions, on: bool) -> SessionOptions:
        """The same with FP32 convolutions and matrix products in TF32, or not, where the runtime may do either. Raises
        :class:`UnavailableError` where it can't be told to leave TF32."""
        return options

    def for_timing(self, options: SessionOptions) -> SessionOptions:
        """The same with a processor for every thread: threads that wander between cores wander in time."""
        return replace(options, cores=one_a_core(options.threads)) if self.pins else options

    def for_many(self, options: SessionOptions) -> SessionOptions:
        """The options with which a session sees many images soonest: one thread an image, unless it takes one at a time."""
        return options if self.in_turns else replace(options, threads=1)
