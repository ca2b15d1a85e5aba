"""Which products are neighbours in 16 bits, and how large their sums get."""

from __future__ import annotations

import numpy as np
import pytest

from lowbit.graph import saturation


def test_neighbours_are_two_channels_at_one_kernel_position() -> None:
    weight = np.zeros((2, 4, 1, 3), np.int8)
    weight[1, 2, 0, 1], weight[1, 3, 0, 1] = 5, -7
    pairs = saturation.kernel_pairs(weight)
    assert pairs.shape == (2, 6, 2)
    assert pairs.dtype == np.int16
    # The second position's second pair of channels.
    assert pairs[1, 3].tolist() == [5, -7]
    assert np.abs(pairs).sum() == 12


def test_an_odd_number_of_channels_goes_on_at_the_next_position() -> None:
    weight = np.arange(1, 10, dtype=np.int8).reshape(1, 3, 1, 3)  # channel by channel, three positions each
    expected = [[1, 4], [7, 2], [5, 8], [3, 6], [9, 0]]
    assert saturation.kernel_pairs(weight)[0].tolist() == expected


def test_the_columns_of_a_product_are_its_outputs() -> None:
    weight = np.array([[1, 2], [3, 4], [5, 6]], np.int8)
    assert saturation.kernel_pairs(weight).tolist() == [[[1, 3], [5, 0]], [[2, 4], [6, 0]]]


def test_a_weight_of_other_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="3 dimensions"):
        saturation.kernel_pairs(np.zeros((2, 2, 2), np.int8))


@pytest.mark.parametrize(
    ("pair", "magnitude", "fits"),
    [
        ((64, 64), 32640, True),
        ((64, 65), 32895, False),
        ((-128, 0), 32640, True),
        ((-128, -1), 32895, False),
        ((127, -128), 32640, True),
        ((127, 127), 64770, False),
        ((0, 0), 0, True),
    ],
)
def test_weights_of_one_sign_add_up_and_others_do_not(pair: tuple[int, int], magnitude: int, fits: bool) -> None:
    worst = saturation.worst_pair(np.array(pair, np.int8).reshape(1, 2, 1, 1))
    assert worst.tolist() == [magnitude]
    assert saturation.fits(worst).tolist() == [fits]


def test_the_worst_sum_is_the_largest_of_all_activations() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-128, 128, (6, 3, 1, 1)).astype(np.int8)
    corners = np.array(np.meshgrid(*[[0, 255]] * 4)).reshape(4, -1).reshape(2, 2, -1)
    sums = np.einsum("opk,pkn->opn", saturation.kernel_pairs(weight), corners)
    assert saturation.worst_pair(weight).tolist() == np.abs(sums).max((1, 2)).tolist()
    assert saturation.worst_seen(weight, np.zeros(3, np.uint8), np.full(3, 255, np.uint8)).tolist() == (
        saturation.worst_pair(weight).tolist()
    )


@pytest.mark.parametrize(("channels", "group", "side"), [(4, 1, 1), (3, 1, 3), (6, 2, 3), (4, 4, 2)])
def test_what_was_seen_bounds_every_sum_of_it(channels: int, group: int, side: int) -> None:
    rng = np.random.default_rng(channels)
    weight = rng.integers(-128, 128, (4 * group, channels // group, side, side)).astype(np.int8)
    seen = rng.integers(100, 200, (50, channels, side, side)).astype(np.uint8)
    lowest, highest = seen.min((0, 2, 3)), seen.max((0, 2, 3))
    worst = saturation.worst_seen(weight, lowest, highest, group)
    rows = seen.reshape(50, group, channels // group, side, side).transpose(1, 0, 3, 4, 2).reshape(group, 50, -1)
    rows = np.pad(rows, ((0, 0), (0, 0), (0, rows.shape[2] % 2))).reshape(group, 50, -1, 2)
    pairs = saturation.kernel_pairs(weight).reshape(group, 4, -1, 2)
    reached = np.abs(np.einsum("gopk,gnpk->gonp", pairs, rows.astype(int))).max((2, 3)).ravel()
    assert (reached <= worst).all()
    assert (worst <= saturation.worst_pair(weight)).all()
    assert (worst < 1.4 * reached).all()


def test_ranges_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="4 input channels"):
        saturation.worst_seen(np.zeros((2, 4, 1, 1), np.int8), np.zeros(3, np.uint8), np.zeros(3, np.uint8))
