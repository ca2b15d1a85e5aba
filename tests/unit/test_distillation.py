"""QAT by distillation on a network of a few hundred weights."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lowbit.data.detections import Detections
from lowbit.errors import BuildError, InputError
from lowbit.progress import Step
from tests.unit.lazily import lazily

torch, networks = lazily("torch"), lazily("tests.unit.networks")
distillation, training_state = lazily("lowbit.quantize.qat.distillation"), lazily("lowbit.quantize.qat.training_state")


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., Any]:
    rng = np.random.default_rng(0)
    paths = []
    for index in range(6):
        paths.append(tmp_path / f"{index}.png")
        cv2.imwrite(str(paths[-1]), rng.integers(0, 256, (40, 70, 3), np.uint8))
    torch.manual_seed(0)
    teacher = networks.Toy().eval()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))

    def make(name: str = "run", **changes: object) -> Any:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made = distillation.Task(
            copy.deepcopy(student),
            teacher,
            tuple(paths),
            64,
            networks.PLAN,
            networks.no_scales,
            networks.nothing,
            networks.one_width,
            folder,
            networks.nothing,
        )
        return replace(made, **changes)  # type: ignore[arg-type]

    return make


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / training_state.CURVE).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_labels_join_where_the_plan_weighs_them(task: Callable[..., Any]) -> None:
    seen: list[int] = []

    def more_boxes(raw: Any, targets: Any) -> Any:
        seen.append(len(targets["bboxes"]))
        return (raw[2] - 1).square().mean()

    plain, blind, taught = task("plain"), task("blind"), task("taught", plan=replace(networks.PLAN, labels=10.0))
    distillation.distil(plain)
    distillation.distil(replace(blind, detection_loss=more_boxes))
    assert not seen
    distillation.distil(replace(taught, detection_loss=more_boxes))
    assert len(seen) == networks.PLAN.steps
    assert all(float(row["labels"]) > 0 for row in curve(taught.folder))
    assert all(row["labels"] == "" for row in curve(plain.folder))
    weights = [made.student.state_dict()["scores.weight"] for made in (plain, blind, taught)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_student_learns_and_the_best_is_kept(task: Callable[..., Any]) -> None:
    made = task()
    report = distillation.distil(made)
    rows = curve(made.folder)
    held = [float(row["held_out"]) for row in rows if row["held_out"]]
    assert len(rows) == networks.PLAN.steps and len(held) == networks.PLAN.checks
    assert report["best_held_out_loss"] == pytest.approx(min(held), abs=1e-5)
    assert min(held) < 0.6 * held[0]
    assert report["best_step"] == networks.PLAN.steps // networks.PLAN.checks * (1 + int(np.argmin(held)))
    assert (made.folder / training_state.PLOT).read_bytes()[:4] == b"\x89PNG"


def test_a_start_that_training_does_not_improve_is_kept(task: Callable[..., Any]) -> None:
    def spoil(network: Any) -> None:
        network.scores.weight.add_(1)  # type: ignore[union-attr, operator]

    made = task(bound=spoil)
    start = copy.deepcopy(made.student.state_dict())
    assert distillation.distil(made)["best_step"] == 0
    assert all(torch.equal(value, start[name]) for name, value in made.student.state_dict().items())


def test_a_collapse_is_not_exported(task: Callable[..., Any]) -> None:
    steps = iter(range(networks.PLAN.steps))

    def collapse(network: Any) -> None:
        if next(steps) > 12:
            network.scores.weight.mul_(3)  # type: ignore[union-attr, operator]

    made = task(bound=collapse)
    report = distillation.distil(made)
    assert report["best_step"] <= 18
    held = [float(row["held_out"]) for row in curve(made.folder) if row["held_out"]]
    assert held[-1] > 2 * report["best_held_out_loss"]


def test_agreement_decides_over_loss(task: Callable[..., Any]) -> None:
    """The teacher sees its own two boxes; the average sees them while its loss is worse than at the end."""
    asked: list[float] = []

    def detect(network: Any, _: Path) -> Detections:
        scores = torch.tensor([0.9, 0.8]).numpy()
        boxes = np.array([[1, 1, 20, 20], [30, 5, 60, 35]], np.float32)
        away = 0.0 if network is made.teacher else float((network.scores.weight - start).abs().sum())
        asked.append(away)
        return Detections(boxes + np.float32(20 * away), scores, np.array([0, 2]))

    made = task()
    start = made.student.scores.weight.detach().clone()
    report = distillation.distil(replace(made, detect=detect))
    rows = [row for row in curve(made.folder) if row["held_out"]]
    assert report["best_step"] == 0 and report["best_agreement"] == pytest.approx(1)
    assert float(rows[-1]["held_out"]) < report["best_held_out_loss"]
    assert all(float(row["agreement"]) < 1 for row in rows) and max(asked) > 0
    assert torch.equal(made.student.scores.weight, start)


def test_a_teacher_that_sees_nothing_leaves_it_to_the_loss(task: Callable[..., Any]) -> None:
    def blind(_: Any, __: Path) -> Detections:
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int))

    made = task(detect=blind)
    report = distillation.distil(made)
    assert report["best_agreement"] is None and report["best_step"] > 0
    assert not any(row["agreement"] for row in curve(made.folder))


def test_bits_fall_to_the_weights_own(task: Callable[..., Any]) -> None:
    said: list[tuple[str, int]] = []
    steps: list[int] = []
    made = task(
        plan=replace(networks.PLAN, widths=(8, 6, 5)),
        bound=lambda _: steps.append(len(said)),
    )

    def widen(network: Any, bits: int) -> None:
        if network is made.student:
            said.append((f"step {len(steps)}", bits))

    distillation.distil(replace(made, widen=widen))
    assert said == [("step 0", 8), ("step 3", 6), ("step 6", 5), ("step 9", 0), ("step 30", 0)]


def test_an_interrupted_run_ends_where_a_whole_one_does(
    task: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = task("whole")
    expected = distillation.distil(whole)
    monkeypatch.setattr("lowbit.quantize.qat.distillation._SAVE_EVERY", 5)

    def stop(step: Step) -> None:
        if step.done == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distillation.distil(task("cut", progress=stop))
    said: list[Step] = []
    rest = task("cut", progress=said.append)
    report = distillation.distil(rest)
    assert "resumed at step 15" in said[0].what
    assert report == expected
    for name, value in whole.student.state_dict().items():
        assert torch.equal(rest.student.state_dict()[name], value), name
    assert curve(rest.folder) == curve(whole.folder)


@pytest.mark.parametrize("damage", [b"", b"half", None])
def test_a_state_of_another_plan_or_a_torn_one_is_not_resumed(task: Callable[..., Any], damage: bytes | None) -> None:
    made = task(plan=replace(networks.PLAN, steps=10))
    distillation.distil(made)
    if damage is not None:
        content = (made.folder / training_state.STATE).read_bytes()
        (made.folder / training_state.STATE).write_bytes(damage and content[: len(content) // 2])
    said: list[Step] = []
    distillation.distil(task(plan=replace(networks.PLAN, steps=12), progress=said.append))
    assert not any("resumed" in step.what for step in said)


def test_two_processes_agree_with_each_other(task: Callable[..., Any]) -> None:
    made = task()
    report = distillation.distil(made, devices=2)
    assert report["devices"] == 2
    held = [float(row["held_out"]) for row in curve(made.folder) if row["held_out"]]
    assert min(held) < 0.6 * held[0]


def test_a_loss_that_is_no_number_is_an_error(task: Callable[..., Any]) -> None:
    def poison(network: Any) -> None:
        network.scores.weight.fill_(float("inf"))  # type: ignore[union-attr, operator]

    with pytest.raises(BuildError, match="loss is nan at step 2 of 30"):
        distillation.distil(task(bound=poison))


def test_one_image_is_too_few(task: Callable[..., Any]) -> None:
    made = task()
    with pytest.raises(InputError, match="two or more training images; 1 given"):
        distillation.distil(replace(made, images=made.images[:1]))
