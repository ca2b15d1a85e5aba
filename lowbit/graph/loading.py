"""ONNX files: read and checked, their weights in one file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lowbit.errors import InputError
from lowbit.graph.external import external_files
from lowbit.graph.nodes import replace_nodes

if TYPE_CHECKING:
    import onnx


def load(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file. Raises :class:`InputError` if it is missing, not ONNX or not valid."""
    import onnx

    try:
        model = onnx.load(str(path))
        _in_order(model)
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such ONNX file.") from error
    except Exception as error:  # protobuf, the checker and external data each raise types of their own
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: is no valid ONNX model ({said}). Export it again.") from error
    if not model.graph.output:  # valid to the checker
        raise InputError(f"{path}: its graph has no outputs. Export it again.")
    for tensor in model.graph.initializer:
        _check_tensor(path, tensor)
    return model


def _in_order(model: onnx.ModelProto) -> None:
    """Put nodes behind what they read, as ONNX asks for and some converters to float16 do not; a circle stays one."""
    from graphlib import CycleError, TopologicalSorter

    nodes = model.graph.node
    makers = {output: number for number, node in enumerate(nodes) for output in node.output if output}
    needs = {number: {makers[name] for name in _reads(node) if name in makers} for number, node in enumerate(nodes)}
    if all(max(before, default=-1) < number for number, before in needs.items()):
        return
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError:
        return
    replace_nodes(model, [nodes[number] for number in order])


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that a node needs, those of its branches' and loops' bodies too."""
    yield from node.input
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from _reads(inner)


def _check_tensor(path: Path, tensor: onnx.TensorProto) -> None:
    """Refuse a tensor of an unknown data type, or whose shape promises more than its data hold, and NaN or infinity among
    weights."""
    import onnx.helper
    from onnx import numpy_helper

    shape = tuple(tensor.dims)
    try:
        if tensor.data_type not in onnx.helper.get_all_tensor_dtypes():
            raise ValueError(f"its data type {tensor.data_type} is unknown")
        if math.prod(shape) > 8 * max(tensor.ByteSize(), 1):  # no type has less than one bit an element
            raise ValueError("less data than its shape says")
        values = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: tensor {tensor.name[:80]!r} of shape {shape} is damaged ({error}).") from error
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(
            f"{path}: weight {tensor.name[:80]!r} holds NaN or infinity. Export a checkpoint that trained."
        )


def embed(path: Path) -> None:
    """Put weights that an ONNX file keeps in files beside it into the file, and remove those: what is hashed is then all
    that is run. A file that is no ONNX is left to :func:`load` to refuse."""
    import onnx

    if beside := external_files(path):
        onnx.save(onnx.load(str(path)), str(path))
        for name in beside:
            (path.parent / name).unlink()
