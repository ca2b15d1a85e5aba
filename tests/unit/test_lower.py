"""Lowering another tool's graph for the CPU: its weights and scales stay, what it leaves out is added."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lowbit import graph, runtime
from lowbit.data.letterbox import InputSpec, preprocess
from lowbit.data.lists import load_calibration
from lowbit.detector import heads
from lowbit.errors import UnavailableError
from lowbit.measure.executed_kernels import kernels
from lowbit.quantize import Job, lower
from tests.unit import toys


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """The toy detector, its graph as Brevitas writes one (signed, with a Clip), and images."""
    source = toys.make_detector(tmp_path / "toy.onnx")
    (tmp_path / "start").mkdir()
    toys.make_qcdq(source, tmp_path / "start" / "model.onnx")
    return Job(
        scheme="w8a8-brevitas-cpu",
        settings={"start": "w8a8-brevitas"},
        source=source,
        identity={},
        input=InputSpec(toys.SIZE),
        calibration=load_calibration(toys.make_calibration(tmp_path / "calibration")),
        output=tmp_path / "model.onnx",
        unfinished=tmp_path,
        progress=lambda _: None,
        start=tmp_path / "start",
    )


def test_signed_scales_become_unsigned(job: Job) -> None:
    assert job.start is not None
    found = graph.activation_scales(graph.load(job.start / "model.onnx"))
    assert set(found) == {"images", "features"}
    scale, zero = found["images"]
    assert (float(scale), int(zero), zero.dtype) == (pytest.approx(1 / 127), 128, np.uint8)


def test_weights_are_what_the_integers_say(job: Job) -> None:
    assert job.start is not None
    model = graph.load(job.start / "model.onnx")
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found = graph.dequantized_weights(model)["/model.1/level32/Conv"]
    expected = stored["w32_int8"].astype(np.float32) * stored["w32_scale"][:, None, None, None]
    assert found == pytest.approx(expected)


def test_the_lowered_graph_runs_in_integers_and_sees_the_same(job: Job) -> None:
    assert job.start is not None
    info = lower.build(job)
    # The first convolution is narrow: better in float, with the image that it reads.
    assert info["kept_scales"] == 1 and info["float_convolutions"] == ["/model.0/Conv"]
    lowered, start = graph.load(job.output), graph.load(job.start / "model.onnx")
    structure = graph.structure(lowered)
    assert structure.input_dtypes == ("UINT8",)
    # The artifact's own scale and integers, not new ones.
    assert graph.activation_scales(lowered)["features"] == graph.activation_scales(start)["features"]
    assert "images" not in graph.activation_scales(lowered)
    mine, theirs = graph.dequantized_weights(lowered), graph.dequantized_weights(start)
    for name, values in theirs.items():
        if name == "/model.0/Conv":
            assert name not in mine
            continue
        found = mine[name]
        assert found == pytest.approx(values, abs=1e-6 * float(np.abs(values).max()))
    options = runtime.SessionOptions()
    image, _ = preprocess(job.calibration.paths[0], job.input)
    assert kernels(job.output, options, image).int8_mac_fraction == pytest.approx(594 / 603)
    head = heads.recognise(job.source, lowered)
    seen = [
        head.decode(runtime.open_session(path, options).run(None, {"images": image}))
        for path in (job.start / "model.onnx", job.output)
    ]
    confident = [
        [d for d in zip(s.classes, np.rint(s.boxes).tolist(), s.scores, strict=True) if d[2] > 0.5] for s in seen
    ]
    assert len(confident[0]) == len(confident[1]) > 0
    assert all(one[:2] == two[:2] for one, two in zip(*confident, strict=True))


def change(path: Path, name: str, how: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """The file's graph with other values in a stored tensor of the same dtype."""
    model = onnx.load(str(path))
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(how(values).astype(values.dtype), name))
    return model


def test_clipped_weights_keep_their_integers(job: Job) -> None:
    """A scale by least squares is not the largest weight's, which is what ONNX Runtime would make of it."""
    assert job.start is not None
    path = job.start / "model.onnx"
    onnx.save(change(path, "w32_int8", lambda values: values // 2), str(path))
    lower.build(job)
    lowered = graph.load(job.output)
    found, given = (
        (graph.weight_scales(one)["/model.1/level32/Conv"], graph.dequantized_weights(one)["/model.1/level32/Conv"])
        for one in (lowered, graph.load(path))
    )
    used = given[1].reshape(len(given[1]), -1).any(1)
    assert used.any() and np.array_equal(found[0][used], given[0][used])
    assert np.array_equal(found[1], given[1])


def test_an_asymmetric_weight_is_refused(job: Job) -> None:
    assert job.start is not None
    path = job.start / "model.onnx"
    onnx.save(change(path, "w32_zero", lambda values: values + 100), str(path))
    with pytest.raises(UnavailableError, match=r"level32/Conv is not the artifact's any more: it is no symmetric INT8"):
        lower.build(job)


def test_what_is_not_kept_is_found(job: Job) -> None:
    assert job.start is not None
    lower.build(job)
    artifact, lowered = graph.load(job.start / "model.onnx"), onnx.load(str(job.output))
    scales = graph.activation_scales(artifact)
    images = [preprocess(job.calibration.paths[0], job.input)[0]]
    found = lower.prove(artifact, lowered, scales, images)
    assert found["kept_sqnr_db"] > 100 and found["raw_head_sqnr_db"] > 20
    for name, said in (("b32_quantized", "the bias of /model.1/level32/Conv"), ("w32_quantized", "was not kept")):
        damaged = change(job.output, name, lambda values: values * 0.9)
        with pytest.raises(UnavailableError, match=said):
            lower.prove(artifact, damaged, scales, images)
    wrong = scales | {"features": (scales["features"][0] * np.float32(1.01), scales["features"][1])}
    with pytest.raises(UnavailableError, match="features is quantized otherwise"):
        lower.prove(artifact, lowered, wrong, images)


def test_a_convolution_in_float_stays_so(job: Job) -> None:
    assert job.start is not None
    model = onnx.load(str(job.start / "model.onnx"))
    node = next(n for n in model.graph.node if n.name == "/model.1/level8/Conv")
    weights = graph.dequantized_weights(model)[node.name]
    model.graph.initializer.append(numpy_helper.from_array(weights, "float8"))
    node.input[1] = "float8"
    onnx.save(model, str(job.start / "model.onnx"))
    assert lower.build(job)["float_convolutions"] == ["/model.0/Conv", "/model.1/level8/Conv"]
    stored = {w.node: w.dtype for w in graph.structure(graph.load(job.output)).weights}
    assert stored["/model.1/level8/Conv"] == "FLOAT" and stored["/model.1/level32/Conv"] == "INT8"


def test_an_artifact_without_scales_is_refused(job: Job) -> None:
    assert job.start is not None
    (job.start / "model.onnx").write_bytes(job.source.read_bytes())
    with pytest.raises(UnavailableError, match="none of its quantized activations is a tensor of"):
        lower.build(job)
