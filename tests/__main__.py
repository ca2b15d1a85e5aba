"""``make test``: pytest in two sessions. First what can run side by side, a process a core; then the timings, alone.

pytest's arguments go to both, after ``python -m tests``. A session in which they select nothing is no failure, unless it
is both.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lowbit.runtime.options import available_cores

# The files of the suite that take times; some take other things too.
TIMED = ("test_engine.py", "test_latency.py")


def main(arguments: list[str]) -> int:
    """Run both; returns pytest's exit status of the first that did not pass."""
    # By node id, and not by marker or folder, so that arguments may be both.
    timed = [f"--deselect=tests/{name}" for name in TIMED]
    others = [
        f"--deselect=tests/{path.name}" for path in Path(__file__).parent.glob("test_*.py") if path.name not in TIMED
    ]
    together = _pytest(*timed, f"--numprocesses={available_cores()}", *arguments, OMP_NUM_THREADS="1")
    if together == pytest.ExitCode.INTERRUPTED:
        return together
    alone = _pytest("--deselect=tests/unit/", *others, *arguments)
    passed = {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    return next((status for status in (together, alone) if status not in passed), min(together, alone))


def _pytest(*arguments: str, **environment: str) -> int:
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
