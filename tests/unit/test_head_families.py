"""Heads of other families: each is recognised in a file, measured at AP 1 in float and in INT8, and asked for where its
shapes leave something open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lowbit import runtime
from lowbit.data.coco import load_coco
from lowbit.data.lists import load_calibration
from lowbit.detector import Detector, declare, find_detector
from lowbit.detector.heads.counted import Counted
from lowbit.detector.heads.decoded import Decoded
from lowbit.detector.heads.end2end import End2End
from lowbit.detector.heads.labelled import Labelled
from lowbit.detector.heads.nas import Nas
from lowbit.detector.heads.objectness import Objectness
from lowbit.detector.heads.rows import Rows
from lowbit.detector.heads.yolox import Yolox
from lowbit.errors import InputError
from lowbit.measure.metrics import evaluate
from lowbit.measure.predict import predict
from lowbit.quantize import Job, ort
from tests.unit import toys
from tests.unit.graphs import Nodes, Weights, array, node

CELLS = np.array([[x, y, x + 32, y + 32] for y in (0, 32) for x in (0, 32)], np.float32)


class Toy:
    """The toy of two classes at stride 32 alone: a stem, class logits [1, 4, 2], and what a family does with them."""

    def __init__(self) -> None:
        kernel = np.zeros((2, 3, 32, 32), np.float32)
        kernel[0, 0] = kernel[1, 2] = 20 / 32**2
        self.weights: Weights = []
        self.nodes: Nodes = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, 64, 64))]
        options = {"kernel_shape": [32, 32], "strides": [32, 32]}
        stem = self.stored(np.eye(3, dtype=np.float32)[:, :, None, None], "stem")
        self.add("Conv", ["images", stem], "features")
        named = [self.stored(kernel, "kernel"), self.stored(np.full(2, -10, np.float32), "bias")]
        self.add("Conv", ["features", *named], "cells", **options)
        self.add("Reshape", ["cells", self.stored(np.array([1, 2, 4]), "flat")], "columns")
        self.add("Sigmoid", ["columns"], "by_class")
        self.add("Transpose", ["by_class"], "scores_of_cells", perm=[0, 2, 1])

    def stored(self, values: NDArray[np.generic], name: str) -> str:
        self.weights.append(array(np.asarray(values), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **options: object) -> str:
        self.nodes.append(node(op, inputs, output, f"/{output}/{op}", **options))
        return output

    def gives(self, name: str, shape: tuple[int | str, ...], kind: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def save(self, path: Path) -> None:
        body = helper.make_graph(self.nodes, "toy", self.inputs, self.outputs, self.weights)
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))


def yolox(toy: Toy) -> None:
    grid = np.tile(np.array([0.5, 0.5, 0, 0, 1], np.float32), (1, 4, 1))
    toy.add("Concat", [toy.stored(grid, "grid"), "scores_of_cells"], "output", axis=2)
    toy.gives("output", (1, 4, 7))


# Centre x, centre y, width and height.
CENTRED = np.concatenate([(CELLS[:, :2] + CELLS[:, 2:]) / 2, CELLS[:, 2:] - CELLS[:, :2]], 1)


def decoded(toy: Toy) -> None:
    toy.add("Concat", [toy.stored(CENTRED.T[None], "boxes"), "by_class"], "output", axis=1)
    toy.gives("output", (1, 6, 4))


def objectness(toy: Toy) -> None:
    """Three anchors a cell that see the same."""
    boxes = np.concatenate([np.tile(CENTRED, (3, 1)), np.ones((12, 1), np.float32)], 1)
    toy.add("Concat", ["scores_of_cells"] * 3, "scores", axis=1)
    toy.add("Concat", [toy.stored(boxes[None], "boxes"), "scores"], "output", axis=2)
    toy.gives("output", (1, 12, 7))


def nas(toy: Toy) -> None:
    toy.add("Identity", [toy.stored(CELLS[None], "corners")], "boxes")
    toy.add("Identity", ["scores_of_cells"], "scores")
    toy.gives("boxes", (1, 4, 4))
    toy.gives("scores", (1, 4, 2))


def _best_first(toy: Toy) -> tuple[str, str, str]:
    """Boxes [1, 4, 4], scores [1, 4] and classes [1, 4] of the cells by their better class, best first."""
    toy.add("ReduceMax", ["scores_of_cells"], "top", axes=[2], keepdims=0)
    toy.add("ArgMax", ["scores_of_cells"], "label", axis=2, keepdims=0)
    toy.nodes.append(
        helper.make_node("TopK", ["top", toy.stored(np.array([4]), "four")], ["best", "order"], "topk", axis=1)
    )
    toy.add("GatherElements", ["label", "order"], "labels", axis=1)
    toy.add("Squeeze", ["order"], "which")
    toy.add("Gather", [toy.stored(CELLS[None], "corners"), "which"], "chosen", axis=1)
    return "chosen", "best", "labels"


def _number(toy: Toy) -> str:
    toy.add("Greater", ["best", toy.stored(np.float32(0.25), "quarter")], "seen")
    toy.add("Cast", ["seen"], "ones", to=TensorProto.INT32)
    return toy.add("ReduceSum", ["ones", toy.stored(np.array([1]), "axis")], "number", keepdims=1)


def end2end(toy: Toy) -> None:
    boxes, scores, labels = _best_first(toy)
    toy.add("Cast", [labels], "label_float", to=TensorProto.FLOAT)
    last = toy.stored(np.array([2]), "last")
    columns = [toy.add("Unsqueeze", [name, last], f"{name}_column") for name in (scores, "label_float")]
    toy.add("Concat", [boxes, *columns], "output", axis=2)
    toy.gives("output", (1, 4, 6))


def efficient_nms(toy: Toy) -> None:
    boxes, scores, labels = _best_first(toy)
    toy.add("Identity", [_number(toy)], "num_dets")
    for source, name in ((boxes, "det_boxes"), (scores, "det_scores")):
        toy.add("Identity", [source], name)
    toy.add("Cast", [labels], "det_classes", to=TensorProto.INT32)
    toy.gives("num_dets", (1, 1), TensorProto.INT32)
    toy.gives("det_boxes", (1, 4, 4))
    toy.gives("det_scores", (1, 4))
    toy.gives("det_classes", (1, 4), TensorProto.INT32)


def ssd(toy: Toy) -> None:
    boxes, scores, labels = _best_first(toy)
    toy.add("Gather", [boxes, toy.stored(np.array([1, 0, 3, 2]), "yxyx")], "turned", axis=2)
    toy.add("Div", ["turned", toy.stored(np.float32(64), "side")], "detection_boxes")
    toy.add("Cast", [labels], "label_float", to=TensorProto.FLOAT)
    toy.add("Add", ["label_float", toy.stored(np.float32(1), "one")], "detection_classes")
    toy.add("Identity", [scores], "detection_scores")
    toy.add("Squeeze", [_number(toy), toy.stored(np.array([0]), "zero")], "counted")
    toy.add("Cast", ["counted"], "num_detections", to=TensorProto.FLOAT)
    toy.gives("detection_boxes", (1, 4, 4))
    toy.gives("detection_classes", (1, 4))
    toy.gives("detection_scores", (1, 4))
    toy.gives("num_detections", (1,))


def mmdeploy(toy: Toy) -> None:
    boxes, scores, labels = _best_first(toy)
    column = toy.add("Unsqueeze", [scores, toy.stored(np.array([2]), "last")], "score_column")
    toy.add("Concat", [boxes, column], "dets", axis=2)
    toy.add("Identity", [labels], "labels_out")
    toy.gives("dets", (1, "n", 5))
    toy.gives("labels_out", (1, "n"), TensorProto.INT64)


def dfine(toy: Toy) -> None:
    """Boxes in [0, 1] are scaled to the width and height that its second input says."""
    boxes, scores, labels = _best_first(toy)
    toy.inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ("N", 2)))
    toy.add("Cast", ["orig_target_sizes"], "size", to=TensorProto.FLOAT)
    toy.add("Tile", ["size", toy.stored(np.array([1, 2]), "twice")], "corner_sizes")
    toy.add("Div", [boxes, toy.stored(np.float32(64), "side")], "shares")
    toy.add("Mul", ["shares", "corner_sizes"], "boxes")
    toy.add("Identity", [scores], "scores")
    toy.add("Identity", [labels], "classes")
    toy.gives("classes", (1, 4), TensorProto.INT64)
    toy.gives("boxes", (1, 4, 4))
    toy.gives("scores", (1, 4))


def standard_nms(toy: Toy) -> None:
    corners = toy.stored(CELLS[None], "corners")
    limits = [
        toy.stored(np.array([10]), "most"),
        toy.stored(np.float32(0.5), "iou"),
        toy.stored(np.float32(0.25), "least"),
    ]
    toy.add("NonMaxSuppression", [corners, "by_class", *limits], "selected")
    toy.add("Cast", ["selected"], "selected_float", to=TensorProto.FLOAT)
    column = [toy.stored(np.array([[place]][0]), f"column{place}") for place in range(3)]
    image, label = (toy.add("Gather", ["selected_float", column[i]], f"float{i}", axis=1) for i in (0, 1))
    toy.add("Gather", ["selected", column[2]], "boxes_of", axis=1)
    toy.add("Reshape", ["boxes_of", toy.stored(np.array([-1]), "all")], "cells_of")
    toy.add("Gather", [toy.stored(CELLS, "flat_corners"), "cells_of"], "boxes", axis=0)
    toy.add("GatherND", ["by_class", "selected"], "scores_flat")
    toy.add("Unsqueeze", ["scores_flat", column[1]], "scores")
    toy.add("Concat", [image, "boxes", label, "scores"], "output", axis=1)
    toy.gives("output", ("n", 7))


FAMILIES: dict[Callable[[Toy], None], object] = {
    decoded: Decoded((64, 64), 2, (32,)),
    objectness: Objectness((64, 64), 2, (32,)),
    end2end: End2End((64, 64), 2, (32,)),
    yolox: Yolox((64, 64), 2, (32,)),
    nas: Nas((64, 64), 2, (32,)),
    efficient_nms: Counted((64, 64), 2, (1, 2, 3, 0)),
    ssd: Counted((64, 64), 2, (0, 2, 1, 3), shares=True),
    standard_nms: Rows((64, 64), 2),
    mmdeploy: Labelled((64, 64), 2),
    dfine: Labelled((64, 64), 2, (1, 2, 0)),
}


CLASSES = "classes = [1, 2]"
# With two classes its shape is that of others too.
DECLARED = {end2end: f'{CLASSES}\nhead = "end2end"'}


def declared(folder: Path, family: Callable[[Toy], None], more: str | None = None) -> Detector:
    toy = Toy()
    family(toy)
    toy.save(folder / "toy.onnx")
    write_declaration(folder, "toy.onnx", DECLARED.get(family, CLASSES) if more is None else more)
    return find_detector("mine", declared=declare.load(folder).detectors)


def write_declaration(folder: Path, name: str, more: str) -> None:
    (folder / declare.NAME).write_text(f'[detectors.mine]\nmodel = "{name}"\nstrides = [32]\n{more}\n')


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_family_is_recognised_and_measured(tmp_path: Path, family: Callable[[Toy], None]) -> None:
    detector = declared(tmp_path, family)
    assert detector.head == FAMILIES[family]
    exported, quantized = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    detector.export(exported)
    calibration, settings = load_calibration(toys.make_calibration(tmp_path / "c")), {"calibration_method": "minmax"}
    ort.build(
        Job("int8-ort-minmax", settings, exported, {}, detector.input, calibration, quantized, tmp_path, lambda _: None)
    )
    dataset = load_coco(toys.make_dataset(tmp_path))
    for artifact in (exported, quantized):
        session = runtime.open_session(artifact, runtime.SessionOptions())
        found = predict(session, detector.head, dataset, detector.input)
        assert evaluate(dataset, found).map == pytest.approx(1), artifact.name


@pytest.mark.parametrize("family", [efficient_nms, standard_nms, mmdeploy])
def test_the_number_of_classes_is_asked_for(tmp_path: Path, family: Callable[[Toy], None]) -> None:
    with pytest.raises(InputError, match=r"toy\.onnx: .* how many classes there are\. Declare classes"):
        declared(tmp_path, family, "")


def test_a_yolox_looks_like_a_transposed_decoded_head(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"toy\.onnx: output \(1, 4, 7\) is none of .*not decoded \(yolox\)"):
        declared(tmp_path, yolox, "")
    assert declared(tmp_path, yolox, 'head = "yolox"').head == FAMILIES[yolox]


def test_rows_behind_the_count_mean_nothing() -> None:
    head = Counted((64, 64), 2)
    boxes, scores = np.tile(CELLS[:1], (3, 1))[None], np.array([[0.9, 0.8, 0.7]], np.float32)
    found = head.decode([np.array([[2]], np.int32), boxes, scores, np.array([[0, 1, 1]], np.int32)])
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    with pytest.raises(InputError, match="wrong head kind"):
        head.decode([boxes, scores])


def test_a_size_that_boxes_are_scaled_to_is_the_inputs_own(tmp_path: Path) -> None:
    """Images are stretched to it then, as these detectors are trained, unless something else is declared."""
    assert declared(tmp_path, dfine).input.resize == "stretch"
    assert declared(tmp_path, dfine, f'{CLASSES}\nresize = "letterbox"').input.resize == "letterbox"
    assert declared(tmp_path, mmdeploy).input.resize == "letterbox"


def test_another_second_input_is_refused_by_name(tmp_path: Path) -> None:
    def paddle(toy: Toy) -> None:
        nas(toy)
        toy.inputs.append(helper.make_tensor_value_info("scale_factor", TensorProto.FLOAT, (1, 2)))

    with pytest.raises(InputError, match=r"has the inputs images, scale_factor; .*Export it without"):
        declared(tmp_path, paddle)


def test_a_label_below_zero_is_padding() -> None:
    dets = np.array([[[0, 0, 8, 8, 0.9], [0, 0, 4, 4, 0.8]]], np.float32)
    assert Labelled((64, 64), 2).decode([dets, np.array([[1, -1]])]).classes.tolist() == [1]
    assert Labelled((64, 64), 2, (1, 0)).decode([np.array([[0, 1]]), dets]).classes.tolist() == [0, 1]


def logits(toy: Toy) -> None:
    """A decoded head without its sigmoid."""
    decoded(toy)
    (sigmoid,) = (node for node in toy.nodes if node.op_type == "Sigmoid")
    sigmoid.op_type = "Identity"


def test_logits_for_probabilities_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"toy\.onnx: .*scores in \[0, 1\], these are .* to .*sigmoid in its graph"):
        declared(tmp_path, logits, f'{CLASSES}\nhead = "decoded"')


def test_of_a_detr_logits_are_declared(tmp_path: Path) -> None:
    def detr(toy: Toy) -> None:
        boxes = toy.stored(CENTRED[None, :3] / np.float32(64), "stored_boxes")
        toy.add("Transpose", ["columns"], "logits_of_cells", perm=[0, 2, 1])
        toy.add("Slice", ["logits_of_cells", *(toy.stored(np.array([n]), f"at{n}") for n in (0, 3, 1))], "logits")
        toy.add("Identity", [boxes], "boxes")
        toy.gives("boxes", (1, 3, 4))
        toy.gives("logits", (1, 3, 2))

    with pytest.raises(InputError, match=r'these are .*scores = "sigmoid"'):
        declared(tmp_path, detr, 'head = { kind = "detr", scores = "probability" }')
    assert declared(tmp_path, detr, 'head = { kind = "detr", scores = "sigmoid" }').head.classes == 2
