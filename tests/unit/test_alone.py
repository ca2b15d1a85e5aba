"""What deploying an artifact costs, measured in processes of their own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lowbit.errors import LowbitError
from lowbit.measure import alone
from lowbit.measure.alone import Deployed, footprint, over_processes, speedup
from lowbit.runtime import SessionOptions

TENSOR = np.ones((1, 3, 8, 8), np.float32)
MEGABYTE = 1_000_000


def quiet(_: object) -> None:
    """No progress is shown."""


def heavy(path: Path, megabytes: int) -> Deployed:
    """A graph whose weights take that much, random, so that no page of them is shared."""
    count = megabytes * MEGABYTE // 4 // 192
    weights = np.random.default_rng(0).random((192, count), dtype=np.float32)
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "w"], ["product"]),
        helper.make_node("ReduceMean", ["product"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "heavy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([1, 192]), "flat")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return Deployed(path, SessionOptions(threads=1))


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process is enough to see what a process measures."""
    monkeypatch.setattr(alone, "PROCESSES", 1)


@pytest.mark.usefixtures("once")
def test_memory_is_what_the_artifact_adds(tmp_path: Path) -> None:
    """Its weights are in it; Python, the runtime's library and what this process holds are not."""
    light, large = heavy(tmp_path / "light.onnx", 1), heavy(tmp_path / "large.onnx", 120)
    before, after = footprint(light, TENSOR, quiet), footprint(large, TENSOR, quiet)
    assert before.memory_bytes < 60 * MEGABYTE < before.peak_rss_bytes
    assert 110 * MEGABYTE < after.memory_bytes - before.memory_bytes < 400 * MEGABYTE
    assert after.peak_rss_bytes > after.memory_bytes
    assert before.load_seconds > 0 and before.processes == 1


def test_a_speed_up_is_of_several_processes(tmp_path: Path) -> None:
    """A hundred times the arithmetic is slower on any machine."""
    light, large = heavy(tmp_path / "light.onnx", 1), heavy(tmp_path / "large.onnx", 100)
    found = speedup(large, light, TENSOR, quiet)
    assert len(found.by_process) == alone.PROCESSES >= 3
    assert found.ratio > 1 and min(found.by_process) <= found.ratio <= max(found.by_process)


def test_the_interval_is_students_of_the_logarithms_of_the_processes() -> None:
    """By hand for three: t with two degrees of freedom is 4.303 two-sided and 2.920 one-sided at 95 %."""
    found = over_processes([1.9, 2.0, 2.1])
    logs = [math.log(ratio) for ratio in (1.9, 2.0, 2.1)]
    mean = sum(logs) / 3
    error = math.sqrt(sum((one - mean) ** 2 for one in logs) / 2 / 3)
    assert found.ratio == pytest.approx((1.9 * 2.0 * 2.1) ** (1 / 3))
    for got, quantile in ((found.interval, 4.3027), (found.bounds, 2.9200)):
        assert got == pytest.approx((math.exp(mean - quantile * error), math.exp(mean + quantile * error)), rel=1e-4)


@pytest.mark.usefixtures("once")
def test_a_file_that_does_not_load_is_an_error_with_the_log(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"none")
    with pytest.raises(LowbitError, match=r"measuring broken\.onnx failed .*[\s\S]*can't load it[\s\S]*The log ends"):
        footprint(Deployed(broken, SessionOptions(threads=1)), TENSOR, quiet)
