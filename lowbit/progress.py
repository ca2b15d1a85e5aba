"""What long work reports while it runs: whoever works calls a :data:`Progress` with a :class:`Step`.

Apart from what shows it (:mod:`lowbit.display`), which no artifact depends on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

BYTES = "B"


class Step(NamedTuple):
    """One report. ``what`` is done; ``done`` of ``total`` ``unit`` so far, 0 for an unknown total. Without a unit it is a
    line of text. ``detail``: what else is known now."""

    what: str
    done: int = 0
    total: int = 0
    unit: str = ""
    detail: str = ""

    def under(self, title: str) -> Step:
        """The same, said of one thing among several."""
        return self._replace(what=f"{title}: {self.what}")


Progress = Callable[[Step], None]


def silent(_: Step) -> None:
    """Shows nothing."""
