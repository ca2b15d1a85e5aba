"""Error compensation after rounding: GPTQ (https://arxiv.org/abs/2210.17323), then bias correction
(https://arxiv.org/abs/1906.04721), both Brevitas'.

GPTQ rounds a convolution's weights one input channel after the other, and lets those not yet rounded make up for the
error on the pictures' activations; a convolution sees what the ones before it, already rounded, give. Bias correction
then restores every channel's mean output. No gradient, no label, and nothing of the other pictures' detections enters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from brevitas.graph.calibrate import bias_correction_mode
from brevitas.graph.gptq import gptq_mode
from numpy.typing import NDArray

from lowbit.qat.layers import RawHead


def compensate(network: RawHead, pictures: Sequence[NDArray[np.float32]], progress: Callable[[str], None]) -> None:
    """Round the weights of a network that :func:`lowbit.qat.layers.calibrate` gave scales, in place.

    ``pictures``: float32 [1, 3, size, size], in [0, 1]. Inputs of convolutions stay in floating point meanwhile.
    """
    tensors = [torch.from_numpy(picture) for picture in pictures]
    with torch.no_grad(), gptq_mode(network, use_quant_activations=False) as gptq:
        for number in range(1, gptq.num_layers + 1):
            progress(f"compensating rounding, convolution {number} of {gptq.num_layers}")
            for tensor in tensors:
                gptq.model(tensor)
            gptq.update()
    progress("correcting biases")
    with torch.no_grad(), bias_correction_mode(network):
        for tensor in tensors:
            network(tensor)
    for layer in network.modules():
        # The float weights, which bias correction compares with.
        if hasattr(layer, "weight_orig"):
            del layer.weight_orig
