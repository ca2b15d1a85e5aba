"""Two executions compared, and which kernels ran, on the toy detector and on faults put in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lowbit import graph, runtime
from lowbit.data.detections import Detections
from lowbit.data.letterbox import InputSpec, preprocess
from lowbit.measure import comparison, executed_kernels
from lowbit.quantize import Job, ort
from lowbit.runtime.ort import read_profile
from tests.unit import toys


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.make_detector(tmp_path_factory.mktemp("toy") / "toy.onnx")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[NDArray[np.float32]]:
    folder = tmp_path_factory.mktemp("images")
    toys.make_images(folder, 3, seed=1)
    return [preprocess(path, InputSpec(toys.SIZE))[0] for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def quantized(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from lowbit.data.lists import load_calibration

    folder = tmp_path_factory.mktemp("quantized")
    calibration = load_calibration(toys.make_calibration(folder))
    output = folder / "model.onnx"
    settings = {"calibration_method": "minmax"}
    ort.build(
        Job(
            "int8-ort-minmax", settings, detector, {}, InputSpec(toys.SIZE), calibration, output, folder, lambda _: None
        )
    )
    return output


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, float).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))


BOX = (10.0, 10.0, 50.0, 50.0)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([(*BOX, 0.9, 1)], [(*BOX, 0.8, 1)], 1.0),
        ([(*BOX, 0.9, 1)], [(*BOX, 0.9, 2)], 0.0),
        ([(*BOX, 0.9, 1)], [(60.0, 10.0, 90.0, 50.0, 0.9, 1)], 0.0),
        ([(*BOX, 0.9, 1)], [], 0.0),
        ([(*BOX, 0.31, 1)], [(*BOX, 0.27, 1)], 1.0),
        ([(*BOX, 0.31, 1)], [(*BOX, 0.10, 1)], 0.0),
        ([(*BOX, 0.9, 1), (60.0, 10.0, 90.0, 50.0, 0.9, 1)], [(*BOX, 0.9, 1)], 2 / 3),
        ([], [], None),
    ],
    ids=["scores", "class", "place", "blind", "hovering", "gone", "one of two", "nothing"],
)
def test_agreement(first: list[tuple[float, ...]], second: list[tuple[float, ...]], expected: float | None) -> None:
    found = comparison.agreement([detections(*first)], [detections(*second)])
    assert found.share == (pytest.approx(expected) if expected is not None else None)


def test_kernels_tell_integers_from_floats(detector: Path, quantized: Path, inputs: list[NDArray[np.float32]]) -> None:
    options = runtime.deployed_options("int8")
    assert executed_kernels.kernels(detector, options, inputs[0]).int8_mac_fraction == 0.0
    integer = executed_kernels.kernels(quantized, options, inputs[0])
    # All but the first convolution, which int8-ort leaves in float: 9 of 603 MACs a pixel.
    assert integer.int8_mac_fraction == pytest.approx(594 / 603)
    assert len(integer.float_nodes) == 1
    assert set(integer.providers) == {"CPUExecutionProvider"}


def test_int8_in_name_only_is_found(quantized: Path, inputs: list[NDArray[np.float32]]) -> None:
    """The same file, with the fusion to integer kernels switched off: it says INT8 and runs in float."""
    options = runtime.SessionOptions(config=(("session.disable_quant_qdq", "1"),))
    found = executed_kernels.kernels(quantized, options, inputs[0])
    assert found.int8_mac_fraction == 0.0
    assert len(found.float_nodes) == 4


def test_macs_are_counted_from_shapes(detector: Path) -> None:
    macs = graph.macs(graph.load(detector))
    assert macs["/model.0/Conv"] == 3 * 3 * 64 * 64
    assert macs["/model.1/level8/Conv"] == 66 * 3 * 8 * 8 * 8 * 8
    assert macs["c32"] == macs["/model.1/level32/Conv"] == 66 * 3 * 32 * 32 * 2 * 2


def test_a_provider_that_hides_its_kernels_proves_nothing() -> None:
    event = {"cat": "Node", "name": "x_kernel_time", "args": {"op_name": "TRTKernel_graph_1", "provider": "Tensorrt"}}
    assert read_profile([event], {}).int8_mac_fraction is None


def test_a_share_of_what_could_not_be_counted_is_none() -> None:
    events = [
        {"cat": "Node", "name": f"{name}_kernel_time", "args": {"op_name": op, "provider": "Cpu"}}
        for name, op in (("one", "QLinearConv"), ("two", "Conv"))
    ]
    assert read_profile(events, {"one": 30, "two": 10}).int8_mac_fraction == 0.75
    assert read_profile(events, {"one": 30}).int8_mac_fraction is None
