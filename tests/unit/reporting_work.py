"""Work that reports steps and goes on when each was seen: ``python -m tests.unit.reporting_work FOLDER``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowbit import worker
from lowbit.progress import Progress, Step
from tests.unit.waiting import wait_until


def body(request: dict[str, Any], folder: Path, progress: Progress) -> None:
    for number, fields in enumerate(request["steps"]):
        progress(Step(*fields))
        wait_until(lambda: (folder / f"seen-{number}").exists())  # noqa: B023


if __name__ == "__main__":
    raise SystemExit(worker.serve(body))
