"""TensorRT's parser on small graphs, where TensorRT for RTX is installed; it needs no GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet
from lowbit.errors import UnavailableError
from lowbit.quantize import Job, half
from lowbit.runtime import network
from tests.unit import toys
from tests.unit.graphs import array

needs_rtx = pytest.mark.skipif(network.rtx_reason() is not None, reason=str(network.rtx_reason()))


@pytest.fixture
def qcdq(tmp_path: Path) -> Path:
    """The toy detector with signed symmetric Q/DQ, without the Clip that Brevitas writes for narrower ranges."""
    (tmp_path / "start").mkdir()
    path = toys.make_qcdq(toys.make_detector(tmp_path / "toy.onnx"), tmp_path / "start" / "model.onnx")
    model = onnx.load(str(path))
    clipped = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Clip"}
    kept = [node for node in model.graph.node if node.op_type != "Clip"]
    for node in kept:
        node.input[0] = clipped.get(node.input[0], node.input[0])
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.save(model, str(path))
    return path


@needs_rtx
def test_a_symmetric_graph_is_taken_and_built_in_the_types_that_it_states(qcdq: Path) -> None:
    found = network.Network(network.rtx(), qcdq)
    assert found.convolution_types() == dict.fromkeys(
        ["/model.0/Conv", *(f"/model.1/level{stride}/Conv" for stride in (8, 16, 32))], "FLOAT"
    )
    assert len(found.build(found.config())) > 1000


@needs_rtx
def test_float16_scales_make_convolutions_of_half_precision(qcdq: Path, tmp_path: Path) -> None:
    output, spec, none = tmp_path / "half.onnx", InputSpec(toys.SIZE), CalibrationSet(tmp_path, ())
    job = Job("int8-fp16", {"start": "int8"}, qcdq, {}, spec, none, output, tmp_path, lambda _: None, start=qcdq.parent)
    half.build(job)
    found = network.Network(network.rtx(), output)
    assert set(found.convolution_types().values()) == {"HALF"}
    assert found.build(found.config())


@needs_rtx
def test_a_zero_point_is_refused_with_the_parsers_words(qcdq: Path) -> None:
    model = onnx.load(str(qcdq))
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "act_zero")
    zero.CopyFrom(array(np.array(3, np.int8), "act_zero"))
    onnx.save(model, str(qcdq))
    with pytest.raises(UnavailableError, match=r"does not take it.*[Zz]ero"):
        network.Network(network.rtx(), qcdq)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is not None, reason="TensorRT for RTX is installed")
def test_without_it_there_is_a_reason_with_a_remedy() -> None:
    with pytest.raises(UnavailableError, match=r"pip install -c constraints.txt .lowbit\[tensorrt-rtx\]"):
        network.rtx()
