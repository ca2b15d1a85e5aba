"""A run as one flat dictionary of numbers, and the experiment trackers that take it.

Names are ``<detector>/<scheme>/<provider>/<number>``. Fractions, seconds and bytes, as in results.json. What was not
measured is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from lowbit.errors import InputError, UnavailableError
from lowbit.results import Entry, Results, Status

# https://mlflow.org/docs/latest/api_reference/rest-api.html: letters, digits, underscores, dashes, periods, spaces,
# colons and slashes; W&B takes these too.
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:/ -]")
_OF_ENTRY = (
    "map",
    "map50",
    "map75",
    "map_small",
    "map_medium",
    "map_large",
    "ar",
    "recall",
    "miss_rate",
    "drop",
    "threshold",
)
_OF_LATENCY = ("p50", "p90", "p95", "p99", "throughput", "speedup", "speedup_fp16")


def numbers(run: Results) -> dict[str, float]:
    """Every number of a run by its name. Skipped entries have none."""
    return {
        _NOT_IN_NAMES.sub("_", f"{entry.detector}/{entry.scheme}/{entry.provider}/{name}"): float(value)
        for entry in run.entries
        if entry.status is not Status.SKIPPED
        for name, value in of_entry(entry)
        if value is not None
    }


def of_entry(entry: Entry) -> Iterator[tuple[str, float | None]]:
    """An entry's numbers by their names, None for what was not measured."""
    yield "passed", float(entry.status in (Status.PASSED, Status.INCONCLUSIVE))
    yield from ((name, getattr(entry, name)) for name in _OF_ENTRY)
    yield from _interval("drop", entry.drop_ci)
    if entry.latency:
        yield from ((name, getattr(entry.latency, name)) for name in _OF_LATENCY)
        yield from _interval("speedup", entry.latency.speedup_ci)
    if entry.artifact:
        yield from (("bytes", entry.artifact.bytes), ("weight_bits", entry.artifact.weight_bits))
    if entry.runtime:
        yield from (("parity", entry.runtime.parity), ("int8_mac_fraction", entry.runtime.int8_mac_fraction))
    if entry.footprint:
        yield from (
            ("memory_bytes", entry.footprint.memory_bytes),
            ("load_seconds", entry.footprint.load_seconds),
        )


def _interval(name: str, ends: tuple[float, float] | None) -> Iterator[tuple[str, float]]:
    if ends:
        yield from ((f"{name}_low", ends[0]), (f"{name}_high", ends[1]))


def tags(run: Results) -> dict[str, str]:
    """What the numbers are of: run, commit, host, data sets, packages."""
    packages = {f"package.{name}": str(found) for name, found in run.environment.get("packages", {}).items() if found}
    datasets = sorted({entry.dataset for entry in run.entries if entry.dataset})
    known = {"commit": run.commit, "host": run.environment.get("host"), "datasets": ", ".join(datasets) or None}
    return {"run": run.run_id, **{name: str(value) for name, value in known.items() if value}, **packages}


def _to_mlflow(run: Results, folder: Path, experiment: str) -> str:
    """Log to ``$MLFLOW_TRACKING_URI``, else to a database beside the run; returns where it went."""
    try:
        import mlflow
    except ImportError as error:
        raise UnavailableError("MLflow is not installed (pip install -c constraints.txt 'lowbit[mlflow]').") from error

    local = f"sqlite:///{(folder.resolve().parent / 'mlflow.db')}"
    where = os.environ.get("MLFLOW_TRACKING_URI") or local
    mlflow.set_tracking_uri(where)
    if where == local and mlflow.get_experiment_by_name(experiment) is None:
        mlflow.create_experiment(experiment, artifact_location=(folder.resolve().parent / "mlflow").as_uri())
    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name=run.run_id) as started:
        mlflow.set_tags(tags(run))
        mlflow.log_metrics(numbers(run))
        for name in ("results.json", "summary.md", "report.html"):
            if (folder / name).is_file():
                mlflow.log_artifact(str(folder / name))
    return f"logged to {where}, experiment {experiment}, run {started.info.run_id}"


def _to_wandb(run: Results, folder: Path, experiment: str) -> str:
    """Log to W&B, offline unless ``$WANDB_MODE`` says otherwise: nothing leaves the machine that nobody sent."""
    try:
        import wandb
    except ImportError as error:
        raise UnavailableError("W&B is not installed (pip install -c constraints.txt 'lowbit[wandb]').") from error

    mode = os.environ.get("WANDB_MODE") or "offline"
    with wandb.init(
        project=experiment, name=run.run_id, config=tags(run), dir=str(folder.resolve()), mode=mode
    ) as started:
        started.log(numbers(run))
        where = started.dir
    return f"logged to W&B ({mode}), project {experiment}: {where}" + (
        f"; `wandb sync {Path(where).parent}` sends it" if mode == "offline" else ""
    )


LOGGERS: dict[str, Callable[[Results, Path, str], str]] = {"mlflow": _to_mlflow, "wandb": _to_wandb}


def log(run: Results, folder: Path, to: str, experiment: str) -> str:
    """Log a run to a tracker of :data:`LOGGERS`; returns a sentence that says where.

    Raises :class:`InputError` for a run without numbers, :class:`UnavailableError` without the tracker's package.
    """
    if not numbers(run):
        raise InputError(f"{folder / 'results.json'}: nothing was measured in this run, so there is nothing to log.")
    return LOGGERS[to](run, folder, experiment)
