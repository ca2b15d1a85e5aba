"""Half precision: heads whose decode tail reads a tensor twice, and artifacts whose integers stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from lowbit import graph, runtime
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet
from lowbit.detector import find_detector
from lowbit.errors import BuildError
from lowbit.quantize import Job, half
from tests.unit import toys
from tests.unit.graphs import array, make_model, node

SIZE = 320


@pytest.mark.parametrize("name", ["yolov8n@random", "yolo11n@random"])
def test_a_decoded_head_survives(name: str, tmp_path: Path) -> None:
    """Ultralytics' tail slices and adds the same distances twice; boxes are those of float32, but for rounding."""
    source, output = tmp_path / "float.onnx", tmp_path / "half.onnx"
    find_detector(name, size=SIZE).export(source)
    spec = InputSpec(SIZE)
    job = Job("fp16", {}, source, {}, spec, CalibrationSet(tmp_path, ()), output, tmp_path, lambda _: None)
    half.build(job)
    onnx.checker.check_model(str(output), full_check=True)
    image = np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32)
    one, two = (
        runtime.open_session(path, runtime.SessionOptions()).run(None, {"images": image})[0]
        for path in (source, output)
    )
    assert one.dtype == two.dtype == np.float32
    # Random weights amplify a rounding here and there, and scores near 0.5 move with it; a wrong graph is wrong everywhere.
    assert np.median(np.abs(one - two)[:, :4]) < 0.5 and np.median(np.abs(one - two)[:, 4:]) < 0.01
    kinds = {tensor.data_type for tensor in graph.load(output).graph.initializer if len(tensor.dims) == 4}
    assert onnx.TensorProto.FLOAT16 in kinds and output.stat().st_size < 0.6 * source.stat().st_size


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """The toy detector's Q/DQ graph, to be half precision outside its integers."""
    source = toys.make_detector(tmp_path / "toy.onnx")
    (tmp_path / "start").mkdir()
    toys.make_qcdq(source, tmp_path / "start" / "model.onnx")
    calibration = CalibrationSet(tmp_path, ())
    settings, spec, output = {"start": "int8"}, InputSpec(toys.SIZE), tmp_path / "model.onnx"
    return Job(
        "int8-fp16", settings, source, {}, spec, calibration, output, tmp_path, lambda _: None, start=tmp_path / "start"
    )


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_an_artifact_keeps_its_integers_and_is_float16_around_them(job: Job) -> None:
    assert job.start is not None
    info = half.build(job)
    before, after = graph.load(job.start / "model.onnx"), graph.load(job.output)
    onnx.checker.check_model(after, full_check=True)
    assert graph.opset(after) == 19
    one, two = stored(before), stored(after)
    scales = {n.input[1] for n in after.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert len(scales) == 5 and {two[name].dtype for name in scales} == {np.dtype(np.float16)}
    integers = [name for name in one if one[name].dtype == np.int8]
    assert len(integers) > 5 and all(np.array_equal(one[name], two[name]) for name in integers)
    # Channels of zeros, whose scale float16 does not have: 65 of two levels and 64 of the third, and none of TensorRT's 0.
    assert info["rounded_again"] == 66 + 66 + 64 and all((two[name] > 0).all() for name in scales)
    convolutions = {n.output[0] for n in after.graph.node if n.op_type == "Conv"}
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(after).graph.value_info}
    assert {types[name] for name in convolutions} == {TensorProto.FLOAT16}
    image = np.random.default_rng(0).random((1, 3, toys.SIZE, toys.SIZE), np.float32)
    found = [
        runtime.open_session(path, runtime.deployed_options("int8")).run(None, {"images": image})[0]
        for path in (job.start / "model.onnx", job.output)
    ]
    assert found[1].dtype == np.float32 and np.abs(found[1] - found[0]).max() < 0.05


def test_a_weight_whose_scale_float16_has_not_is_rounded_again() -> None:
    """8e-8 is 6e-8 in float16: with the same integers the weights were a quarter less."""
    values = np.array([[100, -128], [100, -128]], np.int8)
    model = make_model(
        [node("DequantizeLinear", ["w", "s"], "d", "/w", axis=0), node("Identity", ["d"], "y", "/y")],
        [array(values, "w"), array(np.array([8e-8, 0.01], np.float32), "s")],
    )
    assert half.fit_scales(model) == 1
    found = stored(model)
    assert found["s"].tolist() == [np.float32(2.0**-24), np.float32(0.01)]
    assert found["w"].tolist() == [[127, -128], [100, -128]]  # 134 and -172, cut


def test_fp8_weights_are_rounded_again_too() -> None:
    scale = np.float32(4e-8)
    weight = onnx.helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, [2], np.array([3.0, -448.0], np.float32))
    model = make_model(
        [node("DequantizeLinear", ["w", "s"], "d", "/w"), node("Identity", ["d"], "y", "/y")],
        [weight, array(scale, "s")],
    )
    assert half.fit_scales(model) == 1
    found = stored(model)
    assert found["s"] == np.float32(2.0**-24)
    ratio = float(scale / 2.0**-24)
    assert found["w"].astype(np.float32) == pytest.approx([3 * ratio, -448 * ratio], rel=1 / 16)


def test_a_wrong_weight_is_an_error() -> None:
    weight = np.array([[0.5, 1.0], [0.1, 0.2]], np.float32)
    half.check_weights({"/Conv": weight}, {"/Conv": weight * np.float32(1.001)})
    with pytest.raises(BuildError, match="/Conv: its weights are others"):
        half.check_weights({"/Conv": weight}, {"/Conv": weight * np.float32(1.02)})
    with pytest.raises(BuildError, match="/Conv"):
        half.check_weights({"/Conv": weight}, {})
