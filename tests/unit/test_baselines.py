"""``--benchmark-compare``: with stored benchmarks of this host only, and what it says of others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lowbit import host
from lowbit_pytest.baselines import HOST, folder_name

ROOT = Path(__file__).parents[2]


class Project:
    """A project with one benchmark, in a session that is about detectors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stored = folder / ".benchmarks"
        (folder / "lowbit.toml").touch()
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_it.py").write_text("def test_it(benchmark):\n    benchmark.pedantic(list, rounds=5)\n")

    def pytest(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        plugins = [f"-plowbit_pytest.{name}" for name in ("options", "baselines", "workbench", "recording")]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *plugins, *arguments]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        environment = {**kept, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    def saved(self) -> Path:
        """The one file of this host."""
        (found,) = (self.stored / folder_name(host.name())).rglob("*.json")
        return found

    def elsewhere(self) -> Path:
        """The same as if another host had saved it."""
        data = json.loads(self.saved().read_text())
        data["machine_info"][HOST] = "AMD EPYC (x86_64; sse4.1 avx2), 2 threads"
        place = self.stored / "amd-epyc-avx2" / self.saved().parent.name / "0001_other.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(data))
        return place


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("project"))
    done = made.pytest("--benchmark-save=mine")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(made.saved().read_text())["machine_info"][HOST] == host.name()
    return made


def test_one_hosts_benchmarks_are_compared(project: Project) -> None:
    project.elsewhere()
    done = project.pytest("--benchmark-compare")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_it (NOW)" in done.stdout and "(0001_mine)" in done.stdout
    assert "another host" not in done.stdout and "nothing is compared" not in done.stdout


def test_a_file_of_another_host_is_not_compared(project: Project) -> None:
    other = str(project.elsewhere())
    done = project.pytest(f"--benchmark-compare={other}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "are of another host, so they are not compared" in done.stdout
    assert (
        "theirs: AMD EPYC (x86_64; sse4.1 avx2), 2 threads" in done.stdout and f"here:   {host.name()}" in done.stdout
    )
    assert "(NOW)" not in done.stdout and "0001_other" not in done.stdout.split("Name (time")[1]
    gate = project.pytest(f"--benchmark-compare={other}", "--benchmark-compare-fail=mean:5%")
    assert gate.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--benchmark-compare-fail needs benchmarks of this host" in gate.stderr


def test_a_host_without_benchmarks_hears_whose_there_are(project: Project, tmp_path: Path) -> None:
    new = Project(tmp_path)
    source = project.elsewhere()
    place = new.stored / source.relative_to(project.stored)
    place.parent.mkdir(parents=True)
    place.write_bytes(source.read_bytes())
    done = new.pytest("--benchmark-compare")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{folder_name(host.name())} holds no benchmarks of this host, so nothing is compared" in done.stdout
    assert "  amd-epyc-avx2 (1 stored)" in done.stdout and "(NOW)" not in done.stdout
