"""Every command in docs/ runs, in a project as the tutorial describes it; the declarations in it are what is run with."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lowbit.bundled.data import calibration, validation
from lowbit.detector import declare
from tests.unit import toys
from tests.unit.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("**/*.md"))
# Sweeps and searches on the bundled detector.
SLOW = {"sensitivity"}
COMMANDS = [
    pytest.param(path, block, id=f"{path.stem}-{number}", marks=[pytest.mark.slow] * (path.stem in SLOW))
    for path in DOCS
    for number, block in enumerate(re.findall(r"```console\n(.*?)```", path.read_text(), re.S), 1)
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tutorial's files: a toy detector under its names, and the TOML that it shows."""
    folder = tmp_path_factory.mktemp("project")
    toys.make_detector(folder / "my.onnx")
    toys.make_dataset(folder / "my").rename(folder / "my" / "instances.json")
    toys.make_calibration(folder / "my").rename(folder / "my" / "images.txt")
    toys.make_images(folder / "my" / "images", 4, seed=5)
    for page, name in (("tutorial", "lowbit.toml"), ("your-detector", "gate.toml")):
        (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.S)
        (folder / name).write_text(text)
    # What compare and report read.
    run(folder, "pytest --pyargs lowbit_suite.test_accuracy")
    return folder


def run(folder: Path, command: str) -> None:
    program, *arguments = shlex.split(command)
    run_python(folder, "-m", {"lowbit": "lowbit.cli"}.get(program, program), *arguments)


def run_python(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        # As in a terminal: in CI an inconclusive verdict is a failure.
        env={**os.environ, "LOWBIT_STORE": str(folder / ".lowbit"), "CI": ""},
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.parametrize(("path", "block"), COMMANDS)
def test_commands_run(path: Path, block: str, project: Path) -> None:
    if path.stem in SLOW:
        # Its images are drawn once for all of these.
        for draw, count in ((validation, 200), (calibration, 64)):
            draw(project / ".lowbit" / "data", count)
    if block.strip() == "lowbit init":
        check_init(project)
        return
    for command in block.strip().splitlines():
        run(project, command)


def check_init(project: Path) -> None:
    """It finds what the tutorial declares by hand, whose file is put aside: none is overwritten."""
    written, aside = project / declare.NAME, project / "aside"
    by_hand = declare.load(project).detectors["mine"]
    written.rename(aside)
    try:
        run(project, "lowbit init")
        assert declare.load(project).detectors["my"] == by_hand
    finally:
        aside.replace(written)


def test_the_program_runs(project: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "your-detector.md").read_text(), re.S)
    assert run_python(project, "-c", program).startswith("passed 1.0 0.0 ")


def test_links_lead_somewhere() -> None:
    for path in [*DOCS, ROOT / "README.md"]:
        for target in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path}: {target}"


def test_the_declared_keys_are_all_explained() -> None:
    from lowbit.detector.declare import Declared

    text = "".join((ROOT / "docs" / f"{page}.md").read_text() for page in ("tutorial", "your-detector"))
    missing = [name for name in Declared.model_fields if f"`{name}`" not in text and f"\n{name} = " not in text]
    assert not missing
