"""A search's budget in minutes, as work that is the same on every machine.

What a search may try shapes the artifact, so a clock would give another one on every run. The minutes that the user names
are those of a reference machine, two cores with AVX-512 VNNI: every step is charged what it takes there, by the
multiply-accumulates that it runs and the files that it builds. A slower machine takes longer for the same artifact, a faster
one is done sooner.
"""

from __future__ import annotations

from dataclasses import dataclass

# Of the reference machine: multiply-accumulates a second of a float graph, and seconds of a run's and of a step's own.
_RATE, _RUN, _STEP = 40e9, 0.005, 1.0
# How much longer than the float graph's run a run takes that hands out every tensor, and one that rounds in float.
COLLECTING, EMULATED, DEPLOYED = 4.0, 3.0, 1.0
# Seconds to place quantizers in a graph, lay it out and prove that: by its nodes.
_BUILD_A_NODE = 0.03


@dataclass
class Budget:
    """``minutes``: what the user named; ``macs``: of the float graph, a run; ``nodes``: how many it has; ``seconds``: charged."""

    minutes: float
    macs: int
    nodes: int
    seconds: float = 0.0

    def runs(self, images: int, form: float) -> float:
        """Seconds of a step that runs a graph of a form, one of the module's, on images."""
        return _STEP + images * (_RUN + form * self.macs / _RATE)

    def build(self, images: int) -> float:
        """Seconds of building an artifact and running it on images."""
        return _BUILD_A_NODE * self.nodes + self.runs(images, DEPLOYED)

    def allows(self, seconds: float, reserved: float = 0.0) -> bool:
        """Whether a step fits what is left, with ``reserved`` seconds for later steps."""
        return self.seconds + seconds + reserved <= self.minutes * 60

    def charge(self, seconds: float) -> None:
        """Count a step that was made."""
        self.seconds += seconds
