"""What the store is asked for: a detector's FP32 export, and each kind of artifact that is made from it."""

from __future__ import annotations

import dataclasses
from typing import Any

from lowbit import host
from lowbit.artifact import Artifact
from lowbit.data.dataset import Dataset
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet
from lowbit.detector import Detector
from lowbit.schemes import Scheme
from lowbit.store.key import BuildRequest


def export_request(detector: Detector) -> BuildRequest:
    """A detector's FP32 export."""
    return BuildRequest(
        tool="export",
        scheme="fp32",
        settings={},
        source=detector.source,
        identity=detector.identity(),
        input=detector.input,
        trust=detector.trust,
    )


def graph_request(
    scheme: Scheme, source: Artifact, spec: InputSpec, calibration: CalibrationSet, start: Artifact | None = None
) -> BuildRequest:
    """A scheme that quantizes a detector's FP32 graph, ``source``; ``start``: the artifact that it starts from, if any."""
    return BuildRequest(
        tool=scheme.tool,
        scheme=scheme.id,
        settings=dict(scheme.settings),
        source=source.path,
        identity={"sha256": source.sha256},
        start=start,
        input=spec,
        calibration=calibration.paths,
        calibration_digest=calibration.digest,
        measured_on=_measured_on(scheme),
    )


def torch_request(
    scheme: Scheme,
    detector: Detector,
    calibration: CalibrationSet,
    training: CalibrationSet | None = None,
    labels: Dataset | None = None,
    start: Artifact | None = None,
) -> BuildRequest:
    """A scheme that quantizes a detector's torch module. ``training``: the images that it learns from, if it does;
    ``labels``: them with their labels, if it learns from these; ``start``: the artifact that it starts from, if any."""
    return BuildRequest(
        tool=scheme.tool,
        scheme=scheme.id,
        settings=dict(scheme.settings),
        source=detector.source,
        identity=detector.identity(),
        input=detector.input,
        calibration=calibration.paths,
        calibration_digest=calibration.digest,
        training=training.paths if training else (),
        training_digest=(labels or training).digest if training else None,
        training_labels=labels.annotations if labels else None,
        training_classes=labels.category_ids if labels else (),
        start=start,
        measured_on=_measured_on(scheme),
        trust=detector.trust,
    )


def _measured_on(scheme: Scheme) -> dict[str, Any] | None:
    """This processor, for a search that keeps within a drop: it runs its candidates, and whether their sums saturate, and
    how they round, is the kernels' that the processor has. No artifact depends on how long anything takes."""
    if "max_drop" not in scheme.settings:
        return None
    found = dataclasses.asdict(host.processor())
    return {name: found[name] for name in ("architecture", "vendor", "family", "model", "instruction_sets")}


def widened_request(artifact: Artifact, scheme: Scheme, spec: InputSpec) -> BuildRequest:
    """The INT8 form of an artifact with INT4 weights, for runtimes without INT4."""
    return BuildRequest(
        tool="widen",
        scheme=scheme.id,
        settings={},
        source=artifact.path,
        identity={"sha256": artifact.sha256},
        input=spec,
    )
