"""What changed between two runs: accuracy, speed, size and verdict, with intervals where both can be paired."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lowbit import results
from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections
from lowbit.data.load import load_data
from lowbit.errors import InputError
from lowbit.gate import points
from lowbit.markdown import table
from lowbit.report.summary import VERDICTS
from lowbit.results import Entry, Results, Status

# From best to worst: what counts as a verdict that got worse.
_ORDER = (Status.PASSED, Status.INCONCLUSIVE, Status.FAILED, Status.ERROR)
DETECTIONS = "detections"


@dataclass(frozen=True)
class Limits:
    """What counts as a regression: a fall of AP as a fraction, of the speed-up and a growth of the file as ratios."""

    ap: float = 0.005
    speed: float = 0.10
    size: float = 0.05


@dataclass(frozen=True)
class Change:
    """One scheme in both runs. ``ap``: how far AP fell from the first to the second run; ``interval``: its 95 % interval
    where both runs' detections are of the same data set, by a paired bootstrap over images. ``speed`` and ``size``: the
    second run's speed-up and bytes over the first's; speed-ups of different hosts are not compared."""

    first: Entry
    second: Entry
    ap: float | None
    interval: tuple[float, float] | None
    speed: float | None
    size: float | None
    regressions: tuple[str, ...]

    @property
    def moved(self) -> bool:
        """Whether accuracy was measured on one host before and on another one after."""
        return None not in (self.first.host, self.second.host) and self.first.host != self.second.host


def compare(first: Path, second: Path, limits: Limits) -> tuple[list[Change], str]:
    """Compare two run folders; returns every common entry's change and the Markdown that says it.

    Raises :class:`InputError` for folders without a readable results.json, and for runs that have nothing in common.
    """
    before, after = (results.read(folder / "results.json") for folder in (first, second))
    pairs = _pairs(before, after)
    if not pairs:
        raise InputError(f"{first} and {second}: no scheme was measured in both, so there is nothing to compare.")
    datasets: dict[str, Dataset | None] = {}
    changes = [_change(one, two, (first, second), limits, datasets) for one, two in pairs]
    return changes, _markdown(before, after, changes)


def _key(entry: Entry) -> tuple[str, str, str]:
    return entry.detector, entry.scheme, entry.provider


def _pairs(before: Results, after: Results) -> list[tuple[Entry, Entry]]:
    known = {_key(entry): entry for entry in before.entries if entry.status is not Status.SKIPPED}
    return [(known[_key(e)], e) for e in after.entries if e.status is not Status.SKIPPED and _key(e) in known]


def _change(
    one: Entry, two: Entry, folders: tuple[Path, Path], limits: Limits, datasets: dict[str, Dataset | None]
) -> Change:
    same_data = one.dataset_digest is not None and one.dataset_digest == two.dataset_digest
    ap = one.map - two.map if one.map is not None and two.map is not None and same_data else None
    interval = _interval(one, two, folders, datasets) if ap is not None else None
    # Speed-ups against FP32 within each run: seconds of two runs are not comparable, and ratios are on one host only.
    hosts = [entry.latency.host for entry in (one, two) if entry.latency]
    speed = None
    if one.latency and two.latency and one.latency.speedup and two.latency.speedup and hosts[0] == hosts[1]:
        speed = two.latency.speedup / one.latency.speedup
    size = two.artifact.bytes / one.artifact.bytes if one.artifact and two.artifact else None
    regressions = []
    if ap is not None and ap > limits.ap:
        regressions.append(f"AP fell by {points(ap)} points, limit {points(limits.ap)}")
    if speed is not None and speed < 1 - limits.speed and not _touch(one, two):
        regressions.append(f"the speed-up fell to {speed:.2f} of what it was, limit {1 - limits.speed:.2f}")
    if size is not None and size > 1 + limits.size:
        regressions.append(f"the file grew to {size:.2f} of its size, limit {1 + limits.size:.2f}")
    if _ORDER.index(two.status) > _ORDER.index(one.status) and two.status in (Status.FAILED, Status.ERROR):
        regressions.append(f"the verdict went from {one.status} to {two.status}")
    return Change(one, two, ap, interval, speed, size, tuple(regressions))


def _touch(one: Entry, two: Entry) -> bool:
    """Whether two speed-ups' intervals overlap, so that their difference may be noise."""
    cis = [entry.latency.speedup_ci for entry in (one, two) if entry.latency and entry.latency.speedup_ci]
    return len(cis) == 2 and cis[0][0] <= cis[1][1] and cis[1][0] <= cis[0][1]


def _interval(
    one: Entry, two: Entry, folders: tuple[Path, Path], datasets: dict[str, Dataset | None]
) -> tuple[float, float] | None:
    from lowbit.measure.metrics import drop_interval, evaluate

    if one.artifact and two.artifact and one.artifact.sha256 == two.artifact.sha256 and one.map == two.map:
        return 0.0, 0.0
    dataset = _dataset(two, datasets)
    found = [_detections(folder, entry) for folder, entry in zip(folders, (one, two), strict=True)]
    if dataset is None or found[0] is None or found[1] is None:
        return None
    reference, changed = (evaluate(dataset, detections) for detections in found if detections is not None)
    return drop_interval(reference, changed, len(dataset.images))


def _dataset(entry: Entry, datasets: dict[str, Dataset | None]) -> Dataset | None:
    """The entry's data set, if its files are still what they were."""
    name = entry.dataset_file or ""
    known = f"{name} {entry.dataset_classes}"
    if known not in datasets:
        try:
            loaded = load_data(Path(name)) if name else None
            if loaded is not None and entry.dataset_classes:
                loaded = loaded.with_classes(entry.dataset_classes)
        except InputError:
            loaded = None
        datasets[known] = loaded if loaded is not None and loaded.digest == entry.dataset_digest else None
    return datasets[known]


def _detections(folder: Path, entry: Entry) -> dict[int, Detections] | None:
    suffix = "" if entry.on_default else f"-{entry.provider}"
    path = folder / DETECTIONS / f"{entry.detector}-{entry.scheme}{suffix}.npz"
    try:
        with np.load(path) as data:
            columns = {name: data[name] for name in ("images", "image_id", "boxes", "scores", "classes")}
    except (OSError, KeyError, ValueError):
        return None
    found = {}
    for image in columns["images"].tolist():
        mine = columns["image_id"] == image
        found[image] = Detections(columns["boxes"][mine], columns["scores"][mine], columns["classes"][mine])
    return found


def _markdown(before: Results, after: Results, changes: list[Change]) -> str:
    headings = (
        "detector",
        "scheme",
        "provider",
        "AP before",
        "AP after",
        "fall, points [95 %]",
        "speed-up",
        "size",
        "verdict",
    )
    rows = []
    for change in changes:
        one, two = change.first, change.second
        fall = "" if change.ap is None else points(change.ap)
        if change.interval:
            fall += f" [{points(change.interval[0])}, {points(change.interval[1])}]"
        verdict = (
            VERDICTS[two.status] if one.status is two.status else f"{VERDICTS[one.status]} to {VERDICTS[two.status]}"
        )
        ratios = (None if ratio is None else f"x {ratio:.2f}" for ratio in (change.speed, change.size))
        maps = _number(one.map), _number(two.map)
        rows.append((two.detector, two.scheme, two.provider, *maps, fall, *ratios, verdict))
    lines = [f"# {before.run_id} to {after.run_id}", "", *table(headings, "lllrrrrrl", rows)]
    lines += ["", *_hosts(before, after, changes)]
    missing = {_key(e) for e in before.entries if e.status is not Status.SKIPPED} - {_key(c.first) for c in changes}
    lines += [
        f"- **regression** `{c.second.detector}-{c.second.scheme}`: {r}{' (on another host)' * c.moved}"
        for c in changes
        for r in c.regressions
    ]
    lines += [
        f"- `{detector}-{scheme}` on {provider} is in the first run only"
        for detector, scheme, provider in sorted(missing)
    ]
    return "\n".join(lines).rstrip() + "\n"


def _hosts(before: Results, after: Results, changes: list[Change]) -> list[str]:
    """What is said where the runs' hosts differ, or where a run does not say enough of its host."""
    moved = dict.fromkeys((c.first.host, c.second.host) for c in changes if c.moved)
    timed = dict.fromkeys(
        (c.first.latency.host, c.second.latency.host)
        for c in changes
        if c.first.latency and c.second.latency and c.first.latency.host != c.second.latency.host
    )
    lines = [
        f"- **Different hosts**: accuracy was measured on {one}, then on {two}. Integer kernels differ between processors, "
        "so a change of AP may be the processor's."
        for one, two in moved
    ]
    lines += [f"- **Speed is not compared**: it was timed on {one}, then on {two}." for one, two in timed]
    for run in (before, after):
        if run.environment.get("cpu", {}).get("instruction_sets") is None:
            lines.append(
                f"- {run.run_id} does not say the instruction sets of its processor: it may differ from another one of "
                "the same name."
            )
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
