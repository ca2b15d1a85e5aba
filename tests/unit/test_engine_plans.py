"""Engines are built once: kept by artifact, GPU and version, with TensorRT's timing cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lowbit import host
from lowbit.runtime import engine, network, tensorrt
from tests.unit import toys


class Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class Config:
    """A builder's configuration, which refuses timings that are no ``times``."""

    def __init__(self) -> None:
        self.cache = Cache(b"")

    def create_timing_cache(self, content: bytes) -> Cache:
        return Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        taken = cache.content in (b"",) or cache.content.startswith(b"times")
        self.cache = cache if taken else self.cache
        return taken

    def get_timing_cache(self) -> Cache:
        return self.cache


BUILT: list[bytes] = []


class Builder:
    """What :class:`network.Network` is to its callers; a build adds a time to the cache."""

    def __init__(self, api: Any, path: Path) -> None:
        self.log = ["slow", "slow", "odd"]

    def config(self) -> Config:
        return Config()

    def build(self, config: Config) -> bytes:
        BUILT.append(config.cache.content)
        config.cache = Cache((config.cache.content or b"times") + b"+1")
        return b"engine %d" % len(BUILT)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The timing cache that every build started from."""
    BUILT.clear()
    monkeypatch.setattr(engine, "Network", Builder)
    return BUILT


def plan(path: Path, folder: Path, **more: Any) -> engine.Plan:
    return engine.plan_of(toys, path, folder, **more)


def test_one_build_an_artifact(builds: list[bytes], tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"one")
    first, second = plan(model, tmp_path / "e"), plan(model, tmp_path / "e")
    assert (first.data, first.kept, second.data, second.kept) == (b"engine 1", False, b"engine 1", True)
    assert first.log == second.log == ("slow", "odd") and second.seconds == first.seconds > 0
    (tmp_path / "other name.onnx").write_bytes(b"one")
    assert plan(tmp_path / "other name.onnx", tmp_path / "e").kept
    model.write_bytes(b"two")
    assert plan(model, tmp_path / "e").data == b"engine 2" and len(builds) == 2
    assert plan(model, tmp_path / "elsewhere").data == b"engine 3"


def test_builds_share_their_timings(builds: list[bytes], tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        (tmp_path / "model.onnx").write_bytes(content)
        plan(tmp_path / "model.onnx", tmp_path / "e")
    assert builds == [b"", b"times+1"]
    # Of another GPU or version, or damaged: TensorRT refuses it, and the build goes on without.
    (tmp_path / "e" / engine.TIMING_CACHE).write_bytes(b"foreign")
    plan(tmp_path / "model.onnx", tmp_path / "e", again=True)
    assert builds[2:] == [b""] and (tmp_path / "e" / engine.TIMING_CACHE).read_bytes() == b"times+1"


def test_an_engine_without_its_record_is_built_again(builds: list[bytes], tmp_path: Path) -> None:
    """So ends a build that was killed while it wrote."""
    model = tmp_path / "model.onnx"
    model.write_bytes(b"one")
    plan(model, tmp_path)
    next(tmp_path.glob("*.json")).unlink()
    assert not plan(model, tmp_path).kept and plan(model, tmp_path, again=True).data == b"engine 3"


def test_another_gpu_or_version_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    places = set()
    for device in (None, host.Gpu("GPU-1", "NVIDIA L4", 8.9, "580"), host.Gpu("GPU-2", "NVIDIA H100 80GB", 9.0, "580")):
        monkeypatch.setattr(tensorrt, "gpu", lambda device=device: device)
        places |= {tensorrt.place(tmp_path, of).name for of in ("trt 10.16.1.11", "trt 10.17.0.1")}
    assert len(places) == 6 and "NVIDIA-L4-8.9-trt-10.16.1.11" in places


@pytest.mark.skipif(network.rtx_reason() is not None, reason=str(network.rtx_reason()))
def test_a_real_build_is_kept(tmp_path: Path) -> None:
    path = toys.make_detector(tmp_path / "toy.onnx")
    first, second = (engine.plan_of(network.rtx(), path, tmp_path / "e") for _ in range(2))
    assert (first.kept, second.kept) == (False, True) and first.data == second.data and len(first.data) > 1000
