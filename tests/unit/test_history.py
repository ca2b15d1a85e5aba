"""``lowbit history``: the runs of a folder, and the steps between them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from lowbit import cli, report, results
from lowbit.errors import InputError
from lowbit.report import history
from lowbit.results import ArtifactRecord, Entry, Results, Status
from tests.unit.test_results import ENVIRONMENT, latency

HOST = str(ENVIRONMENT["host"])


def run(runs: Path, name: str, *more: Entry, **changes: Any) -> Results:
    """A run of one INT8 entry and FP32, a minute after the one of the name before it."""
    speedup = changes.pop("speedup", 2.0)
    fields: dict[str, Any] = {
        "detector": "toy",
        "scheme": "int8-ort-minmax",
        "host": HOST,
        "weights": "ab" * 32,
        "dataset": "val",
        "dataset_digest": "cd" * 32,
        "images": 100,
        "map": 0.39,
        "drop": 0.01,
        "drop_ci": (0.006, 0.014),
        "artifact": ArtifactRecord(path="a", sha256="0" * 64, bytes=1000),
        "latency": latency(speedup, speedup - 0.05, speedup + 0.05),
    }
    entry = Entry(**{**fields, **changes})
    made = Results(
        schema=results.SCHEMA,
        run_id=name,
        started=f"2026-01-01T00:{len(list(runs.glob('*'))):02}:00Z",
        commit=f"{name}-commit",
        environment=ENVIRONMENT,
        entries=[Entry(detector="toy", scheme="fp32", map=0.4, host=HOST), entry, *more],
    )
    made.write(runs / name / "results.json")
    return made


def steps(runs: Path) -> list[tuple[str, ...]]:
    found, unread = history.read(runs)
    assert not unread
    (int8,) = (one for one in history.series(found) if one.scheme == "int8-ort-minmax")
    return [point.steps for point in int8.points]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ()),
        ({"drop": 0.015, "drop_ci": (0.011, 0.019)}, ()),  # half a point apart, of intervals that allow 0.57
        ({"drop": 0.016, "drop_ci": (0.012, 0.020)}, ("drop +0.60",)),
        ({"drop": 0.002, "drop_ci": (-0.002, 0.006)}, ("drop -0.80",)),
        ({"speedup": 1.95}, ()),
        ({"speedup": 1.5}, ("speed x 0.75",)),
        ({"artifact": ArtifactRecord(path="b", sha256="1" * 64, bytes=1500)}, ("size x 1.50",)),
        ({"status": Status.FAILED}, ("passed to **FAILED**",)),
        ({"dataset_digest": "ef" * 32, "drop": 0.5, "drop_ci": (0.4, 0.6)}, ("another data set",)),
        ({"host": "another", "drop": 0.5, "drop_ci": (0.4, 0.6)}, ("accuracy on another processor",)),
        ({"weights": "ef" * 32}, ("other weights",)),
        (
            {"latency": latency(1.0, 0.9, 1.1).model_copy(update={"host": "another"})},
            ("timed on another machine",),
        ),
    ],
)
def test_a_step_is_more_than_the_intervals_allow(
    tmp_path: Path, changes: dict[str, Any], said: tuple[str, ...]
) -> None:
    run(tmp_path, "a")
    run(tmp_path, "b", **changes)
    assert steps(tmp_path) == [(), said]


def test_runs_are_in_the_order_of_time_and_a_damaged_one_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("z", "a", "m"):
        run(tmp_path, name)
    (tmp_path / "latest").symlink_to("m")
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "results.json").write_text("{")
    assert cli.main(["history", str(tmp_path), "--scheme", "int8-ort-minmax"]) == 0
    out = capsys.readouterr().out
    commits = [line.split(" | ")[0] for line in out.splitlines() if "-commit" in line]
    assert commits == ["| z-commit", "| a-commit", "| m-commit"]
    assert f"not read: {tmp_path / 'k' / 'results.json'}" in out and "fp32" not in out


def test_a_folder_without_runs_and_a_scheme_that_none_has_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no run that can be read"):
        history.read(tmp_path)
    with pytest.raises(InputError, match="no run has an entry"):
        history.markdown([])


def test_the_report_has_it_where_there_is_an_earlier_run(tmp_path: Path) -> None:
    first = run(tmp_path, "a")
    page = report.write(first, tmp_path / "a").read_text()
    assert "<h2>History</h2>" not in page
    last = run(tmp_path, "b", drop=0.03, drop_ci=(0.026, 0.034))
    page = report.write(last, tmp_path / "b").read_text()
    assert "<h2>History</h2>" in page and "drop +2.00" in page and "b-commit" in page
    # What came after it is not its history.
    assert "<h2>History</h2>" not in report.write(first, tmp_path / "a").read_text()


def test_a_commit_is_that_of_the_folder_and_says_what_was_changed_since(tmp_path: Path) -> None:
    assert results.commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("one")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    clean = results.commit(tmp_path)
    assert clean is not None and len(clean) == 12
    (tmp_path / "file").write_text("two")
    assert results.commit(tmp_path) == f"{clean}-dirty"
