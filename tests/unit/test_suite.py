"""The suite as a user runs it, end to end, on a toy detector: results, workers, progress, skips."""

from __future__ import annotations

import json
import os
import pty
import re
import threading
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lowbit import host, results
from lowbit_pytest.baselines import folder_name
from tests.unit.suite import FLOAT, ROOT, SCHEMES, Toy
from tests.unit.waiting import PATIENCE


def test_a_gate_passes_and_says_all_of_it(toy: Toy) -> None:
    junit = toy.folder / "junit.xml"
    done = toy.pytest("tests/test_accuracy.py", "tests/test_latency.py", "-k", SCHEMES, f"--junitxml={junit}")
    assert done.returncode == 0, done.stdout + done.stderr
    entries = {(e.scheme, e.provider): e for e in toy.results().entries}
    reference, quantized = entries["fp32", "cpu"], entries["int8-ort-minmax", "cpu"]
    assert [e.map_pycocotools for e in (reference, quantized)] == [reference.map, quantized.map] == [1.0, 1.0]
    assert quantized.drop == 0.0
    assert reference.operating_point is None and quantized.operating_point is not None
    assert quantized.operating_point.confidence == 0.25
    assert quantized.operating_point.same_precision is not None
    assert quantized.operating_point.same_precision.at.threshold == 0.25  # the toy's detections are all sure
    assert quantized.status == results.Status.PASSED
    assert quantized.images == 6
    assert quantized.artifact is not None
    assert quantized.artifact.quantized_fraction > 0.99  # all but the first convolution
    assert [left.rewrite for left in quantized.artifact.left_out] == ["lean decode tail"]
    assert quantized.latency is not None
    assert quantized.latency.p50 <= quantized.latency.p99
    assert quantized.latency.speedup_ci is not None
    assert quantized.latency.end_to_end is not None and min(quantized.latency.end_to_end.values()) > 0
    assert [one.batch for one in quantized.latency.batched or ()] == [8]
    summary = (toy.folder / "runs" / "latest" / "summary.md").read_text()
    assert "| int8-ort-minmax | 1.0000 |" in summary
    assert "- Left out of `int8-ort-minmax`: lean decode tail (" in summary
    assert "Ship" in summary or "loses least" in summary
    assert (toy.folder / "step.md").read_text() == summary
    folder = toy.folder / "runs" / "latest"
    page = (folder / "report.html").read_text()
    assert re.search(r"<td>of 8: \d+ \(\d+\.\d\dx\)</td>", page)
    assert "The gate is open" in page and "int8-ort-minmax" in page and "<svg" in page
    assert (folder / "detections" / "toy-int8-ort-minmax.npz").is_file()
    assert next((folder / "artifacts" / "int8-ort-minmax").iterdir()).resolve().is_dir()
    last = done.stdout[done.stdout.index("\nverdict ") :].splitlines()[1:4]
    assert [line.split()[0] for line in last] == ["verdict", "ship", "report"] and "passed" in last[0]
    (judged,) = ElementTree.parse(junit).iterfind(".//testcase[@name='test_map_drop[toy-int8-ort-minmax]']")
    numbers = {one.get("name"): one.get("value") for one in judged.iter("property")}
    assert (numbers["lowbit.map"], numbers["lowbit.drop"]) == ("1.0", "0.0")
    assert numbers["lowbit.artifact_sha256"] == quantized.artifact.sha256 and numbers["lowbit.host"] == quantized.host


def test_timings_run_last_and_on_the_same_cores(toy: Toy, tmp_path: Path, plugin: Callable[[str, str], None]) -> None:
    """Whatever order pytest gives to the parameters of its session fixtures; what ran is read, not what was collected."""
    plugin("cores", CORES)
    files = ("tests/test_latency.py", "tests/test_accuracy.py", "tests/test_artifact.py")
    chosen = f"{SCHEMES} and not cuda and not trt and not openvino"
    done = toy.pytest(*files, "-k", chosen, "-v", "-p", "cores", "--remeasure")
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.findall(r"^tests/(test_\w+)\.py::\S+ PASSED", done.stdout, re.MULTILINE)
    timed = [name == "test_latency" for name in ran]
    assert timed.count(True) == 2 and timed.count(False) > 2
    assert timed == sorted(timed), ran
    cores = re.findall(r"(end_to_end|interleave) on (\[.*\])", (tmp_path / "cores.txt").read_text())
    assert {name for name, _ in cores} == {"end_to_end", "interleave"}
    assert len({where for _, where in cores}) == 1, cores


# A plugin that writes down where the thread that times was allowed to run.
CORES = """
import functools
import os
from pathlib import Path

from lowbit.measure import latency


def watched(time):
    @functools.wraps(time)
    def run(*arguments, **options):
        with Path(__file__).with_suffix(".txt").open("a") as stream:
            print(time.__name__, "on", sorted(os.sched_getaffinity(0)), file=stream)
        return time(*arguments, **options)

    return run


latency.end_to_end = watched(latency.end_to_end)
latency.interleave = watched(latency.interleave)
"""


def test_the_second_run_builds_nothing_and_workers_share_one_run(toy: Toy) -> None:
    chosen = ("tests/test_accuracy.py", "-k", SCHEMES, "-m", "not latency and not gpu")
    toy.pytest(*chosen)
    before = {p: p.stat().st_mtime_ns for p in (toy.folder / "store" / "artifacts").rglob("*")}
    done = toy.pytest(*chosen, "-n", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert before and {p: p.stat().st_mtime_ns for p in (toy.folder / "store" / "artifacts").rglob("*")} == before
    entries = [entry for entry in toy.results().entries if entry.on_default]
    assert {e.scheme: e.map for e in entries} == {"fp32": 1.0, "int8-ort-minmax": 1.0}


def test_a_wrong_field_fails_in_the_test_that_records_it(toy: Toy, plugin: Callable[[str, str], None]) -> None:
    """Named, and not when the run is written, which would lose what the test recorded before."""
    plugin("wrong", "from lowbit import entries\nentries.scored = lambda case, _: entries.part(case, mapp=0.5)\n")
    done = toy.pytest("tests/test_accuracy.py", "-k", FLOAT, "-n", "1", "-p", "wrong")
    assert done.returncode == 1, done.stdout + done.stderr
    (entry,) = toy.results().entries
    assert entry.status is results.Status.ERROR and entry.artifact is not None
    assert entry.reason is not None and "toy-fp32: mapp can't be recorded" in entry.reason


def test_baselines_are_kept_by_hardware(toy: Toy, tmp_path: Path) -> None:
    """Saved under this machine's name, and compared with nothing else."""
    kept = ROOT / ".benchmarks"
    before = set(kept.rglob("*.json")) if kept.is_dir() else set()
    done = toy.pytest("tests/test_latency.py", "-k", "fp32 and not lean", "--benchmark-save=baselinetest")
    assert done.returncode == 0, done.stdout + done.stderr
    saved = set(kept.rglob("*_baselinetest.json")) - before
    try:
        assert [path.relative_to(kept).parts[0] for path in saved] == [folder_name(host.name())]
    finally:
        for path in saved:
            path.unlink()


def test_an_artifact_that_would_saturate_runs_without_such_kernels(
    toy: Toy, plugin: Callable[[str, str], None]
) -> None:
    """As on a processor without VNNI, with an artifact that is not made for it."""
    plugin("lossy", "from lowbit.measure import emulation\n\nemulation.saturates_here = lambda *_: True\n")
    done = toy.pytest("-p", "lossy", "tests/test_latency.py", "-k", "int8-ort-minmax and not openvino")
    assert done.returncode == 0, done.stdout + done.stderr
    measured = [e for e in toy.results().entries if e.latency]
    assert [(e.scheme, e.provider) for e in measured] == [("int8-ort-minmax", "cpu")]
    assert measured[0].runtime is not None and measured[0].latency is not None
    assert measured[0].runtime.options["config"]["session.x64quantprecision"] == "1"
    assert measured[0].latency.precision_cost is not None and measured[0].latency.precision_cost > 0
    assert "so it ran with `session.x64quantprecision=1`" in (toy.folder / "runs" / "latest" / "summary.md").read_text()


def test_a_matcher_that_differs_from_pycocotools_is_an_error(toy: Toy, plugin: Callable[[str, str], None]) -> None:
    """No AP is reported that pycocotools does not confirm."""
    fault = "from lowbit.measure import matching\n\nright = matching.overlap\nmatching.overlap = lambda *boxes: 0.7 * right(*boxes)\n"
    plugin("faulty", fault)
    done = toy.pytest("-p", "faulty", "tests/test_accuracy.py", "-k", FLOAT)
    assert done.returncode == 1, done.stdout + done.stderr
    (entry,) = toy.results().entries
    assert (entry.status, entry.map, entry.map_pycocotools) == (results.Status.ERROR, None, None)
    assert re.search(r"map is 0\.[0-9]+ by lowbit and 1\.00000000 by pycocotools", entry.reason or "")


def test_progress_is_shown_past_the_capture_and_taken_away(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar on a terminal, of which nothing is left when pytest writes; lines in a pipe."""
    ours, theirs = pty.openpty()
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    arguments = "tests/test_accuracy.py", "-k", FLOAT, "--remeasure"
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.extend(iter(lambda: _read(ours), b"")))
    reader.start()
    try:
        done = toy.pytest(*arguments, stdout=theirs)
    finally:
        os.close(theirs)
        reader.join(PATIENCE)
        os.close(ours)
    assert done.returncode == 0, done.stderr
    shown = b"".join(seen).decode()
    assert re.search(r"toy-fp32: evaluating.*1 of 6 images", shown)
    assert "\x1b[2K" in shown[shown.rindex("of 6 images") :], "the bar is still there"
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0
    piped = toy.pytest(*arguments)
    assert "\nlowbit: toy-fp32: evaluating: 6 of 6 images" in piped.stdout and "\x1b" not in piped.stdout
    assert "lowbit: toy" not in toy.pytest(*arguments, "-n", "1").stdout


def _read(descriptor: int) -> bytes:
    """What comes next on a terminal; nothing once nobody writes to it any more."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def test_gpu_tests_skip_with_a_reason_where_there_is_none(toy: Toy) -> None:
    from lowbit.host import gpu

    if gpu() is not None:
        pytest.skip("this machine has a GPU")
    done = toy.pytest("-m", "gpu", "-k", "int8")
    assert done.returncode == 0, done.stdout + done.stderr
    entries = toy.results().entries
    assert entries
    assert {e.status for e in entries} == {results.Status.SKIPPED}
    reasons = {(e.scheme, e.provider): e.reason or "" for e in entries}
    assert "the driver shows none" in reasons["int8-modelopt-max", "trt"]
    assert "symmetric Q/DQ only" in reasons["int8-ort-minmax", "trt"]
    wrong = [why for why in reasons.values() if "the driver shows none" not in why and "symmetric Q/DQ only" not in why]
    assert not wrong


def test_fp8_is_not_timed_where_it_is_emulated(toy: Toy) -> None:
    done = toy.pytest("tests/test_latency.py", "-k", "fp8-modelopt-k0", "-rs")
    assert done.returncode == 0 and "CPUExecutionProvider has no FP8 kernels and emulates it" in done.stdout


def test_schemes_of_torch_modules_skip_on_an_onnx_file(toy: Toy) -> None:
    done = toy.pytest("tests/test_accuracy.py", "-k", "w8a8 and not cuda and not trt and not openvino")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "brevitas quantizes a torch module, and toy is an ONNX file" in done.stdout


def test_timings_are_taken_once_unless_benchmarks_are_stored(toy: Toy, tmp_path: Path) -> None:
    stored = tmp_path / "benchmarks.json"

    def timed(*arguments: str) -> tuple[results.LatencyRecord, str]:
        done = toy.pytest("tests/test_latency.py", "-k", FLOAT, "-W", "error", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        (entry,) = toy.results().entries
        assert entry.latency is not None
        return entry.latency, done.stdout

    first, _ = timed("--remeasure")
    second, said = timed()
    assert second == first and "measured them: footprint of 1, kernels of 1, latency of 1 (--remeasure" in said
    third, said = timed(f"--benchmark-json={stored}")
    (benchmark,) = json.loads(stored.read_text())["benchmarks"]
    assert third.mean == pytest.approx(benchmark["stats"]["mean"]) != first.mean
    assert "latency of" not in said
