"""Which layers hurt: the grid and its configurations, module names, rankings, single-layer harm, the search."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit import cli, graph, runtime, sensitivity
from lowbit.data.letterbox import InputSpec
from lowbit.detector import find, heads
from lowbit.errors import BuildError, InputError, UnavailableError
from lowbit.sensitivity import GRID, Combination, assignment, autoquant, layermap, native, search, sweep
from tests.unit import toys
from tests.unit.waiting import PATIENCE


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


@pytest.mark.parametrize("dtype", ["int4", "int8", "fp8"])
@pytest.mark.parametrize("axis", [0, None])
def test_rounding_is_the_nearest_of_all_steps(dtype: str, axis: int | None) -> None:
    weight = np.random.default_rng(len(dtype)).normal(0, 1, (3, 4, 2, 2)).astype(np.float32)
    found = native.rounded(weight, dtype, axis)
    if dtype == "fp8":
        every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(float)
        steps, top = np.unique(every[np.isfinite(every)]), 448.0
    else:
        top = {"int4": 7, "int8": 127}[dtype]
        steps = np.arange(-top, top + 1, dtype=float)
    for channel, values in enumerate(weight.reshape(3, -1)):
        grid = steps * np.abs(values if axis == 0 else weight).max() / top
        nearest = grid[np.abs(values[:, None] - grid).argmin(1)]
        assert found[channel].ravel() == pytest.approx(nearest, abs=1e-6)


@pytest.fixture(scope="module")
def floating(tmp_path_factory: pytest.TempPathFactory) -> native.Graph:
    folder = tmp_path_factory.mktemp("toy")
    path = toys.make_detector(folder / "toy.onnx")
    toys.make_images(folder / "images", 4, seed=3)
    head = heads.recognise(path, graph.load(path))
    return native.Graph(path, head, InputSpec(64), sorted((folder / "images").iterdir()))


@pytest.mark.parametrize("form", [native.WEIGHTS_ONLY, native.EIGHT_BIT_INPUTS], ids=["weights", "inputs"])
def test_the_float_graph_agrees_with_itself(floating: native.Graph, form: native.Form) -> None:
    assert floating.harm(floating.quantized({}, form)) == native.Harm(999.0, pytest.approx(1))


def test_only_what_is_named_is_quantized(floating: native.Graph) -> None:
    model = floating.quantized({"/model.1/level32/Conv": "int8"}, native.EIGHT_BIT_INPUTS)
    assert [n.op_type for n in model.graph.node].count("QuantizeLinear") == 1
    structure = graph.structure(model)
    assert [w.node for w in structure.weights if w.input_quantized] == ["/model.1/level32/Conv"]
    assert graph.structure(floating.model).quantize_nodes == 0, "the original was changed"


@pytest.mark.parametrize("inputs", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("axis", [None, 1])
def test_inputs_are_rounded_to_their_steps(floating: native.Graph, inputs: str, axis: int | None) -> None:
    """By brute force: every value of a convolution's input ends at the nearest of the steps, unsigned with a zero point
    or E4M3; what lies beyond the range seen ends at its ends."""
    node = floating.nodes["/model.1/level32/Conv"]
    source = node.input[0]
    model = floating.quantized({node.name: "int8"}, native.Form(inputs, 0, axis))
    for name in (source, f"{source}/dq"):
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed, names = session.get_inputs()[0].name, [source, f"{source}/dq"]
    seen = [session.run(names, {feed: tensor}) for tensor, _ in floating._placed]
    # Brighter than any image that the ranges come from: all of it is cut.
    seen.append(session.run(names, {feed: np.full_like(floating._placed[0][0], 3.0)}))
    plain = np.concatenate([one for one, _ in seen[:-1]])
    for channel in range(plain.shape[1]):
        values = plain if axis is None else plain[:, channel]
        low, high = min(values.min(), 0.0), max(values.max(), 0.0)
        if inputs == "fp8":
            every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(float)
            grid = np.unique(every[np.isfinite(every)]) * max(-low, high) / 448
        else:
            steps = {"int8": 255, "int4": 15}[inputs]
            grid = (np.arange(steps + 1) - round(-low / ((high - low) / steps))) * (high - low) / steps
        for one, rounded in seen:
            wanted = np.abs(one[:, channel, ..., None] - grid).min(-1)
            step = np.diff(grid).max()
            assert np.abs(rounded[:, channel] - one[:, channel]) == pytest.approx(wanted, abs=1e-3 * step + 1e-6)


def test_the_level_that_sees_hurts_most(floating: native.Graph) -> None:
    """Only the stride-32 level answers; what the head notices is it and what feeds it."""
    alone = native.sqnr_alone(floating, "int4", native.EIGHT_BIT_INPUTS, progress=lambda _: None)
    assert native.most_sensitive(alone, 1)[0] in ("/model.0/Conv", "/model.1/level32/Conv")
    layers = native.measure(floating, "int4", native.EIGHT_BIT_INPUTS, progress=lambda _: None)
    assert [layer.alone.sqnr_db for layer in layers] == sorted(layer.alone.sqnr_db for layer in layers)
    # What everything but one layer costs is no less than what another one costs alone.
    worst = layers[0]
    assert all(worst.alone.sqnr_db >= other.leave_one_out.sqnr_db - 3 for other in layers if other is not worst)


def test_an_artifact_s_convolutions_are_imitated_one_by_one(floating: native.Graph) -> None:
    """What a convolution costs with an artifact's own weight and scales is what quantizing it that way alone costs."""
    dtypes = dict.fromkeys(list(floating.nodes)[1:], "int8")
    stored = native.Graph.quantized(floating, dtypes, native.EIGHT_BIT_INPUTS)
    quantizers = graph.input_quantizers(stored)
    assert set(quantizers) == set(dtypes)
    for name, quantizer in quantizers.items():
        alone = floating.imitating(name, native.rounded(floating.weight(name), "int8"), quantizer)
        wanted = floating.sqnr(floating.quantized({name: "int8"}, native.EIGHT_BIT_INPUTS))
        assert floating.sqnr(alone) == pytest.approx(wanted, abs=1e-3)
    artifact = assignment.stored(floating, dtypes)
    found = native.sqnr_of_artifact(floating, artifact, progress=lambda _: None)
    assert found == {
        name: pytest.approx(floating.sqnr(floating.quantized({name: "int8"}, native.WEIGHTS_ONLY)), abs=1e-3)
        for name in dtypes
    }


KINDS = ("int4", "int8", "fp8", search.FLOAT)


def test_stored_weights_are_the_rounded_ones(floating: native.Graph, tmp_path: Path) -> None:
    """Every dtype in the file is what was asked for, and computes what fake quantization does."""
    dtypes = dict(zip(floating.nodes, KINDS, strict=True))
    stored = assignment.stored(floating, dtypes)
    found = {w.node: w.dtype for w in graph.structure(stored).weights}
    names = {"int4": "INT4", "int8": "INT8", "fp8": "FLOAT8E4M3FN", search.FLOAT: "FLOAT"}
    assert found == {node: names[dtype] for node, dtype in dtypes.items()}
    rounded = {node: dtype for node, dtype in dtypes.items() if dtype != search.FLOAT}
    assert floating.sqnr(stored) == pytest.approx(floating.sqnr(floating.quantized(rounded, native.WEIGHTS_ONLY)))
    onnx.save(stored, tmp_path / "model.onnx")
    session = runtime.open_session(tmp_path / "model.onnx", runtime.deployed_options("mixed", weights_only=True))
    assert floating.agreement(session) == floating.harm(stored).agreement


def test_the_artifact_of_the_search_is_its_best_candidate(tmp_path: Path) -> None:
    """What is left in the file is the assignment that was chosen, not the last one that was tried."""
    path = toys.make_detector(tmp_path / "toy.onnx")
    toys.make_images(tmp_path / "images", 6, seed=3)
    head, output = heads.recognise(path, graph.load(path)), tmp_path / "model.onnx"
    images = sorted((tmp_path / "images").iterdir())
    candidates = assignment.Weights(path, head, InputSpec(64), images, lambda _: None)
    built: list[bytes] = []
    best, tried = candidates.find(0.02, output, lambda file: built.append(file.read_bytes()))
    assert len(built) == len(tried) and output.read_bytes() == built[tried.index(best)]
    kinds = {w.node: w.dtype for w in graph.structure(graph.load(output)).weights}
    assert {node for node, dtype in best.dtypes.items() if dtype == "int4"} == {
        n for n, d in kinds.items() if d == "INT4"
    }


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 calibration images; a search needs four or more"):
        assignment.split([tmp_path] * 3)
    noise, held = assignment.split([tmp_path / str(i) for i in range(60)])
    assert (len(noise), len(held), set(noise) & set(held)) == (8, 32, set())


numbers = st.floats(0.01, 10)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=5), st.floats(0, 1))
def test_the_cheapest_assignment_is_brute_force_s(layers: list[tuple[float, ...]], share: float) -> None:
    noise = {str(i): {"int4": four, "int8": four * eight / 10} for i, (four, eight, _, _) in enumerate(layers)}
    cost = {str(i): {"int4": low, "int8": low + more} for i, (_, _, low, more) in enumerate(layers)}
    least, most = (sum(pick(n.values()) for n in noise.values()) for pick in (min, max))
    limit = least + share * (most - least)
    every = [dict(zip(noise, kinds, strict=True)) for kinds in itertools.product(("int4", "int8"), repeat=len(noise))]

    def total(table: dict[str, dict[str, float]], dtypes: dict[str, str]) -> float:
        return sum(table[name][dtype] for name, dtype in dtypes.items())

    possible = [total(cost, kinds) for kinds in every if total(noise, kinds) <= limit * (1 + 1e-9)]
    found = search.assign(noise, cost, limit * (1 + 1e-6))
    assert found is not None
    assert total(noise, found) <= limit * (1 + 1e-5)
    assert total(cost, found) <= min(possible) + 1e-4 * max(max(c.values()) for c in cost.values())


def test_nothing_is_assigned_where_nothing_fits() -> None:
    assert search.assign({"a": {"int8": 1.0}}, {"a": {"int8": 1.0}}, 0.5) is None


def twelve() -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    rng = np.random.default_rng(0)
    noise = {f"layer{i}": {"int4": float(n), "int8": float(n) / 256} for i, n in enumerate(rng.uniform(0.01, 1, 12))}
    return noise, {name: {"int4": 4.0, "int8": 8.0} for name in noise}


def test_the_search_ends_at_the_cheapest_within_the_drop() -> None:
    noise, cost = twelve()

    def drop(dtypes: dict[str, str]) -> float:
        return sum(noise[name][dtype] for name, dtype in dtypes.items()) / 100

    best, tried = search.search(noise, cost, drop, 0.02)
    assert best.drop <= 0.02
    # One more layer at 4 bits, the quietest of those at 8, would be too much.
    quietest = min((n for n, d in best.dtypes.items() if d == "int8"), key=lambda n: noise[n]["int4"])
    assert drop(best.dtypes | {quietest: "int4"}) > 0.02
    assert search.search(noise, cost, drop, 0.02) == (best, tried)
    assert all(point.cost >= best.cost for point in tried if point.drop <= 0.02)
    assert json.loads(json.dumps(search.trace(tried)))[0]["dtypes"] == tried[0].dtypes


def test_float_is_an_answer_too() -> None:
    """Offered float, whose noise is 0, the search still ends among quantized layers."""
    noise, cost = twelve()
    noise = {name: {**kinds, search.FLOAT: 0.0} for name, kinds in noise.items()}
    cost = {name: {**kinds, search.FLOAT: 32.0} for name, kinds in cost.items()}
    best, tried = search.search(noise, cost, lambda d: sum(noise[n][k] for n, k in d.items()) / 100, 0.02)
    kinds = list(best.dtypes.values())
    assert tried[0].noise == 0 and "int4" in kinds and best.cost < 12 * 8


def test_a_drop_that_nothing_keeps_is_an_error() -> None:
    noise, cost = twelve()
    with pytest.raises(BuildError, match=r"loses 50\.00 points of agreement, and 1\.00 are allowed"):
        search.search(noise, cost, lambda _: 0.5, 0.01)


def test_weight_bits_count_scales() -> None:
    parameters, channels = {"a": 100, "b": 100, "c": 200}, {"a": 10, "b": 5, "c": 7}
    cost = search.storage(("int4", "fp8", search.FLOAT), parameters, channels)
    found = search.weight_bits({"a": "int4", "b": "fp8", "c": search.FLOAT}, cost, parameters)
    assert found == (400 + 800 + 6400 + 320 + 160) / 400


def test_the_budget_is_used_and_kept() -> None:
    noise, _ = twelve()
    parameters, channels = (dict.fromkeys(noise, count) for count in (1000, 10))
    cost = search.storage(("int4", "int8"), parameters, channels)
    found = search.within_budget(noise, cost, parameters, 5.9)
    assert 5.5 < search.weight_bits(found, cost, parameters) <= 5.9
    # Equal sizes: the noisiest keep 8 bits.
    eight = {name for name, dtype in found.items() if dtype == "int8"}
    assert eight == set(sorted(noise, key=lambda name: -noise[name]["int4"])[: len(eight)])
    with pytest.raises(BuildError, match=r"4\.1 bits a weight are below the 4\.32"):
        search.within_budget(noise, cost, parameters, 4.1)


@pytest.fixture
def swept(tmp_path: Path) -> sweep.Sweep:
    detector = find("shapes10n")
    toys.make_images(tmp_path / "images", 2, seed=1)
    listing = tmp_path / "list.txt"
    listing.write_text("images/1-0.png\nimages/1-1.png\n")
    from lowbit.data.lists import load_calibration

    graph_path = toys.make_detector(tmp_path / "toy.onnx")
    return sweep.Sweep(detector, graph_path, load_calibration(listing), 64, tmp_path / "runs", timeout=PATIENCE)


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
        harm = native.Harm(20.0, 0.9)
        layers = {name: native.LayerHarm(f"/{name}/Conv", 1, harm, harm) for name in ("b", "a")}
        beside = autoquant.Beside(layers, native.compare_rankings(["b", "a"], ["a", "b"]), 2)
        autoquant.write_report(folder, ranking, beside, cell, what.facts, {"quant_cfg": [{"axis": (4, 3)}]})
    return folder


def test_what_is_finished_is_not_measured_again(swept: sweep.Sweep) -> None:
    folder = fake(swept, "int8-int8-per_layer", sweep.MEASURED)
    before = (folder / sweep.MANIFEST).read_text()
    assert sweep.measure(swept, sensitivity.find("int8-int8-per_layer"), lambda _: None)["status"] == sweep.MEASURED
    assert (folder / sweep.MANIFEST).read_text() == before
    assert [layer.layer for layer in sweep.read_ranking(folder)] == ["b", "a"]


def test_other_images_are_another_sweep(swept: sweep.Sweep, tmp_path: Path) -> None:
    other = sweep.Sweep(swept.detector, swept.graph, swept.calibration.first(1), 64, swept.folder)
    assert other.place != swept.place
    assert sweep.Sweep(swept.detector, swept.graph, swept.calibration, 96, swept.folder).place != swept.place


def test_unsupported_and_broken_combinations_are_results(swept: sweep.Sweep, tmp_path: Path) -> None:
    """Whatever one does, the sweep gets a manifest with the reason, and the next one runs."""
    manifest = sweep.measure(swept, sensitivity.find("fp4-int8-per_layer"), lambda _: None)
    assert (manifest["status"], "block_sizes" in manifest["reason"]) == (sweep.UNSUPPORTED, True)
    (tmp_path / "images" / "1-0.png").write_bytes(b"no image")
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
        sweep.merge([tmp_path / "images"], whole)
    other = sweep.Sweep(swept.detector, swept.graph, swept.calibration, 96, swept.folder)
    fake(other, "int8-int8-per_channel", sweep.MEASURED, tmp_path / "other")
    with pytest.raises(InputError, match="differ in detector, images or tool versions"):
        sweep.merge([one, tmp_path / "other"], tmp_path / "both")


def test_onnx_files_have_no_module_to_sweep(swept: sweep.Sweep, tmp_path: Path) -> None:
    detector = find(str(toys.make_detector(tmp_path / "toy.onnx")))
    assert detector.head.kind == "raw"
    what = sweep.Sweep(detector, swept.graph, swept.calibration, 64, tmp_path)
    with pytest.raises(UnavailableError, match="AutoQuant needs a torch module"):
        sweep.measure(what, GRID[0], lambda _: None)


@pytest.mark.parametrize(
    ("objective", "scheme"),
    [("size", "mixed-native-d5.0"), ("bits", "mixed-native-d5.0"), ("latency", "mixed-ort-d5.0")],
)
def test_a_search_leaves_the_artifact_its_trace_and_its_curve(
    objective: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the prompt, on a detector of the user's own; every candidate has a measured size and speed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWBIT_STORE", str(tmp_path / "store"))
    toys.make_detector(tmp_path / "my.onnx")
    toys.make_images(tmp_path / "images", 6, seed=7)
    (tmp_path / "list.txt").write_text("".join(f"{p}\n" for p in sorted((tmp_path / "images").iterdir())))
    asked = [
        "search",
        "--detector",
        "my.onnx",
        "--calibration",
        "list.txt",
        "--objective",
        objective,
        "--max-drop",
        "0.05",
    ]
    assert cli.main(asked) == 2, "the data set is asked for before anything is built"
    assert "needs --dataset" in capsys.readouterr().err and not (tmp_path / "runs").exists()
    dataset = toys.make_dataset(tmp_path / "data")
    assert cli.main([*asked, "--dataset", str(dataset)]) == 0
    said = capsys.readouterr().out
    assert "**chosen**" in said and f"--scheme {scheme}" in said and "looked at once" in said
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "pareto.png", "search.json"]
    found = json.loads((folder / "search.json").read_text())
    chosen = found["tried"][found["chosen"]]
    assert chosen["bytes"] == (folder / "model.onnx").stat().st_size
    assert chosen["drop"] <= 0.05 and found["scheme"] == scheme
    assert all(len(point["speedup"]) == 3 and point["bytes"] > 0 for point in found["tried"])
    assert found["verified"]["images"] == 6
    stored = {w.node: w.dtype for w in graph.structure(graph.load(folder / "model.onnx")).weights}
    names = {"int4": "INT4", "int8": "INT8", "fp8": "FLOAT8E4M3FN", search.FLOAT: "FLOAT"}
    assert {node: names[dtype] for node, dtype in chosen["dtypes"].items()} == stored
