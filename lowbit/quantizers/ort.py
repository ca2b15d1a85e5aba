"""ONNX Runtime's static quantization, laid out for its own CPU kernels.

Unsigned activations, signed per-channel weights, every quantizable op up to the head's last convolutions, so that
whole stretches of the network stay in integers; the decode tail stays in float. Settings: ``calibration_method``
(minmax, entropy).
"""

from __future__ import annotations

from typing import Any

from lowbit import graph
from lowbit.quantizers import CalibrationReader, Job

PACKAGES = ("onnxruntime-gpu", "onnx", "numpy")


def build(job: Job) -> dict[str, Any]:
    """Quantize ``job.source``."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    method = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}
    model = graph.load(job.source)
    tail = graph.decode_tail(model)
    quantize_static(
        str(job.source),
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
    return {"excluded_nodes": len(tail)}
