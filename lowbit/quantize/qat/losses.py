"""The distillation losses: how far a quantized detector's raw head and neck features are from the float one's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lowbit.detector.torch_module import Raw


def losses(student: Raw, teacher: Raw) -> tuple[Tensor, Tensor, Tensor]:
    """How far a student is from its teacher: classes, boxes, features; each a scalar, 0 for equal outputs.

    Classes: Kullback-Leibler divergence of every (neighbourhood, class) Bernoulli, where a neighbourhood of 3 x 3 anchors
    is as sure of a class as its surest anchor. Which of them speaks for an object is a contest that rounding decides
    otherwise all the time (a one-to-one head has one winner), and AP asks for a winner, not for which. Boxes: the
    divergence of every side's distribution over the bins, weighted by the teacher's best class probability at the anchor.
    Both are divided by the sum of these weights, so they count per object. Features: mean squared error over the
    teacher's variance.
    """
    features, boxes, scores = student
    target_features, target_boxes, target_scores = (teacher[0], teacher[1].float(), teacher[2].float())
    cross = functional.binary_cross_entropy_with_logits
    near, target_near = (neighbourhoods(logits, target_features) for logits in (scores.float(), target_scores))
    target = target_near.sigmoid()
    classes = cross(near, target, reduction="sum") - cross(target_near, target, reduction="sum")
    classes = classes / target.amax(1).sum().clamp(min=1)
    weight = target_scores.sigmoid().amax(1)
    batch, rows, anchors = target_boxes.shape
    expected = functional.log_softmax(target_boxes.view(batch, 4, rows // 4, anchors), 2)
    found = functional.log_softmax(boxes.float().view(batch, 4, rows // 4, anchors), 2)
    divergence = (expected.exp() * (expected - found)).sum((1, 2))
    parts = [
        functional.mse_loss(mine.float(), other.float()) / other.float().var().clamp(min=1e-12)
        for mine, other in zip(features, target_features, strict=True)
    ]
    return classes, (divergence * weight).sum() / weight.sum().clamp(min=1), torch.stack(parts).mean()


def neighbourhoods(scores: Tensor, features: list[Tensor]) -> Tensor:
    """Class logits [n, classes, anchors], each the largest of its 3 x 3 neighbours on its own stride's grid."""
    grids = [feature.shape[-2:] for feature in features]
    ends = np.cumsum([height * width for height, width in grids])
    levels = [scores[:, :, end - h * w : end] for (h, w), end in zip(grids, ends, strict=True)]
    pooled = [
        functional.max_pool2d(level.reshape(*level.shape[:2], *grid), 3, 1, 1).flatten(2)
        for level, grid in zip(levels, grids, strict=True)
    ]
    return torch.cat(pooled, 2)
