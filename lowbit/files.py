"""Files: hashes and atomic writes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from lowbit.errors import StoreError


def sha256(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits. Raises ``OSError``."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content``, whole or not at all; what was there survives any failure.

    Raises :class:`StoreError` that names the folder when it is read-only or its disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(partial, 0o644)
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or error}). Free some space or make {path.parent} writable."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON-able value atomically, keys in their order, two spaces deep."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def check_writable(folder: Path, option: str) -> None:
    """Raise :class:`StoreError` unless files can be made in ``folder``; ``option`` is how the user names another."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        write_atomic(probe, b"lowbit")
    except StoreError as error:
        raise StoreError(f"{error} Or name another folder with {option}.") from error
    probe.unlink(missing_ok=True)
