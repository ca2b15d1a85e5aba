"""Fixtures of the tests that run the suite."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from lowbit import host
from tests.unit.suite import Toy


@pytest.fixture(scope="session", autouse=True)
def without_hypothesis() -> Generator[None]:
    """Sessions of pytest that tests start don't load Hypothesis' plugin, which takes a third of their start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
        yield


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def unknown_gpu(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """The driver is asked again which GPU there is, before the test and after it."""
    monkeypatch.delenv(host.VISIBLE_DEVICES, raising=False)
    host._described.cache_clear()
    yield
    host._described.cache_clear()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """``plugin(name, code)``: a plugin of pytest that the next sessions load with ``-p name``."""

    def write(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    return write
