"""Heads: recognised from what a file shows, decoded as brute force does."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lowbit import graph
from lowbit.data.detections import Detections
from lowbit.detector import heads
from lowbit.detector.decoding import suppress
from lowbit.detector.head import Head, Hints
from lowbit.detector.heads.decoded import Decoded
from lowbit.detector.heads.end2end import End2End
from lowbit.detector.heads.objectness import Objectness
from lowbit.detector.heads.raw import Raw
from lowbit.errors import InputError
from tests.unit.graphs import end2end, floats, make_model, node
from tests.unit.toys import make_detector

RAW = Raw((64, 64), 3)
DECODED = Decoded((64, 64), 3)
END2END = End2End((64, 64), 3)
OBJECTNESS = Objectness((64, 64), 3)
SHAPES = {RAW: (1, 67, 84), DECODED: (1, 7, 84), END2END: (1, 300, 6), OBJECTNESS: (1, 252, 8)}


def brute_force_box(column: np.ndarray, anchor: int, height: int = 64, width: int = 64) -> list[float]:
    """A raw column's box by the definition: cell by cell, bin by bin."""
    cells = [(s, x, y) for s in (8, 16, 32) for y in range(height // s) for x in range(width // s)]
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
    output = rng.normal(0, 2, SHAPES[RAW]).astype(np.float32)
    output[0, 64:] = -20
    output[0, 65, anchor] = 2.0
    found = RAW.decode([output])
    assert found.classes.tolist() == [1]
    assert found.scores[0] == pytest.approx(1 / (1 + math.exp(-2.0)))
    assert found.boxes[0] == pytest.approx(brute_force_box(output[0, :64, anchor], anchor), abs=1e-3)


@pytest.mark.parametrize("anchor", [0, 11, 95, 96, 120, 125])
def test_rectangular_inputs_have_rows_of_other_length(anchor: int) -> None:
    head = heads.recognise(Path("m.onnx"), rectangular())
    assert head == Raw((64, 96), 3)
    output = np.random.default_rng(anchor).normal(0, 2, (1, 67, 126)).astype(np.float32)
    output[0, 64:] = -20
    output[0, 65, anchor] = 2.0
    assert head.decode([output]).boxes[0] == pytest.approx(
        brute_force_box(output[0, :64, anchor], anchor, 64, 96), abs=1e-3
    )


def rectangular() -> onnx.ModelProto:
    nodes = [node("Relu", ["images"], "output0", "r")]
    return make_model(nodes, [], shape_in=(1, 3, 64, 96), shape_out=(1, 67, 126))


def test_decoded_heads_hold_centres_and_scores() -> None:
    output = np.zeros(SHAPES[DECODED], np.float32)
    output[0, :4, 7] = (30, 20, 10, 8)
    output[0, 4 + 2, 7] = 0.7
    found = DECODED.decode([output])
    assert found.boxes.tolist() == [[25, 16, 35, 24]]
    assert (found.scores.tolist(), found.classes.tolist()) == ([pytest.approx(0.7)], [2])


def test_heads_with_anchors_first_are_the_same_head() -> None:
    rng = np.random.default_rng(3)
    output = rng.random(SHAPES[DECODED], np.float32)
    turned = replace(DECODED, transposed=True)
    mine, other = DECODED.decode([output]), turned.decode([np.ascontiguousarray(output.transpose(0, 2, 1))])
    assert np.array_equal(mine.boxes, other.boxes) and np.array_equal(mine.scores, other.scores)


def test_objectness_weighs_class_scores() -> None:
    output = np.zeros(SHAPES[OBJECTNESS], np.float32)  # three anchors a cell
    output[0, 100] = (30, 20, 10, 8, 0.5, 0, 0.8, 0)
    found = OBJECTNESS.decode([output])
    assert found.boxes.tolist() == [[25, 16, 35, 24]]
    assert (found.scores.tolist(), found.classes.tolist()) == ([pytest.approx(0.4)], [1])


def test_end_to_end_heads_are_read_best_first() -> None:
    output = np.zeros((1, 300, 6), np.float32)
    output[0, :3] = [[1, 1, 5, 5, 0.2, 2], [1, 1, 5, 5, 0.9, 1], [1, 1, 5, 5, 0.0005, 0]]
    found = END2END.decode([output])
    assert (found.scores.tolist(), found.classes.tolist()) == (pytest.approx([0.9, 0.2]), [1, 2])


@pytest.mark.parametrize("head", SHAPES)
def test_nothing_detected_is_an_empty_answer(head: Head) -> None:
    output = np.full(SHAPES[head], -50 if head is RAW else 0, np.float32)
    found = head.decode([output])
    assert (found.boxes.shape, len(found)) == ((0, 4), 0)


@pytest.mark.parametrize("head", SHAPES)
def test_another_shape_is_refused(head: Head) -> None:
    with pytest.raises(InputError, match="wrong head kind"):
        head.decode([np.zeros((1, 7, 85), np.float32)])


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


@pytest.mark.parametrize("classes", [1, 10, 80, 64])
def test_recognised_end2end(classes: int) -> None:
    head = heads.recognise(Path("m.onnx"), end2end(classes))
    assert (head.kind, head.sides, head.classes) == ("end2end", (64, 64), classes)


def test_recognised_raw(tmp_path: Path) -> None:
    head = heads.recognise(Path("m.onnx"), graph.load(make_detector(tmp_path / "toy.onnx")))
    assert (head.kind, head.sides, head.classes) == ("raw", (64, 64), 2)


@pytest.mark.parametrize(("rows", "classes"), [(5, 1), (84, 80)])
def test_recognised_decoded(rows: int, classes: int) -> None:
    nodes = [
        node("Conv", ["images", "w"], "x", "/model.0/Conv"),
        node("Sigmoid", ["x"], "s", "/model.1/Sigmoid"),
        node("Concat", ["x", "s"], "output0", "/model.1/Concat", axis=1),
    ]
    model = make_model(nodes, [floats((4, 3, 1, 1), "w")], shape_out=(1, rows, 84))
    head = heads.recognise(Path("m.onnx"), model)
    assert (head.kind, head.sides, head.classes) == ("decoded", (64, 64), classes)


@pytest.mark.parametrize(
    ("shape", "kind", "classes"),
    [
        ((1, 84, 66), "raw", 2),  # anchors first
        ((1, 252, 6), "objectness", 1),  # not an end-to-end head with 252 detections
        ((1, 252, 85), "objectness", 80),
    ],
)
def test_recognised_with_anchors_first(shape: tuple[int, ...], kind: str, classes: int) -> None:
    model = make_model([node("Relu", ["images"], "output0", "r")], [], shape_out=shape)
    head = heads.recognise(Path("m.onnx"), model)
    assert (head.kind, head.classes) == (kind, classes)
    assert len(head.decode([np.zeros(shape, np.float32)])) <= 300


def test_declared_heads_are_believed_where_the_shape_leaves_it_open() -> None:
    model = make_model([node("Relu", ["images"], "output0", "r")], [], shape_out=(1, 84, 84))
    assert heads.recognise(Path("m.onnx"), model).classes == 20
    assert heads.recognise(Path("m.onnx"), model, Hints("decoded")).classes == 80
    with pytest.raises(InputError, match=r"m\.onnx: output .* is no objectness head of"):
        heads.recognise(Path("m.onnx"), model, Hints("objectness"))
    p6 = make_model([node("Relu", ["images"], "output0", "r")], [], shape_out=(1, 86, 85))
    with pytest.raises(InputError, match="declare its strides"):
        heads.recognise(Path("m.onnx"), p6, Hints("decoded"))
    head = heads.recognise(Path("m.onnx"), p6, Hints("decoded", (8, 16, 32, 64)))
    assert head.classes == 82


@pytest.mark.parametrize("shape", [("batch", 3, 64, 64), (1, 3, "h", "w"), (1, 1, 64, 64), (2, 3, 64, 64), (1, 3, 64)])
def test_input_that_does_not_fit(shape: tuple[int | str, ...]) -> None:
    model = make_model([node("Relu", ["images"], "output0", "r")], [], shape_in=shape)
    with pytest.raises(InputError, match=r"m\.onnx: input .* is not 1 x 3 x height x width"):
        heads.recognise(Path("m.onnx"), model)


@pytest.mark.parametrize("size", [16, 8192])
def test_size_out_of_range(size: int) -> None:
    model = make_model([node("Relu", ["images"], "output0", "r")], [], shape_in=(1, 3, size, size))
    with pytest.raises(InputError, match=r"m\.onnx: input"):
        heads.recognise(Path("m.onnx"), model)


@pytest.mark.parametrize("shape", [(1, 66, 85), (1, 4, 84), (1, 252, 5), (1, 66), (1, 300, 7), ("n", "m", "k")])
def test_output_that_does_not_fit(shape: tuple[int | str, ...]) -> None:
    model = make_model([node("Relu", ["images"], "output0", "r")], [], shape_out=shape)
    with pytest.raises(InputError, match=r"m\.onnx: output .* is none of"):
        heads.recognise(Path("m.onnx"), model)


@pytest.mark.parametrize("rows", [5, 64])
def test_raw_head_without_classes(rows: int) -> None:
    model = make_model([node("Relu", ["images"], "output0", "r")], [], shape_out=(1, rows, 84))
    with pytest.raises(InputError, match=r"m\.onnx: output"):
        heads.recognise(Path("m.onnx"), model)


def test_initializers_that_may_be_overridden_are_no_inputs() -> None:
    model = end2end()
    model.graph.input.append(helper.make_tensor_value_info("box8", TensorProto.FLOAT, (64, 3, 1, 1)))
    assert heads.recognise(Path("m.onnx"), model) == heads.recognise(Path("m.onnx"), end2end())


def test_two_outputs() -> None:
    model = end2end()
    model.graph.output.append(helper.make_tensor_value_info("box8_y", TensorProto.FLOAT, (1, 64, 64, 64)))
    with pytest.raises(InputError, match=r"m\.onnx: output \(1, 300, 6\), \(1, 64, 64, 64\) is none of"):
        heads.recognise(Path("m.onnx"), model)


@pytest.mark.parametrize("model", [end2end(10, 32), make_model([node("Relu", ["images"], "output0", "r")], [])])
def test_end2end_without_readable_classes(model: onnx.ModelProto) -> None:
    with pytest.raises(InputError, match=r"m\.onnx: the number of classes can't be read"):
        heads.recognise(Path("m.onnx"), model)
