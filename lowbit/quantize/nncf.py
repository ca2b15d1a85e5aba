"""Intel's NNCF (https://github.com/openvinotoolkit/nncf) on ONNX: a cross-check of INT8, an optional extra.

Settings: ``preset`` (``mixed``: unsigned or signed activations as they need, ``performance``: symmetric). The decode tail
stays in float, as with every tool.
"""

from __future__ import annotations

import os
from typing import Any

from lowbit import graph
from lowbit.progress import Step
from lowbit.quantize import Job, Promises, Tool


def build(job: Job) -> dict[str, Any]:
    """Quantize ``job.source``."""
    # NNCF would report its use over the network.
    os.environ["NNCF_CI"] = "1"
    import nncf
    import onnx

    model = graph.load(job.source)
    name = model.graph.input[0].name
    tail = graph.decode_tail(model)
    images = job.calibration.paths
    done = 0

    def shown(batch: Any) -> dict[str, Any]:
        nonlocal done
        done += 1
        job.progress(Step("calibrating", done, len(images), "images"))
        return {name: batch}

    quantized = nncf.quantize(
        model,
        nncf.Dataset(_Images(job), shown),
        preset=nncf.QuantizationPreset(job.settings["preset"]),
        subset_size=len(images),
        # It folds some nodes of the tail away; the others are found.
        ignored_scope=nncf.IgnoredScope(names=tail, validate=False),
    )
    onnx.save(quantized, str(job.output))
    return {"excluded_nodes": len(tail)}


class _Images:
    """The calibration images, as often as NNCF goes through them; never more than one in memory."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __iter__(self) -> Any:
        return self._job.calibration.batches(self._job.input)

    def __len__(self) -> int:
        return len(self._job.calibration.paths)


TOOL = Tool(build, Promises(symmetric=False), needs={"nncf": "lowbit[nncf]"}, crosscheck=True)
