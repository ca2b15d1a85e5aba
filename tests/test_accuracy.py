"""Does a low-bit detector still see? The drop of COCO mAP against FP32, judged with its interval."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from lowbit import gate
from lowbit.artifact import Artifact
from lowbit.graph import Structure
from lowbit_pytest.options import Case
from lowbit_pytest.recording import (
    Record,
    describe_accuracy,
    describe_artifact,
    describe_runtime,
    save_detections,
    save_pictures,
)
from lowbit_pytest.workbench import Evidence, Workbench

# A reference that sees next to nothing was given the wrong data set, classes or input scaling: no drop from it means
# anything.
BLIND = 0.02


@pytest.mark.accuracy
def test_map_drop(
    case: Case,
    artifact: Artifact,
    structure: Structure,
    evidence: Evidence,
    workbench: Workbench,
    record: Record,
    run_folder: Path,
) -> None:
    dataset = workbench.truth(case.detector)
    limits = workbench.limits(case)
    record(
        **describe_artifact(artifact, structure, run_folder),
        **describe_accuracy(case, evidence),
        weights=workbench.weights(case.detector),
        dataset=dataset.name,
        dataset_file=str(dataset.annotations),
        dataset_digest=dataset.digest,
        dataset_classes=dataset.category_ids,
        images=len(dataset.images),
        **describe_runtime(case, workbench, evidence.parity),
        threshold=limits["map"],
    )
    save_detections(case, evidence, run_folder)
    if case.scheme.id == "fp32":
        assert evidence.accuracy.map > BLIND, (
            f"{case.detector}: AP {evidence.accuracy.map:.4f} on {dataset.annotations}: the float detector sees next to "
            "nothing. Do data set, classes and input scaling belong to it?"
        )
        return
    record(**save_pictures(case, evidence, workbench, run_folder))
    images = len(dataset.images)
    decision = gate.decide(evidence.drop, evidence.interval, limits["map"], workbench.inconclusive, images)
    record(verdict=decision.verdict.value, reason=decision.reason)
    if decision.verdict is gate.Verdict.INCONCLUSIVE:
        warnings.warn(f"{case.id}: {decision.reason}", stacklevel=1)
    assert decision.allowed, decision.reason
    int8_macs = workbench.kernels(case).int8_mac_fraction if case.on_default else None
    broken = gate.broken_limits(limits, evidence.drops, int8_macs)
    assert not broken, "; ".join(broken)
