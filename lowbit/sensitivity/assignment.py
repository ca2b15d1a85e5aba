"""The candidates of a bit allocation. Each is an artifact: it is built, opened with its deployed session options, and
measured.

There are two kinds. Weights only, for size: INT4, INT8, FP8 or float, stored in that dtype. Integers, for speed: a
convolution and the ops around it run in ONNX Runtime's integer kernels, or in float. Noise is measured on the first
calibration images, agreement with the float graph on the ones after them. Evaluation data are never used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lowbit import graph, runtime
from lowbit.data.letterbox import InputSpec
from lowbit.detector.head import Head
from lowbit.errors import InputError, UnavailableError
from lowbit.graph import layout
from lowbit.progress import Progress
from lowbit.sensitivity import bit_allocation, fake_quant, layerwise

if TYPE_CHECKING:
    import onnx

NOISE_IMAGES, AGREEMENT_IMAGES = 8, 32


def split(images: Sequence[Path]) -> tuple[Sequence[Path], Sequence[Path]]:
    """Images for noise, and others for agreement. Raises :class:`InputError` for fewer than four."""
    if len(images) < 4:
        raise InputError(f"{len(images)} calibration images; a search needs four or more.")
    first = min(NOISE_IMAGES, len(images) // 2)
    return images[:first], images[first : first + AGREEMENT_IMAGES]


def held_out(path: Path, head: Head, spec: InputSpec, images: Sequence[Path]) -> fake_quant.FloatGraph:
    """The float graph on the images for agreement. Raises :class:`InputError` without confident detections there."""
    held = fake_quant.FloatGraph(path, head, spec, split(images)[1])
    if held.truth is None:
        raise InputError(
            f"{path}: has no confident detections on {held.images} calibration images. Use images with objects."
        )
    return held


def drop_of_file(held: fake_quant.FloatGraph, artifact: Path, options: runtime.SessionOptions) -> float:
    """How much agreement with ``held``, of :func:`held_out`, an artifact loses with these options: a fraction of AP."""
    return 1 - held.agreement(runtime.open_session(artifact, options))


class Candidates(ABC):
    """A detector's assignments of one kind. ``path``: its float graph."""

    offered: tuple[str, ...]

    def __init__(self, path: Path, head: Head, spec: InputSpec, images: Sequence[Path], progress: Progress) -> None:
        self.floating = fake_quant.FloatGraph(path, head, spec, split(images)[0])
        self._held = held_out(path, head, spec, images)
        self._progress = progress

    @property
    @abstractmethod
    def form(self) -> fake_quant.Form:
        """What is quantized besides weights."""

    @abstractmethod
    def cost(self) -> dict[str, dict[str, float]]:
        """What every convolution costs in every dtype."""

    @abstractmethod
    def build(self, dtypes: Mapping[str, str], output: Path) -> None:
        """Write the artifact of an assignment."""

    @property
    @abstractmethod
    def options(self) -> runtime.SessionOptions:
        """The session options with which the artifact is deployed."""

    def choices(self, name: str) -> tuple[str, ...]:
        """The dtypes that a convolution may have."""
        return self.offered

    def noise(self) -> dict[str, dict[str, float]]:
        """Every convolution's noise over signal of the raw head in every dtype, alone."""
        measured = {
            dtype: layerwise.sqnr_alone(self.floating, dtype, self.form, progress=self._progress)
            for dtype in self.offered
            if dtype != bit_allocation.FLOAT
        }
        return {
            name: {d: bit_allocation.noise_of(measured[d][name]) if d in measured else 0.0 for d in self.choices(name)}
            for name in self.floating.nodes
        }

    def drop(self, artifact: Path) -> float:
        """The drop of agreement with the float graph of a file, opened with its deployed options: a fraction of AP."""
        return drop_of_file(self._held, artifact, self.options)

    def cheapest(
        self, max_drop: float, output: Path, built: Callable[[Path], None] = lambda _: None
    ) -> tuple[bit_allocation.Point, list[bit_allocation.Point]]:
        """The cheapest assignment within a drop of agreement, whose artifact is in ``output``; and all that was tried.

        ``built`` is called with every candidate's file, in order.
        """

        def drop_of(dtypes: dict[str, str]) -> float:
            self.build(dtypes, output)
            drop = self.drop(output)
            built(output)
            return drop

        best, tried = bit_allocation.search(self.noise(), self.cost(), drop_of, max_drop, progress=self._progress)
        if tried[-1] is not best:  # the last one built is in the file
            self.build(best.dtypes, output)
        return best, tried


# The opset whose DequantizeLinear takes a dtype, where canonical graphs may be of an older one.
_STORED_SINCE = {"fp8": 19, "int4": 21}


class Weights(Candidates):
    """Weights rounded to nearest with a scale an output channel; everything else stays in float.

    ``left_out``: where the graph can't be converted to an opset that stores all of them, ``rewrite`` and ``reason``; then
    its own opset decides what is offered.
    """

    offered: tuple[str, ...] = ("int4", "int8", "fp8", bit_allocation.FLOAT)

    def __init__(self, path: Path, head: Head, spec: InputSpec, images: Sequence[Path], progress: Progress) -> None:
        from lowbit.graph import qcdq

        super().__init__(path, head, spec, images, progress)
        self.left_out: list[dict[str, str]] = []
        self._model = self.floating.model
        try:
            self._model = qcdq.at_opset(self._model, qcdq.INT4_OPSET)
        except UnavailableError as reason:
            held = graph.opset(self._model)
            missing = [dtype for dtype in self.offered if _STORED_SINCE.get(dtype, 0) > held]
            self.offered = tuple(dtype for dtype in self.offered if dtype not in missing)
            self.left_out.append(
                {"rewrite": f"weights in {' and '.join(name.upper() for name in missing)}", "reason": str(reason)}
            )

    @property
    def form(self) -> fake_quant.Form:
        return fake_quant.WEIGHTS_ONLY

    @property
    def options(self) -> runtime.SessionOptions:
        return runtime.deployed_options("mixed", weights_only=True)

    def cost(self) -> dict[str, dict[str, float]]:
        """Bits that are stored."""
        return bit_allocation.storage(self.offered, self.floating.parameters, self.floating.channels)

    def build(self, dtypes: Mapping[str, str], output: Path) -> None:
        from lowbit import files

        files.write_atomic(output, stored(self.floating, self._model, dtypes).SerializeToString())


class Integers(Candidates):
    """What ``quantize`` makes of the graph with these convolutions kept in float. ``quantize(kept, output)``."""

    offered: tuple[str, ...] = ("int8", bit_allocation.FLOAT)

    def __init__(
        self,
        path: Path,
        head: Head,
        spec: InputSpec,
        images: Sequence[Path],
        progress: Progress,
        quantize: Callable[[Sequence[str], Path], None],
    ) -> None:
        super().__init__(path, head, spec, images, progress)
        self._quantize = quantize
        self._stem = frozenset(layout.better_in_float(self.floating.model))

    def choices(self, name: str) -> tuple[str, ...]:
        """Float only for the convolutions at the image that are better in float."""
        return (bit_allocation.FLOAT,) if name in self._stem else self.offered

    @property
    def form(self) -> fake_quant.Form:
        return fake_quant.EIGHT_BIT_INPUTS

    @property
    def options(self) -> runtime.SessionOptions:
        return runtime.deployed_options("int8")

    def cost(self) -> dict[str, dict[str, float]]:
        """Multiply-accumulates, an integer one as half: a measured time would choose differently in every run."""
        macs = graph.macs(self.floating.model)
        shares = {bit_allocation.FLOAT: 1.0, "int8": 0.5}
        return {name: {d: macs.get(name, 0) * shares[d] for d in self.choices(name)} for name in self.floating.nodes}

    def build(self, dtypes: Mapping[str, str], output: Path) -> None:
        self._quantize([name for name, dtype in dtypes.items() if dtype == bit_allocation.FLOAT], output)


def stored(floating: fake_quant.FloatGraph, model: onnx.ModelProto, dtypes: Mapping[str, str]) -> onnx.ModelProto:
    """A copy of ``model``, the float graph at an opset that has the dtypes, with every named weight stored in its dtype
    behind a DequantizeLinear, a scale an output channel."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from lowbit.graph import qcdq

    kinds = {"int4": TensorProto.INT4, "int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in copied.graph.node:
        dtype = dtypes.get(node.name, bit_allocation.FLOAT)
        if dtype != bit_allocation.FLOAT:
            name = f"{node.input[1]}_{dtype}"
            node.input[1] = f"{name}_float"
            if name not in done:  # a weight may serve several convolutions
                done.add(name)
                values, scale = fake_quant.quantize(floating.weight(node.name), dtype)
                tensor = (
                    helper.make_tensor(name, kinds[dtype], values.shape, values.ravel())
                    if dtype == "fp8"
                    else qcdq.integer_tensor(values.astype(np.int8), kinds[dtype], name)
                )
                copied.graph.initializer.extend([tensor, numpy_helper.from_array(scale, f"{name}_scale")])
                inputs = [name, f"{name}_scale"]
                nodes.append(helper.make_node("DequantizeLinear", inputs, [node.input[1]], f"{name}_dq", axis=0))
        nodes.append(node)
    graph.replace_nodes(copied, nodes)
    qcdq.drop_unused(copied)
    onnx.checker.check_model(copied)
    return copied
