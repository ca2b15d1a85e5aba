"""Is it really faster? Recorded by pytest-benchmark; the speed-up is a ratio of interleaved runs, and never asserted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from fixtures.options import Case
from fixtures.recording import Record, describe_artifact, describe_runtime
from fixtures.workbench import Workbench, reference_of
from lowbit import latency
from lowbit.artifacts import Artifact
from lowbit.graph import Structure

ROUNDS = 60
PAIRS = 40


@pytest.mark.latency
def test_latency(
    case: Case,
    artifact: Artifact,
    structure: Structure,
    session: onnxruntime.InferenceSession,
    timing_input: np.ndarray[Any, np.dtype[np.float32]],
    workbench: Workbench,
    benchmark: Any,
    record: Record,
    run_folder: Path,
) -> None:
    feed = {session.get_inputs()[0].name: timing_input}
    benchmark.group = f"{case.name} on {case.provider}"
    benchmark.pedantic(session.run, args=(None, feed), rounds=ROUNDS, warmup_rounds=latency.WARM_UP)
    timing = latency.summarize(benchmark.stats.stats.data)
    measured = dataclasses.asdict(timing)
    if case.scheme.id == "fp32":
        speed = {"speedup": 1.0, "speedup_ci": (1.0, 1.0)}
    else:
        reference = workbench.session(reference_of(case))
        ratio, _, _ = latency.interleave(
            lambda: reference.run(None, feed), lambda: session.run(None, feed), pairs=PAIRS
        )
        speed = {"speedup": ratio.ratio, "speedup_ci": (ratio.low, ratio.high)}
    benchmark.extra_info.update(measured, **speed, **workbench.options(case).as_json())
    record(
        **describe_artifact(artifact, structure, run_folder),
        latency={**measured, **speed, "host": latency.host()},
        **describe_runtime(case, workbench),
    )
    assert timing.rounds == ROUNDS
