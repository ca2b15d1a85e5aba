"""Variants of one ONNX file, as the field's exporters and tools leave them: each is a function from a model to a file.

A variant that a new report brings is one function here; test_zoo.py takes it up by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from tests.unit import zoo_operators  # noqa: F401  # lists its variants
from tests.unit.zoo_basics import REFUSED, RIGHT, Variant, after_output, change, refused, right, save, stored

__all__ = ["GROUPS", "REFUSED", "RIGHT", "compose"]


@right
def as_it_is(model: onnx.ModelProto, path: Path) -> None:
    save(model, path)


@right
def nodes_without_names(model: onnx.ModelProto, path: Path) -> None:
    for node in model.graph.node:
        node.ClearField("name")
    save(model, path)


@right
def nodes_of_one_name(model: onnx.ModelProto, path: Path) -> None:
    for node in model.graph.node:
        node.name = "node"
    save(model, path)


@right
def nodes_in_disorder(model: onnx.ModelProto, path: Path) -> None:
    """As Ultralytics' ``half=True`` leaves them: a node may come before what it reads. ONNX forbids it, runtimes do not."""
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(path))


@right
def weights_among_the_inputs(model: onnx.ModelProto, path: Path) -> None:
    there = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in there:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    save(model, path)


@right
def weights_as_constant_nodes(model: onnx.ModelProto, path: Path) -> None:
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    given = onnx.ValueInfoProto.FromString(model.graph.input[0].SerializeToString())
    del model.graph.initializer[:], model.graph.node[:], model.graph.input[:]
    model.graph.input.append(given)
    model.graph.node.extend([*constants, *nodes])
    save(model, path)


@right
def weights_beside_the_file(model: onnx.ModelProto, path: Path) -> None:
    """As PyTorch's default exporter writes them since 2.9."""
    onnx.save(
        model,
        str(path),
        save_as_external_data=True,
        location=f"{path.name}.data",
        size_threshold=0,
        convert_attribute=True,
    )


def _at_opset(version: int) -> Variant:
    def make(model: onnx.ModelProto, path: Path) -> None:
        if version < 14:  # the converter knows no way back past Reshape's, which the base uses as of old
            model.opset_import[0].version = version
            save(model, path)
        else:
            save(version_converter.convert_version(model, version), path)

    make.__name__ = f"opset_{version}"
    return make


for _version in (11, 12, 13, 14, 16, 18, 19, 20, 21, 22, 23, 24):
    right(_at_opset(_version))


@refused("is of opset 25; 13 to 24 are supported")
def opset_25(model: onnx.ModelProto, path: Path) -> None:
    save(version_converter.convert_version(model, 25), path)


def _open(value: onnx.ValueInfoProto, names: dict[int, str]) -> None:
    dims = value.type.tensor_type.shape.dim
    for axis, name in names.items():
        if axis < len(dims):  # heads differ
            dims[axis].dim_param = name


@right
def dynamic_batch(model: onnx.ModelProto, path: Path) -> None:
    for value in (model.graph.input[0], *model.graph.output):
        _open(value, {0: "batch"})
    save(model, path)


@right
def symbolic_output(model: onnx.ModelProto, path: Path) -> None:
    _open(model.graph.output[0], {1: "values", 2: "anchors"})
    save(model, path)


@right
def dynamic_with_ultralytics_metadata(model: onnx.ModelProto, path: Path) -> None:
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    height = 1 if dims[3] == 3 else 2  # channels last or first
    sides = dims[height : height + 2]
    _open(model.graph.input[0], {0: "batch", height: "height", height + 1: "width"})
    _open(model.graph.output[0], {0: "batch", 2: "anchors"})
    model.metadata_props.add(key="imgsz", value=str(sides))
    save(model, path)


@refused("its input has dynamic sides. Say which size is deployed")
def dynamic_sides(model: onnx.ModelProto, path: Path) -> None:
    _open(model.graph.input[0], {0: "batch", 2: "height", 3: "width"})
    save(model, path)


@right
def float16(model: onnx.ModelProto, path: Path) -> None:
    """As ``half=True``: float16 from input to output."""
    _to_half(model)
    save(model, path)


@right
def float16_inside(model: onnx.ModelProto, path: Path) -> None:
    """Float16 with float32 input and output, as ONNX Runtime's converter leaves it."""
    given, output = model.graph.input[0], model.graph.output[0]
    reads_floats = given.type.tensor_type.elem_type == TensorProto.FLOAT
    _to_half(model)
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == output.name:
                node.output[place] = "half_out"
    model.graph.node.append(helper.make_node("Cast", ["half_out"], [output.name], "out", to=TensorProto.FLOAT))
    output.type.tensor_type.elem_type = TensorProto.FLOAT
    if reads_floats:
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                if name == given.name:
                    node.input[place] = "half_in"
        model.graph.node.insert(0, helper.make_node("Cast", [given.name], ["half_in"], "in", to=TensorProto.FLOAT16))
        given.type.tensor_type.elem_type = TensorProto.FLOAT
    save(model, path)


def _to_half(model: onnx.ModelProto) -> None:
    for name, tensor in list(stored(model)):
        if tensor.data_type == TensorProto.FLOAT:
            change(model, name, numpy_helper.to_array(tensor).astype(np.float16))
    for value in (model.graph.input[0], *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16


def _before_input(model: onnx.ModelProto, op: str, feed: str, *more: str, **options: object) -> None:
    """A node between the input, which gets the name ``feed``, and what reads it."""
    given = model.graph.input[0]
    model.graph.node.insert(0, helper.make_node(op, [feed, *more], [given.name], f"first/{op}", **options))


@right
def uint8_input(model: onnx.ModelProto, path: Path) -> None:
    """Pixels of 0 to 255, scaled in the graph."""
    given = model.graph.input[0]
    kind = given.type.tensor_type.elem_type
    full = np.asarray(255, helper.tensor_dtype_to_np_dtype(kind))
    _before_input(model, "Div", "pixels_float", "full")
    model.graph.initializer.append(numpy_helper.from_array(full, "full"))
    model.graph.node.insert(0, helper.make_node("Cast", ["pixels"], ["pixels_float"], "cast", to=kind))
    given.name = "pixels"
    given.type.tensor_type.elem_type = TensorProto.UINT8
    save(model, path)


@right
def channels_last(model: onnx.ModelProto, path: Path) -> None:
    """As converters from TensorFlow leave it."""
    given = model.graph.input[0]
    sides = [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim]
    _before_input(model, "Transpose", "channels_last", perm=[0, 3, 1, 2])
    kind = given.type.tensor_type.elem_type
    given.CopyFrom(helper.make_tensor_value_info("channels_last", kind, [sides[0], *sides[2:], sides[1]]))
    save(model, path)


@right
def batch_normalization(model: onnx.ModelProto, path: Path) -> None:
    """Not folded into the convolution before it, as ``training=True`` or another exporter leaves it."""
    number, first = next((i, node) for i, node in enumerate(model.graph.node) if node.op_type == "Conv")
    weight, output = numpy_helper.to_array(dict(stored(model))[first.input[1]]), first.output[0]
    first.output[0] = "unscaled"
    rng = np.random.default_rng(0)
    scale, mean = rng.uniform(0.5, 2, len(weight)), rng.normal(0, 1, len(weight))
    # What follows sees what it saw: y = (x * scale - mean * scale + shift) with the weight divided by the scale.
    for name, values in (
        ("scale", scale),
        ("shift", mean * scale),
        ("mean", mean),
        ("variance", np.ones(len(weight)) - 1e-5),
    ):
        model.graph.initializer.append(numpy_helper.from_array(values.astype(weight.dtype), f"bn.{name}"))
    names = ["unscaled", "bn.scale", "bn.shift", "bn.mean", "bn.variance"]
    change(model, first.input[1], (weight / scale.reshape(-1, 1, 1, 1)).astype(weight.dtype))
    model.graph.node.insert(number + 1, helper.make_node("BatchNormalization", names, [output], "bn"))
    save(model, path)


@right
def bias_as_add(model: onnx.ModelProto, path: Path) -> None:
    for number, node in reversed(list(enumerate(model.graph.node))):
        if node.op_type != "Conv" or len(node.input) < 3:
            continue
        bias, output = node.input.pop(), node.output[0]
        node.output[0] = f"{output}/without_bias"
        change(model, bias, numpy_helper.to_array(dict(stored(model))[bias]).reshape(1, -1, 1, 1))
        model.graph.node.insert(
            number + 1, helper.make_node("Add", [node.output[0], bias], [output], f"{node.name}/Add")
        )
    save(model, path)


@right
def newer_format(model: onnx.ModelProto, path: Path) -> None:
    model.ir_version = 12
    save(model, path)


@refused("is quantized already")
def quantized(model: onnx.ModelProto, path: Path) -> None:
    given = model.graph.input[0].name
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == given:
                node.input[place] = "dequantized"
    pair = [
        helper.make_node("QuantizeLinear", [given, "q_scale", "q_zero"], ["quantized"], "q"),
        helper.make_node("DequantizeLinear", ["quantized", "q_scale", "q_zero"], ["dequantized"], "dq"),
    ]
    for number, node in enumerate(pair):
        model.graph.node.insert(number, node)
    for value, name in ((np.float32(1 / 255), "q_scale"), (np.uint8(0), "q_zero")):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    save(model, path)


@refused("was optimized by ONNX Runtime")
def optimized(model: onnx.ModelProto, path: Path) -> None:
    import onnxruntime

    # A fusion that every processor has: Conv and Relu.
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    output = first.output[0]
    first.output[0] = "before_relu"
    number = list(model.graph.node).index(first)
    model.graph.node.insert(number + 1, helper.make_node("Relu", ["before_relu"], [output], "relu"))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@refused("operator EfficientNMS_TRT of 'TRT' is no standard ONNX")
def plugin(model: onnx.ModelProto, path: Path) -> None:
    last = model.graph.node[-1]
    last.op_type, last.domain = "EfficientNMS_TRT", "TRT"
    model.opset_import.add(domain="TRT", version=1)
    save(model, path)


@refused("its input is double; float32, float16 and uint8 are supported")
def double_input(model: onnx.ModelProto, path: Path) -> None:
    given = model.graph.input[0]
    _before_input(model, "Cast", "wide", to=TensorProto.FLOAT)
    given.name = "wide"
    given.type.tensor_type.elem_type = TensorProto.DOUBLE
    save(model, path)


@refused("its metadata says that its task is 'segment'")
def segmentation(model: onnx.ModelProto, path: Path) -> None:
    model.metadata_props.add(key="task", value="segment")
    save(model, path)


@right
def batch_of_four(model: onnx.ModelProto, path: Path) -> None:
    """Written down in the input and the output only."""
    _set_batch(model, 0)
    save(model, path)


@right
def batch_in_the_graph(model: onnx.ModelProto, path: Path) -> None:
    """A batch of four that a Reshape writes down."""
    _set_batch(model, 4)
    save(model, path)


@right
def batch_in_rows(model: onnx.ModelProto, path: Path) -> None:
    """Rows of all images one after the other, as attention over areas has them, and apart again."""
    after_output(model, "Reshape", numpy_helper.from_array(np.array([4 * 66, -1]), "rows"))
    after_output(model, "Reshape", numpy_helper.from_array(np.array([4, 66, -1]), "apart"))
    _set_batch(model, 4)
    save(model, path)


@right
def batch_among_the_indices(model: onnx.ModelProto, path: Path) -> None:
    """As the choice of the best boxes picks them image by image."""
    after_output(model, "GatherND", numpy_helper.from_array(np.arange(4)[:, None], "of_each_image"))
    _set_batch(model, 4)
    save(model, path)


@refused("was exported for a batch of 4 and does not compute one image alone")
def batch_that_mixes_images(model: onnx.ModelProto, path: Path) -> None:
    """Every image gets the highest value that any has: four copies of one image do not tell."""
    output = model.graph.output[0].name
    after_output(model, "Max")
    model.graph.node.insert(
        len(model.graph.node) - 1,
        helper.make_node("ReduceMax", [model.graph.node[-1].input[0]], ["highest"], "highest", axes=[0]),
    )
    model.graph.node[-1].input.append("highest")
    assert model.graph.node[-1].output[0] == output
    _set_batch(model, 0)
    save(model, path)


def _set_batch(model: onnx.ModelProto, in_reshapes: int) -> None:
    flat = numpy_helper.to_array(dict(stored(model))["flat"])
    change(model, "flat", np.array([in_reshapes, *flat[1:]]))
    for value in (model.graph.input[0], *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4


def _group(*names: str) -> tuple[str, ...]:
    assert set(names) <= RIGHT.keys()
    return names


_TOGETHER = (
    _group(*(name for name in RIGHT if name.startswith("opset_"))),
    _group("dynamic_with_ultralytics_metadata", *(n for n in RIGHT if "batch" in n and n != "batch_normalization")),
    _group("float16", "float16_inside"),
    _group("nodes_without_names", "nodes_of_one_name"),
)
# A file can have one variant of each: of the operators' versions, of the batch, of the type that it computes in, and so on.
GROUPS = (*_TOGETHER, *((name,) for name in RIGHT if name != "as_it_is" and not any(name in g for g in _TOGETHER)))
# An exporter's first decision, and how a file is written, which the next tool would change again.
_FIRST, _LAST = _TOGETHER[0], ("weights_behind_a_node", "loop", "nodes_in_disorder", "weights_beside_the_file")


def compose(names: Sequence[str], model: onnx.ModelProto, path: Path) -> None:
    """The file that went through several tools, one after the other."""
    for name in sorted(names, key=lambda name: -1 if name in _FIRST else _LAST.index(name) + 1 if name in _LAST else 0):
        RIGHT[name](model, path)
        model = onnx.load(str(path))
