"""Weights that compute the same on every processor."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lowbit.errors import BuildError
from lowbit.graph import saturation
from lowbit.graph.saturation import worst_pair
from lowbit.quantize import portable


def weights(seed: int, *shape: int) -> np.ndarray:
    """Float weights whose output channels differ in size, the second one too small to break the bound."""
    drawn = np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
    drawn[1] = np.where(np.arange(drawn[1].size).reshape(drawn[1].shape) % 2, drawn[1] * 0.001, drawn[1])
    return drawn


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (8, 3, 3, 3), (8, 16, 1, 1)])
def test_every_channel_fits_and_loses_less_than_with_seven_bits(shape: tuple[int, ...]) -> None:
    weight = weights(1, *shape)
    scale = portable.largest_scale(weight)
    found = portable.fit(weight, scale, worst_pair)
    assert saturation.fits(worst_pair(found.values)).all()
    assert found.coarser.any()
    assert np.array_equal(found.scale[~found.coarser], scale[~found.coarser])
    assert (found.scale <= scale * (127 / 63) * 1.0001).all()
    error = np.square(found.dequantized() - weight).reshape(len(weight), -1).sum(1)
    seven = scale[:, None, None, None] * np.float32(127 / 63)
    assert (error <= np.square(np.rint(weight / seven) * seven - weight).reshape(len(weight), -1).sum(1) * 1.001).all()


def test_a_channel_that_fits_keeps_its_integers() -> None:
    weight = weights(2, 6, 4, 1, 1)
    weight[2:] = 0
    found = portable.fit(weight, portable.largest_scale(weight), worst_pair)
    assert found.coarser.tolist()[1:] == [False] * 5
    assert np.array_equal(found.values[1], np.rint(weight[1] / portable.largest_scale(weight)[1]))
    assert not found.values[2:].any() and (found.scale[2:] == 1).all()


def matrix(seed: int, turned: bool) -> onnx.ModelProto:
    """``images`` [1, 16] times a weight, as MatMul ([K, N]) or as Gemm with transB ([N, K])."""
    weight = weights(seed, 8, 16)
    stored = numpy_helper.from_array(weight if turned else np.ascontiguousarray(weight.T), "w")
    node = (
        helper.make_node("Gemm", ["images", "w"], ["out"], "product", transB=1)
        if turned
        else helper.make_node("MatMul", ["images", "w"], ["out"], "product")
    )
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, w]) for n, w in (("images", 16), ("out", 8))]
    return helper.make_model(helper.make_graph([node], "toy", values[:1], values[1:], [stored]))


@pytest.mark.parametrize("turned", [False, True])
def test_matrix_products_are_fitted_along_their_own_axis(turned: bool) -> None:
    model = matrix(3, turned)
    before = numpy_helper.to_array(model.graph.initializer[0])
    found = portable.fit_floats(model, (), {})
    axis, rounded = found["w"]
    assert axis == (0 if turned else 1)
    after = numpy_helper.to_array(model.graph.initializer[0])
    assert np.array_equal(after, rounded.dequantized(axis))
    assert 0 < np.abs(after - before).max() <= rounded.scale.max()
    assert saturation.fits(worst_pair(rounded.values.T if turned else rounded.values)).all()


def test_nodes_that_stay_in_float_are_left_alone() -> None:
    model = matrix(3, turned=False)
    before = model.SerializeToString()
    assert portable.fit_floats(model, ["product"], {}) == {}
    assert model.SerializeToString() == before


def quantized(values: np.ndarray, group: int = 1) -> onnx.ModelProto:
    """A convolution of ``features`` by a stored INT8 weight."""
    stored = {"w": values, "s": np.full(len(values), 0.01, np.float32), "z": np.zeros(len(values), np.int8)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], "wd", axis=0),
        helper.make_node("Conv", ["features", "wd"], ["out"], "conv", group=group),
    ]
    channels = values.shape[1] * group
    given = helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, [1, channels, 8, 8])
    out = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
    return helper.make_model(
        helper.make_graph(nodes, "toy", [given], [out], [numpy_helper.from_array(v, n) for n, v in stored.items()]),
        opset_imports=[helper.make_opsetid("", 17)],
    )


def test_a_graph_that_could_saturate_is_refused() -> None:
    values = np.zeros((4, 2, 1, 1), np.int8)
    values[2] = 64
    portable.check(quantized(values))  # 255 * (64 + 64) is 32,640
    values[2, 1] = 65
    with pytest.raises(BuildError, match="conv: its products pass 16 bits"):
        portable.check(quantized(values))


def test_depthwise_convolutions_have_no_bound() -> None:
    portable.check(quantized(np.full((4, 1, 3, 3), 127, np.int8), group=4))


def test_an_artifact_keeps_the_channels_that_fit() -> None:
    values = np.random.default_rng(5).integers(-60, 60, (4, 8, 1, 1), np.int8)
    values[3, :2] = 127
    artifact = quantized(values)
    copied, again = portable.fit_artifact(artifact, artifact)
    assert {name: channels.tolist() for name, channels in again.items()} == {"conv": [False, False, False, True]}
    portable.check(copied)
    with pytest.raises(BuildError):
        portable.check(artifact)
    found = numpy_helper.to_array(next(t for t in copied.graph.initializer if t.name == "conv/fitting"))
    assert np.array_equal(found[:3], values[:3])
    scale = numpy_helper.to_array(next(t for t in copied.graph.initializer if t.name == "conv/fitting_scale"))
    assert (scale[:3] == np.float32(0.01)).all() and 0.01 < scale[3] < 0.0202


def test_the_lowest_integer_is_kept_where_its_channel_fits() -> None:
    """Two's complement reaches to -128, and a scale that was learned may use it."""
    values = np.zeros((2, 4, 1, 1), np.int8)
    values[0, 0], values[1] = -128, 127
    copied, again = portable.fit_artifact(quantized(values), quantized(values))
    assert again["conv"].tolist() == [False, True]
    found = numpy_helper.to_array(next(t for t in copied.graph.initializer if t.name == "conv/fitting"))
    assert np.array_equal(found[0], values[0])
