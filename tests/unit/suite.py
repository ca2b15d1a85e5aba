"""A folder with a toy detector, and the suite as a user runs it there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lowbit import results
from tests.unit import toys
from tests.unit.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
FLOAT = "fp32 and not lean and not cuda and not trt and not openvino"
SCHEMES = "(fp32 or int8-ort-minmax) and not lean"


class Toy:
    """A folder with a toy detector, its data, a store and runs, and pytest to run on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.detector = toys.make_detector(folder / "toy.onnx")
        self.dataset = toys.make_dataset(folder / "val")
        self.calibration = toys.make_calibration(folder / "calibration")

    def pytest(
        self, *arguments: str | Path, stdout: int = subprocess.PIPE, ci: bool = False, **replace: Path
    ) -> subprocess.CompletedProcess[str]:
        given = {"detector": self.detector, "dataset": self.dataset, "calibration": self.calibration, **replace}
        options = [f"--{name}={value}" for name, value in given.items()]
        folders = [f"--store={self.folder / 'store'}", f"--runs={self.folder / 'runs'}"]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *folders, *map(str, arguments)]
        # The session is its own, also when a worker of another one runs this test.
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST") and name != "CI"
        }
        environment = {**kept, **({"CI": "true"} if ci else {}), "GITHUB_STEP_SUMMARY": str(self.folder / "step.md")}
        return subprocess.run(
            command,
            cwd=ROOT,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=environment,
        )

    def results(self) -> results.Results:
        return results.read(self.folder / "runs" / "latest" / "results.json")
