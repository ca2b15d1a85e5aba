"""Error compensation after rounding: GPTQ (https://arxiv.org/abs/2210.17323), then bias correction
(https://arxiv.org/abs/1906.04721), both Brevitas'.

GPTQ rounds a convolution's weights one input channel after another, and adjusts those not yet rounded so that they
compensate the error on the images' activations. A convolution gets its input from the ones before it, which are already
rounded. Bias correction then restores every channel's mean output. Neither needs gradients or labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from brevitas.graph.calibrate import bias_correction_mode
from brevitas.graph.gptq import gptq_mode
from numpy.typing import NDArray

from lowbit.detector.torch_module import RawHead
from lowbit.progress import Progress, Step


def compensate(network: RawHead, images: Sequence[NDArray[np.float32]], progress: Progress) -> None:
    """Round the weights of a network that :func:`lowbit.quantize.brevitas_layers.calibrate` gave scales, in place.

    ``images``: float32 [1, 3, size, size], in [0, 1]. Inputs of convolutions stay in floating point meanwhile.
    """
    round_weights(network, images, progress)
    progress(Step("correcting biases"))
    correct_biases(network, images)
    for layer in network.modules():
        # The float weights, which bias correction compares with.
        if hasattr(layer, "weight_orig"):
            del layer.weight_orig


def round_weights(
    network: RawHead,
    images: Sequence[NDArray[np.float32]],
    progress: Progress,
    method: Any = gptq_mode,
) -> None:
    """The first half of :func:`compensate`, by another of Brevitas' methods if given. Float weights stay as ``weight_orig``."""
    tensors = [torch.from_numpy(image) for image in images]
    with torch.no_grad(), method(network, use_quant_activations=False) as rounding:
        for number in range(1, rounding.num_layers + 1):
            for tensor in tensors:
                rounding.model(tensor)
            rounding.update()
            progress(Step("compensating rounding", number, rounding.num_layers, "convolutions"))


def correct_biases(network: RawHead, images: Sequence[NDArray[np.float32]]) -> None:
    """The second half: every channel's mean output is that of its float weights on the same inputs again."""
    with torch.no_grad(), bias_correction_mode(network):
        for image in images:
            network(torch.from_numpy(image))
