"""Nothing is measured twice, and nothing that changed is taken for what it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lowbit import runtime
from lowbit.data.detections import Detections, from_npz, to_npz
from lowbit.evaluate import Case, Evaluation, Given
from lowbit.schemes import find_scheme
from lowbit.store.measured import Measured
from lowbit.store.store import Store
from tests.unit import toys

KINDS = {"detections", "parity", "kernels"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy detector and its data, and a first evaluation in its store."""
    folder = tmp_path_factory.mktemp("toy")
    toys.make_detector(folder / "toy.onnx")
    toys.make_dataset(folder / "val")
    toys.make_calibration(folder / "calibration")
    assert not measure(folder).measured.reused
    return folder


def measure(toy: Path, *, remeasure: bool = False, images: int | None = None) -> Evaluation:
    """An evaluation that has been asked for everything that is kept."""
    given = Given(
        toy / "val" / "instances_toy.json", calibration=toy / "calibration" / "calibration.txt", images=images
    )
    evaluation = Evaluation(Store(toy / "store"), given, lambda _: None, remeasure=remeasure)
    evaluation.evidence(case_of(toy))
    evaluation.kernels(case_of(toy))
    return evaluation


def case_of(toy: Path) -> Case:
    return Case(str(toy / "toy.onnx"), find_scheme("fp32"), runtime.find_runtime(runtime.DEFAULT))


def test_a_second_evaluation_measures_nothing_and_says_the_same(toy: Path) -> None:
    first, second = measure(toy, remeasure=True), measure(toy)
    assert set(second.measured.reused) == KINDS and not first.measured.reused
    case = case_of(toy)
    one, other = first.evidence(case), second.evidence(case)
    assert (one.accuracy.map, one.parity, one.when) == (other.accuracy.map, other.parity, other.when)
    assert first.kernels(case) == second.kernels(case)


def test_other_images_another_processor_and_another_code_are_measured_anew(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "detections" not in measure(toy, images=2).measured.reused
    monkeypatch.setattr("lowbit.host.name", lambda *, with_gpu=True: "another processor")
    assert not measure(toy).measured.reused
    monkeypatch.undo()
    monkeypatch.setattr("lowbit.host.package_version", lambda name: "0.0")
    assert not measure(toy).measured.reused


def test_a_damaged_measurement_is_made_again(toy: Path) -> None:
    folder = toy / "store" / "measured"
    for file in (*folder.glob("*.npz"), *folder.glob("*.json")):
        file.write_bytes(file.read_bytes()[:40])
    assert not measure(toy).measured.reused
    assert set(measure(toy).measured.reused) == KINDS


def test_what_failed_is_not_kept(tmp_path: Path) -> None:
    kept = Measured(tmp_path)
    with pytest.raises(ZeroDivisionError):
        kept.value("ratio", {"of": 1}, float, lambda: 1 / 0)
    assert kept.value("ratio", {"of": 1}, float, lambda: 0.5).value == 0.5
    found = kept.value("ratio", {"of": 1}, float, lambda: 0.75)
    assert (found.value, found.reused) == (0.5, True)
    assert Measured(tmp_path, again=True).value("ratio", {"of": 1}, float, lambda: 0.75).value == 0.75
    about = [json.loads(file.read_text())["depends"] for file in tmp_path.glob("*.json")]
    assert about == [{"of": 1}]


def test_detections_come_back_bit_for_bit() -> None:
    rng = np.random.default_rng(0)

    def some(count: int) -> Detections:
        boxes, scores = rng.random((count, 4), np.float32), rng.random(count, np.float32)
        return Detections(boxes, scores, rng.integers(0, 80, count))

    found = {7: some(3), 2**40: some(0), 3: some(300)}
    back = from_npz(to_npz(found))
    assert list(back) == list(found)
    for image, seen in found.items():
        for name in ("boxes", "scores", "classes"):
            wanted, read = getattr(seen, name), getattr(back[image], name)
            assert wanted.dtype == read.dtype and np.array_equal(wanted, read)
