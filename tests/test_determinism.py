"""Same inputs, same machine: byte-identical artifacts and the same numbers, for every tool."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from lowbit import runtime, worker
from lowbit.artifact import Artifact
from lowbit.data.letterbox import InputSpec
from lowbit.detector.detector import Detector
from lowbit.evaluate import Case
from lowbit.measure.metrics import evaluate
from lowbit.measure.predict import predict
from lowbit.schemes import CATALOGUE, Scheme, find_scheme
from lowbit.store.store import Store
from lowbit_pytest import tiers
from lowbit_pytest.workbench import Workbench
from tests.unit.lazily import lazily

training_state, networks = lazily("lowbit.quantize.qat.training_state"), lazily("tests.unit.networks")

# The first that stands for a family of the tool's.
ONE_A_TOOL = {scheme.tool: scheme for scheme in map(find_scheme, reversed(tiers.declared().representatives))}


@pytest.mark.parametrize(
    "scheme",
    [
        # A search takes minutes.
        pytest.param(scheme, id=scheme.id, marks=[pytest.mark.slow] * ("max_drop" in scheme.settings))
        for scheme in ONE_A_TOOL.values()
    ],
)
def test_a_second_build_gives_the_same_bytes(workbench: Workbench, scheme: Scheme, tmp_path: Path) -> None:
    if reason := workbench.skip_reason(
        Case("shapes10n", scheme, runtime.find_runtime(runtime.DEFAULT)), timed=False, scored=False
    ):
        pytest.skip(reason)
    request = workbench.request("shapes10n", scheme)
    source = request.source.read_bytes()
    first = workbench.store.get(request)
    if first.manifest["threads"] != worker.threads():  # built by a session that began with others: torch adds otherwise
        first = Store(tmp_path / "first").get(request)
    second = Store(tmp_path / "second").get(request)
    assert second.built
    assert second.sha256 == first.sha256
    assert request.source.read_bytes() == source, "the tool wrote into its input"


@pytest.mark.parametrize("name", ["small", pytest.param("shapes10n", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("scheme_id", "images"),
    [
        # What the one with labels does, without them.
        pytest.param("w4a16-brevitas-qat", "calibration", marks=pytest.mark.slow),
        ("w4a16-brevitas-qat-labels", "training"),
    ],
)
def test_a_second_recovery_gives_the_same_bytes(
    workbench: Workbench, scheme_id: str, images: str, name: str, tmp_path: Path
) -> None:
    """Compensated rounding, then six steps of fine-tuning. What takes the time is rounding one input channel after the
    other, of which a small detector has few; the same code on the images and the labels of the bundled one."""
    scheme = CATALOGUE[scheme_id]
    recovery = {**scheme.settings["recovery"], "steps": 6, "batch": 4, "checks": 2, "images": images}
    request = workbench.request("shapes10n", scheme)
    if name == "small":
        detector = small(workbench.detector("shapes10n"), tmp_path / "small.yaml")
        request = dataclasses.replace(
            request, source=detector.source, identity=detector.identity(), input=detector.input
        )
        recovery["size"] = detector.input.height
    settings = {**request.settings, "recovery": recovery, "gptq": 2}
    del settings["max_bits"]  # measuring sensitivities takes longer than six steps
    request = dataclasses.replace(request, settings=settings)
    first, second = (Store(tmp_path / name).get(request) for name in ("one", "two"))
    assert first.sha256 == second.sha256
    # The curve, because what is exported may be the start, if so few steps make nothing better.
    assert curve(first) == curve(second)
    of_labels = [float(row["labels"] or 0) for row in curve(first)]
    assert len(of_labels) == recovery["steps"] and all(loss > 0 for loss in of_labels) is ("labels" in recovery)


def curve(artifact: Artifact) -> list[dict[str, str]]:
    """The losses of every step."""
    return list(csv.DictReader((artifact.path.parent / training_state.CURVE).open(encoding="utf-8")))


def small(bundled: Detector, architecture: Path) -> Detector:
    """A small architecture, written to a file for the build, with drawn weights on the bundled detector's data."""
    architecture.write_text(json.dumps(networks.small_yolov10()))  # YAML, too
    return dataclasses.replace(
        bundled,
        name="small",
        input=InputSpec(64),
        head=dataclasses.replace(bundled.head, sides=(64, 64)),
        architecture=str(architecture),
        weights=None,
        seed=0,
    )


def test_a_second_evaluation_gives_the_same_numbers(workbench: Workbench) -> None:
    case = Case("shapes10n", CATALOGUE["fp32"], runtime.find_runtime(runtime.DEFAULT))
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
