"""Parity: does an artifact, as deployed, compute what its graph says?

The raw head of the deployed session is compared with that of ONNX Runtime without graph optimization on the CPU, image
by image. Two correct executions of a Q/DQ graph differ too: a difference in the last digit changes a rounding, which
changes others. How much is normal depends on the graph (60 dB or 13 dB). It is measured with the same graph,
unoptimized, whose biases are changed by a millionth. That SQNR is the artifact's rounding floor; a result below it is a
fault.

Rounding errors have either sign. A fault does not: kernels that saturate, a wrong scale and swapped channels shift a
channel in one direction. So the mean of every channel over all positions and images is compared too, because rounding
errors cancel in it. This is done for the raw head and for every convolution whose integers can be read, to find where a
fault begins. The detections are compared for what follows the raw head.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.detector.head import Head
from lowbit.errors import LowbitError
from lowbit.measure.comparison import MIN_AGREEMENT, agreement
from lowbit.runtime import Session, SessionOptions, open_session

if TYPE_CHECKING:
    import onnx

# Images that the guard runs.
IMAGES = 16
# What 999 dB stands for: no difference at all.
_EQUAL_DB = 999.0
# Beyond it two executions differ by float arithmetic's own rounding, however far a nudge goes.
FLOAT_DB = 60.0
# How far below its floor an artifact may lie, in dB: the heads themselves, and means of channels.
HEAD_SLACK_DB, MEAN_SLACK_DB = 3.0, 3.0
# Means that are nearer than this are no fault, however regular: a kernel may round halves its own way.
MEAN_DB = 45.0
# From which ratio on a difference of means is no accident.
SAME_IN_EVERY_IMAGE = 6.0
# What to try when an optimized session is wrong, and how to say it.
_SUSPECTS: tuple[tuple[str, tuple[str, str]], ...] = (
    ("session.qdqisint8allowed=1 (keeps S8 activations from being rewritten to U8)", ("session.qdqisint8allowed", "1")),
    ("session.x64quantprecision=1 (keeps 8-bit products from saturating)", ("session.x64quantprecision", "1")),
    (
        "session.disable_quant_qdq=1 (keeps Q/DQ from being fused into integer kernels)",
        ("session.disable_quant_qdq", "1"),
    ),
)


@dataclass(frozen=True, slots=True)
class Departure:
    """How far the means of a tensor's channels are from the graph's. ``mean_db``: power of the tensor over that of the
    means' differences, in dB; ``floor_db``: what the artifact's rounding alone does; ``ratio``: the differences' squares over
    those of their standard errors, by the spread from image to image: about 1 for roundings, which are of either sign."""

    mean_db: float
    floor_db: float
    ratio: float

    @property
    def least(self) -> float:
        """The least ``mean_db`` that is no fault."""
        return min(self.floor_db - MEAN_SLACK_DB, MEAN_DB)

    @property
    def fault(self) -> bool:
        """Whether it is both too far and the same in every image."""
        return self.mean_db < self.least and self.ratio > SAME_IN_EVERY_IMAGE


@dataclass(frozen=True, slots=True)
class Parity:
    """What the guard found, on ``images`` images. ``sqnr_db`` of the deployed raw head, and ``floor_db`` of the artifact
    with its biases changed, 999 dB at most; ``head``: of the raw head's channels; ``layers``: of every convolution that can
    be read, by name, in the graph's order. ``agreement``: share of the ``detections`` that both executions see, None where
    there is none."""

    sqnr_db: float
    floor_db: float
    head: Departure
    layers: dict[str, Departure]
    agreement: float | None
    detections: int
    images: int

    @property
    def worst_layer(self) -> tuple[str, Departure] | None:
        """The layer furthest below its bound, None without layers."""
        return min(self.layers.items(), key=lambda item: item[1].mean_db - item[1].least, default=None)

    @property
    def faults(self) -> list[str]:
        """What lies below its bound, in words; nothing for an artifact that computes what its graph says."""
        least = min(self.floor_db, FLOAT_DB) - HEAD_SLACK_DB
        found = []
        if self.sqnr_db < least:
            found.append(
                f"the raw head is {self.sqnr_db:.1f} dB from the graph's, at least {least:.1f} dB are expected"
            )
        for name, one in {"the raw head": self.head, **self.layers}.items():
            if one.fault:
                found.append(
                    f"the means of the channels of {name} are {one.mean_db:.1f} dB from the graph's, at least "
                    f"{one.least:.1f} dB are expected"
                )
        # The layer where it begins is the first one; those behind it follow from it.
        found = found[:3]
        if self.agreement is not None and self.agreement < MIN_AGREEMENT:
            found.append(f"only {self.agreement:.0%} of {self.detections} confident detections agree")
        return found


@dataclass(frozen=True, slots=True)
class Executed:
    """What one execution of a detector gave for one input: the ``outputs`` in the graph's order, and in float what can be
    read of convolutions, by name; among them the raw head's."""

    outputs: list[NDArray[Any]]
    layers: dict[str, NDArray[np.float32]]


class Execution(Protocol):
    """Something that executes a detector."""

    def run(self, tensor: NDArray[np.float32]) -> Executed:
        """One input, float32 [1, 3, height, width]."""


def check_parity(
    path: Path, deployed: Session, options: SessionOptions, head: Head, inputs: Sequence[NDArray[np.float32]]
) -> Parity:
    """Compare an artifact as ``deployed`` with the same file unoptimized.

    ``inputs``: float32 [1, 3, height, width] each, of images that have objects. Raises :class:`LowbitError` if they
    differ by more than rounding; its text names the known session option that avoids the difference, if one does. This
    has happened: the S8-to-U8 rewrite of ONNX Runtime 1.24.4 lowers the AP of a QCDQ graph from 0.39 to 0.03 without an
    error.
    """
    model = graph.load(path)
    with tempfile.TemporaryDirectory() as folder:
        found = compare(model, FileExecution(model, options, Path(folder), deployed), head, inputs)
        if not found.faults:
            return found
        cures = []
        for said, entry in _SUSPECTS:
            with contextlib.suppress(LowbitError):  # some graphs do not load with some options
                other = FileExecution(model, replace(options, config=(*options.config, entry)), Path(folder))
                if not compare(model, other, head, inputs).faults:
                    cures.append(said)
    advice = f"{' or '.join(cures)} avoids it." if cures else "No known session option avoids it."
    raise LowbitError(
        f"{path}: the deployed session options change what the detector sees: {'; '.join(found.faults)}. {advice}"
    )


def compare(model: onnx.ModelProto, deployed: Execution, head: Head, inputs: Sequence[NDArray[np.float32]]) -> Parity:
    """Compare an execution of a model with ONNX Runtime's on the CPU without optimization."""
    plain = SessionOptions(optimized=False)
    heads = [node.name for node in graph.last_convolutions(model)]
    whole, whole_floor = Differences(), Differences()
    layers: dict[str, tuple[Differences, Differences]] = {}
    seen, seen_plain = [], []
    with tempfile.TemporaryDirectory() as folder:
        reference = FileExecution(model, plain, Path(folder))
        other = FileExecution(graph.nudged(model), plain, Path(folder))
        for tensor in inputs:
            wanted, given, moved = reference.run(tensor), deployed.run(tensor), other.run(tensor)
            for name in (name for name in wanted.layers if name in given.layers):
                sums = layers.setdefault(name, (Differences(), Differences()))
                for one, layer in zip(sums, (given.layers[name], moved.layers[name]), strict=True):
                    one.add([wanted.layers[name]], [layer])
            for one, values in ((whole, given.layers), (whole_floor, moved.layers)):
                one.add([wanted.layers[name] for name in heads], [values[name] for name in heads])
            seen_plain.append(head.decode(wanted.outputs))
            seen.append(head.decode(given.outputs))
    same = agreement(seen, seen_plain)
    return Parity(
        whole.sqnr_db,
        whole_floor.sqnr_db,
        Departure(whole.mean_db, whole_floor.mean_db, whole.ratio),
        {name: Departure(one.mean_db, floor.mean_db, one.ratio) for name, (one, floor) in layers.items()},
        same.share,
        same.detections,
        len(inputs),
    )


class Differences:
    """How far raw heads are from reference ones, summed up image by image."""

    def __init__(self) -> None:
        self._tensors: list[_Sums] = []

    def add(self, reference: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]]) -> None:
        """Take the heads of one more image. Raises :class:`LowbitError` if their shapes differ."""
        shapes = [[tensor.shape for tensor in head] for head in (reference, other)]
        if shapes[0] != shapes[1]:
            raise LowbitError(f"two raw heads can't be compared: their shapes are {shapes[0]} and {shapes[1]}.")
        self._tensors = self._tensors or [_Sums() for _ in reference]
        for sums, one, two in zip(self._tensors, reference, other, strict=True):
            sums.add(one, two)

    @property
    def sqnr_db(self) -> float:
        """10 log10 of the reference's power around each tensor's mean over the difference's, over all tensors."""
        return decibels(self.power, self.noise)

    @property
    def power(self) -> float:
        """The reference's around each tensor's mean, summed over all numbers."""
        return sum(t.power for t in self._tensors)

    @property
    def noise(self) -> float:
        """The differences'."""
        return sum(t.noise for t in self._tensors)

    @property
    def mean_db(self) -> float:
        """The same, where the difference is the mean of every channel's, over all positions and images."""
        return decibels(self.power, sum(t.shift for t in self._tensors))

    @property
    def ratio(self) -> float:
        """As :class:`Departure` says; 0 where nothing differs."""
        shift, chance = (sum(getattr(t, name) for t in self._tensors) for name in ("shift", "chance"))
        return float(shift / max(chance, 1e-300)) if shift else 0.0


class _Sums:
    """What is summed up of one tensor, in double precision; channels are the second axis of an image's tensor, the last one
    of a row's."""

    def __init__(self) -> None:
        self._count = self._total = self._squares = self.noise = 0.0
        self._means: list[NDArray[np.float64]] = []

    def add(self, reference: NDArray[np.float32], other: NDArray[np.float32]) -> None:
        difference = other - reference
        self._count += reference.size
        self._total += float(reference.sum(dtype=float))
        self._squares += float(np.square(reference, dtype=float).sum())
        self.noise += float(np.square(difference, dtype=float).sum())
        channel = 1 if difference.ndim == 4 else difference.ndim - 1
        axes = tuple(axis for axis in range(difference.ndim) if axis != channel)
        self._means.append(difference.mean(axes, dtype=float))

    @property
    def power(self) -> float:
        return float(self._squares - self._total**2 / self._count)

    @property
    def shift(self) -> float:
        """What the noise would be if every channel were off by its mean difference everywhere."""
        return self._spread_out(np.square(np.mean(self._means, 0)))

    @property
    def chance(self) -> float:
        """The same of the standard errors of these means; all of it where one image tells nothing of a spread."""
        if len(self._means) < 2:
            return self.shift
        return self._spread_out(np.var(self._means, 0, ddof=1) / len(self._means))

    def _spread_out(self, squares: NDArray[np.float64]) -> float:
        return float(squares.sum() * self._count / len(squares))


def decibels(power: float, noise: float) -> float:
    """10 log10 of their ratio; at most 999, which stands for no noise at all."""
    return _EQUAL_DB if noise == 0 else min(10 * float(np.log10(max(power, 1e-300) / noise)), _EQUAL_DB)


class FileExecution:
    """A session of a model that gives what can be read of its convolutions beside its outputs.

    ``folder``: where the file with these outputs is written; the session has read it when this returns. ``deployed``: the
    session that the outputs are taken from, if there is one already: it has none but its own.
    """

    def __init__(
        self, model: onnx.ModelProto, options: SessionOptions, folder: Path, deployed: Session | None = None
    ) -> None:
        import onnx

        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        self._given = [value.name for value in model.graph.output]
        self._layers = graph.deployed_outputs(model)
        self._read = [name for name, _ in self._layers.values() if name not in self._given]
        copied.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in self._read)
        onnx.save(copied, str(folder / "layers.onnx"))
        self._session, self._deployed = open_session(folder / "layers.onnx", options), deployed
        self._feed = self._session.get_inputs()[0].name

    def run(self, tensor: NDArray[np.float32]) -> Executed:
        """As :class:`Execution` says."""
        names = [*self._given, *self._read]
        values = dict(zip(names, self._session.run(names, {self._feed: tensor}), strict=True))
        layers = {name: _dequantized(values[place], quantizer) for name, (place, quantizer) in self._layers.items()}
        if self._deployed is not None:
            return Executed(self._deployed.run(None, {self._feed: tensor}), layers)
        return Executed([values[name] for name in self._given], layers)


def _dequantized(values: NDArray[Any], quantizer: graph.Quantizer | None) -> NDArray[np.float32]:
    if quantizer is None:
        return values.astype(np.float32)
    scale, zero = quantizer
    moved = values.astype(np.float32) + (128 if values.dtype == np.int8 else 0)
    return np.asarray((moved - zero) * scale, np.float32)
