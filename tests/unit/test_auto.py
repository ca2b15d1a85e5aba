"""The search for a recipe, on detectors of which one knows what it should find."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lowbit import graph
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet, load_calibration
from lowbit.errors import InputError
from lowbit.evaluate import Given
from lowbit.quantize import Job, auto, emulated, ort, ranges
from lowbit.quantize.offers import Offers
from tests.unit import toys

BROKEN = "/model.0/broken/Conv"


def make_detector(path: Path) -> Path:
    """The toy with two convolutions more before its head. The second has weights of 1 and, for a channel that is always
    0, of 1000: in 8 bits the ones are nothing."""
    model = onnx.load(str(toys.make_detector(path)))
    more = np.eye(4, 3, dtype=np.float32)
    broken = np.concatenate([np.eye(3, dtype=np.float32), np.full((3, 1), 1000, np.float32)], 1)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(more[..., None, None], "more"),
            numpy_helper.from_array(broken[..., None, None], "broken"),
        ]
    )
    for node in model.graph.node:
        if node.input[0] == "features":
            node.input[0] = "mended"
    nodes = [
        helper.make_node("Conv", ["features", "more"], ["four"], name="/model.0/more/Conv"),
        helper.make_node("Conv", ["four", "broken"], ["mended"], name=BROKEN),
    ]
    graph.replace_nodes(model, [model.graph.node[0], *nodes, *list(model.graph.node)[1:]])
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Most of the speed may be spent: the head of this detector is small."""
    folder = tmp_path_factory.mktemp("auto")
    return Job(
        scheme="auto-ort-d0.5",
        settings={"max_drop": 0.005, "minutes": 20.0, "least_speed": 0.3},
        source=make_detector(folder / "toy.onnx"),
        identity={},
        input=InputSpec(toys.SIZE),
        calibration=load_calibration(toys.make_calibration(folder / "calibration", 8)),
        output=folder / "model.onnx",
        unfinished=folder,
        progress=lambda _: None,
    )


@pytest.fixture(scope="module")
def found(job: Job) -> dict[str, Any]:
    """What the search says of its artifact, which is at ``job.output``."""
    return auto.build(job)


def changed(job: Job, folder: Path, **settings: float) -> Job:
    """With other settings, and its artifact elsewhere."""
    return dataclasses.replace(job, settings={**job.settings, **settings}, output=folder / "model.onnx")


def search_of(job: Job, folder: Path) -> auto.Search:
    folder.mkdir()
    offers = Offers()
    return auto.Search(job, ort.prepared(job, ort.source_of(job, offers)[0], offers), folder)


def built(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in found["tried"] if row["step"] == "built"]


def test_a_convolution_that_breaks_stays_in_float_and_no_other_does(job: Job, found: dict[str, Any]) -> None:
    assert BROKEN in found["float_convolutions"]
    assert found["recipe"]["float"] == [BROKEN]
    assert built(found)[0]["drop"] > 0.5
    assert found["within_drop"] and found["agreement_drop"] == built(found)[-1]["drop"] <= 0.005
    assert found["stopped"] == "a recipe is within the drop"
    assert found["speed_by_cost_model"] >= 0.3
    dtypes = {weight.node: weight.dtype for weight in graph.structure(graph.load(job.output)).weights}
    assert dtypes[BROKEN] == "FLOAT" and dtypes["/model.1/level8/Conv"] == "INT8"


def test_what_costs_too_much_speed_is_not_tried(job: Job, tmp_path: Path) -> None:
    found = auto.build(changed(job, tmp_path, least_speed=0.999))
    assert found["recipe"]["float"] == [] and not found["within_drop"]
    assert not [row for row in found["tried"] if row["step"] == "float" and row["changed"] == BROKEN]
    assert found["agreement_drop"] == min(row["drop"] for row in built(found))
    assert found["stopped"] == "everything was tried"


def test_the_same_input_gives_the_same_answer(job: Job, found: dict[str, Any], tmp_path: Path) -> None:
    again = changed(job, tmp_path)
    assert auto.build(again) == found
    assert job.output.read_bytes() == again.output.read_bytes()


def test_the_budget_ends_the_search(job: Job, found: dict[str, Any], tmp_path: Path) -> None:
    assert found["charged_seconds"] < 60 * job.settings["minutes"]
    least = auto.build(changed(job, tmp_path, minutes=0.001))
    assert [row["step"] for row in least["tried"]] == ["built"] and least["stopped"] == "the budget ended"
    minutes = 0.7 * found["charged_seconds"] / 60
    part = auto.build(changed(job, tmp_path, minutes=minutes))
    assert part["stopped"] == "the budget ended"
    assert 1 < len(part["tried"]) < len(found["tried"])
    assert part["charged_seconds"] <= 60 * minutes


def test_a_change_that_ships_is_kept_though_the_budget_ends_in_its_group(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = search_of(job, tmp_path / "search")
    start = auto.Recipe(dict.fromkeys(sorted(set(search.groups.values())), "minmax"))
    answers = iter([20.0, 25.0, 24.0, None])

    def answer(step: str, changed: str, recipe: auto.Recipe) -> float | None:
        if (found := next(answers)) is not None:
            search.tried.append({"kept": False})
        return found

    monkeypatch.setattr(search, "_try", answer)
    found, level = search._choose_ranges(start, 10.0)
    assert found != start and level == 25.0
    assert [row["kept"] for row in search.tried] == [False, True, False]


def test_images_held_out_are_not_calibrated_on(job: Job, tmp_path: Path) -> None:
    paths = job.calibration.paths
    calibration, held = auto.split(paths)
    assert [*calibration, *held] == list(paths) and len(held) == 3
    toys.make_images(tmp_path / "others", 3, seed=9)
    others = tuple(sorted((tmp_path / "others").iterdir()))
    other = dataclasses.replace(job, calibration=CalibrationSet(job.calibration.source, (*calibration, *others)))
    one, two = (search_of(each, tmp_path / str(number)).histograms for number, each in enumerate((job, other)))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name].counts, two[name].counts) for name in one)
    first = dataclasses.replace(job, calibration=CalibrationSet(job.calibration.source, (others[0], *paths[1:])))
    three = search_of(first, tmp_path / "first").histograms
    assert not all(np.array_equal(one[name].counts, three[name].counts) for name in one)


def test_too_few_images() -> None:
    with pytest.raises(InputError, match="4 calibration images; a search needs five"):
        auto.split([Path(str(number)) for number in range(4)])
    assert len(auto.split([Path(str(number)) for number in range(100)])[1]) == auto.HELD_OUT == 40


@pytest.mark.parametrize("floating", [frozenset(), frozenset({BROKEN}), frozenset({"/model.0/more/Conv", BROKEN})])
def test_what_is_emulated_is_what_is_built(job: Job, tmp_path: Path, floating: frozenset[str]) -> None:
    search = search_of(job, tmp_path / "search")
    recipe = auto.Recipe(dict.fromkeys(search.groups.values(), "mse"), floating)
    emulation = search._try("float", "", recipe)
    assert search._build(recipe, "").sqnr_db == pytest.approx(emulation, abs=0.05)


def histogram(values: np.ndarray[Any, Any]) -> ranges.Histogram:
    return ranges._NOTHING.joined(np.asarray(values, np.float32))


def test_ranges_by_every_method() -> None:
    rng = np.random.default_rng(0)
    values = np.abs(rng.normal(0, 1, (4, 60_000)))
    values[0, 0] = 100
    outlying = ranges._NOTHING
    for part in values.astype(np.float32):
        outlying = outlying.joined(part)
    found = {method: ranges.span(outlying, method) for method in ranges.METHODS}
    assert found["minmax"] == (0, 100)
    assert found["percentile4"][1] < found["percentile"][1] + 1e-9 < 6
    assert 60 < found["mse"][1] < 90  # a square of 26 costs less than finer steps win
    assert found["entropy"][1] < 100
    # Without an outlier nobody cuts far into the values.
    even = histogram(rng.uniform(-1, 3, 60_000))
    for method in ranges.methods(["other"]):
        low, high = ranges.span(even, method)
        assert low == pytest.approx(-1, abs=0.1) and high == pytest.approx(3, abs=0.2), method


def test_what_silu_takes_ends_where_silu_is_small() -> None:
    """Far below 0, where most of these values are, SiLU gives nearly nothing, and steps are better spent above."""
    values = histogram(np.random.default_rng(0).uniform(-30, 10, 60_000))
    assert ranges.span(values, "mse")[0] == pytest.approx(-30, abs=1)
    low, high = ranges.span(values, "silu-mse")
    assert -9 < low < -3 and high == pytest.approx(10, abs=0.3)
    early = f"{ranges.BEFORE_SILU}, part 1 of 4"
    assert "silu-mse" in ranges.methods([early]) and "silu-mse" not in ranges.methods([early, "SiLU"])


def test_histograms_of_several_images_are_one_of_all() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(0, scale, 20_000).astype(np.float32) for scale in (1, 3, 2)]
    one = ranges._NOTHING
    for part in parts:
        one = one.joined(part)
    whole = histogram(np.concatenate(parts))
    assert (one.lowest, one.highest, one.counts.sum()) == (whole.lowest, whole.highest, whole.counts.sum())
    assert np.abs(np.cumsum(one.counts) - np.cumsum(whole.counts)).max() < 0.005 * whole.counts.sum()


def test_groups_of_tensors_by_kind_and_depth() -> None:
    nodes, last = [], "images"
    for number in range(13):
        names = [f"{part}{number}" for part in ("conv", "gate", "silu")]
        nodes += [
            helper.make_node("Conv", [last, "weight"], names[:1]),
            helper.make_node("Sigmoid", names[:1], names[1:2]),
            helper.make_node("Mul", names[:2], names[2:]),
        ]
        last = names[2]
    nodes += [helper.make_node("Add", [last, "silu3"], ["sum"]), helper.make_node("Conv", ["sum", "weight"], ["boxes"])]
    model = helper.make_model(helper.make_graph(nodes, "toy", [], []))
    found = ranges.groups(model, [name for node in nodes for name in node.output if name != "gate0"])
    assert (found["conv0"], found["conv12"]) == ("before SiLU, part 1 of 4", "before SiLU, part 4 of 4")
    assert (found["silu0"], found["silu6"]) == ("SiLU, part 1 of 4", "SiLU, part 2 of 4")
    assert (found["sum"], found["boxes"], "gate0" in found) == ("Add", "head", False)


def test_a_range_that_is_empty_has_a_quantizer() -> None:
    scale, zero = ranges.quantizer((0.0, 0.0))
    assert (float(scale), int(zero)) == (1.0, 0)
    scale, zero = ranges.quantizer((-1.0, 3.0))
    assert float(scale) == pytest.approx(4 / 255) and int(zero) == 64


def test_a_budget_is_above_nothing() -> None:
    with pytest.raises(InputError, match="--search-minutes -1: is no budget"):
        Given(search_minutes=-1)


def test_noise_counts_where_objects_are() -> None:
    classes = np.full((1, 2, 2, 2), -9, np.float32)
    classes[0, 1, 0, 1] = 2
    boxes, joined = np.zeros((1, 64, 2, 2), np.float32), np.zeros((1, 5, 3, 3), np.float32)
    found = emulated._weights([boxes, classes, joined], 2)
    for weight in found[:2]:
        assert weight.shape == (1, 1, 2, 2)
        assert weight[0, 0, 0, 1] == pytest.approx(1 / (1 + np.exp(-2)))
        assert weight.sum() - weight[0, 0, 0, 1] == pytest.approx(3 / (1 + np.exp(9)))
    assert found[2].tolist() == 1


def test_the_probe_reads_what_is_dequantized(job: Job, tmp_path: Path) -> None:
    search = search_of(job, tmp_path / "search")
    assert search.probe.sqnr(search.model) == 999
    assert search.probe.sqnr(search.base) < 60
    assert isinstance(search.probe, emulated.Probe) and search.probe.images == 3
