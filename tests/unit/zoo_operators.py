"""Variants with operators and names that the base does not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.unit.zoo_basics import after_output, right, save, stored


@right
def weights_behind_a_node(model: onnx.ModelProto, path: Path) -> None:
    """Computed from stored values by the graph, as newer exporters leave some constants."""
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    weight, kept = dict(stored(model))[first.input[1]], first.input[1]
    one = np.ones(1, numpy_helper.to_array(weight).dtype)
    model.graph.initializer.append(numpy_helper.from_array(one, "one_of_weights"))
    # Where its weight is a Constant node's, that node is behind the file's first.
    makers = [i for i, node in enumerate(model.graph.node) if kept in node.output]
    product = helper.make_node("Mul", [kept, "one_of_weights"], ["computed_weight"], "of_weights")
    model.graph.node.insert(max(makers, default=-1) + 1, product)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    first.input[1] = "computed_weight"
    save(model, path)


@right
def unicode_names(model: onnx.ModelProto, path: Path) -> None:
    """Of nodes and of what they give."""
    given = {value.name for value in model.graph.output}
    renamed = {name: f"слой/{name}·ü" for node in model.graph.node for name in node.output if name not in given}
    bodies = {name for node in model.graph.node for a in node.attribute for n in a.g.node for name in n.input}
    for node in model.graph.node:
        node.name = f"узел {node.name}" if node.name else ""
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name not in bodies:
                    names[place] = renamed.get(name, name)
    del model.graph.value_info[:]
    save(model, path)


@right
def transposed_convolution(model: onnx.ModelProto, path: Path) -> None:
    """One of 1 x 1 that changes nothing, before the first convolution."""
    number, first = next((i, node) for i, node in enumerate(model.graph.node) if node.op_type == "Conv")
    kind = numpy_helper.to_array(dict(stored(model))[first.input[1]]).dtype
    model.graph.initializer.append(numpy_helper.from_array(np.eye(3, dtype=kind)[:, :, None, None], "identity"))
    node = helper.make_node(
        "ConvTranspose", [first.input[0], "identity"], ["transposed"], "transposed", kernel_shape=[1, 1]
    )
    first.input[0] = "transposed"
    model.graph.node.insert(number, node)
    save(model, path)


@right
def branch(model: onnx.ModelProto, path: Path) -> None:
    """The output comes from an If that the image decides."""
    after_output(model, "Identity")
    last = model.graph.node[-1]
    bodies = [
        helper.make_graph(
            [helper.make_node("Identity", [last.input[0]], [name], name)],
            name,
            [],
            [helper.make_empty_tensor_value_info(name)],
        )
        for name in ("one_way", "other_way")
    ]
    image = model.graph.input[0].name
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half_bright"))
    nodes = [
        helper.make_node("Cast", [image], ["image_float"], "image_float", to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["image_float"], ["brightest"], "brightest", keepdims=0),
        helper.make_node("Greater", ["brightest", "half_bright"], ["is_bright"], "is_bright"),
        helper.make_node("If", ["is_bright"], [last.output[0]], "way", then_branch=bodies[0], else_branch=bodies[1]),
    ]
    del model.graph.node[-1]
    model.graph.node.extend(nodes)
    save(model, path)


@right
def loop(model: onnx.ModelProto, path: Path) -> None:
    """The output comes from a Loop of one turn."""
    after_output(model, "Identity")
    last = model.graph.node[-1]
    made, kind = helper.make_tensor_value_info, model.graph.output[0].type.tensor_type.elem_type
    turn = helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on"], ["still_goes_on"], "condition"),
            helper.make_node("Identity", ["carried"], ["carried_on"], "carry"),
        ],
        "turn",
        [made("turn", TensorProto.INT64, []), made("goes_on", TensorProto.BOOL, []), made("carried", kind, None)],
        [made("still_goes_on", TensorProto.BOOL, []), made("carried_on", kind, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.int64(1), "turns"))
    last.CopyFrom(helper.make_node("Loop", ["turns", "", last.input[0]], [last.output[0]], "loop", body=turn))
    save(model, path)
