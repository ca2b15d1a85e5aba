"""The parity guard, on the toy detector and on faults put in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from lowbit import graph, runtime
from lowbit.data.detections import Detections
from lowbit.data.letterbox import InputSpec, preprocess
from lowbit.data.lists import load_calibration
from lowbit.detector import heads
from lowbit.detector.head import Head
from lowbit.errors import LowbitError
from lowbit.measure import parity
from lowbit.quantize import Job, ort
from tests.unit import faults, toys

SIDE = 32
OPTIONS = runtime.deployed_options("int8")
FAULTS = [faults.scale_off_by_two, faults.channels_swapped, faults.zero_point_off_by_one, faults.clipped_as_signed]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.make_detector(tmp_path_factory.mktemp("toy") / "toy.onnx")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[NDArray[np.float32]]:
    folder = tmp_path_factory.mktemp("images")
    toys.make_images(folder, parity.IMAGES, seed=1)
    return [preprocess(path, InputSpec(toys.SIZE))[0] for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def quantized(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized")
    calibration = load_calibration(toys.make_calibration(folder))
    settings = {"calibration_method": "minmax"}
    output = folder / "model.onnx"
    ort.build(Job("int8-ort-minmax", settings, detector, {}, InputSpec(toys.SIZE), calibration, output, folder, print))
    return output


class Blind:
    """A head that sees nothing, so that raw heads and layers are all that is compared."""

    def decode(self, outputs: list[NDArray[np.float32]]) -> Detections:
        """No detections of any outputs."""
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """Four convolutions with SiLU between them and random weights, in INT8 by ONNX Runtime."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    make, rng = onnx.helper.make_node, np.random.default_rng(7)
    nodes, stored, channels = [], {}, [3, 16, 16, 16, 8]
    for number, (given, made) in enumerate(pairwise(channels)):
        source = f"s{number - 1}" if number else "images"
        stored[f"w{number}"] = rng.normal(0, 1.5 / np.sqrt(given * 9), (made, given, 3, 3)).astype(np.float32)
        stored[f"b{number}"] = rng.normal(0, 0.3, made).astype(np.float32)
        nodes.append(make("Conv", [source, f"w{number}", f"b{number}"], [f"c{number}"], f"conv{number}", pads=[1] * 4))
        nodes.append(make("Sigmoid", [f"c{number}"], [f"g{number}"], f"gate{number}"))
        nodes.append(make("Mul", [f"c{number}", f"g{number}"], [f"s{number}"], f"silu{number}"))
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, width, SIDE, SIDE])
        for name, width in (("images", 3), ("c3", 8))
    ]
    graph_of = onnx.helper.make_graph(
        nodes[:-2], "network", values[:1], values[1:], [numpy_helper.from_array(v, n) for n, v in stored.items()]
    )
    model = onnx.helper.make_model(graph_of, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images = iter(noise(4, seed=8))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self._images, None)
            return None if image is None else {"images": image}

    output = tmp_path_factory.mktemp("network") / "int8.onnx"
    quantize_static(model, str(output), Reader(), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    return graph.load(output)


def noise(count: int, seed: int) -> list[NDArray[np.float32]]:
    """Images of coarse and fine noise, float32 [1, 3, SIDE, SIDE] in [0, 1]."""
    rng = np.random.default_rng(seed)
    coarse = [np.kron(rng.random((1, 3, 4, 4)), np.ones((SIDE // 4, SIDE // 4))) for _ in range(count)]
    return [(0.7 * one + 0.3 * rng.random(one.shape)).astype(np.float32) for one in coarse]


def in_network(network: onnx.ModelProto, deployed: onnx.ModelProto, folder: Path) -> parity.Parity:
    """The network where the session runs another graph."""
    execution = parity.FileExecution(deployed, OPTIONS, folder)
    return parity.compare(network, execution, Blind(), noise(parity.IMAGES, seed=9))  # type: ignore[arg-type]


def head_of(path: Path) -> Head:
    return heads.recognise(path, graph.load(path))


def test_a_sound_artifact_has_parity(quantized: Path, inputs: list[NDArray[np.float32]]) -> None:
    session = runtime.open_session(quantized, OPTIONS)
    found = parity.check_parity(quantized, session, OPTIONS, head_of(quantized), inputs)
    assert found.agreement == 1.0
    assert found.detections > 3
    assert found.images == parity.IMAGES


def test_a_sound_network_has_parity(network: onnx.ModelProto, tmp_path: Path) -> None:
    found = in_network(network, network, tmp_path)
    assert found.faults == []
    assert list(found.layers) == ["conv0", "conv1", "conv2", "conv3"]
    assert found.sqnr_db < 200, "two executions that agree to the last digit say nothing of a floor"


@pytest.mark.parametrize("name", ["conv1", "conv3"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_found_where_they_begin(
    fault: Callable[[onnx.ModelProto, str], onnx.ModelProto], name: str, network: onnx.ModelProto, tmp_path: Path
) -> None:
    assert faults.integer_convolutions(network) == ["conv0", "conv1", "conv2", "conv3"]
    found = in_network(network, fault(network, name), tmp_path)
    assert found.faults, f"{fault.__name__} in {name} was not found: {found}"
    assert next(layer for layer, one in found.layers.items() if one.fault) == name


def test_the_message_names_the_layer_and_what_mends_it(
    network: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime with a fault in its integer kernels: without them it computes what the graph says."""
    wrong, opened = faults.scale_off_by_two(network, "conv1"), runtime.open_session

    def open_wrongly(path: Path, options: runtime.SessionOptions) -> runtime.Session:
        if options.optimized and ("session.disable_quant_qdq", "1") not in options.config:
            outputs = list(onnx.load(str(path)).graph.output)
            broken = onnx.ModelProto()
            broken.CopyFrom(wrong)
            del broken.graph.output[:]
            broken.graph.output.extend(outputs)
            path = tmp_path / "broken.onnx"
            onnx.save(broken, str(path))
        return opened(path, options)

    artifact = tmp_path / "artifact.onnx"
    onnx.save(network, str(artifact))
    monkeypatch.setattr(parity, "open_session", open_wrongly)
    session = open_wrongly(artifact, OPTIONS)
    with pytest.raises(
        LowbitError, match=r"channels of conv1 are .* dB .*session.disable_quant_qdq=1 .* avoids it"
    ) as caught:
        parity.check_parity(artifact, session, OPTIONS, Blind(), noise(parity.IMAGES, seed=9))  # type: ignore[arg-type]
    assert "x64quantprecision" not in str(caught.value)


def test_a_qcdq_graph_has_parity(detector: Path, inputs: list[NDArray[np.float32]], tmp_path: Path) -> None:
    """The form in which ONNX Runtime 1.24 was silently wrong on real detectors: a Clip between Q and DQ."""
    path = toys.make_qcdq(detector, tmp_path / "qcdq.onnx")
    options = runtime.deployed_options("w8a8")
    found = parity.check_parity(path, runtime.open_session(path, options), options, head_of(path), inputs)
    assert found.agreement == 1.0
    assert found.detections > 3


def test_where_nothing_is_seen_detections_prove_nothing(network: onnx.ModelProto, tmp_path: Path) -> None:
    found = in_network(network, network, tmp_path)
    assert found.agreement is None
    assert found.detections == 0


def test_regular_and_large_differences_are_faults_and_others_not() -> None:
    assert parity.Departure(mean_db=30.0, floor_db=60.0, ratio=100.0).fault
    assert not parity.Departure(mean_db=30.0, floor_db=60.0, ratio=2.0).fault  # of either sign
    assert not parity.Departure(mean_db=50.0, floor_db=90.0, ratio=100.0).fault  # next to nothing
    assert not parity.Departure(mean_db=30.0, floor_db=31.0, ratio=100.0).fault  # no more than rounding does


def test_means_are_of_channels_over_positions_and_images() -> None:
    rng = np.random.default_rng(1)
    reference = [rng.normal(size=(1, 4, 8, 8)).astype(np.float32) for _ in range(16)]
    shifted, noisy = parity.Differences(), parity.Differences()
    for one in reference:
        moved = one.copy()
        moved[:, 2] += 0.1
        shifted.add([one], [moved])
        noisy.add([one], [one + rng.normal(0, 0.05, one.shape).astype(np.float32)])
    # Both have the same power; of the noise, a 1024th is left in a mean of 16 * 64 numbers.
    assert shifted.sqnr_db == pytest.approx(noisy.sqnr_db, abs=0.3)
    assert shifted.mean_db == pytest.approx(shifted.sqnr_db, abs=0.01)
    assert noisy.mean_db > noisy.sqnr_db + 20
    assert shifted.ratio > 1000 > 10 > noisy.ratio


def test_a_nudge_changes_every_bias_by_a_millionth(quantized: Path) -> None:
    model = graph.load(quantized)
    before, after = graph.biases(model), graph.biases(graph.nudged(model))
    assert before and before.keys() == after.keys()
    for name, (bias, _) in before.items():
        assert after[name][0] == pytest.approx(bias * np.float32(1 + 1e-6), rel=1e-7)


def test_other_options_give_the_same_layers(quantized: Path, inputs: list[NDArray[np.float32]], tmp_path: Path) -> None:
    """Reading what convolutions give does not change how they run: the integer kernels are still there."""
    model = graph.load(quantized)
    places = [name for name, _ in graph.deployed_outputs(model).values()]
    assert len(places) >= 3
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    copied.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in places)
    onnx.save(copied, str(tmp_path / "read.onnx"))
    plain, read = (
        runtime.find_runtime("cpu").kernels(path, OPTIONS, inputs[0], graph.macs(model))
        for path in (quantized, tmp_path / "read.onnx")
    )
    assert read.int8_mac_fraction == plain.int8_mac_fraction
    assert replace(plain, providers={}) == replace(read, providers={})
