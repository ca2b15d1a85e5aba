"""lowbit's own weights-only quantizer of an ONNX graph: no torch module is needed, so it takes anybody's detector.

Every convolution's weight is INT4, INT8, FP8 (E4M3) or float, rounded to nearest with a scale an output channel, by the
search of :mod:`lowbit.sensitivity`: the fewest bits within a drop. Settings: ``max_drop`` (of agreement with the float
graph on calibration images, a fraction).
"""

from __future__ import annotations

from typing import Any

from lowbit import graph
from lowbit.detector import heads
from lowbit.quantize import Job, Promises, Tool
from lowbit.sensitivity import assignment, bit_allocation


def build(job: Job) -> dict[str, Any]:
    """Search on ``job.source`` and write the cheapest candidate."""
    head = heads.recognise(job.source, graph.load(job.source))
    candidates = assignment.Weights(job.source, head, job.input, job.calibration.paths, job.progress)
    best, tried = candidates.cheapest(job.settings["max_drop"], job.output)
    return {
        "assigned_bits": bit_allocation.weight_bits(best.dtypes, candidates.cost(), candidates.floating.parameters),
        "dtypes": best.dtypes,
        "float_convolutions": [name for name, dtype in best.dtypes.items() if dtype == bit_allocation.FLOAT],
        "agreement_drop": candidates.drop(job.output),
        "tried": bit_allocation.trace(tried),
        "left_out": candidates.left_out,
    }


TOOL = Tool(build, Promises(symmetric=True, weights=frozenset({"INT4", "INT8", "FLOAT8E4M3FN"})))
