"""``lowbit compare``: what changed between two runs, and whether it may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lowbit import cli, results
from lowbit.data.coco import load_coco
from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections
from lowbit.measure.metrics import evaluate
from lowbit.results import ArtifactRecord, Entry, Results, Status
from tests.unit.test_results import ENVIRONMENT, latency

IMAGES = 12


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    images, annotations = [], []
    for index in range(1, IMAGES + 1):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((64, 64, 3), index, np.uint8))
        images.append({"id": index, "file_name": f"{index}.png", "width": 64, "height": 64})
        annotations.append({"id": index, "image_id": index, "category_id": 1, "bbox": [8, 8, 40, 40]})
    path = tmp_path / "instances.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]})
    )
    return load_coco(path)


def detections(dataset: Dataset, missed: int) -> dict[int, Detections]:
    """Every object found but those of the first ``missed`` images."""
    found = {}
    for image in dataset.images:
        seen = image.id > missed
        boxes = np.array([[8, 8, 48, 48]] * seen, np.float32).reshape(-1, 4)
        found[image.id] = Detections(boxes, np.full(len(boxes), 0.9, np.float32), np.zeros(len(boxes), np.int64))
    return found


def run(folder: Path, dataset: Dataset, missed: int = 0, speedup: float = 1.2, size: int = 1000, **more: Any) -> Path:
    found = detections(dataset, missed)
    (folder / "detections").mkdir(parents=True)
    np.savez(
        folder / "detections" / "toy-int8-ort-minmax.npz",
        images=np.array(list(found)),
        image_id=np.concatenate([np.full(len(d), i) for i, d in found.items()]),
        boxes=np.concatenate([d.boxes for d in found.values()]),
        scores=np.concatenate([d.scores for d in found.values()]),
        classes=np.concatenate([d.classes for d in found.values()]),
    )
    entry = Entry(
        detector="toy",
        scheme="int8-ort-minmax",
        map=evaluate(dataset, found).map,
        dataset="x",
        dataset_file=str(dataset.annotations),
        dataset_digest=dataset.digest,
        artifact=ArtifactRecord(path="m", sha256=folder.name, bytes=size),
        latency=latency(speedup, speedup - 0.02, speedup + 0.02),
    ).model_copy(update=more)
    Results(schema=results.SCHEMA, run_id=folder.name, started="now", environment=ENVIRONMENT, entries=[entry]).write(
        folder / "results.json"
    )
    return folder


def compare(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = cli.main(["compare", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_nothing_changed(tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = compare(capsys, run(tmp_path / "a", dataset), run(tmp_path / "b", dataset))
    assert code == 0
    assert "| 0.00 [0.00, 0.00] | x 1.00 | x 1.00 | passed |" in text


def test_a_fall_of_ap_has_its_paired_interval(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = run(tmp_path / "a", dataset), run(tmp_path / "b", dataset, missed=3)
    code, text = compare(capsys, first, second)
    assert code == 1
    assert "**regression** `toy-int8-ort-minmax`: AP fell by 24.75 points, limit 0.50" in text
    low, high = (float(v) for v in text.split("24.75 [")[1].split("]")[0].split(", "))
    assert 0 <= low < 24.75 < high < 60
    assert compare(capsys, first, second, "--max-drop", 0.3)[0] == 0
    assert compare(capsys, second, first)[0] == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"speedup": 1.0}, "the speed-up fell to 0.83"),
        ({"size": 1100}, "the file grew to 1.10"),
        ({"status": Status.FAILED}, "the verdict went from passed to failed"),
    ],
)
def test_other_regressions(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    code, text = compare(capsys, run(tmp_path / "a", dataset), run(tmp_path / "b", dataset, **changes))
    assert code == 1 and said in text


def test_noise_and_other_machines_are_no_slowdown(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(tmp_path / "a", dataset, latency=latency(1.2, 0.9, 1.4))
    assert compare(capsys, first, run(tmp_path / "b", dataset, latency=latency(1.0, 0.9, 1.3)))[0] == 0
    elsewhere = latency(0.5, 0.49, 0.51).model_copy(update={"host": "another CPU"})
    code, text = compare(capsys, first, run(tmp_path / "c", dataset, latency=elsewhere))
    assert code == 0 and "|  | x 1.00 | passed |" in text


def test_a_fall_on_another_processor_is_said_to_be_one(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(tmp_path / "a", dataset, host="EPYC with VNNI")
    code, text = compare(capsys, first, run(tmp_path / "b", dataset, missed=3, host="EPYC without"))
    assert code == 1
    assert "AP fell by 24.75 points, limit 0.50 (on another host)" in text
    assert "**Different hosts**: accuracy was measured on EPYC with VNNI, then on EPYC without." in text
    code, text = compare(capsys, first, run(tmp_path / "c", dataset, missed=3, host="EPYC with VNNI"))
    assert "another host" not in text and "Different hosts" not in text


@pytest.mark.parametrize("speedup", [0.1, 9.0])
def test_no_speed_is_compared_across_processors(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str], speedup: float
) -> None:
    first = run(tmp_path / "a", dataset)
    elsewhere = latency(speedup, speedup, speedup).model_copy(update={"host": "another CPU"})
    code, text = compare(capsys, first, run(tmp_path / "b", dataset, latency=elsewhere))
    assert code == 0
    assert "**Speed is not compared**: it was timed on a CPU, then on another CPU." in text
    assert "speed-up fell" not in text and "| 0.00 [0.00, 0.00] |  | x 1.00 |" in text


def test_a_run_that_does_not_know_its_processor_says_so(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = run(tmp_path / "a", dataset), run(tmp_path / "b", dataset)
    assert "does not say" not in compare(capsys, first, second)[1]
    data = json.loads((first / "results.json").read_text())
    data |= {"schema": 1, "environment": {"cpu": {"name": "a CPU", "cores": 2}, "gpu": None}}
    (first / "results.json").write_text(json.dumps(data))
    text = compare(capsys, first, second)[1]
    assert "a does not say the instruction sets of its processor" in text and "b does not say" not in text


def test_other_data_are_not_compared(tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(tmp_path / "a", dataset)
    code, text = compare(capsys, first, run(tmp_path / "b", dataset, missed=6, dataset_digest="other"))
    assert code == 0 and "|  | x 1.00 | x 1.00 |" in text


def test_without_its_images_a_fall_has_no_interval(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = run(tmp_path / "a", dataset), run(tmp_path / "b", dataset, missed=3)
    dataset.images[0].path.unlink()
    code, text = compare(capsys, first, second)
    assert code == 1 and "| 24.75 | x 1.00 |" in text


def test_what_cannot_be_compared_is_said(tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(tmp_path / "a", dataset)
    other = run(tmp_path / "b", dataset, scheme="int8-ort-entropy")
    assert cli.main(["compare", str(first), str(other)]) == 2
    assert "no scheme was measured in both" in capsys.readouterr().err
    assert cli.main(["compare", str(first), str(tmp_path / "nowhere")]) == 2
    found = results.read(first / "results.json")
    extra = found.entries[0].model_copy(update={"scheme": "int8-ort-entropy"})
    found.model_copy(update={"entries": [*found.entries, extra]}).write(first / "results.json")
    code, text = compare(capsys, first, run(tmp_path / "c", dataset))
    assert code == 0 and "`toy-int8-ort-entropy` on cpu is in the first run only" in text
