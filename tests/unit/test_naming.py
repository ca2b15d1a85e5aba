"""Class names of a detector's file are held against the data set's: other orders are refused, other names said."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from lowbit import proposal
from lowbit.data.coco import load_coco
from lowbit.detector import declare, find_detector, naming
from lowbit.detector.declare import Declared
from lowbit.errors import InputError
from lowbit.evaluate import Evaluation, Given
from lowbit.progress import silent
from lowbit.store.store import Store
from tests.unit import toys


def named(path: Path, names: str) -> Path:
    """The toy with Ultralytics' metadata."""
    model = onnx.load(str(toys.make_detector(path)))
    model.metadata_props.add(key="names", value=names)
    onnx.save(model, str(path))
    return path


def checked(folder: Path, names: str, classes: tuple[int, ...] | None = None) -> tuple[str, ...]:
    """What the check before a gate says of a toy with these names."""
    model = named(folder / "toy.onnx", names)
    data, calibration = toys.make_dataset(folder / "val"), toys.make_calibration(folder / "other")
    declared = {"mine": Declared(model=model, dataset=data, calibration=calibration, classes=classes)}
    evaluation = Evaluation(Store(folder / "store"), Given(declared=declared), silent)
    evaluation.check_detector("mine")
    return evaluation.notes


def own_names(folder: Path) -> list[str]:
    return list(load_coco(toys.make_dataset(folder)).category_names)


def test_names_are_read_in_the_order_of_their_index(tmp_path: Path) -> None:
    model = named(tmp_path / "toy.onnx", "{1: 'b', 0: 'a'}")
    assert find_detector(str(model)).names == ("a", "b")
    assert find_detector(str(named(tmp_path / "two.onnx", "['x', 'y']"))).names == ("x", "y")


def test_other_spellings_are_the_same_names(tmp_path: Path) -> None:
    first, second = own_names(tmp_path / "val")
    assert checked(tmp_path, str([first.upper(), f" {second}"])) == ()
    assert naming.plain("Traffic_light (id 3)") == "traffic light"


def test_numbers_are_no_names(tmp_path: Path) -> None:
    assert checked(tmp_path, "{0: 'class0', 1: 'class1'}") == ()


def test_another_order_is_refused_with_the_map(tmp_path: Path) -> None:
    names = str(own_names(tmp_path / "val")[::-1])
    with pytest.raises(InputError, match=r"in another order\. .*classes = \[2, 1\]"):
        checked(tmp_path, names)
    assert checked(tmp_path, names, (2, 1)) == ()


def test_other_names_are_said(tmp_path: Path) -> None:
    first, _ = own_names(tmp_path / "val")
    (note,) = checked(tmp_path, str([first, "submarine"]))
    assert "1 of 2 classes have another name" in note and "'submarine' is" in note


def test_init_matches_by_names(tmp_path: Path) -> None:
    """Two data sets of two classes: the one that comes first has another's."""
    annotations = toys.make_dataset(tmp_path / "a_val")
    content = json.loads(annotations.read_text())
    for category, name in zip(content["categories"], ("cup", "bowl"), strict=True):
        category["name"] = name
    annotations.write_text(json.dumps(content))
    mine = toys.make_dataset(tmp_path / "b_val")
    toys.make_calibration(tmp_path / "other")
    named(tmp_path / "toy.onnx", str(own_names(tmp_path / "b_val")))
    made = proposal.propose(tmp_path, silent)
    proposal.write(made)
    assert declare.load(tmp_path).detectors["toy"].dataset == mine
    assert any("a_val" in line and "other names" in line for line in made.left_out), made.left_out
