"""Storage of quantized weights: the values stay, the bytes go."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter

from lowbit.errors import UnavailableError
from lowbit.graph import qcdq

RNG = np.random.default_rng(0)


def brevitas_like(values: np.ndarray, low: int = -8, high: int = 7, *, as_input: bool = True) -> onnx.ModelProto:
    """What Brevitas exports for one Conv: INT8 weight, Clip, DequantizeLinear, everything a graph input too."""
    channels = values.shape[0]
    tensors: dict[str, Any] = {
        "w": values.astype(np.int8),
        "low": np.int8(low),
        "high": np.int8(high),
        "s": np.asarray(RNG.uniform(0.01, 0.1, channels), np.float32),
        "z": np.zeros(channels, np.int8),
    }
    nodes = [
        helper.make_node("Clip", ["w", "low", "high"], ["clipped"], "clip"),
        helper.make_node("DequantizeLinear", ["clipped", "s", "z"], ["wd"], "dq", axis=0),
        helper.make_node("Conv", ["images", "wd"], ["output0"], "conv"),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, values.shape[1], 4, 4))]
    if as_input:
        inputs += [
            helper.make_tensor_value_info(n, TensorProto.FLOAT if t.dtype == np.float32 else TensorProto.INT8, t.shape)
            for n, t in tensors.items()
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(t), n) for n, t in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": x})[0])


def unpacked(tensor: onnx.TensorProto) -> list[int]:
    """INT4 by hand, as onnx.proto says: the first value in a byte's low half, two's complement."""
    nibbles = list(itertools.chain.from_iterable((byte & 15, byte >> 4) for byte in tensor.raw_data))
    return [n - 16 if n > 7 else n for n in nibbles][: int(np.prod(tensor.dims))]


@pytest.mark.parametrize("shape", [(4, 3, 1, 1), (3, 1, 1, 1), (5, 3, 3, 3)])
def test_packing_keeps_every_value(shape: tuple[int, ...]) -> None:
    values = RNG.integers(-8, 8, shape)
    values.flat[:2] = -8, 7
    model = qcdq.pack_int4(qcdq.tidy(brevitas_like(values)))
    (weight,) = [t for t in model.graph.initializer if tuple(t.dims) == shape]
    assert weight.data_type == TensorProto.INT4
    assert len(weight.raw_data) == -(-values.size // 2)
    assert unpacked(weight) == values.ravel().tolist()
    assert model.opset_import[0].version == qcdq.INT4_OPSET
    wide = qcdq.widen_int4(model)
    (weight,) = [t for t in wide.graph.initializer if tuple(t.dims) == shape]
    assert weight.data_type == TensorProto.INT8
    assert numpy_helper.to_array(weight).tolist() == values.tolist()


def test_tidy_computes_the_same() -> None:
    model = brevitas_like(RNG.integers(-100, 100, (4, 3, 1, 1)))
    x = RNG.normal(size=(1, 3, 4, 4)).astype(np.float32)
    before = run(model, x)
    tidied = qcdq.tidy(model)
    assert [node.op_type for node in tidied.graph.node] == ["DequantizeLinear", "Conv"]
    assert [value.name for value in tidied.graph.input] == ["images"]
    assert {t.name for t in tidied.graph.initializer} == {"clipped", "s", "z"}
    np.testing.assert_array_equal(run(tidied, x), before)
    np.testing.assert_array_equal(run(qcdq.pack_int4(tidied), x), before)


def test_pairs_are_counted_and_kept() -> None:
    model = brevitas_like(RNG.integers(-8, 8, (4, 3, 1, 1)))
    counts = qcdq.count_pairs(model)
    assert counts == {"QuantizeLinear": 0, "DequantizeLinear": 1}
    assert qcdq.count_pairs(qcdq.pack_int4(qcdq.tidy(model))) == counts


def test_a_clip_of_an_activation_stays() -> None:
    model = brevitas_like(RNG.integers(-8, 8, (4, 3, 1, 1)))
    model.graph.node.insert(0, helper.make_node("Clip", ["images"], ["bounded"], "bound"))
    model.graph.node[-1].input[0] = "bounded"
    assert [n.name for n in qcdq.tidy(model).graph.node] == ["bound", "dq", "conv"]


@pytest.mark.parametrize("outside", [8, -9, 127])
def test_eight_bits_stay_eight_bits(outside: int) -> None:
    values = RNG.integers(-8, 8, (4, 3, 1, 1))
    values.flat[3] = outside
    model = qcdq.tidy(brevitas_like(values, -128, 127))
    packed = qcdq.pack_int4(model)
    assert {t.data_type for t in packed.graph.initializer} == {TensorProto.INT8, TensorProto.FLOAT}
    assert packed.opset_import[0].version == 17


@pytest.mark.parametrize("opset", [22, 24])
def test_a_later_opset_has_four_bits_already(opset: int) -> None:
    model = version_converter.convert_version(qcdq.tidy(brevitas_like(RNG.integers(-8, 8, (4, 3, 1, 1)))), opset)
    packed = qcdq.pack_int4(model)
    assert packed.opset_import[0].version == opset
    assert TensorProto.INT4 in {t.data_type for t in packed.graph.initializer}


def test_a_graph_that_can_t_be_converted_is_no_failed_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no adapter for Clip")

    monkeypatch.setattr(version_converter, "convert_version", refuse)
    with pytest.raises(UnavailableError, match="can't be converted to opset 21: no adapter for Clip"):
        qcdq.pack_int4(qcdq.tidy(brevitas_like(RNG.integers(-8, 8, (4, 3, 1, 1)))))
