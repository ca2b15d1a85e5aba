"""Half precision on heads whose decode tail reads a tensor twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from lowbit import graph, runtime
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet
from lowbit.detector import find_detector
from lowbit.quantize import Job, half

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
