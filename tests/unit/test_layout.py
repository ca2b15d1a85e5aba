"""Rewrites for ONNX Runtime's kernels: the same bits, executed as they are written and optimized."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
from onnx import numpy_helper

from lowbit import graph
from lowbit.graph import layout
from tests.unit.lazily import lazily

torch, nn = lazily("torch"), lazily("torch.nn")


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stem and a C2f, whose first convolution's output is taken apart, as PyTorch's tracer writes it."""
    from ultralytics.nn.modules import C2f, Conv

    torch.manual_seed(0)
    network = nn.Sequential(Conv(3, 8, 3), C2f(8, 16, 1, True)).eval()
    path = tmp_path_factory.mktemp("halves") / "halves.onnx"
    with torch.inference_mode():
        example = torch.zeros(1, 3, 16, 16)
        torch.onnx.export(network, (example,), str(path), input_names=["images"], opset_version=17, dynamo=False)
    return path


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    return onnx.reference.ReferenceEvaluator(model).run(None, {"images": image})[0]


@pytest.mark.parametrize("op", ["Slice", "Split"])
def test_a_cut_convolution_gives_its_parts(halves: Path, op: str) -> None:
    model = onnx.load(str(halves))
    (source,) = {node.input[0] for node in model.graph.node if node.op_type == "Slice"}
    slices = [node for node in model.graph.node if node.op_type == "Slice"]
    if op == "Split":
        nodes = [node for node in model.graph.node if node not in slices]
        at = next(i for i, node in enumerate(nodes) if source in node.output) + 1
        made = onnx.helper.make_node("Split", [source], [n.output[0] for n in slices], name="split", axis=1)
        graph.replace_nodes(model, [*nodes[:at], made, *nodes[at:]])
    image = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    expected, before = run(model, image), [node.name for node in graph.weighted_convolutions(model)]
    origins = layout.cut_channels(model)
    onnx.checker.check_model(model)
    assert run(model, image) == pytest.approx(expected, abs=1e-5)
    assert not {"Slice", "Split", "Shape"} & {node.op_type for node in model.graph.node}
    cut = "/1/cv1/conv/Conv"
    assert origins == {f"{cut}/part_{i}": (cut, slice(8 * i, 8 * i + 8)) for i in range(2)}
    after = [node.name for node in graph.weighted_convolutions(model)]
    assert sorted(after) == sorted([*(set(before) - {cut}), *origins])
    assert {n.output[0] for n in slices} <= {name for node in model.graph.node for name in node.output}


def test_what_overlaps_is_not_cut(halves: Path) -> None:
    model = onnx.load(str(halves))
    first, second = (node for node in model.graph.node if node.op_type == "Slice")
    second.input[1:] = first.input[1:]  # the same channels twice
    before = model.SerializeToString()
    assert layout.cut_channels(model) == {}
    assert run(model, np.ones((1, 3, 16, 16), np.float32)) == pytest.approx(
        run(onnx.ModelProto.FromString(before), np.ones((1, 3, 16, 16), np.float32))
    )
    assert {"Slice"} <= {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("op", ["Slice", "Split"])
def test_what_was_taken_apart_is_joined_whole(halves: Path, op: str) -> None:
    model = onnx.load(str(halves))
    if op == "Split":
        layout.join_whole(model)  # once more changes nothing
    (source,) = {node.input[0] for node in model.graph.node if node.op_type == op}
    image = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    expected = run(onnx.load(str(halves)), image)
    layout.join_whole(model)
    onnx.checker.check_model(model)
    assert np.array_equal(run(model, image), expected)
    (concat,) = [node for node in model.graph.node if node.op_type == "Concat"]
    assert concat.input[0] == source and len(concat.input) == 2
    (split,) = [node for node in model.graph.node if node.op_type in {"Slice", "Split"}]
    assert split.op_type == "Split" and split.input[0] == source


@pytest.mark.parametrize("damage", ["order", "overlap", "part"])
def test_other_parts_are_joined_as_they_are(halves: Path, damage: str) -> None:
    model = onnx.load(str(halves))
    first, second = (node for node in model.graph.node if node.op_type == "Slice")
    (concat,) = [node for node in model.graph.node if node.op_type == "Concat"]
    if damage == "order":
        concat.input[0], concat.input[1] = concat.input[1], concat.input[0]
    elif damage == "overlap":
        second.input[1:] = first.input[1:]
    else:  # what the first one takes is not joined
        concat.input[0] = concat.input[1]
    image = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    expected, inputs = run(model, image), list(concat.input)
    layout.join_whole(model)
    (concat,) = [node for node in model.graph.node if node.op_type == "Concat"]
    assert list(concat.input) == inputs
    assert np.array_equal(run(model, image), expected)


def quantized(
    nodes: list[onnx.NodeProto], shape: list[int], scales: dict[str, tuple[float, int]], outputs: list[str]
) -> onnx.ModelProto:
    """A graph from ``images`` whose every tensor in ``scales`` is quantized and dequantized where it is read."""
    helper, body = onnx.helper, []
    stored = [
        numpy_helper.from_array(np.asarray(value, dtype), f"{name}.{what}")
        for name, pair in scales.items()
        for what, value, dtype in zip(("scale", "zero"), pair, (np.float32, np.uint8), strict=True)
    ]
    for node in [helper.make_node("Identity", ["images"], ["x"], name="start"), *nodes]:
        node.input[:] = [f"{name}.d" if name in scales else name for name in node.input]
        body.append(node)
        for name in {*node.output} & scales.keys():
            given = [f"{name}.scale", f"{name}.zero"]
            body.append(helper.make_node("QuantizeLinear", [name, *given], [f"{name}.q"], name=f"{name}/q"))
            body.append(helper.make_node("DequantizeLinear", [f"{name}.q", *given], [f"{name}.d"], name=f"{name}/d"))
    weight = np.random.default_rng(1).normal(size=(16, 6, 1, 1)).astype(np.float32)
    stored += [numpy_helper.from_array(np.array([2, 4]), "widths"), numpy_helper.from_array(weight, "weight")]
    used = {name for node in body for name in node.input}
    model = helper.make_model(
        helper.make_graph(
            body,
            "toy",
            [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape)],
            [
                helper.make_tensor_value_info(f"{name}.d" if name in scales else name, 1, list("nchw"))
                for name in outputs
            ],
            [tensor for tensor in stored if tensor.name in used],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model))
    return model


def executed(model: onnx.ModelProto, shape: list[int], *, optimized: bool) -> list[np.ndarray]:
    """What ONNX Runtime gives for an image of ``shape``."""
    settings = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)})


def same_after(model: onnx.ModelProto, rewriting: Callable[[onnx.ModelProto], None], shape: list[int]) -> None:
    """The rewritten graph is valid, and gives the same bits, executed as it is written and optimized."""
    before = onnx.ModelProto.FromString(model.SerializeToString())
    rewriting(model)
    onnx.checker.check_model(model)
    for optimized in (False, True):
        results = (executed(one, shape, optimized=optimized) for one in (before, model))
        for one, two in zip(*results, strict=True):
            assert np.array_equal(one, two)


def joining(joined: tuple[float, int]) -> onnx.ModelProto:
    make = onnx.helper.make_node
    nodes = [
        make("Split", ["x", "widths"], ["a", "b"], name="split", axis=1),
        make("Relu", ["b"], ["c"], name="relu"),
        make("Concat", ["x", "c"], ["joined"], name="concat", axis=1),
    ]
    scales = dict.fromkeys(("x", "a", "b", "c"), (0.05, 100)) | {"joined": joined}
    return quantized(nodes, [1, 6, 4, 4], scales, ["joined"])


def test_what_only_moves_moves_integers() -> None:
    model = joining((0.05, 100))
    same_after(model, layout.move_integers, [1, 6, 4, 4])
    nodes = {node.name: node for node in model.graph.node}
    assert nodes["concat"].input[:] == ["x.q", "c.q"] and nodes["split"].input[0] == "x.q"
    assert nodes["relu"].input[0] == "b.d"  # computes with numbers
    assert not {"b/q", "joined/q", "a/q"} & nodes.keys()


def test_what_changes_its_scale_is_quantized_again() -> None:
    model = joining((0.06, 100))
    same_after(model, layout.move_integers, [1, 6, 4, 4])
    nodes = {node.name: node for node in model.graph.node}
    assert nodes["concat"].input[:] == ["x.d", "c.d"] and "joined/q" in nodes
    assert nodes["split"].input[0] == "x.q"


def silu_of_float_convolution(more: list[onnx.NodeProto], outputs: list[str], *scaled: str) -> onnx.ModelProto:
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "weight"], ["c"], name="conv", kernel_shape=[1, 1]),
        make("Sigmoid", ["c"], ["s"], name="gate"),
        make("Mul", ["c", "s"], ["m"], name="silu"),
        make("Relu", ["m"], ["r"], name="relu"),
        *more,
    ]
    return quantized(nodes, [1, 6, 4, 4], dict.fromkeys(scaled, (0.05, 100)), outputs)


def test_silu_of_a_float_convolution_with_channels_last() -> None:
    model = silu_of_float_convolution([], ["r"], "m", "r")
    same_after(model, layout.channels_last, [1, 6, 4, 4])
    nodes = {node.name: node for node in model.graph.node}
    (first,) = [node for node in model.graph.node if "c" in node.input]
    assert first.op_type == "Transpose"
    assert nodes["m/q"].input[0] == "m" and graph.shapes(model)["m"] == (1, 16, 4, 4)
    assert graph.shapes(model)[nodes["gate"].input[0]] == (16, 16)


@pytest.mark.parametrize(("also", "scaled"), [("c", "m"), ("s", "m"), ("x", "r")])
def test_silu_that_is_read_in_float_keeps_its_layout(also: str, scaled: str) -> None:
    more = onnx.helper.make_node("Relu", [also], ["more"], name="more")
    model = silu_of_float_convolution([more], ["r", "more"], scaled)
    same_after(model, layout.channels_last, [1, 6, 4, 4])
    assert "Transpose" not in {node.op_type for node in model.graph.node}


def first_convolution(kernel: int, stride: int, padding: int, side: int = 16) -> onnx.ModelProto:
    """A quantized convolution of the image; its scales are powers of two, so that sums in float are exact.

    255 times the sum of any two of its weights' magnitudes fits into 16 bits: kernels without VNNI add products in pairs
    there, and whichever weights folding makes neighbours, none saturates.
    """
    helper, rng = onnx.helper, np.random.default_rng(2)
    pair = {"s": np.float32(2**-7), "z": np.uint8(100)}
    weight = rng.integers(-64, 65, (5, 3, kernel, kernel), np.int8)
    scales = (2.0 ** -np.arange(7, 12)).astype(np.float32)
    given = {
        **pair,
        "w": weight,
        "ws": scales,
        "wz": np.zeros(5, np.int8),
        "b": rng.integers(-99, 99, 5, np.int32),
        "bs": scales / np.float32(128),
        "os": np.float32(2**-4),
        "oz": np.uint8(128),
    }
    make = helper.make_node
    nodes = [
        make("QuantizeLinear", ["images", "s", "z"], ["q"], name="q"),
        make("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        make("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="wd", axis=0),
        make("DequantizeLinear", ["b", "bs"], ["bd"], name="bd", axis=0),
        make("Conv", ["d", "wd", "bd"], ["c"], name="conv", strides=[stride] * 2, pads=[padding] * 4),
        make("QuantizeLinear", ["c", "os", "oz"], ["cq"], name="cq"),
        make("DequantizeLinear", ["cq", "os", "oz"], ["out"], name="out"),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "toy",
            [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, side, side])],
            [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, list("nchw"))],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in given.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"), [(3, 2, 1, 2), (6, 2, 2, 3), (3, 1, 1, 3), (2, 2, 0, 1), (4, 4, 0, 1)]
)
def test_a_folded_convolution_gives_the_same_integers(kernel: int, stride: int, padding: int, groups: int) -> None:
    model = first_convolution(kernel, stride, padding)
    same_after(model, layout.fold_columns, [1, 3, 16, 16])
    (conv,) = graph.weighted_convolutions(model)
    assert conv.name == "conv"
    assert graph.shapes(model)[conv.input[1]] == (5 * 4 // stride, 12, kernel, groups)
    assert graph.shapes(model)[conv.output[0]][3] == 4


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"), [(3, 3, 0, 15), (3, 2, 1, 18), (3, 2, 0, 16), (3, 1, 2, 16)]
)
def test_columns_that_do_not_divide_are_not_folded(kernel: int, stride: int, padding: int, side: int) -> None:
    model = first_convolution(kernel, stride, padding, side)
    before = model.SerializeToString()
    layout.fold_columns(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("stride", "channels", "slow"), [(2, 17, []), (2, 16, ["conv"]), (3, 17, ["conv"])])
def test_which_convolutions_read_the_image_in_float(stride: int, channels: int, slow: list[str]) -> None:
    make = onnx.helper.make_node
    conv = make("Conv", ["images", "weight"], ["out"], name="conv", strides=[stride] * 2, pads=[1] * 4)
    weight = np.zeros((channels, 3, 3, 3), np.float32)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [conv],
            "toy",
            [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, 24, 24])],
            [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, list("nchw"))],
            [numpy_helper.from_array(weight, "weight")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    assert layout.better_in_float(model) == slow


def two_and_more(second: int) -> onnx.ModelProto:
    """A narrow convolution of the image, one of ``second`` channels behind its SiLU, and a large one behind that."""
    make, shapes = onnx.helper.make_node, {"w0": (8, 3, 3, 3), "w1": (second, 8, 1, 1), "w2": (256, second, 3, 3)}
    nodes = [
        make("Conv", ["images", "w0"], ["c0"], name="first", pads=[1] * 4),
        make("Sigmoid", ["c0"], ["g0"], name="gate"),
        make("Mul", ["c0", "g0"], ["s0"], name="product"),
        make("Conv", ["s0", "w1"], ["c1"], name="second"),
        make("Conv", ["c1", "w2"], ["out"], name="third", pads=[1] * 4),
    ]
    values = [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, 24, 24])]
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [1, 256, 24, 24])
    stored = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in shapes.items()]
    return onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "toy", values, [out], stored),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )


def test_the_small_convolution_behind_one_in_float_stays_in_float() -> None:
    assert layout.better_in_float(two_and_more(8)) == ["first", "second"]
    # Not where it is a fifth of the work: 64 of 280 multiply-accumulates a pixel.
    assert layout.better_in_float(onnx_without_third(two_and_more(8))) == ["first"]


def onnx_without_third(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same, where the second convolution is most of it."""
    del model.graph.node[-1]
    model.graph.output[0].name = "c1"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 8
    return model


def test_a_weight_with_a_zero_point_is_not_folded() -> None:
    model = first_convolution(3, 2, 1)
    for tensor in model.graph.initializer:
        if tensor.name == "wz":
            tensor.CopyFrom(numpy_helper.from_array(np.arange(5, dtype=np.int8), "wz"))
    before = model.SerializeToString()
    layout.fold_columns(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("axis", [-1, 3])
def test_softmax_between_quantizers_is_computed_in_float(tmp_path: Path, axis: int) -> None:
    model = softmax(axis)
    wanted = executed(model, [1, 2, 5, 7], optimized=False)[0]
    layout.softmax_in_float(model)
    onnx.checker.check_model(model)
    for optimized in (False, True):
        assert np.array_equal(executed(model, [1, 2, 5, 7], optimized=optimized)[0], wanted)
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    ops = {node.op_type for node in onnx.load(str(tmp_path / "optimized.onnx")).graph.node}
    assert "Softmax" in ops and "QLinearSoftmax" not in ops


def test_softmax_along_another_axis_is_left_alone() -> None:
    model = softmax(1)
    before = model.SerializeToString()
    layout.softmax_in_float(model)
    assert model.SerializeToString() == before


def softmax(axis: int) -> onnx.ModelProto:
    node = onnx.helper.make_node("Softmax", ["x"], ["shares"], name="softmax", axis=axis)
    return quantized([node], [1, 2, 5, 7], {"x": (0.05, 100), "shares": (1 / 255, 0)}, ["shares"])
