"""What the TensorRT engine inspector says, read: both ways in which its versions name a tensor's type."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowbit.errors import UnavailableError
from lowbit.runtime import tensorrt


def layer(name: str, kind: str, *inputs: str, **more: Any) -> dict[str, Any]:
    tensors = [{"Name": "x", "Location": "Device", "Dimensions": [1, 8, 4, 4], "Format/Datatype": t} for t in inputs]
    return {"Name": name, "LayerType": kind, "Inputs": tensors, "Outputs": tensors[:1], **more}


def read(*layers: Any) -> tensorrt.Precisions:
    return tensorrt.read_precisions(json.dumps({"Layers": list(layers), "Bindings": ["images", "output0"]}))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Row major linear FP32", "FP32"),
        ("Channel major FP16 format where channel % 8 == 0", "FP16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "INT8"),
        ("Row major Int32 format", "INT32"),
        ("Float", "FP32"),
        ("Half", "FP16"),
        ("BFloat16", "BF16"),
        ("Int8", "INT8"),
        ("FP8", "FP8"),
        ("Int4", "INT4"),
        ("Int64", "INT64"),
        ("Bool", "BOOL"),
        ("something new", "something new"),
        ("", "unknown"),
    ],
)
def test_types_of_both_spellings(said: str, kind: str) -> None:
    assert read(layer("a", "PointWiseV2", said)).layers == {kind: 1}


def test_what_computes_is_counted_and_what_moves_is_not() -> None:
    found = read(
        layer("to int8", "Reformat", "Float"),
        layer("first", "CaskConvolution", "Float", ParameterType="Convolution"),
        layer("second", "CaskConvolution", "Int8", "Half", ParameterType="Convolution"),
        layer("third", "CaskConvActPool", "Half"),
        layer("fourth", "CaskConvolution", "FP8"),
        layer("softmax", "kgen", "Float"),
        layer("weights", "Constant"),
    )
    assert found.layers == {"FP32": 2, "INT8": 1, "FP16": 1, "FP8": 1}
    assert next(iter(found.layers)) == "FP32"
    assert found.float_convolutions == ("first", "third")


def test_an_engine_that_names_its_layers_only() -> None:
    with pytest.raises(ValueError, match="DETAILED"):
        read("/model.0/conv/Conv")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_there_is_a_reason_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"pip install -c constraints.txt .lowbit\[tensorrt\]"):
        tensorrt.Engine(tmp_path / "none.onnx", np.zeros((1, 3, 32, 32), np.float32))


def test_a_library_that_does_not_load_is_told_with_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision is the dynamic linker's: a package whose library is of another version is no TensorRT here."""
    monkeypatch.setattr(tensorrt, "LIBRARY", "libnvinfer.so.no-such-version")
    versions = {"tensorrt-cu13": None, "tensorrt": "11.0.0.1"}
    monkeypatch.setattr(tensorrt, "found_versions", lambda: versions)
    tensorrt.library_reason.cache_clear()
    try:
        said = str(tensorrt.library_reason())
    finally:
        tensorrt.library_reason.cache_clear()
    assert "libnvinfer.so.no-such-version: cannot open shared object file" in said
    assert "found: tensorrt 11.0.0.1. pip install -c constraints.txt 'lowbit[tensorrt]'" in said


def test_what_loads_gives_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "LIBRARY", "libc.so.6")
    tensorrt.library_reason.cache_clear()
    assert tensorrt.library_reason() is None
    tensorrt.library_reason.cache_clear()
