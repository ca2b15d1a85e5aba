"""Dtypes for convolutions within a budget or a drop: the integer program, the search, its artifact."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit import cli, graph
from lowbit.data.letterbox import InputSpec
from lowbit.detector import heads
from lowbit.errors import BuildError, InputError
from lowbit.sensitivity import assignment, bit_allocation
from tests.unit import toys


def test_the_artifact_of_the_search_is_its_best_candidate(tmp_path: Path) -> None:
    """What is left in the file is the assignment that was chosen, not the last one that was tried."""
    path = toys.make_detector(tmp_path / "toy.onnx")
    toys.make_images(tmp_path / "images", 6, seed=3)
    head, output = heads.recognise(path, graph.load(path)), tmp_path / "model.onnx"
    images = sorted((tmp_path / "images").iterdir())
    candidates = assignment.Weights(path, head, InputSpec(64), images, lambda _: None)
    built: list[bytes] = []
    best, tried = candidates.cheapest(0.02, output, lambda file: built.append(file.read_bytes()))
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
    found = bit_allocation.assign(noise, cost, limit * (1 + 1e-6))
    assert found is not None
    assert total(noise, found) <= limit * (1 + 1e-5)
    assert total(cost, found) <= min(possible) + 1e-4 * max(max(c.values()) for c in cost.values())


def test_nothing_is_assigned_where_nothing_fits() -> None:
    assert bit_allocation.assign({"a": {"int8": 1.0}}, {"a": {"int8": 1.0}}, 0.5) is None


def twelve() -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    rng = np.random.default_rng(0)
    noise = {f"layer{i}": {"int4": float(n), "int8": float(n) / 256} for i, n in enumerate(rng.uniform(0.01, 1, 12))}
    return noise, {name: {"int4": 4.0, "int8": 8.0} for name in noise}


def test_the_search_ends_at_the_cheapest_within_the_drop() -> None:
    noise, cost = twelve()

    def drop(dtypes: dict[str, str]) -> float:
        return sum(noise[name][dtype] for name, dtype in dtypes.items()) / 100

    best, tried = bit_allocation.search(noise, cost, drop, 0.02)
    assert best.drop <= 0.02
    # One more layer at 4 bits, the quietest of those at 8, would be too much.
    quietest = min((n for n, d in best.dtypes.items() if d == "int8"), key=lambda n: noise[n]["int4"])
    assert drop(best.dtypes | {quietest: "int4"}) > 0.02
    assert bit_allocation.search(noise, cost, drop, 0.02) == (best, tried)
    assert all(point.cost >= best.cost for point in tried if point.drop <= 0.02)
    assert json.loads(json.dumps(bit_allocation.trace(tried)))[0]["dtypes"] == tried[0].dtypes


def test_float_is_an_answer_too() -> None:
    """Offered float, whose noise is 0, the search still ends among quantized layers."""
    noise, cost = twelve()
    noise = {name: {**kinds, bit_allocation.FLOAT: 0.0} for name, kinds in noise.items()}
    cost = {name: {**kinds, bit_allocation.FLOAT: 32.0} for name, kinds in cost.items()}
    best, tried = bit_allocation.search(noise, cost, lambda d: sum(noise[n][k] for n, k in d.items()) / 100, 0.02)
    kinds = list(best.dtypes.values())
    assert tried[0].noise == 0 and "int4" in kinds and best.cost < 12 * 8


def test_a_drop_that_nothing_keeps_is_an_error() -> None:
    noise, cost = twelve()
    with pytest.raises(BuildError, match=r"loses 50\.00 points of agreement, and 1\.00 are allowed"):
        bit_allocation.search(noise, cost, lambda _: 0.5, 0.01)


def test_weight_bits_count_scales() -> None:
    parameters, channels = {"a": 100, "b": 100, "c": 200}, {"a": 10, "b": 5, "c": 7}
    cost = bit_allocation.storage(("int4", "fp8", bit_allocation.FLOAT), parameters, channels)
    found = bit_allocation.weight_bits({"a": "int4", "b": "fp8", "c": bit_allocation.FLOAT}, cost, parameters)
    assert found == (400 + 800 + 6400 + 320 + 160) / 400


def test_the_budget_is_used_and_kept() -> None:
    noise, _ = twelve()
    parameters, channels = (dict.fromkeys(noise, count) for count in (1000, 10))
    cost = bit_allocation.storage(("int4", "int8"), parameters, channels)
    found = bit_allocation.within_budget(noise, cost, parameters, 5.9)
    assert 5.5 < bit_allocation.weight_bits(found, cost, parameters) <= 5.9
    # Equal sizes: the noisiest keep 8 bits.
    eight = {name for name, dtype in found.items() if dtype == "int8"}
    assert eight == set(sorted(noise, key=lambda name: -noise[name]["int4"])[: len(eight)])
    with pytest.raises(BuildError, match=r"4\.1 bits a weight are below the 4\.32"):
        bit_allocation.within_budget(noise, cost, parameters, 4.1)


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
    names = {"int4": "INT4", "int8": "INT8", "fp8": "FLOAT8E4M3FN", bit_allocation.FLOAT: "FLOAT"}
    assert {node: names[dtype] for node, dtype in chosen["dtypes"].items()} == stored
