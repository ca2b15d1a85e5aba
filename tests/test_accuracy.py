"""Does a low-bit detector still see? The drop of COCO mAP against FP32, judged with its interval."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from lowbit import gate
from lowbit.artifact import Artifact
from lowbit.evaluate import Case, Evidence
from lowbit.graph import Structure
from lowbit.results import Status
from lowbit_pytest.recording import (
    Record,
    describe_accuracy,
    describe_artifact,
    describe_runtime,
    save_changed_images,
    save_detections,
)
from lowbit_pytest.workbench import Workbench


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
        verdict = gate.judge_reference(evidence.accuracy.map, case.detector, dataset.annotations)
    else:
        record(**save_changed_images(case, evidence, workbench, run_folder))
        verdict = gate.judge(
            limits,
            evidence.drops,
            evidence.interval,
            workbench.kernels(case).int8_mac_fraction if case.on_default else None,
            # Of other runtimes a share of MACs in integer kernels is not asked.
            kernels_hidden=not case.on_default,
            inconclusive=workbench.inconclusive,
            images=len(dataset.images),
        )
    record(status=verdict.status.value, **({"reason": verdict.reason} if verdict.reasons else {}))
    if verdict.status is Status.INCONCLUSIVE:
        warnings.warn(f"{case.id}: {verdict.reason}", stacklevel=1)
    assert verdict.allowed, verdict.reason
