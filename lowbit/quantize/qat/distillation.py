"""QAT by distillation: a fake-quantized detector is fine-tuned towards its float original, without labels.

The loss compares the student's neck features and raw head with the teacher's on crops of unlabelled images. The caller
limits how far a weight may move (``bound``). Within half a quantization step, training decides only whether a weight
rounds up or down, as AdaRound (https://arxiv.org/abs/2004.10568) does, but against the whole network's output and not
layer by layer. Scales, zero points and biases are learned too (LSQ, https://arxiv.org/abs/1902.08153).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from lowbit.data.detections import Detections
from lowbit.data.letterbox import InputSpec, preprocess
from lowbit.detector.torch_module import Raw
from lowbit.errors import BuildError, InputError
from lowbit.progress import Progress, Step
from lowbit.quantize.qat.crops import Crops, Labels, Targets
from lowbit.quantize.qat.held_out import HeldOut
from lowbit.quantize.qat.losses import losses
from lowbit.quantize.qat.plan import Plan
from lowbit.quantize.qat.training_state import STATE, TrainingState, copied, draw_curve

# Images held out, at most.
_HELD_OUT = 36
# Steps from one saved state to the next.
_SAVE_EVERY = 25


def quick_precision() -> str:
    """``bf16-mixed`` where the hardware multiplies bfloat16, else ``32-true``; emulated bfloat16 is slower."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "32-true"
    return "bf16-mixed" if "avx512_bf16" in flags or "amx_bf16" in flags else "32-true"


@dataclass(frozen=True)
class Task:
    """All that one training needs.

    ``student`` and ``teacher`` map images to :data:`Raw`. ``scales(name)`` tells scales and zero points from weights.
    ``bound(student)`` is called after every step without gradients, ``widen(student, bits)`` before a step whose weights
    have other bits at least than those of the step before (0: their own). ``detect(network, image)`` tells what a network
    sees: the best checkpoint is then the one that agrees best with the teacher, by AP, on held-out images, and else, or
    if the teacher sees nothing there, the one of the least held-out loss. ``longest``: the detector's input size in pixels.
    ``folder`` keeps the state of an interrupted run and receives the curve. ``labels`` and ``detection_loss(raw,
    targets)``, a scalar an image, are used where the plan gives labels a weight.
    """

    student: nn.Module
    teacher: nn.Module
    images: tuple[Path, ...]
    longest: int
    plan: Plan
    scales: Callable[[str], bool]
    bound: Callable[[nn.Module], None]
    widen: Callable[[nn.Module, int], None]
    folder: Path
    progress: Progress
    detect: Callable[[nn.Module, Path], Detections] | None = None
    labels: Mapping[Path, Labels] | None = None
    detection_loss: Callable[[Raw, Targets], Tensor] | None = None


def distil(task: Task, *, devices: int | None = None) -> dict[str, Any]:
    """Train ``task.student`` in place to its best averaged weights on the held-out images; returns what happened.

    Resumes from ``task.folder`` if a run with the same plan was interrupted there. On a machine with several GPUs the
    batch is split over them (Lightning Fabric). Raises :class:`InputError` for fewer than two images,
    :class:`BuildError` if the loss stops being a number.
    """
    if len(task.images) < 2:
        raise InputError(f"QAT needs two or more training images; {len(task.images)} given.")
    count = devices or max(1, torch.cuda.device_count())
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=count,
        strategy="ddp_spawn" if count > 1 else "auto",
        precision=quick_precision(),  # type: ignore[arg-type]  # one of Fabric's literals
    )
    report: dict[str, Any] = fabric.launch(partial(_train, task=task))
    # From the file: tensors that a spawned process returns are gone with it.
    state = torch.load(task.folder / STATE, map_location="cpu", weights_only=True)
    task.student.load_state_dict(state["best"])
    draw_curve(task.folder)
    return {**report, "precision": quick_precision(), "devices": count, "images": len(task.images)}


def _train(fabric: Fabric, task: Task) -> dict[str, Any]:
    plan = task.plan
    torch.manual_seed(plan.seed)
    held = min(_HELD_OUT, max(1, len(task.images) // 10))
    # Every n-th: lists are often sorted by source or class.
    held_out = task.images[:: len(task.images) // held][:held]
    crops = Crops(tuple(p for p in task.images if p not in set(held_out)), plan, task.longest, task.labels)
    student = _channels_last(task.student)
    teacher = fabric.to_device(_channels_last(task.teacher)).requires_grad_(False)
    named = [(name, p) for name, p in student.named_parameters() if p.requires_grad]
    weights = [p for name, p in named if not task.scales(name)]
    groups: list[dict[str, Any]] = [
        {"params": weights, "peak": plan.rate},
        {"params": [p for name, p in named if task.scales(name)], "peak": plan.scale_rate},
    ]
    optimizer = torch.optim.Adam([g for g in groups if g["params"]], lr=plan.rate, betas=(0.9, 0.99))
    run = TrainingState(average=copy.deepcopy(student), best=copied(student.state_dict()), rows=[])
    first = run.resume(task.folder, plan, student, optimizer, task.progress)
    run.average = fabric.to_device(run.average)
    model, optimizer = fabric.setup(student, optimizer)
    squares = torch.cat([torch.from_numpy(preprocess(path, InputSpec(task.longest))[0]) for path in held_out])
    squares = fabric.to_device(squares.contiguous(memory_format=torch.channels_last))
    with torch.inference_mode():
        exam = HeldOut(held_out, squares, [teacher(square[None]) for square in squares], task.detect)
    exam.ask(teacher)
    if not first:
        # What training does not improve on held-out images stays as it was.
        run.check(0, exam)
    every = max(1, plan.steps // plan.checks)
    with ThreadPoolExecutor(1) as pool:
        coming: Future[tuple[Tensor, Targets]] = pool.submit(crops.batch, first, fabric.global_rank)
        width = 0
        for step in range(first, plan.steps):
            if plan.width(step) != width:
                width = plan.width(step)
                for network in (student, run.average):
                    task.widen(network, width)
            images, labelled = fabric.to_device(coming.result())
            if step + 1 < plan.steps:
                coming = pool.submit(crops.batch, step + 1, fabric.global_rank)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * _schedule(step, plan.steps)
            with fabric.autocast(), torch.no_grad():
                target = teacher(images)
            found = model(images)
            parts = losses(found, target)
            loss, of_labels = torch.stack(parts).sum(), math.nan
            if task.detection_loss is not None and plan.labels:
                weighted = plan.labels * task.detection_loss(found, labelled)
                loss, of_labels = loss + weighted, weighted.item()
            if not math.isfinite(loss.item()):
                raise BuildError(f"the distillation loss is {loss.item()} at step {step + 1} of {plan.steps}.")
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(loss)
            torch.nn.utils.clip_grad_norm_(weights, 10.0)
            optimizer.step()
            with torch.no_grad():
                task.bound(student)
            run.follow(student, step)
            row: list[float] = [step + 1, *(part.item() for part in parts), of_labels, math.nan, math.nan]
            if (step + 1) % every == 0 or step + 1 == plan.steps:
                task.widen(run.average, 0)
                row[-2:] = run.check(step + 1, exam)
                task.widen(run.average, width)
            run.rows.append(row)
            if fabric.is_global_zero:
                recent = np.mean([r[1:4] for r in run.rows[-20:]], axis=0).sum()
                known = f"loss {recent:.3f}, best held-out {run.said}"
                task.progress(Step("distilling", step + 1, plan.steps, "steps", known))
                if (step + 1) % _SAVE_EVERY == 0 or step + 1 == plan.steps:
                    run.save(task.folder, plan, step + 1, student, optimizer)
    task.widen(student, 0)
    return {
        "best_held_out_loss": round(run.best_loss, 6),
        "best_agreement": None if math.isnan(run.best_agreement) else round(run.best_agreement, 6),
        "best_step": run.best_step,
        "steps": plan.steps,
        "held_out_images": len(held_out),
    }


def _schedule(step: int, steps: int) -> float:
    """A linear warm-up, then a cosine to a hundredth."""
    warm = min(1.0, (step + 1) / max(1, min(50, steps // 10)))
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _channels_last(module: nn.Module) -> nn.Module:
    """Convolutions on the CPU are about twice as fast in this layout."""
    moved: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
    return moved
