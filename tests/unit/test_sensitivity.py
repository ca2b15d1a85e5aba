"""Which layers hurt: the grid and its configurations, names that meet, rankings, single-layer harm, the search."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit import graph, sensitivity
from lowbit.decode import HeadKind
from lowbit.detectors import find
from lowbit.errors import BuildError, InputError, UnavailableError
from lowbit.imaging import InputSpec
from lowbit.sensitivity import GRID, Combination, autoquant, layermap, native, search, sweep
from tests.unit import toys


def test_the_grid_has_forty_combinations_with_ids_of_their_own() -> None:
    assert len({combination.id for combination in GRID}) == 40
    assert all(sensitivity.find(combination.id) == combination for combination in GRID)
    with pytest.raises(InputError, match="there is no combination 'int2-int8-per_layer'"):
        sensitivity.find("int2-int8-per_layer")


@pytest.fixture(scope="module")
def presets() -> Any:
    import modelopt.torch.quantization as mtq

    return mtq


@pytest.mark.parametrize("combination", [c for c in GRID if "fp4" not in c.id], ids=lambda c: c.id)
def test_configurations_say_dtype_and_axis(combination: Combination, presets: Any) -> None:
    config, changed = sensitivity.config_of(combination, presets)
    numbers = {"int4": 4, "int8": 8, "fp8": (4, 3)}
    weights = changed["*weight_quantizer"]
    per_channel = combination.granularity == "per_channel"
    assert (weights["num_bits"], weights["axis"]) == (numbers[combination.weight], 0 if per_channel else None)
    inputs = changed["*input_quantizer"]
    if combination.activation == "fp16":
        assert inputs == {"enable": False}
    else:
        assert (inputs["num_bits"], inputs["axis"]) == (numbers[combination.activation], 1 if per_channel else None)
    found = {e["quantizer_name"]: e for e in config["quant_cfg"] if e["quantizer_name"] in changed}
    assert found["*weight_quantizer"]["cfg"] == weights
    assert config["algorithm"] == "max"


@pytest.mark.parametrize("combination", [c for c in GRID if "fp4" in c.id], ids=lambda c: c.id)
def test_blocks_are_never_forced(combination: Combination, presets: Any) -> None:
    with pytest.raises(ValueError, match="NVFP4_DEFAULT_CFG needs block_sizes"):
        sensitivity.config_of(combination, presets)


def test_presets_are_not_changed(presets: Any) -> None:
    before = json.dumps(presets.INT8_DEFAULT_CFG, default=str)
    sensitivity.config_of(Combination("int4", "fp16", "per_layer"), presets)
    assert json.dumps(presets.INT8_DEFAULT_CFG, default=str) == before


def test_rankings_are_stable() -> None:
    ranking = autoquant.rank({"b": 1.0, "a": 1.0, "c": 3.0}, {"a": 10, "b": 30, "c": 60})
    assert [layer.layer for layer in ranking] == ["c", "a", "b"]
    assert [layer.share for layer in ranking] == [0.6, 0.1, 0.3]


MODULES = ["model.0", "model.1.level8", "model.1.level16", "model.1.level32"]


def test_names_meet(tmp_path: Path) -> None:
    model = graph.load(toys.make_detector(tmp_path / "toy.onnx"))
    found = layermap.layer_map(model, MODULES)
    assert found["model.1.level16"] == "/model.1/level16/Conv" and len(found) == 4


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (MODULES[:3], r"1 of the graph without a module \['model.1.level32'\]"),
        ([*MODULES, "model.9"], r"1 modules not in the graph \['model.9'\]"),
    ],
)
def test_strays_are_listed(tmp_path: Path, modules: list[str], said: str) -> None:
    model = graph.load(toys.make_detector(tmp_path / "toy.onnx"))
    with pytest.raises(BuildError, match=said):
        layermap.layer_map(model, modules)


def test_two_opinions() -> None:
    same = native.compare_rankings(list("abcd"), list("abcd"))
    assert (same.correlation, same.disagreements) == (pytest.approx(1), ())
    turned = native.compare_rankings(list("abcd"), list("dcba"))
    assert turned.correlation == pytest.approx(-1)
    assert turned.disagreements[0] == ("a", 1, 4)
    with pytest.raises(ValueError, match="not of the same layers"):
        native.compare_rankings(list("abc"), list("abd"))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_is_the_nearest_of_all_steps(bits: int) -> None:
    weight = np.random.default_rng(bits).normal(0, 1, (3, 4, 2, 2)).astype(np.float32)
    found = native.rounded(weight, bits)
    steps = 2 ** (bits - 1) - 1
    for channel, values in enumerate(weight.reshape(3, -1)):
        grid = np.arange(-steps - 1, steps + 1) * np.abs(values).max() / steps
        nearest = grid[np.abs(values[:, None] - grid).argmin(1)]
        assert found[channel].ravel() == pytest.approx(nearest, abs=1e-6)


@pytest.fixture(scope="module")
def floating(tmp_path_factory: pytest.TempPathFactory) -> native.Graph:
    folder = tmp_path_factory.mktemp("toy")
    path = toys.make_detector(folder / "toy.onnx")
    toys.make_pictures(folder / "pictures", 4, seed=3)
    contract = graph.contract_of(path, graph.load(path))
    return native.Graph(path, contract, InputSpec(64), sorted((folder / "pictures").iterdir()))


def test_the_float_graph_agrees_with_itself(floating: native.Graph) -> None:
    assert floating.harm(floating.quantized({}, inputs=True)) == native.Harm(999.0, pytest.approx(1))


def test_only_what_is_named_is_quantized(floating: native.Graph) -> None:
    model = floating.quantized({"/model.1/level32/Conv": 8}, inputs=True)
    assert [n.op_type for n in model.graph.node].count("QuantizeLinear") == 1
    structure = graph.structure(model)
    assert [w.node for w in structure.weights if w.input_quantized] == ["/model.1/level32/Conv"]
    assert graph.structure(floating.model).quantize_nodes == 0, "the original was changed"


def test_the_level_that_sees_hurts_most(floating: native.Graph) -> None:
    """Only the stride-32 level answers; rounding it to 2 bits is what the head notices."""
    alone = native.sqnr_alone(floating, 4, inputs=True, progress=lambda _: None)
    assert native.most_sensitive(alone, 1) == ["/model.0/Conv"] or alone["/model.1/level32/Conv"] < 999
    layers = native.measure(floating, 4, inputs=True, progress=lambda _: None)
    assert [layer.alone.sqnr_db for layer in layers] == sorted(layer.alone.sqnr_db for layer in layers)
    # What everything but one layer costs is no less than what another one costs alone.
    worst = layers[0]
    assert all(worst.alone.sqnr_db >= other.spared.sqnr_db - 3 for other in layers if other is not worst)


numbers = st.floats(0.01, 10)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=5), st.floats(0, 1))
def test_the_cheapest_assignment_is_brute_force_s(layers: list[tuple[float, ...]], share: float) -> None:
    noise = {str(i): {4: four, 8: four * eight / 10} for i, (four, eight, _, _) in enumerate(layers)}
    cost = {str(i): {4: low, 8: low + more} for i, (_, _, low, more) in enumerate(layers)}
    least, most = (sum(pick(n.values()) for n in noise.values()) for pick in (min, max))
    limit = least + share * (most - least)
    every = [dict(zip(noise, bits, strict=True)) for bits in itertools.product((4, 8), repeat=len(noise))]

    def total(table: dict[str, dict[int, float]], bits: dict[str, int]) -> float:
        return sum(table[name][count] for name, count in bits.items())

    possible = [total(cost, bits) for bits in every if total(noise, bits) <= limit * (1 + 1e-9)]
    found = search.assign(noise, cost, limit * (1 + 1e-6))
    assert found is not None
    assert total(noise, found) <= limit * (1 + 1e-5)
    assert total(cost, found) <= min(possible) + 1e-4 * max(max(c.values()) for c in cost.values())


def test_nothing_is_assigned_where_nothing_fits() -> None:
    assert search.assign({"a": {8: 1.0}}, {"a": {8: 1.0}}, 0.5) is None


def twelve() -> tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]]:
    rng = np.random.default_rng(0)
    noise = {f"layer{i}": {4: float(n), 8: float(n) / 256} for i, n in enumerate(rng.uniform(0.01, 1, 12))}
    return noise, {name: {4: 4.0, 8: 8.0} for name in noise}


def test_the_search_ends_at_the_cheapest_within_the_drop() -> None:
    noise, cost = twelve()

    def drop(bits: dict[str, int]) -> float:
        return sum(noise[name][count] for name, count in bits.items()) / 100

    best, tried = search.search(noise, cost, drop, 0.02)
    assert best.drop <= 0.02
    # One more layer at 4 bits, the quietest of those at 8, would be too much.
    quietest = min((n for n, b in best.bits.items() if b == 8), key=lambda n: noise[n][4])
    assert drop(best.bits | {quietest: 4}) > 0.02
    assert search.search(noise, cost, drop, 0.02) == (best, tried)
    costs = [point.cost for point in search.frontier(tried)]
    assert costs == sorted(costs) and best in search.frontier(tried)
    assert json.loads(json.dumps(search.trace(tried)))[0]["bits"] == tried[0].bits


def test_a_drop_that_nothing_keeps_is_an_error() -> None:
    noise, cost = twelve()
    with pytest.raises(BuildError, match=r"loses 50\.00 points of agreement, and 1\.00 are allowed"):
        search.search(noise, cost, lambda _: 0.5, 0.01)


def test_weight_bits_count_scales() -> None:
    found = search.weight_bits({"a": 4, "b": 8, "c": 32}, {"a": 100, "b": 100, "c": 200}, {"a": 10, "b": 5, "c": 7})
    assert found == (400 + 800 + 6400 + 320 + 160) / 400


def test_the_budget_is_used_and_kept() -> None:
    noise, _ = twelve()
    parameters, channels = (dict.fromkeys(noise, count) for count in (1000, 10))
    found = search.within_budget(noise, parameters, channels, 5.9)
    assert 5.5 < search.weight_bits(found, parameters, channels) <= 5.9
    # Equal sizes: the noisiest keep 8 bits.
    eight = {name for name, bits in found.items() if bits == 8}
    assert eight == set(sorted(noise, key=lambda name: -noise[name][4])[: len(eight)])
    with pytest.raises(BuildError, match=r"4\.1 bits a weight are below the 4\.32"):
        search.within_budget(noise, parameters, channels, 4.1)


@pytest.fixture
def swept(tmp_path: Path) -> sweep.Sweep:
    detector = find("shapes10n")
    toys.make_pictures(tmp_path / "pictures", 2, seed=1)
    listing = tmp_path / "list.txt"
    listing.write_text("pictures/1-0.png\npictures/1-1.png\n")
    from lowbit.datasets import load_calibration

    return sweep.Sweep(detector, load_calibration(listing), 64, tmp_path / "runs", timeout=120)


def fake(what: sweep.Sweep, combination: str, status: str, place: Path | None = None) -> Path:
    """A finished combination as :func:`sweep.measure` leaves it."""
    cell = sensitivity.find(combination)
    folder = (place or what.place) / combination
    folder.mkdir(parents=True)
    reason = None if status == sweep.MEASURED else "said why\nat length"
    manifest = {"combination": combination, "weight": cell.weight, "activation": cell.activation}
    manifest |= {"granularity": cell.granularity, "status": status, "reason": reason, "seconds": 1.0, **what.facts}
    (folder / sweep.MANIFEST).write_text(json.dumps(manifest))
    if status == sweep.MEASURED:
        ranking = autoquant.rank({"a": 1.0, "b": 2.0}, {"a": 1, "b": 1})
        autoquant.write_report(folder, ranking, cell, what.facts, {"quant_cfg": [{"axis": (4, 3)}]})
    return folder


def test_what_is_finished_is_not_measured_again(swept: sweep.Sweep) -> None:
    folder = fake(swept, "int8-int8-per_layer", sweep.MEASURED)
    before = (folder / sweep.MANIFEST).read_text()
    assert sweep.measure(swept, sensitivity.find("int8-int8-per_layer"), lambda _: None)["status"] == sweep.MEASURED
    assert (folder / sweep.MANIFEST).read_text() == before
    assert [layer.layer for layer in sweep.read_ranking(folder)] == ["b", "a"]


def test_other_pictures_are_another_sweep(swept: sweep.Sweep, tmp_path: Path) -> None:
    other = sweep.Sweep(swept.detector, swept.calibration.first(1), 64, swept.folder)
    assert other.place != swept.place
    assert sweep.Sweep(swept.detector, swept.calibration, 96, swept.folder).place != swept.place


def test_unsupported_and_broken_combinations_are_results(swept: sweep.Sweep, tmp_path: Path) -> None:
    """Whatever one does, the sweep gets a manifest with the reason, and the next one runs."""
    manifest = sweep.measure(swept, sensitivity.find("fp4-int8-per_layer"), lambda _: None)
    assert (manifest["status"], "block_sizes" in manifest["reason"]) == (sweep.UNSUPPORTED, True)
    (tmp_path / "pictures" / "1-0.png").write_bytes(b"no picture")
    swept.calibration.__dict__["digest"] = "as it was"  # hashed before the file broke
    manifest = sweep.measure(swept, sensitivity.find("int8-int8-per_layer"), lambda _: None)
    assert (manifest["status"], "1-0.png" in manifest["reason"]) == (sweep.FAILED, True)
    index = json.loads(sweep.write_index(swept.place).read_text())
    assert index["counts"]["failed"] == 1
    # A failure is tried again.
    assert sweep.measure(swept, sensitivity.find("int8-int8-per_layer"), lambda _: None)["status"] == sweep.FAILED


def test_the_index_says_top_layers_and_failures(swept: sweep.Sweep) -> None:
    fake(swept, "int8-int8-per_layer", sweep.MEASURED)
    fake(swept, "fp4-fp4-per_layer", sweep.UNSUPPORTED)
    fake(swept, "int4-int8-per_layer", sweep.FAILED)
    (swept.place / ".fp8-fp8-per_layer.partial").mkdir()
    index = json.loads(sweep.write_index(swept.place, top=1).read_text())
    assert index["counts"] == {"measured": 1, "unsupported": 1, "failed": 1}
    found = {row["combination"]: (row["status"], row["top"]) for row in index["combinations"]}
    assert found["int8-int8-per_layer"] == ("measured", ["b"])
    lines = (swept.place / "index.csv").read_text().splitlines()
    assert len(lines) == 4 and "said why" in lines[1] and "at length" not in lines[1]


def test_parts_of_a_sweep_merge(swept: sweep.Sweep, tmp_path: Path) -> None:
    one, two, whole = tmp_path / "one", tmp_path / "two", tmp_path / "whole"
    fake(swept, "int8-int8-per_layer", sweep.MEASURED, one)
    fake(swept, "int4-int8-per_layer", sweep.FAILED, one)
    fake(swept, "int4-int8-per_layer", sweep.MEASURED, two)
    fake(swept, "fp4-int8-per_layer", sweep.UNSUPPORTED, two)
    index = json.loads(sweep.merge([one, two], whole).read_text())
    assert index["counts"] == {"measured": 2, "unsupported": 1, "failed": 0}
    assert json.loads(sweep.merge([one], whole).read_text()) == index, "what is merged stays"
    with pytest.raises(InputError, match="holds no combination"):
        sweep.merge([tmp_path / "pictures"], whole)
    other = sweep.Sweep(swept.detector, swept.calibration, 96, swept.folder)
    fake(other, "int8-int8-per_channel", sweep.MEASURED, tmp_path / "other")
    with pytest.raises(InputError, match="differ in detector, pictures or tool versions"):
        sweep.merge([one, tmp_path / "other"], tmp_path / "both")


def test_onnx_files_have_no_module_to_sweep(swept: sweep.Sweep, tmp_path: Path) -> None:
    detector = find(str(toys.make_detector(tmp_path / "toy.onnx")))
    assert detector.head.kind is HeadKind.RAW
    what = sweep.Sweep(detector, swept.calibration, 64, tmp_path)
    with pytest.raises(UnavailableError, match="AutoQuant needs a torch module"):
        sweep.measure(what, GRID[0], lambda _: None)
