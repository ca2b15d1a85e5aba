"""DETR's head: two outputs, read as its families define them, from file to AP, in float and in INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from lowbit import graph, runtime
from lowbit.data.coco import load_coco
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import load_calibration
from lowbit.detector import declare, find_detector, heads
from lowbit.detector.head import Hints
from lowbit.detector.heads.detr import Detr
from lowbit.errors import InputError
from lowbit.measure.metrics import evaluate
from lowbit.measure.predict import predict
from lowbit.quantize import Job, ort
from tests.unit import toys
from tests.unit.graphs import Nodes, Weights, array, make_model, node


def make_detr(path: Path, *, softmax: bool = False, names: str | None = "{0: 'red', 1: 'blue'}") -> Path:
    """The toy of two classes with a query a cell of the 2 x 2 grid: boxes from reference points, class logits."""
    columns = 3 if softmax else 2
    kernel = np.zeros((columns, 3, 32, 32), np.float32)
    kernel[0, 0] = kernel[1, 2] = 20 / 32**2
    bias = np.full(columns, -10, np.float32)
    if softmax:
        bias[2] = 0
    points = np.array([[x, y, 0.5, 0.5] for y in (0.25, 0.75) for x in (0.25, 0.75)], np.float32)
    weights: Weights = [
        array(np.eye(3, dtype=np.float32)[:, :, None, None], "stem"),
        array(kernel, "kernel"),
        array(bias, "bias"),
        array(np.zeros((4, 3, 32, 32), np.float32), "delta"),
        array(np.array([1, columns, 4]), "flat"),
        array(np.array([1, 4, 4]), "flat_boxes"),
        array(np.log(points / (1 - points))[None], "reference"),
    ]
    options = {"kernel_shape": [32, 32], "strides": [32, 32]}
    nodes: Nodes = [
        node("Conv", ["images", "stem"], "features", "/backbone/Conv"),
        node("Conv", ["features", "kernel", "bias"], "cells", "/decoder/class/Conv", **options),
        node("Reshape", ["cells", "flat"], "rows", "/decoder/class/Reshape"),
        node("Transpose", ["rows"], "logits", "/decoder/class/Transpose", perm=[0, 2, 1]),
        node("Conv", ["features", "delta"], "deltas", "/decoder/box/Conv", **options),
        node("Reshape", ["deltas", "flat_boxes"], "moved", "/decoder/box/Reshape"),
        node("Add", ["moved", "reference"], "unbounded", "/decoder/box/Add"),
        node("Sigmoid", ["unbounded"], "pred_boxes", "/decoder/box/Sigmoid"),
    ]
    model = make_model(nodes, weights, shape_out=(1, 4, columns), opset=17)
    model.graph.output[0].name = "logits"
    model.graph.output.add().CopyFrom(
        onnx.helper.make_tensor_value_info("pred_boxes", onnx.TensorProto.FLOAT, (1, 4, 4))
    )
    if names:
        model.metadata_props.add(key="names", value=names)
    model.ir_version = 8
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def accuracy(path: Path, head: heads.Head, spec: InputSpec, annotations: Path) -> float:
    session = runtime.open_session(path, runtime.SessionOptions())
    dataset = load_coco(annotations)
    return evaluate(dataset, predict(session, head, dataset, spec)).map


@pytest.mark.parametrize("softmax", [False, True])
def test_a_detr_is_measured_in_float_and_in_int8(tmp_path: Path, softmax: bool) -> None:
    detector = find_detector(str(make_detr(tmp_path / "detr.onnx", softmax=softmax)))
    assert detector.head == Detr((64, 64), 2, "softmax" if softmax else "sigmoid", boxes_first=False)
    assert detector.input.resize == "stretch"
    detector.export(tmp_path / "float.onnx")
    annotations = toys.make_dataset(tmp_path)
    assert accuracy(tmp_path / "float.onnx", detector.head, detector.input, annotations) == pytest.approx(1)
    calibration, output = load_calibration(toys.make_calibration(tmp_path / "calibration")), tmp_path / "int8.onnx"
    settings = {"calibration_method": "minmax"}
    source = tmp_path / "float.onnx"
    ort.build(
        Job("int8-ort-minmax", settings, source, {}, detector.input, calibration, output, tmp_path, lambda _: None)
    )
    assert graph.structure(graph.load(output)).quantized_fraction > 0.99  # all but the stem
    assert accuracy(output, detector.head, detector.input, annotations) == pytest.approx(1)


def test_images_of_another_aspect_ratio_are_stretched(tmp_path: Path) -> None:
    """Boxes are shares of the input's sides: those of an image that was stretched are right in its own pixels."""
    detector = find_detector(str(make_detr(tmp_path / "detr.onnx")))
    annotations = toys.make_dataset(tmp_path, stretch=(2, 1))
    assert accuracy(tmp_path / "detr.onnx", detector.head, detector.input, annotations) == pytest.approx(1)
    wrong = InputSpec(64, resize="corner")
    assert accuracy(tmp_path / "detr.onnx", detector.head, wrong, annotations) < 0.5


def test_what_the_logits_are_is_asked_for(tmp_path: Path) -> None:
    path = make_detr(tmp_path / "detr.onnx", softmax=True, names=None)
    with pytest.raises(InputError, match=r'detr\.onnx: its 3 class logits .* scores = "sigmoid" }, or "softmax"'):
        find_detector(str(path))
    text = '[detectors.mine]\nmodel = "detr.onnx"\nhead = { kind = "detr", scores = "softmax" }\n'
    (tmp_path / declare.NAME).write_text(text)
    detector = find_detector("mine", declared=declare.load(tmp_path).detectors)
    assert detector.head == Detr((64, 64), 2, "softmax", boxes_first=False)
    # What was declared reaches builds, which see the export only.
    detector.export(tmp_path / "float.onnx")
    assert heads.recognise(tmp_path / "float.onnx", graph.load(tmp_path / "float.onnx")) == detector.head
    (tmp_path / declare.NAME).write_text(text.replace("softmax", "relu"))
    with pytest.raises(InputError, match="scores = 'relu': a head of kind detr has scores = sigmoid or softmax or"):
        declare.load(tmp_path)


def test_one_output_as_ultralytics_exports_it() -> None:
    model = make_model([node("Relu", ["images"], "output0", "r")], [], shape_out=(1, 300, 7))
    hints = Hints(classes=3)
    assert heads.recognise(Path("m.onnx"), model, hints) == Detr((64, 64), 3, "probability", joined=True)
    output = np.zeros((1, 300, 7), np.float32)
    output[0, 5] = (0.5, 0.25, 0.5, 0.25, 0.1, 0.9, 0)
    found = heads.recognise(Path("m.onnx"), model, hints).decode([output])
    assert found.boxes.tolist() == [[16, 8, 48, 24]] * 2
    assert (found.scores.tolist(), found.classes.tolist()) == (pytest.approx([0.9, 0.1]), [1, 0])


def test_chosen_pairs_as_ultralytics_exports_them() -> None:
    """Six columns as an end-to-end head has them, but boxes in [0, 1]: the metadata say whose they are."""
    model = make_model([node("Relu", ["images"], "output0", "r")], [], shape_out=(1, 300, 6))
    names = str({number: str(number) for number in range(80)})
    for key, value in (("names", names), ("head", "RTDETRDecoder")):
        model.metadata_props.add(key=key, value=value)
    head = heads.recognise(Path("m.onnx"), model)
    assert head == Detr((64, 64), 80, "probability", chosen=True)
    output = np.zeros((1, 300, 6), np.float32)
    output[0, 0] = (0.5, 0.25, 0.5, 0.25, 0.9, 79)
    found = head.decode([output])
    assert (found.boxes.tolist(), found.classes.tolist()) == ([[16, 8, 48, 24]], [79])
    model.metadata_props[-1].value = "v10Detect"
    assert heads.recognise(Path("m.onnx"), model).kind == "end2end"


def test_six_columns_can_be_of_two_heads() -> None:
    model = make_model([node("Relu", ["images"], "output0", "r")], [], shape_out=(1, 300, 6))
    with pytest.raises(InputError, match=r"can be of kind detr or end2end\. Declare which"):
        heads.recognise(Path("m.onnx"), model, Hints(classes=2))
    assert heads.recognise(Path("m.onnx"), model, Hints("end2end", classes=2)).kind == "end2end"


def test_a_softmax_gives_a_query_one_class() -> None:
    head = Detr((64, 128), 2, "softmax")
    boxes = np.array([[[0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.5, 1]]], np.float32)
    logits = np.log(np.array([[[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]]], np.float32))
    found = head.decode([boxes, logits])
    assert found.scores == pytest.approx([0.6, 0.2], abs=1e-6)
    assert found.classes.tolist() == [0, 1]
    assert found.boxes.tolist() == [[32, 16, 96, 48], [0, 0, 64, 64]]
    with pytest.raises(InputError, match="wrong head kind"):
        head.decode([logits, boxes])
