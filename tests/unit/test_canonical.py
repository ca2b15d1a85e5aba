"""The check of the canonical form: another result is refused, and a check that compared nothing does not pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lowbit import graph
from lowbit.errors import InputError
from lowbit.graph import canonical_form
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
