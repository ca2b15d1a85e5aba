"""What lowbit itself costs beside the tools that it calls: ``python -m benchmarks.harness``.

Every row is one figure and what it is a multiple of; figures of pairs come from interleaved runs in one process. Rows:
the import of the package, pytest's collection of the whole suite, COCO scoring of 5000 drawn images with 300 boxes each
(with ``--pycocotools`` beside pycocotools, which takes longer), evaluation of the float detector against the bare sum of
ONNX Runtime's inference on ready tensors, building ``int8-modelopt-entropy`` against ModelOpt alone, and the peak memory
of that build (``--memory-detector yolov10m@random`` for a large one).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lowbit import graph
from lowbit.data.dataset import Dataset, ImageRecord
from lowbit.data.detections import Detections
from lowbit.data.letterbox import preprocess
from lowbit.evaluate import Evaluation, Given
from lowbit.measure import pycocotools_check
from lowbit.measure.metrics import evaluate
from lowbit.measure.predict import predict
from lowbit.runtime import DEFAULT, SessionOptions, find_runtime, open_session
from lowbit.schemes import CATALOGUE
from lowbit.store.key import BuildRequest
from lowbit.store.store import Store, default_root

Row = Callable[[str, str, str], None]


def seconds_of(command: list[str], repeats: int = 5) -> float:
    """The quickest of some runs of a command, in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return min(times)


def drawn(images: int, boxes: int) -> tuple[Dataset, dict[int, Detections]]:
    """A data set with COCO's counts, seven objects of three classes an image, and as many boxes of each image."""
    rng = np.random.default_rng(0)
    entries: list[dict[str, Any]] = []
    found = {}
    for image in range(1, images + 1):
        count = max(1, rng.poisson(7.3))
        corner, extent = rng.uniform(0, 400, (count, 2)), rng.uniform(8, 200, (count, 2))
        objects, classes = np.concatenate([corner, extent], 1), rng.choice(rng.integers(0, 80, 3), count)
        entries += [
            {
                "id": len(entries) + number,
                "image_id": image,
                "category_id": int(category) + 1,
                "bbox": box.tolist(),
                "area": 0.6 * float(box[2] * box[3]),
                "iscrowd": int(rng.random() < 0.02),
            }
            for number, (box, category) in enumerate(zip(objects, classes, strict=True), 1)
        ]
        near = rng.integers(0, count, boxes)
        seen = objects[near] + rng.normal(0, 6, (boxes, 4))
        seen[:, 2:] = seen[:, :2] + np.maximum(seen[:, 2:], 2)
        labels = np.where(rng.random(boxes) < 0.5, classes[near], rng.integers(0, 80, boxes))
        found[image] = Detections(seen.astype(np.float32), rng.random(boxes).astype(np.float32) ** 3, labels)
    categories = [{"id": number, "name": str(number)} for number in range(1, 81)]
    records = [{"id": image, "file_name": f"{image}.jpg", "width": 640, "height": 640} for image in found]
    dataset = Dataset(
        name="drawn",
        annotations=Path("drawn.json"),
        images=tuple(ImageRecord(image, Path(f"{image}.jpg"), 640, 640) for image in found),
        category_ids=tuple(range(1, 81)),
        category_names=tuple(map(str, range(1, 81))),
        coco={"images": records, "annotations": entries, "categories": categories},
    )
    return dataset, found


def scoring(row: Row, *, pycocotools: bool) -> None:
    dataset, found = drawn(5000, 300)
    started = time.perf_counter()
    accuracy = evaluate(dataset, found)
    taken = time.perf_counter() - started
    row("COCO scoring, 5000 images x 300 boxes", f"{taken:.1f} s", "")
    if pycocotools:
        started = time.perf_counter()
        other = pycocotools_check.score(dataset, found).map
        slower = (time.perf_counter() - started) / taken
        row(
            "the same by pycocotools", f"{slower * taken:.1f} s", f"{slower:.1f}x; AP differs by {other - accuracy.map}"
        )


def evaluating(row: Row, evaluation: Evaluation, name: str, images: int, rounds: int) -> None:
    """Reading, letterboxing, inference and scoring against inference alone, A B A B."""
    detector, dataset = evaluation.detector(name), evaluation.dataset(name)
    chosen = dataset.images[:images]
    kept = {image.id for image in chosen}
    coco = {
        **dataset.coco,
        "images": [entry for entry in dataset.coco["images"] if entry["id"] in kept],
        "annotations": [entry for entry in dataset.coco["annotations"] if entry["image_id"] in kept],
    }
    part = replace(dataset, images=chosen, coco=coco)
    path = evaluation.artifact(name, CATALOGUE["fp32"]).path
    session, many = (
        open_session(path, SessionOptions()),
        open_session(path, find_runtime(DEFAULT).for_many(SessionOptions())),
    )
    feed = session.get_inputs()[0].name
    tensors = [preprocess(image.path, detector.input)[0] for image in chosen]
    ratios, sums = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        for tensor in tensors:
            session.run(None, {feed: tensor})
        bare = time.perf_counter() - started
        started = time.perf_counter()
        evaluate(part, predict(many, detector.head, part, detector.input))
        ratios.append((time.perf_counter() - started) / bare)
        sums.append(bare)
    row(
        f"evaluation of {detector.name}, {len(chosen)} images, median of {rounds}",
        f"{np.median(ratios) * np.median(sums):.1f} s",
        f"{np.median(ratios):.2f}x of inference alone ({min(ratios):.2f} to {max(ratios):.2f})",
    )


def building(row: Row, evaluation: Evaluation, name: str, rounds: int) -> None:
    """A lowbit build in an empty store against ModelOpt's own function in a process of its own, A B A B."""
    request = evaluation.request(name, CATALOGUE["int8-modelopt-entropy"])
    ratios, times = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            bare = _modelopt_alone(request, Path(folder))
            started = time.perf_counter()
            artifact = Store(Path(folder) / "store").get(request)
            taken = time.perf_counter() - started
            ratios.append(taken / bare)
            times.append(taken)
            peak = artifact.manifest["peak_rss_bytes"]
    row(
        f"building int8-modelopt-entropy of {name}, {len(request.calibration)} images, median of {rounds}",
        f"{np.median(times):.1f} s",
        f"{np.median(ratios):.2f}x of ModelOpt alone ({min(ratios):.2f} to {max(ratios):.2f}); "
        f"peak memory {peak / 2**30:.2f} GiB",
    )


_ALONE = """
import sys
from pathlib import Path
import numpy as np
from modelopt.onnx.quantization import quantize
from lowbit.data.letterbox import InputSpec, preprocess
source, target, size, name, tail, *images = sys.argv[1:]
class Reader:
    def __init__(self): self.rewind()
    def get_next(self):
        path = next(self.left, None)
        return None if path is None else {name: preprocess(Path(path), InputSpec(int(size)))[0]}
    def get_first(self): return {name: preprocess(Path(images[0]), InputSpec(int(size)))[0]}
    def rewind(self): self.left = iter(images)
quantize(source, quantize_mode="int8", calibration_method="entropy", calibration_data_reader=Reader(),
         calibration_eps=["cpu"], nodes_to_exclude=Path(tail).read_text().split(), output_path=target,
         high_precision_dtype="fp32", dq_only=True)
"""


def _modelopt_alone(request: BuildRequest, folder: Path) -> float:
    """Seconds of a script that does what a user would write, on the same images."""
    model = graph.load(request.source)
    source, tail = folder / "source.onnx", folder / "tail.txt"
    shutil.copyfile(request.source, source)
    tail.write_text("\n".join(graph.decode_tail(model)), encoding="utf-8")
    arguments = [source, folder / "target.onnx", request.input.size, model.graph.input[0].name, tail]
    command = [sys.executable, "-c", _ALONE, *map(str, arguments), *map(str, request.calibration)]
    return seconds_of(command, 1)


def memory(row: Row, evaluation: Evaluation, name: str, images: int) -> None:
    request = evaluation.request(name, CATALOGUE["int8-modelopt-entropy"])
    # Again and again from the first, where a detector's own list is shorter.
    request = replace(request, calibration=(request.calibration * images)[:images])
    with tempfile.TemporaryDirectory() as folder:
        peak = Store(Path(folder)).get(request).manifest["peak_rss_bytes"]
    size = request.input.size
    row(
        f"peak memory, int8-modelopt-entropy of {name}, {len(request.calibration)} images of {size} px",
        f"{peak / 2**30:.2f} GiB",
        "",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="shapes10n")
    parser.add_argument("--images", type=int, default=100, help="of the evaluation")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pycocotools", action="store_true", help="score by pycocotools too")
    parser.add_argument("--memory-detector", help="measure a build's peak memory with this one too")
    parser.add_argument("--skip", action="append", default=[], help="import, collection, scoring, evaluation, building")
    options = parser.parse_args()
    evaluation = Evaluation(Store(default_root()), Given(), lambda _: None)

    def row(what: str, figure: str, against: str) -> None:
        print(f"| {what} | {figure} | {against} |", flush=True)

    print("| what | figure | against |\n|---|---:|---|")
    if "import" not in options.skip:
        with_lowbit, without = (seconds_of([sys.executable, "-c", code]) for code in ("import lowbit", "pass"))
        row("import lowbit", f"{with_lowbit - without:.3f} s", "")
    if "collection" not in options.skip:
        taken = seconds_of([sys.executable, "-m", "pytest", "--collect-only", "-q"], 3)
        row("pytest --collect-only, the whole suite", f"{taken:.1f} s", "")
    if "scoring" not in options.skip:
        scoring(row, pycocotools=options.pycocotools)
    if "evaluation" not in options.skip:
        evaluating(row, evaluation, options.detector, options.images, options.rounds)
    if "building" not in options.skip:
        building(row, evaluation, options.detector, options.rounds)
    if options.memory_detector:
        memory(row, evaluation, options.memory_detector, 100)


if __name__ == "__main__":
    main()
