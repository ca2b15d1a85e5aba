"""How the suite ends: failures, expected failures, quick and killed runs, schemes that were named and skipped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowbit import results
from lowbit_pytest.options import QUICK_IMAGES
from tests.unit import toys
from tests.unit.suite import FLOAT, ROOT, SCHEMES, Toy
from tests.unit.waiting import PATIENCE


def thresholds(folder: Path) -> Path:
    path = folder / "strict.toml"
    path.write_text("[default]\nfp32 = 0.0\nint8 = 0.0\n")
    return path


@pytest.fixture(scope="module")
def blind(toy: Toy) -> Path:
    """The data set with every box moved by half its width: the toy detector's AP is nearly nothing."""
    data = json.loads(toy.dataset.read_text())
    for annotation in data["annotations"]:
        annotation["bbox"][0] += 20
    path = toy.dataset.with_name("instances_blind.json")
    path.write_text(json.dumps(data))
    return path


def test_a_failure_fails_the_run_and_says_why(toy: Toy, blind: Path) -> None:
    done = toy.pytest("tests/test_accuracy.py", "-k", FLOAT, dataset=blind)
    assert done.returncode == 1, done.stdout + done.stderr
    (entry,) = toy.results().entries
    assert entry.status == results.Status.FAILED
    assert "sees next to nothing" in (entry.reason or "")


def expected(folder: Path, **changes: Any) -> Path:
    entry = {
        "detector": "toy",
        "scheme": "fp32",
        "test": "test_map_drop",
        "exception": "AssertionError",
        "text": "sees next to nothing",
        "drop_at_most": 0.0,
        "reason": "the boxes were moved",
        **changes,
    }
    path = folder / "expected.toml"
    path.write_text("[[expected]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in entry.items()))
    return path


@pytest.mark.parametrize(
    ("changes", "blinded", "code", "said"),
    [
        ({}, True, 0, "1 xfailed"),
        ({"text": "another trouble"}, True, 1, "1 failed"),
        ({"exception": "RuntimeError"}, True, 1, "1 failed"),
        ({}, False, 1, "Take its entry out"),
        ({"weights": ["0" * 64]}, False, 0, "1 passed"),
        ({"runtimes": ["trt"]}, False, 0, "1 passed"),
    ],
    ids=["as expected", "another text", "another exception", "passes after all", "other weights", "other runtime"],
)
def test_expected_failures(toy: Toy, blind: Path, changes: dict[str, Any], blinded: bool, code: int, said: str) -> None:
    listing = expected(toy.folder, **changes)
    arguments: dict[str, Any] = {"dataset": blind} if blinded else {}
    done = toy.pytest(
        "tests/test_accuracy.py",
        "-k",
        FLOAT,
        f"--expected-failures={listing}",
        **arguments,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout


@pytest.mark.parametrize(
    ("at_most", "code", "said"), [(0.25, 0, "1 xfailed"), (0.15, 1, "at most 15.00 points were expected")]
)
def test_an_expected_failure_that_grew_is_a_failure(
    toy: Toy, plugin: Callable[[str, str], None], at_most: float, code: int, said: str
) -> None:
    plugin("worse", WORSE)
    changes = {"scheme": "int8-ort-minmax", "text": "threshold 1.00", "drop_at_most": at_most}
    listing = expected(toy.folder, **changes)
    chosen = "int8-ort-minmax and not cuda and not trt and not openvino"
    done = toy.pytest("-p", "worse", "tests/test_accuracy.py", "-k", chosen, f"--expected-failures={listing}")
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout
    (entry,) = toy.results().entries
    assert (entry.status, entry.drop) == (results.Status.FAILED, 0.2)
    assert bool(entry.expected_failure) == (code == 0)


def test_a_quick_run_takes_some_images_and_no_timings(toy: Toy, tmp_path: Path) -> None:
    """Expected failures were measured on all images: on a few of them one may pass."""
    many = toys.make_dataset(tmp_path / "many", count=QUICK_IMAGES + 30)
    listing = expected(tmp_path)
    tests = ("tests/test_accuracy.py", "tests/test_latency.py", "-k", FLOAT, f"--expected-failures={listing}")
    done = toy.pytest(*tests, "--quick", dataset=many)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"a quick run on {QUICK_IMAGES} of {QUICK_IMAGES + 30} images" in done.stdout
    (entry,) = toy.results().entries
    assert (entry.images, entry.status, entry.latency) == (QUICK_IMAGES, results.Status.PASSED, None)


def test_what_fails_by_more_than_expected_may_do_so_on_a_few_images(
    toy: Toy, tmp_path: Path, plugin: Callable[[str, str], None]
) -> None:
    plugin("worse", WORSE)
    listing = expected(tmp_path, scheme="int8-ort-minmax", text="threshold 1.00", drop_at_most=0.15)
    chosen = "int8-ort-minmax and not cuda and not trt and not openvino"
    given = ("-p", "worse", "tests/test_accuracy.py", "-k", chosen, f"--expected-failures={listing}", "--quick")
    done = toy.pytest(*given)
    assert done.returncode == 0 and "1 xfailed" in done.stdout, done.stdout + done.stderr


# A plugin by which every scheme loses 20 points.
WORSE = """
from lowbit import evaluate

evaluate.compare = lambda *_: {"map": 0.2}
evaluate.uncertainty = lambda *_: evaluate.DropInterval((0.1, 0.3), (0.12, 0.28))
"""


# A plugin by which the drop of every scheme is within its threshold, and its bounds are on both sides of it.
OPEN = """
from lowbit import evaluate

evaluate.compare = lambda *_: {"map": 0.008}
evaluate.uncertainty = lambda *_: evaluate.DropInterval((0.001, 0.015), (0.002, 0.014))
"""


@pytest.mark.parametrize(
    ("ci", "more", "code", "status", "said"),
    [
        (False, (), 0, results.Status.INCONCLUSIVE, "the point estimate decides (the default outside CI)"),
        (True, (), 1, results.Status.FAILED, "is stopped (the default where CI=true)"),
        (True, ("--inconclusive=warn",), 0, results.Status.INCONCLUSIVE, "decides (--inconclusive=warn)"),
    ],
    ids=["terminal", "ci", "asked"],
)
def test_in_ci_the_interval_decides(
    toy: Toy,
    plugin: Callable[[str, str], None],
    ci: bool,
    more: tuple[str, ...],
    code: int,
    status: results.Status,
    said: str,
) -> None:
    plugin("open", OPEN)
    chosen = "int8-ort-minmax and not cuda and not trt and not openvino"
    done = toy.pytest("-p", "open", "tests/test_accuracy.py", "-k", chosen, *more, ci=ci)
    assert done.returncode == code, done.stdout + done.stderr
    (entry,) = toy.results().entries
    assert entry.status is status and said in (entry.reason or "")
    assert entry.drop_bounds == (0.002, 0.014)
    # In the head too, before anything is judged.
    assert said in done.stdout.partition("collected")[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "over 3 processes, at least 1000.00x asked for"),
        (("--quick",), "min_speedup has a limit and was not measured: a quick run takes no times"),
        (("-n", "1"), "min_speedup has a limit and was not measured: timings need the machine for themselves"),
    ],
    ids=["alone", "quick", "xdist"],
)
def test_a_limit_on_speed_is_held_or_broken(toy: Toy, tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    """No detector becomes a thousand times faster. Memory is measured in any case."""
    thresholds = tmp_path / "gate.toml"
    thresholds.write_text("[default]\nint8 = { map = 0.01, min_speedup = 1000, max_memory_bytes = 100_000_000_000 }\n")
    chosen = "int8-ort-minmax and not cuda and not trt and not openvino"
    done = toy.pytest("tests/test_accuracy.py", "-k", chosen, f"--thresholds={thresholds}", *more)
    assert done.returncode == 1, done.stdout + done.stderr
    (entry,) = toy.results().entries
    assert entry.status is results.Status.FAILED and said in (entry.reason or "")
    assert entry.footprint is not None and entry.footprint.memory_bytes < entry.footprint.peak_rss_bytes
    assert (entry.process_speedup is None) is bool(more)


KILLER = """
import os, signal


def pytest_runtest_logstart(nodeid):
    if "int8-ort-minmax" in nodeid:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_keeps_what_it_measured(toy: Toy, plugin: Callable[[str, str], None]) -> None:
    plugin("killer", KILLER)
    chosen = f"{SCHEMES} and not cuda and not trt and not openvino"
    done = toy.pytest("-p", "killer", "tests/test_accuracy.py", "-k", chosen)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    found = toy.results()
    assert found.cut
    assert [(entry.scheme, entry.map) for entry in found.entries] == [("fp32", 1.0)]
    folder = toy.folder / "runs" / "latest"
    subprocess.run([sys.executable, "-m", "lowbit.cli", "report", str(folder)], check=True, timeout=PATIENCE, cwd=ROOT)
    assert "This run was cut" in (folder / "summary.md").read_text()
    assert "This run was cut" in (folder / "report.html").read_text()


@pytest.mark.parametrize(("more", "code"), [((), 1), (("--allow-skips",), 0)])
def test_named_schemes_that_all_skip_are_no_success(toy: Toy, more: tuple[str, ...], code: int) -> None:
    named = ("--scheme=w8a8-brevitas", *more)
    done = toy.pytest("tests/test_accuracy.py", *named, "-k", "not cuda and not trt and not openvino")
    assert done.returncode == code, done.stdout + done.stderr
    assert ("w8a8-brevitas was asked for and not measured" in done.stdout) is (code == 1)


def test_a_failed_structure_test_is_failed_and_no_error(toy: Toy, plugin: Callable[[str, str], None]) -> None:
    fault = "import dataclasses\n\nfrom lowbit import graph\n\nright = graph.structure\ngraph.structure = lambda model: dataclasses.replace(right(model), tail_quantized=('TopK',))\n"
    plugin("tail", fault)
    done = toy.pytest("-p", "tail", "tests/test_artifact.py", "-k", "int8-ort-minmax and decode_tail_is_float")
    assert done.returncode == 1, done.stdout + done.stderr
    (entry,) = toy.results().entries
    assert entry.status == results.Status.FAILED
