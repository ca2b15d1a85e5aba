"""What executes an artifact: a module each, found by itself, and the only package that makes a session.

It knows files and tensors: of data sets, heads and quantizers it knows nothing.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from lowbit.errors import InputError
from lowbit.runtime.base import Form, Kernels, Runtime, Session, Share
from lowbit.runtime.in_memory import kernels_saturate, optimized_graph, plain_session
from lowbit.runtime.options import DEFAULT, SessionOptions, available_cores, on_cores
from lowbit.runtime.ort import PRECISE

__all__ = [
    "DEFAULT",
    "PRECISE",
    "Form",
    "Kernels",
    "Runtime",
    "Session",
    "SessionOptions",
    "Share",
    "available_cores",
    "deployed_options",
    "find_runtime",
    "kernels_saturate",
    "on_cores",
    "open_session",
    "optimized_graph",
    "plain_session",
    "runtimes",
]


@functools.cache
def runtimes() -> Mapping[str, Runtime]:
    """Every runtime by its name, the default first, then those that need no GPU."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found = [runtime for module in modules for runtime in getattr(module, "RUNTIMES", ())]
    found.sort(key=lambda runtime: (runtime.name != DEFAULT, runtime.gpu, runtime.name))
    return MappingProxyType({runtime.name: runtime for runtime in found})


def find_runtime(name: str) -> Runtime:
    """The runtime of a name. Raises :class:`InputError` that lists those that there are."""
    if name not in runtimes():
        raise InputError(f"there is no runtime {name!r}; known: {', '.join(runtimes())}.")
    return runtimes()[name]


def open_session(path: Path, options: SessionOptions) -> Session:
    """Open an ONNX file, for accuracy and for latency alike: the deployed artifact is what is measured.

    Raises :class:`lowbit.errors.UnavailableError` if its runtime can't be used here, :class:`lowbit.errors.LowbitError` if
    it does not take the file.
    """
    return find_runtime(options.runtime).open(path, options)


def deployed_options(
    precision: str, runtime: str = DEFAULT, *, weights_only: bool = False, saturates: bool = False
) -> SessionOptions:
    """The session options with which an artifact of a precision ships; :meth:`Runtime.options` says what they take."""
    return find_runtime(runtime).options(precision, weights_only=weights_only, saturates=saturates)
