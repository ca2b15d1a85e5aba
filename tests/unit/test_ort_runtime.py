"""ONNX Runtime's providers: nothing falls back in silence, and what ran where is told. Without a GPU: ONNX Runtime's own
session class is the boundary that is faked."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from lowbit import capability
from lowbit.errors import LowbitError, UnavailableError
from lowbit.evaluate import Case, Evaluation, Given
from lowbit.measure.executed_kernels import macs_by_node
from lowbit.runtime import SessionOptions, Share, find_runtime, ort, runtimes, tensorrt
from lowbit.schemes import find_scheme
from lowbit.store.store import Store
from tests.unit import toys

CUDA, TRT = ort.Cuda(), tensorrt.TensorRt()
TENSOR = np.zeros((1, 3, toys.SIZE, toys.SIZE), np.float32)


@dataclass
class Node:
    """As ``OrtEpAssignedNode`` of ONNX Runtime."""

    name: str
    op_type: str


@dataclass
class Part:
    """As ``OrtEpAssignedSubgraph``."""

    ep_name: str
    nodes: list[Node]

    def get_nodes(self) -> list[Node]:
        return self.nodes


@dataclass
class Fake:
    """A session of ONNX Runtime that has ``providers`` and gave them ``parts``."""

    providers: list[str] = field(default_factory=lambda: [CUDA.title, "CPUExecutionProvider"])
    parts: list[Part] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    runs: int = 0

    def made(self, model: str, settings: Any, *, providers: Any, enable_fallback: int = 0) -> Fake:
        """As ``onnxruntime.InferenceSession``."""
        self.options = providers[0][1]
        return self

    def get_providers(self) -> list[str]:
        return self.providers

    def get_provider_graph_assignment_info(self) -> list[Part]:
        return self.parts

    def get_inputs(self) -> list[Any]:
        return [Node("images", "")]

    def run(self, names: Any, feed: Any) -> list[Any]:
        self.runs += 1
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")


def open_with(monkeypatch: pytest.MonkeyPatch, runtime: ort.GpuProvider, fake: Fake, path: Path) -> ort.OrtSession:
    """Open ``path`` as if the GPU and its libraries were there, and ONNX Runtime made ``fake``."""

    def make(model: str, settings: Any, *, providers: list[tuple[str, dict[str, str]]], enable_fallback: int) -> Fake:
        assert enable_fallback == 0
        assert settings.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
        return fake.made(model, settings, providers=providers)

    monkeypatch.setattr(type(runtime), "reason", lambda self: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    path.write_bytes(b"engines are kept by the file's content")
    return runtime.open(path, SessionOptions(runtime.name))


@pytest.mark.parametrize("runtime", [CUDA, TRT], ids=repr)
def test_a_provider_that_does_not_start_is_no_cpu_session(
    runtime: ort.GpuProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ONNX Runtime itself: it leaves out CUDA without an exception, and refuses TensorRT with one."""
    if runtime.library_error() is None:
        pytest.skip(f"{runtime.title} can be loaded here")
    monkeypatch.setattr(type(runtime), "reason", lambda self: None)
    with pytest.raises(UnavailableError, match=r"cannot open shared object file"):
        runtime.open(toys.make_detector(tmp_path / "toy.onnx"), SessionOptions(runtime.name))


def test_a_provider_that_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError, match=r"CUDAExecutionProvider is built in but did not start"):
        open_with(monkeypatch, CUDA, Fake(["CPUExecutionProvider"]), tmp_path / "x.onnx")


def test_a_provider_that_fails_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    session = open_with(monkeypatch, CUDA, fake, tmp_path / "x.onnx")
    with pytest.raises(LowbitError, match=r"x\.onnx: CUDAExecutionProvider failed in a run \(CUDA failure 700"):
        session.run(None, {"images": TENSOR})
    assert fake.runs == 1


PARTS = [
    Part(CUDA.title, [Node("a", "Conv"), Node("b", "Sigmoid")]),
    Part("CPUExecutionProvider", [Node("c", "QLinearConv"), Node("d", "TopK")]),
]


def test_a_provider_that_takes_part_of_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = r"1 convolutions and matrix products are not on CUDAExecutionProvider.*: c \(CPUExecutionProvider\)\."
    with pytest.raises(LowbitError, match=wanted):
        open_with(monkeypatch, CUDA, Fake(parts=PARTS), tmp_path / "x.onnx")


def test_nodes_without_weights_may_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [PARTS[0], Part("CPUExecutionProvider", [Node("d", "TopK")])]
    session = open_with(monkeypatch, CUDA, Fake(parts=parts), tmp_path / "x.onnx")
    assert session.shares({"a": 70}) == {CUDA.title: Share(2, 70), "CPUExecutionProvider": Share(1, 0)}


def test_onnxruntime_tells_its_assignment(tmp_path: Path) -> None:
    """Of a real session: every multiply-accumulate is somebody's."""
    path = toys.make_detector(tmp_path / "toy.onnx")
    macs = macs_by_node(path)
    cpu = ort.Cpu()
    raw = cpu.create(path, SessionOptions(config=(ort.RECORD_ASSIGNMENT,)))
    session = ort.BoundSession(raw, path, cpu.title)
    session.check_assignment()
    assert session.shares(macs)[cpu.title].macs == sum(macs.values()) > 0


def test_a_session_with_a_cuda_graph_meets_no_plain_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake([TRT.title])
    options = SessionOptions("trt", provider_config=(tensorrt.CUDA_GRAPH,))
    session = open_with(monkeypatch, TRT, fake, tmp_path / "x.onnx")
    assert tensorrt.CUDA_GRAPH[0] not in fake.options
    with pytest.raises(ValueError, match=r"must not capture a CUDA graph"):
        TRT.open(tmp_path / "x.onnx", options)
    graphed = Fake([TRT.title])
    bound: list[Any] = []

    class Bound:
        def __init__(self, raw: Any, tensor: Any, device: str) -> None:
            bound.append(raw)
            self.outputs = [onnxruntime.OrtValue.ortvalue_from_numpy(TENSOR)]

        def __call__(self) -> None:
            pass

    def make(model: str, settings: Any, *, providers: Any, enable_fallback: int) -> Fake:
        graphed.options = providers[0][1]
        return graphed

    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    monkeypatch.setattr(tensorrt, "BoundRun", Bound)
    monkeypatch.setattr(fake, "run", lambda names, feed: [TENSOR])
    session.timed_run(TENSOR)
    assert graphed.options[tensorrt.CUDA_GRAPH[0]] == "1" and bound == [graphed] and graphed.runs == 0
    monkeypatch.setattr(fake, "run", lambda names, feed: [TENSOR + 1])
    with pytest.raises(LowbitError, match="CUDA graph gives other outputs"):
        session.timed_run(TENSOR)


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_tensorrt_gets_no_precision_flags(precision: str) -> None:
    """With trt_fp16_enable or trt_int8_enable the network is not strongly typed."""
    assert TRT.options(precision).provider_config == ()


@pytest.mark.parametrize(("on", "stated"), [(True, "1"), (False, "0")])
def test_an_option_decides_on_tf32_and_is_stated(tmp_path: Path, on: bool, stated: str) -> None:
    """In the options that sessions are made with, that results have, and that measurements are kept under."""
    evaluation = Evaluation(Store(tmp_path), Given(tf32=on), lambda _: None)
    fp32 = find_scheme("fp32")
    options = evaluation.options(Case("shapes10n", fp32, CUDA))
    assert options.as_json()["provider_config"] == {"use_tf32": stated}
    assert evaluation.timed_options(Case("shapes10n", fp32, CUDA)) == options
    assert (
        evaluation.options(Case("shapes10n", fp32, find_runtime("openvino"))).provider_config
        == find_runtime("openvino").options("fp32").provider_config
    )


def test_tensorrt_is_skipped_where_tf32_must_not_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's provider has no option for it, so that a time without TF32 would be one with it."""
    monkeypatch.setattr(capability, "missing", lambda scheme, runtime: None)  # as on a machine with a GPU
    for on in (True, False):
        evaluation = Evaluation(Store(tmp_path), Given(tf32=on), lambda _: None)
        why = evaluation.unable(Case("shapes10n", find_scheme("fp32"), TRT), timed=True, scored=True)
        assert why is None if on else why is not None and "TF32" in why


def test_runtimes_are_found_and_their_names_are_their_own() -> None:
    assert next(iter(runtimes())) == "cpu"
    assert {"cpu", "openvino", "cuda", "trt"} <= runtimes().keys()
    assert len({one.title for one in runtimes().values()}) == len(runtimes())
    with pytest.raises(LowbitError, match=r"no runtime 'tpu'; known: cpu, "):
        find_runtime("tpu")


def test_sessions_are_made_in_one_package() -> None:
    """Elsewhere nobody would switch the fallback off."""
    package = Path(ort.__file__).parents[1]
    calls = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "InferenceSession"
    }
    assert calls == {"runtime/ort.py", "runtime/in_memory.py"}


def test_engines_of_the_provider_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's cache tells no weights apart; timings are shared."""
    places = []
    for content in (b"one", b"two", b"one"):
        fake, path = Fake([TRT.title]), tmp_path / "x.onnx"
        path.write_bytes(content)
        monkeypatch.setattr(onnxruntime, "InferenceSession", fake.made)
        TRT.create(path, SessionOptions("trt", cache=tmp_path / "engines"))
        assert (fake.options["trt_engine_cache_enable"], fake.options["trt_timing_cache_enable"]) == ("1", "1")
        places.append((fake.options["trt_engine_cache_path"], fake.options["trt_timing_cache_path"]))
    assert places[0] == places[2] != places[1] and len({timings for _, timings in places}) == 1
    assert all(Path(engines).is_dir() and Path(engines).is_relative_to(tmp_path) for engines, _ in places)
    assert "cache" not in SessionOptions("trt", cache=tmp_path).as_json()
