"""The check of the canonical form: another result is refused, and a check that compared nothing does not pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lowbit import graph
from lowbit.data.detections import Detections
from lowbit.detector.declare import Declared
from lowbit.errors import InputError
from lowbit.evaluate import Evaluation, Given
from lowbit.graph import canonical_form, equality, shape_inference
from lowbit.progress import silent
from lowbit.store.store import Store
from tests.unit import toys, zoo
from tests.unit.graphs import array, make_model, node
from tests.unit.test_head_detr import make_detr


def nameless(path: Path) -> Path:
    """The toy, which the door has to change: its nodes have no names."""
    model = onnx.load(str(toys.make_detector(path)))
    for one in model.graph.node:
        one.ClearField("name")
    onnx.save(model, str(path))
    return path


def test_a_file_in_canonical_form_stays_as_it_is(tmp_path: Path) -> None:
    path = toys.make_detector(tmp_path / "toy.onnx")
    found = graph.canonical(path)
    assert (found.changes, found.pixels) == ((), False)
    assert found.model.graph == onnx.load(str(path)).graph


def test_what_was_changed_is_said(tmp_path: Path) -> None:
    assert graph.canonical(nameless(tmp_path / "toy.onnx")).changes == ("its nodes named",)


@pytest.mark.parametrize("tensor", ["w32", "b32"])
def test_a_step_that_changes_the_numbers_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor: str
) -> None:
    def damage(model: onnx.ModelProto) -> str:
        for stored in model.graph.initializer:
            if stored.name == tensor:
                values = numpy_helper.to_array(stored) * np.float32(1.01)
                stored.CopyFrom(numpy_helper.from_array(values, tensor))
        return "damaged"

    monkeypatch.setattr(canonical_form, "_folded", damage)
    path = toys.make_detector(tmp_path / "toy.onnx")
    found = graph.canonical(path)  # what can't be proved is not applied
    assert (found.changes, found.model.graph) == ((), onnx.load(str(path)).graph)
    monkeypatch.setattr(canonical_form, "_inlined", damage)
    with pytest.raises(InputError, match=r"toy\.onnx: its canonical form computes something else at 'output0'"):
        graph.canonical(path)


def test_a_proof_that_compared_nothing_is_none(tmp_path: Path) -> None:
    """It has no detections on noise and no convolution: both forms agree on nothing at all."""
    nodes = [
        node("Greater", ["images", "two"], "above", ""),
        node("NonZero", ["above"], "where", ""),
        node("Cast", ["where"], "output0", "", to=onnx.TensorProto.FLOAT),
    ]
    path = tmp_path / "mine.onnx"
    onnx.save(make_model(nodes, [array(np.float32(2), "two")], shape_out=(4, "n")), str(path))
    with pytest.raises(InputError, match=r"mine\.onnx: had to be changed .* nothing shows that it still computes"):
        graph.canonical(path)


def test_float16_weights_in_constant_nodes_are_float16(tmp_path: Path) -> None:
    """They round as initializers do: a file was refused as one that computes something else."""
    path = tmp_path / "mine.onnx"
    make_detr(path)
    zoo.compose(["batch_normalization", "weights_as_constant_nodes", "float16"], onnx.load(str(path)), path)
    assert "computed in float32 instead of float16" in graph.canonical(path).changes


def on_images(path: Path, folder: Path) -> None:
    """What the check before a gate does with the canonical form of a file."""
    data, calibration = toys.make_dataset(folder / "val"), toys.make_calibration(folder / "other")
    declared = {"mine": Declared(model=path, dataset=data, calibration=calibration)}
    Evaluation(Store(folder / "store"), Given(declared=declared), silent).check_detector("mine")


def test_the_form_is_proved_on_real_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that changes only what bright images show: noise does not tell."""

    def clipped(model: onnx.ModelProto) -> str:
        (reading,) = (one for one in model.graph.node if "images" in one.input)
        reading.input[0] = "shown"
        limit = array(np.float32(0.6), "limit")
        model.graph.initializer.append(limit)
        model.graph.node.insert(0, node("Less", ["images", "limit"], "dark", "/less"))
        model.graph.node.insert(1, node("Cast", ["dark"], "kept", "/kept", to=onnx.TensorProto.FLOAT))
        model.graph.node.insert(2, node("Mul", ["images", "kept"], "shown", "/shown"))
        return "changed"

    path = nameless(tmp_path / "toy.onnx")
    on_images(path, tmp_path)
    monkeypatch.setattr(canonical_form, "_inlined", clipped)
    monkeypatch.setattr(equality, "noise", lambda value, seed=0: shape_inference.noise(value, seed) * np.float32(0.5))
    graph.canonical(path)
    with pytest.raises(InputError, match=r"toy\.onnx: its canonical form (detects|computes) something else"):
        on_images(path, tmp_path)


def test_detections_on_real_images_are_compared_in_both_directions(tmp_path: Path) -> None:
    one = Detections(np.array([[0, 0, 8, 8]], np.float32), np.array([0.9], np.float32), np.array([1]))
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert equality._seen_alike(tmp_path, one, one, half=False) == 2
    assert equality._seen_alike(tmp_path, none, none, half=False) == 0
    for first, second in ((one, none), (none, one)):
        with pytest.raises(InputError, match="1 of 1 detections have no equal"):
            equality._seen_alike(tmp_path, first, second, half=False)


def test_a_batch_gets_different_images() -> None:
    images = [np.full((1, 3, 2, 2), number, np.float32) for number in range(3)]
    batches = equality._of_batch(images, 2)
    assert [[int(image.max()) for image in batch] for batch in batches] == [[0, 1], [2, 0]]


def test_where_float16_began_no_cast_is_left(tmp_path: Path) -> None:
    """A Cast of float32 to float32 hid the first convolution from quantizers: they quantized it, and INT8 lost a point."""
    base, path = toys.make_detector(tmp_path / "toy.onnx"), tmp_path / "half.onnx"
    zoo.RIGHT["float16_inside"](onnx.load(str(base)), path)
    model = graph.canonical(path).model
    assert graph.stem(model) == graph.stem(graph.canonical(base).model) != []
    assert [node.output[0] for node in model.graph.node if node.op_type == "Cast"] == ["output0"]  # it names the output


@pytest.mark.filterwarnings("error")
def test_float16_outputs_are_read_in_float32(tmp_path: Path) -> None:
    zoo.RIGHT["float16"](onnx.load(str(toys.make_detector(tmp_path / "toy.onnx"))), tmp_path / "half.onnx")
    on_images(tmp_path / "half.onnx", tmp_path)
