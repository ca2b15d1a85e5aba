"""Does a low-bit detector still see? The drop of COCO mAP against FP32, judged with its interval."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from lowbit import entries
from lowbit.artifact import Artifact
from lowbit.evaluate import Case, Evidence
from lowbit.results import Status
from lowbit_pytest.recording import Record, save_changed_images, save_detections
from lowbit_pytest.workbench import Workbench


@pytest.mark.accuracy
def test_map_drop(
    case: Case, artifact: Artifact, evidence: Evidence, workbench: Workbench, record: Record, run_folder: Path
) -> None:
    limits = workbench.limits(case)
    record(entries.built(case, workbench))
    record(entries.scored(case, workbench))
    save_detections(case, evidence, run_folder)
    if case.scheme.id != "fp32":
        record(save_changed_images(case, evidence, workbench, run_folder))
    record(entries.costs(case, workbench, limits))
    verdict = workbench.verdict(case, limits, inconclusive=workbench.inconclusive)
    record(entries.judged(case, verdict, limits["map"]))
    if verdict.status is Status.FAILED and case.scheme.id != "fp32":
        record(entries.explained(case, workbench))
    if verdict.status is Status.INCONCLUSIVE:
        warnings.warn(f"{case.id}: {verdict.reason}", stacklevel=1)
    assert verdict.allowed, verdict.reason
