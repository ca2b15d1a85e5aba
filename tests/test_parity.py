"""The parity guard on real detectors: ONNX Runtime 1.24.4 and a QCDQ graph as Brevitas writes it, and injected faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from lowbit import graph, runtime
from lowbit.errors import LowbitError, UnavailableError
from lowbit.measure import parity
from lowbit.measure.emulation import Emulator
from lowbit.quantize import Job, lower, portable
from lowbit.schemes import find_scheme
from lowbit_pytest.workbench import Workbench
from tests.unit import faults

FAULTY = onnxruntime.__version__.startswith("1.24.")


@pytest.mark.real
def test_brevitas_own_graph_has_parity_or_is_refused(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed activations, narrow weights, initializers that may be overridden: 0.39 AP becomes 0.03 on 1.24.4."""
    from brevitas.quant.scaled_int import Int8ActPerTensorFloat, Int8WeightPerChannelFloat

    from lowbit.detector import torch_module
    from lowbit.quantize import brevitas_layers as layers

    try:
        detector = workbench.detector("yolov10n")
    except UnavailableError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(layers, "ShiftedUint8ActPerTensorFloat", Int8ActPerTensorFloat)
    monkeypatch.setitem(layers._WEIGHTS, (8, "channel"), Int8WeightPerChannelFloat)
    network, calibration, path = (
        torch_module.fused(detector),
        workbench.calibration("yolov10n"),
        tmp_path / "signed.onnx",
    )
    settings = {"weight_bits": 8, "activation_bits": 8, "scales": "channel"}
    layers.quantize_convolutions(network, settings, set())
    layers.calibrate(network, calibration.first(4).batches(detector.input), fresh=False)
    layers.export(network, detector.input.size, path)
    options = runtime.deployed_options("w8a8")
    session, inputs = runtime.open_session(path, options), workbench.inputs("yolov10n", parity.IMAGES, objects=True)
    if FAULTY:
        with pytest.raises(LowbitError, match=r"change what the detector sees.*qdqisint8allowed=1"):
            parity.check_parity(path, session, options, detector.head, inputs)
    else:
        found = parity.check_parity(path, session, options, detector.head, inputs)
        assert found.agreement is not None and found.agreement >= 0.9 and found.detections > 10


FAULTS = (faults.scale_off_by_two, faults.channels_swapped, faults.zero_point_off_by_one, faults.clipped_as_signed)


@pytest.fixture(scope="module")
def probes(workbench: Workbench) -> list[NDArray[np.float32]]:
    """What the guard runs, on the bundled detector."""
    return workbench.inputs("shapes10n", parity.IMAGES, objects=True)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_of_a_runtime_are_found(
    fault: Callable[[onnx.ModelProto, str], onnx.ModelProto],
    workbench: Workbench,
    probes: list[NDArray[np.float32]],
    tmp_path: Path,
) -> None:
    """One convolution of a real detector, a third of the way through it, computes something else."""
    artifact = workbench.artifact("shapes10n", find_scheme("int8-ort-minmax"))
    model = graph.load(artifact.path)
    names = faults.integer_convolutions(model)
    options = runtime.deployed_options("int8")
    execution = parity.FileExecution(fault(model, names[len(names) // 3]), options, tmp_path)
    found = parity.compare(model, execution, workbench.detector("shapes10n").head, probes)
    assert found.detections > 20
    assert found.faults


def test_saturation_is_found_on_every_processor(
    workbench: Workbench, probes: list[NDArray[np.float32]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ModelOpt's artifact, laid out without fitting its weights: 13 points of yolov10n's AP on a processor without VNNI, and
    agreement on detections sees nothing of it. What lowbit builds has no such layer."""
    shipped = workbench.artifact("shapes10n", find_scheme("int8-modelopt-entropy-cpu"))
    assert not Emulator(graph.load(shipped.path)).saturating
    source, start = (workbench.artifact("shapes10n", find_scheme(name)) for name in ("fp32", "int8-modelopt-entropy"))
    settings, output = {"start": "int8-modelopt-entropy"}, tmp_path / "saturating.onnx"
    calibration = workbench.calibration("shapes10n").first(8)
    job = Job(
        "int8-modelopt-entropy-cpu",
        settings,
        source.path,
        {},
        workbench.detector("shapes10n").input,
        calibration,
        output,
        tmp_path,
        print,
        start=start.path.parent,
    )
    monkeypatch.setattr(portable, "fit_artifact", lambda artifact, _: (artifact, {}))
    monkeypatch.setattr(portable, "fit_floats", lambda *_: {})
    monkeypatch.setattr(portable, "check", lambda _: None)
    lower.build(job)
    model = graph.load(output)
    head = workbench.detector("shapes10n").head
    found = parity.compare(model, WithoutVnni(model, tmp_path), head, probes[:2])
    assert found.faults
    assert found.sqnr_db < found.floor_db - 10


class WithoutVnni:
    """A model as a processor without VNNI runs it: its raw head. Outputs are those of this processor."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._emulator = Emulator(model)
        self._here = parity.FileExecution(model, runtime.SessionOptions(optimized=False), folder)
        self._heads = {node.name: node.output[0] for node in graph.last_convolutions(model)}

    def run(self, tensor: NDArray[np.float32]) -> parity.Executed:
        """As :class:`lowbit.measure.parity.Execution` says."""
        heads = self._emulator.run(tensor, vnni=False, outputs=list(self._heads.values()))
        return parity.Executed(self._here.run(tensor).outputs, dict(zip(self._heads, heads, strict=True)))
