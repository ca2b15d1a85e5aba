"""Input that means harm, or is merely broken: a clear error, in bounded time and memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lowbit import graph
from lowbit.detector import find_detector, heads
from lowbit.detector.checkpoint import load_state
from lowbit.errors import InputError, LowbitError
from lowbit.report.summary import markdown
from lowbit.results import SCHEMA, Entry, Results, Status
from tests.unit import toys


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.make_detector(tmp_path_factory.mktemp("toy") / "toy.onnx")


def test_external_data_cannot_be_read_outside_the_folder(detector: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(36))
    folder = tmp_path / "models"
    folder.mkdir()
    model = onnx.load(str(detector))
    weight = next(t for t in model.graph.initializer if t.name == "w0")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"model\.onnx"):
        graph.load(folder / "model.onnx")


def with_weight(detector: Path, tmp_path: Path, weight: onnx.TensorProto) -> Path:
    model = onnx.load(str(detector))
    next(t for t in model.graph.initializer if t.name == "w0").CopyFrom(weight)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_nan_weights_are_refused(detector: Path, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.full((3, 3, 1, 1), np.nan, np.float32), "w0")
    with pytest.raises(InputError, match="'w0' holds NaN"):
        graph.load(with_weight(detector, tmp_path, weight))


def test_shapes_without_data_are_refused(detector: Path, tmp_path: Path) -> None:
    weight = TensorProto(name="w0", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 20, 1, 1], raw_data=b"1234")
    with pytest.raises(InputError, match="w0"):
        graph.load(with_weight(detector, tmp_path, weight))


def test_a_graph_without_outputs_is_refused(detector: Path, tmp_path: Path) -> None:
    model = onnx.load(str(detector))
    del model.graph.output[:]
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(InputError, match=r"model\.onnx: its graph has no outputs"):
        graph.load(tmp_path / "model.onnx")


def test_an_absurd_input_size_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["images"], ["output0"])
    shape = [1, 3, 1 << 20, 1 << 20]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("images", "output0")]
    model = helper.make_model(helper.make_graph([node], "g", *ends), opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(InputError, match="fixed sides"):
        heads.recognise(tmp_path / "model.onnx", model)
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(InputError, match="fixed sides"):  # and no run has asked for terabytes
        find_detector(str(tmp_path / "model.onnx"))


def test_a_checkpoint_with_nan_is_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(InputError, match="'bad' holds NaN"):
        load_state(path)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_onnx_file_is_read_or_refused(detector: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed, cut or doubled anywhere: no exception but lowbit's own."""
    content = bytearray(detector.read_bytes())
    head = st.integers(0, min(len(content) - 1, 3000)) | st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(head)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(head)]
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    try:
        model = graph.load(path)
        heads.recognise(path, model)
        graph.structure(model)
    except LowbitError as error:
        assert "damaged.onnx" in str(error)


@pytest.mark.parametrize("data_type", [0, 27, 2**30])
def test_a_tensor_of_no_data_type_is_refused(detector: Path, tmp_path: Path, data_type: int) -> None:
    import onnx

    model = onnx.load(str(detector))
    model.graph.initializer[0].data_type = data_type
    path = tmp_path / "damaged.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"damaged\.onnx"):
        graph.load(path)


def test_reports_escape_what_they_print() -> None:
    entry = Entry(
        detector="<script>alert(1)</script>",
        scheme="int8-x|y",
        status=Status.FAILED,
        reason="a <b> | c",
        map=0.5,
        drop=0.1,
    )
    results = Results(schema=SCHEMA, run_id="r", started="now", environment={}, entries=[entry])
    text = markdown(results)
    assert "<script>" not in text
    assert "<b>" not in text
    assert "int8-x\\|y" in text
