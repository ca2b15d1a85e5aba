"""``lowbit init``: what it writes is what was found, fits together and is read at once; nothing is guessed or overwritten."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import onnx
import pytest

from lowbit import proposal
from lowbit.cli import main
from lowbit.data.leak import check_leak
from lowbit.detector import declare, find_detector
from lowbit.errors import InputError
from lowbit.progress import silent
from tests.unit import toys
from tests.unit.data_files import write_yolo
from tests.unit.graphs import array, make_model, node
from tests.unit.test_head_detr import make_detr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A detector, labelled images and a list of others."""
    toys.make_detector(tmp_path / "toy.onnx")
    toys.make_dataset(tmp_path / "val")
    toys.make_calibration(tmp_path / "other")
    return tmp_path


def begin(folder: Path) -> proposal.Proposal:
    """Propose, write, and read what was written as the suite would."""
    made = proposal.propose(folder, silent)
    proposal.write(made)
    text = (folder / declare.NAME).read_text()
    assert jsonschema.Draft7Validator(declare.schema()).is_valid(tomllib.loads(text))
    return made


def gated(folder: Path, name: str = "toy") -> tuple[Any, Any]:
    """A declared detector's data set and calibration images, checked as before a gate."""
    detector = find_detector(name, declared=declare.load(folder).detectors)
    dataset = detector.load_data(folder).fitted(detector.head.classes, name)
    calibration = detector.load_calibration(folder)
    check_leak(dataset, calibration)
    return dataset, calibration


def ambiguous(path: Path) -> Path:
    """A detector of 300 rows of six columns, which two heads have."""
    nodes = [
        node("ReduceMean", ["images"], "mean", "m", keepdims=1),
        node("Reshape", ["mean", "one"], "flat", "r"),
        node("Add", ["flat", "rows"], "output0", "a"),
    ]
    # In [0, 1] with the image's mean, as scores are.
    rows = np.random.default_rng(0).uniform(0, 0.5, (1, 300, 6)).astype(np.float32)
    weights = [array(np.array([1, 1, 1]), "one"), array(rows, "rows")]
    onnx.save(make_model(nodes, weights, shape_out=(1, 300, 6)), str(path))
    return path


def test_what_is_found_is_declared_and_read(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(project)]) == 0
    shown = capsys.readouterr().out
    assert "head raw, 2 classes, input 64 x 64" in shown and "pytest --pyargs" in shown and f"cd {project}" in shown
    mine = declare.load(project).detectors["toy"]
    assert mine.model == project / "toy.onnx"
    assert mine.dataset == project / "val" / "instances_toy.json"
    assert mine.calibration == project / "other" / "calibration.txt"
    dataset, calibration = gated(project)
    assert (len(dataset.images), len(calibration.paths)) == (6, 4)
    head, *rest = (project / declare.NAME).read_text().splitlines()
    assert head == "#:schema ./lowbit.schema.json"
    assert json.loads((project / "lowbit.schema.json").read_text()) == declare.schema()
    assert str(project) not in "\n".join(rest)
    assert not list(project.glob("*.txt"))


def test_a_folder_without_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path)]) == 2
    assert "no .onnx file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / "best.pt").touch()
    with pytest.raises(InputError, match=r"checkpoint best\.pt\. Export it.*format=onnx"):
        proposal.propose(tmp_path, silent)
    with pytest.raises(InputError, match="is no folder"):
        proposal.propose(tmp_path / "best.pt", silent)


def test_two_detectors(project: Path) -> None:
    (project / "weights").mkdir()
    toys.make_detector(project / "weights" / "toy.onnx")
    begin(project)
    found = declare.load(project).detectors
    assert {name: one.model for name, one in found.items()} == {
        "toy": project / "toy.onnx",
        "toy-2": project / "weights" / "toy.onnx",
    }
    for name in found:
        gated(project, name)


def test_a_file_that_is_there_is_not_overwritten(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = proposal.propose(project, silent)
    target = project / declare.NAME
    target.write_text("# mine\n")
    assert main(["init", str(project)]) == 2
    said = capsys.readouterr().err
    assert f"{target}: is there already" in said and "move it away" in said
    with pytest.raises(InputError, match="not overwritten"):
        proposal.write(made)
    assert target.read_text() == "# mine\n"
    assert not (project / "lowbit.schema.json").exists()


def test_a_broken_file_beside_a_good_one(project: Path) -> None:
    (project / "broken.onnx").write_bytes(b"no model")
    made = begin(project)
    assert set(declare.load(project).detectors) == {"toy"}
    assert any(line.startswith("broken.onnx: is no valid ONNX model") for line in made.left_out)


def test_broken_files_alone_say_why(project: Path) -> None:
    (project / "toy.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"none of its \.onnx files.*toy\.onnx: is no valid ONNX"):
        proposal.propose(project, silent)


def test_an_unreadable_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, scan = project / "closed", os.scandir
    closed.mkdir()

    def denied(place: Any) -> Any:
        if place == closed:
            raise PermissionError(13, "Permission denied")
        return scan(place)

    # As root nothing is unreadable.
    monkeypatch.setattr(os, "scandir", denied)
    made = begin(project)
    assert "closed: cannot be read (Permission denied)" in made.left_out
    gated(project)
    with pytest.raises(InputError, match="cannot be read"):
        proposal.propose(closed, silent)


def test_a_list_with_evaluation_images_is_left_out(project: Path) -> None:
    shown = sorted((project / "val").glob("*.png"))
    renamed = project / "other" / "renamed.png"
    renamed.write_bytes(shown[0].read_bytes())
    (project / "other" / "calibration.txt").write_text("2-0.png\nrenamed.png\n")
    toys.make_images(project / "train", 4, seed=7)
    (project / "train" / "again.png").write_bytes(shown[1].read_bytes())
    cv2.imwrite(str(project / "train" / "encoded.bmp"), cv2.imread(str(shown[2])))
    (project / "train" / "damaged.png").write_bytes(shown[3].read_bytes()[:60])
    made = begin(project)
    assert any("calibration.txt" in line and "evaluation images" in line for line in made.left_out)
    written = project / "lowbit-calibration.txt"
    assert declare.load(project).detectors["toy"].calibration == written
    assert written.read_text().split() == [f"train/7-{number}.png" for number in range(4)]
    gated(project)


def test_images_beside_evaluated_ones_are_taken_and_lists_kept(project: Path) -> None:
    (project / "other" / "calibration.txt").unlink()
    (project / "val").rename(project / "images")
    toys.make_images(project / "images", 3, seed=9)
    (project / "lowbit-calibration.txt").write_text("images/1-0.png\n")
    begin(project)
    _, calibration = gated(project)
    assert calibration.source == project / "lowbit-calibration-2.txt"
    assert [path.name for path in calibration.paths] == ["9-0.png", "9-1.png", "9-2.png"]
    assert (project / "lowbit-calibration.txt").read_text() == "images/1-0.png\n"


def test_of_a_long_list_some_are_taken(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposal, "MAX_LISTED", 3)
    monkeypatch.setattr(proposal, "LISTED", 2)
    begin(project)
    _, calibration = gated(project)
    assert [path.name for path in calibration.paths] == ["2-0.png", "2-2.png"]


def test_without_other_images_calibration_is_left_to_declare(project: Path) -> None:
    (project / "other" / "calibration.txt").unlink()
    made = begin(project)
    assert declare.load(project).detectors["toy"].calibration is None
    assert '# calibration = "..."' in made.text and any("calibration" in line for line in made.missing)


def test_the_validation_set_of_its_classes_is_taken(project: Path) -> None:
    wrong = json.loads((project / "val" / "instances_toy.json").read_text())
    wrong["categories"] += [{"id": 3, "name": "green"}]
    wrong["annotations"][0]["category_id"] = 3
    toys.make_dataset(project / "a").with_name("instances_val_three.json").write_text(json.dumps(wrong))
    toys.make_dataset(project / "train")
    toys.make_dataset(project / "plain").rename(project / "plain" / "instances.json")
    made = begin(project)
    assert declare.load(project).detectors["toy"].dataset == project / "val" / "instances_toy.json"
    left_out = "\n".join(made.left_out)
    assert "a/instances_val_three.json: a/instances_val_three.json: has 3 categories" in left_out
    assert "train/instances_toy.json: its name says that its images are for train" in left_out
    assert "plain/instances.json: another data set was chosen" in left_out


def test_without_a_data_set_it_is_left_to_declare(project: Path) -> None:
    (project / "val" / "instances_toy.json").unlink()
    made = begin(project)
    mine = declare.load(project).detectors["toy"]
    assert (mine.dataset, mine.calibration) == (None, project / "other" / "calibration.txt")
    assert '# dataset = "..."' in made.text and any("data set" in line for line in made.missing)


def test_ultralytics_data_are_found(project: Path) -> None:
    (project / "val" / "instances_toy.json").unlink()
    path = write_yolo(project / "yolo")
    begin(project)
    assert declare.load(project).detectors["toy"].dataset == path
    assert len(gated(project)[0].images) == 3


def test_a_head_that_is_open_is_not_guessed(project: Path) -> None:
    (project / "toy.onnx").unlink()
    ambiguous(project / "open.onnx")
    made = begin(project)
    assert '# head = "end2end"' in made.text and '# head = { kind = "detr", scores = ' in made.text
    assert any("can be of kind" in line or "Declare" in line for line in made.missing)
    declared = declare.load(project).detectors
    with pytest.raises(InputError, match="Declare"):
        find_detector("open", declared=declared)


def test_a_declared_line_completes_the_file(project: Path) -> None:
    model = onnx.load(str(project / "toy.onnx"))
    for side in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[side].dim_param = "side"
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "anchors"
    onnx.save(model, str(project / "toy.onnx"))
    made = begin(project)
    assert any("dynamic sides" in line for line in made.missing)
    target = project / declare.NAME
    with pytest.raises(InputError, match="dynamic sides"):
        find_detector("toy", declared=declare.load(project).detectors)
    target.write_text(target.read_text().replace("# size = 640", "size = 64"))
    gated(project)


def test_names_of_any_letters(project: Path) -> None:
    (project / "toy.onnx").rename(project / 'größe "x" v1.2.onnx')
    toys.make_detector(project / "a\nb.onnx")
    made = begin(project)
    ((name, mine),) = declare.load(project).detectors.items()
    assert (name, mine.model) == ("gr-e-x-v1-2", project / 'größe "x" v1.2.onnx')
    assert any("can't hold" in line for line in made.left_out)


def test_the_search_is_bounded_and_says_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = project.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    toys.make_detector(deep / "deep.onnx")
    (project / "loop").symlink_to(project)
    (project / ".hidden").mkdir()
    toys.make_detector(project / ".hidden" / "hidden.onnx")
    found = proposal.search(project)
    assert [path.name for path in found.models] == ["toy.onnx"]
    assert found.remarks == ["1 folders more than 6 deep were not looked into."]
    monkeypatch.setattr(proposal, "MAX_NAMES_OF_FOLDER", 2)
    assert any("has more than 2 names" in line for line in proposal.search(project).remarks)
    monkeypatch.setattr(proposal, "MAX_NAMES", 3)
    assert proposal.search(project).names == 3
    monkeypatch.setattr(proposal, "MAX_SECONDS", -1.0)
    assert "seconds" in proposal.search(project).remarks[-1]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("instances_val2017.json", "val"),
        ("valid/_annotations.coco.json", "val"),
        ("train/_annotations.coco.json", "train"),
        ("train/instances_test.json", "test"),
        ("calib100.txt", "calibration"),
        ("my/interval_trained.json", ""),
        ("tests/a.json", ""),
    ],
)
def test_what_a_name_says(tmp_path: Path, name: str, role: str) -> None:
    assert proposal.Found(tmp_path).role(tmp_path / name) == role


def test_a_head_that_the_files_numbers_contradict_is_not_offered(project: Path) -> None:
    """Two columns of logits can't be probabilities: of a DETR's options that one is left out."""
    make_detr(project / "toy.onnx", names=None)
    made = proposal.propose(project, silent)
    assert 'scores = "sigmoid"' in made.text
    assert 'scores = "probability"' not in made.text
