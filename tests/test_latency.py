"""Is it really faster? Recorded by pytest-benchmark; the speed-up is a ratio of interleaved runs, and never asserted."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowbit import entries, runtime
from lowbit.artifact import Artifact
from lowbit.errors import UnavailableError
from lowbit.evaluate import Case
from lowbit.measure import gpu_load, latency
from lowbit.schemes import find_scheme
from lowbit_pytest.recording import Record
from lowbit_pytest.workbench import Workbench

ROUNDS = 60
PAIRS = 40
# For the split of the time from file to boxes.
IMAGES = 8


@pytest.mark.latency
def test_latency(
    case: Case,
    artifact: Artifact,
    timing_input: np.ndarray[Any, np.dtype[np.float32]],
    workbench: Workbench,
    request: pytest.FixtureRequest,
    record: Record,
) -> None:
    names = {"fp32": "speedup", **({"fp16": "speedup_fp16"} if case.runtime.gpu else {})}
    references = {name: dataclasses.replace(case, scheme=find_scheme(scheme)) for scheme, name in names.items()}
    depends = {
        "references": [workbench.depends(one, workbench.timed_options(one)) for one in references.values()],
        "rounds": [ROUNDS, PAIRS, IMAGES],
        "batches": workbench.batches(case),
    }
    # The fixture on use: pytest-benchmark warns of one that times nothing.
    found = workbench.timed(
        case, depends, lambda: _measure(case, references, timing_input, workbench, request.getfixturevalue("benchmark"))
    )
    record(entries.built(case, workbench))
    record(entries.timed(case, workbench, found))
    record(entries.footprint(case, workbench))
    assert found.value.timing.rounds >= ROUNDS


def _measure(
    case: Case,
    references: dict[str, Case],
    tensor: np.ndarray[Any, np.dtype[np.float32]],
    workbench: Workbench,
    benchmark: Any,
) -> latency.Timed:
    """``references``: what the case is timed against, by the name of the ratio."""
    benchmark.group = f"{case.name} on {case.runtime.name}"
    detector, images = workbench.detector(case.detector), workbench.dataset(case.detector).images
    options, session = workbench.timed_options(case), workbench.timed_session(case)
    run = session.timed_run(tensor)
    others = {name: workbench.timed_session(one).timed_run(tensor) for name, one in references.items() if one != case}
    seconds = latency.GPU_SECONDS if case.runtime.gpu else 0.0
    ratios: dict[str, latency.Speedup] = {}
    batched, missing = [], None
    with runtime.on_cores(options):
        stages = latency.end_to_end(session, detector.head, detector.input, [one.path for one in images[:IMAGES]])
        rounds = latency.rounds_lasting(run, ROUNDS, seconds)
        time_it = functools.partial(benchmark.pedantic, run, rounds=rounds)
        _, readings = gpu_load.watch(time_it) if case.runtime.gpu else (time_it(), [])
        for name in references:
            ratios[name] = latency.Speedup(1.0, 1.0, 1.0, 0)  # itself
            if name in others:
                ratios[name], _, _ = latency.interleave(others[name], run, pairs=PAIRS, seconds=seconds)
        if runtime.PRECISE in options.config:
            ratios["precision_cost"] = _precision_cost(run, workbench.deployed(case).path, options, tensor)
        try:
            batched = latency.in_batches(
                _placed(case, workbench),
                tensor,
                workbench.batches(case),
                fp16=_placed(references["speedup_fp16"], workbench) if "speedup_fp16" in references else None,
                seconds=seconds,
            )
        except UnavailableError as error:
            missing = str(error)
    timing = latency.summarize(benchmark.stats.stats.data)
    benchmark.extra_info.update(
        dataclasses.asdict(timing),
        **{name: ratio.ratio for name, ratio in ratios.items()},
        provider=case.runtime.title,
        **options.as_json(),
    )
    load = gpu_load.load_of(readings, rounds)
    # Before and after.
    states = [readings[0], readings[-1]] if readings else []
    return latency.Timed(timing, ratios, stages, batched, missing, states, load)


def _placed(case: Case, workbench: Workbench) -> tuple[Path, runtime.SessionOptions]:
    return workbench.deployed(case).path, workbench.timed_options(case)


def _precision_cost(
    run: Callable[[], Any], path: Path, options: runtime.SessionOptions, tensor: np.ndarray[Any, np.dtype[np.float32]]
) -> latency.Speedup:
    """What it costs that kernels must not saturate: time with that entry over time without."""
    config = tuple(entry for entry in options.config if entry != runtime.PRECISE)
    saturating = runtime.open_session(path, dataclasses.replace(options, config=config))
    cost, _, _ = latency.interleave(run, saturating.timed_run(tensor), pairs=PAIRS)
    return cost
