"""The detectors themselves: float accuracy as published for these weights, and both heads saying the same."""

from __future__ import annotations

import numpy as np
import pytest

from lowbit import runtime
from lowbit.data.coco import load_coco
from lowbit.data.dataset import Dataset
from lowbit.data.letterbox import preprocess
from lowbit.detector import Detector, registry
from lowbit.detector.heads.raw import Raw
from lowbit.errors import UnavailableError
from lowbit.measure.metrics import evaluate
from lowbit.measure.predict import predict
from lowbit.schemes import CATALOGUE
from lowbit_pytest.workbench import Workbench

# The real checkpoint was rebuilt from a quantized one: its DFL bins are up to 0.06 off the whole numbers that a decoder
# of raw heads counts in, 0.06 x 32 px at the coarsest stride.
PIXELS = {"yolov10n": 2.0}
NAMES = [pytest.param(name, marks=[] if name == "shapes10n" else pytest.mark.real) for name in registry.REGISTRY]


def find(workbench: Workbench, name: str) -> Detector:
    try:
        return workbench.detector(name)
    except UnavailableError as error:
        pytest.skip(str(error))


def float_map(workbench: Workbench, name: str, dataset: Dataset) -> float:
    path = workbench.artifact(name, CATALOGUE["fp32"]).path
    session = runtime.open_session(path, runtime.find_runtime(runtime.DEFAULT).for_many(runtime.SessionOptions()))
    return evaluate(
        dataset, predict(session, workbench.detector(name).head, dataset, workbench.detector(name).input)
    ).map


@pytest.mark.accuracy
def test_bundled_detector_is_neither_blind_nor_too_easy(workbench: Workbench) -> None:
    """A detector so easy that no quantization hurts it is useless as a gate's test."""
    dataset = find(workbench, "shapes10n").load_data(workbench.store.data)
    assert len(dataset.images) == 200
    assert 0.55 <= float_map(workbench, "shapes10n", dataset) <= 0.85


@pytest.mark.accuracy
@pytest.mark.real
@pytest.mark.parametrize(("subset", "published"), [("val204", 0.3916), ("val100", 0.4658)])
def test_float_accuracy_of_the_real_detector(workbench: Workbench, subset: str, published: float) -> None:
    """What pycocotools gives for these weights and images, 640 px letterbox, end-to-end head."""
    find(workbench, "yolov10n")
    assets = registry.assets_folder()
    assert assets is not None
    dataset = load_coco(assets / "coco" / "annotations" / f"instances_{subset}.json")
    assert float_map(workbench, "yolov10n", dataset) == pytest.approx(published, abs=0.0015)


@pytest.mark.parametrize("name", NAMES)
def test_both_heads_say_the_same(workbench: Workbench, name: str) -> None:
    """Confident detections of the raw head, decoded here, are among the end-to-end head's."""
    detector = find(workbench, name)
    import torch

    from lowbit.detector import torch_module

    network = torch_module.fused(detector)
    raw = Raw(detector.head.sides, detector.head.classes)
    session = runtime.open_session(workbench.artifact(name, CATALOGUE["fp32"]).path, runtime.SessionOptions())
    dataset = detector.load_data(workbench.store.data)
    compared = 0
    for image in dataset.images[:5]:
        tensor, _ = preprocess(image.path, detector.input)
        with torch.inference_mode():
            _, boxes, logits = network(torch.from_numpy(tensor))
        by_raw = raw.decode([torch.cat([boxes, logits], 1).numpy()])
        by_end2end = detector.head.decode(session.run(None, {"images": tensor}))
        # Not the other way round: suppression takes near-duplicates out that the end-to-end head keeps.
        for box, score, label in zip(by_raw.boxes, by_raw.scores, by_raw.classes, strict=True):
            if score < 0.5:
                break
            same = by_end2end.classes == label
            distance = np.abs(by_end2end.boxes[same] - box).max(1) + np.abs(by_end2end.scores[same] - score)
            assert distance.min() < PIXELS.get(name, 0.1)
            compared += 1
    assert compared >= 5
