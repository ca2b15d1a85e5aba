"""TensorRT's libraries: which were found, and what is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from lowbit.errors import UnavailableError
from lowbit.runtime import engine, tensorrt


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_there_is_a_reason_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"pip install -c constraints.txt .lowbit\[tensorrt\]"):
        engine.Engine(tmp_path / "none.onnx", np.zeros((1, 3, 32, 32), np.float32), tmp_path, {})


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
