"""What was measured before, kept in the store under a digest of all that it depends on, so that nothing is measured twice.

Layout: ``<root>/measured/<digest>.json`` says what a measurement depends on, when it was made (UTC) and what it gave;
detections, which are many, lie beside it as ``<digest>.npz``. Both are written atomically, and a file that cannot be read is
a measurement that was not made.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from lowbit import files
from lowbit.data.detections import Detections, from_npz, to_npz

_Value = TypeVar("_Value")
Depends = Mapping[str, Any]
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True)
class Measurement(Generic[_Value]):
    """``value``, ``when`` it was measured (UTC, ISO 8601), and whether an earlier run did (``reused``)."""

    value: _Value
    when: str
    reused: bool


class Measured:
    """The measurements in a folder. ``again``: measure everything anew, and keep that instead. ``reused``: how many
    measurements of each kind were found."""

    def __init__(self, folder: Path, *, again: bool = False) -> None:
        self._folder, self._again = folder, again
        self.reused: Counter[str] = Counter()

    def value(
        self, what: str, depends: Depends, kind: type[_Value], measure: Callable[[], _Value], *, again: bool = False
    ) -> Measurement[_Value]:
        """A measurement of a ``kind`` that pydantic can write as JSON: the one that was kept, or a new one.

        ``what``: its kind in words. ``depends``: all that it depends on, JSON-able. ``again``: measure this one anew. What
        ``measure`` raises is not kept.
        """
        adapter = TypeAdapter(kind)
        path = self._path(what, depends)
        with suppress(*_UNREADABLE):
            kept = self._kept(path, again=again)
            return self._found(what, adapter.validate_json(json.dumps(kept["value"])), kept)
        value = measure()
        return Measurement(
            value, self._keep(path, what, depends, adapter.dump_python(value, mode="json")), reused=False
        )

    def detections(
        self, depends: Depends, measure: Callable[[], dict[int, Detections]]
    ) -> Measurement[dict[int, Detections]]:
        """Detections by image id, likewise."""
        path = self._path("detections", depends)
        with suppress(*_UNREADABLE):
            return self._found("detections", from_npz(path.with_suffix(".npz").read_bytes()), self._kept(path))
        found = measure()
        files.write_atomic(path.with_suffix(".npz"), to_npz(found))
        return Measurement(found, self._keep(path, "detections", depends, None), reused=False)

    def _path(self, what: str, depends: Depends) -> Path:
        return self._folder / f"{files.digest([what, depends])[:40]}.json"

    def _kept(self, path: Path, *, again: bool = False) -> dict[str, Any]:
        if again or self._again:
            raise FileNotFoundError(path)
        kept: dict[str, Any] = json.loads(path.read_bytes())
        return kept

    def _found(self, what: str, value: _Value, kept: Mapping[str, Any]) -> Measurement[_Value]:
        when = str(kept["when"])
        self.reused[what] += 1
        return Measurement(value, when, reused=True)

    def _keep(self, path: Path, what: str, depends: Depends, value: Any) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        files.write_json(path, {"what": what, "when": when, "depends": dict(depends), "value": value})
        return when
