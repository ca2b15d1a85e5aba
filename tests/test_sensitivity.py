"""Layer sensitivity by ModelOpt AutoQuant: weight dtype x activation dtype x granularity, one test a combination.

``pytest tests/test_sensitivity.py -m sensitivity -k "int8 and per_layer"``. What a combination cannot do is a skip with its
reason in the index; a crash is that combination's failure, and the sweep goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lowbit.errors import UnavailableError
from lowbit.results import SweepRecord
from lowbit.sensitivity import Combination, sweep
from lowbit_pytest.workbench import Workbench


@pytest.mark.sensitivity
def test_sensitivity(
    swept: tuple[str, Combination], workbench: Workbench, record_sweep: Callable[[SweepRecord], None]
) -> None:
    name, combination = swept
    try:
        what = workbench.sweep(name)
        manifest = sweep.measure(what, combination, workbench.progress)
    except UnavailableError as error:
        pytest.skip(str(error))
    sweep.write_index(what.place)
    if manifest["status"] == sweep.UNSUPPORTED:
        pytest.skip(manifest["reason"])
    assert manifest["status"] == sweep.MEASURED, manifest["reason"]
    ranking = sweep.read_ranking(what.place / combination.id)
    found = sweep.read_record(what.place / combination.id)
    record_sweep(found)
    assert len(ranking) == manifest["layers"]
    assert [layer.score for layer in ranking] == sorted((layer.score for layer in ranking), reverse=True)
    assert ranking[0].score > 0
    assert sum(layer.share for layer in ranking) == pytest.approx(1)
    # The ONNX graph's ranking covers the same layers, and its most sensitive one dominates wherever it is quantized.
    assert sorted(layer.graph_rank for layer in found.layers) == list(range(1, len(ranking) + 1))
    worst = min(found.layers, key=lambda layer: layer.graph_rank)
    assert all(layer.leave_one_out_db < worst.alone_db + 3 for layer in found.layers if layer is not worst)
    for leaf in ("config.yaml", "autoquant_state.pt", "layer-sensitivity-report.md"):
        assert Path(what.place / combination.id / leaf).stat().st_size > 0
