"""Weights that an ONNX file keeps in files beside it, as torch's exporter writes large models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lowbit import files
from lowbit.errors import InputError

if TYPE_CHECKING:
    import onnx


def contents(path: Path) -> dict[str, Any]:
    """What identifies a file by its content: its ``sha256``, and for an ONNX file with weights in others ``external``,
    their SHA-256 by name, relative to the file's folder.

    Raises :class:`InputError` for a file that can't be read.
    """
    try:
        beside = {name: files.sha256(path.parent / name) for name in external_files(path)}
        return {"sha256": files.sha256(path), **({"external": beside} if beside else {})}
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}). {path} needs it.") from error


def external_files(path: Path) -> list[str]:
    """Names of the files that hold tensors of an ONNX file, relative to its folder; none for a file that is no ONNX.

    Raises :class:`InputError` for a name that leads out of the folder.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    if path.suffix != ".onnx":
        return []
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError:
        return []
    inner = (tensor for function in model.functions for tensor in _of_nodes(function.node))
    tensors = (*_of_graph(model.graph), *inner)
    found = {ExternalDataInfo(tensor).location for tensor in tensors if uses_external_data(tensor)}
    for name in found:
        place = PurePosixPath(name)
        if not name or place.is_absolute() or ".." in place.parts:
            raise InputError(f"{path}: keeps weights in {name!r}, outside its folder. Save it in one file.")
    return sorted(found)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """The tensors in nodes, and in the graphs inside them."""
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from _of_graph(graph)
