"""Rounding with error compensation on a small random network of Brevitas layers, against rounding to nearest."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from lowbit.progress import Step
from tests.unit.lazily import lazily

torch, brevitas_layers = lazily("torch"), lazily("lowbit.quantize.brevitas_layers")
torch_module = lazily("lowbit.detector.torch_module")
compensation, networks = lazily("lowbit.quantize.gptq"), lazily("tests.unit.networks")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Smooth noise: neighbours and channels correlate, which is what compensation uses."""
    rng = np.random.default_rng(0)
    small = [rng.random((1, 3, 6, 6), np.float32) for _ in range(6)]
    return [
        torch.nn.functional.interpolate(torch.from_numpy(s), scale_factor=4, mode="bilinear").numpy() for s in small
    ]


def outputs(network: Any, images: list[np.ndarray]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([network(torch.from_numpy(image)) for image in images])


def test_it_loses_less_than_rounding_to_nearest(images: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    original: Any = networks.Network().eval()
    rounded = copy.deepcopy(original)
    brevitas_layers.quantize_convolutions(
        rounded, {"weight_bits": 4, "activation_bits": 16, "scales": "channel"}, {"depthwise"}
    )
    brevitas_layers.calibrate(rounded, iter(images[:1]))
    compensated = copy.deepcopy(rounded)
    seen: list[Step] = []
    compensation.compensate(compensated, images[:4], seen.append)

    truth = outputs(original, images)
    error, before = (outputs(network, images) - truth for network in (compensated, rounded))
    assert float(error.square().mean()) < 0.5 * float(before.square().mean())
    # On the images that it was given, no channel's mean is off.
    means = error[:4].mean((0, 2, 3)).abs(), before[:4].mean((0, 2, 3)).abs()
    assert float(means[0].max()) < 0.05 * float(means[1].max())
    for name, layer in torch_module.convolutions(compensated).items():
        # Rounded already: quantizing again changes nothing.
        assert torch.allclose(layer.quant_weight().value, layer.weight, atol=1e-6), name
        assert not torch.equal(layer.weight, torch_module.convolutions(original)[name].weight)
        assert int(layer.quant_weight().bit_width) == (8 if name == "depthwise" else 4)
    assert any((step.done, step.total, step.unit) == (3, 3, "convolutions") for step in seen)
    assert not any("weight_orig" in name for name in compensated.state_dict())
