"""One run out of the shards that several jobs or machines measured."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lowbit import report, results
from lowbit.errors import InputError
from lowbit.results import Entry, Results, Status

# From best to worst: a scheme that failed in one shard failed.
_SEVERITY = (Status.SKIPPED, Status.PASSED, Status.INCONCLUSIVE, Status.FAILED, Status.ERROR)
_KEPT = ("detections", "images")
# What an entry takes from another host's measurement of the same accuracy. Accuracy itself is not mixed: it is that of the
# entry whose status counts.
_OF_ANY_HOST = ("artifact", "build", "engine", "latency")


def merge(parts: Sequence[Path], target: Path) -> Path:
    """Merge run folders into a new one; returns its ``report.html``.

    Every detector, scheme and provider is one entry: what one shard measured and another did not is put together, the
    gravest status counts. Accuracy and timing each keep the host that measured them. Environments are listed one after the other where they differ.

    Raises :class:`InputError` for a part without a readable results.json, a target that exists, and shards that measured
    the same thing on different data or artifacts.
    """
    if target.exists():
        raise InputError(f"{target}: exists. Name a new folder; runs are never replaced.")
    runs = [results.read(part / "results.json") for part in parts]
    entries: dict[tuple[str, str, str], Entry] = {}
    for part, run in zip(parts, runs, strict=True):
        for entry in run.entries:
            key = (entry.detector, entry.scheme, entry.provider)
            entries[key] = _both(entries[key], entry, part) if key in entries else entry
    environments = [run.environment for run in runs]
    environment = environments[0] | {"shards": len(runs)}
    others = [other for other in environments[1:] if other != environments[0]]
    if others:
        environment["others"] = others
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for part in parts:
        for name in _KEPT:
            if (part / name).is_dir():
                shutil.copytree(part / name, partial / name, dirs_exist_ok=True)
    commits = {run.commit for run in runs}
    whole = Results(
        schema=results.SCHEMA,
        run_id=target.name,
        started=min(run.started for run in runs),
        commit=commits.pop() if len(commits) == 1 else None,
        environment=environment,
        entries=[entries[key] for key in sorted(entries)],
        sweeps=list({(s.detector, s.combination): s for run in runs for s in run.sweeps}.values()),
        cut=any(run.cut for run in runs),
    )
    whole.write(partial / "results.json")
    report.write(whole, partial)
    partial.rename(target)
    return target / "report.html"


def _both(one: Entry, two: Entry, part: Path) -> Entry:
    """An entry that two shards measured parts of."""
    for name in ("dataset_digest", "images", "artifact"):
        first, second = getattr(one, name), getattr(two, name)
        if name == "artifact":
            first, second = (found.sha256 if found else None for found in (first, second))
        if first is not None and second is not None and first != second:
            raise InputError(
                f"{part}: measured {two.detector}-{two.scheme} with another {name} ({second} and {first}); shards of one "
                "run share their data and their store."
            )
    worse = max(one, two, key=lambda entry: _SEVERITY.index(entry.status))
    known, more = (
        {name: value for name, value in entry.model_dump().items() if value is not None} for entry in (one, two)
    )
    if one.host and two.host and one.host != two.host:
        if worse is one:
            known, more = more, known
        known = {name: value for name, value in known.items() if name in _OF_ANY_HOST}
    elif one.runtime and two.runtime:
        # A timing says nothing of parity and must not erase it.
        said = {name: value for name, value in more["runtime"].items() if value is not None}
        more["runtime"] = {**known["runtime"], **said}
    return Entry(**{**known, **more, "status": worse.status, "reason": worse.reason or one.reason or two.reason})
