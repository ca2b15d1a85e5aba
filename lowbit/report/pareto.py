"""AP against time and against size: the schemes that nothing beats in both are named, the others stay in the background."""

from __future__ import annotations

import html
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lowbit.report import svg
from lowbit.results import Entry, Status

MARKS = {Status.PASSED: "o", Status.INCONCLUSIVE: "D", Status.FAILED: "X", Status.ERROR: "X"}

Box = tuple[float, float, float, float]  # left, bottom, right, top

# AP further below the best than this many times what the median scheme loses is drawn at the edge, and at least these
# points: one naive scheme would squeeze all others into a line.
_FAR, _LEAST = 4.0, 0.02
# Costs beyond this many times the median are drawn at the edge.
_DEAR = 3.0
# Failed schemes that are named though something beats them.
_FAILED = 3
# Distances of a label from its point, in points of 1/72 inch, and directions in order of preference.
_DISTANCES = (5, 14, 24, 36, 50, 66)
_DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))


@dataclass(frozen=True)
class Point:
    """A scheme in a panel. ``cost``: what is lower for better ones, time or size; ``accuracy``: AP as a fraction."""

    scheme: str
    cost: float
    accuracy: float
    status: Status
    drop: float | None = None


@dataclass(frozen=True)
class Panel:
    """What a panel shows: who is on the front, the limits of what is not cut off, and who is named, most important first."""

    front: list[Point]
    least_accuracy: float
    largest_cost: float
    outliers: list[Point]
    named: list[Point]


def arrange(points: Sequence[Point], shipped: str | None = None) -> Panel:
    """Choose what a panel of at least one point shows. ``shipped``: the scheme that is recommended, which is named."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.accuracy, p.scheme)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    best = max(point.accuracy for point in points)
    typical = statistics.median(best - point.accuracy for point in points)
    floor = best - max(_LEAST, _FAR * typical)
    ceiling = _DEAR * statistics.median(point.cost for point in points)
    reference = [point for point in points if point.scheme == "fp32"]
    outliers = [p for p in points if p not in reference and (p.accuracy < floor or p.cost > ceiling)]
    inside = [point for point in points if point not in outliers]
    failed = [point for point in inside if point.status in (Status.FAILED, Status.ERROR) and point not in front]
    failed.sort(key=lambda p: (-(p.drop or 0.0), p.scheme))
    chosen = [point for point in points if point.scheme == shipped]
    named = list(dict.fromkeys([*chosen, *reference, *front, *outliers, *failed[:_FAILED]]))
    return Panel(front, min(p.accuracy for p in inside), max(p.cost for p in inside), outliers, named)


def place(
    anchors: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], taken: Sequence[Box], within: Box
) -> list[Box | None]:
    """Where labels stand: each at the first place near its anchor that is free, or nowhere.

    ``anchors``: points [n]; ``sizes``: width and height of the labels [n]; ``taken``: boxes that no label covers;
    ``within``: the box that all must lie in. One unit for all. Greedy, so the most important label comes first.
    """
    found: list[Box | None] = []
    standing = list(taken)
    for (x, y), (width, height) in zip(anchors, sizes, strict=True):
        box = next(
            (
                box
                for distance, direction in itertools.product(_DISTANCES, _DIRECTIONS)
                if _inside(box := _beside(x, y, width, height, distance, direction), within)
                and not any(_overlap(box, other) for other in standing)
            ),
            None,
        )
        found.append(box)
        if box:
            standing.append(box)
    return found


def _beside(x: float, y: float, width: float, height: float, distance: float, direction: tuple[int, int]) -> Box:
    across, up = direction
    left = x + distance if across > 0 else x - distance - width if across < 0 else x - width / 2
    bottom = y + distance if up > 0 else y - distance - height if up < 0 else y - height / 2
    if across and up:  # a diagonal label is near enough at half of the height
        bottom = y + distance / 2 if up > 0 else y - distance / 2 - height
    return left, bottom, left + width, bottom + height


def _overlap(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def _inside(box: Box, within: Box) -> bool:
    return within[0] <= box[0] and within[1] <= box[1] and box[2] <= within[2] and box[3] <= within[3]


def chart(entries: Sequence[Entry], shipped: str | None) -> str:
    """A panel for time and one for size, where at least two schemes have it; else the empty string."""
    scored = [entry for entry in entries if entry.map is not None]
    costs = {
        "p50 relative to FP32": {e.scheme: 1 / e.latency.speedup for e in scored if e.latency and e.latency.speedup},
        "size, MB": {e.scheme: e.artifact.bytes / 1e6 for e in scored if e.artifact},
    }
    panels = {
        name: [Point(e.scheme, of[e.scheme], e.map or 0.0, e.status, e.drop) for e in scored if e.scheme in of]
        for name, of in costs.items()
        if len(of) > 1
    }
    if not panels:
        return ""
    nameless: dict[str, None] = {}

    def draw(figure: Any) -> None:
        figure.get_layout_engine().set(h_pad=0.08)
        shown = [arrange(points, shipped) for points in panels.values()]
        rows = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, (name, points), panel in zip(rows, panels.items(), shown, strict=True):
            _limits(axes, points, panel)
            axes.set(xlabel=name, ylabel="AP@[.5:.95]")
            axes.grid(color="0.94")
            axes.set_axisbelow(True)
        # The layout has to stand before pixels mean anything.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes, points, panel in zip(rows, panels.values(), shown, strict=True):
            nameless.update(dict.fromkeys(_panel(axes, points, panel)))

    drawn = svg.render(
        draw, 8.2, 3.5 * len(panels), f"AP against {' and against '.join(panels)}; the table has the numbers"
    )
    caption = (
        "Dark and named: what no other scheme beats in both, joined by the line; FP32; what is recommended; and what "
        "failed worst. Pale: what another one beats. Circle: passed; diamond: inconclusive; cross: failed; triangle: "
        "beyond the edge, at the numbers in brackets."
    )
    if nameless:
        caption += f" No room for the names of {', '.join(nameless)}."
    return f"{drawn}<figcaption>{html.escape(caption)}</figcaption>"


def _limits(axes: Any, points: Sequence[Point], panel: Panel) -> None:
    """The range of what is not cut off, with room for labels and for what lies beyond."""
    inside = [point for point in points if point not in panel.outliers]
    best, least = max(p.accuracy for p in inside), panel.least_accuracy
    cheapest, dearest = min(p.cost for p in points), panel.largest_cost
    high = max(best - least, 0.002)
    wide = max(dearest - cheapest, 0.05 * dearest)
    below = 0.35 if any(p.accuracy < least for p in panel.outliers) else 0.15
    axes.set_ylim(least - below * high, best + 0.18 * high)
    axes.set_xlim(cheapest - 0.06 * wide, dearest + 0.16 * wide)


def _panel(axes: Any, points: Sequence[Point], panel: Panel) -> list[str]:
    """Draw a panel whose limits stand; returns the names that found no room."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    front = [(point.cost, point.accuracy) for point in panel.front]
    axes.step(*zip(*front, strict=True), where="post", color="0.6", linewidth=1, zorder=1)
    edge = (right - left) * 0.012, (top - bottom) * 0.03
    at = {}
    for point in points:
        x, y = min(point.cost, right - edge[0]), max(point.accuracy, bottom + edge[1])
        at[point.scheme] = x, y
        if (x, y) != (point.cost, point.accuracy):
            mark = "v" if y != point.accuracy else ">"
        else:
            mark = MARKS.get(point.status, "o")
        dark = point in panel.named
        look = (
            {"markerfacecolor": "0.15", "markeredgecolor": "k"}
            if dark
            else {"markerfacecolor": "0.93", "markeredgecolor": "0.68"}
        )
        axes.plot(x, y, mark, markersize=7 if dark else 6, zorder=3 if dark else 2, linewidth=1, **look)
    unit = axes.figure.dpi / 72
    pixels = {scheme: tuple(v / unit for v in axes.transData.transform(where)) for scheme, where in at.items()}
    texts = [_text(point, at[point.scheme]) for point in panel.named]
    sizes = [_size(axes, text) for text in texts]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in pixels.values()]
    frame = axes.get_window_extent()
    within = tuple(v / unit for v in (frame.x0, frame.y0, frame.x1, frame.y1))
    boxes = place([pixels[point.scheme] for point in panel.named], sizes, taken, within)
    missing = []
    for point, text, box in zip(panel.named, texts, boxes, strict=True):
        if box is None:
            missing.append(point.scheme)
            continue
        x, y = pixels[point.scheme]
        nearest = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
        if abs(nearest[0] - x) + abs(nearest[1] - y) > 12:
            ends = axes.transData.inverted().transform([(u * unit, v * unit) for u, v in ((x, y), nearest)])
            axes.plot(*zip(*ends, strict=True), color="0.55", linewidth=0.7, zorder=1)
        corner = axes.transData.inverted().transform((box[0] * unit, box[1] * unit))
        axes.text(*corner, text, fontsize=8, va="bottom", ha="left", zorder=4)
    return missing


def _text(point: Point, at: tuple[float, float]) -> str:
    if at == (point.cost, point.accuracy):
        return point.scheme
    beyond = [f"AP {point.accuracy:.3f}"] if at[1] != point.accuracy else []
    beyond += [f"{point.cost:.3g}"] if at[0] != point.cost else []
    return f"{point.scheme} ({', '.join(beyond)})"


def _size(axes: Any, text: str) -> tuple[float, float]:
    """Width and height of a label in points. DejaVu Sans runs wider than what a reader without it gets instead."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    box = TextPath((0, 0), text, size=8, prop=FontProperties(family="DejaVu Sans")).get_extents()
    return float(box.width) + 3, 10.0
