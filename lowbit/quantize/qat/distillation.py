"""Recovery of a fake-quantized detector from its float original, without labels.

The student is moved towards the teacher's neck features and raw head on crops of unlabelled images. How far a weight
may move is the caller's choice (``bound``): within half a quantization step training decides only whether it rounds up
or down, as AdaRound (https://arxiv.org/abs/2004.10568) does layer by layer, but against the whole network's output.
Scales, zero points and biases are learned too (LSQ, https://arxiv.org/abs/1902.08153).
"""

from __future__ import annotations

import copy
import csv
import io
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lowbit import files
from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections
from lowbit.data.images import read_image
from lowbit.data.letterbox import PAD_VALUE, InputSpec, preprocess
from lowbit.data.pseudo_labels import confident
from lowbit.detector.torch_module import Raw
from lowbit.errors import BuildError, InputError
from lowbit.measure.metrics import DEPLOYED_CONFIDENCE, evaluate
from lowbit.progress import Progress, Step

STATE, CURVE, PLOT = "training.pt", "training.csv", "training.png"
_KEPT_BYTES = 2**30
_HELD_OUT = 36
_SAVE_EVERY = 25
_COLUMNS = ("step", "classes", "boxes", "features", "held_out", "agreement")
# Ultralytics' form of labels: "batch_idx" [n], "cls" [n, 1], "bboxes" [n, 4] centre and extent as fractions.
Targets = dict[str, Tensor]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """How to train. ``size``: side of the crops in pixels; ``rate``: peak learning rate of weights and biases,
    ``scale_rate`` of scales and zero points; ``widths``: the bits that weights have at least first, one after another,
    each for a tenth of the steps; ``checks``: how often the held-out loss is taken; ``labels``: weight of the detection
    loss on labelled boxes beside the distillation, 0 without."""

    steps: int
    rate: float = 1e-4
    scale_rate: float = 1e-5
    widths: tuple[int, ...] = ()
    batch: int = 8
    size: int = 320
    checks: int = 10
    labels: float = 0.0
    seed: int = 0

    def width(self, step: int) -> int:
        """Bits that weights have at least at a step; 0 once they have their own."""
        stage = step * 10 // self.steps
        return self.widths[stage] if stage < len(self.widths) else 0


def quick_precision() -> str:
    """``bf16-mixed`` where the hardware multiplies bfloat16, else ``32-true``; emulated bfloat16 is slower."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "32-true"
    return "bf16-mixed" if "avx512_bf16" in flags or "amx_bf16" in flags else "32-true"


def losses(student: Raw, teacher: Raw) -> tuple[Tensor, Tensor, Tensor]:
    """How far a student is from its teacher: classes, boxes, features; each a scalar, 0 for equal outputs.

    Classes: Kullback-Leibler divergence of every (neighbourhood, class) Bernoulli, where a neighbourhood of 3 x 3 anchors
    is as sure of a class as its surest anchor. Which of them speaks for an object is a contest that rounding decides
    otherwise all the time (a one-to-one head has one winner), and AP asks for a winner, not for which. Boxes: the
    divergence of every side's distribution over the bins, weighted by the teacher's best class probability at the anchor.
    Both are divided by the sum of these weights, so they count per object. Features: mean squared error over the
    teacher's variance.
    """
    features, boxes, scores = student
    target_features, target_boxes, target_scores = (teacher[0], teacher[1].float(), teacher[2].float())
    cross = functional.binary_cross_entropy_with_logits
    near, target_near = (neighbourhoods(logits, target_features) for logits in (scores.float(), target_scores))
    target = target_near.sigmoid()
    classes = cross(near, target, reduction="sum") - cross(target_near, target, reduction="sum")
    classes = classes / target.amax(1).sum().clamp(min=1)
    weight = target_scores.sigmoid().amax(1)
    batch, rows, anchors = target_boxes.shape
    expected = functional.log_softmax(target_boxes.view(batch, 4, rows // 4, anchors), 2)
    found = functional.log_softmax(boxes.float().view(batch, 4, rows // 4, anchors), 2)
    divergence = (expected.exp() * (expected - found)).sum((1, 2))
    parts = [
        functional.mse_loss(mine.float(), other.float()) / other.float().var().clamp(min=1e-12)
        for mine, other in zip(features, target_features, strict=True)
    ]
    return classes, (divergence * weight).sum() / weight.sum().clamp(min=1), torch.stack(parts).mean()


def neighbourhoods(scores: Tensor, features: list[Tensor]) -> Tensor:
    """Class logits [n, classes, anchors], each the largest of its 3 x 3 neighbours on its own stride's grid."""
    grids = [feature.shape[-2:] for feature in features]
    ends = np.cumsum([height * width for height, width in grids])
    levels = [scores[:, :, end - h * w : end] for (h, w), end in zip(grids, ends, strict=True)]
    pooled = [
        functional.max_pool2d(level.reshape(*level.shape[:2], *grid), 3, 1, 1).flatten(2)
        for level, grid in zip(levels, grids, strict=True)
    ]
    return torch.cat(pooled, 2)


@dataclass(frozen=True)
class Labels:
    """An image's objects: ``boxes`` float32 [n, 4], x1 y1 x2 y2 in its own pixels, ``classes`` int64 [n]."""

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]


class Crops:
    """Random crops of images: scaled, cut or padded to a square, mirrored half of the time, lighter or darker; half
    of the squares are put together from four. The teacher answers whatever it is shown, so no label must survive this.

    A step's batch depends on seed, step and rank only, so that a resumed run sees what an uninterrupted one would.
    """

    def __init__(
        self, paths: tuple[Path, ...], plan: Plan, longest: int, labels: Mapping[Path, Labels] | None = None
    ) -> None:
        """``longest``: images are first scaled to this longer side, in pixels."""
        self._paths, self._plan, self._longest, self._labels = paths, plan, longest, labels or {}
        self._kept: dict[int, tuple[NDArray[np.uint8], float]] = {}
        self._bytes = 0

    def _image(self, index: int) -> tuple[NDArray[np.uint8], float]:
        """An image and its scale."""
        if index in self._kept:
            return self._kept[index]
        image = read_image(self._paths[index])
        ratio = self._longest / max(image.shape[:2])
        image = _resized(image, ratio)
        if self._bytes + image.nbytes <= _KEPT_BYTES:
            self._kept[index] = image, ratio
            self._bytes += image.nbytes
        return image, ratio

    def _crop(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Labels]:
        size, index = self._plan.size, int(rng.integers(len(self._paths)))
        image, ratio = self._image(index)
        zoom = float(rng.uniform(0.5, 1.1))
        height, width = (max(16, round(side * zoom)) for side in image.shape[:2])
        top, left = int(rng.integers(max(0, height - size) + 1)), int(rng.integers(max(0, width - size) + 1))
        shown = min(size, height), min(size, width)
        down, right = int(rng.integers(size - shown[0] + 1)), int(rng.integers(size - shown[1] + 1))
        # Scales the window only, not the whole image; pixel centres map as cv2.resize maps them.
        x, y = width / image.shape[1], height / image.shape[0]
        window = np.array([[x, 0, x / 2 - 0.5 - left], [0, y, y / 2 - 0.5 - top]])
        cut = cv2.warpAffine(image, window, shown[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        # Gain and offset of an image that was taken in another light.
        light = np.arange(256) * rng.uniform(0.7, 1.3) + rng.uniform(-20, 20)
        square = np.full((size, size, 3), PAD_VALUE, np.uint8)
        square[down : down + shown[0], right : right + shown[1]] = cv2.LUT(
            cut, np.clip(np.rint(light), 0, 255).astype(np.uint8)
        )
        mirrored = bool(rng.random() < 0.5)
        found = self._labels.get(self._paths[index], Labels(np.zeros((0, 4), np.float32), np.zeros(0, np.int64)))
        moved = found.boxes * (ratio * zoom) + np.array([right - left, down - top] * 2, np.float32)
        labels = _shown(Labels(moved, found.classes), right, down, right + shown[1], down + shown[0])
        if mirrored:
            boxes = labels.boxes
            boxes = np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], 1)
            square, labels = square[:, ::-1], Labels(boxes, labels.classes)
        return square, labels

    def _square(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Labels]:
        """One crop, or four that meet in a random point."""
        if rng.random() < 0.5:
            return self._crop(rng)
        size = self._plan.size
        x, y = (int(v) for v in rng.integers(round(0.3 * size), round(0.7 * size), 2))
        square, parts = np.empty((size, size, 3), np.uint8), []
        for x1, y1, x2, y2 in ((0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)):
            crop, labels = self._crop(rng)
            square[y1:y2, x1:x2] = crop[y1:y2, x1:x2]
            parts.append(_shown(labels, x1, y1, x2, y2))
        boxes, classes = (np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "classes"))
        return square, Labels(boxes, classes)

    def batch(self, step: int, rank: int) -> tuple[Tensor, Targets]:
        """float32 [batch, 3, size, size] RGB in [0, 1], channels last, and what is labelled in it."""
        rng = np.random.default_rng([self._plan.seed, step, rank])
        squares, labels = zip(*(self._square(rng) for _ in range(self._plan.batch)), strict=True)
        stack = np.stack([square[..., ::-1].transpose(2, 0, 1) for square in squares])
        pixels = torch.from_numpy(np.ascontiguousarray(stack)).float().div_(255)
        boxes = np.concatenate([label.boxes for label in labels]) / self._plan.size
        targets = {
            "batch_idx": torch.from_numpy(
                np.repeat(np.arange(len(labels)), [len(one.boxes) for one in labels])
            ).float(),
            "cls": torch.from_numpy(np.concatenate([label.classes for label in labels])).float()[:, None],
            "bboxes": torch.from_numpy(
                np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
            ).float(),
        }
        return pixels.contiguous(memory_format=torch.channels_last), targets


def _shown(labels: Labels, left: int, top: int, right: int, bottom: int) -> Labels:
    """The objects within a window, cut at its edges: those of which a quarter shows, and more than two pixels."""
    boxes = np.clip(labels.boxes, [left, top] * 2, [right, bottom] * 2).astype(np.float32)
    shown, whole = boxes[:, 2:] - boxes[:, :2], labels.boxes[:, 2:] - labels.boxes[:, :2]
    keep = (shown > 2).all(1) & (shown.prod(1) >= 0.25 * whole.prod(1))
    return Labels(boxes[keep], labels.classes[keep])


def _resized(image: NDArray[np.uint8], ratio: float) -> NDArray[np.uint8]:
    height, width = (max(16, round(side * ratio)) for side in image.shape[:2])
    method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


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
        raise InputError(f"recovery by distillation needs two images or more, and got {len(task.images)}.")
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
    _draw(task.folder)
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
    run = _Run(average=copy.deepcopy(student), best=_copied(student.state_dict()), rows=[])
    first = run.resume(task, student, optimizer)
    run.average = fabric.to_device(run.average)
    model, optimizer = fabric.setup(student, optimizer)
    squares = torch.cat([torch.from_numpy(preprocess(path, InputSpec(task.longest))[0]) for path in held_out])
    squares = fabric.to_device(squares.contiguous(memory_format=torch.channels_last))
    with torch.inference_mode():
        exam = _HeldOut(held_out, squares, [teacher(square[None]) for square in squares], task.detect)
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
            loss = torch.stack(parts).sum()
            if task.detection_loss is not None and plan.labels:
                loss = loss + plan.labels * task.detection_loss(found, labelled)
            if not math.isfinite(loss.item()):
                raise BuildError(f"the distillation loss is {loss.item()} at step {step + 1} of {plan.steps}.")
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(loss)
            torch.nn.utils.clip_grad_norm_(weights, 10.0)
            optimizer.step()
            with torch.no_grad():
                task.bound(student)
            run.follow(student, step)
            row: list[float] = [step + 1, *(part.item() for part in parts), math.nan, math.nan]
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
                    run.save(task, step + 1, student, optimizer)
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


def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """One step of an exponential moving average over a module's state; what is not floating point is copied."""
    with torch.no_grad():
        for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)


def _copied(state: State) -> State:
    return {name: value.detach().clone() for name, value in state.items()}


@dataclass
class _HeldOut:
    """Images that are not trained on: as squares float32 [n, 3, size, size], and what the teacher makes of them."""

    images: tuple[Path, ...]
    squares: Tensor
    targets: list[Raw]
    detect: Callable[[nn.Module, Path], Detections] | None
    truth: Dataset | None = None

    def ask(self, teacher: nn.Module) -> None:
        """Take what the teacher is confident of for the truth."""
        if self.detect is not None:
            classes = self.targets[0][2].shape[1]
            self.truth = confident(self.images, classes, self._seen(self.detect, teacher), DEPLOYED_CONFIDENCE)

    def loss(self, network: nn.Module) -> float:
        """Of the raw head alone."""
        with torch.inference_mode():
            found = [losses(network(s[None]), t)[:2] for s, t in zip(self.squares, self.targets, strict=True)]
        return float(np.mean([float(classes + boxes) for classes, boxes in found]))

    def agreement(self, network: nn.Module) -> float:
        """AP with the teacher's confident boxes as the truth; NaN if there are none."""
        if self.truth is None or self.detect is None:
            return math.nan
        return evaluate(self.truth, self._seen(self.detect, network)).map

    def _seen(self, detect: Callable[[nn.Module, Path], Detections], network: nn.Module) -> dict[int, Detections]:
        return {number: detect(network, image) for number, image in enumerate(self.images, 1)}


@dataclass
class _Run:
    """What a training remembers beside the student: its running average, the best of it, the curve."""

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

    def check(self, step: int, exam: _HeldOut) -> tuple[float, float]:
        """The average's held-out loss and agreement; remembers the best."""
        loss, agreement = exam.loss(self.average), exam.agreement(self.average)
        first = not math.isfinite(self.best_loss)
        better = loss < self.best_loss if math.isnan(agreement) else not agreement <= self.best_agreement
        if first or better:
            self.best, self.best_step = _copied(self.average.state_dict()), step
            self.best_loss, self.best_agreement = loss, agreement
        return loss, agreement

    def save(self, task: Task, step: int, student: nn.Module, optimizer: Any) -> None:
        """Write the state to resume from and the curve so far."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(
            [[int(row[0]), *(f"{v:.6f}" if math.isfinite(v) else "" for v in row[1:])] for row in self.rows]
        )
        files.write_atomic(task.folder / CURVE, text.getvalue())
        partial_file = task.folder / f".{STATE}.{os.getpid()}"
        torch.save(
            {
                "plan": vars(task.plan),
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
        os.replace(partial_file, task.folder / STATE)

    def resume(self, task: Task, student: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Take up an interrupted run of the same plan; returns the steps that are done."""
        path = task.folder / STATE
        if not path.is_file():
            return 0
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["plan"] != vars(task.plan):
                return 0
        except Exception:  # a torn or foreign file: whatever it is, starting again is right
            return 0
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.best, self.best_step, self.rows = state["best"], state["best_step"], state["rows"]
        self.best_loss, self.best_agreement = state["best_loss"], state["best_agreement"]
        task.progress(Step(f"distilling, taken up at step {state['step']} of {task.plan.steps}"))
        return int(state["step"])


def _draw(folder: Path) -> None:
    """The loss curve as an image."""
    import matplotlib.figure

    with (folder / CURVE).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    steps = [int(row["step"]) for row in rows]
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, style in (("classes", "-"), ("boxes", "--"), ("features", ":")):
        axes.plot(steps, [float(row[name]) for row in rows], style, linewidth=1, label=name)
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
