"""The sweep: the grid and its configurations, module names, rankings, results on disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lowbit import graph, sensitivity
from lowbit.detector import find_detector
from lowbit.errors import BuildError, InputError, UnavailableError
from lowbit.sensitivity import GRID, Combination, autoquant, fake_quant, layermap, layerwise, sweep
from tests.unit import toys
from tests.unit.waiting import PATIENCE


def test_the_grid_has_forty_combinations_with_ids_of_their_own() -> None:
    assert len({combination.id for combination in GRID}) == 40
    assert all(sensitivity.find_combination(combination.id) == combination for combination in GRID)
    with pytest.raises(InputError, match="there is no combination 'int2-int8-per_layer'"):
        sensitivity.find_combination("int2-int8-per_layer")


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


def test_modules_and_nodes_are_matched_by_name(tmp_path: Path) -> None:
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
def test_names_without_a_match_are_listed(tmp_path: Path, modules: list[str], said: str) -> None:
    model = graph.load(toys.make_detector(tmp_path / "toy.onnx"))
    with pytest.raises(BuildError, match=said):
        layermap.layer_map(model, modules)


def test_two_rankings_are_compared() -> None:
    same = layerwise.compare_rankings(list("abcd"), list("abcd"))
    assert (same.correlation, same.disagreements) == (pytest.approx(1), ())
    turned = layerwise.compare_rankings(list("abcd"), list("dcba"))
    assert turned.correlation == pytest.approx(-1)
    assert turned.disagreements[0] == ("a", 1, 4)
    with pytest.raises(ValueError, match="not of the same layers"):
        layerwise.compare_rankings(list("abc"), list("abd"))


@pytest.fixture
def swept(tmp_path: Path) -> sweep.Sweep:
    detector = find_detector("shapes10n")
    toys.make_images(tmp_path / "images", 2, seed=1)
    listing = tmp_path / "list.txt"
    listing.write_text("images/1-0.png\nimages/1-1.png\n")
    from lowbit.data.lists import load_calibration

    graph_path = toys.make_detector(tmp_path / "toy.onnx")
    return sweep.Sweep(detector, graph_path, load_calibration(listing), 64, tmp_path / "runs", timeout=PATIENCE)


def fake(what: sweep.Sweep, combination: str, status: str, place: Path | None = None) -> Path:
    """A finished combination as :func:`sweep.measure` leaves it."""
    cell = sensitivity.find_combination(combination)
    folder = (place or what.place) / combination
    folder.mkdir(parents=True)
    reason = None if status == sweep.MEASURED else "said why\nat length"
    manifest = {"combination": combination, "weight": cell.weight, "activation": cell.activation}
    manifest |= {"granularity": cell.granularity, "status": status, "reason": reason, "seconds": 1.0, **what.facts}
    (folder / sweep.MANIFEST).write_text(json.dumps(manifest))
    if status == sweep.MEASURED:
        ranking = autoquant.rank({"a": 1.0, "b": 2.0}, {"a": 1, "b": 1})
        harm = fake_quant.Harm(20.0, 0.9)
        layers = {name: layerwise.LayerHarm(f"/{name}/Conv", 1, harm, harm) for name in ("b", "a")}
        on_graph = autoquant.GraphSensitivity(layers, layerwise.compare_rankings(["b", "a"], ["a", "b"]), 2)
        autoquant.write_report(folder, ranking, on_graph, cell, what.facts, {"quant_cfg": [{"axis": (4, 3)}]})
    return folder


def test_what_is_finished_is_not_measured_again(swept: sweep.Sweep) -> None:
    folder = fake(swept, "int8-int8-per_layer", sweep.MEASURED)
    before = (folder / sweep.MANIFEST).read_text()
    assert (
        sweep.measure(swept, sensitivity.find_combination("int8-int8-per_layer"), lambda _: None)["status"]
        == sweep.MEASURED
    )
    assert (folder / sweep.MANIFEST).read_text() == before
    assert [layer.layer for layer in sweep.read_ranking(folder)] == ["b", "a"]


def test_other_images_are_another_sweep(swept: sweep.Sweep, tmp_path: Path) -> None:
    other = sweep.Sweep(swept.detector, swept.graph, swept.calibration.first(1), 64, swept.folder)
    assert other.place != swept.place
    assert sweep.Sweep(swept.detector, swept.graph, swept.calibration, 96, swept.folder).place != swept.place


def test_unsupported_and_broken_combinations_are_results(swept: sweep.Sweep, tmp_path: Path) -> None:
    """Whatever one does, the sweep gets a manifest with the reason, and the next one runs."""
    manifest = sweep.measure(swept, sensitivity.find_combination("fp4-int8-per_layer"), lambda _: None)
    assert (manifest["status"], "block_sizes" in manifest["reason"]) == (sweep.UNSUPPORTED, True)
    (tmp_path / "images" / "1-0.png").write_bytes(b"no image")
    swept.calibration.__dict__["digest"] = "as it was"  # hashed before the file broke
    manifest = sweep.measure(swept, sensitivity.find_combination("int8-int8-per_layer"), lambda _: None)
    assert (manifest["status"], "1-0.png" in manifest["reason"]) == (sweep.FAILED, True)
    index = json.loads(sweep.write_index(swept.place).read_text())
    assert index["counts"]["failed"] == 1
    # A failure is tried again.
    assert (
        sweep.measure(swept, sensitivity.find_combination("int8-int8-per_layer"), lambda _: None)["status"]
        == sweep.FAILED
    )


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
        sweep.merge([tmp_path / "images"], whole)
    other = sweep.Sweep(swept.detector, swept.graph, swept.calibration, 96, swept.folder)
    fake(other, "int8-int8-per_channel", sweep.MEASURED, tmp_path / "other")
    with pytest.raises(InputError, match="differ in detector, images or tool versions"):
        sweep.merge([one, tmp_path / "other"], tmp_path / "both")


def test_without_modelopt_nothing_is_swept(swept: sweep.Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """A skip with its remedy, and no combination that failed: the next run, with ModelOpt, measures them."""
    monkeypatch.setitem(sys.modules, "modelopt", None)
    with pytest.raises(UnavailableError, match=r"AutoQuant needs modelopt.*'lowbit\[modelopt\]'"):
        sweep.measure(swept, sensitivity.find_combination("int8-int8-per_layer"), lambda _: None)
    assert not swept.place.exists()


def test_onnx_files_have_no_module_to_sweep(swept: sweep.Sweep, tmp_path: Path) -> None:
    detector = find_detector(str(toys.make_detector(tmp_path / "toy.onnx")))
    assert detector.head.kind == "raw"
    what = sweep.Sweep(detector, swept.graph, swept.calibration, 64, tmp_path)
    with pytest.raises(UnavailableError, match="AutoQuant needs a torch module"):
        sweep.measure(what, GRID[0], lambda _: None)
