"""Mixed schemes: the agreement that the manifest states is that of the file that ships, not of what the search tried."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import load_calibration
from lowbit.detector import Detector, find_detector
from lowbit.quantize import Job, brevitas, native
from lowbit.sensitivity import assignment
from tests.unit import toys
from tests.unit.lazily import lazily

brevitas_layers = lazily("lowbit.quantize.brevitas_layers")


def blind(model: onnx.ModelProto) -> onnx.ModelProto:
    """With biases that no score survives."""
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Conv" and len(node.input) > 2}
    for tensor in model.graph.initializer:
        if tensor.name in biases:
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, -100, np.float32), tensor.name))
    return model


def job_of(source: Path, folder: Path, scheme: str) -> Job:
    """Whatever is lost is allowed."""
    return Job(
        scheme=scheme,
        settings={"max_drop": 0.99},
        source=source,
        identity={},
        input=InputSpec(toys.SIZE),
        calibration=load_calibration(toys.make_calibration(folder / "calibration", 8)),
        output=folder / "model.onnx",
        unfinished=folder,
        progress=lambda _: None,
    )


def test_native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheapest = assignment.Weights.cheapest

    def then_blind(candidates: assignment.Weights, max_drop: float, output: Path) -> Any:
        found = cheapest(candidates, max_drop, output)
        onnx.save(blind(onnx.load(str(output))), str(output))
        return found

    monkeypatch.setattr(assignment.Weights, "cheapest", then_blind)
    found = native.build(job_of(toys.make_detector(tmp_path / "toy.onnx"), tmp_path, "mixed-native-d99.0"))
    assert min(point["drop"] for point in found["tried"]) == 0
    assert found["agreement_drop"] == 1


# One level of YOLOv10's head on three convolutions.
ARCHITECTURE = {
    "nc": 80,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]]],
    "head": [[[2], 1, "v10Detect", ["nc"]]],
}


def small(folder: Path) -> Detector:
    """A torch detector with drawn weights, which sees something everywhere."""
    architecture = folder / "small.yaml"
    architecture.write_text(json.dumps(ARCHITECTURE))  # YAML, too
    bundled, sides = find_detector("shapes10n"), (toys.SIZE, toys.SIZE)
    return dataclasses.replace(
        bundled,
        name="small",
        input=InputSpec(*sides),
        head=dataclasses.replace(bundled.head, sides=sides),
        architecture=str(architecture),
        weights=None,
        seed=0,
    )


def test_brevitas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_parity = brevitas_layers.check_parity

    def then_blind(student: Any, model: onnx.ModelProto, *more: Any, **options: Any) -> Any:
        found = check_parity(student, model, *more, **options)
        blind(model)
        return found

    monkeypatch.setattr("lowbit.quantize.brevitas_layers.check_parity", then_blind)
    detector = small(tmp_path)
    job = job_of(detector.source, tmp_path, "mixed-brevitas-d99.0")
    settings = {"weight_bits": 4, "activation_bits": 16, "scales": "channel", "max_drop": 0.99}
    found = brevitas.build(dataclasses.replace(job, identity=detector.identity(), settings=settings))["sensitivity"]
    assert min(point["drop"] for point in found["tried"]) < 0.5
    assert found["agreement_drop"] == 1
