"""ONNX Runtime's static quantization, laid out for its own CPU kernels.

Unsigned activations, signed per-channel weights, every quantizable op up to the head's last convolutions, so that
whole stretches of the network stay in integers; the decode tail stays in float, and only the boxes of surviving anchors
are decoded where the head allows it (:mod:`lowbit.rewrite`). Settings: ``calibration_method`` (minmax, entropy), ``tail``
(``lean``), ``max_drop`` (of agreement with the float graph on calibration pictures: the convolutions with the fewest
multiply-accumulates that keep it stay in float; none without).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph, rewrite
from lowbit.decode import HeadContract
from lowbit.errors import UnavailableError
from lowbit.quantizers import CalibrationReader, Job
from lowbit.sensitivity import assignment, search

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnxruntime-gpu", "onnx", "numpy", "scipy")


def build(job: Job) -> dict[str, Any]:
    """Quantize ``job.source``."""
    model, info = source_of(job)
    method = job.settings["calibration_method"]
    if "max_drop" not in job.settings:
        quantize(job, model, method)
        return info
    contract = graph.contract_of(job.source, graph.load(job.source))
    found = candidates(job, model, contract)
    best, tried = found.find(job.settings["max_drop"], job.output)
    kept = [name for name, dtype in best.dtypes.items() if dtype == search.FLOAT]
    quantize(job, model, method, exclude=kept)
    return {**info, "float_convolutions": kept, "agreement_drop": best.drop, "tried": search.trace(tried)}


def candidates(job: Job, model: onnx.ModelProto, contract: HeadContract) -> assignment.Integers:
    """Assignments of INT8 and float, with ranges by min-max on a few pictures: a candidate is built in seconds."""
    few = replace(job, calibration=job.calibration.first(assignment.NOISE_PICTURES), progress=lambda _: None)

    def build_one(kept: Sequence[str], output: Path) -> None:
        copied = type(model)()
        copied.CopyFrom(model)
        quantize(replace(few, output=output), copied, "minmax", exclude=kept)

    return assignment.Integers(job.source, contract, job.input, job.calibration.paths, job.progress, build_one)


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
