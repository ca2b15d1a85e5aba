"""The parity guard on the real fault: ONNX Runtime 1.24.4 and a QCDQ graph as Brevitas writes it."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from fixtures.workbench import Workbench
from lowbit import runtime
from lowbit.errors import LowbitError, UnavailableError
from lowbit.proof import check_parity

FAULTY = onnxruntime.__version__.startswith("1.24.")


@pytest.mark.real
def test_brevitas_own_graph_has_parity_or_is_refused(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed activations, narrow weights, initializers that may be overridden: 0.39 AP becomes 0.03 on 1.24.4."""
    from brevitas.quant.scaled_int import Int8ActPerTensorFloat, Int8WeightPerChannelFloat

    from lowbit.qat import layers

    try:
        detector = workbench.detector("yolov10n")
    except UnavailableError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(layers, "ShiftedUint8ActPerTensorFloat", Int8ActPerTensorFloat)
    monkeypatch.setitem(layers._WEIGHTS, (8, "channel"), Int8WeightPerChannelFloat)
    network, calibration, path = layers.fused(detector), workbench.calibration("yolov10n"), tmp_path / "signed.onnx"
    settings = {"weight_bits": 8, "activation_bits": 8, "scales": "channel"}
    layers.quantize_convolutions(network, settings, set())
    layers.calibrate(network, calibration.first(4).batches(detector.input), fresh=False)
    layers.export(network, detector.input.size, path)
    options = runtime.deployed_options("w8a8")
    session, inputs = runtime.open_session(path, options), workbench.inputs("yolov10n")
    if FAULTY:
        with pytest.raises(LowbitError, match=r"change what the detector sees.*qdqisint8allowed=1"):
            check_parity(path, session, options, detector.head, inputs)
    else:
        parity = check_parity(path, session, options, detector.head, inputs)
        assert parity.agreement >= 0.9 and parity.detections > 10
