"""The sweep over the grid: one folder a combination, an index over all, resumable, mergeable.

Layout: ``<folder>/<combination>/{quant_manifest.json, layer-sensitivity-report.json, layer-sensitivity-report.md,
config.yaml, autoquant_state.pt, sweep.log}`` and ``<folder>/index.{json,csv}``. A folder belongs to one detector, one
set of images and one set of tool versions: its name ends in their digest, so another run's files are never replaced.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lowbit import extras, files, host, worker
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet
from lowbit.detector import Detector
from lowbit.errors import BuildError, InputError, UnavailableError
from lowbit.progress import Progress
from lowbit.results import RankedLayer, SweepRecord
from lowbit.sensitivity import Combination, autoquant, find_combination

MANIFEST, REPORT, INDEX = "quant_manifest.json", "layer-sensitivity-report.json", "index.json"
TOP = 10
_COLUMNS = ("combination", "weight", "activation", "granularity", "status", "reason", "seconds", "rank_correlation")
MEASURED, UNSUPPORTED, FAILED = "measured", "unsupported", "failed"


@dataclass(frozen=True)
class Sweep:
    """What is swept. ``graph``: the detector's float ONNX; ``calibration``: the images that are shown; ``size``: their
    side in pixels, which may be smaller than the detector's own; ``folder``: where sweeps are kept, one folder each."""

    detector: Detector
    graph: Path
    calibration: CalibrationSet
    size: int
    folder: Path
    timeout: float = 3600.0

    @property
    def facts(self) -> dict[str, Any]:
        """What shapes the scores."""
        return {
            "detector": self.detector.name,
            "identity": self.detector.identity(),
            "images": len(self.calibration.paths),
            "calibration": self.calibration.digest,
            "size": self.size,
            "tool_versions": {name: host.package_version(name) for name in autoquant.packages()},
        }

    @property
    def place(self) -> Path:
        """The folder of this sweep."""
        return self.folder / f"sweep-{self.detector.name}-{files.digest(self.facts)[:12]}"


def measure(sweep: Sweep, combination: Combination, progress: Progress) -> dict[str, Any]:
    """The manifest of a combination, measured now unless the folder holds it. Never raises for what the combination does:
    ``status`` is ``measured``, ``unsupported`` or ``failed``, with its ``reason``.

    A combination that failed before is tried again. Raises :class:`UnavailableError` for a detector without a torch
    module, and where ModelOpt is not installed.
    """
    if sweep.detector.onnx is not None:
        raise UnavailableError(f"{sweep.detector.name}: is an ONNX file; AutoQuant needs a torch module.")
    if reason := extras.missing({"modelopt": "lowbit[modelopt]"}):
        raise UnavailableError(f"AutoQuant {reason}")
    place = sweep.place
    final, partial = place / combination.id, place / f".{combination.id}.partial"
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / f".{combination.id}.lock"):
        known = read_manifest(final)
        if known is not None and known["status"] != FAILED:
            return known
        partial.mkdir(exist_ok=True)  # an interrupted one left AutoQuant's state here, which it resumes from
        manifest = _measure(sweep, combination, partial, progress)
        files.write_json(partial / MANIFEST, manifest)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    return manifest


def _measure(sweep: Sweep, combination: Combination, folder: Path, progress: Progress) -> dict[str, Any]:
    facts, started = sweep.facts, time.monotonic()
    spec = InputSpec(sweep.size)
    request = {
        "source": str(sweep.detector.source),
        "graph": str(sweep.graph),
        "identity": sweep.detector.identity(),
        "trust": sweep.detector.trust,
        "combination": combination.id,
        "calibration": [str(path) for path in sweep.calibration.paths],
        "input": dataclasses.asdict(spec),
        "graph_input": dataclasses.asdict(sweep.detector.input),
        "facts": facts,
    }
    work = worker.Work("lowbit.sensitivity", combination.id, folder, folder / "sweep.log", sweep.timeout)
    said: dict[str, Any]
    try:
        outcome = worker.run(work, request, lambda step: progress(step.under(combination.id)))
        said = {"status": MEASURED, "reason": None, "peak_rss_bytes": outcome["peak_rss_bytes"], **outcome["info"]}
    except UnavailableError as error:
        said = {"status": UNSUPPORTED, "reason": str(error)}
    except (BuildError, InputError) as error:
        said = {"status": FAILED, "reason": str(error)}
    for name in (worker.REQUEST, worker.OUTCOME, worker.PROGRESS):
        (folder / name).unlink(missing_ok=True)
    return {
        "combination": combination.id,
        **dataclasses.asdict(combination),
        **facts,
        **said,
        "seconds": round(time.monotonic() - started, 3),
    }


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A finished combination's manifest; None for one that is missing, torn, or without the ranking that it promises."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["status"] == MEASURED:
            json.loads((folder / REPORT).read_text(encoding="utf-8"))["on_the_graph"]["layers"]
        find_combination(manifest["combination"])
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None
    return manifest


def read_ranking(folder: Path) -> list[autoquant.LayerScore]:
    """The ranking of a measured combination, most sensitive first."""
    found = json.loads((folder / REPORT).read_text(encoding="utf-8"))["layers"]
    return [autoquant.LayerScore(**layer) for layer in found]


def read_record(folder: Path) -> SweepRecord:
    """Both rankings of a measured combination, AutoQuant's first."""
    said = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    graph = said["on_the_graph"]
    return SweepRecord(
        detector=said["detector"],
        combination=find_combination(folder.name).id,
        images=said["images"],
        graph_images=graph["images"],
        rank_correlation=graph["rank_correlation"],
        layers=[
            RankedLayer(
                layer=layer["layer"],
                score=layer["score"],
                rank=rank,
                graph_rank=graph["layers"][layer["layer"]]["rank"],
                alone_db=graph["layers"][layer["layer"]]["alone"]["sqnr_db"],
                leave_one_out_db=graph["layers"][layer["layer"]]["leave_one_out"]["sqnr_db"],
            )
            for rank, layer in enumerate(said["layers"], 1)
        ],
    )


def write_index(place: Path, top: int = TOP) -> Path:
    """Write ``index.json`` and ``index.csv`` over every combination that a sweep's folder holds; returns the former."""
    rows: list[dict[str, Any]] = []
    for folder in sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")):
        manifest = read_manifest(folder)
        if manifest is None:
            continue
        measured = manifest["status"] == MEASURED
        layers = [layer.layer for layer in read_ranking(folder)[:top]] if measured else []
        rows.append({**{name: manifest.get(name) for name in _COLUMNS}, "top": layers})
    counts = {status: sum(row["status"] == status for row in rows) for status in (MEASURED, UNSUPPORTED, FAILED)}
    files.write_json(place / INDEX, {"sweep": place.name, "counts": counts, "combinations": rows})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, "top"])
    for row in rows:
        reason = (row["reason"] or "").splitlines()
        first = {**row, "reason": reason[0] if reason else "", "top": " ".join(row["top"])}
        writer.writerow(first.values())
    files.write_atomic(place / "index.csv", text.getvalue())
    return place / INDEX


def merge(parts: Sequence[Path], place: Path) -> Path:
    """Copy the finished combinations of several machines' folders of one sweep into ``place`` and index them.

    What ``place`` holds already stays, but for failures that another part has measured. Raises :class:`InputError` for
    parts of different sweeps, and for folders without any combination.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    sources = [*([place] if place.is_dir() else []), *parts]
    for part in sources:
        manifests = [(path, read_manifest(path)) for path in sorted(part.iterdir())] if part.is_dir() else []
        here = [(path, manifest) for path, manifest in manifests if manifest is not None]
        if not here and part != place:
            raise InputError(f"{part}: holds no combination of a sweep. Name folders as sweep-<detector>-<digest>.")
        for path, manifest in here:
            known = found.get(manifest["combination"])
            if known is None or (known[1]["status"] == FAILED and manifest["status"] != FAILED):
                found[manifest["combination"]] = path, manifest
    keys = ("identity", "calibration", "size", "tool_versions")
    kinds = {files.digest([manifest[key] for key in keys]) for _, manifest in found.values()}
    if len(kinds) > 1:
        raise InputError(
            f"{', '.join(map(str, parts))}: differ in detector, images or tool versions. Merge parts of one sweep."
        )
    place.mkdir(parents=True, exist_ok=True)
    for name, (path, _) in found.items():
        target = place / name
        if path == target:
            continue
        partial = place / f".{name}.merging"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(path, partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    return write_index(place)
