"""Charts as SVG within the page."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import Any


def render(draw: Callable[[Any], None], width: float, height: float, label: str) -> str:
    """An ``<svg>`` element of what ``draw(figure)`` draws. ``width``, ``height``: inches; ``label``: what a screen reader says."""
    import matplotlib
    from matplotlib.figure import Figure

    # Text as text: small, searchable, and in the reader's font; a salt keeps ids apart within one page and alike
    # between runs. One font and not a list of ten at every label.
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"{draw.__qualname__} {label}",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    # A hundredth of a point is finer than any screen.
    text = re.sub(r' d="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), text)
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
