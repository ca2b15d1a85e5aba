"""ONNX files of any origin in one canonical form. The canonical form is checked to compute the same as the file; a file
that cannot be converted is refused with the remedy, before any work."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lowbit.errors import InputError
from lowbit.graph.equality import prove
from lowbit.graph.loading import load
from lowbit.graph.nodes import inputs, name_nodes, opset, shape_of
from lowbit.graph.shape_inference import blank, noise
from lowbit.runtime import plain_session

if TYPE_CHECKING:
    import onnx

# The default domain's versions that every tool here takes; what older files are converted to.
OPSETS, CONVERTED_TO = range(13, 25), 17
# Pixels. No deployed detector is larger, and a damaged header must not allocate all memory.
MAX_SIDE = 4096
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")


@dataclass(frozen=True, slots=True)
class Canonical:
    """A detector's graph in one form: opset 13 to 24, one float32 input 1 x 3 x height x width, float32 weights inside,
    nodes with unique names, no Constant nodes, no stored values among the inputs, outputs with their measured shapes.

    ``pixels``: whether the graph itself scales pixels of 0 to 255. ``changes``: what was done, for people.
    """

    model: onnx.ModelProto
    pixels: bool
    changes: tuple[str, ...]


def canonical(path: Path, sides: tuple[int, int] | None = None) -> Canonical:
    """Read an ONNX file. ``sides``: height and width in pixels, where the file leaves them open.

    Raises :class:`InputError` for a file that is damaged, quantized already, optimized for one machine, of a data type or
    an opset that can't be converted, that does not run, or whose canonical form computes something else.
    """
    import onnx

    original = load(path)
    _refuse(path, original)
    model = onnx.ModelProto()
    model.CopyFrom(original)
    changes = [
        _at_opset(path, model),
        _inlined(model),
        _constants_stored(model),
        _in_float32(path, model),
        name_nodes(model),
    ]
    pixels, laid_out = _image_input(path, model)
    changes += [laid_out]
    given = inputs(model)
    batch = shape_of(given[0])[0] if len(given) == 1 and shape_of(given[0]) else 1
    if batch < 2:
        return _fitted(path, original, model, sides, pixels, changes)
    _deployed_sides(path, model, sides)
    changes += [f"its batch of {batch} made one image"]
    for form in _for_one_image(model, batch):
        try:
            return _fitted(path, original, form, sides, pixels, changes)
        except InputError:  # what can't be proved is not applied
            continue
    raise InputError(
        f"{path}: was exported for a batch of {batch} and does not compute one image alone. Export it with a batch of 1, "
        "or a dynamic one."
    )


def _fitted(
    path: Path,
    original: onnx.ModelProto,
    model: onnx.ModelProto,
    sides: tuple[int, int] | None,
    pixels: bool,
    changes: Sequence[str],
) -> Canonical:
    """The rest of :func:`canonical`: from open dimensions on, to the proof."""
    import onnx

    fitted = fixed(path, model, sides)
    _settle_outputs(path, fitted)
    done = tuple(change for change in (*changes, "its open dimensions fixed" if fitted is not model else "") if change)
    if not _runs(fitted):
        return Canonical(fitted, pixels, done)
    folded = onnx.ModelProto()
    folded.CopyFrom(fitted)
    if said := _folded(folded):
        try:
            prove(path, original, folded)
            return Canonical(folded, pixels, (*done, said))
        except InputError:  # what can't be proved is not applied
            pass
    if done:
        prove(path, original, fitted)
    return Canonical(fitted, pixels, done)


def _refuse(path: Path, model: onnx.ModelProto) -> None:
    """Files that are no float reference, or of one machine only."""
    quantized = next((n for n in model.graph.node if n.op_type in _QUANTIZED or n.op_type.startswith("QLinear")), None)
    if quantized is not None:
        raise InputError(
            f"{path}: is quantized already ({quantized.op_type} {quantized.name!r}) and can't be the float reference. "
            "Name the float model that it was made from."
        )
    foreign = next((node for node in model.graph.node if node.domain not in ("", "ai.onnx")), None)
    own = {(function.domain, function.name) for function in model.functions}
    if foreign is None or (foreign.domain, foreign.op_type) in own:
        return
    if foreign.domain.startswith("com.microsoft"):
        raise InputError(
            f"{path}: was optimized by ONNX Runtime ({foreign.op_type} of {foreign.domain}), for one processor. Name the "
            "model as it was exported."
        )
    raise InputError(
        f"{path}: operator {foreign.op_type} of {foreign.domain!r} is no standard ONNX. Export without plugins, for "
        "example with standard NonMaxSuppression instead of EfficientNMS_TRT."
    )


def _at_opset(path: Path, model: onnx.ModelProto) -> str:
    import onnx
    from onnx import helper, version_converter

    version = opset(model)
    remedy = f"Export it with opset {CONVERTED_TO}: torch.onnx.export(..., opset_version={CONVERTED_TO})."
    if version > OPSETS[-1]:
        raise InputError(f"{path}: is of opset {version}; {OPSETS[0]} to {OPSETS[-1]} are supported. {remedy}")
    if version in OPSETS:
        # Newer format numbers than the opset needs are refused by older runtimes for nothing.
        model.ir_version = min(model.ir_version, max(8, helper.find_min_ir_version_for(model.opset_import)))
        return ""
    try:
        converted = version_converter.convert_version(model, CONVERTED_TO)
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter raises plain RuntimeErrors
        said = str(error).splitlines()[0][:160]
        raise InputError(f"{path}: is of opset {version}, which can't be converted ({said}). {remedy}") from error
    model.CopyFrom(converted)
    model.ir_version = 8
    return f"converted from opset {version} to {CONVERTED_TO}"


def _inlined(model: onnx.ModelProto) -> str:
    """PyTorch's newer exporter writes functions of its own."""
    from onnx import inliner

    if not model.functions:
        return ""
    model.CopyFrom(inliner.inline_local_functions(model))
    return "its functions inlined"


def _constants_stored(model: onnx.ModelProto) -> str:
    """Constant nodes become initializers, and initializers leave the inputs."""
    import onnx
    from onnx import helper, numpy_helper

    body = model.graph
    kept = []
    for node in body.node:
        value = _constant(node)
        if value is None:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
        else:
            body.initializer.append(numpy_helper.from_array(value, node.output[0]))
    changed = len(kept) < len(body.node)
    del body.node[:]
    body.node.extend(kept)
    # An output must be a node's.
    stored = {tensor.name for tensor in body.initializer}
    for output in body.output:
        if output.name in stored:
            number = next(i for i, tensor in enumerate(body.initializer) if tensor.name == output.name)
            body.initializer[number].name = f"{output.name}/stored"
            body.node.append(helper.make_node("Identity", [f"{output.name}/stored"], [output.name]))
    given = [value for value in body.input if value.name not in stored]
    if len(given) < len(body.input):
        values = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in given]
        del body.input[:]
        body.input.extend(values)
        changed = True
    return "its constants stored as initializers" if changed else ""


def _constant(node: onnx.NodeProto) -> NDArray[np.generic] | None:
    """The value of a Constant node of numbers."""
    from onnx import helper, numpy_helper

    if node.op_type != "Constant" or not node.attribute:
        return None
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return np.asarray(numpy_helper.to_array(value))
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    return np.asarray(value, kinds[attribute.name]) if attribute.name in kinds else None


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies of its branches and loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for body in attribute.graphs:
                yield from _graphs(body)


def _in_float32(path: Path, model: onnx.ModelProto) -> str:
    """Float16 becomes float32, everywhere: the reference of all comparisons is computed in float32."""
    from onnx import TensorProto, numpy_helper

    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    changed = False
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.data_type in (TensorProto.BFLOAT16, TensorProto.DOUBLE) and len(tensor.dims) > 1:
                raise InputError(
                    f"{path}: its weights are {TensorProto.DataType.Name(tensor.data_type).lower()}. Export it in float32."
                )
            if tensor.data_type == half:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
                changed = True
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type == half:
                value.type.tensor_type.elem_type = single
                changed = True
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in ("to", "dtype") and attribute.i == half:
                    attribute.i = single
                    changed = True
                if attribute.HasField("t") and attribute.t.data_type == half:
                    attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
                    changed = True
    return "computed in float32 instead of float16" if changed else ""


def _image_input(path: Path, model: onnx.ModelProto) -> tuple[bool, str]:
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
    _set_shape(value, [_dim(value, axis) for axis in (0, 3, 1, 2)])


def _dim(value: onnx.ValueInfoProto, axis: int) -> int | str:
    dim = value.type.tensor_type.shape.dim[axis]
    return dim.dim_param or dim.dim_value


def _set_shape(value: onnx.ValueInfoProto, shape: Sequence[int | str]) -> None:
    dims = value.type.tensor_type.shape.dim
    del dims[:]
    for side in shape:
        dims.add(**{"dim_param" if isinstance(side, str) else "dim_value": side})


def fixed(path: Path, model: onnx.ModelProto, sides: tuple[int, int] | None = None) -> onnx.ModelProto:
    """A detector's graph with one image of a fixed size as its input: itself if it is so already.

    Another batch becomes 1. Dynamic sides become ``sides``, height and width in pixels, or what Ultralytics' metadata
    say (``imgsz``). What follows from them is folded (onnxslim).

    Raises :class:`InputError` for sides that are dynamic and not given, or fixed at others than asked for.
    """
    given = inputs(model)
    shape = shape_of(given[0]) if len(given) == 1 else ()
    if len(shape) != 4:
        return model  # the recognition of its head says what is wrong with it
    import onnx

    height, width = _deployed_sides(path, model, sides)
    if shape[0] == 1 and 0 not in shape[2:]:
        return model
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    _set_shape(inputs(copied)[0], (1, shape[1], height, width))
    for output in copied.graph.output:  # names of dimensions that are fixed now
        output.type.tensor_type.ClearField("shape")
    del copied.graph.value_info[:]
    return _slimmed(copied)


def _deployed_sides(path: Path, model: onnx.ModelProto, sides: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width: the file's own, or what :func:`fixed` has for open ones, with its errors."""
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


# Whose second input is a shape, or how often to repeat each axis.
_SHAPED = frozenset({"Reshape", "Expand", "Tile"})


def _for_one_image(model: onnx.ModelProto, batch: int) -> Iterator[onnx.ModelProto]:
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


def _slimmed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants and shapes folded, BatchNormalization and biases too (onnxslim)."""
    import onnxslim

    slim: onnx.ModelProto = onnxslim.slim(model)
    _constants_stored(slim)
    name_nodes(slim)
    return slim


def _folded(model: onnx.ModelProto) -> str:
    """Fold BatchNormalization, and biases that an Add holds, into the convolutions before them: quantizers want the
    weight that is deployed."""
    stored = {tensor.name for tensor in model.graph.initializer}
    bare = {node.output[0] for node in model.graph.node if node.op_type == "Conv" and len(node.input) < 3}
    loose = [
        node.op_type
        for node in model.graph.node
        if (node.op_type == "BatchNormalization" and node.input[0] in bare)
        or (node.op_type == "Add" and not bare.isdisjoint(node.input) and not stored.isdisjoint(node.input))
    ]
    if not loose:
        return ""
    model.CopyFrom(_slimmed(model))
    return f"{' and '.join(sorted(set(loose)))} folded into convolutions"


def _runs(model: onnx.ModelProto) -> bool:
    """Whether its input is one image of a sane size."""
    given = inputs(model)
    shape = shape_of(given[0]) if len(given) == 1 else ()
    return len(shape) == 4 and all(0 < side <= MAX_SIDE for side in shape)


def _settle_outputs(path: Path, model: onnx.ModelProto) -> None:
    """Write the outputs' shapes, by running the graph: shape inference loses them behind TopK and NMS. A dimension that the
    image decides stays open."""
    given = inputs(model)
    if not _runs(model):
        return  # the recognition of its head says what is wrong with it
    try:
        session = plain_session(model)
        runs = [session.run(None, {given[0].name: draw(given[0])}) for draw in (blank, noise)]
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise InputError(
            f"{path}: does not run on one image ({str(error).strip()[:200]}). Export it for one image, with fixed dimensions."
        ) from error
    for value, one, two in zip(model.graph.output, *runs, strict=True):
        shapes = zip(np.shape(one), np.shape(two), strict=True)
        _set_shape(value, [a if a == b else f"{value.name}_{axis}" for axis, (a, b) in enumerate(shapes)])
