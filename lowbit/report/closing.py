"""What is said at the end of a run: three lines for people, and annotations for GitHub."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from lowbit.markdown import plain
from lowbit.report import reasons
from lowbit.report.summary import recommend
from lowbit.results import Entry, Results, Status

# GitHub shows ten errors and ten warnings of a step.
_ANNOTATIONS = 10


def lines(run: Results, folder: Path) -> list[str]:
    """The verdict, what to ship, and where the report is, a line each."""
    judged = [e for e in run.entries if e.status is not Status.SKIPPED]
    bad, unsure = _bad(judged), [e for e in judged if e.status is Status.INCONCLUSIVE]
    many = f"{len(judged)} {'entry' if len(judged) == 1 else 'entries'}"
    if bad:
        verdict = f"FAILED: {len(bad)} of {many}: {_names(bad)}"
    elif unsure:
        verdict = f"passed: {many}, {len(unsure)} of them inconclusive: {_names(unsure)}"
    else:
        verdict = f"passed: {many}"
    keyed = sorted((e for e in judged if e.on_default and e.drop is not None), key=lambda e: e.detector)
    ship = [
        f"{detector}: {plain(recommend(list(group)))}" for detector, group in groupby(keyed, key=lambda e: e.detector)
    ]
    return [
        f"verdict  {verdict}",
        f"ship     {' '.join(ship) or 'No accuracy was measured, so nothing is recommended.'}",
        f"report   {folder / 'report.html'}, {folder / 'results.json'}",
    ]


def _bad(entries: list[Entry]) -> list[Entry]:
    return [e for e in entries if e.status in (Status.FAILED, Status.ERROR) and not e.expected_failure]


def _names(entries: list[Entry]) -> str:
    return ", ".join(
        dict.fromkeys(f"{e.detector}-{e.scheme}{'' if e.on_default else '-' + e.provider}" for e in entries)
    )


def github_annotations(run: Results) -> Iterator[str]:
    """Workflow commands that GitHub shows beside the change: an error for every entry that failed, a warning for every one
    that is inconclusive.

    https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands#setting-an-error-message
    """
    unsure = [e for e in run.entries if e.status is Status.INCONCLUSIVE]
    for command, entries in (("error", _bad(run.entries)), ("warning", unsure)):
        for entry in entries[:_ANNOTATIONS]:
            why = reasons.explain(entry)
            title = _escape(f"lowbit: {_names([entry])} {entry.status}").replace(":", "%3A").replace(",", "%2C")
            yield f"::{command} title={title}::{_escape(' '.join(filter(None, (why.what, why.remedy))))}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
