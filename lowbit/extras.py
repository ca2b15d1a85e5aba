"""What is not installed with lowbit's core, and the command that installs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping


def missing(needs: Mapping[str, str]) -> str | None:
    """Which module is not installed, with the remedy, to follow the name of what needs it; None if all are there.

    ``needs``: top-level modules, each with what to give to pip, such as ``lowbit[torch]``.
    """
    for module, package in needs.items():
        if importlib.util.find_spec(module) is None:
            return f"needs {module}, which is not installed ({command(package)})"
    return None


def command(package: str) -> str:
    """What installs a package or an extra of lowbit's, for a shell."""
    return f"pip install -c constraints.txt {repr(package) if '[' in package else package}"
