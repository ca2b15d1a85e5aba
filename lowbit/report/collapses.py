"""Where a collapse begins, for people: a sentence, the nodes around it, and the SQNR along the network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from lowbit.markdown import table
from lowbit.report import svg
from lowbit.results import CollapseRecord, DivergenceRecord, Entry, NodeRecord

HEADINGS = ("node", "op", "SQNR, dB", "float range", "quantized range", "its quantizer", "its weight", "saturated")
# Below it a network has departed, see docs/verdict.md; the scale of the chart ends above what matters.
_DEPARTED_DB, _SHOWN_DB = 10, 60


def headline(record: CollapseRecord) -> str:
    """Where it begins and what mends it."""
    found: DivergenceRecord = record
    without = record.without_vnni
    if not record.way and without is not None and without.way:
        found = without
        begins = f"Without VNNI it departs at {found.way[0]}"
    elif record.way:
        begins = f"It departs from FP32 at {record.way[0]}, {record.curve[record.way[0]]:.1f} dB"
    else:
        begins = f"No node departs from FP32 (below {_DEPARTED_DB} dB)"
    place = " in the decode tail" if found.in_tail else ""
    return f"{begins}{place}; at the end, {found.end}, {found.end_db:.1f} dB are left. {record.reason}"


def compared(record: DivergenceRecord) -> str:
    """How much was compared."""
    skipped = ", ".join(f"{count} {reason}" for reason, count in record.skipped.items())
    return f"{record.compared} tensors compared on {record.images} images{f'; skipped: {skipped}' if skipped else ''}."


def rows(record: DivergenceRecord) -> list[tuple[str, ...]]:
    """The nodes around where it begins, as :data:`HEADINGS` names the columns."""
    return [_row(node) for node in record.nodes]


def markdown(entry: Entry, record: CollapseRecord) -> list[str]:
    """All of it, with the SQNR of every node that was compared."""
    lines = [f"# {entry.detector}-{entry.scheme} against FP32", "", headline(record), "", compared(record), ""]
    lines += table(HEADINGS, "llrlllll", rows(record))
    if record.without_vnni:
        lines += ["", "What x86 processors without VNNI lose besides, against those with it:", ""]
        lines += table(HEADINGS, "llrlllll", rows(record.without_vnni))
    lines += ["", "SQNR along the network, in the order of FP32's graph:", ""]
    lines += table(("node", "dB"), "lr", [(f"`{name}`", f"{value:.1f}") for name, value in record.curve.items()])
    return lines


def chart(record: DivergenceRecord, scheme: str) -> str:
    """SQNR over the nodes in the float graph's order; the first that departs is marked."""
    names, values = list(record.curve), [min(value, _SHOWN_DB) for value in record.curve.values()]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(range(len(values)), values, color="0.35", linewidth=1)
        axes.axhline(_DEPARTED_DB, color="k", linewidth=1, linestyle=":")
        if record.way:
            at = names.index(record.way[0])
            axes.plot(at, values[at], "s", color="k", fillstyle="none", markersize=9)
        axes.set(xlabel="nodes in the order of FP32's graph", ylabel="SQNR, dB", ylim=(min(0, *values), _SHOWN_DB))

    caption = f"SQNR along the network, {scheme} against FP32; square: where it departs; dotted: {_DEPARTED_DB} dB"
    return svg.render(draw, 8.2, 2.4, caption) + f"<figcaption>{html.escape(caption)}</figcaption>"


def _row(node: NodeRecord) -> tuple[str, ...]:
    quantized, weight = "", ""
    if node.quantized:
        one = node.quantized
        lost = f", {one.lost:.0%} of its channels lost" if one.lost else ""
        quantized = f"{_range(one.range)}, {one.clipped:.2%} clipped, alone {one.sqnr_db:.1f} dB{lost}"
    if node.weight_bits is not None and node.weight_db is not None:
        scales = "" if node.weight_scales is None else f", {node.weight_scales} scales"
        weight = f"{node.weight_bits} bits{scales}, {node.weight_db:.1f} dB"
    broken = f", {node.not_finite:.2%} not finite" if node.not_finite else ""
    return (
        node.name,
        node.op,
        f"{node.sqnr_db:.1f}",
        _range(node.range),
        _range(node.other_range) + broken,
        quantized,
        weight,
        "" if node.saturated is None else f"{node.saturated:.2%}",
    )


def _range(ends: Sequence[float]) -> str:
    return f"{ends[0]:.4g} to {ends[1]:.4g}"
