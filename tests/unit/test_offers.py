"""Rewrites are offers: what does not fit a graph is left out and said, and the artifact is built all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, version_converter

from lowbit import graph, runtime
from lowbit.data.coco import load_coco
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import load_calibration
from lowbit.detector import heads
from lowbit.errors import BuildError, InputError, UnavailableError
from lowbit.graph import layout
from lowbit.measure.metrics import evaluate
from lowbit.measure.predict import predict
from lowbit.quantize import Job, native, ort, portable
from lowbit.quantize.offers import Offers, prove_layout
from tests.unit import toys

IMAGES = [np.random.default_rng(0).random((1, 3, toys.SIZE, toys.SIZE), np.float32)]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(
        scheme="int8-ort-minmax",
        settings={"calibration_method": "minmax"},
        source=toys.make_detector(tmp_path / "toy.onnx"),
        identity={},
        input=InputSpec(toys.SIZE),
        calibration=load_calibration(toys.make_calibration(tmp_path / "calibration")),
        output=tmp_path / "model.onnx",
        unfinished=tmp_path,
        progress=lambda _: None,
    )


def crash(model: onnx.ModelProto) -> None:
    raise KeyError("level64")


def scale(model: onnx.ModelProto) -> None:
    """Every stored scale or weight of floats a hundredth larger."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(values * np.float32(1.01)), tensor.name))


def cut(model: onnx.ModelProto) -> None:
    """No graph any more: a node reads what nothing gives."""
    model.graph.node[-1].input[0] = "nothing"


STEPS = [("repeat_rows", "copies for upsampling and joins"), ("fold_columns", "layout for integer kernels")]


@pytest.mark.parametrize(("step", "name"), STEPS)
@pytest.mark.parametrize(
    ("damage", "said"), [(crash, "KeyError: 'level64'"), (scale, "computes something else: "), (cut, "")]
)
def test_what_does_not_fit_is_left_out_and_said(
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    name: str,
    damage: Callable[[onnx.ModelProto], None],
    said: str,
) -> None:
    monkeypatch.setattr(layout, step, damage)
    left = {entry["rewrite"]: entry["reason"] for entry in ort.build(job)["left_out"]}
    assert left.pop("lean decode tail") == "toy.onnx: has a raw head; only an end-to-end head skips anchors."
    assert list(left) == [name] and left[name].startswith(said) and left[name]
    dataset = load_coco(toys.make_dataset(tmp_path))
    session = runtime.open_session(job.output, runtime.SessionOptions())
    found = predict(session, heads.recognise(job.source, graph.load(job.source)), dataset, job.input)
    assert evaluate(dataset, found).map == pytest.approx(1)
    assert graph.activation_scales(graph.load(job.output))


def test_what_fits_is_applied(job: Job) -> None:
    assert [entry["rewrite"] for entry in ort.build(job)["left_out"]] == ["lean decode tail"]


def test_an_artifact_that_saturates_still_stops_the_build(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "fit_floats", lambda *_: {})
    model = onnx.load(str(job.source))
    for tensor in model.graph.initializer:
        if tensor.name == "w32":
            values = np.ones(tensor.dims, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, str(job.source))
    with pytest.raises(BuildError, match="its products pass 16 bits"):
        ort.build(job)


def test_images_that_can_t_be_read_are_no_reason_to_leave_anything_out() -> None:
    def unreadable(_: onnx.ModelProto, __: onnx.ModelProto) -> None:
        raise InputError("a.jpg: is damaged")

    with pytest.raises(InputError, match=r"a\.jpg"):
        Offers().take("any", onnx.ModelProto(), lambda _: None, unreadable)


def test_outputs_are_compared_where_raw_heads_are_equal(job: Job) -> None:
    model = graph.load(job.source)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    prove_layout(model, changed, IMAGES)
    next(node for node in changed.graph.node if node.op_type == "Concat").input[:] = ["r8", "r8", "r8"]
    with pytest.raises(UnavailableError, match="computes something else"):
        prove_layout(model, changed, IMAGES)


def test_weights_are_stored_as_the_graph_s_own_opset_can(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bits and FP8 need another opset; where the graph can't be converted, INT8 is what is left."""

    def refuse(*_: object) -> None:
        raise RuntimeError("no adapter")

    job = replace(job, scheme="mixed-native-d1.0", settings={"max_drop": 0.01})
    assert native.build(job)["left_out"] == []
    assert graph.opset(graph.load(job.output)) == 21
    monkeypatch.setattr(version_converter, "convert_version", refuse)
    info = native.build(job)
    assert info["left_out"] == [
        {
            "rewrite": "weights in INT4 and FP8",
            "reason": "the graph can't be converted to opset 21: no adapter",
        }
    ]
    built = graph.load(job.output)
    assert graph.opset(built) == 17
    assert {weight.dtype for weight in graph.structure(built).weights} == {"INT8"}
    assert info["agreement_drop"] <= 0.01
