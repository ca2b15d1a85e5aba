"""Another tool's INT8 beside ModelOpt's: accuracy, latency and which layers suffer. Optional extras, skipped without."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest

from lowbit import entries, graph
from lowbit.artifact import Artifact
from lowbit.evaluate import Case, Evidence
from lowbit.measure.latency import interleave
from lowbit.measure.metrics import drop_interval
from lowbit.quantize import tool
from lowbit.results import CrossCheck
from lowbit.schemes import find_scheme
from lowbit.sensitivity import fake_quant, layermap, layerwise
from lowbit_pytest.recording import Record
from lowbit_pytest.workbench import Workbench

BESIDE = "int8-modelopt-entropy"
IMAGES, PAIRS = 4, 30


@pytest.mark.crosscheck
def test_beside_modelopt(
    case: Case, artifact: Artifact, evidence: Evidence, workbench: Workbench, record: Record
) -> None:
    """Two tools that quantize the same convolutions to 8 bits agree on which of them suffer, and nearly on AP."""
    if not tool(case.scheme.tool).crosscheck:
        pytest.skip("is no second opinion")
    other = dataclasses.replace(case, scheme=find_scheme(BESIDE))
    reason = workbench.skip_reason(other, timed=False, scored=True)
    if reason:
        pytest.skip(reason)
    theirs = workbench.evidence(other)
    detector = workbench.detector(case.detector)
    source = workbench.artifact(case.detector, find_scheme("fp32")).path
    shown = workbench.calibration(case.detector).paths[:IMAGES]
    floating = fake_quant.FloatGraph(source, detector.head, detector.input, shown)
    rankings = []
    for one in (artifact, workbench.artifact(case.detector, other.scheme)):
        costs = layerwise.sqnr_of_artifact(floating, graph.load(one.path), progress=workbench.progress)
        assert len(costs) > 0.9 * len(floating.nodes), f"{one.path}: only {len(costs)} convolutions are known by name"
        rankings.append(costs)
    shared = rankings[0].keys() & rankings[1].keys()
    orders = [[n for n in layerwise.most_sensitive(costs, len(costs)) if n in shared] for costs in rankings]
    opinions = layerwise.compare_rankings(*orders)
    speed = None
    if workbench.skip_reason(other, timed=True, scored=True) is None:
        feed = workbench.inputs(case.detector, 1)[0]
        runs = [_run(workbench.session(which), feed) for which in (other, case)]
        speed, _, _ = interleave(runs[0], runs[1], pairs=PAIRS)
    low, high = drop_interval(evidence.accuracy, theirs.accuracy, len(workbench.truth(case.detector).images))
    module_of = layermap.convolutions(floating.model)
    found = CrossCheck(
        scheme=BESIDE,
        ap_difference=evidence.accuracy.map - theirs.accuracy.map,
        ap_interval=(low, high),
        speed_ratio=speed.ratio if speed else None,
        speed_interval=(speed.low, speed.high) if speed else None,
        rank_correlation=opinions.correlation,
        disagreements=[module_of[name] for name, _, _ in opinions.disagreements[:5]],
    )
    record(entries.part(case, crosscheck=found))
    assert opinions.correlation > 0.3, (
        "the tools disagree on which convolutions suffer: one of them is measured wrongly"
    )


def _run(session: Any, tensor: Any) -> Callable[[], Any]:
    return functools.partial(session.run, None, {session.get_inputs()[0].name: tensor})
