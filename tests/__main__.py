"""``make test``: pytest in two sessions. First what can run side by side, a process a core; then what is measured, alone.

The first session builds the artifacts too, so that the second measures them: its run has accuracy and timings. pytest's
arguments go to both, after ``python -m tests``. A session in which they select nothing is no failure, unless it is both.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lowbit.runtime.options import available_cores

# What judges a scheme, and what it takes to: the structure of the artifact is looked at in both sessions.
MEASURED = ("test_accuracy.py", "test_engine.py", "test_latency.py")
JUDGED = (*MEASURED, "test_artifact.py")


def main(arguments: list[str]) -> int:
    """Run both; returns pytest's exit status of the first that did not pass."""
    # By node id, and not by marker or folder, so that arguments may be both.
    measured = [f"--deselect=tests/{name}" for name in MEASURED]
    others = [
        f"--deselect=tests/{path.name}" for path in Path(__file__).parent.glob("test_*.py") if path.name not in JUDGED
    ]
    # By groups, the largest first: a scheme's tests are one, so that no worker waits for what another builds.
    workers = ["-p", "tests.workers", f"--numprocesses={available_cores()}", "--dist=loadgroup"]
    together = _pytest(*workers, *measured, *arguments)
    if together == pytest.ExitCode.INTERRUPTED:
        return together
    alone = _pytest("--deselect=tests/unit/", *others, *arguments)
    passed = {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    return next((status for status in (together, alone) if status not in passed), min(together, alone))


def _pytest(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
