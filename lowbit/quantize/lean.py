"""No quantizer: the float export with its decode tail rewritten (:func:`lowbit.quantize.decode_tail.lean_tail`)."""

from __future__ import annotations

from typing import Any

from lowbit import graph
from lowbit.errors import UnavailableError
from lowbit.quantize import Job, Promises, Tool, decode_tail
from lowbit.quantize.offers import Offers


def build(job: Job) -> dict[str, Any]:
    """Rewrite ``job.source`` and prove on calibration images that it detects the same.

    Raises :class:`UnavailableError` for a head whose tail has nothing to save, and where it can't be proved: without the
    rewrite it would be the float export again.
    """
    import onnx

    offers = Offers()
    lean = decode_tail.offer(job, graph.load(job.source), offers)
    if offers.left_out:
        raise UnavailableError(f"{decode_tail.NAME}: {offers.left_out[0]['reason']}")
    onnx.save(lean, str(job.output))
    return {"detections_compared": offers.proved[decode_tail.NAME]}


TOOL = Tool(build, Promises(symmetric=True))
