"""Tools that other packages bring: the entry points of the group ``lowbit.tools``, read once a process."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping
from importlib import metadata
from types import MappingProxyType, ModuleType

from lowbit.errors import InputError

GROUP = "lowbit.tools"
_NAME = re.compile(r"[a-z][a-z0-9]*", re.ASCII)


@functools.cache
def modules() -> Mapping[str, str]:
    """The module of every such tool, by the tool's name.

    Raises :class:`InputError` for a name that no scheme id can hold, and for one that two packages bring.
    """
    found: dict[str, metadata.EntryPoint] = {}
    for point in metadata.entry_points(group=GROUP):
        said = f"{_package(point)}: its entry point {point.name!r} of {GROUP}"
        if not _NAME.fullmatch(point.name):
            raise InputError(f"{said} is no name of a tool: lower-case letters and digits, a letter first.")
        if point.attr:
            raise InputError(f"{said} is {point.value!r}, and has to name a module: {point.module!r}.")
        # One package can be found twice, installed and as a checkout.
        if point.name in found and found[point.name].value != point.value:
            raise InputError(f"{said} is brought by {_package(found[point.name])} too. Uninstall one of them.")
        found[point.name] = point
    return MappingProxyType({name: point.module for name, point in found.items()})


def load(name: str) -> ModuleType:
    """The module of such a tool. Raises :class:`InputError` for one that can't be imported, with what it said."""
    module = modules()[name]
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the package's own code raises
        raise InputError(
            f"the tool {name!r} of another package can't be imported from {module} "
            f"({type(error).__name__}: {error}). Mend or uninstall that package."
        ) from error


def _package(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else "a package"
