"""What post-training methods make of 4-bit weights without training: ``python -m benchmarks.four_bits``.

Every row starts from the float detector, is measured in torch on the detector's data set, and prints average weight
bits (scales included), AP and minutes (calibration and method, without evaluation). What ships is measured by the suite
itself: the schemes ``w4a16-brevitas-gptq`` and ``w4a16-brevitas-qat``.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from brevitas.graph.gpfq import gpfq_mode
from brevitas.graph.gptq import gptq_mode

from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections
from lowbit.data.letterbox import InputSpec, preprocess
from lowbit.data.lists import CalibrationSet
from lowbit.detector import Detector, registry, torch_module
from lowbit.detector.head import Head
from lowbit.measure.metrics import evaluate
from lowbit.quantize import Job, brevitas_layers, mixed
from lowbit.quantize.gptq import correct_biases, round_weights
from lowbit.store.store import default_root

IMAGES = 32
RECONSTRUCTED, RECONSTRUCTION_STEPS = 8, 80


@dataclass(frozen=True)
class Method:
    """``scales``: tensor, channel, or input channels a block; ``budget``: of bits, filled by 8-bit convolutions;
    ``reconstruct``: learn what rounds up and what down, for the output of every ``layer`` (AdaRound) or ``block`` (BRECQ)."""

    scales: str | int = "channel"
    budget: float | None = None
    compensation: Any = None
    correct: bool = False
    reconstruct: str | None = None


METHODS: dict[str, Method] = {
    "per tensor": Method("tensor"),
    "per channel, least squares": Method(),
    "blocks of 64 input channels": Method(64),
    "blocks of 32 input channels": Method(32),
    "per channel, bias correction": Method(correct=True),
    "per channel, GPTQ": Method(compensation=gptq_mode),
    "per channel, GPTQ, bias correction": Method(compensation=gptq_mode, correct=True),
    "per channel, GPFQ, bias correction": Method(compensation=gpfq_mode, correct=True),
    "least noisy 8 and 4 bits to 4.6": Method(budget=4.6),
    "to 4.6, bias correction": Method(budget=4.6, correct=True),
    "to 4.6, GPTQ": Method(budget=4.6, compensation=gptq_mode),
    "to 4.6, GPTQ, bias correction": Method(budget=4.6, compensation=gptq_mode, correct=True),
    "to 4.6, GPFQ, bias correction": Method(budget=4.6, compensation=gpfq_mode, correct=True),
    "to 4.6, AdaRound, bias correction": Method(budget=4.6, reconstruct="layer", correct=True),
    "to 4.6, BRECQ, bias correction": Method(budget=4.6, reconstruct="block", correct=True),
    "to 4.3, GPTQ, bias correction": Method(budget=4.3, compensation=gptq_mode, correct=True),
    "to 5.0, GPTQ, bias correction": Method(budget=5.0, compensation=gptq_mode, correct=True),
    "to 5.5, GPTQ, bias correction": Method(budget=5.5, compensation=gptq_mode, correct=True),
}


def kept_at_eight(
    detector: Detector, calibration: CalibrationSet, teacher: torch_module.RawHead, budget: float
) -> set[str]:
    """The convolutions that a scheme with this budget keeps at 8 bits."""
    names = {name.removeprefix("model."): name for name in torch_module.convolutions(teacher)}
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            scheme="benchmark",
            settings={"max_bits": budget},
            source=detector.source,
            identity=detector.identity(),
            input=detector.input,
            calibration=calibration,
            output=Path(folder) / "model.onnx",
            unfinished=Path(folder),
            progress=lambda _: None,
        )
        chosen = mixed.eight_bit_modules(job, detector, list(names))
    return {names[name] for name in chosen.modules}


def in_blocks(network: torch_module.RawHead, size: int) -> float:
    """Round to 4 bits with a least-squares scale for every ``size`` input channels of every output channel and kernel
    position, ``DequantizeLinear``'s blocks along axis 1; returns the average weight bits."""
    found = torch_module.convolutions(network).values()
    scales = 0
    for conv in found:
        out, channels, *kernel = conv.weight.shape
        moved = conv.weight.data.movedim(1, -1).reshape(-1, channels)
        for first in range(0, channels, size):
            part = moved[:, first : first + size]
            scale = brevitas_layers.least_squares_scales(part, 4)
            moved[:, first : first + size] = (part / scale).round().clamp(-8, 7) * scale
            scales += len(part)
        conv.weight.data = moved.reshape(out, *kernel, channels).movedim(-1, 1).contiguous()
    return 4 + 32 * scales / sum(conv.weight.numel() for conv in found)


def reconstruct(
    network: torch_module.RawHead, teacher: torch_module.RawHead, images: Sequence[np.ndarray], unit: str
) -> None:
    """AdaRound (https://arxiv.org/abs/2004.10568) or BRECQ (https://arxiv.org/abs/2102.05426): unit by unit, move weights
    within half a step so that the unit's output on what the quantized units before it give is the float one's."""
    found = list(torch_module.convolutions(network))
    if unit == "block":
        head = len(network.model.model) - 1
        # A module of the graph, or of the head one branch at one stride.
        depth = {name: 5 if name.split(".")[2] == str(head) else 3 for name in found}
        found = list(dict.fromkeys(".".join(name.split(".")[: depth[name]]) for name in found))
    bound = brevitas_layers.Reach(network, 0.5)
    tensors = [torch.from_numpy(image) for image in images[:RECONSTRUCTED]]
    for name in found:
        mine, theirs = network.get_submodule(name), teacher.get_submodule(name)
        given: list[tuple[Any, ...]] = []
        wanted: list[torch.Tensor] = []
        hooks = [
            mine.register_forward_pre_hook(lambda _, arguments, kept=given: kept.append(arguments)),
            theirs.register_forward_hook(lambda _, __, output, kept=wanted: kept.append(output)),
        ]
        with torch.no_grad():
            for tensor in tensors:
                network(tensor)
                teacher(tensor)
        for hook in hooks:
            hook.remove()
        weights = [c.weight for c in mine.modules() if hasattr(c, "weight_quant")]
        step = float(np.mean([weight.detach().abs().mean() for weight in weights]))
        optimizer = torch.optim.Adam([weight.requires_grad_(True) for weight in weights], lr=0.01 * step)
        for turn in range(RECONSTRUCTION_STEPS):
            index = turn % len(tensors)
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.mse_loss(mine(*given[index]), wanted[index]).backward()
            optimizer.step()
            with torch.no_grad():
                bound(network)


def quantize(
    detector: Detector, teacher: torch_module.RawHead, calibration: CalibrationSet, method: Method
) -> tuple[torch_module.RawHead, float]:
    """One method's network and its average weight bits."""
    network = copy.deepcopy(teacher)
    if isinstance(method.scales, int):
        return network, in_blocks(network, method.scales)
    settings = {"weight_bits": 4, "activation_bits": 16, "scales": method.scales}
    images = list(calibration.batches(detector.input))
    eight = kept_at_eight(detector, calibration, teacher, method.budget) if method.budget else set()
    brevitas_layers.quantize_convolutions(network, settings, eight)
    brevitas_layers.calibrate(network, iter(images[:1]))
    if method.compensation is not None:
        round_weights(network, images, lambda _: None, method.compensation)
    if method.reconstruct:
        reconstruct(network, teacher, images, method.reconstruct)
    if method.correct:
        correct_biases(network, images)
    found = torch_module.convolutions(network)
    scale_count = sum(c.out_channels if method.scales == "channel" else 1 for c in found.values())
    total = sum(conv.weight.numel() for conv in found.values())
    bits = sum(conv.weight.numel() * (8 if name in eight else 4) for name, conv in found.items()) + 32 * scale_count
    return network.eval(), bits / total


def measure(network: torch_module.RawHead, dataset: Dataset, head: Head) -> float:
    """AP on a data set, by torch, end to end."""
    found: dict[int, Detections] = {}
    with torch.inference_mode():
        for image in dataset.images:
            tensor, place = preprocess(image.path, InputSpec(head.sides[0]))
            output: Any = network.model(torch.from_numpy(tensor))[0]
            seen = head.decode([output.numpy()])
            found[image.id] = Detections(place.to_image(seen.boxes), seen.scores, seen.classes)
    return evaluate(dataset, found).map


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="shapes10n")
    parser.add_argument("--only", action="append", help="a method's name, repeatable")
    options = parser.parse_args()
    detector = registry.find_detector(options.detector)
    data: Path = default_root() / "data"
    dataset, calibration = detector.load_data(data), detector.load_calibration(data)
    calibration = calibration.first(IMAGES)
    teacher = torch_module.fused(detector)
    print(f"{detector.name}, {len(dataset.images)} images of {dataset.name}; {len(calibration.paths)} for calibration")
    print("| method | weight bits | AP | minutes |\n|---|---:|---:|---:|")
    print(f"| float | 32 | {measure(teacher, dataset, detector.head):.4f} | |", flush=True)
    for name in options.only or METHODS:
        started = time.monotonic()
        network, bits = quantize(detector, teacher, calibration, METHODS[name])
        minutes = (time.monotonic() - started) / 60
        accuracy = measure(network, dataset, detector.head)
        print(f"| {name} | {bits:.2f} | {accuracy:.4f} | {minutes:.1f} |", flush=True)


if __name__ == "__main__":
    main()
