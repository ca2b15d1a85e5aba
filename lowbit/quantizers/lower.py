"""Another tool's INT8 artifact, laid out for ONNX Runtime's CPU kernels: one calibration for TensorRT and for CPU.

ModelOpt and Brevitas quantize the inputs of convolutions only, and leave the rest in float: fused by TensorRT, but on a
CPU an integer convolution needs its output quantized too, and every op between two convolutions in integers. Here the
artifact's weights and the scales of its activations are kept as they are (a signed tensor with zero point 0 becomes an
unsigned one with 128: the same values), and ONNX Runtime's quantizer adds what they leave out, with ranges by min-max on
the calibration pictures. Convolutions that the artifact keeps in float stay so.

Settings: ``start`` (the scheme whose artifact is lowered; its folder is ``job.start``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowbit import graph, proof
from lowbit.artifacts import MODEL
from lowbit.errors import BuildError
from lowbit.quantizers import Job, ort
from lowbit.runtime import SessionOptions

PACKAGES = ort.PACKAGES
# The ranges that are added cost a rounding each: 8 to 12 dB were seen, and a wrong scale ends below 0.
MIN_SQNR = 5.0
_PARITY_PICTURES = 2


def build(job: Job) -> dict[str, Any]:
    """Lower the artifact in ``job.start``. Raises :class:`BuildError` if the raw head changes by more than rounding."""
    import onnx
    from onnx import numpy_helper

    assert job.start is not None
    quantized = graph.load(job.start / MODEL)
    floating, info = ort.source_of(job)
    scales = graph.activation_scales(quantized)
    weights = graph.dequantized_weights(quantized)
    stored = {tensor.name: tensor for tensor in floating.graph.initializer}
    kept = []
    for node in graph.weighted_convolutions(floating):
        if node.name not in weights:
            kept.append(node.name)
            continue
        tensor = stored[node.input[1]]
        tensor.CopyFrom(numpy_helper.from_array(weights[node.name], tensor.name))
    tensors = {name for node in floating.graph.node for name in node.input}
    overrides = {name: found for name, found in scales.items() if name in tensors}
    if not overrides:
        raise BuildError(f"{job.start / MODEL}: none of its quantized activations is a tensor of {job.source}.")
    ort.quantize(job, floating, "minmax", exclude=kept, overrides=overrides)
    probes = list(job.calibration.first(_PARITY_PICTURES).batches(job.input))
    unoptimized = SessionOptions("cpu", optimized=False)
    names = graph.head_outputs(floating)  # two tools order the same nodes differently
    heads = [proof.raw_heads(model, unoptimized, probes, names) for model in (quantized, onnx.load(str(job.output)))]
    sqnr = proof.compare_heads(*heads).sqnr_db
    if sqnr < MIN_SQNR:
        raise BuildError(f"the lowered graph's raw head is {sqnr:.1f} dB from the artifact's, under {MIN_SQNR:.0f} dB.")
    return {
        **info,
        "kept_scales": len(overrides),
        "float_convolutions": kept,
        "raw_head_sqnr_db": float(np.minimum(sqnr, 999.0)),
    }
