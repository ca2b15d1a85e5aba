"""Is it really faster? Recorded by pytest-benchmark; the speed-up is a ratio of interleaved runs, and never asserted."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowbit import entries, host, runtime
from lowbit.artifact import Artifact
from lowbit.errors import UnavailableError
from lowbit.evaluate import Case
from lowbit.measure import latency
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
    benchmark: Any,
    record: Record,
) -> None:
    benchmark.group = f"{case.name} on {case.runtime.name}"
    detector, images = workbench.detector(case.detector), workbench.dataset(case.detector).images
    options, session = workbench.timed_options(case), workbench.timed_session(case)
    references = {"fp32": "speedup", **({"fp16": "speedup_fp16"} if case.runtime.gpu else {})}
    run = session.timed_run(timing_input)
    others = {
        scheme: workbench.timed_session(dataclasses.replace(case, scheme=find_scheme(scheme))).timed_run(timing_input)
        for scheme in references
        if scheme != case.scheme.id
    }
    state = [host.gpu_state()] if case.runtime.gpu else []
    ratios: dict[str, latency.Speedup] = {}
    batched = None
    with runtime.on_cores(options):
        stages = latency.end_to_end(session, detector.head, detector.input, [one.path for one in images[:IMAGES]])
        benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=latency.WARM_UP)
        for scheme, name in references.items():
            ratios[name] = latency.Speedup(1.0, 1.0, 1.0, 0)  # itself
            if scheme in others:
                ratios[name], _, _ = latency.interleave(others[scheme], run, pairs=PAIRS)
        if runtime.PRECISE in options.config:
            ratios["precision_cost"] = _precision_cost(run, workbench.deployed(case).path, options, timing_input)
        with contextlib.suppress(UnavailableError):  # a graph for one image only
            path = workbench.deployed(case).path
            batched = latency.in_batches(path, options, timing_input)
    timing = latency.summarize(benchmark.stats.stats.data)
    state += [host.gpu_state()] if state else []
    measured = entries.timed(case, workbench, timing, ratios, stages, batched, [one for one in state if one])
    benchmark.extra_info.update(
        measured.latency.model_dump(mode="json"), provider=case.runtime.title, **options.as_json()
    )
    record(entries.built(case, workbench))
    record(measured)
    record(entries.footprint(case, workbench))
    assert timing.rounds == ROUNDS


def _precision_cost(
    run: Callable[[], Any], path: Path, options: runtime.SessionOptions, tensor: np.ndarray[Any, np.dtype[np.float32]]
) -> latency.Speedup:
    """What it costs that kernels must not saturate: time with that entry over time without."""
    config = tuple(entry for entry in options.config if entry != runtime.PRECISE)
    saturating = runtime.open_session(path, dataclasses.replace(options, config=config))
    cost, _, _ = latency.interleave(run, saturating.timed_run(tensor), pairs=PAIRS)
    return cost
