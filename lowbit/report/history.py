"""The runs of a folder, one after the other: AP, speed and size by commit, and where they changed by more than noise.

Neighbours are compared where they measured the same: one detector's name, scheme, provider and data set, accuracy on one
processor, speed on one machine. A step of accuracy is a difference of two drops, each against FP32 of its own run, that is
larger than their intervals allow: ``|d2 - d1| > sqrt(h1^2 + h2^2)``, with half of each 95 % interval for ``h``, the
interval of a difference of independent normal estimates. Both runs saw the same images, so it is wider than a paired
one: a step that is marked is one, and ``lowbit compare`` finds smaller ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby, pairwise
from pathlib import Path
from typing import Any

from lowbit import results
from lowbit.errors import InputError
from lowbit.gate import points
from lowbit.markdown import plain, table
from lowbit.report import svg
from lowbit.report.summary import VERDICTS
from lowbit.results import Entry, Results, Status

# A file of the same scheme varies by names and by what its tool writes of itself.
SIZE_STEP = 0.01
# What tells lines apart without colour.
_MARKERS = "osD^vPX*"
# Of more runs a report would take seconds to read and to draw.
LAST_RUNS = 50


@dataclass(frozen=True)
class Point:
    """One entry of one run. ``steps``: what changed since the point before it, in words."""

    run: Results
    entry: Entry
    steps: tuple[str, ...] = ()

    @property
    def commit(self) -> str:
        """The project's commit, or the run's id where it was not recorded."""
        return self.run.commit or self.run.run_id


@dataclass(frozen=True)
class Series:
    """One scheme of one detector on one provider, oldest run first."""

    detector: str
    scheme: str
    provider: str
    points: tuple[Point, ...]


def read(runs: Path, last: int | None = None) -> tuple[list[Results], list[str]]:
    """The runs of a folder, oldest first, the ``last`` of them; and what could not be read, a sentence each.

    Raises :class:`InputError` for a folder that has none.
    """
    files = sorted(path for path in runs.glob("*/results.json") if not path.parent.is_symlink())
    found, unread = [], []
    for path in files[-last:] if last else files:
        try:
            found.append(results.read(path))
        except InputError as error:
            unread.append(str(error))
    if not found:
        raise InputError(
            f"{runs}: has no run that can be read{': ' + unread[0] if unread else ''}. Name the folder that holds them, "
            "as --runs did (runs)."
        )
    return sorted(found, key=lambda run: (run.started, run.run_id)), unread


def series(found: Sequence[Results]) -> list[Series]:
    """What was measured, by detector, provider and scheme; skipped entries are left out."""
    every = [(e, run) for run in found for e in run.entries if e.status is not Status.SKIPPED]
    every.sort(key=lambda one: _key(one[0]))  # stable: the runs stay in their order
    return [
        Series(detector, scheme, provider, tuple(_with_steps([Point(run, entry) for entry, run in group])))
        for (detector, provider, scheme), group in groupby(every, key=lambda one: _key(one[0]))
    ]


def _key(entry: Entry) -> tuple[str, str, str]:
    return entry.detector, entry.provider, entry.scheme


def _with_steps(found: Sequence[Point]) -> Iterator[Point]:
    yield found[0]
    for before, after in pairwise(found):
        yield Point(after.run, after.entry, tuple(_steps(before.entry, after.entry)))


def _steps(one: Entry, two: Entry) -> Iterator[str]:
    if one.weights and two.weights and one.weights != two.weights:
        yield "other weights"
    if one.dataset_digest != two.dataset_digest:
        yield "another data set"
    elif one.host != two.host:
        yield "accuracy on another processor"
    elif moved := _moved(one, two):
        yield moved
    if one.latency and two.latency:
        if one.latency.host != two.latency.host:
            yield "timed on another machine"
        elif faster := _faster(one, two):
            yield faster
    if one.artifact and two.artifact and abs(two.artifact.bytes / one.artifact.bytes - 1) > SIZE_STEP:
        yield f"size x {two.artifact.bytes / one.artifact.bytes:.2f}"
    if one.status is not two.status:
        yield f"{VERDICTS[one.status]} to {VERDICTS[two.status]}"


def _moved(one: Entry, two: Entry) -> str | None:
    if one.drop is None or two.drop is None or one.drop_ci is None or two.drop_ci is None:
        return None
    change = two.drop - one.drop
    halves = [(high - low) / 2 for low, high in (one.drop_ci, two.drop_ci)]
    return f"drop {'+' if change > 0 else ''}{points(change)}" if abs(change) > math.hypot(*halves) else None


def _faster(one: Entry, two: Entry) -> str | None:
    first, second = (entry.latency for entry in (one, two))
    if not (first and second and first.speedup and second.speedup and first.speedup_ci and second.speedup_ci):
        return None
    apart = first.speedup_ci[1] < second.speedup_ci[0] or second.speedup_ci[1] < first.speedup_ci[0]
    return f"speed x {second.speedup / first.speedup:.2f}" if apart else None


_HEADINGS = ("commit", "started", "AP", "drop, points [95 %]", "speed-up", "size, MB", "verdict", "changed")


def _row(point: Point) -> tuple[str, ...]:
    entry = point.entry
    drop = "" if entry.drop is None else points(entry.drop)
    if entry.drop_ci:
        drop += f" [{points(entry.drop_ci[0])}, {points(entry.drop_ci[1])}]"
    speed = f"{entry.latency.speedup:.2f}x" if entry.latency and entry.latency.speedup else ""
    return (
        point.commit,
        point.run.started + " (cut)" * point.run.cut,
        "" if entry.map is None else f"{entry.map:.4f}",
        drop,
        speed,
        f"{entry.artifact.bytes / 1e6:.2f}" if entry.artifact else "",
        VERDICTS[entry.status],
        "; ".join(point.steps),
    )


def markdown(found: Sequence[Series], unread: Sequence[str] = ()) -> str:
    """A table a series. Raises :class:`InputError` where there is none."""
    if not found:
        raise InputError("no run has an entry of that detector and scheme. `lowbit history` alone lists all there are.")
    lines = []
    for one in found:
        lines += [f"## {one.detector}: {one.scheme} on {one.provider}", ""]
        lines += [*table(_HEADINGS, "llrrrrll", map(_row, one.points)), ""]
    return "\n".join([*lines, *(f"- not read: {reason}" for reason in unread)]).rstrip()


def section(run: Results, folder: Path) -> list[dict[str, Any]]:
    """What ``report.html`` shows: of the run's detectors a chart and a table of every series that has an earlier run. Nothing
    of a run that was copied out of its folder: what lies beside it now may be anybody's."""
    if folder.resolve().name != run.run_id:
        return []
    try:
        earlier, _ = read(folder.parent, LAST_RUNS)
    except InputError:  # a run on its own
        return []
    before = [one for one in earlier if one.run_id != run.run_id and one.started <= run.started]
    mine = {_key(entry) for entry in run.entries if entry.status is not Status.SKIPPED}
    long = [
        one
        for one in series([*before, run])
        if len(one.points) > 1 and (one.detector, one.provider, one.scheme) in mine
    ]
    return [
        {
            "detector": detector,
            "provider": provider,
            "chart": _chart(list(group)),
            "headings": ("scheme", *_HEADINGS),
            "rows": [
                (one.scheme, *map(plain, _row(point)))
                for one in group
                for point in one.points
                if point.steps or point is one.points[-1]
            ],
        }
        for (detector, provider), group in (
            (key, list(members)) for key, members in groupby(long, key=lambda one: (one.detector, one.provider))
        )
    ]


def _chart(found: Sequence[Series]) -> str:
    """The drop of every scheme with its interval, a run a step to the right; FP32, of which all are drops, is left out."""
    drawn = {
        one.scheme: line
        for one in found
        if one.scheme != "fp32" and (line := [(p.run.run_id, p.entry) for p in one.points if p.entry.drop_ci])
    }
    runs = sorted({run for line in drawn.values() for run, _ in line})
    if len(runs) < 2:
        return ""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for (name, line), marker in zip(drawn.items(), cycle(_MARKERS), strict=False):
            where = [runs.index(run) for run, _ in line]
            drops = [100 * (entry.drop or 0.0) for _, entry in line]
            cis = [entry.drop_ci or (0.0, 0.0) for _, entry in line]
            below = [drop - 100 * low for drop, (low, _) in zip(drops, cis, strict=True)]
            above = [100 * high - drop for drop, (_, high) in zip(drops, cis, strict=True)]
            axes.errorbar(where, drops, (below, above), marker=marker, capsize=3, label=name)
        axes.set_xticks(range(len(runs)), runs, rotation=30, ha="right")
        axes.set(ylabel="drop of AP, points, with its 95 % interval")
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))

    return svg.render(draw, 8.2, 3.6, "Drop of AP of every scheme with its interval, run by run")
