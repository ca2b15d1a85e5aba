"""Which convolutions of a torch module keep 8-bit weights among 4-bit ones, decided on its own FP32 graph.

Settings, one of: ``eight_top`` (how many of the most sensitive), ``max_bits`` (average bits a weight, scales included: the
least noisy assignment within it), ``max_drop`` (of agreement with the float graph: the cheapest assignment within it).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lowbit.detector import Detector
from lowbit.quantize import Job
from lowbit.sensitivity import assignment, bit_allocation, fake_quant, layerwise
from lowbit.sensitivity.layermap import layer_map

SETTINGS = frozenset({"eight_top", "max_bits", "max_drop"})


@dataclass(frozen=True)
class Choice:
    """``modules``: those that keep 8 bits. ``found``: what was found on the way, for the manifest. ``held``: the float graph
    on held-out calibration images, where a drop of agreement with it was asked for."""

    modules: frozenset[str]
    found: dict[str, Any]
    held: fake_quant.FloatGraph | None = None


def eight_bit_modules(job: Job, detector: Detector, modules: Sequence[str]) -> Choice:
    """Which modules keep 8 bits.

    ``modules``: names of the fused detector's convolutions. Raises :class:`lowbit.errors.BuildError` if names do not
    match the graph's, and if no assignment stays within the drop.
    """
    path = job.output.parent / "float.onnx"
    detector.export(path)
    images, head = job.calibration.paths, detector.head
    floating = fake_quant.FloatGraph(path, head, job.input, images[: assignment.NOISE_IMAGES])
    module_of = {node: module for module, node in layer_map(floating.model, modules).items()}
    four = layerwise.sqnr_alone(floating, "int4", fake_quant.WEIGHTS_ONLY, progress=job.progress)
    found: dict[str, Any] = {}
    held = None
    if "eight_top" in job.settings:
        nodes = set(layerwise.most_sensitive(four, job.settings["eight_top"]))
    else:
        eight = layerwise.sqnr_alone(floating, "int8", fake_quant.WEIGHTS_ONLY, progress=job.progress)
        noise = {n: {"int8": bit_allocation.noise_of(eight[n]), "int4": bit_allocation.noise_of(four[n])} for n in four}
        cost = bit_allocation.storage(("int8", "int4"), floating.parameters, floating.channels)
        if "max_bits" in job.settings:
            assigned = bit_allocation.within_budget(noise, cost, floating.parameters, job.settings["max_bits"])
        else:
            held = assignment.held_out(path, head, job.input, images)
            drop_of = functools.partial(_drop, held)
            best, tried = bit_allocation.search(noise, cost, drop_of, job.settings["max_drop"], progress=job.progress)
            assigned, found["tried"] = best.dtypes, bit_allocation.trace(tried)
        nodes = {name for name, dtype in assigned.items() if dtype == "int8"}
        found["assigned_bits"] = bit_allocation.weight_bits(assigned, cost, floating.parameters)
    path.unlink()
    found["sqnr_db"] = {module_of[name]: value for name, value in four.items()}
    return Choice(frozenset(module_of[name] for name in nodes), found, held)


def _drop(held: fake_quant.FloatGraph, dtypes: dict[str, str]) -> float:
    return 1 - (held.harm(held.quantized(dtypes, fake_quant.WEIGHTS_ONLY)).agreement or 0.0)
