"""Cross-checks of ModelOpt's INT8 with other tools: accuracy, latency, layer sensitivity. Optional extras, skipped without."""

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

REFERENCE = "int8-modelopt-entropy"
IMAGES, PAIRS = 4, 30


@pytest.mark.crosscheck
def test_agrees_with_modelopt(case: Case, request: pytest.FixtureRequest, workbench: Workbench, record: Record) -> None:
    """Two tools that quantize the same convolutions to 8 bits agree on which of them are sensitive, and nearly on AP."""
    if not tool(case.scheme.tool).crosscheck:
        pytest.skip("the scheme is no cross-check of another tool")
    # Now, and not as arguments: most schemes are none, and would be measured for nothing.
    artifact: Artifact = request.getfixturevalue("artifact")
    evidence: Evidence = request.getfixturevalue("evidence")
    other = dataclasses.replace(case, scheme=find_scheme(REFERENCE))
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
        sqnr = layerwise.sqnr_of_artifact(floating, graph.load(one.path), progress=workbench.progress)
        assert len(sqnr) > 0.9 * len(floating.nodes), f"{one.path}: only {len(sqnr)} convolutions are known by name"
        rankings.append(sqnr)
    shared = rankings[0].keys() & rankings[1].keys()
    orders = [[n for n in layerwise.most_sensitive(sqnr, len(sqnr)) if n in shared] for sqnr in rankings]
    ranks = layerwise.compare_rankings(*orders)
    speed = None
    if workbench.skip_reason(other, timed=True, scored=True) is None:
        feed = workbench.inputs(case.detector, 1)[0]
        runs = [_run(workbench.session(which), feed) for which in (other, case)]
        speed, _, _ = interleave(runs[0], runs[1], pairs=PAIRS)
    low, high = drop_interval(evidence.accuracy, theirs.accuracy, len(workbench.truth(case.detector).images))
    module_of = layermap.convolutions(floating.model)
    found = CrossCheck(
        scheme=REFERENCE,
        ap_difference=evidence.accuracy.map - theirs.accuracy.map,
        ap_interval=(low, high),
        speed_ratio=speed.ratio if speed else None,
        speed_interval=(speed.low, speed.high) if speed else None,
        rank_correlation=ranks.correlation,
        disagreements=[module_of[name] for name, _, _ in ranks.disagreements[:5]],
    )
    record(entries.part(case, crosscheck=found))
    assert ranks.correlation > 0.3, (
        "the tools disagree on which convolutions are sensitive: one of the two artifacts is measured wrongly"
    )


def _run(session: Any, tensor: Any) -> Callable[[], Any]:
    return functools.partial(session.run, None, {session.get_inputs()[0].name: tensor})
