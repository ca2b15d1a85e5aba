"""No quantizer: the float export with its decode tail rewritten (:func:`lowbit.quantize.decode_tail.lean_tail`)."""

from __future__ import annotations

from typing import Any

from lowbit import graph
from lowbit.quantize import Job, decode_tail

PACKAGES: tuple[str, ...] = ()
NEEDS: dict[str, str] = {}
SYMMETRIC = True


def build(job: Job) -> dict[str, Any]:
    """Rewrite ``job.source`` and prove on calibration images that it detects the same.

    Raises :class:`lowbit.errors.UnavailableError` for a head whose tail has nothing to save.
    """
    import onnx

    model = graph.load(job.source)
    lean = decode_tail.lean_tail(job.source, model)
    compared = decode_tail.check_same(model, lean, list(job.calibration.first(decode_tail.PROBES).batches(job.input)))
    onnx.save(lean, str(job.output))
    return {"detections_compared": compared}
