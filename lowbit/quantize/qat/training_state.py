"""The state of a training besides the student: its moving average, the best checkpoint, the loss curve; saved and
resumed."""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowbit import files
from lowbit.progress import Progress, Step
from lowbit.quantize.qat.held_out import HeldOut
from lowbit.quantize.qat.plan import Plan

STATE, CURVE, PLOT = "training.pt", "training.csv", "training.png"
_COLUMNS = ("step", "classes", "boxes", "features", "labels", "held_out", "agreement")
State = dict[str, Tensor]


def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """One step of an exponential moving average over a module's state; what is not floating point is copied."""
    with torch.no_grad():
        for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)


def copied(state: State) -> State:
    return {name: value.detach().clone() for name, value in state.items()}


@dataclass
class TrainingState:
    """What a training keeps besides the student: its moving average, the best checkpoint of that, the curve."""

    average: nn.Module
    best: State
    rows: list[list[float]]
    best_loss: float = math.inf
    best_agreement: float = math.nan
    best_step: int = 0

    @property
    def said(self) -> str:
        """The best, for progress."""
        if math.isnan(self.best_agreement):
            return f"loss {self.best_loss:.3f}"
        return f"agreement {self.best_agreement:.4f}"

    def follow(self, student: nn.Module, step: int) -> None:
        """Exponential moving average, quick at first."""
        follow(self.average, student, min(0.998, (step + 1) / (step + 20)))

    def check(self, step: int, exam: HeldOut) -> tuple[float, float]:
        """The average's held-out loss and agreement; remembers the best."""
        loss, agreement = exam.loss(self.average), exam.agreement(self.average)
        first = not math.isfinite(self.best_loss)
        better = loss < self.best_loss if math.isnan(agreement) else not agreement <= self.best_agreement
        if first or better:
            self.best, self.best_step = copied(self.average.state_dict()), step
            self.best_loss, self.best_agreement = loss, agreement
        return loss, agreement

    def save(self, folder: Path, plan: Plan, step: int, student: nn.Module, optimizer: Any) -> None:
        """Write the state to resume from and the curve so far."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(
            [[int(row[0]), *(f"{v:.6f}" if math.isfinite(v) else "" for v in row[1:])] for row in self.rows]
        )
        files.write_atomic(folder / CURVE, text.getvalue())
        partial_file = folder / f".{STATE}.{os.getpid()}"
        torch.save(
            {
                "plan": vars(plan),
                "step": step,
                "student": student.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": self.average.state_dict(),
                "best": self.best,
                "best_loss": self.best_loss,
                "best_agreement": self.best_agreement,
                "best_step": self.best_step,
                "rows": self.rows,
            },
            partial_file,
        )
        os.replace(partial_file, folder / STATE)

    def resume(
        self, folder: Path, plan: Plan, student: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
    ) -> int:
        """Resume an interrupted run of the same plan; returns how many steps are done."""
        path = folder / STATE
        if not path.is_file():
            return 0
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["plan"] != vars(plan):
                return 0
        except Exception:  # a torn or foreign file: whatever it is, starting again is right
            return 0
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.best, self.best_step, self.rows = state["best"], state["best_step"], state["rows"]
        self.best_loss, self.best_agreement = state["best_loss"], state["best_agreement"]
        progress(Step(f"distilling, resumed at step {state['step']} of {plan.steps}"))
        return int(state["step"])


def draw_curve(folder: Path) -> None:
    """The loss curve as an image."""
    import matplotlib.figure

    with (folder / CURVE).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    steps = [int(row["step"]) for row in rows]
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, style in (("classes", "-"), ("boxes", "--"), ("features", ":")):
        axes.plot(steps, [float(row[name]) for row in rows], style, linewidth=1, label=name)
    if labelled := [float(row["labels"]) for row in rows if row["labels"]]:
        axes.plot(steps, labelled, "-.", linewidth=1, label="labels")
    held = [(int(row["step"]), float(row["held_out"])) for row in rows if row["held_out"]]
    axes.plot(*zip(*held, strict=True), "ko-", label="held out, classes and boxes")
    agreed = [(int(row["step"]), float(row["agreement"])) for row in rows if row["agreement"]]
    if agreed:
        beside = axes.twinx()
        beside.plot(*zip(*agreed, strict=True), "C3s-")
        beside.set_ylabel("held out, AP with the float detector's boxes as the truth", color="C3")
    axes.set(xlabel="step", ylabel="loss", yscale="log", title="Distillation from the float detector")
    axes.legend()
    figure.savefig(folder / PLOT, dpi=120)
