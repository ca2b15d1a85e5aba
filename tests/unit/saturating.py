"""A quantized network of three convolutions whose sums of two products pass 16 bits, or do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 12


def artifact(largest: int, *, signed: bool = False) -> onnx.ModelProto:
    """Two quantized convolutions with ReLU and a depthwise one between, weights up to ``largest``, a raw head of 66
    channels; the decode tail scales it. All activations lie between 0 and 1."""
    rng = np.random.default_rng(largest)
    stored: dict[str, Any] = {
        "scale": np.float32(1 / 255),
        "zero": np.int8(-128) if signed else np.uint8(0),
        "half": np.float32(0.5),
        "none": np.int32(0),
    }
    nodes: list[onnx.NodeProto] = []

    def add(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=f"/{output}/{op}", **attributes))
        return output

    def pair(name: str) -> str:
        quantized = add("QuantizeLinear", [name, "scale", "zero"], f"{name}_q")
        return add("DequantizeLinear", [quantized, "scale", "zero"], f"{name}_d")

    def conv(name: str, data: str, shape: tuple[int, ...], **attributes: object) -> str:
        weight = rng.integers(largest // 2, largest + 1, shape)
        signs = rng.choice([-1, 1], (shape[0], 1, 1, 1)) if name != "first" else np.ones((shape[0], 1, 1, 1))
        stored[f"{name}_w"] = (weight * signs).astype(np.int8)
        taps = int(np.prod(shape[1:]))
        stored[f"{name}_s"] = np.full(shape[0], 1 / (largest * taps), np.float32)
        stored[f"{name}_b"] = rng.integers(-200, 200, shape[0]).astype(np.int32)
        stored[f"{name}_bs"] = stored[f"{name}_s"] * stored["scale"]
        weight_name = add("DequantizeLinear", [f"{name}_w", f"{name}_s"], f"{name}_wd", axis=0)
        bias = add("DequantizeLinear", [f"{name}_b", f"{name}_bs"], f"{name}_bd", axis=0)
        return add("Conv", [data, weight_name, bias], name, **attributes)

    first = add("Relu", [conv("first", pair("images"), (8, 3, 3, 3), pads=[1] * 4)], "active")
    depthwise = conv("depthwise", pair(first), (8, 1, 3, 3), group=8)
    head = conv("head", pair(depthwise), (66, 8, 1, 1))
    add("Mul", [pair(head), "half"], "output0")
    body = helper.make_graph(
        nodes,
        "artifact",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 66, SIDE - 2, SIDE - 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
