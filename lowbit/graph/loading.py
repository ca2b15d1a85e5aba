"""The door for ONNX files: read, checked, weights in one file, one image of a fixed size as input."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lowbit.errors import InputError
from lowbit.graph.external import external_files
from lowbit.graph.nodes import inputs, shape_of
from lowbit.runtime import plain_session

if TYPE_CHECKING:
    import onnx


def load(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file. Raises :class:`InputError` if it is missing, not ONNX or not valid."""
    import onnx

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such ONNX file.") from error
    except Exception as error:  # protobuf, the checker and external data each raise types of their own
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: is no valid ONNX model ({said}). Export it again.") from error
    for tensor in model.graph.initializer:
        _check_tensor(path, tensor)
    return model


def _check_tensor(path: Path, tensor: onnx.TensorProto) -> None:
    """Refuse a tensor whose shape promises more than its data hold, and NaN or infinity among weights."""
    from onnx import numpy_helper

    shape = tuple(tensor.dims)
    try:
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


def fixed(path: Path, model: onnx.ModelProto, sides: tuple[int, int] | None = None) -> onnx.ModelProto:
    """A detector's graph with one image of a fixed size as its input: itself if it is so already.

    A dynamic batch becomes 1. Dynamic sides become ``sides``, height and width in pixels, or what Ultralytics' metadata
    say (``imgsz``). What follows from them is folded (onnxslim).

    Raises :class:`InputError` for sides that are dynamic and not given, or fixed at others than asked for.
    """
    given = inputs(model)
    shape = shape_of(given[0]) if len(given) == 1 else ()
    if len(shape) != 4:
        return model  # the recognition of its head says what is wrong with it
    if sides and any(own not in (0, asked) for own, asked in zip(shape[2:], sides, strict=True)):
        raise InputError(
            f"{path}: its input is {shape[2]} x {shape[3]} pixels (height x width), and {sides[0]} x {sides[1]} was asked "
            "for. Say its own."
        )
    if shape[0] == 1 and 0 not in shape[2:]:
        return model
    wanted = sides or _exported_at(path, model)
    if 0 in shape[2:] and wanted is None:
        raise InputError(
            f"{path}: its input has dynamic sides. Say which size is deployed, for example --image-size 640."
        )
    import onnx
    import onnxslim

    height, width = (own or (wanted or (0, 0))[axis] for axis, own in enumerate(shape[2:]))
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    given = inputs(copied)
    for dim, value in zip(given[0].type.tensor_type.shape.dim, (shape[0] or 1, 3, height, width), strict=True):
        dim.Clear()
        dim.dim_value = value
    for output in copied.graph.output:  # names of dimensions that are fixed now
        output.type.tensor_type.ClearField("shape")
    del copied.graph.value_info[:]
    slim = onnxslim.slim(copied)
    _settle_outputs(path, slim)
    return slim


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


def _settle_outputs(path: Path, model: onnx.ModelProto) -> None:
    """Write the outputs' shapes, by running the graph once: shape inference loses them behind TopK and NMS."""
    try:
        session = plain_session(model)
        dims = [dim.dim_value for dim in inputs(model)[0].type.tensor_type.shape.dim]
        found = session.run(None, {session.get_inputs()[0].name: np.zeros(dims, np.float32)})
    except Exception as error:  # ORT's exceptions have no common base of their own
        raise InputError(
            f"{path}: does not run on one image of this size ({str(error)[:200]}). Export it with fixed dimensions."
        ) from error
    for value, array in zip(model.graph.output, found, strict=True):
        del value.type.tensor_type.shape.dim[:]
        for side in array.shape:
            value.type.tensor_type.shape.dim.add().dim_value = side
