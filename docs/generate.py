"""Writes ``docs/reference/`` from the code that it describes: ``python docs/generate.py``. A test holds the pages to it."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from lowbit import cli, files, markdown, results
from lowbit.environment import VARIABLES
from lowbit_pytest import options

FOLDER = Path(__file__).parent / "reference"
_NOTE = "<!-- Written by docs/generate.py from the code. Do not edit. -->\n"
PYTEST_EXIT_CODES = {
    pytest.ExitCode.OK: "every scheme is within its limits, or is expected to fail",
    pytest.ExitCode.TESTS_FAILED: "a scheme is beyond a limit, could not be built or measured, or was named and skipped",
    pytest.ExitCode.INTERRUPTED: "interrupted by Ctrl-C; what was measured is in `runs/latest`",
    pytest.ExitCode.INTERNAL_ERROR: "an error of pytest or of a plugin",
    pytest.ExitCode.USAGE_ERROR: "bad input: the message names the file, the value and the remedy; nothing was built",
    pytest.ExitCode.NO_TESTS_COLLECTED: "`-k`, `-m` or `--scheme` selected nothing",
    pytest.ExitCode.MAX_WARNINGS_ERROR: "more warnings than `--max-warnings` allows",
}


class _Group:
    """What :func:`lowbit_pytest.options.pytest_addoption` sees of pytest's parser."""

    def __init__(self) -> None:
        self.parser = argparse.ArgumentParser(add_help=False)
        self.addoption = self.parser.add_argument

    def getgroup(self, _name: str, _title: str) -> _Group:
        return self


def pages() -> dict[str, str]:
    """The pages by their file names."""
    return {
        "options.md": _options(),
        "command-line.md": _command_line(),
        "schemes.md": _schemes(),
        "results.md": _results(),
        "environment.md": _environment(),
    }


def _options() -> str:
    group = _Group()
    options.pytest_addoption(group)  # type: ignore[arg-type]
    text = (
        "pytest's own options work too (`-k`, `-m`, `-n`, `-x`, `--lf`, `--junit-xml`), and pytest-benchmark's "
        "(`--benchmark-autosave`, `--benchmark-compare`)."
    )
    return _page("Options of pytest", text, _arguments(group.parser))


def _command_line() -> str:
    parser = cli.parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help for action in commands._choices_actions}
    parts = ["Gating is pytest's work; `lowbit` has the rest."]
    for name, command in commands.choices.items():
        usage = " ".join(command.format_usage().removeprefix("usage: ").split())
        parts += [
            f"## lowbit {name}",
            f"{str(helps[name]).capitalize()}.",
            f"```text\n{usage}\n```",
            _arguments(command),
        ]
    return _page("The command line", *parts)


def _arguments(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        name = ", ".join(action.option_strings) or action.dest
        value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
        shown = f"`{name} {value}`" if action.option_strings and value else f"`{name}`"
        rows.append((shown, (action.help or "").replace("%%", "%")))
    return _table(("argument", "meaning"), rows) if rows else ""


def _schemes() -> str:
    text = (
        "An id is `<precision>-<tool>[-<method>][-<option>]`. The numbers in `mixed-<tool>-d<points>` and "
        "`mixed-brevitas-b<bits>` can be any. [How the schemes work](../schemes.md) says more."
    )
    return _page("The schemes", text, cli.schemes_table())


def _results() -> str:
    parts = [
        f"`results.json` is schema {results.SCHEMA}; `lowbit.results.read` reads it and every older one. What was not "
        "measured is null. Drops and AP are fractions (0.5 points is 0.005), times are seconds, sizes are bytes."
    ]
    for model in _models(results.Results):
        parts += [f"## {model.__name__}", _prose(model)]
        if issubclass(model, BaseModel):
            rows = []
            for name, field in model.model_fields.items():
                default = "" if field.default is PydanticUndefined else f"`{_shown(field.default)}`"
                shown = inspect.formatannotation(field.annotation).replace("lowbit.results.", "")
                rows.append((f"`{field.alias or name}`", f"`{shown}`", default))
            parts.append(_table(("field", "type", "default"), rows))
        else:
            parts.append(", ".join(f"`{member}`" for member in model))
    return _page("results.json", *parts)


def _shown(default: object) -> str:
    return str(default) if isinstance(default, StrEnum) else repr(default)


def _models(first: type[BaseModel]) -> list[type[BaseModel] | type[StrEnum]]:
    """A model and all that its fields name, each once, in the order in which a reader meets them."""
    found: list[type[BaseModel] | type[StrEnum]] = []
    waiting: list[object] = [first]
    while waiting:
        one = waiting.pop(0)
        waiting += getattr(one, "__args__", ())
        if isinstance(one, type) and one not in found and issubclass(one, BaseModel | StrEnum):
            found.append(one)
            if issubclass(one, BaseModel):
                waiting += [field.annotation for field in one.model_fields.values()]
    return found


def _prose(thing: object) -> str:
    """A docstring as Markdown."""
    text = inspect.getdoc(thing) or ""
    return re.sub(r":\w+:`[~!]?([^`]+)`", r"`\1`", text).replace("``", "`")


def _environment() -> str:
    return _page(
        "Environment variables and exit codes",
        _table(("variable", "meaning"), [(f"`{name}`", meaning) for name, meaning in VARIABLES.items()]),
        "## Exit codes of pytest",
        _table(("code", "meaning"), [(str(int(code)), meaning) for code, meaning in PYTEST_EXIT_CODES.items()]),
        "## Exit codes of lowbit",
        _table(("code", "meaning"), [(str(code), meaning) for code, meaning in cli.EXIT_CODES.items()]),
    )


def _table(headings: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    return "\n".join(markdown.table(headings, "l" * len(headings), rows))


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([_NOTE + f"# {title}", *filter(None, parts)]) + "\n"


def main() -> None:
    """Write all pages."""
    for name, text in pages().items():
        files.write_atomic(FOLDER / name, text)


if __name__ == "__main__":
    main()
