"""Modules that are imported when a test first uses them: whoever only lists tests must not wait for torch."""

from __future__ import annotations

import importlib
from typing import Any


class _Later:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith(("_", "pytest")):  # pytest asks everything that a test module holds
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


def lazily(name: str) -> Any:
    """The module ``name``, imported at the first look at one of its attributes."""
    return _Later(name)
