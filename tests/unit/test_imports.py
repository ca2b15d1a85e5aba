"""The order of the house: each part of lowbit imports those before it, and none of those behind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lowbit

ROOT = Path(lowbit.__file__).parent
ORDER = (
    *(
        "environment",
        "errors",
        "extras",
        "progress",
        "display",
        "markdown",
        "files",
        "toml",
        "host",
        "plugins",
        "schemes",
        "artifact",
        "source",
        "worker",
    ),
    *("data", "bundled", "runtime", "graph", "detector", "proposal", "old_results", "results"),
    *("measure", "sensitivity", "quantize", "capability", "store", "gate", "evaluate", "entries", "report", "cli"),
)


def imported(node: ast.AST) -> Iterator[str]:
    """Names of what is imported anywhere below a node, but for what only a type checker reads."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "absolute imports only, so that this test can read them"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imported(child)


def part(dotted: str) -> str:
    return dotted.split(".")[1]


@pytest.mark.parametrize("name", ORDER)
def test_imports_go_one_way(name: str) -> None:
    place = ROOT / name
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    allowed = {*ORDER[: ORDER.index(name) + 1], "__version__"}
    wrong = [
        f"{file.relative_to(ROOT)} imports {found}"
        for file in files
        for found in imported(ast.parse(file.read_text(encoding="utf-8")))
        if found.startswith("lowbit.") and part(found) not in allowed
    ]
    assert files and not wrong


def test_every_part_has_its_place() -> None:
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert parts - {"__init__"} == set(ORDER)
