"""``lowbit sweep``, ``lowbit layers`` and ``lowbit search``: the library for people at a prompt."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lowbit import declare, files
from lowbit.artifacts import Store, default_root
from lowbit.datasets import CalibrationSet, load_calibration
from lowbit.detectors import Detector, find
from lowbit.errors import InputError
from lowbit.sensitivity import GRID, layermap, native
from lowbit.sensitivity import find as find_combination
from lowbit.sensitivity import search as searching
from lowbit.sensitivity import sweep as sweeping

_TABLE = 20


def sweep(options: argparse.Namespace) -> str:
    """Run or merge a sweep; returns where its index is and what it counts."""
    if options.merge:
        index = sweeping.merge(options.merge, options.to)
    else:
        detector, calibration = _detector(options)
        what = sweeping.Sweep(detector, calibration, min(options.size, detector.input.size), options.to.resolve())
        cells = [find_combination(name) for name in options.only] if options.only else GRID
        for number, cell in enumerate(cells, 1):
            manifest = sweeping.measure(what, cell, _say)
            reason = (manifest["reason"] or "").splitlines()
            _say(f"{number} of {len(cells)}: {cell.id}: {manifest['status']}{f' ({reason[0]})' if reason else ''}")
        index = sweeping.write_index(what.place)
    counts = json.loads(index.read_text(encoding="utf-8"))["counts"]
    return f"{index}: {', '.join(f'{count} {status}' for status, count in counts.items())}"


def layers(options: argparse.Namespace) -> str:
    """The harm of every convolution as a Markdown table, beside a sweep's ranking if one is named."""
    detector, calibration = _detector(options)
    floating = native.Graph(_float(detector), detector.contract(), detector.input, calibration.paths)
    found = native.measure(floating, options.bits, inputs=options.inputs, progress=_say)
    module_of = layermap.convolutions(floating.model)
    lines = [
        f"# Convolutions of {detector.name} at {options.bits} bits{' with 8-bit inputs' * options.inputs}, "
        f"{len(calibration.paths)} images, most harmful alone first",
        "",
        "| rank | convolution | weights | alone: SQNR, dB | agreement | spared: SQNR, dB | agreement |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {rank} | `{module_of[one.node]}` | {one.parameters} | {one.alone.sqnr_db:.1f} | {one.alone.agreement:.4f} | "
        f"{one.spared.sqnr_db:.1f} | {one.spared.agreement:.4f} |"
        for rank, one in enumerate(found, 1)
    ]
    if options.beside:
        lines += ["", *_beside([module_of[one.node] for one in found], options.beside)]
    return "\n".join(lines)


def _beside(mine: Sequence[str], folder: Path) -> list[str]:
    if sweeping.read_manifest(folder) is None:
        raise InputError(f"{folder}: holds no finished combination. lowbit sweep makes runs/sweep-.../<combination>.")
    ranking = sweeping.read_ranking(folder)
    try:
        opinions = native.compare_rankings(mine, [one.layer for one in ranking])
    except ValueError as error:
        raise InputError(f"{folder}: is a ranking of another detector ({error}).") from error
    lines = [
        f"## Beside AutoQuant's {folder.name}",
        "",
        f"Spearman's rank correlation {opinions.correlation:.2f}. Furthest apart:",
        "",
        "| layer | rank on the graph | rank by AutoQuant |",
        "|---|---:|---:|",
    ]
    return lines + [f"| `{name}` | {one} | {two} |" for name, one, two in opinions.disagreements]


def search(options: argparse.Namespace) -> str:
    """Search, write ``search.json`` and the Pareto curve, and say what was found."""
    if not 0 < options.max_drop < 1:
        raise InputError(f"--max-drop {options.max_drop}: is no fraction between 0 and 1; 0.01 is one point of AP.")
    detector, calibration = _detector(options)
    if len(calibration.paths) < 4:
        raise InputError(f"{calibration.source}: {len(calibration.paths)} pictures; a search needs four or more.")
    quarter = max(1, len(calibration.paths) // 5)
    path, contract, spec = _float(detector), detector.contract(), detector.input
    floating = native.Graph(path, contract, spec, calibration.paths[:quarter])
    held = native.Graph(path, contract, spec, calibration.paths[quarter:])
    latency = options.objective == "latency"
    offered = (8, searching.FLOAT) if latency else (4, 8)
    noise, cost = _tables(floating, offered, inputs=latency)

    def drop_of(bits: dict[str, int]) -> float:
        quantized = {name: count for name, count in bits.items() if count != searching.FLOAT}
        return 1 - held.harm(held.quantized(quantized, inputs=latency)).agreement

    best, tried = searching.search(noise, cost, drop_of, options.max_drop, progress=_say)
    bits_of = {id(point): searching.weight_bits(point.bits, floating.parameters, floating.channels) for point in tried}
    digest = files.digest([detector.identity(), calibration.digest, options.max_drop, options.objective])[:12]
    folder = options.to.resolve() / f"search-{detector.name}-{digest}"
    files.write_json(
        folder / "search.json",
        {
            "detector": detector.name,
            "identity": detector.identity(),
            "calibration": calibration.digest,
            "objective": options.objective,
            "max_drop": options.max_drop,
            "weight_bits": bits_of[id(best)],
            "agreement_drop": best.drop,
            "bits": best.bits,
            "tried": searching.trace(tried),
        },
    )
    _draw(folder / "pareto.png", [(bits_of[id(p)], p.drop) for p in tried], (bits_of[id(best)], best.drop), options)
    lines = [
        f"# {detector.name}: fewest {options.objective} within {options.max_drop * 100:.2f} points of agreement",
        "",
        "| bits a weight | drop of agreement, points | convolutions at " + " / ".join(map(str, offered)) + " bits | |",
        "|---:|---:|---|---|",
    ]
    for point in sorted(tried, key=lambda p: (p.cost, p.drop)):
        counts = " / ".join(str(sum(count == bits for count in point.bits.values())) for bits in offered)
        chosen = "**chosen**" if point is best else ""
        lines.append(f"| {bits_of[id(point)]:.2f} | {point.drop * 100:.2f} | {counts} | {chosen} |")
    return "\n".join([*lines, "", f"{folder / 'search.json'}, {folder / 'pareto.png'}"])


def _tables(
    floating: native.Graph, offered: Sequence[int], *, inputs: bool
) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]]:
    """Noise and cost of every convolution at every number of bits. What is stored costs its bits; for latency, what runs
    in float costs its multiply-accumulates, and what runs in integers half of them."""
    from lowbit import graph

    measured = {
        bits: native.sqnr_alone(floating, bits, inputs=inputs, progress=_say)
        for bits in offered
        if bits != searching.FLOAT
    }
    noise = {
        name: {bits: searching.noise_of(measured[bits][name]) if bits in measured else 0.0 for bits in offered}
        for name in floating.nodes
    }
    if inputs:
        macs = graph.macs(floating.model)
        cost = {
            name: {bits: macs.get(name, 0) / (1 if bits == searching.FLOAT else 2) for bits in offered}
            for name in floating.nodes
        }
    else:
        cost = {name: {bits: float(bits * floating.parameters[name]) for bits in offered} for name in floating.nodes}
    return noise, cost


def _draw(
    path: Path, points: Sequence[tuple[float, float]], best: tuple[float, float], options: argparse.Namespace
) -> None:
    """Every candidate as a point, agreement lost against bits; readable without colour."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(points)
    axes.plot([p[0] for p in ordered], [p[1] * 100 for p in ordered], "ko", fillstyle="none", label="measured")
    axes.plot([best[0]], [best[1] * 100], "k*", markersize=14, label="chosen")
    axes.axhline(options.max_drop * 100, linestyle="--", color="0.4", label="allowed")
    axes.set(xlabel="bits a weight, scales included", ylabel="drop of agreement, points of AP", title=options.detector)
    axes.legend()
    figure.savefig(path, dpi=120)


def _detector(options: argparse.Namespace) -> tuple[Detector, CalibrationSet]:
    declared = declare.load(Path.cwd()).detectors
    detector = find(options.detector, trust=options.trust_checkpoint, size=options.image_size, declared=declared)
    data = Store(default_root()).data
    given: Path | None = options.calibration
    calibration = load_calibration(given.resolve()) if given else detector.load_calibration(data)
    if options.images < 1:
        raise InputError(f"--images {options.images}: needs one or more.")
    return detector, calibration.first(options.images)


def _float(detector: Detector) -> Path:
    """The detector's FP32 graph, from the store."""
    from lowbit.quantizers import export

    return Store(default_root(), progress=_say).get(export.request(detector)).path


_last = 0.0


def _say(text: str) -> None:
    """Progress on standard error, repeated steps at most twice a second."""
    global _last
    now = time.monotonic()
    if "convolution" in text and now - _last < 0.5:
        return
    _last = now
    print(f"lowbit: {text}", file=sys.stderr)
