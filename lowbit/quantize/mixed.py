"""Which convolutions of a torch module keep 8-bit weights among 4-bit ones, decided on its own FP32 graph.

Settings, one of: ``eight_top`` (how many of the most sensitive), ``max_bits`` (average bits a weight, scales included: the
least noisy assignment within it), ``max_drop`` (of agreement with the float graph: the cheapest assignment within it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowbit import runtime
from lowbit.detector import Detector
from lowbit.quantize import Job
from lowbit.sensitivity import assignment, bit_allocation, fake_quant, layerwise
from lowbit.sensitivity.layermap import layer_map

SETTINGS = frozenset({"eight_top", "max_bits", "max_drop"})


def shipped_drop(job: Job, detector: Detector, *, weights_only: bool) -> float:
    """How much agreement with the float graph ``job.output`` loses on held-out calibration images, a fraction of AP.

    The search measured candidates with rounded weights in the float graph; this is the file that ships.
    """
    path = job.output.parent / "float.onnx"
    detector.export(path)
    held = assignment.held_out(path, detector.head, job.input, job.calibration.paths)
    path.unlink()
    return assignment.drop_of_file(held, job.output, runtime.deployed_options("mixed", weights_only=weights_only))


def eight_bit_modules(job: Job, detector: Detector, modules: Sequence[str]) -> tuple[set[str], dict[str, Any]]:
    """The modules that keep 8 bits, and what was found on the way, for the manifest.

    ``modules``: names of the fused detector's convolutions. Raises :class:`lowbit.errors.BuildError` if names do not
    match the graph's, and if no assignment stays within the drop.
    """
    path = job.output.parent / "float.onnx"
    detector.export(path)
    images, head = job.calibration.paths, detector.head
    floating = fake_quant.FloatGraph(path, head, job.input, images[: assignment.NOISE_IMAGES])
    module_of = {node: module for module, node in layer_map(floating.model, modules).items()}
    four = layerwise.sqnr_alone(floating, "int4", fake_quant.WEIGHTS_ONLY, progress=job.progress)
    found: dict[str, Any]
    if "eight_top" in job.settings:
        nodes = set(layerwise.most_sensitive(four, job.settings["eight_top"]))
        found = {}
    else:
        eight = layerwise.sqnr_alone(floating, "int8", fake_quant.WEIGHTS_ONLY, progress=job.progress)
        noise = {n: {"int8": bit_allocation.noise_of(eight[n]), "int4": bit_allocation.noise_of(four[n])} for n in four}
        cost = bit_allocation.storage(("int8", "int4"), floating.parameters, floating.channels)
        if "max_bits" in job.settings:
            assigned = bit_allocation.within_budget(noise, cost, floating.parameters, job.settings["max_bits"])
            found = {}
        else:
            held = assignment.held_out(path, head, job.input, images)

            def drop_of(dtypes: dict[str, str]) -> float:
                return 1 - (held.harm(held.quantized(dtypes, fake_quant.WEIGHTS_ONLY)).agreement or 0.0)

            best, tried = bit_allocation.search(noise, cost, drop_of, job.settings["max_drop"], progress=job.progress)
            assigned, found = best.dtypes, {"tried": bit_allocation.trace(tried)}
        nodes = {name for name, dtype in assigned.items() if dtype == "int8"}
        found["assigned_bits"] = bit_allocation.weight_bits(assigned, cost, floating.parameters)
    path.unlink()
    found["sqnr_db"] = {module_of[name]: value for name, value in four.items()}
    return {module_of[name] for name in nodes}, found
