"""Equivalent rewrites against what they replace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import numpy_helper

from lowbit import graph
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import load_calibration
from lowbit.detector import heads
from lowbit.errors import UnavailableError
from lowbit.quantize import Job, decode_tail, lean, ort
from lowbit.runtime import plain_session
from tests.unit import toys
from tests.unit.lazily import lazily

torch, nn = lazily("torch"), lazily("torch.nn")

SIZE, CLASSES = 64, 5


@pytest.fixture(scope="module", params=[17, 19])
def detector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Ultralytics end-to-end head on three convolutions with random weights: exported as detectors are, and at
    Ultralytics' default opset for them."""
    from ultralytics.nn.modules.head import v10Detect

    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.levels = nn.ModuleList(nn.Conv2d(3, 8, stride, stride) for stride in (8, 16, 32))
            self.head = v10Detect(CLASSES, (8, 8, 8))
            self.head.stride = torch.tensor([8.0, 16.0, 32.0])

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head([level(images) for level in self.levels])

    network = Toy().eval()
    for parameter in network.head.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            parameter.data.normal_(0, 0.4)
    network.head.end2end = network.head.export = True
    network.head.format = "onnx"
    example = torch.zeros(1, 3, SIZE, SIZE)
    path = tmp_path_factory.mktemp("head") / "head.onnx"
    with torch.inference_mode():
        shape = tuple(network(example).shape)
        torch.onnx.export(
            network, (example,), str(path), input_names=["images"], opset_version=request.param, dynamo=False
        )
    model = onnx.load(str(path))
    for dim, value in zip(model.graph.output[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.Clear()
        dim.dim_value = value
    onnx.save(model, str(path))
    return path


def images(count: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(1).random((count, 1, 3, SIZE, SIZE), np.float32))


def test_the_lean_tail_detects_the_same(detector: Path) -> None:
    model = graph.load(detector)
    rewritten = decode_tail.lean_tail(detector, model)
    assert decode_tail.prove(model, rewritten, images()) > 100
    assert heads.recognise(detector, rewritten) == heads.recognise(detector, model)
    assert heads.recognise(detector, rewritten).kind == "end2end"
    assert graph.head_outputs(rewritten) == graph.head_outputs(model)


def test_the_lean_tail_decodes_survivors_only(detector: Path) -> None:
    rewritten = decode_tail.lean_tail(detector, graph.load(detector))
    (softmax,) = [node for node in rewritten.graph.node if node.op_type == "Softmax"]
    elements = np.prod(graph.shapes(rewritten)[softmax.input[0]])
    assert elements == 64 * 84  # this detector keeps all its 84 anchors; 300 of 8400 survive at 640 px


@pytest.mark.parametrize("damage", ["anchors", "bins"])
def test_a_wrong_rewrite_is_caught(detector: Path, damage: str) -> None:
    model = graph.load(detector)
    rewritten = decode_tail.lean_tail(detector, model)
    for tensor in rewritten.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name.startswith("/lean/") and values.dtype == np.float32 and (values.ndim == 1) == (damage == "bins"):
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.01), tensor.name))
    with pytest.raises(UnavailableError, match="differs on calibration image 1"):
        decode_tail.prove(model, rewritten, images(1))


# Louder than images are: what an object is to a detector with random weights.
OBJECTS = np.float32(20) * images(1)[0]


def seeing_only(path: Path, model: onnx.ModelProto, score: float) -> onnx.ModelProto:
    """A copy with other biases of its class logits, so that the highest score on :data:`OBJECTS` becomes ``score``."""
    output = plain_session(model).run(None, {"images": OBJECTS})[0]
    highest = output[0, :, 4].max()
    shift = np.log(score / (1 - score)) - np.log(highest / (1 - highest))
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    classes = {node.input[2] for node in graph.last_convolutions(copied)}
    for tensor in copied.graph.initializer:
        if tensor.name in classes and tuple(tensor.dims) == (CLASSES,):
            values = numpy_helper.to_array(tensor) + np.float32(shift)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(copied, str(path))
    return graph.load(path)


def test_a_proof_that_compared_nothing_is_none(detector: Path, tmp_path: Path) -> None:
    model = seeing_only(tmp_path / "blind.onnx", graph.load(detector), 0.005)
    rewritten = decode_tail.lean_tail(detector, model)
    with pytest.raises(UnavailableError, match="is not proved: the detector sees nothing on 4 calibration images"):
        decode_tail.prove(model, rewritten, [*images(), OBJECTS])


def test_images_without_objects_prove_nothing(detector: Path, tmp_path: Path) -> None:
    """A list that begins with them is read on, to the first with objects."""
    model = seeing_only(tmp_path / "dim.onnx", graph.load(detector), 0.5)
    wrong = decode_tail.lean_tail(detector, model)
    for tensor in wrong.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name.startswith("/lean/") and values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.01), tensor.name))
    grey = [np.full((1, 3, SIZE, SIZE), 0.5, np.float32)] * decode_tail.PROBES
    with pytest.raises(UnavailableError, match="sees nothing on 4 calibration images"):
        decode_tail.prove(model, wrong, grey)
    with pytest.raises(UnavailableError, match="differs on calibration image 5"):
        decode_tail.prove(model, wrong, [*grey, OBJECTS])


def with_nms(path: Path, model: onnx.ModelProto) -> Path:
    """As an export with ``nms=True``: the rows that non-maximum suppression keeps, padded to as many as there were."""
    rows, output = "rows_before_nms", model.graph.output[0]
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == output.name:
                node.output[place] = rows
    stored = {
        "from_0": [0], "from_4": [4], "from_5": [5], "columns": [2], "most": [SIZE * SIZE], "all": [-1], "none": [0],
        "boxes_of": [2], "iou": np.float32(0.1), "least": np.float32(0.01), "anchors": [84], "six": [6], "one": [1],
    }  # fmt: skip
    model.graph.initializer.extend(
        numpy_helper.from_array(v if isinstance(v, np.generic) else np.array(v), n) for n, v in stored.items()
    )
    make = onnx.helper.make_node
    model.graph.node.extend(
        [
            make("Slice", [rows, "from_0", "from_4", "columns"], ["nms_boxes"], "nms_boxes"),
            make("Slice", [rows, "from_4", "from_5", "columns"], ["nms_column"], "nms_column"),
            make("Transpose", ["nms_column"], ["nms_scores"], "nms_scores", perm=[0, 2, 1]),
            make("NonMaxSuppression", ["nms_boxes", "nms_scores", "most", "iou", "least"], ["nms_chosen"], "nms"),
            make("Gather", ["nms_chosen", "boxes_of"], ["nms_places"], "nms_places", axis=1),
            make("Reshape", ["nms_places", "all"], ["nms_flat"], "nms_flat"),
            make("Gather", [rows, "nms_flat"], ["nms_rows"], "nms_rows", axis=1),
            make("Shape", ["nms_flat"], ["nms_count"], "nms_count"),
            make("Sub", ["anchors", "nms_count"], ["nms_missing"], "nms_missing"),
            make("Concat", ["none", "none", "none", "none", "nms_missing", "none"], ["nms_pads"], "nms_pads", axis=0),
            make("Pad", ["nms_rows", "nms_pads"], [output.name], "nms_pad"),
        ]
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def job_of(source: Path, folder: Path, scheme: str, **settings: str) -> Job:
    return Job(
        scheme=scheme,
        settings=settings,
        source=source,
        identity={},
        input=InputSpec(SIZE),
        calibration=load_calibration(toys.make_calibration(folder / "calibration")),
        output=folder / "model.onnx",
        unfinished=folder,
        progress=lambda _: None,
    )


def test_nms_inside_stays(detector: Path, tmp_path: Path) -> None:
    source = with_nms(tmp_path / "nms.onnx", graph.load(detector))
    info = ort.build(job_of(source, tmp_path, "int8-ort-minmax", calibration_method="minmax"))
    (left,) = info["left_out"]
    assert left == {
        "rewrite": "lean decode tail",
        "reason": "nms.onnx: has non-maximum suppression inside, which stays.",
    }
    assert "detections_compared" not in info
    built = graph.load(tmp_path / "model.onnx")
    assert "NonMaxSuppression" in {node.op_type for node in built.graph.node}
    assert graph.activation_scales(built)


def test_a_tail_that_differs_is_left_out(detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifact is built with the model's own, and fp32-lean, which would be the export again, says why there is none."""
    job = job_of(detector, tmp_path, "int8-ort-minmax", calibration_method="minmax")
    assert ort.build(job)["left_out"] == []
    anchors = decode_tail.anchor_points  # type: ignore[attr-defined] # replaced where it is called
    monkeypatch.setattr(
        decode_tail, "anchor_points", lambda *of: tuple(part * np.float32(1.01) for part in anchors(*of))
    )
    info = ort.build(job)
    (left,) = info["left_out"]
    assert left["reason"].startswith("differs on calibration image 1: ")
    assert not [node.name for node in graph.load(job.output).graph.node if node.name.startswith("/lean/")]
    assert graph.activation_scales(graph.load(job.output))
    with pytest.raises(UnavailableError, match="lean decode tail: differs on calibration image 1"):
        lean.build(job_of(detector, tmp_path, "fp32-lean"))


def test_a_lean_export_is_proved(detector: Path, tmp_path: Path) -> None:
    assert lean.build(job_of(detector, tmp_path, "fp32-lean"))["detections_compared"] > 100
    assert [node.name for node in graph.load(tmp_path / "model.onnx").graph.node if node.name.startswith("/lean/")]


def test_other_heads_have_no_anchors_to_skip(tmp_path: Path) -> None:
    path = toys.make_detector(tmp_path / "toy.onnx")
    with pytest.raises(UnavailableError, match=r"toy\.onnx: has a raw head"):
        decode_tail.lean_tail(path, graph.load(path))


def test_shapes_behind_a_computed_slice(detector: Path) -> None:
    """PyTorch's tracer writes ``chunk`` so that ONNX's own inference gives up."""
    sizes = graph.shapes(graph.load(detector))
    for name, side in zip(graph.head_outputs(graph.load(detector)), (8, 4, 2, 8, 4, 2), strict=True):
        assert sizes[name][2:] == (side, side)
