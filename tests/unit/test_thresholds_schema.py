"""The schema by which editors complete and check a thresholds file says what lowbit.gate says."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from lowbit.cli import main
from lowbit.errors import InputError
from lowbit.gate import limits
from lowbit_pytest.options import HERE

DOCS = Path(__file__).parents[2] / "docs"


def complaints(text: str) -> list[str]:
    """What an editor's plug-in that reads the schema says of a file."""
    checker = jsonschema.Draft7Validator(limits.schema())
    return [error.message for error in checker.iter_errors(tomllib.loads(text))]


def test_the_schema_is_one_and_is_committed(capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema.Draft7Validator.check_schema(limits.schema())
    assert main(["schema", "thresholds.toml"]) == 0
    remedy = "write it again: lowbit schema thresholds.toml > docs/thresholds.schema.json"
    assert capsys.readouterr().out == (DOCS / "thresholds.schema.json").read_text(), remedy


def test_the_schema_describes_every_limit() -> None:
    schema = limits.schema()
    found = schema["$defs"]["Limits"]["properties"]
    assert set(found) == set(limits.Limits.model_fields)
    assert [key for key, value in found.items() if not value.get("description")] == []
    assert "null" not in json.dumps(schema), "TOML has no null"


def test_what_ships_and_what_is_documented_is_taken() -> None:
    documented = re.findall(r"```toml\n(# gate\.toml.*?)```", (DOCS / "your-detector.md").read_text(), re.S)
    assert documented
    for text in ((HERE / "thresholds.toml").read_text(), *documented):
        assert complaints(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "[default]\nint8 = 1.5",
        "[default]\nint8 = true",
        "[default]\nint8 = 'mlperf-98'",
        "[default]\nint8 = { recall = 0.1 }",
        "[default]\nint8 = { map = 0.1, speed = 0.1 }",
        "[default]\nint8 = { map = 0.1, max_bytes = 0.5 }",
        "[default]\nint8 = { map = 0.1, min_speedup = 0 }",
        "[default]\nint8 = { map = 0.1, max_load_seconds = -1 }",
        "[default]\nlimits = { int8 = 0.1 }",
        "[mine]\nweights = ['mine.onnx']",
        "int8 = 0.1",
    ],
)
def test_what_is_refused_is_refused_by_both(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"gate\.toml"):
        limits.load_thresholds(path)
    assert complaints(text)
