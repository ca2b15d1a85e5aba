"""The training batches: repeatable crops, whose boxes follow the pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from tests.unit.lazily import lazily

torch, crops, networks = lazily("torch"), lazily("lowbit.quantize.qat.crops"), lazily("tests.unit.networks")


def test_crops_depend_on_seed_step_and_rank_only(tmp_path: Path) -> None:
    rng, paths = np.random.default_rng(0), [tmp_path / f"{index}.png" for index in range(6)]
    for path in paths:
        cv2.imwrite(str(path), rng.integers(0, 256, (40, 70, 3), np.uint8))
    batch, _ = crops.Crops(tuple(paths), networks.PLAN, 64).batch(7, 0)
    assert batch.shape == (2, 3, 32, 32) and batch.dtype == torch.float32
    assert float(batch.min()) >= 0 and float(batch.max()) <= 1
    other = crops.Crops(tuple(paths), networks.PLAN, 64)
    other.batch(3, 0)
    assert torch.equal(other.batch(7, 0)[0], batch)
    assert not torch.equal(other.batch(8, 0)[0], batch)
    assert not torch.equal(other.batch(7, 1)[0], batch)
    assert not torch.equal(crops.Crops(tuple(paths), replace(networks.PLAN, seed=1), 64).batch(7, 0)[0], batch)


def test_boxes_follow_the_pixels(tmp_path: Path) -> None:
    """A white rectangle on black is where its box says, whatever scale, cut, padding and mirror."""
    image = np.zeros((90, 160, 3), np.uint8)
    image[30:60, 50:110] = 255
    path = tmp_path / "white.png"
    cv2.imwrite(str(path), image)
    labels = {path: crops.Labels(np.array([[50, 30, 110, 60]], np.float32), np.array([2]))}
    shown = crops.Crops((path,), replace(networks.PLAN, size=96, batch=64), 128, labels)
    pixels, targets = shown.batch(0, 0)
    assert len(targets["bboxes"]) > 60 and set(targets["cls"].ravel().tolist()) == {2}
    bright = pixels[:, 0].numpy() > 0.55
    unexplained = bright.copy()
    for owner, box in zip(targets["batch_idx"].long(), targets["bboxes"].numpy() * 96, strict=True):
        (x1, y1), (x2, y2) = np.rint(box[:2] - box[2:] / 2).astype(int), np.rint(box[:2] + box[2:] / 2).astype(int)
        inner = bright[owner, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
        assert not inner.size or inner.mean() > 0.98
        unexplained[owner, max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = False
    # What is left belongs to objects of which less than a quarter shows.
    assert unexplained.sum() < 0.12 * bright.sum()
