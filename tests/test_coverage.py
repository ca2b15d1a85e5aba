"""Does the 95 % interval of the drop hold the true drop in 93 to 97 % of draws? On simulated detectors."""

from __future__ import annotations

import pytest

from benchmarks.coverage import coverage


@pytest.mark.slow
@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2])
def test_interval_holds_the_true_drop(loss: float) -> None:
    truth, held, width = coverage(images=100, draws=400, categories=3, loss=loss, seed=103)
    assert 0 < truth < 0.1 and 0 < width < 0.1
    assert 0.93 <= held <= 0.97
