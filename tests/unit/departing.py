"""A float detector small enough for unit tests, with a decode tail, and the same quantized in ways that break it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

SIDE, CLASSES = 32, 3


def images(count: int = 3, *, darkest: float = 0.0) -> list[NDArray[np.float32]]:
    """Inputs, float32 [1, 3, 32, 32] in [``darkest``, 1]."""
    rng = np.random.default_rng(1)
    return [darkest + (1 - darkest) * rng.random((1, 3, SIDE, SIDE), np.float32) for _ in range(count)]


def detector(*, saturating: bool = False) -> onnx.ModelProto:
    """Four convolutions with SiLU, two branches with a class and a box convolution, and a decode tail: boxes to 640
    beside scores to 1, float32 [1, 4 + 3, 256]. ``saturating``: the first convolution's weights are large and of one
    sign, so that bright images pass 16 bits."""
    rng = np.random.default_rng(0)
    stored: dict[str, NDArray[Any]] = {"pixels": np.float32(640), "flat": np.array([1, 4 + CLASSES, -1])}
    nodes: list[onnx.NodeProto] = []

    def add(op: str, inputs: list[str], place: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{place}/{op}_out"], name=f"{place}/{op}", **attributes))
        return nodes[-1].output[0]

    def conv(data: str, place: str, shape: tuple[int, ...], gain: float = 1.0, **attributes: object) -> str:
        fan = int(np.prod(shape[1:]))
        stored[f"{place}/w"] = (gain * rng.standard_normal(shape) * (2 / fan) ** 0.5).astype(np.float32)
        stored[f"{place}/b"] = (0.1 * rng.standard_normal(shape[0])).astype(np.float32)
        if saturating and data == "images":
            stored[f"{place}/w"] = rng.uniform(0.5, 1, shape).astype(np.float32)
            stored[f"{place}/b"] = -0.85 * stored[f"{place}/w"].sum((1, 2, 3))
        return add("Conv", [data, f"{place}/w", f"{place}/b"], place, **attributes)

    def silu(data: str, place: str) -> str:
        return add("Mul", [data, add("Sigmoid", [data], place)], place)

    flow = "images"
    for number, width in enumerate((16, 16, 16, 16)):
        shape = (width, 3 if flow == "images" else 16, 3, 3)
        strides = [2 if number == 0 else 1] * 2
        flow = silu(conv(flow, f"/model.{number}", shape, 2.0, pads=[1] * 4, strides=strides), f"/model.{number}/act")
    boxes = add("Sigmoid", [conv(flow, "/model.4/box", (4, 16, 1, 1))], "/model.4/box")
    scaled = add("Mul", [boxes, "pixels"], "/model.4/scaled")
    scores = add("Sigmoid", [conv(flow, "/model.4/class", (CLASSES, 16, 1, 1), 3.0)], "/model.4/class")
    joined = add("Concat", [scaled, scores], "/model.4", axis=1)
    nodes.append(helper.make_node("Reshape", [joined, "flat"], ["output0"], name="/model.4/Reshape"))
    body = helper.make_graph(
        nodes,
        "departing",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 4 + CLASSES, 256])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, given: list[NDArray[np.float32]]) -> None:
        self._images: Iterator[dict[str, NDArray[np.float32]]] = iter([{"images": one} for one in given])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._images, None)


def by_ort(
    folder: Path, model: onnx.ModelProto, given: list[NDArray[np.float32]] | None = None, **more: Any
) -> onnx.ModelProto:
    """A model as ONNX Runtime's own static quantization makes it of these images, with its defaults but for ``more``."""
    onnx.save(model, str(folder / "float.onnx"))
    reader = _Reader(given or images())
    quantize_static(str(folder / "float.onnx"), str(folder / "int8.onnx"), reader, **more)
    return onnx.load(str(folder / "int8.onnx"))


def up_to_the_head(
    folder: Path, model: onnx.ModelProto, given: list[NDArray[np.float32]] | None = None
) -> onnx.ModelProto:
    """The detector in INT8 as it works: unsigned activations, scales per channel, the decode tail in float."""
    tail = [node.name for node in model.graph.node if node.name.startswith("/model.4") and node.op_type != "Conv"]
    options = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    return by_ort(folder, model, given, nodes_to_exclude=tail, **options)


def in_operators(folder: Path) -> onnx.ModelProto:
    """All of it in operators on integers."""
    return by_ort(folder, detector(), quant_format=QuantFormat.QOperator, activation_type=QuantType.QUInt8)


def with_outlier(model: onnx.ModelProto, convolution: str) -> onnx.ModelProto:
    """A copy one of whose weights is so large that four bits and one scale round the others of its convolution to 0."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    name = next(node.input[1] for node in copied.graph.node if node.name == convolution)
    tensor = next(tensor for tensor in copied.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = 20 * np.abs(values).max()
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return copied


def in_bits(model: onnx.ModelProto, four: str) -> onnx.ModelProto:
    """A copy whose weights have one scale a tensor: the convolution ``four`` in four bits, the others in eight."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    nodes = []
    for node in copied.graph.node:
        if node.op_type == "Conv":
            name = node.input[1]
            values = numpy_helper.to_array(stored[name])
            scale = np.asarray(np.abs(values).max() / (7 if node.name == four else 127), np.float32)
            whole = np.rint(values / scale).astype(np.int8)
            copied.graph.initializer.extend(
                [numpy_helper.from_array(whole, f"{name}_q"), numpy_helper.from_array(scale, f"{name}_s")]
            )
            nodes.append(
                helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s"], [f"{name}_d"], name=f"{name}_DQ")
            )
            node.input[1] = f"{name}_d"
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copied.graph.node[:]
    copied.graph.node.extend(kept)
    return copied


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy none of whose inner tensors and nodes has its name: all are numbered, as some exporters do."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    kept = {value.name for value in (*model.graph.input, *model.graph.output)} | {""}
    names = {name for node in copied.graph.node for name in (*node.input, *node.output)} - kept
    numbered = {name: str(number) for number, name in enumerate(sorted(names))}
    for number, node in enumerate(copied.graph.node):
        node.name = f"node_{number}"
        node.input[:] = [numbered.get(name, name) for name in node.input]
        node.output[:] = [numbered.get(name, name) for name in node.output]
    for tensor in copied.graph.initializer:
        tensor.name = numbered.get(tensor.name, tensor.name)
    return copied


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose convolutions compute in half precision, between casts."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    nodes = []
    for tensor in copied.graph.initializer:
        if tensor.name.endswith(("/w", "/b")):
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in copied.graph.node:
        if node.op_type != "Conv":
            nodes.append(node)
            continue
        data, output = node.input[0], node.output[0]
        nodes.append(helper.make_node("Cast", [data], [f"{node.name}_half"], name=f"{node.name}_in", to=10))
        node.input[0], node.output[0] = f"{node.name}_half", f"{node.name}_given"
        nodes += [node, helper.make_node("Cast", [f"{node.name}_given"], [output], name=f"{node.name}_out", to=1)]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copied.graph.node[:]
    copied.graph.node.extend(kept)
    return copied
