"""Intel Neural Compressor (https://github.com/onnx/neural-compressor) on ONNX: a cross-check of INT8, an optional
extra.

Its static quantization with its own defaults for CPUs: unsigned activations, signed weights with a scale an output
channel, ranges by min-max, Q/DQ pairs. The decode tail stays in float, as with every tool. No settings.
"""

from __future__ import annotations

import shutil
from typing import Any

from lowbit import graph
from lowbit.quantize import CalibrationReader, Job, Promises, Tool

_NEEDS = {
    # Its metadata still ask for numpy 1; it runs with 2.
    "onnx_neural_compressor": "--no-deps onnx-neural-compressor",
    "prettytable": "prettytable",
    "transformers": "transformers",
}


def build(job: Job) -> dict[str, Any]:
    """Quantize ``job.source``."""
    from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize

    model = graph.load(job.source)
    tail = graph.decode_tail(model)
    reader = CalibrationReader(job, model.graph.input[0].name)
    # It writes beside the file that it is given.
    scratch = job.output.parent / "scratch"
    scratch.mkdir()
    source = shutil.copyfile(job.source, scratch / "source.onnx")
    settings = config.StaticQuantConfig(
        calibration_data_reader=reader,
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        nodes_to_exclude=tail,
        calibration_sampling_size=len(reader),
    )
    quantize(str(source), str(job.output), settings)
    shutil.rmtree(scratch)
    _rename(job, {node.name for node in model.graph.node})
    return {"excluded_nodes": len(tail)}


def _rename(job: Job, names: set[str]) -> None:
    """Give nodes the names back that they had: sensitivity and kernels are told by them."""
    import onnx

    graph.embed(job.output)  # it keeps weights in a file beside the graph
    quantized = onnx.load(str(job.output))
    for node in quantized.graph.node:
        if node.name.removesuffix("_quant") in names:
            node.name = node.name.removesuffix("_quant")
    onnx.save(quantized, str(job.output))


TOOL = Tool(build, Promises(symmetric=False, activations=frozenset({"UINT8"})), needs=_NEEDS, crosscheck=True)
