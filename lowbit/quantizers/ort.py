"""ONNX Runtime's static quantization, laid out for its own CPU kernels.

Unsigned activations, signed per-channel weights, every quantizable op up to the head's last convolutions, so that
whole stretches of the network stay in integers; the decode tail stays in float, and only the boxes of surviving anchors
are decoded where the head allows it (:mod:`lowbit.rewrite`). Settings: ``calibration_method`` (minmax, entropy), ``tail``
(``lean``).
"""

from __future__ import annotations

from typing import Any

from lowbit import graph, rewrite
from lowbit.errors import UnavailableError
from lowbit.quantizers import CalibrationReader, Job

PACKAGES = ("onnxruntime-gpu", "onnx", "numpy")


def build(job: Job) -> dict[str, Any]:
    """Quantize ``job.source``."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    method = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}
    model = graph.load(job.source)
    info: dict[str, Any] = {}
    if job.settings.get("tail") == "lean":
        try:
            lean = rewrite.lean_tail(job.source, model)
        except UnavailableError as reason:  # other heads keep the tail that they have
            info["lean_tail"] = str(reason)
        else:
            probes = list(job.calibration.first(rewrite.PROBES).batches(job.input))
            info["detections_compared"] = rewrite.check_same(model, lean, probes)
            model = lean
    tail = graph.decode_tail(model)
    quantize_static(
        model,
        str(job.output),
        CalibrationReader(job, model.graph.input[0].name),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        nodes_to_exclude=tail,
        calibrate_method=method[job.settings["calibration_method"]],
        # One picture at a time: the histogram calibrator would keep every activation of every picture otherwise.
        extra_options={"CalibStridedMinMax": 1},
    )
    return {**info, "excluded_nodes": len(tail)}
