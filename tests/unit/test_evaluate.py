"""The flow without pytest: what the suite says of a case, the library says too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lowbit import entries, runtime
from lowbit.detector.declare import Declared
from lowbit.errors import InputError
from lowbit.evaluate import Case, Evaluation, Given
from lowbit.results import Status
from lowbit.schemes import find_scheme
from lowbit.store.store import Store
from tests.unit import toys


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy detector and its data."""
    folder = tmp_path_factory.mktemp("toy")
    toys.make_detector(folder / "toy.onnx")
    toys.make_dataset(folder / "val")
    toys.make_calibration(folder / "calibration")
    return folder


def evaluation_of(toy: Path, dataset: str = "val/instances_toy.json", confidence: float | None = None) -> Evaluation:
    calibration = toy / "calibration" / "calibration.txt"
    given = Given(dataset=toy / dataset, calibration=calibration, confidence=confidence)
    return Evaluation(Store(toy / "store"), given, lambda _: None)


def case_of(toy: Path, scheme: str) -> Case:
    return Case(str(toy / "toy.onnx"), find_scheme(scheme), runtime.find_runtime(runtime.DEFAULT))


def test_a_case_comes_to_its_entry(toy: Path) -> None:
    evaluation, case = evaluation_of(toy), case_of(toy, "int8-ort-minmax")
    entry = entries.entry(case, evaluation, {"map": 0.01, "int8_macs": 0.5})
    assert (entry.detector, entry.scheme, entry.provider) == ("toy", "int8-ort-minmax", "cpu")
    assert (entry.status, entry.threshold, entry.drop) == (Status.PASSED, 0.01, 0.0)
    assert entry.map == entry.map_pycocotools == 1.0
    assert entry.artifact is not None and entry.artifact.weight_bits is not None and entry.artifact.weight_bits < 9
    assert entry.runtime is not None and entry.runtime.parity == 1.0 and entry.runtime.int8_mac_fraction is not None
    assert entry.latency is None and evaluation.evidence(case).operating_point is not None
    refused = entries.entry(case, evaluation, {"map": 0.01, "int8_macs": 1.0})
    assert (refused.status, refused.map) == (Status.FAILED, 1.0)
    assert refused.reason is not None and "integer" in refused.reason


def test_a_reference_that_sees_nothing_fails(toy: Path) -> None:
    """It makes every drop from it meaningless; here the boxes are those of another data set."""
    annotations = json.loads((toy / "val" / "instances_toy.json").read_text())
    for one in annotations["annotations"]:
        one["bbox"] = [0, 0, 3, 3]
    (toy / "val" / "others.json").write_text(json.dumps(annotations))
    entry = entries.entry(case_of(toy, "fp32"), evaluation_of(toy, "val/others.json"), {"map": 0.0})
    assert entry.status is Status.FAILED
    assert entry.reason is not None and "sees next to nothing" in entry.reason


def test_a_case_that_cannot_be_measured_has_an_entry_with_the_reason(toy: Path) -> None:
    skipped = entries.entry(case_of(toy, "w4a16-brevitas-qat"), evaluation_of(toy), {"map": 0.01})
    assert (skipped.status, skipped.artifact) == (Status.SKIPPED, None)
    assert skipped.reason is not None and "quantizes a torch module" in skipped.reason
    # The export needs no data, and is known.
    broken = entries.entry(case_of(toy, "fp32"), evaluation_of(toy, "missing.json"), {"map": 0.01})
    assert (broken.status, broken.map) == (Status.ERROR, None)
    assert broken.artifact is not None
    assert broken.reason is not None and "missing.json" in broken.reason


def test_the_threshold_that_a_detector_is_deployed_with(tmp_path: Path) -> None:
    """The option goes before the declaration, also where it is 0, and 0.25 is for who says nothing."""
    declared = {"mine": Declared(model=tmp_path / "a.onnx", confidence=0.4)}

    def asked(name: str, confidence: float | None) -> float:
        given = Given(declared=declared, confidence=confidence)
        return Evaluation(Store(tmp_path), given, lambda _: None).confidence(name)

    assert [asked("mine", None), asked("mine", 0.0), asked("other", None), asked("other", 0.3)] == [0.4, 0.0, 0.25, 0.3]


@pytest.mark.parametrize(("confidence", "recall"), [(None, 1.0), (1.0, 0.0)])
def test_recall_is_counted_at_that_threshold(toy: Path, confidence: float | None, recall: float) -> None:
    """The toy's detections are sure, and none is certain."""
    found = entries.scored(case_of(toy, "fp32"), evaluation_of(toy, confidence=confidence))
    assert (found.confidence, found.recall) == (confidence or 0.25, recall)


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_threshold_that_is_none_is_refused(confidence: float) -> None:
    with pytest.raises(InputError, match=rf"--confidence {confidence:g}: .*between 0 and 1"):
        Given(confidence=confidence)


def test_the_flow_needs_no_pytest() -> None:
    code = (
        "import sys, lowbit.entries; print({'pytest', 'lowbit_pytest'} & {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
