"""Which convolutions of a torch module keep 8-bit weights among 4-bit ones, decided on its own FP32 graph.

Settings, one of: ``eight_top`` (how many of the most sensitive), ``max_bits`` (average bits a weight, scales included: the
least noisy assignment within it), ``max_drop`` (of agreement with the float graph: the cheapest assignment within it).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowbit.detectors import Detector
from lowbit.quantizers import Job
from lowbit.sensitivity import native, search
from lowbit.sensitivity.layermap import layer_map

SETTINGS = frozenset({"eight_top", "max_bits", "max_drop"})
# Noise is measured on the first pictures of the calibration list, agreement on those after them.
NOISE_PICTURES, AGREEMENT_PICTURES = 8, 32


def eight_bit_modules(job: Job, detector: Detector, modules: Sequence[str]) -> tuple[set[str], dict[str, Any]]:
    """The modules that keep 8 bits, and what was found on the way, for the manifest.

    ``modules``: names of the fused detector's convolutions. Raises :class:`lowbit.errors.BuildError` for names that do
    not meet the graph's, and for a drop that nothing keeps.
    """
    path = job.output.parent / "float.onnx"
    detector.export(path)
    pictures = job.calibration.paths
    floating = native.Graph(path, detector.contract(), job.input, pictures[:NOISE_PICTURES])
    module_of = {node: module for module, node in layer_map(floating.model, modules).items()}
    four = native.sqnr_alone(floating, 4, inputs=False, progress=job.progress)
    found: dict[str, Any]
    if "eight_top" in job.settings:
        nodes = set(native.most_sensitive(four, job.settings["eight_top"]))
        found = {}
    else:
        eight = native.sqnr_alone(floating, 8, inputs=False, progress=job.progress)
        noise = {name: {8: search.noise_of(eight[name]), 4: search.noise_of(four[name])} for name in four}
        cost = {name: {bits: float(bits * count) for bits in (8, 4)} for name, count in floating.parameters.items()}
        if "max_bits" in job.settings:
            assigned = search.within_budget(noise, floating.parameters, floating.channels, job.settings["max_bits"])
            found = {}
        else:
            held = native.Graph(path, detector.contract(), job.input, _others(pictures))

            def drop_of(bits: dict[str, int]) -> float:
                return 1 - held.harm(held.quantized(bits, inputs=False)).agreement

            best, tried = search.search(noise, cost, drop_of, job.settings["max_drop"], progress=job.progress)
            assigned, found = best.bits, {"agreement_drop": best.drop, "tried": search.trace(tried)}
        nodes = {name for name, bits in assigned.items() if bits == 8}
        found["assigned_bits"] = search.weight_bits(assigned, floating.parameters, floating.channels)
    path.unlink()
    found["sqnr_db"] = {module_of[name]: value for name, value in four.items()}
    return {module_of[name] for name in nodes}, found


def _others(pictures: Sequence[Path]) -> Sequence[Path]:
    """Pictures that noise was not measured on; all, where there are too few."""
    rest = pictures[NOISE_PICTURES : NOISE_PICTURES + AGREEMENT_PICTURES]
    return rest or pictures
