"""Train shapes10n from nothing on drawn scenes: ``python -m benchmarks.train_bundled --out weights.safetensors``.

YOLOv10n's architecture (Ultralytics' ``yolov10n.yaml``, 10 classes), random initialization, Ultralytics' own end-to-end
loss, AdamW with a warm-up and a cosine, an exponential moving average of the weights. About 40 minutes on two cores.
The data set is drawn once and kept in memory as uint8 (about 2 GB for 6000 scenes); flips and quarter turns multiply
it by eight, because no class depends on its orientation.
"""

from __future__ import annotations

import argparse
import copy
import math
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from lowbit.bundled.scenes import CLASSES, SIZE, SPLIT_SEEDS, Scene, draw
from lowbit.quantize.qat.training_state import follow


def _augment(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One of the eight symmetries of the square, applied to image and boxes; returns RGB CHW uint8 and x1y1x2y2."""
    image, boxes = scene.image, scene.boxes.copy()
    for _ in range(int(rng.integers(4))):
        image = np.rot90(image)  # counter-clockwise: (x, y) -> (y, SIZE - x)
        boxes = np.stack([boxes[:, 1], SIZE - boxes[:, 2], boxes[:, 3], SIZE - boxes[:, 0]], 1)
    if rng.random() < 0.5:
        image = image[:, ::-1]
        boxes = np.stack([SIZE - boxes[:, 2], boxes[:, 1], SIZE - boxes[:, 0], boxes[:, 3]], 1)
    order = (2, 1, 0) if rng.random() < 0.5 else tuple(rng.permutation(3))
    return np.ascontiguousarray(image[..., order].transpose(2, 0, 1)), boxes


def _batch(scenes: list[Scene], picks: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    images, boxes, classes, owner = [], [], [], []
    for slot, pick in enumerate(picks):
        image, xyxy = _augment(scenes[pick], rng)
        images.append(image)
        centre, extent = (xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]
        boxes.append(np.concatenate([centre, extent], 1) / SIZE)
        classes.append(scenes[pick].classes)
        owner.append(np.full(len(xyxy), slot))
    pixels = torch.from_numpy(np.stack(images)).float() / 255
    return {
        "img": pixels.contiguous(memory_format=torch.channels_last),
        "bboxes": torch.from_numpy(np.concatenate(boxes)).float(),
        "cls": torch.from_numpy(np.concatenate(classes)).float()[:, None],
        "batch_idx": torch.from_numpy(np.concatenate(owner)).float(),
    }


def _save(model: torch.nn.Module, path: Path) -> None:
    """Weights as float16, BatchNorm's running statistics as float32 (they can leave float16's range)."""
    state = {
        name: (value.half() if value.is_floating_point() and "running_" not in name else value).contiguous().clone()
        for name, value in model.state_dict().items()
    }
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file(state, partial)
    os.replace(partial, path)


def train(out: Path, *, scenes: int, steps: int, batch: int, seed: int, rate: float) -> None:
    """Train and write ``out``; every 500 steps the averaged weights so far are written to ``out`` too."""
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    started = time.monotonic()
    first = SPLIT_SEEDS["train"]
    with multiprocessing.get_context("spawn").Pool() as pool:
        data = pool.map(draw, range(first, first + scenes), chunksize=50)
    print(f"{scenes} scenes drawn in {time.monotonic() - started:.0f} s", flush=True)

    epoch_steps = scenes // batch
    model: Any = DetectionModel("yolov10n.yaml", nc=len(CLASSES), verbose=False)
    model.args = get_cfg(overrides={"epochs": max(1, steps // epoch_steps)})
    model = model.to(memory_format=torch.channels_last).train()
    model.criterion = model.init_criterion()
    average = copy.deepcopy(model).eval()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": 5e-4}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99))
    order = rng.permutation(scenes)
    recent: list[float] = []
    for step in range(steps):
        warm = min(1.0, (step + 1) / 200)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        within = step % epoch_steps
        if within == 0:
            order = rng.permutation(scenes)
            if step:
                model.criterion.update()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, _ = model.loss(_batch(data, order[within * batch : (within + 1) * batch], rng))
        optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        follow(average, model, 0.9995 * (1 - math.exp(-(step + 1) / 500)))
        recent.append(loss.sum().item() / batch)
        if (step + 1) % 100 == 0:
            spent = time.monotonic() - started
            print(f"step {step + 1}/{steps}  loss {np.mean(recent):.3f}  {spent:.0f} s", flush=True)
            recent.clear()
        if (step + 1) % 500 == 0 or step + 1 == steps:
            _save(average, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--scenes", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    options = parser.parse_args()
    train(
        options.out,
        scenes=options.scenes,
        steps=options.steps,
        batch=options.batch,
        seed=options.seed,
        rate=options.rate,
    )


if __name__ == "__main__":
    main()
