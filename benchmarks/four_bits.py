"""What post-training methods make of 4-bit weights without training: ``python -m benchmarks.four_bits``.

Every row starts from the float detector, is measured in torch on the detector's data set, and prints average weight
bits (scales included), AP and minutes (calibration and method, without evaluation). What learns is measured by the suite
itself: the schemes ``w4a16-brevitas-round`` and ``w4a16-brevitas-qat``.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from brevitas.graph.calibrate import bias_correction_mode
from brevitas.graph.gpfq import gpfq_mode
from brevitas.graph.gptq import gptq_mode

from lowbit import detectors
from lowbit.artifacts import default_root
from lowbit.datasets import CalibrationSet, Dataset
from lowbit.decode import Detections, HeadContract, decode
from lowbit.imaging import InputSpec, preprocess
from lowbit.metrics import evaluate
from lowbit.qat import layers
from lowbit.quantizers import Job
from lowbit.sensitivity import mixed

PICTURES = 32
# name: scales, budget of bits, error compensation, bias correction
METHODS: dict[str, tuple[str, float | None, Any, bool]] = {
    "per tensor": ("tensor", None, None, False),
    "per channel, least squares": ("channel", None, None, False),
    "and bias correction": ("channel", None, None, True),
    "and GPTQ": ("channel", None, gptq_mode, False),
    "and GPTQ, bias correction": ("channel", None, gptq_mode, True),
    "and GPFQ, bias correction": ("channel", None, gpfq_mode, True),
    "least noisy 8 and 4 bits to 4.6": ("channel", 4.6, None, False),
    "and bias correction, to 4.6": ("channel", 4.6, None, True),
    "and GPTQ, bias correction, to 4.6": ("channel", 4.6, gptq_mode, True),
}


def kept_at_eight(
    detector: detectors.Detector, calibration: CalibrationSet, teacher: layers.RawHead, budget: float
) -> set[str]:
    """The convolutions that a scheme with this budget keeps at 8 bits."""
    names = {name.removeprefix("model."): name for name in layers.convolutions(teacher)}
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
        chosen, _ = mixed.eight_bit_modules(job, detector, list(names))
    return {names[name] for name in chosen}


def quantize(
    detector: detectors.Detector,
    teacher: layers.RawHead,
    calibration: CalibrationSet,
    method: tuple[str, float | None, Any, bool],
) -> tuple[layers.RawHead, float]:
    """One method's network and its average weight bits."""
    scales, budget, compensation, correct = method
    settings = {"weight_bits": 4, "activation_bits": 16, "scales": scales}
    tensors = [torch.from_numpy(batch) for batch in calibration.batches(detector.input)]
    eight = kept_at_eight(detector, calibration, teacher, budget) if budget else set()
    network = copy.deepcopy(teacher)
    layers.quantize_convolutions(network, settings, eight)
    layers.calibrate(network, iter([tensors[0].numpy()]))
    if compensation is not None:
        with torch.no_grad(), compensation(network, use_quant_activations=False) as mode:
            for _ in range(mode.num_layers):
                for tensor in tensors:
                    mode.model(tensor)
                mode.update()
    if correct:
        with torch.no_grad(), bias_correction_mode(network):
            for tensor in tensors:
                network(tensor)
    found = layers.convolutions(network)
    scale_count = sum(c.out_channels if scales == "channel" else 1 for c in found.values())
    total = sum(conv.weight.numel() for conv in found.values())
    bits = sum(conv.weight.numel() * (8 if name in eight else 4) for name, conv in found.items()) + 32 * scale_count
    return network.eval(), bits / total


def measure(network: layers.RawHead, dataset: Dataset, contract: HeadContract) -> float:
    """AP on a data set, by torch, end to end."""
    found: dict[int, Detections] = {}
    with torch.inference_mode():
        for image in dataset.images:
            tensor, place = preprocess(image.path, InputSpec(contract.size))
            output: Any = network.model(torch.from_numpy(tensor))[0]
            seen = decode(output.numpy(), contract)
            found[image.id] = Detections(place.to_picture(seen.boxes), seen.scores, seen.classes)
    return evaluate(dataset, found).map


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="shapes10n")
    parser.add_argument("--only", action="append", help="a method's name, repeatable")
    options = parser.parse_args()
    detector = detectors.find(options.detector)
    data: Path = default_root() / "data"
    dataset, calibration = detector.load_data(data), detector.load_calibration(data)
    calibration = calibration.first(PICTURES)
    teacher = layers.fused(detector)
    print(f"{detector.name}, {len(dataset.images)} images of {dataset.name}; {len(calibration.paths)} for calibration")
    print("| method | weight bits | AP | minutes |\n|---|---:|---:|---:|")
    print(f"| float | 32 | {measure(teacher, dataset, detector.contract()):.4f} | |", flush=True)
    for name in options.only or METHODS:
        started = time.monotonic()
        network, bits = quantize(detector, teacher, calibration, METHODS[name])
        minutes = (time.monotonic() - started) / 60
        accuracy = measure(network, dataset, detector.contract())
        print(f"| {name} | {bits:.2f} | {accuracy:.4f} | {minutes:.1f} |", flush=True)


if __name__ == "__main__":
    main()
