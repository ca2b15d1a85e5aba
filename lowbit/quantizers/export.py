"""The float reference: a detector's own FP32 export."""

from __future__ import annotations

from typing import Any

from lowbit import detectors
from lowbit.decode import HeadKind
from lowbit.quantizers import Job

PACKAGES = ("torch", "ultralytics", "onnx")


def build(job: Job) -> dict[str, Any]:
    """Export the detector with the head ``settings["head"]``."""
    settings = job.settings
    detector = detectors.rebuild(job.source, job.identity, HeadKind(settings["head"]), trust=settings["trust"])
    job.progress("exporting")
    detector.export(job.output)
    return {}
