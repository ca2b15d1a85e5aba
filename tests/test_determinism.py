"""Same inputs, same machine: byte-identical artifacts and the same numbers, for every tool."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fixtures import tiers
from fixtures.options import Case
from fixtures.workbench import Workbench
from lowbit import runtime
from lowbit.metrics import evaluate
from lowbit.predict import predict
from lowbit.schemes import CATALOGUE, Scheme, find
from lowbit.store.store import Store

# The first that stands for a family of the tool's.
ONE_A_TOOL = {scheme.tool: scheme for scheme in map(find, reversed(tiers.change().representatives))}


@pytest.mark.parametrize("scheme", ONE_A_TOOL.values(), ids=lambda scheme: scheme.id)
def test_a_second_build_gives_the_same_bytes(workbench: Workbench, scheme: Scheme, tmp_path: Path) -> None:
    if reason := workbench.skip_reason(
        Case("shapes10n", scheme, runtime.find(runtime.DEFAULT)), timed=False, scored=False
    ):
        pytest.skip(reason)
    request = workbench.request("shapes10n", scheme)
    source = request.source.read_bytes()
    first = workbench.store.get(request)
    second = Store(tmp_path / "store").get(request)
    assert second.built
    assert second.sha256 == first.sha256
    assert request.source.read_bytes() == source, "the tool wrote into its input"


@pytest.mark.parametrize(
    ("scheme_id", "pictures"), [("w4a16-brevitas-qat", "calibration"), ("w4a16-brevitas-qat-labels", "training")]
)
def test_a_second_recovery_gives_the_same_bytes(
    workbench: Workbench, scheme_id: str, pictures: str, tmp_path: Path
) -> None:
    scheme = CATALOGUE[scheme_id]
    recovery = {**scheme.settings["recovery"], "steps": 6, "batch": 4, "pictures": pictures}
    request = workbench.request("shapes10n", scheme)
    settings = {**request.settings, "recovery": recovery, "gptq": 2}
    del settings["max_bits"]  # measuring sensitivities takes longer than six steps
    request = dataclasses.replace(request, settings=settings)
    first, second = (Store(tmp_path / name).get(request) for name in ("one", "two"))
    assert first.sha256 == second.sha256
    if "labels" not in recovery:
        return
    other = {**settings, "recovery": {**recovery, "labels": 0.0}}
    third = Store(tmp_path / "three").get(dataclasses.replace(request, settings=other))
    assert third.sha256 != first.sha256


def test_a_second_evaluation_gives_the_same_numbers(workbench: Workbench) -> None:
    case = Case("shapes10n", CATALOGUE["fp32"], runtime.find(runtime.DEFAULT))
    dataset = workbench.dataset("shapes10n")
    first = workbench.evidence(case).accuracy
    second = evaluate(
        dataset,
        predict(
            workbench.session(case),
            workbench.detector("shapes10n").head,
            dataset,
            workbench.detector("shapes10n").input,
        ),
    )
    assert (second.map, second.recall, second.per_class) == (first.map, first.recall, first.per_class)
