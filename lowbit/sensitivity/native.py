"""A second opinion, on the ONNX graph that ships: every convolution quantized alone, and every one alone kept in float.

No gradients and no torch module: a layer's harm is what the graph's raw head says, as an SQNR against the float graph's,
and what its detections say, as AP with the float graph's confident boxes as the truth, for which no labels are needed.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.datasets import Dataset, labelled_by, load_unlabelled
from lowbit.decode import Detections, HeadContract, decode
from lowbit.imaging import InputSpec, Letterbox, preprocess
from lowbit.metrics import DEPLOYED_CONFIDENCE, evaluate
from lowbit.proof import compare_heads

if TYPE_CHECKING:
    import onnx

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Harm:
    """What a graph that differs from the float one loses. ``sqnr_db``: of the raw head, 999 for an equal one.
    ``agreement``: AP with the float graph's confident boxes as the truth."""

    sqnr_db: float
    agreement: float


@dataclass(frozen=True, slots=True)
class LayerHarm:
    """One convolution. ``alone``: it alone is quantized; ``spared``: it alone stays in float."""

    node: str
    parameters: int
    alone: Harm
    spared: Harm


class Graph:
    """A float detector's graph whose convolutions can be fake-quantized, any set of them.

    Weights: symmetric, a scale an output channel, rounded to nearest. Inputs: unsigned 8 bits, one scale a tensor, from
    the least and the largest value that the pictures give.
    """

    def __init__(self, path: Path, contract: HeadContract, spec: InputSpec, pictures: Sequence[Path]) -> None:
        self.model = graph.load(path)
        self.contract = contract
        self._pictures = pictures
        self._placed = [preprocess(picture, spec) for picture in pictures]
        self._heads, self._seen = self._run(self.model)
        self.nodes = {node.name: node for node in graph.weighted_convolutions(self.model)}
        self._weights = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._ranges = self._input_ranges()

    @property
    def parameters(self) -> dict[str, int]:
        """Elements of every convolution's weight."""
        return {name: int(np.prod(self._weights[node.input[1]].dims)) for name, node in self.nodes.items()}

    @property
    def channels(self) -> dict[str, int]:
        """Output channels of every convolution."""
        return {name: int(self._weights[node.input[1]].dims[0]) for name, node in self.nodes.items()}

    @functools.cached_property
    def truth(self) -> Dataset:
        """The float graph's confident boxes. Raises :class:`lowbit.errors.InputError` if there are none."""
        with tempfile.TemporaryDirectory() as folder:
            listing = Path(folder) / "pictures.txt"
            listing.write_text("".join(f"{picture.resolve()}\n" for picture in self._pictures), encoding="utf-8")
            dataset = load_unlabelled(listing, self.contract.classes)
            return labelled_by(dataset, self._seen, DEPLOYED_CONFIDENCE, Path(folder))

    def quantized(self, bits: Mapping[str, int], *, inputs: bool) -> onnx.ModelProto:
        """A copy with the weights of the named convolutions at so many bits, and their inputs at 8 if ``inputs``."""
        import onnx
        from onnx import helper, numpy_helper

        copied = onnx.ModelProto()
        copied.CopyFrom(self.model)
        changed = {self.nodes[name].input[1]: rounded(self._array(name), count) for name, count in bits.items()}
        for tensor in copied.graph.initializer:
            if tensor.name in changed:
                tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
        if not inputs:
            return copied
        nodes = []
        paired: set[str] = set()
        for node in copied.graph.node:
            if node.name in bits:
                source = node.input[0]
                if source not in paired:
                    paired.add(source)
                    scale, zero = self._ranges[source]
                    names = [f"{source}/{part}" for part in ("scale", "zero", "q", "dq")]
                    copied.graph.initializer.extend(
                        [
                            numpy_helper.from_array(np.float32(scale), names[0]),
                            numpy_helper.from_array(np.uint8(zero), names[1]),
                        ]
                    )
                    nodes.append(helper.make_node("QuantizeLinear", [source, *names[:2]], [names[2]], names[2]))
                    nodes.append(helper.make_node("DequantizeLinear", [names[2], *names[:2]], [names[3]], names[3]))
                node.input[0] = f"{source}/dq"
            nodes.append(node)
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del copied.graph.node[:]
        copied.graph.node.extend(kept)
        return copied

    def harm(self, model: onnx.ModelProto) -> Harm:
        """What a copy loses against the float graph."""
        heads, seen = self._run(model)
        sqnr = compare_heads(self._heads, heads).sqnr_db
        return Harm(min(sqnr, 999.0), evaluate(self.truth, seen).map)

    def sqnr(self, model: onnx.ModelProto) -> float:
        """The SQNR of a copy's raw head in dB, 999 for an equal one."""
        return min(compare_heads(self._heads, self._run(model)[0]).sqnr_db, 999.0)

    def _array(self, name: str) -> NDArray[np.float32]:
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self._weights[self.nodes[name].input[1]]))

    def _session(self, model: onnx.ModelProto) -> Any:
        import onnxruntime

        from lowbit.runtime import available_cores

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = available_cores()
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def _run(self, model: onnx.ModelProto) -> tuple[list[NDArray[np.float32]], dict[int, Detections]]:
        names = [model.graph.output[0].name, *graph.head_outputs(self.model)]
        session = self._session(graph.with_head_outputs(model))
        heads: list[NDArray[np.float32]] = []
        seen = {}
        for number, (tensor, place) in enumerate(self._placed, 1):
            output, *raw = session.run(names, {session.get_inputs()[0].name: tensor})
            heads += raw
            seen[number] = in_picture(decode(output, self.contract), place)
        return heads, seen

    def _input_ranges(self) -> dict[str, tuple[float, int]]:
        """Scale and zero point of every convolution's input."""
        import onnx

        copied = onnx.ModelProto()
        copied.CopyFrom(self.model)
        names = sorted({node.input[0] for node in self.nodes.values()})
        there = {value.name for value in (*copied.graph.output, *copied.graph.input)}
        copied.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in there)
        session = self._session(copied)
        feed = session.get_inputs()[0].name
        low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        wanted = [name for name in names if name != feed]
        for tensor, _ in self._placed:
            found = dict(zip(wanted, session.run(wanted, {feed: tensor}), strict=True)) | {feed: tensor}
            for name in names:
                low[name] = min(low[name], float(found[name].min()))
                high[name] = max(high[name], float(found[name].max()))
        scales = {name: max((high[name] - low[name]) / 255, 1e-12) for name in names}
        return {name: (scales[name], round(-low[name] / scales[name])) for name in names}


def in_picture(seen: Detections, place: Letterbox) -> Detections:
    """Detections in the picture's own pixels."""
    return Detections(place.to_picture(seen.boxes), seen.scores, seen.classes)


def rounded(weight: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """A weight, [out, ...], after symmetric rounding to nearest with a scale an output channel from its maximum."""
    steps = 2 ** (bits - 1) - 1
    scale = np.abs(weight.reshape(len(weight), -1)).max(1).clip(1e-12) / steps
    scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return (np.rint(weight / scale).clip(-steps - 1, steps) * scale).astype(np.float32)


def measure(
    floating: Graph, bits: int, *, inputs: bool, progress: Progress, only: Collection[str] | None = None
) -> list[LayerHarm]:
    """Every convolution quantized alone and spared alone; most harm alone first.

    ``bits``: of weights; ``inputs``: whether 8-bit inputs are part of it; ``only``: these nodes.
    """
    everything = dict.fromkeys(floating.nodes, bits)
    parameters = floating.parameters
    names = [name for name in floating.nodes if only is None or name in only]
    found: list[LayerHarm] = []
    for number, name in enumerate(names, 1):
        progress(f"measuring sensitivity, convolution {number} of {len(names)}")
        alone = floating.harm(floating.quantized({name: bits}, inputs=inputs))
        others = {other: count for other, count in everything.items() if other != name}
        spared = floating.harm(floating.quantized(others, inputs=inputs))
        found.append(LayerHarm(name, parameters[name], alone, spared))
    return sorted(found, key=lambda layer: (layer.alone.sqnr_db, layer.node))


def sqnr_alone(floating: Graph, bits: int, *, inputs: bool, progress: Progress) -> dict[str, float]:
    """The raw head's SQNR in dB when one convolution alone is quantized, for each, in the graph's order."""
    found = {}
    for number, name in enumerate(floating.nodes, 1):
        progress(f"measuring sensitivity, convolution {number} of {len(floating.nodes)}")
        found[name] = floating.sqnr(floating.quantized({name: bits}, inputs=inputs))
    return found


def most_sensitive(sqnr: Mapping[str, float], count: int) -> list[str]:
    """The ``count`` nodes with the lowest SQNR, worst first."""
    return sorted(sqnr, key=lambda name: (sqnr[name], name))[:count]


@dataclass(frozen=True, slots=True)
class Opinions:
    """Two rankings of the same layers. ``correlation``: Spearman's of their ranks, in [-1, 1]. ``rows``: layer, its rank
    by the first and by the second opinion. ``disagreements``: the rows that are furthest apart, furthest first."""

    correlation: float
    rows: tuple[tuple[str, int, int], ...]
    disagreements: tuple[tuple[str, int, int], ...]


def compare_rankings(first: Sequence[str], second: Sequence[str], worst: int = 10) -> Opinions:
    """Compare two rankings, most sensitive first, of the same layers. Raises ``ValueError`` for different ones."""
    from scipy.stats import spearmanr

    if sorted(first) != sorted(second) or len(set(first)) != len(first):
        raise ValueError(f"the rankings are not of the same layers: {sorted(set(first) ^ set(second))[:5]}")
    place = {name: rank for rank, name in enumerate(second, 1)}
    rows = tuple((name, rank, place[name]) for rank, name in enumerate(first, 1))
    correlation = float(spearmanr([r[1] for r in rows], [r[2] for r in rows]).statistic) if len(rows) > 1 else 1.0
    apart = sorted(rows, key=lambda row: (-abs(row[1] - row[2]), row[1]))
    return Opinions(correlation, rows, tuple(row for row in apart[:worst] if row[1] != row[2]))
