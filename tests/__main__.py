"""``make test``: pytest in two sessions. Unit tests in a process a core; then the suite alone, for it takes times.

pytest's arguments go to both, after ``python -m tests``. A session in which they select nothing is no failure, unless it
is both.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lowbit.runtime.options import available_cores


def main(arguments: list[str]) -> int:
    """Run both; returns pytest's exit status of the first that did not pass."""
    # By node id, and not by folder, so that arguments may be paths.
    unit = _pytest("--deselect=tests/test_", f"--numprocesses={available_cores()}", *arguments, OMP_NUM_THREADS="1")
    if unit == pytest.ExitCode.INTERRUPTED:
        return unit
    suite = _pytest("--deselect=tests/unit/", *arguments)
    passed = {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    return next((status for status in (unit, suite) if status not in passed), min(unit, suite))


def _pytest(*arguments: str, **environment: str) -> int:
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
