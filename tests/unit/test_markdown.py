"""Tables of Markdown."""

from __future__ import annotations

import pytest

from lowbit.markdown import escape, table


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


@pytest.mark.parametrize("row", [(1,), (1, 2, 3)])
def test_a_row_of_another_length_is_refused(row: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a table of 2 columns"):
        table(("a", "b"), "ll", [row])
