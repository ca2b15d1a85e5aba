"""What variants of ONNX files are made with, and where they are listed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Variant = Callable[[onnx.ModelProto, Path], None]
# Those that must give what their base gives, and those that must be refused, with the message.
RIGHT: dict[str, Variant] = {}
REFUSED: dict[str, tuple[Variant, str]] = {}


def right(make: Variant) -> Variant:
    RIGHT[make.__name__] = make
    return make


def refused(said: str) -> Callable[[Variant], Variant]:
    def register(make: Variant) -> Variant:
        REFUSED[make.__name__] = (make, said)
        return make

    return register


def stored(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every stored tensor by the name under which nodes read it, be it an initializer or a Constant node's."""
    yield from ((tensor.name, tensor) for tensor in model.graph.initializer)
    yield from ((node.output[0], node.attribute[0].t) for node in model.graph.node if node.op_type == "Constant")


def change(model: onnx.ModelProto, name: str, values: NDArray[np.generic]) -> None:
    """Give a stored tensor other values."""
    tensor = dict(stored(model))[name]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    for value in model.graph.input:
        if value.name == name:
            value.CopyFrom(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))


def save(model: onnx.ModelProto, path: Path) -> None:
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def after_output(model: onnx.ModelProto, op: str, *more: onnx.TensorProto) -> None:
    """A node between the output, which keeps its name, and what gave it."""
    output = model.graph.output[0].name
    before = f"{output}/before/{len(model.graph.node)}"
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == output:
                node.output[place] = before
    model.graph.initializer.extend(more)
    node = helper.make_node(op, [before, *(tensor.name for tensor in more)], [output], f"last/{len(model.graph.node)}")
    model.graph.node.append(node)
