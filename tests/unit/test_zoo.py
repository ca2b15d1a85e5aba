"""Every variant of the zoo gives the accuracy of its base, in float and in INT8, or is refused with the remedy."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from lowbit import graph, runtime
from lowbit.data.coco import load_coco
from lowbit.data.lists import load_calibration
from lowbit.detector import find
from lowbit.errors import InputError
from lowbit.measure.metrics import evaluate
from lowbit.measure.predict import predict
from lowbit.quantize import Job, ort
from tests.unit import toys, zoo


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's folder: detector, data set, calibration list."""
    folder = tmp_path_factory.mktemp("base")
    toys.make_detector(folder / "toy.onnx")
    toys.make_dataset(folder)
    toys.make_calibration(folder)
    return folder


@pytest.mark.parametrize("name", zoo.RIGHT)
def test_a_variant_gives_what_its_base_gives(base: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.onnx"
    zoo.RIGHT[name](onnx.load(str(base / "toy.onnx")), path)
    detector = find(str(path))
    exported, quantized = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    detector.export(exported)
    job = Job(
        "int8-ort-minmax",
        {"calibration_method": "minmax"},
        exported,
        {},
        detector.input,
        load_calibration(base / "calibration.txt"),
        quantized,
        tmp_path,
        lambda _: None,
    )
    ort.build(job)
    dataset = load_coco(base / "instances_toy.json")
    for artifact in (exported, quantized):
        session = runtime.open_session(artifact, runtime.SessionOptions())
        assert evaluate(dataset, predict(session, detector.head, dataset, detector.input)).map == pytest.approx(
            1, abs=0.0005
        ), artifact.name
    macs = graph.macs(graph.load(exported))
    convolutions = graph.weighted_convolutions(graph.load(exported))
    assert len(convolutions) == 4
    assert sum(macs[node.name] for node in convolutions) == 3 * 3 * 64 * 64 + 66 * 3 * 64 * 64 * 3


@settings(max_examples=25, deadline=None, derandomize=True)
@given(names=st.lists(st.sampled_from(sorted(zoo.RIGHT)), min_size=2, max_size=4, unique=True))
def test_composed_variants_are_right_or_refused(
    base: Path, tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    """One after the other, as files are that went through several tools: the right number, or a refusal that names the
    file; never a wrong number or a traceback."""
    path = tmp_path_factory.mktemp("composed") / "mine.onnx"
    model = onnx.load(str(base / "toy.onnx"))
    for name in names:
        try:
            zoo.RIGHT[name](model, path)
            onnx.checker.check_model(onnx.load(str(path)), full_check=True)
        except Exception:  # two that exclude each other, or a conversion that ONNX itself does not know
            assume(False)
        model = onnx.load(str(path))
    try:
        detector = find(str(path))
    except InputError as error:
        assert str(error).startswith(f"{path}: ")
        event("refused")
        return
    event("right")
    exported = path.with_name("float.onnx")
    detector.export(exported)
    dataset = load_coco(base / "instances_toy.json")
    session = runtime.open_session(exported, runtime.SessionOptions())
    found = evaluate(dataset, predict(session, detector.head, dataset, detector.input)).map
    assert found == pytest.approx(1, abs=0.0005), names


@pytest.mark.parametrize("name", zoo.REFUSED)
def test_a_variant_is_refused_with_the_remedy(base: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.onnx"
    make, said = zoo.REFUSED[name]
    make(onnx.load(str(base / "toy.onnx")), path)
    with pytest.raises(InputError) as refused:
        find(str(path))
    assert str(refused.value).startswith(f"{path}: ")
    assert said in str(refused.value)
