"""The suite in other projects: refusals of bad input, declared detectors, and sessions that are not about detectors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lowbit import results
from tests.unit.suite import FLOAT, Toy
from tests.unit.waiting import PATIENCE


def test_bad_input_is_refused_at_once(toy: Toy, tmp_path: Path) -> None:
    """Exit status 4 (usage), the file and the remedy on standard error, and nothing built."""
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n")
    leaky = toy.folder / "val" / "leaky.txt"
    leaky.write_text("1-0.png\n")
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(toy.detector.read_bytes()[:-100])
    cases: list[tuple[dict[str, Path], str]] = [
        ({"calibration": tmp_path / "none.txt"}, "no such calibration list"),
        ({"calibration": empty}, "the calibration list is empty"),
        ({"calibration": leaky}, "are evaluation images"),
        ({"dataset": tmp_path / "none.json"}, "no such annotation file"),
        ({"detector": truncated}, "is no valid ONNX model"),
        ({"detector": Path("yolov11")}, "there is no detector 'yolov11'"),
        ({"scheme": Path("int8-modelopt-entopy")}, "Nearest: int8-modelopt-entropy"),
        ({"confidence": Path("1.5")}, "--confidence 1.5: is no threshold"),
        ({"store": Path("/proc/lowbit")}, "/proc/lowbit"),
    ]
    for replace, said in cases:
        store = replace.pop("store", tmp_path / "store")
        extra = [f"--scheme={replace.pop('scheme')}"] if "scheme" in replace else []
        done = toy.pytest("tests/test_accuracy.py", "-k", "fp32 and not lean", f"--store={store}", *extra, **replace)
        assert done.returncode == 4, (said, done.stdout + done.stderr)
        assert said in done.stderr
    assert not (tmp_path / "store" / "artifacts").exists()


def elsewhere(toy: Toy, folder: Path, toml: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Another project gates its own detector: a ``lowbit.toml`` and lowbit's tests by their package."""
    folder.mkdir()
    for name in ("toy.onnx", "val", "calibration"):
        (folder / name).symlink_to(toy.folder / name)
    (folder / "lowbit.toml").write_text(toml)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "lowbit_suite.test_accuracy"]
    return subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


DECLARED = """
[detectors.mine]
model = "toy.onnx"
dataset = "val/instances_toy.json"
calibration = "calibration/calibration.txt"

[gate]
schemes = ["int8-ort-minmax"]
"""


def test_another_project_gates_its_own_detector(toy: Toy, tmp_path: Path) -> None:
    done = elsewhere(toy, tmp_path / "project", DECLARED)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results.read(tmp_path / "project" / "runs" / "latest" / "results.json")
    measured = {(e.detector, e.scheme): e.map for e in found.entries if e.provider == "cpu"}
    assert measured == {("mine", "fp32"): 1.0, ("mine", "int8-ort-minmax"): 1.0}


def test_a_declaration_that_makes_no_sense_is_a_usage_error(toy: Toy, tmp_path: Path) -> None:
    done = elsewhere(toy, tmp_path / "project", DECLARED.replace("model", "modell"))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "lowbit.toml: detectors.mine.model: Field required" in done.stderr


def test_wrong_colours_are_seen(toy: Toy, tmp_path: Path) -> None:
    """The toy detector tells red from blue: shown in the wrong order it takes each for the other."""
    done = elsewhere(
        toy,
        tmp_path / "project",
        DECLARED.replace("[gate]", 'colors = "bgr"\n[gate]'),
        "-k",
        FLOAT,
    )
    assert done.returncode == 1
    assert "sees next to nothing" in done.stdout


def test_agreement_where_nobody_labelled(toy: Toy, tmp_path: Path) -> None:
    toml = DECLARED.replace("val/instances_toy.json", "val").replace("[gate]", 'labels = "none"\n[gate]')
    done = elsewhere(toy, tmp_path / "project", toml)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results.read(tmp_path / "project" / "runs" / "latest" / "results.json")
    entries = [entry for entry in found.entries if entry.provider == "cpu"]
    assert [entry.map for entry in entries] == [1.0, 1.0]
    assert {entry.dataset for entry in entries} == {"val (agreement with FP32)"}
    assert {entry.operating_point for entry in entries} == {None}
    # What was agreed on is a data set that can be read again.
    assert len(json.loads(Path(entries[0].dataset_file or "").read_text())["annotations"]) > 6


def test_the_plugin_leaves_other_projects_alone(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef case():\n    return 1\n\ndef test_theirs(case):\n    assert case == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lowbit" not in done.stdout.replace("plugins: ", "").split("collected")[1]
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("test_theirs.py", "__pycache__")] in (
        [],
        [".benchmarks"],
    )


def test_a_project_may_call_its_own_package_fixtures(tmp_path: Path) -> None:
    """Its folder goes before installed packages, so a plugin of that name would be looked for there."""
    (tmp_path / "fixtures").mkdir()
    (tmp_path / "fixtures" / "__init__.py").write_text("ANSWER = 42\n")
    (tmp_path / "test_theirs.py").write_text(
        "from fixtures import ANSWER\n\ndef test_theirs():\n    assert ANSWER == 42\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
