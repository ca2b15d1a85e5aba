"""What lowbit's core does by itself: everything that only an extra installs is hidden from Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from lowbit.results import Status
from tests.unit.requirements import PROJECT, brought_by
from tests.unit.suite import Toy
from tests.unit.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
# Python imports a module of this name when it starts, in every process of a run: those that build too.
HIDING = """
import sys
from importlib.machinery import PathFinder

HIDDEN = frozenset({names})


class Core(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Core
"""


@pytest.fixture
def core_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Only the core is there for processes that start from now on. Returns the modules that are hidden."""
    # pytest loads every plugin that is installed here; these are no part of the core, and need nothing of an extra.
    plugins = {entry.dist.name for entry in entry_points(group="pytest11") if entry.dist}
    there = brought_by(*PROJECT["dependencies"], *plugins)
    ours = {"lowbit", "lowbit_pytest", "lowbit_suite"}
    hidden = sorted(
        module
        for module, distributions in packages_distributions().items()
        if module not in ours and there.isdisjoint(map(canonicalize_name, distributions))
    )
    folder = tmp_path / "core"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDING.format(names=hidden))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    return hidden


def test_the_core_gates_an_onnx_file(toy: Toy, core_only: list[str]) -> None:
    """A whole gate with INT8 of ONNX Runtime, structure and report included; the other tools skip with their extra."""
    assert {"torch", "ultralytics", "modelopt", "brevitas"} <= set(core_only)
    named = [f"--scheme={name}" for name in ("fp32", "int8-ort-minmax", "int8-modelopt-entropy", "w8a8-brevitas")]
    done = toy.pytest("tests/test_accuracy.py", "tests/test_artifact.py", "-m", "not gpu", "--allow-skips", *named)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = {entry.scheme: entry for entry in toy.results().entries if entry.provider == "cpu"}
    assert entries["int8-ort-minmax"].status is Status.PASSED
    assert entries["int8-ort-minmax"].map == 1.0
    for scheme, tool in (("int8-modelopt-entropy", "modelopt"), ("w8a8-brevitas", "brevitas")):
        assert entries[scheme].status is Status.SKIPPED
        assert f"needs {tool}, which is not installed (pip install -c constraints.txt 'lowbit[{tool}]')" in str(
            entries[scheme].reason
        )


def test_the_core_says_what_a_checkpoint_needs(toy: Toy, core_only: list[str], tmp_path: Path) -> None:
    """One of the user's own is refused; the bundled one, which its own project gates by default, is skipped."""
    (tmp_path / "best.pt").write_bytes(b"a pickle")
    remedy = "needs torch, which is not installed (pip install -c constraints.txt 'lowbit[torch]')"
    done = toy.pytest("tests/test_accuracy.py", detector=tmp_path / "best.pt")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"best.pt: its Ultralytics module {remedy}" in done.stderr
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", f"--runs={tmp_path / 'runs'}"]
    command += [f"--store={tmp_path / 'store'}", "tests/test_accuracy.py", "-k", "int8-ort-minmax and not gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "shapes10n: its Ultralytics module needs torch" in re.sub(r"\s+", " ", done.stdout)
    assert not (tmp_path / "store" / "artifacts").exists()
