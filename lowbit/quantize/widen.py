"""The form of an INT4 artifact for providers that cannot take INT4: the same values, stored as INT8."""

from __future__ import annotations

from typing import Any

from lowbit import graph
from lowbit.graph import qcdq
from lowbit.quantize import Job, Promises, Tool


def build(job: Job) -> dict[str, Any]:
    """Rewrite ``job.source``."""
    import onnx

    onnx.save(qcdq.widen_int4(graph.load(job.source)), str(job.output))
    return {}


TOOL = Tool(build, Promises(symmetric=True))
