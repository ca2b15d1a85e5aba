"""Models of one integer node each, with weights and activations that make sums of two products pass 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Case:
    """A model with the input ``x`` and the output ``y``."""

    name: str
    model: onnx.ModelProto
    x: NDArray[Any]

    @property
    def node(self) -> onnx.NodeProto:
        return self.model.graph.node[0]

    def values(self) -> dict[str, NDArray[Any]]:
        """What the node reads."""
        return {"x": self.x, **{one.name: numpy_helper.to_array(one) for one in self.model.graph.initializer}}


def _case(name: str, op: str, inputs: str, weight: NDArray[Any], x: NDArray[Any], **attributes: Any) -> Case:
    rng = np.random.default_rng(len(name))
    signed, taps = x.dtype == np.int8, int(np.prod(weight.shape[1:]) if weight.ndim == 4 else weight.shape[0])
    outputs = len(weight) if weight.ndim == 4 or attributes.get("transB") else weight.shape[1]
    stored = {
        "xs": np.float32(0.02),
        "xz": np.int8(-91) if signed else np.uint8(37),
        "w": weight,
        "ws": rng.uniform(0.001, 0.002, outputs).astype(np.float32),
        "wz": np.zeros(outputs, np.int8),
        "w3": np.arange(outputs, dtype=np.int8),
        "b": rng.integers(-5000, 5000, outputs).astype(np.int32),
        "ys": np.float32(0.003 * taps),
        "yz": np.int8(3) if signed else np.uint8(120),
    }
    names = ["" if one == "-" else one for one in inputs.split()]
    domain = "com.microsoft" if op in ("QGemm", "MatMulIntegerToFloat") else ""
    kind = {"MatMulInteger": TensorProto.INT32, "ConvInteger": TensorProto.INT32, "MatMulIntegerToFloat": 1}
    element = TensorProto.INT8 if signed else TensorProto.UINT8
    body = helper.make_graph(
        [helper.make_node(op, names, ["y"], name="node", domain=domain, **attributes)],
        "one",
        [helper.make_tensor_value_info("x", element, x.shape)],
        [helper.make_tensor_value_info("y", kind.get(op, element), None)],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in stored.items() if key in names],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return Case(name, helper.make_model(body, opset_imports=opsets, ir_version=8), x)


def _numbers(shape: tuple[int, ...], signed: bool) -> NDArray[Any]:
    rng = np.random.default_rng(sum(shape))
    raw = np.where(rng.random(shape) < 0.5, 255, rng.integers(0, 256, shape))
    return (raw - 128).astype(np.int8) if signed else raw.astype(np.uint8)


# Input channels, output channels, side of the kernel, groups, and attributes.
_CONVOLUTIONS: tuple[tuple[int, int, int, int, dict[str, Any]], ...] = (
    *((channels, outputs, 1, 1, {}) for channels, outputs in ((2, 8), (3, 8), (4, 1), (5, 17), (16, 32), (33, 16))),
    *(
        (channels, outputs, 3, 1, {"pads": [1] * 4})
        for channels, outputs in ((1, 8), (3, 16), (4, 17), (7, 3), (32, 8))
    ),
    (513, 8, 1, 1, {}),
    (5, 8, 3, 1, {"pads": [1, 0, 0, 1], "strides": [2, 1]}),
    (4, 8, 3, 1, {"pads": [2] * 4, "dilations": [2, 2]}),
    (6, 8, 2, 1, {"auto_pad": "SAME_UPPER"}),
    (6, 8, 2, 1, {"auto_pad": "SAME_LOWER"}),
    (8, 8, 3, 2, {"pads": [1] * 4}),
    (9, 6, 3, 3, {"pads": [1] * 4}),
    (8, 16, 3, 8, {"pads": [1] * 4}),  # one input channel a group and two output channels: not depthwise
    (8, 8, 3, 8, {"pads": [1] * 4}),  # depthwise
    (1, 1, 3, 1, {}),  # depthwise too, for its kernel
)
# Rows, K and columns.
_PRODUCTS = ((1, 7, 5), (1, 64, 33), (4, 16, 16), (5, 33, 17), (2, 1, 3), (20, 400, 40))
_PRODUCT_INPUTS = {
    "QLinearMatMul": "x xs xz w ws wz ys yz",
    "QGemm": "x xs xz w ws wz b ys yz",
    "MatMulInteger": "x w xz wz",
    "MatMulIntegerToFloat": "x w xs ws xz wz",
}


def cases() -> list[Case]:
    """Every shape for which another kernel might run."""
    found = []
    for signed in (False, True):
        form = "s8" if signed else "u8"
        for channels, outputs, side, group, attributes in _CONVOLUTIONS:
            weight = _numbers((outputs, channels // group, side, side), True)
            name = f"{form} {channels}to{outputs} {side}x{side} {group} {' '.join(map(str, attributes.items()))}"
            x = _numbers((1, channels, 5, 6), signed)
            inputs = "x xs xz w ws wz ys yz b"
            found.append(_case(f"conv {name}", "QLinearConv", inputs, weight, x, group=group, **attributes))
        for op, inputs in _PRODUCT_INPUTS.items():
            for rows, inner, columns in _PRODUCTS:
                weight, x = _numbers((inner, columns), True), _numbers((rows, inner), signed)
                found.append(_case(f"{op} {form} {rows}x{inner}x{columns}", op, inputs, weight, x))
        weight, x = _numbers((17, 33), True), _numbers((4, 33), signed)
        found.append(_case(f"gemm {form}, turned", "QGemm", _PRODUCT_INPUTS["QGemm"], weight, x, transB=1))
        weight, x = _numbers((16, 4, 1, 1), True), _numbers((2, 4, 3, 3), signed)
        moved = "x xs xz w ws w3 ys yz"
        found.append(_case(f"conv {form}, zero points", "QLinearConv", moved, weight, x))
        weight = weight.reshape(16, 2, 2, 1)
        found.append(_case(f"conv {form}, zero points, 2 groups", "QLinearConv", moved, weight, x, group=2))
        found.append(
            _case(f"ConvInteger {form}", "ConvInteger", "x w xz", _numbers((8, 4, 3, 3), True), x, pads=[1] * 4)
        )
    return found
