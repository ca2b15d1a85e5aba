"""The float reference: a detector's own FP32 export."""

from __future__ import annotations

from typing import Any

from lowbit.detector import Detector, registry
from lowbit.quantizers import Job
from lowbit.store.key import BuildRequest

PACKAGES = ("torch", "ultralytics", "onnx")
NEEDS: dict[str, str] = {"ultralytics": "ultralytics"}
SYMMETRIC = True


def settings_of(detector: Detector) -> dict[str, Any]:
    """What a build in another process needs to know of a detector beside its identity."""
    return {"detector": detector.name, "trust": detector.trust}


def request(detector: Detector) -> BuildRequest:
    """What the store is asked for a detector's FP32 export."""
    return BuildRequest(
        tool="export",
        scheme="fp32",
        settings=settings_of(detector),
        source=detector.source,
        identity=detector.identity(),
        input=detector.input,
        packages=PACKAGES,
    )


def build(job: Job) -> dict[str, Any]:
    """Export the detector with the head ``settings["head"]``."""
    settings = job.settings
    detector = registry.rebuild(job.source, job.identity, trust=settings["trust"])
    job.progress("exporting")
    detector.export(job.output)
    return {}
