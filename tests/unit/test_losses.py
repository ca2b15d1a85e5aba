"""The distillation losses, against the formulas written out, and what they reward."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.lazily import lazily

torch, losses, networks = lazily("torch"), lazily("lowbit.quantize.qat.losses"), lazily("tests.unit.networks")


def test_equal_outputs_have_no_loss() -> None:
    raw = networks.Toy()(torch.rand(2, 3, 32, 32))
    assert [float(part.detach()) for part in losses.losses(raw, raw)] == pytest.approx([0, 0, 0], abs=1e-6)


def test_losses_are_the_divergences_by_hand() -> None:
    torch.manual_seed(1)
    one, two = networks.Toy()(torch.rand(2, 3, 40, 32)), networks.Toy()(torch.rand(2, 3, 40, 32))
    classes, boxes, features = (float(part.detach()) for part in losses.losses(two, one))
    sides, logits = one[1].detach().numpy(), one[2].detach().numpy()
    sides_2, logits_2 = two[1].detach().numpy(), two[2].detach().numpy()
    weight = near_weight = expected_classes = expected_boxes = 0.0
    rows, columns = one[0][0].shape[-2:]
    assert rows * columns == logits.shape[2] and rows != columns
    for image, anchor in np.ndindex(2, rows * columns):
        row, column = divmod(anchor, columns)
        near = [
            r * columns + c
            for r in range(max(0, row - 1), min(rows, row + 2))
            for c in range(max(0, column - 1), min(columns, column + 2))
        ]
        p = 1 / (1 + np.exp(-logits[image][:, near].max(1)))
        q = 1 / (1 + np.exp(-logits_2[image][:, near].max(1)))
        expected_classes += (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum()
        near_weight += p.max()
        kl = 0.0
        for side in range(4):
            bins = np.exp([s[image, 2 * side : 2 * side + 2, anchor] for s in (sides, sides_2)])
            a, b = bins / bins.sum(1, keepdims=True)
            kl += (a * np.log(a / b)).sum()
        own = 1 / (1 + np.exp(-logits[image, :, anchor].max()))
        expected_boxes += kl * own
        weight += own
    difference = (two[0][0] - one[0][0]).detach().numpy()
    assert boxes == pytest.approx(expected_boxes / max(weight, 1), rel=1e-4)
    assert features == pytest.approx(np.square(difference).mean() / one[0][0].detach().numpy().var(ddof=1), rel=1e-4)
    assert classes == pytest.approx(expected_classes / max(near_weight, 1), rel=1e-4)


def test_another_winner_nearby_costs_less_than_one_far_away() -> None:
    """A detection that moves to the next anchor is still there; one that moves across the image is lost and invented."""
    features = [torch.randn(1, 4, 8, 8)]
    boxes = torch.zeros(1, 8, 64)

    def seen(row: int, column: int) -> torch.Tensor:
        scores = torch.full((1, 2, 64), -8.0)
        scores[0, 1, row * 8 + column] = 3.0
        return scores

    teacher = (features, boxes, seen(3, 3))
    near, far, none = (
        float(losses.losses((features, boxes, scores), teacher)[0])
        for scores in (seen(3, 4), seen(7, 7), torch.full((1, 2, 64), -8.0))
    )
    assert 0 < near < 0.5 * none < far
