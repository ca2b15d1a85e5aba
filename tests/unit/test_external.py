"""Weights beside an ONNX file: part of what a detector is, and of what is built from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lowbit import files, graph
from lowbit.detector import find_detector
from lowbit.errors import InputError
from lowbit.graph.external import contents, external_files
from lowbit.store.requests import export_request
from lowbit.store.store import Store
from tests.unit.toys import make_detector


def beside(path: Path, location: str = "my.onnx.data") -> Path:
    """Move a file's weights beside it, as torch's exporter does; returns where they are."""
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=location, size_threshold=0)
    return path.parent / location


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return make_detector(tmp_path / "my.onnx")


def retrain(path: Path, data: Path) -> None:
    """Other weights in the same layout: the ONNX file stays what it was, to the byte."""
    before, values = path.read_bytes(), np.fromfile(data, np.uint8)
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:  # shapes stay what they are
            place = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key != "location"}
            part = values[place["offset"] : place["offset"] + place["length"]]
            part[:] = (part.copy().view(np.float32) / 2).view(np.uint8)
    values.tofile(data)
    assert path.read_bytes() == before


def test_a_detector_that_was_trained_again_is_another_one(detector: Path, tmp_path: Path) -> None:
    data = beside(detector)
    store = Store(tmp_path / "store")
    first = store.get(export_request(find_detector(str(detector))))
    assert not store.get(export_request(find_detector(str(detector)))).built
    retrain(detector, data)
    second = store.get(export_request(find_detector(str(detector))))
    assert second.built and second.sha256 != first.sha256
    stored = [{t.name: numpy_helper.to_array(t) for t in graph.load(a.path).graph.initializer} for a in (first, second)]
    assert np.array_equal(stored[0]["b32"], stored[1]["b32"] * 2) and stored[0]["b32"].all()


def test_where_they_lie_does_not_matter(detector: Path, tmp_path: Path) -> None:
    data = beside(detector)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in (detector, data):
        (elsewhere / file.name).write_bytes(file.read_bytes())
    one, other = (export_request(find_detector(str(folder / "my.onnx"))) for folder in (tmp_path, elsewhere))
    assert one.key == other.key
    assert str(tmp_path) not in str(one.ingredients)


def test_what_a_detector_is_called_does_not_matter(detector: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "yours.onnx"
    renamed.write_bytes(detector.read_bytes())
    one, other = (export_request(find_detector(str(path))) for path in (detector, renamed))
    assert one.key == other.key


def test_weights_that_change_between_hash_and_build_build_nothing(detector: Path, tmp_path: Path) -> None:
    data = beside(detector)
    request = export_request(find_detector(str(detector)))
    assert request.key
    retrain(detector, data)
    with pytest.raises(InputError, match=f"{data}: changed while it was read"):
        Store(tmp_path / "store").get(request)


def test_all_of_them_are_found(tmp_path: Path) -> None:
    """In initializers, in a node, in the branch of a node, in a function."""

    def tensor(name: str) -> onnx.TensorProto:
        found = numpy_helper.from_array(np.ones(4, np.float32), name)
        found.data_location = TensorProto.EXTERNAL
        found.external_data.add(key="location", value=f"{name}.bin")
        found.ClearField("raw_data")
        (tmp_path / f"{name}.bin").write_bytes(name.encode())
        return found

    constant = helper.make_node("Constant", [], ["c"], value=tensor("node"))
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["b"])], "branch", [], [], [tensor("branch")])
    choice = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    body = helper.make_graph([constant, choice], "all", [], [], [tensor("plain")])
    inner = helper.make_node("Constant", [], ["f"], value=tensor("function"))
    function = helper.make_function("own", "F", [], ["f"], [inner], [helper.make_opsetid("", 17)])
    path = tmp_path / "all.onnx"
    path.write_bytes(helper.make_model(body, functions=[function]).SerializeToString())
    names = [f"{name}.bin" for name in ("branch", "function", "node", "plain")]
    assert external_files(path) == names
    assert contents(path) == {
        "sha256": files.sha256(path),
        "external": {name: files.sha256(tmp_path / name) for name in names},
    }


def test_a_file_with_all_its_weights_has_none(detector: Path) -> None:
    assert contents(detector) == {"sha256": files.sha256(detector)}
    detector.with_suffix(".pt").write_bytes(b"no ONNX")
    assert external_files(detector.with_suffix(".pt")) == []


def test_weights_that_are_gone_are_named(detector: Path) -> None:
    beside(detector).unlink()
    with pytest.raises(InputError, match=r"my\.onnx\.data: cannot be read .*my\.onnx needs it"):
        contents(detector)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", ""])
def test_weights_outside_the_folder_are_refused(detector: Path, location: str) -> None:
    model = onnx.load(detector)
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value=location)
    detector.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"my\.onnx: keeps weights in .*outside its folder"):
        contents(detector)
