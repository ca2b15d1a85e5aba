"""The flow without pytest: what the suite says of a case, the library says too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lowbit import gate, runtime
from lowbit.evaluate import Case, Evaluation, Given
from lowbit.results import Status
from lowbit.schemes import find
from lowbit.store.store import Store
from tests.unit import toys


def test_a_case_comes_to_its_verdict(tmp_path: Path) -> None:
    detector = toys.make_detector(tmp_path / "toy.onnx")
    given = Given(
        dataset=toys.make_dataset(tmp_path / "val"), calibration=toys.make_calibration(tmp_path / "calibration")
    )
    evaluation = Evaluation(Store(tmp_path / "store"), given, lambda _: None)
    case = Case(str(detector), find("int8-ort-minmax"), runtime.find(runtime.DEFAULT))
    assert evaluation.unable(case, timed=False, scored=True) is None
    evidence = evaluation.evidence(case)
    assert (case.id, evidence.accuracy.map, evidence.checked.map) == ("toy-int8-ort-minmax", 1.0, 1.0)
    macs = evaluation.kernels(case).int8_mac_fraction
    verdict = gate.judge({"map": 0.01, "int8_macs": 0.5}, evidence.drops, evidence.interval, macs)
    assert (verdict.status, verdict.allowed) == (Status.PASSED, True)


def test_the_flow_needs_no_pytest() -> None:
    code = (
        "import sys, lowbit.evaluate; print({'pytest', 'lowbit_pytest'} & {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
