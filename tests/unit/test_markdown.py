"""Tables of Markdown."""

from __future__ import annotations

import pytest

from lowbit.markdown import escape, plain, table


def test_a_table() -> None:
    assert table(("what", "AP"), "lr", [("fp32", 0.5), ("int8", None)]) == [
        "| what | AP |",
        "|---|---:|",
        "| fp32 | 0.5 |",
        "| int8 |  |",
    ]


def test_a_cell_cannot_end_itself_or_become_html() -> None:
    assert table(("a|b",), "l", [("<b>x\n| y",)])[::2] == ["| a\\|b |", "| &lt;b>x \\| y |"]
    assert escape("1 & 2") == "1 &amp; 2"


def test_what_was_escaped_is_plain_again() -> None:
    assert plain("**Ship `a`**: no other") == "Ship a: no other"
    for text in ("a<b & c|d", "&lt;", "&amp;lt;"):
        assert plain(escape(text)) == text


@pytest.mark.parametrize("row", [(1,), (1, 2, 3)])
def test_a_row_of_another_length_is_refused(row: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a table of 2 columns"):
        table(("a", "b"), "ll", [row])
