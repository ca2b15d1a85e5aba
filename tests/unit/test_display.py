"""Progress as people see it: lines where nobody looks, a bar on a terminal, and nothing left of it."""

from __future__ import annotations

import io
import os
import pty
import re
from collections.abc import Callable, Iterator
from typing import TextIO

import pytest

from lowbit import cli
from lowbit.display import EVERY, Display
from lowbit.progress import BYTES, Progress, Step

CLEARED, CURSOR_OFF, CURSOR_ON = "\x1b[2K", "\x1b[?25l", "\x1b[?25h"


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(steps: list[tuple[float, Step]]) -> list[str]:
    """What is written where no terminal is, for steps and the seconds before each."""
    stream, clock = io.StringIO(), Clock()
    with Display(stream, clock=clock) as show:
        for seconds, step in steps:
            clock.now += seconds
            show(step)
    return stream.getvalue().splitlines()


def test_a_text_is_a_line_at_once() -> None:
    assert lines([(0, Step("exporting")), (0, Step("done").under("int8"))]) == [
        "lowbit: exporting",
        "lowbit: int8: done",
    ]


def test_a_count_is_a_line_now_and_then_and_one_at_the_end() -> None:
    steps = [(1.0, Step("evaluating", done, 12, "images")) for done in range(1, 13)]
    assert lines(steps) == [
        "lowbit: evaluating: 5 of 12 images, 1/s, 0:00:07 left",
        "lowbit: evaluating: 10 of 12 images, 1/s, 0:00:02 left",
        "lowbit: evaluating: 12 of 12 images, 1/s, 0:00:11 in all",
    ]
    assert EVERY == 5


def test_what_is_slow_unknown_or_cut_short() -> None:
    assert lines([(0, Step("steps", 1, 9, "steps")), (60, Step("steps", 3, 9, "steps", "loss 0.5"))]) == [
        "lowbit: steps: 3 of 9 steps, 30 s each, 0:03:00 left, loss 0.5"
    ]
    assert lines([(0, Step("a.pt", 0, 0, BYTES)), (10, Step("a.pt", 31_000_000, 0, BYTES))]) == [
        "lowbit: a.pt: 31.0 MB, 3.1 MB/s"
    ]
    # The next count begins anew, and one that did not end says nothing.
    assert lines([(1, Step("one", 3, 4, "images")), (1, Step("two", 1, 1, "images"))]) == [
        "lowbit: two: 1 of 1 images, 0:00:00 in all"
    ]


def test_a_download_that_is_taken_up_has_the_rate_of_what_came_now() -> None:
    steps = [(0, Step("a.pt", 50_000_000, 60_000_000, BYTES)), (5, Step("a.pt", 55_000_000, 60_000_000, BYTES))]
    assert lines(steps) == ["lowbit: a.pt: 55.0 MB of 60.0 MB, 1.0 MB/s, 0:00:05 left"]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TextIO, Callable[[], str]]]:
    """A terminal to write to, and what was written to it so far."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    seen: list[bytes] = []

    def read() -> str:
        try:
            while True:
                seen.append(os.read(ours, 65536))
        except BlockingIOError:
            return b"".join(seen).decode()

    with os.fdopen(theirs, "w") as stream:
        yield stream, read
    os.close(ours)


def left(text: str) -> str:
    """What a terminal shows after a text: the lines that were not erased."""
    shown = [""]
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", text):
        if part == "\n":
            shown.append("")
        elif part == CLEARED:
            shown[-1] = ""
        elif part == "\x1b[1A":
            shown.pop()
        elif not part.startswith("\x1b") and part != "\r":
            shown[-1] += part
    return "\n".join(shown)


def test_a_bar_is_shown_and_nothing_is_left_of_it(terminal: tuple[TextIO, Callable[[], str]]) -> None:
    stream, read = terminal
    clock, paused = Clock(), []
    with Display(stream, before=lambda: paused.append(1), clock=clock) as show:
        show(Step("evaluating", 1, 3, "images"))
        assert "evaluating" in read() and "1 of 3 images" in read() and "━" in read()
        assert len(paused) == 1
        clock.now += 1
        show(Step("evaluating", 3, 3, "images"))
        assert read().count(CURSOR_OFF) == read().count(CURSOR_ON) == 1
        show(Step("evaluated"))
        assert len(paused) == 2
    assert left(read()) == "lowbit: evaluated\n"


@pytest.mark.parametrize("ending", [KeyboardInterrupt, RuntimeError])
def test_whatever_ends_it_leaves_the_terminal_clean(
    terminal: tuple[TextIO, Callable[[], str]], ending: type[BaseException]
) -> None:
    stream, read = terminal
    with pytest.raises(ending), Display(stream) as show:
        show(Step("evaluating", 1, 3, "images"))
        raise ending
    assert "1 of 3 images" in read()
    assert left(read()) == "" and read().count(CURSOR_OFF) == read().count(CURSOR_ON) == 1


def test_an_interrupted_command_takes_its_bar_away(
    terminal: tuple[TextIO, Callable[[], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, read = terminal

    def interrupted(_: object, progress: Progress) -> int:
        progress(Step("measuring", 1, 82, "convolutions"))
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("lowbit.cli.commands._run", interrupted)
    assert cli.main(["schemes"]) == 130
    stream.flush()
    assert "1 of 82 convolutions" in read()
    assert left(read()) == "lowbit: interrupted\n"


def test_a_narrow_terminal_cuts_the_line(
    terminal: tuple[TextIO, Callable[[], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar that takes two lines could not be erased where the terminal scrolls."""
    stream, read = terminal
    with Display(stream) as show:
        show(Step("evaluating with a detector of a very long name indeed", 1, 300, "images", "loss 0.123, best 0.456"))
    assert "\n" not in read().rstrip("\r\n").split(CURSOR_ON)[0].split(CURSOR_OFF)[1].rstrip("\r\n")
    assert "1 of 300 images, loss" in read() and left(read()) == ""


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("TERM", "dumb")])
def test_a_terminal_that_keeps_all_gets_lines(
    terminal: tuple[TextIO, Callable[[], str]], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    stream, read = terminal
    monkeypatch.setenv(name, value)
    with Display(stream) as show:
        show(Step("evaluating", 1, 3, "images"))
        show(Step("evaluating", 3, 3, "images"))
    assert read().startswith("lowbit: evaluating: 3 of 3 images") and "\x1b" not in read()
