"""Every variant of the zoo gives the accuracy of its base, in float and in INT8, or is refused with the remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowbit import graph, runtime, schemes
from lowbit.data.coco import load_coco
from lowbit.data.letterbox import preprocess
from lowbit.data.lists import load_calibration
from lowbit.detector import declare, find_detector
from lowbit.errors import InputError
from lowbit.measure.metrics import evaluate
from lowbit.measure.predict import predict
from lowbit.quantize import Job, modelopt, native, ort
from tests.unit import test_head_families as families
from tests.unit import toys, zoo
from tests.unit.test_head_detr import make_detr


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's folder: detector, data set, calibration list."""
    folder = tmp_path_factory.mktemp("base")
    toys.make_detector(folder / "toy.onnx")
    toys.make_dataset(folder)
    toys.make_calibration(folder)
    return folder


# The other tools take a second a variant: where everything is asked for.
TOOLS = [ort, pytest.param(modelopt, marks=pytest.mark.slow), pytest.param(native, marks=pytest.mark.slow)]
SCHEMES = {ort: "int8-ort-minmax", modelopt: "int8-modelopt-max", native: "mixed-native-d1.0"}


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__.rpartition(".")[2])
@pytest.mark.parametrize("name", zoo.RIGHT)
def test_a_variant_gives_what_its_base_gives(base: Path, tmp_path: Path, name: str, tool: ModuleType) -> None:
    path = tmp_path / "mine.onnx"
    zoo.RIGHT[name](onnx.load(str(base / "toy.onnx")), path)
    detector = find_detector(str(path))
    exported, quantized = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    detector.export(exported)
    scheme = schemes.find_scheme(SCHEMES[tool])
    job = Job(
        scheme.id,
        dict(scheme.settings),
        exported,
        {},
        detector.input,
        load_calibration(base / "calibration.txt"),
        quantized,
        tmp_path,
        lambda _: None,
    )
    tool.build(job)
    dataset = load_coco(base / "instances_toy.json")
    options = runtime.SessionOptions(), runtime.deployed_options(scheme.precision, weights_only=scheme.weights_only)
    for artifact, deployed in zip((exported, quantized), options, strict=True):
        session = runtime.open_session(artifact, deployed)
        assert evaluate(dataset, predict(session, detector.head, dataset, detector.input)).map == pytest.approx(
            1, abs=0.0005
        ), artifact.name
    macs = graph.macs(graph.load(exported))
    convolutions = graph.weighted_convolutions(graph.load(exported))
    assert len(convolutions) == 4
    assert sum(macs[node.name] for node in convolutions) == 3 * 3 * 64 * 64 + 66 * 3 * 64 * 64 * 3


@dataclass(frozen=True)
class Head:
    """A toy with a head of another family. ``declared``: what lowbit.toml says of it; ``unfit``: variants that ONNX or its
    exporters do not have of it."""

    make: Callable[[Path], object]
    declared: str = ""
    unfit: frozenset[str] = frozenset()


def family(head: Callable[[families.Toy], None], *unfit: str) -> Head:
    def make(path: Path) -> None:
        toy = families.Toy()
        head(toy)
        toy.save(path)

    # Their constants are of one image.
    return Head(
        make,
        families.DECLARED.get(head, families.CLASSES),
        frozenset(
            {*unfit, *(name for name in zoo.RIGHT if name.startswith("batch_") and name != "batch_normalization")}
        ),
    )


HEADS = {
    "raw": Head(toys.make_detector),
    "detr": Head(make_detr, unfit=family(families.yolox).unfit),
    "decoded": family(families.decoded),
    "objectness": family(families.objectness),
    "yolox": family(families.yolox),
    # The converter knows no Identity of 14.
    "nas": family(families.nas, "opset_14"),
    # ReduceSum, Squeeze and Unsqueeze take their axes as an input since 13, and NonMaxSuppression takes float32 alone.
    "end2end": family(families.end2end, "opset_11", "opset_12"),
    "efficient_nms": family(families.efficient_nms, "opset_11", "opset_12", "opset_14"),
    "ssd": family(families.ssd, "opset_11", "opset_12", "opset_14"),
    "standard_nms": family(families.standard_nms, "opset_11", "opset_12", "float16", "float16_inside"),
}
DRAWN = st.lists(st.sampled_from(zoo.GROUPS), min_size=2, max_size=5, unique=True)


@st.composite
def compositions(draw: st.DrawFn) -> tuple[str, list[str]]:
    head = draw(st.sampled_from(sorted(HEADS)))
    fitting = ([name for name in group if name not in HEADS[head].unfit] for group in draw(DRAWN))
    return head, [draw(st.sampled_from(names)) for names in fitting if names]


Seen = list[list[tuple[int, NDArray[np.float32], float]]]


def seen(path: Path, images: Sequence[Path], declared: str) -> Seen:
    """Class, box and score of what a detector's file sees with confidence, image by image, in a fixed order."""
    known = {}
    if declared:
        families.write_declaration(path.parent, path.name, declared)
        known = declare.load(path.parent).detectors
    detector = find_detector("mine" if declared else str(path), declared=known)
    exported = path.with_name("float.onnx")
    detector.export(exported)
    session = runtime.open_session(exported, runtime.SessionOptions())
    feed = session.get_inputs()[0].name
    found = []
    for image in images:
        tensor, _ = preprocess(image, detector.input)
        given = detector.head.decode(session.run(None, {feed: tensor}))
        rows = [
            row for row in zip(given.classes.tolist(), given.boxes, given.scores.tolist(), strict=True) if row[2] > 0.5
        ]
        found.append(sorted(rows, key=lambda row: (row[0], *np.rint(row[1]).tolist())))
    return found


# A composition in a tenth of a second: a few at every change, 500 where everything is asked for.
@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_composed_variants_see_what_their_base_sees(
    base: Path, tmp_path_factory: pytest.TempPathFactory, count: int
) -> None:
    """One after the other, as files are that went through several tools: the right detections, no refusal, no traceback."""
    images, folder = [base / "2-0.png", base / "2-1.png"], tmp_path_factory.mktemp("composed")
    path = folder / "mine.onnx"
    models, wanted = {}, {}
    for name, head in HEADS.items():
        head.make(path)
        models[name] = path.read_bytes()
        wanted[name] = seen(path, images, head.declared)
        assert all(wanted[name])

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(compositions())
    def compose(drawn: tuple[str, list[str]]) -> None:
        head, names = drawn
        path.write_bytes(models[head])
        zoo.compose(names, onnx.load_from_string(models[head]), path)
        for mine, theirs in zip(seen(path, images, HEADS[head].declared), wanted[head], strict=True):
            assert [row[0] for row in mine] == [row[0] for row in theirs]
            for (_, box, score), (_, right, certain) in zip(mine, theirs, strict=True):
                # Half a pixel and a hundredth: what float16 leaves.
                assert np.abs(box - right).max() < 0.5 and abs(score - certain) < 0.01

    compose()


@pytest.mark.parametrize("name", zoo.REFUSED)
def test_a_variant_is_refused_with_the_remedy(base: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.onnx"
    make, said = zoo.REFUSED[name]
    make(onnx.load(str(base / "toy.onnx")), path)
    with pytest.raises(InputError) as refused:
        find_detector(str(path))
    assert str(refused.value).startswith(f"{path}: ")
    assert said in str(refused.value)
