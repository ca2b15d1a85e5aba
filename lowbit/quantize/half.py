"""Half precision: the usual deployment on a GPU, and the baseline that low-bit artifacts have to beat there.

Weights and activations become float16 (ONNX Runtime's converter), input and output stay float32, and so does the decode
tail, because above 512 pixels float16 has steps of half a pixel.
"""

from __future__ import annotations

from typing import Any

from lowbit import graph
from lowbit.quantize import Job, Promises, Tool


def build(job: Job) -> dict[str, Any]:
    """Convert ``job.source``."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = graph.load(job.source)
    tail = graph.decode_tail(model)
    converted = convert_float_to_float16(model, keep_io_types=True, node_block_list=tail)
    # A tensor that two nodes of the tail read is cast twice under one name: the first cast serves both.
    seen: set[str] = set()
    kept = []
    for node in converted.graph.node:
        if node.op_type != "Cast" or node.output[0] not in seen:
            kept.append(node)
        seen.update(node.output)
    graph.replace_nodes(converted, kept)
    OnnxModel.graph_topological_sort(converted.graph)
    onnx.save(converted, str(job.output))
    return {"excluded_nodes": len(tail)}


TOOL = Tool(build, Promises(symmetric=True))
