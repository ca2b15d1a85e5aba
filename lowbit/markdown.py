"""Tables and texts in Markdown, as GitHub shows it (https://github.github.com/gfm/#tables-extension-)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_RULES = {"l": "---", "r": "---:"}


def table(headings: Sequence[str], align: str, rows: Iterable[Iterable[object]]) -> list[str]:
    """The lines of a table. ``align``: ``l`` or ``r`` for every column. None is an empty cell.

    Raises ``ValueError`` for a row of another length: its cells would stand under wrong headings.
    """
    cells = [["" if cell is None else escape(str(cell)) for cell in row] for row in (headings, *rows)]
    if any(len(row) != len(align) for row in cells):
        raise ValueError(f"a table of {len(align)} columns, {align!r}, has other rows: {cells}")
    heading, *body = (f"| {' | '.join(row)} |" for row in cells)
    return [heading, f"|{'|'.join(_RULES[letter] for letter in align)}|", *body]


def escape(text: str) -> str:
    """Keep a text from ending its table cell or becoming HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def plain(text: str) -> str:
    """A sentence of Markdown without its marks of code and bold, and with what :func:`escape` wrote undone: for HTML, which
    escapes by itself."""
    bare = text.replace("**", "").replace("`", "")
    return bare.replace("\\|", "|").replace("&lt;", "<").replace("&amp;", "&")
