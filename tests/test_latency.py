"""Is it really faster? Recorded by pytest-benchmark; the speed-up is a ratio of interleaved runs, and never asserted."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from fixtures.options import Case
from fixtures.recording import Record, describe_artifact, describe_runtime
from fixtures.workbench import Workbench
from lowbit import latency, runtime
from lowbit.artifacts import Artifact
from lowbit.errors import UnavailableError
from lowbit.graph import Structure
from lowbit.schemes import find

ROUNDS = 60
PAIRS = 40
# For the split of the time from file to boxes.
PICTURES = 8


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
    benchmark.group = f"{case.name} on {case.provider}"
    detector, images = workbench.detector(case.detector), workbench.dataset(case.detector).images
    stages = latency.end_to_end(
        session, workbench.contract(case.detector), detector.input, [image.path for image in images[:PICTURES]]
    )
    state = [runtime.gpu_state()] if case.provider != "cpu" else []
    run = runtime.timed_run(session, timing_input, case.provider)
    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=latency.WARM_UP)
    timing = latency.summarize(benchmark.stats.stats.data)
    speed: dict[str, Any] = {}
    for scheme, name in (("fp32", "speedup"), *([("fp16", "speedup_fp16")] if case.provider != "cpu" else [])):
        other = dataclasses.replace(case, scheme=find(scheme))
        if case.scheme.id == scheme:
            speed |= {name: 1.0, f"{name}_ci": (1.0, 1.0)}
            continue
        reference = runtime.timed_run(workbench.session(other), timing_input, case.provider)
        ratio, _, _ = latency.interleave(reference, run, pairs=PAIRS)
        speed |= {name: ratio.ratio, f"{name}_ci": (ratio.low, ratio.high)}
    batched = None
    with contextlib.suppress(UnavailableError):  # a graph for one picture only
        path = workbench.deployed(case).path
        batched = dataclasses.asdict(latency.in_batches(path, workbench.options(case), timing_input))
    state += [runtime.gpu_state()] if state else []
    measured = {**dataclasses.asdict(timing), **speed, "end_to_end": dataclasses.asdict(stages), "batched": batched}
    benchmark.extra_info.update(measured, **workbench.options(case).as_json())
    record(
        **describe_artifact(artifact, structure, run_folder),
        latency={**measured, "host": latency.host(), "gpu_state": [one for one in state if one] or None},
        **describe_runtime(case, workbench),
    )
    assert timing.rounds == ROUNDS
