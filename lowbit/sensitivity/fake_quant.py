"""Fake quantization of the float ONNX graph: a copy in which any set of convolutions is quantized, and what it loses.

No gradients and no torch module are needed. The loss is the raw head's SQNR against the float graph's, and AP with the float
graph's confident boxes as the truth, for which no labels are needed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections
from lowbit.data.letterbox import InputSpec, Letterbox, preprocess
from lowbit.data.pseudo_labels import confident
from lowbit.detector.head import Head
from lowbit.measure.comparison import compare_heads
from lowbit.measure.metrics import DEPLOYED_CONFIDENCE, evaluate
from lowbit.runtime import plain_session

if TYPE_CHECKING:
    import onnx

# Largest finite value of float8 E4M3FN (https://onnx.ai/onnx/technical/float8.html).
_FP8_MAX = 448.0
_STEPS = {"int4": 7, "int8": 127}


@dataclass(frozen=True, slots=True)
class Form:
    """How a convolution is quantized beside its weight's dtype. ``inputs``: dtype of its input, ``fp16`` for none.
    ``weight_axis``, ``input_axis``: along which there is a scale each, 0 and 1; None for one scale a tensor."""

    inputs: str = "fp16"
    weight_axis: int | None = 0
    input_axis: int | None = None


WEIGHTS_ONLY, EIGHT_BIT_INPUTS = Form(), Form("int8")


@dataclass(frozen=True, slots=True)
class Harm:
    """What a graph that differs from the float one loses. ``sqnr_db``: of the raw head, 999 for an equal one.
    ``agreement``: AP with the float graph's confident boxes as the truth; None where it has none."""

    sqnr_db: float
    agreement: float | None

    @property
    def cells(self) -> tuple[str, str | None]:
        """For a table."""
        return f"{self.sqnr_db:.1f}", None if self.agreement is None else f"{self.agreement:.4f}"


class FloatGraph:
    """A float detector's graph whose convolutions can be fake-quantized, any set of them.

    Weights: symmetric, rounded to nearest with scales from their maxima. Inputs: integers are unsigned with scale and
    zero point from the least and the largest value that the images give, FP8 has a scale from the largest magnitude.
    """

    def __init__(self, path: Path, head: Head, spec: InputSpec, images: Sequence[Path]) -> None:
        self.model = graph.load(path)
        self.head = head
        self._images = images
        self._placed = [preprocess(image, spec) for image in images]
        self._heads, self._seen = self._run(self.model)
        self.nodes = {node.name: node for node in graph.weighted_convolutions(self.model)}
        self._weights = {tensor.name: tensor for tensor in self.model.graph.initializer}

    @property
    def images(self) -> int:
        """How many images it is measured on."""
        return len(self._placed)

    @property
    def parameters(self) -> dict[str, int]:
        """Elements of every convolution's weight."""
        return {name: int(np.prod(self._weights[node.input[1]].dims)) for name, node in self.nodes.items()}

    @property
    def channels(self) -> dict[str, int]:
        """Output channels of every convolution."""
        return {name: int(self._weights[node.input[1]].dims[0]) for name, node in self.nodes.items()}

    @functools.cached_property
    def truth(self) -> Dataset | None:
        """The float graph's confident boxes; None if there are none."""
        return confident(self._images, self.head.classes, self._seen, DEPLOYED_CONFIDENCE)

    def weight(self, name: str) -> NDArray[np.float32]:
        """A convolution's weight, [out, in / groups, height, width]."""
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self._weights[self.nodes[name].input[1]]))

    def quantized(self, dtypes: Mapping[str, str], form: Form) -> onnx.ModelProto:
        """A copy with the named convolutions' weights in the given dtypes, and their inputs as ``form`` says."""
        import onnx
        from onnx import numpy_helper

        copied = onnx.ModelProto()
        copied.CopyFrom(self.model)
        changed = {
            self.nodes[name].input[1]: rounded(self.weight(name), dtype, form.weight_axis)
            for name, dtype in dtypes.items()
        }
        for tensor in copied.graph.initializer:
            if tensor.name in changed:
                tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
        if form.inputs == "fp16":
            return copied
        from lowbit.graph import qcdq

        if form.inputs == "fp8":  # float8 needs opset 19
            copied = qcdq.at_opset(copied, qcdq.INT4_OPSET)
        nodes: list[onnx.NodeProto] = []
        paired: set[str] = set()
        for node in copied.graph.node:
            if node.name in dtypes:
                source = node.input[0]
                if source not in paired:
                    paired.add(source)
                    nodes += self._fake_quantized(copied, source, form)
                node.input[0] = f"{source}/dq"
            nodes.append(node)
        graph.replace_nodes(copied, nodes)
        return copied

    def imitating(self, name: str, weight: NDArray[np.float32], quantizer: graph.Quantizer | None) -> onnx.ModelProto:
        """A copy in which one convolution has the weight and the input's scale and zero point of another tool's artifact."""
        import onnx
        from onnx import helper, numpy_helper

        copied = onnx.ModelProto()
        copied.CopyFrom(self.model)
        place, node = next((i, node) for i, node in enumerate(copied.graph.node) if node.name == name)
        stored = next(tensor for tensor in copied.graph.initializer if tensor.name == node.input[1])
        changed = f"{name}/weight"
        copied.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), changed))
        node.input[1] = changed
        if weight.shape != tuple(stored.dims):
            raise ValueError(f"{name}: a weight {weight.shape} is not the float one's {tuple(stored.dims)}")
        if quantizer is not None:
            names = [f"{name}/{part}" for part in ("scale", "zero", "q", "dq")]
            copied.graph.initializer.extend(
                numpy_helper.from_array(np.asarray(value), part)
                for value, part in zip(quantizer, names[:2], strict=True)
            )
            pair = [
                helper.make_node("QuantizeLinear", [node.input[0], *names[:2]], [names[2]], names[2]),
                helper.make_node("DequantizeLinear", [names[2], *names[:2]], [names[3]], names[3]),
            ]
            node.input[0] = names[3]
            graph.replace_nodes(copied, [*copied.graph.node[:place], *pair, *copied.graph.node[place:]])
        return copied

    def _fake_quantized(self, model: onnx.ModelProto, source: str, form: Form) -> list[onnx.NodeProto]:
        """Nodes from ``source`` to ``source/dq``; their scales are added to ``model``."""
        from onnx import TensorProto, helper, numpy_helper

        low, high = self._input_ranges[source]
        if form.input_axis is None:
            low, high = low.min(), high.max()
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        names = [f"{source}/{part}" for part in ("scale", "zero", "clip", "q", "dq")]
        nodes = []
        if form.inputs == "fp8":
            scale = np.maximum(np.maximum(-low, high) / _FP8_MAX, 1e-12).astype(np.float32)
            zero = helper.make_tensor(names[1], TensorProto.FLOAT8E4M3FN, scale.shape, [0.0] * scale.size)
        else:
            steps = 2 * _STEPS[form.inputs] + 1
            scale = np.maximum((high - low) / steps, 1e-12).astype(np.float32)
            zero = numpy_helper.from_array(np.rint(-low / scale).astype(np.uint8), names[1])
        feed = source
        if form.inputs == "int4":  # in the file eight bits wide: values of other images must end where four bits do
            bounds = [f"{source}/{part}" for part in ("low", "high")]
            model.graph.initializer.extend(
                numpy_helper.from_array(np.asarray(value, np.float32).reshape(-1, *[1] * (2 * np.ndim(value))), name)
                for value, name in zip((low, high), bounds, strict=True)
            )
            nodes = [
                helper.make_node("Max", [source, bounds[0]], [f"{names[2]}/low"], f"{names[2]}/low"),
                helper.make_node("Min", [f"{names[2]}/low", bounds[1]], [names[2]], names[2]),
            ]
            feed = names[2]
        model.graph.initializer.extend([numpy_helper.from_array(scale, names[0]), zero])
        axis = {"axis": 1} if scale.ndim else {}
        return [
            *nodes,
            helper.make_node("QuantizeLinear", [feed, *names[:2]], [names[3]], names[3], **axis),
            helper.make_node("DequantizeLinear", [names[3], *names[:2]], [names[4]], names[4], **axis),
        ]

    def harm(self, model: onnx.ModelProto) -> Harm:
        """What a copy loses against the float graph."""
        heads, seen = self._run(model)
        sqnr = compare_heads(self._heads, heads).sqnr_db
        return Harm(min(sqnr, 999.0), None if self.truth is None else evaluate(self.truth, seen).map)

    def agreement(self, session: Any) -> float:
        """AP of another artifact's session with the float graph's confident boxes as the truth; 1 if it has none."""
        name = session.get_inputs()[0].name
        seen = {
            number: in_image(self.head.decode(session.run(None, {name: tensor})), place)
            for number, (tensor, place) in enumerate(self._placed, 1)
        }
        return 1.0 if self.truth is None else evaluate(self.truth, seen).map

    def sqnr(self, model: onnx.ModelProto) -> float:
        """The SQNR of a copy's raw head in dB, 999 for an equal one."""
        return min(compare_heads(self._heads, self._run(model)[0]).sqnr_db, 999.0)

    def _session(self, model: onnx.ModelProto) -> Any:
        # What is asked for is what is computed: no integer kernels, no fused float8 that nothing can run.
        return plain_session(model, (("session.disable_quant_qdq", "1"),))

    def _run(self, model: onnx.ModelProto) -> tuple[list[NDArray[np.float32]], dict[int, Detections]]:
        outputs = [value.name for value in model.graph.output]
        names = [*outputs, *graph.head_outputs(self.model)]
        session = self._session(graph.with_head_outputs(model))
        heads: list[NDArray[np.float32]] = []
        seen = {}
        for number, (tensor, place) in enumerate(self._placed, 1):
            found = session.run(names, {session.get_inputs()[0].name: tensor})
            heads += found[len(outputs) :]
            seen[number] = in_image(self.head.decode(found[: len(outputs)]), place)
        return heads, seen

    @functools.cached_property
    def _input_ranges(self) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """The least and the largest value of every channel of every convolution's input."""
        import onnx

        copied = onnx.ModelProto()
        copied.CopyFrom(self.model)
        names = sorted({node.input[0] for node in self.nodes.values()})
        there = {value.name for value in (*copied.graph.output, *copied.graph.input)}
        copied.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in there)
        session = self._session(copied)
        feed = session.get_inputs()[0].name
        ranges: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        wanted = [name for name in names if name != feed]
        for tensor, _ in self._placed:
            found = dict(zip(wanted, session.run(wanted, {feed: tensor}), strict=True)) | {feed: tensor}
            for name in names:
                low, high = found[name].min((0, 2, 3)), found[name].max((0, 2, 3))
                before = ranges.get(name, (low, high))
                ranges[name] = np.minimum(low, before[0]), np.maximum(high, before[1])
        return ranges


def in_image(seen: Detections, place: Letterbox) -> Detections:
    """Detections in the image's own pixels."""
    return Detections(place.to_image(seen.boxes), seen.scores, seen.classes)


def quantize(
    weight: NDArray[np.float32], dtype: str, axis: int | None = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What is stored of a weight, [out, ...], rounded to nearest, as float32, and its scale: [out], or [] without an axis.

    Integers are symmetric, to the maximum's 7 or 127 steps; ``fp8`` is E4M3FN with the maximum at 448.
    """
    magnitude = np.abs(weight).reshape(len(weight), -1).max(1) if axis == 0 else np.abs(weight).max()
    scale = np.asarray(magnitude.clip(1e-12) / (_FP8_MAX if dtype == "fp8" else _STEPS[dtype]), np.float32)
    spread = weight / _along(scale, weight.ndim)
    if dtype == "fp8":
        import ml_dtypes

        return spread.astype(ml_dtypes.float8_e4m3fn).astype(np.float32), scale
    return np.rint(spread).astype(np.float32), scale


def rounded(weight: NDArray[np.float32], dtype: str, axis: int | None = 0) -> NDArray[np.float32]:
    """A weight, [out, ...], after :func:`quantize` and back."""
    stored, scale = quantize(weight, dtype, axis)
    return stored * _along(scale, weight.ndim)


def _along(scale: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    return scale.reshape(-1, *[1] * (dimensions - 1)) if scale.ndim else scale
