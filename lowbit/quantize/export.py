"""The float reference: a detector's own FP32 export."""

from __future__ import annotations

from typing import Any

from lowbit.detector import rebuild
from lowbit.progress import Step
from lowbit.quantize import Job, Promises, Tool


def build(job: Job) -> dict[str, Any]:
    """Export the detector with the head that its identity names."""
    detector = rebuild(job.source, job.identity, trust=job.trust)
    job.progress(Step("exporting"))
    detector.export(job.output)
    return {}


TOOL = Tool(build, Promises(symmetric=True), takes_checkpoint=True)
