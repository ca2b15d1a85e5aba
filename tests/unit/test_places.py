"""What a session is about does not depend on which of its options have paths. In process: settings are read, nothing runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lowbit.detector import declare
from lowbit_pytest import options, places
from tests.unit.suite import ROOT

pytest_plugins = ["pytester"]
DECLARED = '[detectors.mine]\nmodel = "toy.onnx"\n'
SUITE = ("--pyargs", "lowbit_suite.test_accuracy")


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite under its installed name, whichever checkout these tests lie in."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "lowbit_suite").symlink_to(ROOT / "tests")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    for name in [name for name in sys.modules if name.split(".")[0] == "lowbit_suite"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder outside the project, in a project of its own, with a file."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / declare.NAME).write_text(DECLARED.replace("mine", "theirs"))
    (folder / "file").write_text("")
    return folder


@pytest.mark.parametrize(
    "option", ["--store", "--runs", "--dataset", "--calibration", "--training", "--thresholds", "--expected-failures"]
)
def test_a_path_after_an_option_does_not_change_the_project(
    pytester: pytest.Pytester, elsewhere: Path, option: str
) -> None:
    """In two words pytest takes it for a test path, and moves its root folder there."""
    (pytester.path / declare.NAME).write_text(DECLARED)
    path = elsewhere if option in ("--store", "--runs") else elsewhere / "file"
    config = pytester.parseconfig(*SUITE, option, str(path))
    assert config.rootpath != pytester.path
    assert options.detector_names(config) == ["mine"]
    assert places.runs_folder(config) == (path if option == "--runs" else pytester.path / "runs")


def test_the_project_is_found_from_a_folder_in_it(pytester: pytest.Pytester, elsewhere: Path) -> None:
    (pytester.path / declare.NAME).write_text(DECLARED)
    below = pytester.mkdir("below")
    pytester.chdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(below)
        config = pytester.parseconfig(*SUITE, "--store", str(elsewhere))
    assert config.invocation_params.dir == below
    assert places.project_folder(config) == pytester.path


def test_a_root_folder_that_was_named_is_the_project(pytester: pytest.Pytester, elsewhere: Path) -> None:
    (pytester.path / declare.NAME).write_text(DECLARED)
    config = pytester.parseconfig(*SUITE, "--rootdir", str(elsewhere))
    assert options.detector_names(config) == ["theirs"]
    (pytester.path / declare.NAME).unlink()
    assert places.project_folder(pytester.parseconfig(str(elsewhere))) == elsewhere


@pytest.mark.parametrize("more", [[], ["-p", "no:xdist"], ["--setup-plan"], ["--co"], ["-n", "1"], ["--store", "@"]])
def test_the_suite_without_a_detector_is_a_usage_error(
    pytester: pytest.Pytester, elsewhere: Path, more: list[str]
) -> None:
    """Also where an option's path makes another project's folder pytest's root."""
    result = pytester.inline_run(*SUITE, *(str(elsewhere) if word == "@" else word for word in more))
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_the_suite_without_a_detector_is_refused_by_any_name(pytester: pytest.Pytester) -> None:
    """Collected from a folder above it, it is refused where it is collected."""
    folder = pytester.mkdir("above")
    (folder / "test_accuracy.py").symlink_to(ROOT / "tests" / "test_accuracy.py")
    result = pytester.inline_run(str(folder), "--import-mode=importlib")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    failed = [report for report in result.getreports("pytest_collectreport") if report.failed]
    assert "and no detector" in str(failed[0].longrepr)


def test_a_path_into_lowbits_repository_does_not_name_it(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfig("--store", str(ROOT / "docs"))
    assert config.rootpath == ROOT
    assert not options.active(config)
    assert options.active(pytester.parseconfig(str(ROOT / "tests" / "test_accuracy.py")))


def test_in_lowbits_repository_the_bundled_detector_is_gated(
    pytester: pytest.Pytester, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = pytester.parseconfig("--store", str(elsewhere))
    assert options.active(config)
    assert options.detector_names(config) == ["shapes10n"]
    assert places.runs_folder(config) == ROOT / "runs"
