"""Equivalent rewrites against what they replace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import numpy_helper

from lowbit import graph
from lowbit.detector import heads
from lowbit.errors import BuildError, UnavailableError
from lowbit.quantize import decode_tail
from tests.unit.lazily import lazily
from tests.unit.toys import make_detector

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
    lean = decode_tail.lean_tail(detector, model)
    assert decode_tail.check_same(model, lean, images()) > 100
    assert heads.recognise(detector, lean) == heads.recognise(detector, model)
    assert heads.recognise(detector, lean).kind == "end2end"
    assert graph.head_outputs(lean) == graph.head_outputs(model)


def test_the_lean_tail_decodes_survivors_only(detector: Path) -> None:
    lean = decode_tail.lean_tail(detector, graph.load(detector))
    (softmax,) = [node for node in lean.graph.node if node.op_type == "Softmax"]
    elements = np.prod(graph.shapes(lean)[softmax.input[0]])
    assert elements == 64 * 84  # this detector keeps all its 84 anchors; 300 of 8400 survive at 640 px


@pytest.mark.parametrize("damage", ["anchors", "bins"])
def test_a_wrong_rewrite_is_caught(detector: Path, damage: str) -> None:
    model = graph.load(detector)
    lean = decode_tail.lean_tail(detector, model)
    for tensor in lean.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name.startswith("/lean/") and values.dtype == np.float32 and (values.ndim == 1) == (damage == "bins"):
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.01), tensor.name))
    with pytest.raises(BuildError, match="differs on image 1"):
        decode_tail.check_same(model, lean, images(1))


def test_other_heads_have_no_anchors_to_skip(tmp_path: Path) -> None:
    path = make_detector(tmp_path / "toy.onnx")
    with pytest.raises(UnavailableError, match=r"toy\.onnx: has a raw head"):
        decode_tail.lean_tail(path, graph.load(path))


def test_shapes_behind_a_computed_slice(detector: Path) -> None:
    """PyTorch's tracer writes ``chunk`` so that ONNX's own inference gives up."""
    sizes = graph.shapes(graph.load(detector))
    for name, side in zip(graph.head_outputs(graph.load(detector)), (8, 4, 2, 8, 4, 2), strict=True):
        assert sizes[name][2:] == (side, side)
