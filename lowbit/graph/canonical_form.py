"""ONNX files of any origin in one canonical form. The canonical form is checked to compute the same as the file; a file
that cannot be converted is refused with the remedy, before any work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit.errors import InputError
from lowbit.graph.equality import prove
from lowbit.graph.image_input import as_float32_image, deployed_sides, for_one_image, set_shape, size_stored
from lowbit.graph.loading import load
from lowbit.graph.nodes import inputs, name_nodes, opset, replace_nodes, shape_of
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

    ``pixels``: whether the graph itself scales pixels of 0 to 255. ``scaled``: whether it scales boxes to a size that was a
    second input. ``changes``: what was done, for people. ``samples``: its outputs on a black image and on noise.
    ``original``: the file as it was read.
    """

    model: onnx.ModelProto
    pixels: bool
    changes: tuple[str, ...]
    scaled: bool = False
    samples: Sequence[Sequence[NDArray[Any]]] = ()
    original: onnx.ModelProto | None = None


def canonical(path: Path, sides: tuple[int, int] | None = None) -> Canonical:
    """Read an ONNX file. ``sides``: height and width in pixels, where the file leaves them open.

    Raises :class:`InputError` for a file that is damaged, quantized already, optimized for one machine, of a data type or
    an opset that can't be converted, that does not run, or whose canonical form computes something else.
    """
    import onnx

    original = load(path)
    _refuse(path, original)
    stored = size_stored(path, original, sides)
    model = onnx.ModelProto()
    model.CopyFrom(original)
    changes = [
        stored,
        _at_opset(path, model),
        _inlined(model),
        _constants_stored(model),
        _in_float32(path, model),
        name_nodes(model),
    ]
    pixels, laid_out = as_float32_image(path, model)
    changes += [laid_out]
    given = inputs(model)
    batch = shape_of(given[0])[0] if len(given) == 1 and shape_of(given[0]) else 1
    if batch < 2:
        return replace(_fitted(path, original, model, sides, pixels, changes), scaled=bool(stored), original=original)
    deployed_sides(path, model, sides)
    changes += [f"its batch of {batch} made one image"]
    for form in for_one_image(model, batch):
        try:
            return replace(
                _fitted(path, original, form, sides, pixels, changes), scaled=bool(stored), original=original
            )
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
    samples = _settle_outputs(path, fitted)
    done = tuple(change for change in (*changes, "its open dimensions fixed" if fitted is not model else "") if change)
    if not _runs(fitted):
        return Canonical(fitted, pixels, done)
    folded = onnx.ModelProto()
    folded.CopyFrom(fitted)
    if said := _folded(folded):
        try:
            prove(path, original, folded)
            return Canonical(folded, pixels, (*done, said), samples=samples)
        except InputError:  # what can't be proved is not applied
            pass
    if done:
        prove(path, original, fitted)
    return Canonical(fitted, pixels, done, samples=samples)


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
    if not changed:
        return ""
    _without_casts(model)
    return "computed in float32 instead of float16"


def _without_casts(model: onnx.ModelProto) -> None:
    """Take out Casts of float32 to float32, as they are left where float16 began and ended: one between the image and the
    first convolution hides from quantizers that it is the first."""
    import onnx
    from onnx import TensorProto, helper

    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    bodies = [body for body in _graphs(model.graph) if body is not model.graph]
    kept = {value.name for value in model.graph.output} | {
        name for body in bodies for n in body.node for name in n.input
    }
    renamed: dict[str, str] = {}
    nodes = []
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
        same = node.op_type == "Cast" and kinds.get(node.input[0]) == TensorProto.FLOAT
        if same and node.output[0] not in kept and helper.get_node_attr_value(node, "to") == TensorProto.FLOAT:
            renamed[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    replace_nodes(model, nodes)


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

    height, width = deployed_sides(path, model, sides)
    if shape[0] == 1 and 0 not in shape[2:]:
        return model
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    set_shape(inputs(copied)[0], (1, shape[1], height, width))
    for output in copied.graph.output:  # names of dimensions that are fixed now
        output.type.tensor_type.ClearField("shape")
    del copied.graph.value_info[:]
    return _slimmed(copied)


def _slimmed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants and shapes folded, BatchNormalization and biases too (onnxslim)."""
    import onnxslim

    slim: onnx.ModelProto = onnxslim.slim(model)
    _constants_stored(slim)
    name_nodes(slim)
    return slim


def _folded(model: onnx.ModelProto) -> str:
    """Fold BatchNormalization, and biases that an Add holds, into the convolutions before them: quantizers want the
    weight that is deployed. And compute what stored values alone decide: quantizers round a constant behind an Unsqueeze,
    such as PyTorch's newer exporter writes of the anchors, as if it were an activation."""
    stored = {tensor.name for tensor in model.graph.initializer}
    bare = {node.output[0] for node in model.graph.node if node.op_type == "Conv" and len(node.input) < 3}
    loose = [
        node.op_type
        for node in model.graph.node
        if (node.op_type == "BatchNormalization" and node.input[0] in bare)
        or (node.op_type == "Add" and not bare.isdisjoint(node.input) and not stored.isdisjoint(node.input))
    ]
    given = {value.name for value in model.graph.output}
    decided = [
        node.op_type
        for node in model.graph.node
        if node.op_type != "Identity" and given.isdisjoint(node.output) and node.input and stored.issuperset(node.input)
    ]
    if not loose and not decided:
        return ""
    model.CopyFrom(_slimmed(model))
    ways = [(loose, "folded into convolutions"), (decided, "of stored values computed")]
    return " and ".join(f"{' and '.join(sorted(set(ops)))} {way}" for ops, way in ways if ops)


def _runs(model: onnx.ModelProto) -> bool:
    """Whether its input is one image of a sane size."""
    given = inputs(model)
    shape = shape_of(given[0]) if len(given) == 1 else ()
    return len(shape) == 4 and all(0 < side <= MAX_SIDE for side in shape)


def _settle_outputs(path: Path, model: onnx.ModelProto) -> Sequence[Sequence[NDArray[Any]]]:
    """Write the outputs' shapes, by running the graph: shape inference loses them behind TopK and NMS. A dimension that the
    image decides stays open. Returns the outputs of the runs."""
    given = inputs(model)
    if not _runs(model):
        return ()  # the recognition of its head says what is wrong with it
    try:
        session = plain_session(model)
        runs = [session.run(None, {given[0].name: draw(given[0])}) for draw in (blank, noise)]
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise InputError(
            f"{path}: does not run on one image ({str(error).strip()[:200]}). Export it for one image, with fixed dimensions."
        ) from error
    for value, one, two in zip(model.graph.output, *runs, strict=True):
        shapes = zip(np.shape(one), np.shape(two), strict=True)
        set_shape(value, [a if a == b else f"{value.name}_{axis}" for axis, (a, b) in enumerate(shapes)])
    return runs
