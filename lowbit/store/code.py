"""Which code shapes what a tool builds: the modules of lowbit and of the tool's own package that it imports, directly or
not, and the packages that these import. Found in the source, so that no version number has to be bumped by hand.

Comments, docstrings, formatting and what only a type checker imports do not count: they change nothing in an artifact.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lowbit import files

# Packages whose versions shape no artifact: they lock, fetch, draw, check what the user wrote, and ask the driver.
BYSTANDERS = frozenset({"filelock", "matplotlib", "pydantic", "pynvml", "requests", "rich"})
# The version number, which says nothing that the digest of the modules does not.
_ROOT = "lowbit"


# Packages that find their modules when they run, where any of them may shape an artifact. (lowbit.runtime finds its own
# too, but a build executes on ONNX Runtime only, which is imported by name.)
DISCOVERING = frozenset({"lowbit.detector.heads"})


@dataclass(frozen=True, slots=True)
class Module:
    """What one module's source says: ``digest`` of what it does, ``imports`` by absolute names, ``exports``: the names
    that a package takes from its modules, with where they come from."""

    digest: str
    imports: tuple[str, ...]
    exports: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Code:
    """``digest``: of all ``modules``; ``packages``: distributions and versions of what they import beside these."""

    digest: str
    modules: tuple[str, ...]
    packages: Mapping[str, str]


def code_of(*names: str) -> Code:
    """The code of modules, given by name, and of what they import. Raises ``ImportError`` for one that is not there.

    Of lowbit's packages, a name that they take from one of their modules leads to this module and not to the others:
    whoever imports ``Detector`` does not depend on the registry of detectors.
    """
    own = {_ROOT, *(name.partition(".")[0] for name in names)}
    found: dict[str, Module] = {}
    outside: set[str] = set()
    followed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        top, package, attribute = name.partition(".")[0], *name.rpartition(".")[::2]
        if top not in own:
            outside.add(top)
            continue
        source = find_source(name)
        if source is None:
            if name in names or not package:
                raise ImportError(f"no module named {name!r}", name=name)
            above = find_source(package)
            waiting.append(_module(package, above).exports.get(attribute, package) if above else package)
            continue
        if name in followed:
            continue
        followed.add(name)
        found[name] = _module(name, source)
        waiting += found[name].imports
        if name in DISCOVERING:
            waiting += [f"{name}.{file.stem}" for file in source.parent.glob("*.py") if file != source]
        for parent in _parents(name):
            if above := find_source(parent):
                found[parent] = _module(parent, above)
                waiting += [parent] * (top != _ROOT)
    found.pop(_ROOT, None)
    modules = tuple(sorted(found))
    digest = files.digest([[name, found[name].digest] for name in modules])
    return Code(digest, modules, _versions(outside - sys.stdlib_module_names - BYSTANDERS))


def find_source(name: str) -> Path | None:
    """The file of a module by its absolute name, nothing imported; None if there is no such module."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest and spec.origin:
        return Path(spec.origin)
    for root in spec.submodule_search_locations or ():
        place = Path(root, *rest)
        stem = [place / "__init__.py", place.with_name(f"{place.name}.py"), *place.parent.glob(f"{place.name}.*.so")]
        if file := next((file for file in stem if file.is_file()), None):
            return file
    return None


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _module(name: str, path: Path) -> Module:
    """Read again only after it changed: a session is asked for a hundred keys."""
    about = path.stat()
    return _read(name, path, about.st_mtime_ns, about.st_size)


@functools.cache
def _read(name: str, path: Path, _changed: int, _size: int) -> Module:
    data = path.read_bytes()
    if path.suffix != ".py":
        return Module(hashlib.sha256(data).hexdigest(), (), {})
    is_package = path.name == "__init__.py"
    package = name if is_package else name.rpartition(".")[0]
    tree = ast.parse(data, str(path))
    exports = {
        alias.asname or alias.name: f"{_origin(node, package)}.{alias.name}"
        for node in tree.body
        if is_package and isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return Module(files.digest(_plain(tree)), tuple(sorted(set(_imports(tree, package)))), exports)


def _plain(node: object) -> object:
    """A syntax tree as JSON, without places, empty fields (their number differs between Python's versions), docstrings
    and what :func:`_runs` leaves out."""
    if isinstance(node, ast.AST):
        fields = ((name, _plain(value)) for name, value in ast.iter_fields(node))
        return [type(node).__name__, {name: value for name, value in fields if value not in (None, [])}]
    if isinstance(node, list):
        return [_plain(item) for item in node if not isinstance(item, ast.AST) or _runs(item)]
    # Of constants: 1, 1.0, True, "1" and b"1" are different things.
    return None if node is None else [type(node).__name__, repr(node)]


def _runs(node: ast.AST) -> bool:
    """False for a string that stands alone, as docstrings do, and for what only a type checker reads."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return not isinstance(node.value.value, str)
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and not node.orelse:
        return node.test.id != "TYPE_CHECKING"
    return True


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    """Absolute names of what is imported, inside functions too; ``from a import b`` gives ``a.b``, module or not."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        source = _origin(node, package)
        yield from (source if alias.name == "*" else f"{source}.{alias.name}" for alias in node.names)
    elif _runs(node):
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, package)


def _origin(node: ast.ImportFrom, package: str) -> str:
    """The absolute name of what a ``from`` imports from."""
    dots = "." * node.level
    return importlib.util.resolve_name(f"{dots}{node.module or ''}", package) if dots else node.module or ""


def _versions(names: set[str]) -> dict[str, str]:
    """Installed distributions that provide these top-level modules, and their versions."""
    provided = _distributions()
    found = {distribution for name in names for distribution in provided.get(name, ())}
    return {distribution: importlib.metadata.version(distribution) for distribution in sorted(found)}


_distributions = functools.cache(importlib.metadata.packages_distributions)
