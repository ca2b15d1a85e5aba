"""TOML files: one way to read them into pydantic models, to refuse them, and to tell editors what they may hold."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from lowbit.errors import InputError

T = TypeVar("T")


class Table(BaseModel):
    """A table of a TOML file; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read(path: Path, kind: type[T], remedy: str, context: dict[str, Any] | None = None) -> T:
    """The content of ``path`` as ``kind``, a model or any type that pydantic validates.

    ``remedy``: a sentence that says how to fix a value; ``context``: what validators are given. Raises
    :class:`InputError` that names the file, the key, the value and the remedy, for a missing file too.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as text ({error}). Save it as UTF-8.") from error
    return parse(path, text, kind, remedy, context)


def parse(path: Path, text: str, kind: type[T], remedy: str, context: dict[str, Any] | None = None) -> T:
    """:func:`read` for the text of a file, be it written already or not."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: is not TOML ({error}).") from error
    try:
        return TypeAdapter(kind).validate_python(found, context=context)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: {where}: {said} (given: {str(first['input'])[:80]}). {remedy}") from error


class _OfToml(GenerateJsonSchema):
    """JSON Schema draft 7, which editors' TOML plug-ins read (Taplo's), and without null, which TOML does not have."""

    schema_dialect = "http://json-schema.org/draft-07/schema#"

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # a key's name in capitals says nothing

    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        none = "default" in schema and schema["default"] is None
        return self.generate_inner(schema["schema"]) if none else super().default_schema(schema)

    def tuple_schema(self, schema: Any) -> JsonSchemaValue:
        """Draft 7 has no ``prefixItems``; the tuples here are of one type."""
        found = super().tuple_schema(schema)
        if "prefixItems" in found:
            found["items"] = found.pop("prefixItems")[0]
        return found


def schema(kind: Any, title: str) -> dict[str, Any]:
    """The JSON Schema, draft 7, of TOML files that :func:`read` takes as ``kind``. ``title``: the file's name."""
    made = TypeAdapter(kind).json_schema(schema_generator=_OfToml)
    return {"$schema": _OfToml.schema_dialect, **made, "title": title}
