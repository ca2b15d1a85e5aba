"""``lowbit.toml``: what is declared is what is used, and what makes no sense is refused with the file and the key."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from lowbit.cli import main
from lowbit.detector import declare, find_detector, heads
from lowbit.errors import InputError
from tests.unit import toys

GOOD = """
[detectors.mine]
model = "toy.onnx"
dataset = "val/instances_toy.json"
calibration = "calibration/calibration.txt"
colors = "bgr"
mean = [1, 2, 3]
std = [4, 5, 6]

[gate]
schemes = ["int8-ort-minmax"]
inconclusive = "fail"
"""


def write(folder: Path, text: str) -> Path:
    (folder / declare.NAME).write_text(text)
    return folder


def test_no_file_declares_nothing(tmp_path: Path) -> None:
    assert declare.load(tmp_path) == declare.Project()


def test_a_declared_detector_has_its_own_data_and_input(tmp_path: Path) -> None:
    toys.make_detector(tmp_path / "toy.onnx")
    toys.make_dataset(tmp_path / "val")
    toys.make_calibration(tmp_path / "calibration")
    project = declare.load(write(tmp_path, GOOD))
    assert (project.gate.schemes, project.gate.inconclusive) == (("int8-ort-minmax",), "fail")
    detector = find_detector("mine", declared=project.detectors)
    assert (detector.name, detector.source) == ("mine", tmp_path / "toy.onnx")
    assert (detector.input.colors, detector.input.mean, detector.input.std) == ("bgr", (1, 2, 3), (4, 5, 6))
    assert len(detector.load_data(tmp_path).images) == 6
    assert len(detector.load_calibration(tmp_path).paths) == 4
    with pytest.raises(InputError, match="--training"):
        detector.load_training(tmp_path)


def test_a_declared_name_goes_before_a_registered_one(tmp_path: Path) -> None:
    toys.make_detector(tmp_path / "toy.onnx")
    project = declare.load(write(tmp_path, '[detectors.yolov10n]\nmodel = "toy.onnx"\n'))
    assert find_detector("yolov10n", declared=project.detectors).head.kind == "raw"


def test_unknown_names_list_the_declared_ones(tmp_path: Path) -> None:
    project = declare.load(write(tmp_path, '[detectors.mine]\nmodel = "toy.onnx"\n'))
    with pytest.raises(InputError, match=r"shapes10n.*mine"):
        find_detector("yours", declared=project.detectors)


WRONG = [
    ("[detectors.mine]\ncolors = 'bgr'", r"detectors\.mine\.model: Field required"),
    ("[detectors.mine]\nmodel = 'a.onnx'\ncolour = 'bgr'", r"detectors\.mine\.colour: Extra inputs"),
    ("[detectors.mine]\nmodel = 'a.onnx'\ncolors = 'grb'", r"detectors\.mine\.colors: .*'rgb' or 'bgr'.*grb"),
    ("[detectors.mine]\nmodel = 'a.onnx'\nsize = 8", r"detectors\.mine\.size: .*32.*given: 8"),
    ("[detectors.mine]\nmodel = 'a.onnx'\nhead = 'yolo'", r"detectors\.mine\.head: .*decoded"),
    ("[detectors.mine]\nmodel = 'a.onnx'\nconfidence = 25", r"detectors\.mine\.confidence: .*1.*given: 25"),
    ("[gate]\nlabels = 'none'", r"gate\.labels: Extra inputs"),
    ("[detectors.mine]\nmodel = 'a.onnx'\nmean = [1, 2]", r"detectors\.mine\.mean"),
    ("[detectors.mine]\nmodel = 'a.onnx'\nhead = { kind = 'raw', scores = 'sigmoid' }", r"detectors\.mine\.head"),
    ("[detectors.mine]\nmodel = 'a.onnx'\nhead = { kind = 'detr', scores = 'tanh' }", r"detectors\.mine\.head"),
]


@pytest.mark.parametrize(("text", "said"), [("[detectors.mine", "is not TOML"), *WRONG])
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"lowbit\.toml: {said}|lowbit\.toml: .*{said}"):
        declare.load(write(tmp_path, text))


def test_checkpoints_have_ultralytics_input(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").touch()
    project = declare.load(write(tmp_path, '[detectors.mine]\nmodel = "mine.pt"\ncolors = "bgr"\n'))
    with pytest.raises(InputError, match=r"mine\.pt: .*RGB in \[0, 1\]"):
        find_detector("mine", declared=project.detectors)


ROOT = Path(__file__).parents[2]


def complaints(text: str) -> list[str]:
    """What an editor's plug-in that reads the schema says of a file."""
    checker = jsonschema.Draft7Validator(declare.schema())
    return [error.message for error in checker.iter_errors(tomllib.loads(text))]


def test_the_schema_is_one_and_is_committed(capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema.Draft7Validator.check_schema(declare.schema())
    assert main(["schema"]) == 0
    remedy = "write it again: lowbit schema > docs/lowbit.schema.json"
    assert capsys.readouterr().out == (ROOT / "docs" / "lowbit.schema.json").read_text(), remedy


def test_the_schema_describes_every_key() -> None:
    schema = declare.schema()
    models = {"Project": schema, **schema["$defs"]}
    for model in (declare.Project, declare.Declared, declare.Gate):
        found = models[model.__name__]["properties"]
        assert set(found) == set(model.model_fields)
        assert [key for key, value in found.items() if not value.get("description")] == []
    assert "null" not in json.dumps(schema), "TOML has no null"


def test_the_schema_takes_what_is_documented() -> None:
    (documented,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.S)
    for example in (GOOD, documented):
        assert complaints(example) == []


@pytest.mark.parametrize(
    "head",
    [
        *(f"'{kind}'" for kind in heads.KINDS),
        *(f"{{ kind = '{kind}' }}" for kind in heads.KINDS),
        *(
            f"{{ kind = '{kind}', {option} = '{value}' }}"
            for kind, head in heads.KINDS.items()
            for option, values in head.options.items()
            for value in values
        ),
    ],
)
def test_the_schema_takes_every_head(tmp_path: Path, head: str) -> None:
    text = f"[detectors.mine]\nmodel = 'a.onnx'\nhead = {head}\n"
    declare.load(write(tmp_path, text))
    assert complaints(text) == []


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_the_schema_refuses_what_is_refused(text: str, said: str) -> None:
    assert complaints(text)
