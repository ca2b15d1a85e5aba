"""ONNX Runtime's static quantization, laid out for its own CPU kernels.

Unsigned activations, signed per-channel weights, every quantizable op up to the head's last convolutions, so that
whole stretches of the network stay in integers; the decode tail stays in float, and only the boxes of surviving anchors
are decoded where the head allows it (:mod:`lowbit.rewrite`). Settings: ``calibration_method`` (minmax, entropy), ``tail``
(``lean``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph, rewrite
from lowbit.errors import UnavailableError
from lowbit.quantizers import CalibrationReader, Job

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnxruntime-gpu", "onnx", "numpy")


def build(job: Job) -> dict[str, Any]:
    """Quantize ``job.source``."""
    model, info = source_of(job)
    quantize(job, model, job.settings["calibration_method"])
    return info


def source_of(job: Job) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph to quantize, its decode tail rewritten if the settings say so and its head allows it, and what the
    manifest should know of that."""
    model = graph.load(job.source)
    if job.settings.get("tail") != "lean":
        return model, {}
    try:
        lean = rewrite.lean_tail(job.source, model)
    except UnavailableError as reason:  # other heads keep the tail that they have
        return model, {"lean_tail": str(reason)}
    probes = list(job.calibration.first(rewrite.PROBES).batches(job.input))
    return lean, {"detections_compared": rewrite.check_same(model, lean, probes)}


def quantize(
    job: Job,
    model: onnx.ModelProto,
    method: str,
    *,
    exclude: Collection[str] = (),
    overrides: Mapping[str, tuple[NDArray[np.float32], NDArray[np.uint8]]] | None = None,
) -> None:
    """Quantize ``model`` into ``job.output``.

    ``exclude``: nodes that stay in float beside the decode tail. ``overrides``: scale and zero point of tensors whose
    range is known.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    methods = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}
    known = {
        name: [{"quant_type": QuantType.QUInt8, "scale": scale, "zero_point": zero}]
        for name, (scale, zero) in (overrides or {}).items()
    }
    quantize_static(
        model,
        str(job.output),
        CalibrationReader(job, model.graph.input[0].name),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        nodes_to_exclude=[*graph.decode_tail(model), *exclude],
        calibrate_method=methods[method],
        # One picture at a time: the histogram calibrator would keep every activation of every picture otherwise.
        extra_options={"CalibStridedMinMax": 1, **({"TensorQuantOverrides": known} if known else {})},
    )
