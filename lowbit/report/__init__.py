"""What a run leaves for people: summary.md and report.html."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lowbit.results import Results


def write(results: Results, folder: Path) -> Path:
    """Write ``summary.md`` and ``report.html`` into a run's folder, atomically; returns the latter's path."""
    from lowbit import files
    from lowbit.report import html, summary

    files.write_atomic(folder / "summary.md", summary.markdown(results))
    page = folder / "report.html"
    files.write_atomic(page, html.page(results, folder))
    return page
