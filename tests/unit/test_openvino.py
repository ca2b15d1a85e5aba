"""OpenVINO as a runtime: it computes what ONNX Runtime does, tells its kernels, and refuses what it has none for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lowbit import capability, graph, runtime
from lowbit.data.letterbox import InputSpec, preprocess
from lowbit.data.lists import load_calibration
from lowbit.detector import heads
from lowbit.errors import LowbitError
from lowbit.measure import comparison, executed_kernels
from lowbit.measure.parity import check_parity
from lowbit.quantize import Job, ort
from lowbit.runtime import SessionOptions
from lowbit.schemes import CATALOGUE
from tests.unit import toys

OPENVINO = runtime.find_runtime("openvino")
installed = pytest.mark.skipif(OPENVINO.reason() is not None, reason=str(OPENVINO.reason()))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.make_detector(tmp_path_factory.mktemp("toy") / "toy.onnx")


@pytest.fixture(scope="module")
def quantized(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized")
    calibration, output = load_calibration(toys.make_calibration(folder)), folder / "model.onnx"
    spec, settings = InputSpec(toys.SIZE), {"calibration_method": "minmax"}
    ort.build(Job("int8-ort-minmax", settings, detector, {}, spec, calibration, output, folder, lambda _: None))
    return output


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[NDArray[np.float32]]:
    folder = tmp_path_factory.mktemp("images")
    toys.make_images(folder, 3, seed=1)
    return [preprocess(path, InputSpec(toys.SIZE))[0] for path in sorted(folder.iterdir())]


@installed
@pytest.mark.parametrize(("precision", "least"), [("fp32", 100), ("int8", 20)])
def test_it_computes_what_onnxruntime_does(
    precision: str, least: float, detector: Path, quantized: Path, inputs: list[NDArray[np.float32]]
) -> None:
    path, options = detector if precision == "fp32" else quantized, OPENVINO.options(precision)
    model, unoptimized = graph.load(path), SessionOptions(optimized=False)
    found = comparison.compare_heads(
        comparison.raw_heads(model, unoptimized, inputs), comparison.raw_heads(model, options, inputs)
    )
    assert found.sqnr_db > least
    parity = check_parity(path, OPENVINO.open(path, options), options, heads.recognise(path, model), inputs)
    assert parity.detections > 3


@installed
def test_kernels_tell_integers_from_floats(detector: Path, quantized: Path, inputs: list[NDArray[np.float32]]) -> None:
    floating = executed_kernels.kernels(detector, OPENVINO.options("fp32"), inputs[0])
    assert floating.int8_mac_fraction == 0.0
    assert len(floating.float_nodes) == 4
    integer = executed_kernels.kernels(quantized, OPENVINO.options("int8"), inputs[0])
    # All but the first convolution, which int8-ort leaves in float: 9 of 603 MACs a pixel.
    assert integer.int8_mac_fraction == pytest.approx(594 / 603)
    assert set(integer.providers) == {"OpenVINO"}


@installed
def test_outputs_are_the_callers_own(detector: Path, inputs: list[NDArray[np.float32]]) -> None:
    """A request has one buffer an output, which the next run overwrites."""
    session = OPENVINO.open(detector, OPENVINO.options("fp32"))
    first = session.run(None, {"images": inputs[0]})[0]
    kept = first.copy()
    second = session.run(None, {"images": inputs[1]})[0]
    assert np.array_equal(first, kept) and not np.array_equal(first, second)
    assert np.array_equal(session.timed_run(inputs[0])()[0], kept)


@installed
def test_a_file_that_it_does_not_take(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(LowbitError, match=r"x\.onnx: OpenVINO can't load it"):
        OPENVINO.open(tmp_path / "x.onnx", OPENVINO.options("fp32"))


def convolution(kind: int, folder: Path) -> Path:
    """One convolution whose weights are stored in a type, and dequantized."""
    weight = np.random.default_rng(0).integers(-7, 8, (16, 16, 3, 3)).astype(np.float32)
    scale = TensorProto.FLOAT16 if kind == TensorProto.FLOAT16 else TensorProto.FLOAT
    stored = [
        helper.make_tensor("weight", kind, weight.shape, weight.ravel()),
        numpy_helper.from_array(np.full(16, 0.1, helper.tensor_dtype_to_np_dtype(scale)), "scale"),
    ]
    widen = (
        helper.make_node("Cast", ["weight"], ["wide"], to=TensorProto.FLOAT)
        if kind == TensorProto.FLOAT16
        else helper.make_node("DequantizeLinear", ["weight", "scale"], ["wide"], axis=0)
    )
    shape = [1, 16, 16, 16]
    body = helper.make_graph(
        [widen, helper.make_node("Conv", ["x", "wide"], ["y"], name="conv", pads=[1] * 4)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        stored,
    )
    path = folder / "one.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), str(path))
    return path


@installed
@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT16])
def test_what_it_refuses_it_has_no_kernels_for(kind: int, tmp_path: Path) -> None:
    """When this fails, OpenVINO has learnt it: let it take such files."""
    path = convolution(kind, tmp_path)
    try:
        session = OPENVINO.open(path, OPENVINO.options("fp32"))
    except LowbitError:
        return
    session.run(None, {"x": np.zeros((1, 16, 16, 16), np.float32)})
    layers = {
        layer.get_rt_info()["runtimePrecision"].value
        for layer in session._compiled.get_runtime_model().get_ops()  # type: ignore[attr-defined]
        if layer.get_rt_info()["layerType"].value == "Convolution"
    }
    assert layers == {"f32"}


def joined(zero: np.int8 | np.uint8, folder: Path) -> Path:
    """Two tensors of different scales, dequantized, joined and quantized anew for a convolution."""
    rng, nodes, stored = np.random.default_rng(0), [], [numpy_helper.from_array(np.asarray(zero), "zero")]

    def through(tensor: str, name: str, scale: float) -> str:
        """``tensor`` quantized and dequantized."""
        stored.append(numpy_helper.from_array(np.float32(scale), f"{name}_scale"))
        nodes.append(helper.make_node("QuantizeLinear", [tensor, f"{name}_scale", "zero"], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_scale", "zero"], [name]))
        return name

    def convolution_of(tensor: str, name: str, channels: int) -> str:
        # Seven bits: what processors without VNNI add in 16 bits does not saturate.
        weight = rng.integers(-63, 64, (8, channels, 1, 1)).astype(np.int8)
        stored.append(numpy_helper.from_array(weight, f"{name}_weight"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_weight", "step"], [f"{name}_wide"]))
        nodes.append(helper.make_node("Conv", [tensor, f"{name}_wide"], [name], name=name))
        return name

    stored.append(numpy_helper.from_array(np.float32(0.01), "step"))
    image = through("x", "image", 3 / 127)
    sides = [through(convolution_of(image, f"conv{n}", 8), f"side{n}", scale) for n, scale in enumerate((0.06, 0.16))]
    nodes.append(helper.make_node("Concat", sides, ["joined"], axis=1))
    output = convolution_of(through("joined", "all", 0.16), "y", 16)
    shape = [1, 8, 16, 16]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", output)]
    body = helper.make_graph(nodes, "joined", ends[:1], ends[1:], stored)
    path = folder / "joined.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@installed
@pytest.mark.parametrize(("zero", "right"), [(np.int8(0), False), (np.uint8(128), True)], ids=["signed", "unsigned"])
def test_a_concat_of_signed_activations_is_refused_because_it_is_wrong(
    zero: np.int8 | np.uint8, right: bool, tmp_path: Path
) -> None:
    """The same numbers either way. When this fails, OpenVINO is right: let it take symmetric Q/DQ."""
    path = joined(zero, tmp_path)
    feed = {"x": np.random.default_rng(1).normal(0, 1, (1, 8, 16, 16)).astype(np.float32)}
    wanted = runtime.open_session(path, SessionOptions(optimized=False)).run(None, feed)
    found = comparison.compare_heads(wanted, OPENVINO.open(path, OPENVINO.options("int8")).run(None, feed))
    assert (found.sqnr_db > 25) is right, found


@pytest.mark.parametrize(
    ("scheme", "name", "said"),
    [
        ("fp32", "openvino", None),
        ("int8-ort-minmax", "openvino", None),
        ("int8-modelopt-entropy-cpu", "openvino", None),
        ("w8a8-brevitas", "openvino", None),
        ("w8a16-brevitas", "openvino", None),
        ("int8-modelopt-entropy", "openvino", "Concat of signed INT8 activations"),
        ("fp8-modelopt-k0", "openvino", "no FP8 kernels"),
        ("fp16", "openvino", "no FP16 kernels"),
        ("w4a16-brevitas-qat", "openvino", "4-bit weights"),
        ("int8-modelopt-entropy", "trt", None),
        ("fp8-modelopt-k0", "trt", None),
        ("w8a16-brevitas", "trt", None),
        ("w4a16-brevitas-qat", "trt", None),
        ("int8-modelopt-entropy-fp16", "trt", None),
        ("fp8-modelopt-k0-fp16", "trt", None),
        ("w8a8-brevitas-symmetric", "trt", None),
        ("int8-ort-minmax", "trt", "symmetric Q/DQ only"),
        ("int8-modelopt-entropy-cpu", "trt", "symmetric Q/DQ only"),
        ("w8a8-brevitas", "trt", "symmetric Q/DQ only"),
        ("mixed-ort-d1.0", "trt", "symmetric Q/DQ only"),
    ],
)
def test_what_runtimes_take(scheme: str, name: str, said: str | None) -> None:
    """Of TensorRT as its parser says: a graph with zero points is refused."""
    refused = runtime.find_runtime(name).refuses(capability.form(CATALOGUE[scheme]))
    assert refused is None if said is None else said in str(refused)


def test_a_tool_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "TOOL", dataclasses.replace(ort.TOOL, needs={"no_such_module": "no-such-package"}))
    said = capability.missing(CATALOGUE["int8-ort-minmax"], runtime.find_runtime(runtime.DEFAULT))
    assert said == (
        "the tool ort needs no_such_module, which is not installed (pip install -c constraints.txt no-such-package)"
    )
