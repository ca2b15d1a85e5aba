"""How a quantized detector is trained: the settings of one training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How to train. ``size``: side of the crops in pixels; ``rate``: peak learning rate of weights and biases,
    ``scale_rate`` of scales and zero points; ``widths``: minimum bits of the weights at the start, one value after
    another, each for a tenth of the steps; ``checks``: how often the held-out loss is taken; ``labels``: weight of the
    detection loss on labelled boxes, added to the distillation loss; 0 without."""

    steps: int
    rate: float = 1e-4
    scale_rate: float = 1e-5
    widths: tuple[int, ...] = ()
    batch: int = 8
    size: int = 320
    checks: int = 10
    labels: float = 0.0
    seed: int = 0

    def width(self, step: int) -> int:
        """Bits that weights have at least at a step; 0 once they have their own."""
        stage = step * 10 // self.steps
        return self.widths[stage] if stage < len(self.widths) else 0
