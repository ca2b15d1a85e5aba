"""A run's numbers for other tools: model card, flat dictionary, MLflow, annotations, closing lines."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lowbit import cli
from lowbit.errors import InputError
from lowbit.report import card, closing, flat
from lowbit.results import Results, Status
from tests.unit.synthetic_run import catalogue_run
from tests.unit.waiting import PATIENCE


@pytest.fixture
def run(tmp_path: Path) -> Results:
    made = catalogue_run(tmp_path, 5)
    made.commit = "0123456789ab"
    made.write(tmp_path / "results.json")
    return made


def test_a_card_has_the_numbers_and_the_front_matter_that_hubs_read(
    run: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = next(e for e in run.entries if e.scheme == "int8-ort-minmax0")
    assert cli.main(["export-card", str(tmp_path), "--scheme", entry.scheme]) == 0
    _, front, body = capsys.readouterr().out.split("---\n", 2)
    (model,) = yaml.safe_load(front)["model-index"]
    (result,) = model["results"]
    assert result["dataset"]["name"] == "val2017"
    assert {m["name"]: m["value"] for m in result["metrics"]}["mAP@[.5:.95]"] == pytest.approx(entry.map, abs=1e-6)
    assert entry.artifact is not None and entry.artifact.sha256 in body
    assert "200 images" in body and "avx512_vnni" in body and "0123456789ab" in body and f"{entry.map:.4f}" in body


def test_a_card_replaces_nothing_and_says_what_it_lacks(
    run: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "README.md"
    target.write_text("mine")
    assert cli.main(["export-card", str(tmp_path), "--to", str(target)]) == cli.commands.BAD_INPUT
    assert target.read_text() == "mine" and "exists" in capsys.readouterr().err
    for detector, scheme, said in (
        ("other", None, "--detector other: run .* has toy"),
        (None, "int9", "--scheme int9: run .* has fp32"),
    ):
        with pytest.raises(InputError, match=said):
            card.markdown(run, detector, scheme)
    with pytest.raises(InputError, match="no accuracy was measured"):
        card.markdown(run.model_copy(update={"entries": []}))


def test_the_flat_dictionary_has_numbers_only(run: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["log", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    entry = next(e for e in run.entries if e.scheme == "int8-ort-minmax0")
    assert entry.drop_ci is not None and entry.latency is not None
    name = "toy/int8-ort-minmax0/cpu/"
    assert found[f"{name}map"] == entry.map and found[f"{name}drop_high"] == entry.drop_ci[1]
    assert found[f"{name}p50"] == entry.latency.p50
    assert all(type(value) is float for value in found.values())
    assert not any("/trt/" in key for key in found), "a skipped entry has no number"
    assert f"{name}load_seconds" not in found, "nor has what was not measured"


def test_mlflow_has_it_in_a_store_beside_the_runs(run: Results, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs MLflow: pip install -c constraints.txt 'lowbit[mlflow]'")
    folder = tmp_path / "runs" / "r1"
    run.write(folder / "results.json")
    command = [sys.executable, "-m", "lowbit.cli", "log", str(folder), "--to", "mlflow", "--experiment", "gate"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "mlflow.db" in done.stdout
    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as store:
        stored = dict(store.execute("select key, value from latest_metrics"))
        tags = dict(store.execute("select key, value from tags"))
    assert stored == flat.numbers(run)
    assert tags["commit"] == "0123456789ab"
    assert list((tmp_path / "runs" / "mlflow").rglob("results.json"))


def test_annotations_say_what_failed_in_githubs_escapes(run: Results) -> None:
    run.entries[1].status, run.entries[1].reason = Status.FAILED, "drop 5.00% is,\nmore: than 1"
    run.entries[2].status, run.entries[2].expected_failure = Status.FAILED, "known"
    found = list(closing.github_annotations(run))
    one = next(line for line in found if "toy-int8-ort-minmax0" in line)
    assert one.startswith("::error title=lowbit%3A toy-int8-ort-minmax0 failed::drop 5.00%25 is,")
    assert "\n" not in one
    assert not any(run.entries[2].scheme in line for line in found)


def test_a_run_ends_with_three_lines(run: Results, tmp_path: Path) -> None:
    verdict, ship, where = closing.lines(run, tmp_path)
    assert verdict.startswith("verdict  FAILED: ") and "toy-w4a8-brevitas" in verdict and "fp16" not in verdict
    assert ship.startswith("ship     toy: Ship ")
    assert str(tmp_path / "report.html") in where
