"""The flow without pytest: what the suite says of a case, the library says too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lowbit import gate, runtime
from lowbit.detector.declare import Declared
from lowbit.errors import InputError
from lowbit.evaluate import Case, Evaluation, Given
from lowbit.results import Status
from lowbit.schemes import find_scheme
from lowbit.store.store import Store
from tests.unit import toys


def test_a_case_comes_to_its_verdict(tmp_path: Path) -> None:
    detector = toys.make_detector(tmp_path / "toy.onnx")
    given = Given(
        dataset=toys.make_dataset(tmp_path / "val"), calibration=toys.make_calibration(tmp_path / "calibration")
    )
    evaluation = Evaluation(Store(tmp_path / "store"), given, lambda _: None)
    case = Case(str(detector), find_scheme("int8-ort-minmax"), runtime.find_runtime(runtime.DEFAULT))
    assert evaluation.unable(case, timed=False, scored=True) is None
    evidence = evaluation.evidence(case)
    assert (case.id, evidence.accuracy.map, evidence.checked.map) == ("toy-int8-ort-minmax", 1.0, 1.0)
    assert evidence.operating_point is not None
    macs = evaluation.kernels(case).int8_mac_fraction
    verdict = gate.judge({"map": 0.01, "int8_macs": 0.5}, evidence.drops, evidence.interval, macs)
    assert (verdict.status, verdict.allowed) == (Status.PASSED, True)


def test_the_threshold_that_a_detector_is_deployed_with(tmp_path: Path) -> None:
    """The option goes before the declaration, also where it is 0, and 0.25 is for who says nothing."""
    declared = {"mine": Declared(model=tmp_path / "a.onnx", confidence=0.4)}

    def asked(name: str, confidence: float | None) -> float:
        given = Given(declared=declared, confidence=confidence)
        return Evaluation(Store(tmp_path), given, lambda _: None).confidence(name)

    assert [asked("mine", None), asked("mine", 0.0), asked("other", None), asked("other", 0.3)] == [0.4, 0.0, 0.25, 0.3]


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_threshold_that_is_none_is_refused(confidence: float) -> None:
    with pytest.raises(InputError, match=rf"--confidence {confidence:g}: .*between 0 and 1"):
        Given(confidence=confidence)


def test_the_flow_needs_no_pytest() -> None:
    code = (
        "import sys, lowbit.evaluate; print({'pytest', 'lowbit_pytest'} & {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
