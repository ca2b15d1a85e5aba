"""ONNX Runtime's INT8 graph, laid out for its CPU kernels: what is changed for speed, and that the numbers survive it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lowbit import graph, runtime
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import load_calibration
from lowbit.graph import layout
from lowbit.measure import executed_kernels
from lowbit.quantize import Job, ort
from lowbit.quantize.offers import Offers
from tests.unit import toys

SIZE = toys.SIZE
Values = NDArray[np.float32]


def detector(rng: np.random.Generator) -> onnx.ModelProto:
    """A stem and a neck as YOLO's: SiLU, an upsampling joined with what it is joined with, one head, a tail in float."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, NDArray[np.generic]] = {"nothing": np.array([], np.float32)}

    def add(op: str, inputs: list[str], output: str, name: str, **options: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=name, **options))
        return output

    def conv(data: str, out: int, given: int, name: str, *, kernel: int = 1, stride: int = 1) -> str:
        weights[f"{name}.w"] = rng.normal(0, 4 / np.sqrt(given * kernel), (out, given, kernel, kernel)).astype(
            np.float32
        )
        # Far below 0 in some channels, as trained detectors are.
        lowest = 0 if name == "/model.5" else -40
        weights[f"{name}.b"] = np.linspace(lowest, 8, out, dtype=np.float32)
        pads, options = kernel // 2, {"kernel_shape": [kernel] * 2, "strides": [stride] * 2}
        return add("Conv", [data, f"{name}.w", f"{name}.b"], f"{name}.c", f"{name}/Conv", pads=[pads] * 4, **options)

    def silu(data: str, name: str) -> str:
        gate = add("Sigmoid", [data], f"{name}.s", f"{name}/Sigmoid")
        return add("Mul", [data, gate], f"{name}.m", f"{name}/Mul")

    first = silu(conv("images", 8, 3, "/model.0", kernel=3, stride=2), "/model.0/act")
    second = silu(conv(first, 8, 8, "/model.1", kernel=3, stride=2), "/model.1/act")
    weights["scales"] = np.array([1, 1, 2, 2], np.float32)
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    up = add("Resize", [second, "nothing", "scales"], "up", "/model.2/Resize", **how)
    joined = add("Concat", [up, first], "joined", "/model.3/Concat", axis=1)
    third = silu(conv(joined, 8, 16, "/model.4"), "/model.4/act")
    head = conv(third, 6, 8, "/model.5")
    weights["flat"], weights["best"] = np.array([1024, 6]), np.array([3, 5, 1000])
    tail = add("Transpose", [head], "last", "/model.5/Transpose", perm=[0, 2, 3, 1])
    tail = add("Reshape", [tail, "flat"], "rows", "/model.5/Reshape")
    add("ReduceMax", [tail], "top", "/model.5/ReduceMax", axes=[1], keepdims=0)
    add("Gather", [tail, "best"], "chosen", "/model.5/Gather", axis=0)
    body = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [
            helper.make_tensor_value_info("top", TensorProto.FLOAT, [1024]),
            helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [3, 6]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def model() -> onnx.ModelProto:
    return detector(np.random.default_rng(3))


@pytest.fixture
def job(tmp_path: Path, model: onnx.ModelProto) -> Job:
    onnx.save(model, str(tmp_path / "toy.onnx"))
    return Job(
        scheme="int8-ort-minmax",
        settings={"calibration_method": "minmax"},
        source=tmp_path / "toy.onnx",
        identity={},
        input=InputSpec(SIZE),
        calibration=load_calibration(toys.make_calibration(tmp_path / "calibration")),
        output=tmp_path / "model.onnx",
        unfinished=tmp_path,
        progress=lambda _: None,
    )


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())


def run(model: onnx.ModelProto, image: Values, *, optimized: bool = True) -> list[Values]:
    settings = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {"images": image})]


def build_one(job: Job, model: onnx.ModelProto, *, exclude: Sequence[str] = ()) -> onnx.ModelProto:
    """Returns the float graph, its weights rounded, that the quantizers were placed in."""
    offers = Offers()
    floating = ort.prepared(job, model, offers)
    ort.quantize(job, floating, "minmax", offers, exclude=exclude)
    assert offers.left_out == []
    return floating


def images(job: Job) -> list[Values]:
    return list(job.calibration.batches(job.input))


def sqnr(job: Job, model: onnx.ModelProto, quantized: onnx.ModelProto) -> float:
    """Of what the tail reads, in dB, over the calibration images."""
    noise = power = 0.0
    for image in images(job):
        one, two = (run(m, image)[0] for m in (model, quantized))
        noise += float(np.square(two - one).sum())
        power += float(np.square(one - one.mean()).sum())
    return 10 * float(np.log10(power / max(noise, 1e-12)))


def test_the_stem_is_the_first_convolution(model: onnx.ModelProto) -> None:
    assert graph.stem(model) == ["/model.0/Conv"]
    model.graph.node[0].input[0] = "prepared"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "mean"))
    model.graph.node.insert(0, helper.make_node("Sub", ["images", "mean"], ["prepared"], name="prepare"))
    assert graph.stem(model) == ["/model.0/Conv"]
    model.graph.node[0].CopyFrom(helper.make_node("Sigmoid", ["images"], ["prepared"], name="prepare"))
    assert graph.stem(model) == []


def test_what_only_convolutions_in_float_feed(model: onnx.ModelProto) -> None:
    stem = ["/model.0/act/Sigmoid", "/model.0/act/Mul"]
    assert graph.downstream(model, ["/model.0/Conv"]) == stem
    neck = ["/model.1/act/Sigmoid", "/model.1/act/Mul", "/model.2/Resize"]
    assert graph.downstream(model, ["/model.0/Conv", "/model.1/Conv"]) == [*stem, *neck, "/model.3/Concat"]
    assert graph.downstream(model, []) == []


def test_with_all_convolutions_in_float_nothing_is_rounded(job: Job, model: onnx.ModelProto) -> None:
    build_one(job, copied(model), exclude=[n.name for n in graph.weighted_convolutions(model)])
    assert not graph.activation_scales(graph.load(job.output))
    assert sqnr(job, model, graph.load(job.output)) > 100


def test_what_is_built_and_that_it_sees_the_same(job: Job, model: onnx.ModelProto) -> None:
    build_one(job, copied(model), exclude=graph.stem(model))
    quantized = graph.load(job.output)
    dtypes = {weight.node: weight.dtype for weight in graph.structure(quantized).weights}
    assert dtypes == {
        "/model.0/Conv": "FLOAT",
        "/model.1/Conv": "INT8",
        "/model.4/Conv": "INT8",
        "/model.5/Conv": "INT8",
    }
    assert "Resize" not in {node.op_type for node in quantized.graph.node}
    scales = graph.activation_scales(quantized)
    assert scales["up"] == scales["joined"] == scales["/model.1/act.m"]
    assert sqnr(job, model, quantized) > 25
    made = {output: node for node in quantized.graph.node for output in node.output}
    for name in ("top", "chosen"):  # the tail picks integers and dequantizes what it picked
        assert made[name].op_type == "DequantizeLinear"


def test_convolutions_that_share_a_bias_are_all_integer(job: Job, model: onnx.ModelProto) -> None:
    convs = {node.name: node for node in model.graph.node if node.op_type == "Conv"}
    # As PyTorch's exporter stores equal parameters.
    convs["/model.4/Conv"].input[2] = convs["/model.1/Conv"].input[2]
    alias = helper.make_node("Identity", [convs["/model.1/Conv"].input[2]], ["alias"], name="alias")
    model.graph.node.insert(0, alias)
    convs["/model.0/Conv"].input[2] = "alias"
    wanted = run(model, images(job)[0])
    layout.own_parameters(model)
    assert all(np.array_equal(one, two) for one, two in zip(run(model, images(job)[0]), wanted, strict=True))
    build_one(job, copied(model))
    options = runtime.SessionOptions()
    assert executed_kernels.kernels(job.output, options, images(job)[0]).int8_mac_fraction == 1
    assert sqnr(job, model, graph.load(job.output)) > 20


def quantizer(scale: float, zero: int) -> graph.Quantizer:
    return np.asarray(scale, np.float32), np.asarray(zero, np.uint8)


@pytest.mark.parametrize("step", [0.004, 0.02, 0.05, 0.13, 0.5])
@pytest.mark.parametrize(("scale", "zero"), [(0.3, 200), (0.15, 100), (0.5, 230)])
def test_saturating_inputs_of_silu_give_the_nothing_that_they_gave(step: float, scale: float, zero: int) -> None:
    """The sigmoid in steps of 1/255, as everywhere; every integer of both quantizers is tried."""
    gate, product = quantizer(1 / 255, 0), quantizer(step, 60)

    def silu(value: float, data: graph.Quantizer) -> int:
        held = float(data[0]) * (min(255, max(0, round(value / float(data[0])) + int(data[1]))) - int(data[1]))
        return round(held * round(255 / (1 + np.exp(-held))) / 255 / step)

    coarse = quantizer(scale, zero)
    fine = ort.saturating(coarse, gate, product)
    assert fine is not None and float(fine[0]) < float(coarse[0])
    assert float(fine[0]) * (255 - int(fine[1])) == pytest.approx(scale * (255 - zero), rel=0.01)
    lowest = -float(fine[0]) * int(fine[1])
    below = [silu(value, fine) for value in np.linspace(-scale * zero, lowest, 50)]
    assert below == [0] * 50


def test_a_range_without_negligible_values_stays() -> None:
    assert ort.saturating(quantizer(0.01, 100), quantizer(1 / 255, 0), quantizer(0.05, 60)) is None
    assert ort.saturating(quantizer(0.01, 255), quantizer(1 / 255, 0), quantizer(0.004, 60)) is None


def test_what_silu_takes_saturates_only_where_nothing_comes_of_it(job: Job, model: onnx.ModelProto) -> None:
    model = build_one(job, model)
    scales = graph.activation_scales(graph.load(job.output))
    seen = [x for image in images(job) for x in _tensor(model, "/model.1.c", image).ravel()]
    scale, zero = scales["/model.1.c"]
    lowest, highest = (float(scale) * (level - int(zero)) for level in (0, 255))
    assert min(seen) < -30 < -12 < lowest < -1.278
    assert highest == pytest.approx(max(seen), abs=2 * float(scale))


def test_finer_steps_before_silu_are_worth_something(
    job: Job, model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_one(job, copied(model))
    fine = sqnr(job, model, graph.load(job.output))
    monkeypatch.setattr(ort, "activated", lambda *_: {})
    build_one(job, copied(model))
    assert fine > sqnr(job, model, graph.load(job.output)) + 1


def _tensor(model: onnx.ModelProto, name: str, image: Values) -> Values:
    seen = copied(model)
    seen.graph.output.append(helper.make_empty_tensor_value_info(name))
    return run(seen, image)[-1]


def test_a_range_that_is_much_too_wide_is_not_shared(job: Job, model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "/model.1.w":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 100, tensor.name))
        if tensor.name == "/model.1.b":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(8, np.float32), tensor.name))
    build_one(job, model)
    scales = graph.activation_scales(graph.load(job.output))
    assert float(scales["/model.1/act.m"][0]) < float(scales["joined"][0]) / ort._WIDEST


def upsampling(scales: list[float], **options: str) -> onnx.ModelProto:
    node = helper.make_node("Resize", ["images", "nothing", "scales"], ["out"], name="/up/Resize", **options)
    return helper.make_model(
        helper.make_graph(
            [node],
            "toy",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 5, 7])],
            [helper.make_empty_tensor_value_info("out")],
            [
                numpy_helper.from_array(np.array([], np.float32), "nothing"),
                numpy_helper.from_array(np.array([1, 1, *scales], np.float32), "scales"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


@pytest.mark.parametrize("scales", [[2.0, 2.0], [3.0, 1.0], [1.0, 4.0]])
def test_repeated_rows_are_what_resize_gives(scales: list[float]) -> None:
    model = upsampling(scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    image = np.random.default_rng(0).random((1, 3, 5, 7)).astype(np.float32)
    wanted = run(model, image)[0]
    layout.repeat_rows(model)
    assert [node.op_type for node in model.graph.node] == ["Transpose", "Gather", "Gather", "Transpose"]
    assert np.array_equal(run(model, image)[0], wanted)


@pytest.mark.parametrize(
    ("scales", "options"),
    [
        ([2.0, 2.0], {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}),
        ([2.0, 2.0], {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "floor"}),
        ([2.0, 2.0], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil"}),
        ([1.5, 2.0], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ],
)
def test_other_ways_to_resize_are_left_alone(scales: list[float], options: dict[str, str]) -> None:
    model = upsampling(scales, **options)
    layout.repeat_rows(model)
    assert [node.op_type for node in model.graph.node] == ["Resize"]


def test_the_layout_changes_no_bit(job: Job, model: onnx.ModelProto) -> None:
    ort.place_quantizers(job, ort.prepared(job, model, Offers()), "minmax")
    before = graph.load(job.output)
    ort.lay_out(job, Offers())
    after = graph.load(job.output)
    ops = [[node.op_type for node in m.graph.node[-6:]] for m in (before, after)]
    assert ops[0][-1] == "Gather" and ops[1][-1] == "DequantizeLinear"
    (stem,) = [n for n in graph.weighted_convolutions(after) if n.name == "/model.0/Conv"]
    assert graph.shapes(after)[stem.input[1]] == (16, 12, 3, 2)
    for image in images(job):
        for one, two in zip(run(before, image, optimized=False), run(after, image, optimized=False), strict=True):
            assert np.array_equal(one, two)


def test_the_manifest_s_agreement_is_that_of_the_file_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search tries candidates with ranges by min-max on a few images. Here the one that ships is blind."""
    path = toys.make_detector(tmp_path / "toy.onnx")
    quantize = ort.quantize

    def blind(job: Job, model: onnx.ModelProto, method: str, offers: Offers, **options: Any) -> dict[str, int]:
        placed = quantize(job, model, method, offers, **options)
        if method == "entropy":
            shipped = onnx.load(str(job.output))
            for weight in shipped.graph.initializer:
                if weight.data_type == TensorProto.INT8:
                    weight.CopyFrom(numpy_helper.from_array(np.zeros(weight.dims, np.int8), weight.name))
            onnx.save(shipped, str(job.output))
        return placed

    monkeypatch.setattr(ort, "quantize", blind)
    job = Job(
        scheme="mixed-ort-d1.0",
        settings={"calibration_method": "entropy", "max_drop": 0.01},
        source=path,
        identity={},
        input=InputSpec(SIZE),
        calibration=load_calibration(toys.make_calibration(tmp_path / "calibration", 8)),
        output=tmp_path / "model.onnx",
        unfinished=tmp_path,
        progress=lambda _: None,
    )
    found = ort.build(job)
    assert min(point["drop"] for point in found["tried"]) == 0
    assert found["agreement_drop"] > 0.5
