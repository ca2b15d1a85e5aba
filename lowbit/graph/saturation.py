"""Where 8-bit kernels of x86 processors without VNNI saturate.

Such kernels multiply unsigned activations by signed weights and add neighbouring products in 16 bits, which saturates
(``vpmaddubsw``), before they add in 32 bits. Kernels with VNNI add in 32 bits. ONNX Runtime turns signed activations of a
Q/DQ graph into unsigned ones whose zero point is moved by 128, so that they saturate too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The largest unsigned activation, and what 16 bits hold.
ACTIVATION_MAX = 255
LOWEST, HIGHEST = -32768, 32767


def kernel_pairs(weight: NDArray[np.int8]) -> NDArray[np.int16]:
    """A weight, arranged as the neighbours whose products a kernel without VNNI adds in 16 bits.

    ``weight``: int8 [out, in / group, kh, kw] of a convolution, or [K, N] of a matrix product, whose outputs are its
    columns. Returns int16 [out, pairs, 2]; int16 because sums of two do not fit 8 bits.

    Neighbours are input channels 2i and 2i + 1 at one kernel position. With an odd number of input channels in a group,
    the order kernel row, kernel column, channel goes on from one position to the next. What is left at the end has a
    weight of 0 beside it. A depthwise convolution (one input and one output channel a group) has no pairs: its kernel
    adds in 32 bits. That is for the caller to know; its weight does not tell it from another grouped one.

    Raises ``ValueError`` for another number of dimensions.
    """
    if weight.ndim not in (2, 4):
        raise ValueError(f"a weight of {weight.ndim} dimensions belongs to no convolution over images and no product")
    rows = weight.T if weight.ndim == 2 else weight.transpose(0, 2, 3, 1)
    flat = rows.reshape(len(rows), -1).astype(np.int16)
    return np.pad(flat, ((0, 0), (0, flat.shape[1] % 2))).reshape(len(flat), -1, 2)


def worst_pair(weight: NDArray[np.int8]) -> NDArray[np.int32]:
    """The largest magnitude of a sum of two neighbouring products that unsigned 8-bit activations can reach, int32 [out].

    For every pair: 255 times the sum of its positive weights, or of its negative ones, whichever is larger. For weights of
    one sign that is 255 * (|w1| + |w2|), and both activations at 255 reach it; products of weights of opposite sign
    never add up. ``weight``: as :func:`kernel_pairs` takes it.
    """
    pairs = kernel_pairs(weight).astype(np.int32)
    positive, negative = np.maximum(pairs, 0).sum(2), -np.minimum(pairs, 0).sum(2)
    return np.asarray(ACTIVATION_MAX * np.maximum(positive, negative).max(1), np.int32)


def worst_seen(
    weight: NDArray[np.int8], lowest: NDArray[np.uint8], highest: NDArray[np.uint8], group: int = 1
) -> NDArray[np.int32]:
    """The same, int32 [out], for activations that stay within what calibration has seen of every input channel.

    ``weight``: as :func:`kernel_pairs` takes it. ``lowest``, ``highest``: uint8 [in], the smallest and the largest value
    of every input channel, [K] of a matrix product; where the convolution pads, the zero point is one of them.

    An upper bound: two channels need not be at their ends together. Raises ``ValueError`` for ranges of another length.
    """
    pairs = kernel_pairs(weight).astype(np.int32)
    inputs = weight.shape[0] if weight.ndim == 2 else weight.shape[1]
    if lowest.shape != (inputs * group,) or highest.shape != lowest.shape:
        raise ValueError(f"{lowest.shape} and {highest.shape} are no ranges of {inputs * group} input channels")
    positions = 1 if weight.ndim == 2 else weight.shape[2] * weight.shape[3]
    ends = []
    for values in (lowest, highest):
        # [group, in / group] repeats at every kernel position, and every output channel has its group's.
        row = np.tile(values.reshape(group, inputs).astype(np.int32), (1, positions))
        padded = np.pad(row, ((0, 0), (0, row.shape[1] % 2)))
        ends.append(np.repeat(padded, len(pairs) // group, 0).reshape(pairs.shape))
    products = np.stack([pairs * end for end in ends])
    return np.asarray(np.maximum(products.max(0).sum(2), -products.min(0).sum(2)).max(1), np.int32)


def fits(worst: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether sums of this magnitude fit 16 bits whatever their sign."""
    return worst <= HIGHEST
