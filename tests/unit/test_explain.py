"""``lowbit explain RUN SCHEME`` and what the report says of a collapse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from lowbit import cli, entries, files, report, results, runtime
from lowbit.artifact import MODEL
from lowbit.evaluate import Case, Evaluation, Given
from lowbit.results import CollapseRecord, Status
from lowbit.schemes import find_scheme
from lowbit.store.store import Store
from tests.unit import toys

SCHEME = "int8-ort-minmax"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy detector, its data, and a run of it in which the INT8 artifact's class convolution is broken."""
    folder = tmp_path_factory.mktemp("explain")
    toys.make_detector(folder / "toy.onnx")
    dataset = toys.make_dataset(folder / "val")
    calibration = toys.make_calibration(folder / "calibration")
    given = Given(dataset=dataset, calibration=calibration)
    evaluation = Evaluation(Store(folder / "store"), given, lambda _: None)
    found = []
    for scheme in ("fp32", SCHEME):
        case = Case(str(folder / "toy.onnx"), find_scheme(scheme), runtime.find_runtime(runtime.DEFAULT))
        found.append(entries.entry(case, evaluation, {"map": 0.01}))
    assert [one.status for one in found] == [Status.PASSED, Status.PASSED]
    _write(folder / "run", found)
    return folder


def _write(run: Path, found: list[results.Entry]) -> None:
    for one in found:
        assert one.artifact is not None
        made = Path(one.artifact.path).parent
        (run / "artifacts" / one.scheme).mkdir(parents=True)
        (run / "artifacts" / one.scheme / made.name[:12]).symlink_to(made, target_is_directory=True)
    results.Results(schema=results.SCHEMA, run_id="r", started="now", environment={}, entries=found).write(
        run / "results.json"
    )


@pytest.fixture
def broken(measured: Path, tmp_path: Path) -> Path:
    """The run with an INT8 artifact whose class convolution has another scale; returns its folder."""
    run = tmp_path / "run"
    read = results.read(measured / "run" / "results.json")
    artifact = read.entries[1].artifact
    assert artifact is not None
    place = tmp_path / ("a" * 40)
    shutil.copytree(Path(artifact.path).parent, place)
    model = onnx.load(str(place / MODEL))
    scales = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    name = next(scales[node.input[1]] for node in model.graph.node if node.name == "/model.1/level32/Conv")
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 0, name))
    onnx.save(model, str(place / MODEL))
    artifact.path, artifact.sha256 = str(place / MODEL), files.sha256(place / MODEL)
    _write(run, read.entries)
    return run


def _said(capsys: pytest.CaptureFixture[str], measured: Path, run: Path, *more: str) -> tuple[int, str, str]:
    status = cli.main(["explain", str(run), *more, "--detector", str(measured / "toy.onnx")])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOWBIT_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)


def test_what_works_is_said_to(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = _said(capsys, measured, measured / "run", SCHEME)
    assert status == 0
    assert "No node departs from FP32" in said
    assert "| `/model.1/level32/Conv` |" in said


def test_the_layer_that_is_broken_is_named(measured: Path, broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = _said(capsys, measured, broken, SCHEME, "--json")
    record = CollapseRecord.model_validate_json(said)
    assert (status, record.way[0], record.where) == (0, "/model.1/level32/Conv", "/model.1/level32/Conv")
    # Brevitas needs a torch module, and the scheme itself is none.
    assert record.proposal == "int8-ort-entropy" and record.proposal in record.reason
    assert next(iter(record.curve)) == "/model.0/Conv" and record.curve["/model.1/level32/Conv"] < 1


def test_the_report_has_it(measured: Path, broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = CollapseRecord.model_validate_json(_said(capsys, measured, broken, SCHEME, "--json")[1])
    read = results.read(broken / "results.json")
    read.entries[1] = read.entries[1].model_copy(update={"collapse": record, "status": Status.FAILED, "reason": "bad"})
    read.write(broken / "results.json")
    page = report.write(results.read(broken / "results.json"), broken).read_text(encoding="utf-8")
    assert "Where it departs from FP32" in page and "It departs from FP32 at /model.1/level32/Conv" in page
    assert "SQNR along the network" in page
    assert "It departs from FP32 at /model.1/level32/Conv" in (broken / "summary.md").read_text(encoding="utf-8")
    read.entries[1] = read.entries[1].model_copy(update={"collapse": None, "collapse_missing": "nothing was compared"})
    page = report.write(read, broken).read_text(encoding="utf-8")
    assert "nothing was compared" in page and "SQNR along the network" not in page


def test_other_folders_schemes_and_detectors_are_refused(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = measured / "run"
    for folder, scheme, said in (
        (tmp_path, SCHEME, "results.json: cannot be read"),
        (run, "int8-ort-minimax", "there is no scheme 'int8-ort-minimax'. Nearest: int8-ort-minmax"),
        (run, "int8-ort-entropy", "has no scheme 'int8-ort-entropy'. It has: fp32, int8-ort-minmax"),
        (run, "fp32", "is what the others are compared with"),
    ):
        status, _, error = _said(capsys, measured, folder, scheme)
        assert status == 2 and said in error
    assert cli.main(["explain", str(run), SCHEME, "--detector", "yolov8n"]) == 2
    assert "has no detector 'yolov8n' with int8-ort-minmax. Name one with --detector: toy" in capsys.readouterr().err


def test_an_artifact_that_is_gone_or_another_is_refused(
    measured: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = results.read(broken / "results.json").entries[1]
    assert entry.artifact is not None
    path = Path(entry.artifact.path)
    path.write_bytes(path.read_bytes() + b"\0")
    status, _, error = _said(capsys, measured, broken, SCHEME)
    assert status == 2 and "is not the artifact that the run measured" in error
    path.unlink()
    status, _, error = _said(capsys, measured, broken, SCHEME)
    assert status == 2 and "is not there any more. Build it again" in error


def test_a_run_without_fp32_or_of_other_weights_is_refused(
    measured: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((broken / "results.json").read_text())
    content["entries"][1]["weights"] = "0" * 64
    (broken / "results.json").write_text(json.dumps(content))
    status, _, error = _said(capsys, measured, broken, SCHEME)
    assert status == 2 and "has other weights than the detector toy" in error
    content["entries"] = content["entries"][1:]
    (broken / "results.json").write_text(json.dumps(content))
    status, _, error = _said(capsys, measured, broken, SCHEME)
    assert status == 2 and "has no FP32 artifact of toy" in error
    content["entries"][0] |= {"artifact": None, "reason": "BuildError: no space"}
    (broken / "results.json").write_text(json.dumps(content))
    status, _, error = _said(capsys, measured, broken, SCHEME)
    assert status == 2 and "was not built (BuildError: no space)" in error
