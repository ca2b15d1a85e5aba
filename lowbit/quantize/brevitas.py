"""Brevitas (https://github.com/Xilinx/brevitas): quantized in torch, exported as a QCDQ ONNX graph.

Settings: ``weight_bits`` (8, 4); ``activation_bits`` (16: the inputs of convolutions stay in floating point, 8: they
are unsigned with a zero point, or, if ``symmetric``, signed without one, as TensorRT takes them); ``inputs`` (their
ranges: Brevitas' percentiles, or ``whole-range`` for the whole range seen in neck and head); ``scales`` (``tensor``, ``channel``: per output channel, by least squares); one of
:data:`lowbit.quantize.mixed.SETTINGS` (which convolutions keep 8-bit weights, by the graph's own noise; none without);
``gptq`` (how many calibration images :mod:`lowbit.quantize.gptq` uses; not applied without);
``recovery`` (:class:`lowbit.quantize.qat.plan.Plan`'s fields, ``reach``, how many steps a weight may move, half a step
for learned rounding, and ``images``, ``calibration`` or ``training``; none without); ``start`` (the scheme whose
weights, scales and 8-bit convolutions are taken; its artifact's folder is ``job.start``).

The detector's BatchNorm is folded into its convolutions first, as in the FP32 export, so that the drop is the
quantizer's alone. The distribution focal loss' convolution belongs to the decode tail and stays in float.
"""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

from lowbit import runtime
from lowbit.artifact import MANIFEST
from lowbit.data.load import load_data
from lowbit.detector import rebuild
from lowbit.detector.head import Head
from lowbit.errors import UnavailableError
from lowbit.progress import Step
from lowbit.quantize import Job, Promises, Tool
from lowbit.quantize.offers import Offers, prove_layout
from lowbit.sensitivity import assignment

_MODULES = ("brevitas", "torch", "ultralytics", "safetensors", "onnxoptimizer", "lightning_fabric")
# The rest of the calibration images changes percentiles little and costs seconds each in float.
_RANGE_IMAGES = 32
_PARITY_IMAGES = 2
RECOVERED = "recovered.safetensors"


def build(job: Job) -> dict[str, Any]:
    """Quantize the detector of ``job`` in torch and write its QCDQ graph, four-bit weights as INT4."""
    import onnx

    from lowbit.detector import torch_module
    from lowbit.graph import qcdq
    from lowbit.quantize import brevitas_layers, mixed
    from lowbit.quantize.gptq import compensate

    settings = job.settings
    detector = rebuild(job.source, job.identity, trust=job.trust)
    teacher = torch_module.fused(detector)
    student = copy.deepcopy(teacher)
    info: dict[str, Any] = {}
    eight: set[str] = set()
    held = None
    if job.start is not None:
        manifest = json.loads((job.start / MANIFEST).read_text(encoding="utf-8"))
        eight = set(manifest["eight_bit_convolutions"])
    elif mixed.SETTINGS & settings.keys():
        names = {name.removeprefix("model."): name for name in torch_module.convolutions(teacher)}
        chosen = mixed.eight_bit_modules(job, detector, list(names))
        eight, info["sensitivity"], held = {names[name] for name in chosen.modules}, chosen.found, chosen.held
    info["eight_bit_convolutions"] = sorted(eight)
    brevitas_layers.quantize_convolutions(student, settings, eight)
    job.progress(Step("calibrating"))
    if job.start is not None:
        brevitas_layers.load(student, job.start / RECOVERED)
    ranges = job.calibration.first(_RANGE_IMAGES).batches(job.input)
    whole = brevitas_layers.neck_and_head(student) if settings.get("inputs") == "whole-range" else ()
    brevitas_layers.calibrate(student, ranges, fresh=job.start is None, whole=whole)
    if "gptq" in settings:
        compensate(student, list(job.calibration.first(settings["gptq"]).batches(job.input)), job.progress)
    if "recovery" in settings:
        info["recovery"] = _recover(job, teacher, student, detector.head)
    if {"gptq", "recovery"} & settings.keys():
        brevitas_layers.save(student, job.output.parent / RECOVERED)
    job.progress(Step("exporting"))
    brevitas_layers.export(student, job.input.size, job.output)
    model = onnx.load(str(job.output))
    probes = list(job.calibration.first(_PARITY_IMAGES).batches(job.input))
    offers, pairs = Offers(), qcdq.count_pairs(model)

    def proof(one: onnx.ModelProto, two: onnx.ModelProto) -> None:
        if qcdq.count_pairs(two) != pairs:
            raise UnavailableError(f"changes the Q/DQ nodes from {pairs} to {qcdq.count_pairs(two)}.")
        prove_layout(one, two, probes)

    model = offers.take("clipped weights folded", model, qcdq.tidy, proof)
    if settings["weight_bits"] == 4:

        def pack(copied: onnx.ModelProto) -> None:
            copied.CopyFrom(qcdq.pack_int4(copied))

        model = offers.take("four bits stored as INT4", model, pack, proof)
    difference = brevitas_layers.check_parity(student, model, probes, quantized_inputs=settings["activation_bits"] == 8)
    onnx.save(model, str(job.output))
    if held is not None:  # the search measured rounded weights in the float graph; this is the file that ships
        options = runtime.deployed_options("mixed", weights_only=settings["activation_bits"] == 16)
        info["sensitivity"]["agreement_drop"] = assignment.drop_of_file(held, job.output, options)
    return {
        **info,
        "qdq_nodes": pairs,
        "left_out": offers.left_out,
        "torch_parity": {"of_range": difference.of_range, "sqnr_db": min(difference.sqnr_db, 999.0)},
    }


def _recover(job: Job, teacher: Any, student: Any, head: Head) -> dict[str, Any]:
    """Distil ``teacher`` into ``student``; leaves the loss curve next to the artifact."""
    from lowbit.quantize import brevitas_layers
    from lowbit.quantize.qat import distillation, training_state
    from lowbit.quantize.qat.plan import Plan

    recovery = dict(job.settings["recovery"])
    reach, images = recovery.pop("reach"), recovery.pop("images")
    recovery["widths"] = tuple(recovery.get("widths", ()))
    report = distillation.distil(
        distillation.Task(
            student=student,
            teacher=teacher,
            images=job.training if images == "training" else job.calibration.paths,
            longest=job.input.size,
            plan=Plan(**recovery),
            scales=brevitas_layers.is_scale,
            bound=brevitas_layers.Reach(student, reach),
            widen=brevitas_layers.Widths(student),
            detect=functools.partial(brevitas_layers.detections, head=head),
            folder=job.unfinished,
            progress=job.progress,
            labels=_labels(job.training_labels, job.training_classes) if job.training_labels else None,
            detection_loss=brevitas_layers.DetectionLoss(student) if job.training_labels else None,
        )
    )
    for name in (training_state.CURVE, training_state.PLOT):
        (job.output.parent / name).write_bytes((job.unfinished / name).read_bytes())
    return {"reach": reach, **report}


def _labels(annotations: Path, category_ids: tuple[int, ...]) -> dict[Path, Any]:
    """The labelled objects of a data set by image, as displayed; class index i is category ``category_ids[i]``."""
    from lowbit.quantize.qat.crops import Labels

    objects = load_data(annotations).with_classes(category_ids).objects_as_displayed()
    return {path: Labels(boxes, classes) for path, (boxes, classes) in objects.items()}


TOOL = Tool(
    build,
    Promises(symmetric=False, activations=frozenset({"UINT8"}), torch_parity=True),
    takes_checkpoint=True,
    needs=dict.fromkeys(_MODULES, "lowbit[brevitas]"),
    packages=("onnxoptimizer",),
)
