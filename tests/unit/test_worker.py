"""What work in a process of its own reports to its caller."""

from __future__ import annotations

from pathlib import Path

from lowbit import worker
from lowbit.progress import Step
from tests.unit.waiting import PATIENCE


def test_every_step_arrives_as_it_was_reported(tmp_path: Path) -> None:
    steps = [Step("exporting"), Step("distilling", 3, 40, "steps", "loss 0.5"), Step("distilling", 4, 40, "steps")]
    arrived: list[Step] = []

    def saw(step: Step) -> None:
        arrived.append(step)
        (tmp_path / f"seen-{len(arrived) - 1}").touch()

    work = worker.Work("tests.unit.reporting_work", "reporting", tmp_path, tmp_path / "log", PATIENCE)
    worker.run(work, {"steps": steps}, saw)
    assert arrived == steps
    assert not (tmp_path / worker.PROGRESS).exists()


def test_a_torn_report_is_none_yet(tmp_path: Path) -> None:
    """The caller may read while the work writes."""
    path = tmp_path / worker.PROGRESS
    assert worker._reported(path) is None
    for torn in ("", '["distilling", 3'):
        path.write_text(torn)
        assert worker._reported(path) is None
