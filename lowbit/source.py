"""A build reads the bytes that its key was computed from: a copy of the source, made once and checked against its
hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowbit.errors import InputError


def take(source: Path, identity: Mapping[str, Any], folder: Path) -> Path:
    """Copy a source into an empty folder of the build's own; returns the copy, which has the same name.

    ``identity``: ``sha256`` of the file, and ``external``, of the files beside it that hold its weights, by their names;
    a detector with seeded weights has neither, and no file to copy. Every file is read once, and what was hashed is what
    is written. Raises :class:`InputError` for a file that can't be read or is not what it was when the key was made.
    """
    if "sha256" not in identity:
        return source
    for name, expected in {source.name: identity["sha256"], **identity.get("external", {})}.items():
        path, target = source.parent / name, folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
        if hashlib.sha256(data).hexdigest() != expected:
            raise InputError(f"{path}: changed while it was read. Run again once nothing writes to it.")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder / source.name
