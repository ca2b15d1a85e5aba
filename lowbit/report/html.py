"""report.html: one self-contained file to decide by; one script, and a policy that keeps the page from the network."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib import resources
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from lowbit.gate import points
from lowbit.markdown import plain
from lowbit.report import collapses, gallery, history, pareto, reasons, svg, thresholds
from lowbit.report.summary import CUT, VERDICTS, costs, disagreements, hosts, left_out, recommend, remarks, shipped
from lowbit.results import BehaviourRecord, Entry, OperatingPointRecord, Results, Status, SweepRecord

_COLOURS = {Status.PASSED: "#1b7837", Status.INCONCLUSIVE: "#b8860b", Status.FAILED: "#b2182b", Status.ERROR: "#b2182b"}


def page(results: Results, folder: Path) -> str:
    """The whole page. ``folder``: the run's folder, where its images lie."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lowbit.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(points=points, verdict=lambda status: plain(VERDICTS[status]))
    keyed = sorted(results.entries, key=lambda e: (e.detector, not e.on_default, e.provider))
    groups = [list(group) for _, group in groupby(keyed, key=lambda e: (e.detector, e.provider))]
    groups = [group for group in ([e for e in group if e.status is not Status.SKIPPED] for group in groups) if group]
    best = [shipped(group) for group in groups]
    recommended = [entry is one for group, one in zip(groups, best, strict=True) for entry in group]
    images = iter(gallery.embed([entry for group in groups for entry in group], recommended, folder))
    sections = [_section(group, one, list(islice(images, len(group)))) for group, one in zip(groups, best, strict=True)]
    bad = [e for e in results.entries if e.status in (Status.FAILED, Status.ERROR) and not e.expected_failure]
    skips: dict[str, list[str]] = {}
    for entry in results.entries:
        if entry.status is Status.SKIPPED:
            skips.setdefault(reasons.explain(entry).what, []).append(f"{entry.scheme} ({entry.provider})")
    script = resources.files("lowbit.report").joinpath("report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        script=script,
        script_hash=f"sha256-{digest}",
        results=results,
        cut=CUT if results.cut else None,
        hosts=[line.removeprefix("- ") for line in hosts(results) if line],
        sections=sections,
        bad=[(entry, reasons.explain(entry)) for entry in bad],
        history=history.section(results, folder),
        sweeps=[_sweep(sweep) for sweep in results.sweeps],
        skips=skips,
        packages=results.environment.get("packages", {}),
    )


def _section(entries: Sequence[Entry], best: Entry | None, images: Sequence[gallery.Shown | None]) -> dict[str, Any]:
    first = next((entry for entry in entries if entry.images), None)
    said = (*(remark for entry in entries for remark in remarks(entry)), *left_out(entries), *costs(entries))
    return {
        "detector": entries[0].detector,
        "provider": entries[0].provider,
        "on": f"{first.images} images of {first.dataset}" if first else "",
        # The sentences are Markdown for summary.md.
        "sentence": plain(recommend(entries)),
        "entries": entries,
        "reasons": [
            (e.scheme, e.expected_failure or reasons.explain(e).what)
            for e in entries
            if (e.expected_failure or e.reason) and e.status is not Status.PASSED
        ],
        "remarks": [reasons.without_paths(plain(sentence)) for sentence in said],
        "pareto": pareto.chart(entries, best.scheme if best else None),
        "charts": [chart for chart in (_drops(entries), _layers(entries)) if chart],
        "thresholds": [
            (entry.scheme, thresholds.advice(point), thresholds.details(point), _curves(point, entry.scheme))
            for entry in entries
            if (point := entry.operating_point)
        ],
        "collapses": [_collapse(e) for e in entries if e.collapse or e.collapse_missing],
        "errors": _errors(entries),
        "sizes": _by_size(entries),
        "confidence": next((e.confidence for e in entries if e.confidence is not None), None),
        "classes": _by_class(entries),
        "gallery": [
            (entry.scheme, [(_url(data), image) for data, image in shown.images], shown.left_out)
            for entry, shown in zip(entries, images, strict=True)
            if shown
        ],
    }


def _collapse(entry: Entry) -> dict[str, Any]:
    """Where a scheme that failed departs from FP32, or why that is not known."""
    found = entry.collapse
    if found is None:
        return {"scheme": entry.scheme, "said": reasons.without_paths(entry.collapse_missing or "")}
    tables = [("The nodes around it", found), ("What kernels without VNNI lose besides", found.without_vnni)]
    return {
        "scheme": entry.scheme,
        "said": collapses.headline(found),
        "compared": collapses.compared(found),
        "chart": collapses.chart(found, entry.scheme),
        "headings": collapses.HEADINGS,
        "tables": [(title, collapses.rows(one)) for title, one in tables if one is not None],
    }


def _errors(entries: Sequence[Entry]) -> dict[str, Any] | None:
    """A row for FP32 and every scheme: how many errors of each kind, their change, and what the kind costs in AP50; and the
    confusions that became more."""
    compared = [(e.scheme, e.errors) for e in entries if e.errors and e.scheme != "fp32"]
    if not compared:
        return None
    base = compared[0][1].reference
    kinds = list(base.counts)
    rows: list[tuple[str, list[tuple[int, int | None, float]]]] = [
        ("fp32", [(base.counts[kind], None, base.ap50_costs[kind]) for kind in kinds])
    ]
    for scheme, found in compared:
        now = found.quantized
        rows.append((scheme, [(now.counts[k], now.counts[k] - base.counts[k], now.ap50_costs[k]) for k in kinds]))
    swaps = [
        (scheme, ", ".join(f"{one.true} for {one.taken_for} ({one.before} to {one.after})" for one in found.swaps))
        for scheme, found in compared
        if found.swaps
    ]
    return {"kinds": kinds, "rows": rows, "swaps": swaps}


def _by_size(entries: Sequence[Entry]) -> list[tuple[str, list[float | None]]]:
    """Drops of AP on small, medium and large objects, of recall and of the mean score, a row a scheme."""
    names = ("map_small", "map_medium", "map_large", "recall", "score_shift")
    return [(e.scheme, [e.drops.get(name) for name in names]) for e in entries if e.drops and e.scheme != "fp32"]


def _by_class(entries: Sequence[Entry], count: int = 8) -> list[tuple[str, list[tuple[str, float]]]]:
    """The classes that lose most, a row a scheme."""
    rows = []
    for entry in entries:
        if entry.class_drops and entry.scheme != "fp32":
            worst = sorted(entry.class_drops.items(), key=lambda item: -item[1])[:count]
            rows.append((entry.scheme, worst))
    return rows


def _url(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def _drops(entries: Sequence[Entry]) -> str:
    """Drop with its interval against the threshold, a line a scheme."""
    shown = [e for e in entries if e.drop is not None and e.drop_ci is not None and e.scheme != "fp32"]
    if not shown:
        return ""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for row, entry in enumerate(reversed(shown)):
            low, high = (100 * value for value in entry.drop_ci or (0.0, 0.0))
            axes.plot([low, high], [row, row], color=_COLOURS[entry.status], linewidth=2)
            axes.plot(
                100 * (entry.drop or 0.0), row, pareto.MARKS[entry.status], color=_COLOURS[entry.status], markersize=7
            )
            if entry.threshold is not None:
                axes.plot([100 * entry.threshold] * 2, [row - 0.35, row + 0.35], "k:", linewidth=1.5)
        axes.axvline(0, color="0.6", linewidth=1)
        axes.set_yticks(range(len(shown)), [entry.scheme for entry in reversed(shown)])
        axes.set(xlabel="drop of AP, points, with its 95 % interval; dotted: the threshold")
        axes.margins(y=0.5 / len(shown))

    return svg.render(
        draw, 8.2, 0.9 + 0.32 * len(shown), "Drop of AP of every scheme, with its interval and its threshold"
    )


def _curves(found: OperatingPointRecord, scheme: str) -> str:
    """Precision over recall and F1 over the threshold of both detectors, told apart by their lines."""
    drawn: list[tuple[BehaviourRecord, Any]] = [
        (found.reference, {"color": "0.55", "linewidth": 2}),
        (found.quantized, {"color": "k", "linewidth": 1.2, "linestyle": "--"}),
    ]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        for one, style in drawn:
            points = zip(one.curve.thresholds, one.curve.precision, one.curve.recall, strict=True)
            known = [(t, p, r) for t, p, r in points if p is not None]
            if not known:
                continue
            steps, precision, recall = zip(*known, strict=True)
            left.plot(recall, precision, **style)
            right.plot(steps, [2 * p * r / (p + r) if p + r else 0.0 for _, p, r in known], **style)
        marks = [
            (found.reference.at_confidence, "o", "0.55"),
            (found.quantized.at_confidence, "o", "none"),
            *([(found.same_precision.at, "s", "k")] if found.same_precision else []),
        ]
        for point, mark, face in marks:
            look = {"marker": mark, "markerfacecolor": face, "markeredgecolor": "k", "markersize": 7}
            if point.precision is not None:
                left.plot(point.recall, point.precision, **look)
            right.plot(point.threshold, point.f1, **look)
        left.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.05))
        right.set(xlabel="confidence threshold", ylabel="F1", xlim=(0, 1), ylim=(0, 1.05))
        for axes in (left, right):
            axes.grid(color="0.92")

    used = f"; square: {html.escape(scheme)} at {found.same_precision.at.threshold:g}" if found.same_precision else ""
    caption = f"Solid: FP32; dashed: {html.escape(scheme)}. Circles: at {found.confidence:g}, FP32's filled{used}"
    label = f"Precision over recall, and F1 over the confidence threshold, of FP32 and {scheme}"
    return svg.render(draw, 8.2, 2.6, label) + f"<figcaption>{caption}</figcaption>"


def _layers(entries: Sequence[Entry], count: int = 20) -> str:
    """What the most sensitive convolutions cost alone, of the first scheme that measured it."""
    measured = next((entry for entry in entries if entry.layer_sqnr), None)
    if measured is None or not measured.layer_sqnr:
        return ""
    worst = sorted(measured.layer_sqnr.items(), key=lambda item: item[1])[:count]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        rows = range(len(worst))
        axes.barh(rows, [value for _, value in reversed(worst)], color="0.75", edgecolor="0.2", height=0.7)
        axes.set_yticks(rows, [name for name, _ in reversed(worst)], fontsize=7)
        axes.set(xlabel="SQNR of the raw head, dB, with this convolution alone quantized: short bars are sensitive")

    caption = f"The {len(worst)} most sensitive convolutions, measured for {measured.scheme}"
    return svg.render(draw, 8.2, 0.9 + 0.2 * len(worst), caption) + f"<figcaption>{html.escape(caption)}</figcaption>"


def _sweep(sweep: SweepRecord, top: int = 15) -> dict[str, Any]:
    """One combination: a chart of both rankings, the worst layers by either, and where the two disagree."""
    apart = disagreements(sweep)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([1, len(sweep.layers)], [1, len(sweep.layers)], color="0.8", linewidth=1)
        axes.plot([one.rank for one in sweep.layers], [one.graph_rank for one in sweep.layers], "o", color="0.35", ms=4)
        for number, one in enumerate(apart, 1):
            axes.plot(one.rank, one.graph_rank, "s", color="k", fillstyle="none", markersize=9)
            axes.annotate(str(number), (one.rank, one.graph_rank), (7, 3), textcoords="offset points", size=9)
        axes.set(xlabel="rank by AutoQuant (1: most sensitive)", ylabel="rank on the ONNX graph")

    worst = [one for one in sweep.layers if min(one.rank, one.graph_rank) <= top]
    return {
        "record": sweep,
        "chart": svg.render(draw, 5.2, 4.0, "The two rankings of layers against each other"),
        "apart": apart,
        "worst": worst,
    }
