"""The image input of an ONNX detector: its data type, layout, size and batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lowbit.errors import InputError
from lowbit.graph.nodes import inputs, shape_of

if TYPE_CHECKING:
    import onnx


# Second inputs of DETR's family with its postprocessing in the graph: width and height that boxes are scaled to.
SIZE_INPUTS = ("orig_target_sizes", "orig_target_size", "target_sizes")


def size_stored(path: Path, model: onnx.ModelProto, sides: tuple[int, int] | None) -> str:
    """A second input that asks for the size to which boxes are scaled becomes a stored value: the input's own width and
    height, so that boxes are in the input's pixels. What was done, for people.

    Raises :class:`InputError` for one that is not a width and a height an image.
    """
    from onnx import helper, numpy_helper

    given = inputs(model)
    asking = next((value for value in given if value.name in SIZE_INPUTS), None)
    if len(given) != 2 or asking is None:
        return ""
    shape = shape_of(asking)
    if len(shape) != 2 or shape[1] not in (0, 2):
        raise InputError(f"{path}: its input {asking.name} is of shape {shape}, not width and height an image.")
    kept = [value for value in model.graph.input if value.name != asking.name]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    height, width = deployed_sides(path, model, sides)
    kind = helper.tensor_dtype_to_np_dtype(asking.type.tensor_type.elem_type)
    size = np.array([[width, height]] * max(1, shape[0]), kind)
    model.graph.initializer.append(numpy_helper.from_array(size, asking.name))
    return f"its {asking.name} stored as {width} x {height}, so that boxes are in its input's pixels"


def as_float32_image(path: Path, model: onnx.ModelProto) -> tuple[bool, str]:
    """The image becomes float32, channels first. Whether the graph itself scales pixels, and what was done."""
    from onnx import TensorProto, helper

    given = inputs(model)
    if len(given) != 1:
        return False, ""  # the recognition of its head says what is wrong with it
    value, said, pixels = given[0], [], False
    kind = value.type.tensor_type.elem_type
    if kind == TensorProto.UINT8:
        pixels = True
        number = next((i for i, node in enumerate(model.graph.node) if value.name in node.input), 0)
        name = f"{value.name}/pixels"
        for node in model.graph.node:
            for place, read in enumerate(node.input):
                if read == value.name:
                    node.input[place] = name
        model.graph.node.insert(number, helper.make_node("Cast", [value.name], [name], f"{value.name}/Cast", to=kind))
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        said.append("takes its pixels as float32")
    elif kind != TensorProto.FLOAT:
        raise InputError(
            f"{path}: its input is {TensorProto.DataType.Name(kind).lower()}; float32, float16 and uint8 are supported."
        )
    shape = shape_of(value)
    if len(shape) == 4 and shape[3] == 3 and shape[1] != 3:
        _channels_first(model, value)
        said.append("takes channels first")
    return pixels, " and ".join(said)


def _channels_first(model: onnx.ModelProto, value: onnx.ValueInfoProto) -> None:
    from onnx import helper

    name = f"{value.name}/channels_last"
    for node in model.graph.node:
        for place, read in enumerate(node.input):
            if read == value.name:
                node.input[place] = name
    turn = helper.make_node("Transpose", [value.name], [name], f"{value.name}/Transpose", perm=[0, 2, 3, 1])
    model.graph.node.insert(0, turn)
    set_shape(value, [_dim(value, axis) for axis in (0, 3, 1, 2)])


def _dim(value: onnx.ValueInfoProto, axis: int) -> int | str:
    dim = value.type.tensor_type.shape.dim[axis]
    return dim.dim_param or dim.dim_value


def set_shape(value: onnx.ValueInfoProto, shape: Sequence[int | str]) -> None:
    """Write a tensor's shape; a word is the name of an open dimension."""
    dims = value.type.tensor_type.shape.dim
    del dims[:]
    for side in shape:
        dims.add(**{"dim_param" if isinstance(side, str) else "dim_value": side})


def deployed_sides(path: Path, model: onnx.ModelProto, sides: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width in pixels: the file's own, and ``sides`` or what Ultralytics' metadata say for open ones.

    Raises :class:`InputError` for sides that are open and not given, or fixed at others than asked for.
    """
    own = shape_of(inputs(model)[0])[2:]
    if sides and any(side not in (0, asked) for side, asked in zip(own, sides, strict=True)):
        raise InputError(
            f"{path}: its input is {own[0]} x {own[1]} pixels (height x width), and {sides[0]} x {sides[1]} was asked "
            "for. Use its own size."
        )
    wanted = own if 0 not in own else sides or _exported_at(path, model)
    if wanted is None:
        raise InputError(
            f"{path}: its input has dynamic sides. Say which size is deployed, for example --image-size 640."
        )
    return own[0] or wanted[0], own[1] or wanted[1]


def _exported_at(path: Path, model: onnx.ModelProto) -> tuple[int, int] | None:
    """Height and width that Ultralytics' metadata say it was exported at; None where they say nothing."""
    text = next((entry.value for entry in model.metadata_props if entry.key == "imgsz"), None)
    if text is None:
        return None
    try:
        height, width = json.loads(text)
        return int(height), int(width)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: metadata 'imgsz' is {text[:80]!r}, not [height, width]. Export it again.") from error


# Whose second input is a shape, or how often to repeat each axis.
_SHAPED = frozenset({"Reshape", "Expand", "Tile"})


def for_one_image(model: onnx.ModelProto, batch: int) -> Iterator[onnx.ModelProto]:
    """Forms of a graph that was exported for ``batch`` images, of which one may compute one image alone: with the batch taken
    out of stored shapes that begin with it or with a multiple, and out of stored indices; at last as it is."""
    import onnx
    from onnx import numpy_helper

    shapes = {node.input[1] for node in model.graph.node if node.op_type in _SHAPED and len(node.input) > 1}
    for multiples, indices in ((True, True), (True, False), (False, True), (False, False)):
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        changed = False
        for tensor in copied.graph.initializer:
            if tensor.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32) or not tensor.dims:
                continue
            values = numpy_helper.to_array(tensor)
            if tensor.name in shapes:
                first = int(values[0])
                if first != batch and not (multiples and first > 0 and first % batch == 0):
                    continue
                one = np.array([first // batch, *values[1:]], values.dtype)
            elif indices and values.ndim > 1 and len(values) == batch:
                one = np.ascontiguousarray(values[:1])
            else:
                continue
            tensor.CopyFrom(numpy_helper.from_array(one, tensor.name))
            changed = True
        if changed:
            yield copied
    yield model
