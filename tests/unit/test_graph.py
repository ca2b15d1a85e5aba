"""What is read from ONNX graphs: the decode tail, the head, the stored weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lowbit import graph
from lowbit.detector import heads
from lowbit.errors import InputError, UnavailableError
from tests.unit.graphs import Nodes, Weights, array, floats, make_model, node
from tests.unit.toys import make_detector


def dfl_model(counts: NDArray[np.float32]) -> onnx.ModelProto:
    """A head as Ultralytics exports it: the boxes' Softmax and DFL convolution come after the last real one."""
    bins = len(counts)
    nodes = [
        node("Conv", ["images", "w0"], "x", "/model.0/Conv"),
        node("Conv", ["x", "wb"], "boxes", "/model.1/box/Conv"),
        node("Conv", ["x", "wc"], "logits", "/model.1/cls/Conv"),
        node("Softmax", ["boxes"], "p", "/model.1/dfl/Softmax", axis=1),
        node("Conv", ["p", "dfl"], "distance", "/model.1/dfl/conv/Conv"),
        node("Sigmoid", ["logits"], "scores", "/model.1/Sigmoid"),
        node("Concat", ["distance", "scores"], "output0", "/model.1/Concat", axis=1),
    ]
    weights = [floats((3, 3, 1, 1), "w0"), floats((bins, 3, 1, 1), "wb"), floats((2, 3, 1, 1), "wc")]
    return make_model(nodes, [*weights, array(counts.astype(np.float32).reshape(1, bins, 1, 1), "dfl")])


DFL_TAIL = ["/model.1/dfl/Softmax", "/model.1/dfl/conv/Conv", "/model.1/Sigmoid", "/model.1/Concat"]


def toy(tmp_path: Path) -> onnx.ModelProto:
    return graph.load(make_detector(tmp_path / "toy.onnx"))


def test_tail_and_head_of_the_toy(tmp_path: Path) -> None:
    model = toy(tmp_path)
    reshapes = [f"/model.1/level{stride}/Reshape" for stride in (8, 16, 32)]
    assert graph.decode_tail(model) == [*reshapes, "/model.1/Concat"]
    convs = [f"/model.1/level{stride}/Conv" for stride in (8, 16, 32)]
    assert sorted(graph.head_nodes(model)) == sorted([*reshapes, *convs, "/model.1/Concat"])


@pytest.mark.parametrize(
    "counts",
    [np.arange(16), np.array([0, 0.94, 2.01, 2.95, 4.02]), np.arange(16) + np.linspace(-0.45, 0.45, 16)],
    ids=["exact", "from INT8", "within half a bin"],
)
def test_dfl_belongs_to_the_tail(counts: NDArray[np.float32]) -> None:
    model = dfl_model(counts)
    assert graph.decode_tail(model) == DFL_TAIL
    assert "/model.1/dfl/conv/Conv" not in {w.node for w in graph.structure(model).weights}


@pytest.mark.parametrize("counts", [np.ones(16), np.arange(16)[::-1], np.arange(16) + 1])
def test_other_convolutions_are_no_dfl(counts: NDArray[np.float32]) -> None:
    model = dfl_model(counts)
    assert graph.decode_tail(model) == ["/model.1/Sigmoid", "/model.1/Concat"]
    assert "/model.1/dfl/conv/Conv" in {w.node for w in graph.structure(model).weights}


def test_head_of_the_dfl_graph() -> None:
    names = graph.head_nodes(dfl_model(np.arange(16)))
    assert names == ["/model.1/box/Conv", "/model.1/cls/Conv", *DFL_TAIL]


@pytest.mark.parametrize("names", [("", ""), ("Conv_1", "Conv_2"), ("/model.1/a", "/model.2/b"), ("/model.1/a", "")])
def test_head_without_names(names: tuple[str, str]) -> None:
    model = dfl_model(np.arange(16))
    for conv, name in zip([n for n in model.graph.node if n.output[0] in ("boxes", "logits")], names, strict=True):
        conv.name = name
    with pytest.raises(UnavailableError, match="can't be told apart"):
        graph.head_nodes(model)


def quantized_conv(
    kind: str, shape: tuple[int, ...] = (8, 3, 1, 1), *, activation: bool = False
) -> tuple[Nodes, Weights]:
    """One Conv whose weight is stored as ``kind``: per channel, per tensor, in blocks of INT4, or as floats."""
    nodes: Nodes = []
    weights: Weights = []
    data = "images"
    if activation:
        weights += [array(np.float32(0.1), "xs"), array(np.int8(0), "xz")]
        nodes.append(node("QuantizeLinear", ["images", "xs", "xz"], "xq", "q"))
        nodes.append(node("DequantizeLinear", ["xq", "xs", "xz"], "xd", "dq"))
        data = "xd"
    weight = "w"
    if kind == "float":
        weights.append(floats(shape, "w"))
    else:
        weight = "wd"
        options: dict[str, int] = {}
        stored, scales = TensorProto.INT8, ()
        if kind == "channel":
            scales, options = (shape[0],), {"axis": 0}
        elif kind == "block":
            stored, scales = TensorProto.INT4, (shape[0], shape[1] // 4, *shape[2:])
            options = {"axis": 1, "block_size": 4}
        weights.append(helper.make_tensor("w", stored, shape, [1] * int(np.prod(shape))))
        weights.append(array(np.ones(scales, np.float32), "ws"))
        nodes.append(node("DequantizeLinear", ["w", "ws"], "wd", "wdq", **options))
    nodes.append(node("Conv", [data, weight], "output0", "/model.0/Conv"))
    return nodes, weights


@pytest.mark.parametrize(
    ("kind", "shape", "stored", "axis", "block", "scales", "bits"),
    [
        ("channel", (8, 3, 1, 1), "INT8", 0, 0, 8, 8 + 8 * 32 / 24),
        ("tensor", (8, 3, 1, 1), "INT8", None, 0, 1, 8 + 32 / 24),
        ("block", (8, 8, 1, 1), "INT4", 1, 4, 16, 4 + 32 / 4),
        ("float", (8, 3, 1, 1), "FLOAT", None, 0, 0, 32.0),
    ],
)
@pytest.mark.parametrize("activation", [False, True])
def test_weight(
    kind: str,
    shape: tuple[int, ...],
    stored: str,
    axis: int | None,
    block: int,
    scales: int,
    bits: float,
    activation: bool,
) -> None:
    model = make_model(*quantized_conv(kind, shape, activation=activation), (1, shape[1], 64, 64), (1, 8, 64, 64))
    onnx.checker.check_model(model)
    found = graph.structure(model)
    (weight,) = found.weights
    assert weight == graph.Weight("/model.0/Conv", "Conv", shape, stored, axis, block, scales, activation)
    assert weight.count == np.prod(shape)
    quantized = kind != "float"
    assert weight.quantized == quantized
    assert found.quantized_fraction == quantized
    assert found.weight_bits == pytest.approx(bits)
    assert (found.quantize_nodes, found.dequantize_nodes) == (activation, activation + quantized)
    assert found.input_dtypes == (("INT8",) if activation else ())
    # A Conv without data input from another node reads only its weight.
    assert found.ops == ({"Conv": 1} if quantized or activation else {})


def test_fraction_is_by_elements() -> None:
    nodes, weights = quantized_conv("channel")
    nodes[-1].output[0] = "x"
    nodes.append(node("Conv", ["x", "w2"], "output0", "/model.1/Conv"))
    found = graph.structure(make_model(nodes, [*weights, floats((9, 8, 1, 1), "w2")]))
    assert found.quantized_fraction == pytest.approx(24 / (24 + 72))
    assert found.weight_bits == pytest.approx(8 + 8 * 32 / 24)  # float weights don't count
    assert found.ops == {"Conv": 1}


def test_graph_without_weights() -> None:
    found = graph.structure(make_model([node("Relu", ["images"], "output0", "r")], []))
    assert (found.weights, found.quantized_fraction, found.weight_bits) == ((), 0, 32)


def with_pair(model: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """Quantize and dequantize one tensor on its way to all its consumers."""
    body = model.graph
    names = [f"{tensor}_scale", f"{tensor}_zero"]
    body.initializer.extend([array(np.float32(1), names[0]), array(np.int8(0), names[1])])
    for consumer in body.node:
        for index, name in enumerate(consumer.input):
            if name == tensor:
                consumer.input[index] = f"{tensor}_dq"
    at = 1 + next(i for i, n in enumerate(body.node) if tensor in n.output)
    body.node.insert(at, node("DequantizeLinear", [f"{tensor}_q", *names], f"{tensor}_dq", f"{tensor}_DQ"))
    body.node.insert(at, node("QuantizeLinear", [tensor, *names], f"{tensor}_q", f"{tensor}_Q"))
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize(
    ("tensor", "tail"),
    [
        ("x", ()),
        ("boxes", ()),  # the last convolution's own pair
        ("logits", ()),
        ("p", ("/model.1/dfl/conv/Conv",)),
        ("distance", ("/model.1/Concat",)),
        ("scores", ("/model.1/Concat",)),
    ],
)
def test_pairs_in_the_tail(tensor: str, tail: tuple[str, ...]) -> None:
    found = graph.structure(with_pair(dfl_model(np.arange(16)), tensor))
    assert found.tail_quantized == tail
    assert (found.quantize_nodes, found.dequantize_nodes) == (1, 1)


def test_pair_in_the_tail_of_the_toy(tmp_path: Path) -> None:
    assert graph.structure(toy(tmp_path)).tail_quantized == ()
    assert graph.structure(with_pair(toy(tmp_path), "c8")).tail_quantized == ()
    assert graph.structure(with_pair(toy(tmp_path), "r8")).tail_quantized == ("/model.1/Concat",)


def test_pair_before_a_quantized_dfl() -> None:
    model = dfl_model(np.arange(16))
    (weight,) = [t for t in model.graph.initializer if t.name == "dfl"]
    weight.CopyFrom(array(np.arange(16, dtype=np.int8).reshape(1, 16, 1, 1), "dfl"))
    model.graph.initializer.append(array(np.float32(1), "dfl_scale"))
    model.graph.node.insert(0, node("DequantizeLinear", ["dfl", "dfl_scale"], "dfl_dq", "dfl_DQ"))
    conv = next(n for n in model.graph.node if n.name == "/model.1/dfl/conv/Conv")
    conv.input[1] = "dfl_dq"
    assert graph.structure(with_pair(model, "p")).tail_quantized == ("/model.1/dfl/conv/Conv",)


def dynamic(tmp_path: Path, dims: tuple[int | str, ...]) -> onnx.ModelProto:
    """The toy detector with an input of dynamic dimensions and an output that says nothing of its shape."""
    model = toy(tmp_path)
    for dim, value in zip(model.graph.input[0].type.tensor_type.shape.dim, dims, strict=True):
        dim.Clear()
        if isinstance(value, int):
            dim.dim_value = value
        else:
            dim.dim_param = value
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize(
    ("dims", "size"), [(("batch", 3, 64, 64), None), (("n", 3, "h", "w"), 64), ((1, 3, "h", "w"), 64)]
)
def test_dynamic_inputs_are_fixed(tmp_path: Path, dims: tuple[int | str, ...], size: int | None) -> None:
    original = dynamic(tmp_path, dims)
    model = graph.fixed(Path("m.onnx"), original, size and (size, size))
    head = heads.recognise(Path("m.onnx"), model)
    assert (head.kind, head.sides, head.classes) == ("raw", (64, 64), 2)
    image = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    outputs = [
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"images": image}
        )[0]
        for m in (original, model)
    ]
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-4


def test_a_fixed_input_is_left_alone(tmp_path: Path) -> None:
    model = toy(tmp_path)
    assert graph.fixed(Path("m.onnx"), model) is model
    assert graph.fixed(Path("m.onnx"), model, (64, 64)) is model


def test_sizes_that_do_not_fit_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m\.onnx: its input has dynamic sides.*--image-size 640"):
        graph.fixed(Path("m.onnx"), dynamic(tmp_path, ("n", 3, "h", "w")))
    with pytest.raises(InputError, match=r"m\.onnx: .* 96 was asked for"):
        graph.fixed(Path("m.onnx"), toy(tmp_path), (96, 96))


def test_a_weight_behind_a_clip_and_overridable_initializers() -> None:
    """QCDQ as Brevitas writes it: the weight passes a Clip, and everything stored is listed as an input."""
    model = dfl_model(np.arange(16))
    before = graph.structure(model)
    conv = next(n for n in model.graph.node if n.op_type == "Conv" and "dfl" not in n.name)
    name = conv.input[1]
    (weight,) = [t for t in model.graph.initializer if t.name == name]
    shape = tuple(weight.dims)
    weight.CopyFrom(array(np.ones(shape, np.int8), name))
    model.graph.initializer.extend([array(np.int8(-8), "low"), array(np.int8(7), "high"), array(np.float32(1), "s")])
    model.graph.node.insert(0, node("DequantizeLinear", ["clipped", "s"], "wd", "w_DQ"))
    model.graph.node.insert(0, node("Clip", [name, "low", "high"], "clipped", "w_Clip"))
    conv.input[1] = "wd"
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT8, shape))
    found = graph.structure(model)
    assert len(found.weights) == len(before.weights)
    (clipped,) = [w for w in found.weights if w.quantized]
    assert (clipped.node, clipped.dtype, clipped.shape) == (conv.name, "INT8", shape)


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\x00" * 200, "half", "most", "folder"])
def test_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "m.onnx"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, str):
        data = make_detector(tmp_path / "toy.onnx").read_bytes()
        path.write_bytes(data[: len(data) // 2 if content == "half" else len(data) - 10])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"m\.onnx: "):
        graph.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weight_that_is_no_number(tmp_path: Path, value: float) -> None:
    nodes, _ = quantized_conv("float")
    weight = np.ones((8, 3, 1, 1), np.float32)
    weight[2, 1] = value
    path = tmp_path / "m.onnx"
    onnx.save(make_model(nodes, [array(weight, "w")], shape_out=(1, 8, 64, 64)), str(path))
    with pytest.raises(InputError, match=r"m\.onnx: weight 'w' holds NaN or infinity"):
        graph.load(path)


def test_tensor_that_promises_more_than_it_holds(tmp_path: Path) -> None:
    nodes, weights = quantized_conv("float")
    model = make_model(nodes, weights, shape_out=(1, 8, 64, 64))
    model.graph.initializer[0].dims[0] = 2**40
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"m\.onnx"):
        graph.load(path)


def test_macs() -> None:
    nodes, weights = quantized_conv("float", (8, 3, 1, 1))
    found = graph.macs(make_model(nodes, weights, shape_out=(1, 8, 64, 64)))
    assert found == {"/model.0/Conv": 24 * 64 * 64, "output0": 24 * 64 * 64}


def test_macs_of_products_and_transposed_convolutions() -> None:
    nodes = [
        node("ConvTranspose", ["images", "up"], "big", "up", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["big"], "pooled", "pool"),
        node("Flatten", ["pooled"], "flat", "flatten"),
        node("Gemm", ["flat", "dense"], "dense_y", "gemm", transB=1),
        node("MatMul", ["dense_y", "linear"], "output0", "matmul"),
    ]
    weights = [floats((3, 8, 2, 2), "up"), floats((6, 8), "dense"), floats((6, 2), "linear")]
    found = graph.macs(make_model(nodes, weights, shape_out=(1, 2)))
    counted = {name: found[name] for name in ("up", "gemm", "matmul")}
    assert counted == {"up": 3 * 8 * 4 * 64 * 64, "gemm": 48, "matmul": 12}


def chunked() -> onnx.ModelProto:
    """A channel slice whose end is computed, as PyTorch writes ``chunk``, and a Reduce operator with axes as an input;
    how many values are not 0 depends on the image."""
    nodes = [
        node("Shape", ["images"], "sides", "shape"),
        node("Gather", ["sides", "one"], "channels", "gather"),
        node("Sub", ["channels", "one"], "end", "sub"),
        node("Slice", ["images", "zero", "end", "one"], "chunk", "slice"),
        node("Conv", ["chunk", "w"], "y", "conv"),
        node("ReduceMax", ["y", "axes"], "top", "reduce", keepdims=0),
        node("NonZero", ["top"], "where", "where"),
        node("Cast", ["where"], "output0", "cast", to=TensorProto.FLOAT),
    ]
    weights = [
        floats((4, 2, 1, 1), "w"),
        array(np.array([0]), "zero"),
        array(np.array([1]), "one"),
        array(np.array([1]), "axes"),
    ]
    return make_model(nodes, weights, shape_out=("a", "b"), opset=19)


def test_macs_where_inference_fails_are_measured() -> None:
    found = graph.macs(chunked())
    assert found["conv"] == 8 * 64 * 64


def test_shapes_that_depend_on_the_image_are_left_open() -> None:
    sizes = graph.shapes(chunked())
    assert (sizes["chunk"], sizes["top"]) == ((1, 2, 64, 64), (1, 64, 64))
    assert 0 in sizes["output0"]


def with_attention(flat: tuple[int, ...]) -> onnx.ModelProto:
    """A convolution, a Reshape to ``flat`` and back as attention has it, a convolution, and a tail for one image."""
    weights = [
        floats((8, 3, 1, 1), "w0"),
        array(np.random.default_rng(0).random((8, 8, 1, 1)).astype(np.float32), "w1"),
        array(np.array(flat), "flat"),
        array(np.array([1, 8, 64, 64]), "back"),
        array(np.array([1, -1, 6]), "tail"),
    ]
    nodes = [
        node("Conv", ["images", "w0"], "c0", "/model.0/Conv"),
        node("Reshape", ["c0", "flat"], "r0", "/model.0/Reshape"),
        node("Softmax", ["r0"], "s0", "/model.0/Softmax", axis=-1),
        node("Reshape", ["s0", "back"], "r1", "/model.0/Reshape_1"),
        node("Conv", ["r1", "w1"], "c1", "/model.1/Conv"),
        node("Sigmoid", ["c1"], "sigmoid", "/model.1/Sigmoid"),
        node("Reshape", ["sigmoid", "tail"], "output0", "/model.1/Reshape"),
    ]
    return make_model(nodes, weights, shape_out=(1, 4096 * 8 // 6, 6))


def test_a_batch_gives_every_image_its_own_raw_head() -> None:
    model = with_attention((1, 2, 4, 4096))
    images = np.random.default_rng(1).random((3, 3, 64, 64)).astype(np.float32)

    def run(one: onnx.ModelProto, fed: NDArray[np.float32]) -> NDArray[np.float32]:
        session = onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(["c1"], {"images": fed})[0])

    singles = [run(graph.raw_head_of_batch(model, 1), image[None]) for image in images]
    assert np.array_equal(run(graph.raw_head_of_batch(model, 3), images), np.concatenate(singles))
    assert len(model.graph.node) == 7 and model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_a_graph_that_takes_one_image_only() -> None:
    with pytest.raises(UnavailableError, match="2 images at once"):
        graph.raw_head_of_batch(with_attention((4, 2, 1, 4096)), 2)


def test_weights_beside_the_file_are_taken_in(tmp_path: Path) -> None:
    path = make_detector(tmp_path / "toy.onnx")
    whole = path.read_bytes()
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="toy.data", size_threshold=0)
    assert (tmp_path / "toy.data").exists() and len(path.read_bytes()) < len(whole)
    graph.embed(path)
    assert [file.name for file in tmp_path.iterdir()] == ["toy.onnx"]
    for one, two in zip(onnx.load(path).graph.initializer, onnx.load_from_string(whole).graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(two))
    (tmp_path / "none.onnx").write_bytes(b"no ONNX")
    graph.embed(tmp_path / "none.onnx")
    assert (tmp_path / "none.onnx").read_bytes() == b"no ONNX"
