"""Decoding against brute force."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lowbit.decode import Detections, HeadContract, HeadKind, decode, suppress
from lowbit.errors import InputError

RAW = HeadContract(HeadKind.RAW, 64, 3)
DECODED = HeadContract(HeadKind.DECODED, 64, 3)
END2END = HeadContract(HeadKind.END2END, 64, 3)


def brute_force_box(column: np.ndarray, anchor: int) -> list[float]:
    """A raw column's box by the definition: cell by cell, bin by bin."""
    cells = [(s, x, y) for s in (8, 16, 32) for y in range(64 // s) for x in range(64 // s)]
    stride, x, y = cells[anchor]
    distances = []
    for side in range(4):
        bins = [math.exp(v) for v in column[side * 16 : side * 16 + 16]]
        distances.append(sum(i * b for i, b in enumerate(bins)) / sum(bins))
    left, top, right, bottom = distances
    centre = (x + 0.5, y + 0.5)
    corners = [centre[0] - left, centre[1] - top, centre[0] + right, centre[1] + bottom]
    return [v * stride for v in corners]


@pytest.mark.parametrize("anchor", [0, 9, 63, 64, 79, 80, 83])
def test_dfl_equals_brute_force(anchor: int) -> None:
    rng = np.random.default_rng(anchor)
    output = rng.normal(0, 2, RAW.output_shape).astype(np.float32)
    output[0, 64:] = -20
    output[0, 65, anchor] = 2.0
    found = decode(output, RAW)
    assert found.classes.tolist() == [1]
    assert found.scores[0] == pytest.approx(1 / (1 + math.exp(-2.0)))
    assert found.boxes[0] == pytest.approx(brute_force_box(output[0, :64, anchor], anchor), abs=1e-3)


def test_decoded_heads_hold_centres_and_scores() -> None:
    output = np.zeros(DECODED.output_shape, np.float32)
    output[0, :4, 7] = (30, 20, 10, 8)
    output[0, 4 + 2, 7] = 0.7
    found = decode(output, DECODED)
    assert found.boxes.tolist() == [[25, 16, 35, 24]]
    assert (found.scores.tolist(), found.classes.tolist()) == ([pytest.approx(0.7)], [2])


def test_heads_with_anchors_first_are_the_same_head() -> None:
    rng = np.random.default_rng(3)
    output = rng.random(DECODED.output_shape, np.float32)
    turned = replace(DECODED, transposed=True)
    assert turned.output_shape == (1, 84, 7)
    mine, other = decode(output, DECODED), decode(np.ascontiguousarray(output.transpose(0, 2, 1)), turned)
    assert np.array_equal(mine.boxes, other.boxes) and np.array_equal(mine.scores, other.scores)


def test_objectness_weighs_class_scores() -> None:
    contract = HeadContract(HeadKind.OBJECTNESS, 64, 3, transposed=True)
    assert contract.output_shape == (1, 252, 8)  # three anchors a cell
    output = np.zeros(contract.output_shape, np.float32)
    output[0, 100] = (30, 20, 10, 8, 0.5, 0, 0.8, 0)
    found = decode(output, contract)
    assert found.boxes.tolist() == [[25, 16, 35, 24]]
    assert (found.scores.tolist(), found.classes.tolist()) == ([pytest.approx(0.4)], [1])


def test_end_to_end_heads_are_read_best_first() -> None:
    output = np.zeros((1, 300, 6), np.float32)
    output[0, :3] = [[1, 1, 5, 5, 0.2, 2], [1, 1, 5, 5, 0.9, 1], [1, 1, 5, 5, 0.0005, 0]]
    found = decode(output, END2END)
    assert (found.scores.tolist(), found.classes.tolist()) == (pytest.approx([0.9, 0.2]), [1, 2])


@pytest.mark.parametrize("contract", [RAW, DECODED, END2END])
def test_nothing_detected_is_an_empty_answer(contract: HeadContract) -> None:
    output = np.full(contract.output_shape, -50 if contract is RAW else 0, np.float32)
    found = decode(output, contract)
    assert (found.boxes.shape, len(found)) == ((0, 4), 0)


@pytest.mark.parametrize("contract", [RAW, DECODED, END2END])
def test_another_shape_is_refused(contract: HeadContract) -> None:
    with pytest.raises(InputError, match="wrong head kind"):
        decode(np.zeros((1, 7, 85), np.float32), contract)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("seed", range(5))
def test_suppression_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 30, (80, 2))
    boxes = np.concatenate([low, low + rng.uniform(8, 30, (80, 2))], 1).astype(np.float32)
    all_of_it = Detections(boxes, rng.random(80).astype(np.float32), rng.integers(0, 2, 80))
    kept: list[int] = []
    for index in np.argsort(-all_of_it.scores):
        rivals = [k for k in kept if all_of_it.classes[k] == all_of_it.classes[index]]
        if all(iou(boxes[index], boxes[k]) <= 0.5 for k in rivals):
            kept.append(int(index))
    found = suppress(all_of_it, 0.5)
    assert found.scores.tolist() == all_of_it.scores[kept].tolist()
    assert np.array_equal(found.boxes, boxes[kept])


def test_the_same_box_in_two_classes_stays_twice() -> None:
    box = [[1.0, 1, 9, 9]] * 3
    found = suppress(Detections(np.array(box, np.float32), np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 1, 0])))
    assert found.classes.tolist() == [0, 1]
