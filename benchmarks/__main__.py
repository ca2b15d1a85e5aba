"""All benchmarks that a user's machine is asked for: ``make bench``, ``python -m benchmarks --detector yolov10n``.

lowbit's own costs, its artifacts beside other tools', then the suite's latency tests, saved for ``--benchmark-compare``.
What is not named here goes to pytest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("--detector", action="append", default=[])
    options, rest = parser.parse_known_args()
    chosen = [f"--detector={name}" for name in options.detector]
    commands = (
        *(["benchmarks.harness", one] for one in chosen or ["--detector=shapes10n"]),
        *(["pytest", "benchmarks/test_side_by_side.py", one] for one in chosen or ["--detector=shapes10n"]),
        ["pytest", "-m", "latency", "--benchmark-autosave", *chosen, *rest],
    )
    return max(subprocess.run([sys.executable, "-m", *command], check=False).returncode for command in commands)


if __name__ == "__main__":
    sys.exit(main())
