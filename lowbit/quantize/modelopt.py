"""NVIDIA ModelOpt's ONNX post-training quantization (https://github.com/NVIDIA/Model-Optimizer).

Settings: ``mode`` (int8, fp8), ``calibration_method`` (max, entropy), ``float_head`` (keep the whole detection head in
float), ``float_top`` (how many of the most sensitive convolutions stay in float, by :mod:`lowbit.sensitivity.layerwise` at
8 bits). The decode tail always stays in float: boxes up to the input's size and scores up to 1 would share one scale.
"""

from __future__ import annotations

import shutil
from typing import Any

from lowbit import graph
from lowbit.detector import heads
from lowbit.quantize import CalibrationReader, Job, Promises, Tool
from lowbit.sensitivity import fake_quant, layerwise

_SENSITIVITY_IMAGES = 8
# What ModelOpt imports and does not ask for counts too: it may be installed without.
_MODULES = (
    "modelopt",
    "torch",
    "huggingface_hub",
    "cppimport",
    "lief",
    "onnx_graphsurgeon",
    "onnxconverter_common",
    "onnxscript",
    "polygraphy",
)


def build(job: Job) -> dict[str, Any]:
    """Quantize ``job.source``. Raises :class:`lowbit.errors.UnavailableError` if a head to keep can't be found."""
    from modelopt.onnx.quantization import quantize

    model = graph.load(job.source)
    excluded = set(graph.decode_tail(model))
    if job.settings.get("float_head"):
        excluded |= set(graph.head_nodes(model))
    info: dict[str, Any] = {}
    if job.settings.get("float_top"):
        alone = _sensitivity(job)
        info["sensitivity"] = {"sqnr_db": alone}
        info["float_convolutions"] = layerwise.most_sensitive(alone, job.settings["float_top"])
        excluded |= set(info["float_convolutions"])
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
    return {**info, "excluded_nodes": len(excluded)}


def _sensitivity(job: Job) -> dict[str, float]:
    """What 8 bits cost every convolution alone, measured on the graph itself."""
    head = heads.recognise(job.source, graph.load(job.source))
    floating = fake_quant.FloatGraph(job.source, head, job.input, job.calibration.paths[:_SENSITIVITY_IMAGES])
    return layerwise.sqnr_alone(floating, "int8", fake_quant.EIGHT_BIT_INPUTS, progress=job.progress)


TOOL = Tool(
    build,
    Promises(symmetric=True, activations=frozenset({"INT8"})),
    needs=dict.fromkeys(_MODULES, "lowbit[modelopt]"),
    packages=("onnx-graphsurgeon", "onnxconverter-common"),
)
