"""Every variant of the zoo gives the accuracy of its base, in float and in INT8, or is refused with the remedy."""

from __future__ import annotations

from collections.abc import Sequence
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
from lowbit.detector import find_detector
from lowbit.errors import InputError
from lowbit.measure.metrics import evaluate
from lowbit.measure.predict import predict
from lowbit.quantize import Job, modelopt, native, ort
from tests.unit import toys, zoo


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


@st.composite
def compositions(draw: st.DrawFn) -> list[str]:
    groups = draw(st.lists(st.sampled_from(zoo.GROUPS), min_size=2, max_size=5, unique=True))
    return [draw(st.sampled_from(group)) for group in groups]


Seen = list[list[tuple[int, NDArray[np.float32], float]]]


def seen(path: Path, images: Sequence[Path]) -> Seen:
    """Class, box and score of what a detector's file sees with confidence, image by image, in a fixed order."""
    detector = find_detector(str(path))
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
    images = [base / "2-0.png", base / "2-1.png"]
    wanted = seen(base / "toy.onnx", images)
    assert all(wanted)
    folder = tmp_path_factory.mktemp("composed")

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(compositions())
    def compose(names: list[str]) -> None:
        path = folder / "mine.onnx"
        zoo.compose(names, onnx.load(str(base / "toy.onnx")), path)
        for mine, theirs in zip(seen(path, images), wanted, strict=True):
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
