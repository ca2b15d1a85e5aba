"""Half precision: what a GPU user would otherwise ship, and what low-bit artifacts are to be faster than.

Weights and activations become float16 (onnxconverter-common), input and output stay float32, and so does the decode tail:
beyond 512 pixels float16 counts in halves.
"""

from __future__ import annotations

from typing import Any

from lowbit import graph
from lowbit.quantizers import Job

PACKAGES = ("onnxconverter-common", "onnx", "numpy")


def build(job: Job) -> dict[str, Any]:
    """Convert ``job.source``."""
    import onnx
    from onnxconverter_common.float16 import convert_float_to_float16

    model = graph.load(job.source)
    tail = graph.decode_tail(model)
    converted = convert_float_to_float16(model, keep_io_types=True, node_block_list=tail)
    onnx.save(converted, str(job.output))
    return {"excluded_nodes": len(tail)}
