"""The families of detection heads, one module each: every module here with a class ``HEAD`` is one."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit.detector.head import Head, Hints, Interface, metadata
from lowbit.errors import InputError

if TYPE_CHECKING:
    import onnx


def _found() -> dict[str, type[Head]]:
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    return {module.HEAD.kind: module.HEAD for module in modules}


_STAMP = "lowbit.head"
KINDS: Mapping[str, type[Head]] = _found()


def stamp(model: onnx.ModelProto, head: Head) -> None:
    """Write into a graph's metadata which head it has, for :func:`recognise`."""
    kept = [entry for entry in model.metadata_props if entry.key != _STAMP]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=_STAMP, value=json.dumps(head.as_json()))


def _stamped(path: Path, text: str) -> Head:
    try:
        return of_json(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: metadata {_STAMP!r} is not what lowbit writes ({error}). Export it again."
        ) from error


def recognise(path: Path, model: onnx.ModelProto, hints: Hints | None = None) -> Head:
    """The head of a detector, from its outputs' shapes, its metadata and what is declared.

    A head that lowbit itself wrote into the file (:func:`stamp`) is believed, unless something is declared.

    Raises :class:`InputError` where no family fits, or several do: then one must be declared.
    """
    hints = hints or Hints()
    stamped = metadata(model).get(_STAMP)
    if stamped and hints == Hints():
        return _stamped(path, stamped)
    file = Interface.of(path, model, hints)
    named = [family for family in KINDS.values() if file.module in family.modules]
    families = [KINDS[hints.kind]] if hints.kind else named or list(KINDS.values())
    heads = [head for family in families for head in family.recognise(file)]
    fitting = [head for head in heads if file.classes in (None, head.classes)]
    shown = ", ".join(str(shape) for shape in file.outputs.values())
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " or ".join(head.kind for head in fitting)
        raise InputError(f'{path}: output {shown} can be of kind {names}. Declare which: head = "{fitting[0].kind}".')
    if heads:
        counts = " or ".join(str(head.classes) for head in heads)
        raise InputError(
            f"{path}: output {shown} is of {counts} classes, and {file.classes} are named. Declare its head."
        )
    forms = "; ".join(f"{family.form} ({family.kind})" for family in families)
    raise InputError(
        f"{path}: output {shown} is {f'no {hints.kind} head' if hints.kind else 'none'} of {forms}. Export the detector "
        "with one of these heads, or declare its strides."
    )


def try_on(path: Path, head: Head, samples: Sequence[Sequence[NDArray[np.float32]]]) -> None:
    """Read a file's outputs on some images with its head; raises :class:`InputError` where they can't be read so."""
    for outputs in samples:
        try:
            head.decode(outputs)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def of_json(values: Mapping[str, Any]) -> Head:
    """A head from :meth:`Head.as_json`."""
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key != "kind"
    }
    return KINDS[values["kind"]](**fields)


def check(kind: str | None, options: Mapping[str, str]) -> None:
    """Refuse a declared head that is unknown, or options that it does not have. Raises ``ValueError``, for pydantic."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
    known = KINDS[kind].options if kind else {}
    for name, value in options.items():
        if value not in known.get(name, ()):
            offered = ", ".join(f"{key} = {' or '.join(values)}" for key, values in known.items()) or "no options"
            raise ValueError(f"{name} = {value!r}: a head of kind {kind} has {offered}")
