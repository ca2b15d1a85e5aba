"""From reports to results.json: one entry a case, of what all of its tests recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from lowbit import results
from lowbit.results import Entry, RuntimeRecord, Status
from lowbit_pytest.recording import PARTS, RunRecorder


def report(
    test: str, *parts: Entry, outcome: Literal["passed", "failed", "skipped"] = "passed", why: Any = None
) -> pytest.TestReport:
    """A report of a test's call, as pytest-xdist's controller gets it."""
    said = {PARTS: [part.model_dump(mode="json", exclude_unset=True) for part in parts]}
    place = "test_toy.py", 0, test
    return pytest.TestReport(f"test_toy.py::{test}", place, {}, outcome, why, "call", **said)


def part(**fields: Any) -> Entry:
    return Entry(detector="toy", scheme="int8-ort-minmax", **fields)


def test_the_tests_of_a_case_make_one_entry(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path / "r1", tmp_path)
    checked = RuntimeRecord(provider="CPU", options={}, parity=1.0)
    timed = RuntimeRecord(provider="CPU", options={}, int8_mac_fraction=0.9)
    verdict = part(status=Status.INCONCLUSIVE, reason="the 95 % CI contains the threshold")
    recorder.pytest_runtest_logreport(report("test_map_drop", part(map=0.5, runtime=checked), verdict))
    recorder.pytest_runtest_logreport(report("test_latency", part(runtime=timed)))
    (entry,) = results.read(tmp_path / "r1" / "results.json").entries
    assert entry.map == 0.5 and entry.runtime is not None
    assert (entry.runtime.parity, entry.runtime.int8_mac_fraction) == (1.0, 0.9)
    assert (entry.status, entry.reason) == (Status.INCONCLUSIVE, "the 95 % CI contains the threshold")
    recorder.pytest_runtest_logreport(report("test_structure", part(), outcome="failed", why="it is not low-bit"))
    (entry,) = recorder.results().entries
    assert (entry.status, entry.reason, entry.map) == (Status.ERROR, "it is not low-bit", 0.5)


def test_the_environment_is_asked_once_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks the driver and every package, and a run writes after each test."""
    asked = []
    environment = results.environment
    monkeypatch.setattr(results, "environment", lambda: asked.append(1) or environment())
    recorder = RunRecorder(tmp_path / "r1", tmp_path)
    for test in ("test_map_drop", "test_latency"):
        recorder.pytest_runtest_logreport(report(test, part()))
    assert recorder.results().environment == environment()
    assert len(asked) == 1
