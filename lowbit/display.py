"""Progress of long work as people see it: a bar with a rate and the time left on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from lowbit.progress import BYTES, Step

if TYPE_CHECKING:
    import rich.progress

# Seconds between two lines of one count where there is no bar: a log of an hour's work stays readable.
EVERY = 5.0
# Characters: of a bar, of what is left of a text on a narrow terminal, and between the columns and behind them, where a
# terminal shows the ^C that is typed: were it on the next line, the bar would stay.
_BAR, _LEAST, _FREE = 10, 12, 6


class Display:
    """Shows steps on a text stream; a context manager that leaves the terminal as it was, whatever ends the work.

    A bar where the stream is a terminal, else a line at most every :data:`EVERY` seconds and one at the end. A terminal of
    a CI service (``$CI``) gets lines: its log keeps every state of a bar.
    """

    def __init__(
        self, stream: TextIO, *, before: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``before`` is called before anything is written after a pause. ``clock``: seconds."""
        self._stream = stream
        self._before = before
        self._clock = clock
        self._bar = stream.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
        self._shown: rich.progress.Progress | None = None
        self._what = ""
        self._written = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, step: Step) -> None:
        """Show a step."""
        if not step.unit:
            self.close()
            self._write(step.what)
            return
        if self._shown is None or self._what != step.what:
            self.close()
            self._shown, self._what = self._start(step), step.what
        task = self._shown.tasks[0]
        self._shown.update(task.id, completed=step.done, total=step.total or None, step=step)
        ended = 0 < step.total <= step.done
        if not self._bar and (ended or self._clock() - self._written >= EVERY):
            self._write(f"{step.what}: {_state(task)}")
        if ended:
            self.close()

    def close(self) -> None:
        """Take the bar off the terminal. What is shown next begins anew."""
        if self._shown is not None:
            self._shown.stop()
            self._shown = None

    def _write(self, text: str) -> None:
        self._before()
        self._stream.write(f"lowbit: {text}\n")
        self._stream.flush()
        self._written = self._clock()

    def _start(self, step: Step) -> rich.progress.Progress:
        """A bar, or where there is none what keeps its rate."""
        from rich.console import Console
        from rich.progress import BarColumn, ProgressColumn, Task
        from rich.progress import Progress as Bars
        from rich.text import Text

        console = Console(file=self._stream, force_terminal=self._bar)

        class Cell(ProgressColumn):
            """A text that is cut where the line would be wider than the terminal: a bar of two lines is not erased."""

            def __init__(self, text: Callable[[Task], str], room: Callable[[Task], int]) -> None:
                super().__init__()
                self._text, self._room = text, room

            def render(self, task: Task) -> Text:
                text = Text(self._text(task), no_wrap=True)
                text.truncate(max(_LEAST, console.width - _BAR - _FREE - self._room(task)), overflow="ellipsis")
                return text

        bars = Bars(
            Cell(lambda task: task.description, lambda task: len(_state(task))),
            BarColumn(_BAR),
            Cell(_state, lambda _: _LEAST),
            console=console,
            # Others write to these while a bar is shown: they may be captured, or a pipe.
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
            get_time=self._clock,
            disable=not self._bar,
        )
        if self._bar:
            self._before()
        bars.add_task(step.what, total=step.total or None, completed=step.done, step=step, first=step.done)
        bars.start()
        return bars


def _state(task: rich.progress.Task) -> str:
    """How far it is, how fast, and how long it will take."""
    step: Step = task.fields["step"]
    parts = [f"{_amount(step.done, step.unit)} of {_amount(step.total, step.unit)}"]
    if not step.total:
        parts = [_amount(step.done, step.unit)]
    if step.unit != BYTES:
        parts = [f"{parts[0]} {step.unit}"]
    # On the average, not of late as rich has it: that knows no rate where a step takes half a minute.
    elapsed = task.finished_time if task.finished else task.elapsed
    speed = (step.done - task.fields["first"]) / elapsed if elapsed else 0.0
    if speed:
        slow = speed < 1 and step.unit != BYTES
        parts.append(f"{1 / speed:.3g} s each" if slow else f"{_amount(speed, step.unit)}/s")
    if task.finished:
        parts.append(f"{_duration(elapsed)} in all")
    elif speed and step.total:
        parts.append(f"{_duration((step.total - step.done) / speed)} left")
    return ", ".join([*parts, *([step.detail] if step.detail else [])])


def _amount(value: float, unit: str) -> str:
    from rich.filesize import decimal

    if unit == BYTES:
        return decimal(int(value))
    return str(value) if isinstance(value, int) else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _duration(seconds: float | None) -> str:
    return str(timedelta(seconds=round(seconds or 0)))
