"""NVIDIA ModelOpt's ONNX post-training quantization (https://github.com/NVIDIA/Model-Optimizer).

Settings: ``mode`` (int8), ``calibration_method`` (max, entropy), ``float_head`` (keep the whole detection head in
float). The decode tail always stays in float: boxes up to the input's size and scores up to 1 would share one scale.
"""

from __future__ import annotations

import shutil
from typing import Any

from lowbit import graph
from lowbit.quantizers import CalibrationReader, Job

PACKAGES = ("nvidia-modelopt", "onnxruntime-gpu", "onnx", "onnx-graphsurgeon", "onnxslim", "numpy")


def build(job: Job) -> dict[str, Any]:
    """Quantize ``job.source``. Raises :class:`lowbit.errors.UnavailableError` if a head to keep can't be found."""
    from modelopt.onnx.quantization import quantize

    model = graph.load(job.source)
    excluded = set(graph.decode_tail(model))
    if job.settings.get("float_head"):
        excluded |= set(graph.head_nodes(model))
    # ModelOpt writes into the file that it is given, and leaves others beside its output.
    scratch = job.output.parent / "scratch"
    scratch.mkdir()
    source = shutil.copyfile(job.source, scratch / "source.onnx")
    quantize(
        str(source),
        quantize_mode=job.settings["mode"],
        calibration_method=job.settings["calibration_method"],
        calibration_data_reader=CalibrationReader(job, model.graph.input[0].name),
        # Calibration on the CPU gives the same ranges on every machine.
        calibration_eps=["cpu"],
        nodes_to_exclude=sorted(excluded),
        output_path=str(scratch / "quantized.onnx"),
        # The default, fp16, would turn the rest of the network to half precision too.
        high_precision_dtype="fp32",
        # INT8 weights with a DequantizeLinear, not float weights with a Q/DQ pair: the same values in a quarter the size.
        dq_only=True,
    )
    (scratch / "quantized.onnx").replace(job.output)
    shutil.rmtree(scratch)
    return {"excluded_nodes": len(excluded)}
