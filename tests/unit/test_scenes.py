"""The bundled detector's drawn images: the same on every machine, labelled truthfully."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lowbit.bundled import data
from lowbit.bundled.scenes import CLASSES, SIZE, SPLIT_SEEDS, draw, write_split
from lowbit.data.coco import load_coco


def test_a_seed_is_a_scene() -> None:
    one, again, other = draw(5), draw(5), draw(6)
    assert np.array_equal(one.image, again.image) and np.array_equal(one.boxes, again.boxes)
    assert not np.array_equal(one.image, other.image)


def test_scenes_are_labelled_within_the_image() -> None:
    seen = set()
    for seed in range(60):
        scene = draw(seed)
        assert scene.image.shape == (SIZE, SIZE, 3) and scene.image.dtype == np.uint8
        assert len(scene.boxes) == len(scene.classes)
        low, high = scene.boxes[:, :2], scene.boxes[:, 2:]
        assert (low >= 0).all() and (high <= SIZE).all() and (high - low >= 1).all()
        seen |= set(scene.classes.tolist())
    assert seen == set(range(len(CLASSES)))


def test_splits_do_not_overlap() -> None:
    starts = sorted(SPLIT_SEEDS.values())
    assert min(np.diff(starts)) >= 1_000_000


def test_write_split(tmp_path: Path) -> None:
    path = write_split(tmp_path, "val", 3)
    dataset = load_coco(path, tmp_path)
    assert [image.id for image in dataset.images] == [1, 2, 3]
    assert dataset.category_names == tuple(CLASSES)
    scene = draw(SPLIT_SEEDS["val"] + 1)
    assert np.array_equal(cv2.imread(str(dataset.images[1].path)), scene.image)
    boxes = [a["bbox"] for a in dataset.coco["annotations"] if a["image_id"] == 2]
    expected = np.concatenate([scene.boxes[:, :2], scene.boxes[:, 2:] - scene.boxes[:, :2]], 1)
    np.testing.assert_array_equal(np.array(boxes), expected)
    with pytest.raises(KeyError):
        write_split(tmp_path, "test", 1)


def test_drawn_once_and_finished_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    real = data.write_split  # type: ignore[attr-defined] # replaced where it is called

    def stopped(folder: Path, split: str, count: int) -> Path:
        drawn.append(count)
        if len(drawn) == 1:
            (folder / "val").mkdir()
            raise KeyboardInterrupt
        return real(folder, split, count)

    monkeypatch.setattr(data, "write_split", stopped)
    with pytest.raises(KeyboardInterrupt):
        data.validation(tmp_path, 2)
    assert len(data.validation(tmp_path, 2).images) == 2
    assert len(data.validation(tmp_path, 2).images) == 2
    assert len(drawn) == 2
    assert len(data.training(tmp_path, 2).paths) == len(data.calibration(tmp_path, 2).paths) == 2
