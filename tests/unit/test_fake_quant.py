"""Fake quantization of the float graph, and layer-wise sensitivity on it."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest

from lowbit import graph, runtime
from lowbit.data.letterbox import InputSpec
from lowbit.detector import heads
from lowbit.graph import qcdq
from lowbit.sensitivity import assignment, bit_allocation, fake_quant, layerwise
from tests.unit import toys


@pytest.mark.parametrize("dtype", ["int4", "int8", "fp8"])
@pytest.mark.parametrize("axis", [0, None])
def test_rounding_is_the_nearest_of_all_steps(dtype: str, axis: int | None) -> None:
    weight = np.random.default_rng(len(dtype)).normal(0, 1, (3, 4, 2, 2)).astype(np.float32)
    found = fake_quant.rounded(weight, dtype, axis)
    if dtype == "fp8":
        every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(float)
        steps, top = np.unique(every[np.isfinite(every)]), 448.0
    else:
        top = {"int4": 7, "int8": 127}[dtype]
        steps = np.arange(-top, top + 1, dtype=float)
    for channel, values in enumerate(weight.reshape(3, -1)):
        grid = steps * np.abs(values if axis == 0 else weight).max() / top
        nearest = grid[np.abs(values[:, None] - grid).argmin(1)]
        assert found[channel].ravel() == pytest.approx(nearest, abs=1e-6)


@pytest.fixture(scope="module")
def floating(tmp_path_factory: pytest.TempPathFactory) -> fake_quant.FloatGraph:
    folder = tmp_path_factory.mktemp("toy")
    path = toys.make_detector(folder / "toy.onnx")
    toys.make_images(folder / "images", 4, seed=3)
    head = heads.recognise(path, graph.load(path))
    return fake_quant.FloatGraph(path, head, InputSpec(64), sorted((folder / "images").iterdir()))


@pytest.mark.parametrize("form", [fake_quant.WEIGHTS_ONLY, fake_quant.EIGHT_BIT_INPUTS], ids=["weights", "inputs"])
def test_the_float_graph_agrees_with_itself(floating: fake_quant.FloatGraph, form: fake_quant.Form) -> None:
    assert floating.harm(floating.quantized({}, form)) == fake_quant.Harm(999.0, pytest.approx(1))


def test_only_what_is_named_is_quantized(floating: fake_quant.FloatGraph) -> None:
    model = floating.quantized({"/model.1/level32/Conv": "int8"}, fake_quant.EIGHT_BIT_INPUTS)
    assert [n.op_type for n in model.graph.node].count("QuantizeLinear") == 1
    structure = graph.structure(model)
    assert [w.node for w in structure.weights if w.input_quantized] == ["/model.1/level32/Conv"]
    assert graph.structure(floating.model).quantize_nodes == 0, "the original was changed"


@pytest.mark.parametrize("inputs", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("axis", [None, 1])
def test_inputs_are_rounded_to_their_steps(floating: fake_quant.FloatGraph, inputs: str, axis: int | None) -> None:
    """By brute force: every value of a convolution's input ends at the nearest of the steps, unsigned with a zero point
    or E4M3; what lies beyond the range seen ends at its ends."""
    node = floating.nodes["/model.1/level32/Conv"]
    source = node.input[0]
    model = floating.quantized({node.name: "int8"}, fake_quant.Form(inputs, 0, axis))
    for name in (source, f"{source}/dq"):
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed, names = session.get_inputs()[0].name, [source, f"{source}/dq"]
    seen = [session.run(names, {feed: tensor}) for tensor, _ in floating._placed]
    # Brighter than any image that the ranges come from: all of it is cut.
    seen.append(session.run(names, {feed: np.full_like(floating._placed[0][0], 3.0)}))
    plain = np.concatenate([one for one, _ in seen[:-1]])
    for channel in range(plain.shape[1]):
        values = plain if axis is None else plain[:, channel]
        low, high = min(values.min(), 0.0), max(values.max(), 0.0)
        if inputs == "fp8":
            every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(float)
            grid = np.unique(every[np.isfinite(every)]) * max(-low, high) / 448
        else:
            steps = {"int8": 255, "int4": 15}[inputs]
            grid = (np.arange(steps + 1) - round(-low / ((high - low) / steps))) * (high - low) / steps
        for one, rounded in seen:
            wanted = np.abs(one[:, channel, ..., None] - grid).min(-1)
            step = np.diff(grid).max()
            assert np.abs(rounded[:, channel] - one[:, channel]) == pytest.approx(wanted, abs=1e-3 * step + 1e-6)


def test_the_level_that_sees_hurts_most(floating: fake_quant.FloatGraph) -> None:
    """Only the stride-32 level answers; what the head notices is it and what feeds it."""
    alone = layerwise.sqnr_alone(floating, "int4", fake_quant.EIGHT_BIT_INPUTS, progress=lambda _: None)
    assert layerwise.most_sensitive(alone, 1)[0] in ("/model.0/Conv", "/model.1/level32/Conv")
    layers = layerwise.measure(floating, "int4", fake_quant.EIGHT_BIT_INPUTS, progress=lambda _: None)
    assert [layer.alone.sqnr_db for layer in layers] == sorted(layer.alone.sqnr_db for layer in layers)
    # Leaving one layer out costs no less than quantizing another one alone.
    worst = layers[0]
    assert all(worst.alone.sqnr_db >= other.leave_one_out.sqnr_db - 3 for other in layers if other is not worst)


def test_an_artifact_s_convolutions_are_imitated_one_by_one(floating: fake_quant.FloatGraph) -> None:
    """What a convolution costs with an artifact's own weight and scales is what quantizing it that way alone costs."""
    dtypes = dict.fromkeys(list(floating.nodes)[1:], "int8")
    stored = fake_quant.FloatGraph.quantized(floating, dtypes, fake_quant.EIGHT_BIT_INPUTS)
    quantizers = graph.input_quantizers(stored)
    assert set(quantizers) == set(dtypes)
    for name, quantizer in quantizers.items():
        alone = floating.imitating(name, fake_quant.rounded(floating.weight(name), "int8"), quantizer)
        wanted = floating.sqnr(floating.quantized({name: "int8"}, fake_quant.EIGHT_BIT_INPUTS))
        assert floating.sqnr(alone) == pytest.approx(wanted, abs=1e-3)
    artifact = assignment.stored(floating, qcdq.at_opset(floating.model, qcdq.INT4_OPSET), dtypes)
    found = layerwise.sqnr_of_artifact(floating, artifact, progress=lambda _: None)
    assert found == {
        name: pytest.approx(floating.sqnr(floating.quantized({name: "int8"}, fake_quant.WEIGHTS_ONLY)), abs=1e-3)
        for name in dtypes
    }


KINDS = ("int4", "int8", "fp8", bit_allocation.FLOAT)


def test_stored_weights_are_the_rounded_ones(floating: fake_quant.FloatGraph, tmp_path: Path) -> None:
    """Every dtype in the file is what was asked for, and computes what fake quantization does."""
    dtypes = dict(zip(floating.nodes, KINDS, strict=True))
    stored = assignment.stored(floating, qcdq.at_opset(floating.model, qcdq.INT4_OPSET), dtypes)
    found = {w.node: w.dtype for w in graph.structure(stored).weights}
    names = {"int4": "INT4", "int8": "INT8", "fp8": "FLOAT8E4M3FN", bit_allocation.FLOAT: "FLOAT"}
    assert found == {node: names[dtype] for node, dtype in dtypes.items()}
    rounded = {node: dtype for node, dtype in dtypes.items() if dtype != bit_allocation.FLOAT}
    assert floating.sqnr(stored) == pytest.approx(floating.sqnr(floating.quantized(rounded, fake_quant.WEIGHTS_ONLY)))
    onnx.save(stored, tmp_path / "model.onnx")
    session = runtime.open_session(tmp_path / "model.onnx", runtime.deployed_options("mixed", weights_only=True))
    assert floating.agreement(session) == floating.harm(stored).agreement
