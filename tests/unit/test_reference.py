"""docs/reference is what docs/generate.py writes, and leaves nothing out."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from lowbit import cli
from lowbit.environment import VARIABLES
from lowbit.schemes import catalogue

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_those_of_the_code(generate: ModuleType) -> None:
    stored = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md")}
    assert stored == generate.pages(), "write them again: python docs/generate.py"


def test_every_command_scheme_and_exit_code_has_its_line(generate: ModuleType) -> None:
    pages = generate.pages()
    (commands,) = (action.choices for action in cli.parser()._actions if isinstance(action.choices, dict))
    assert re.findall(r"^## lowbit (\S+)$", pages["command-line.md"], re.MULTILINE) == list(commands)
    missing = [scheme for scheme in catalogue() if f"| `{scheme}` | " not in pages["schemes.md"]]
    assert not missing
    assert set(generate.PYTEST_EXIT_CODES) == set(pytest.ExitCode)


def test_every_variable_of_lowbit_is_explained_and_read() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("lowbit", "lowbit_pytest")
        for path in (ROOT / folder).glob("**/*.py")
        if path.name != "environment.py"
    )
    assert set(re.findall(r"\bLOWBIT_[A-Z]+\b", code)) == {name for name in VARIABLES if name.startswith("LOWBIT_")}
    assert all(f'"{name}"' in code for name in VARIABLES)
