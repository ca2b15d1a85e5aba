"""What TensorRT makes of an artifact: which layers run in which type, how fast, and whether it still sees the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lowbit import entries, runtime
from lowbit.artifact import Artifact
from lowbit.evaluate import Case
from lowbit.measure import comparison, latency
from lowbit.measure.executed_kernels import macs_by_node
from lowbit.progress import Step
from lowbit.results import EngineRecord
from lowbit.runtime import engine as engines
from lowbit.schemes import find_scheme
from lowbit_pytest.recording import Record
from lowbit_pytest.workbench import Workbench

PAIRS = 40


@pytest.fixture(scope="module")
def references() -> dict[str, engines.Engine]:
    """The FP32 engines, by detector."""
    return {}


@pytest.mark.latency
@pytest.mark.runtimes("trt")
def test_engine(
    case: Case,
    artifact: Artifact,
    timing_input: NDArray[np.float32],
    workbench: Workbench,
    references: dict[str, engines.Engine],
    record: Record,
) -> None:
    """Built with the types of the graph, obeyed; INT4 weights in their INT8 form, as for TensorRT's provider."""
    if why := engines.reason():
        pytest.skip(why)
    workbench.progress(Step(f"{case.id}: building a TensorRT engine"))

    def build(path: Path) -> engines.Engine:
        return engines.Engine(path, timing_input, workbench.store.engines, macs_by_node(path))

    engine = build(workbench.deployed(case).path)
    if case.detector not in references:
        references[case.detector] = build(workbench.artifact(case.detector, find_scheme("fp32")).path)
    reference = references[case.detector]
    speed, _, seconds = latency.interleave(reference, engine, pairs=PAIRS, seconds=latency.GPU_SECONDS)
    timing = latency.summarize(seconds)
    found = EngineRecord(
        layers=engine.precisions.layers,
        mac_fractions=engine.precisions.mac_fractions,
        build_seconds=engine.plan.seconds,
        build_log=list(engine.plan.log),
        float_convolutions=list(engine.precisions.float_convolutions),
        p50=timing.p50,
        p90=timing.p90,
        p95=timing.p95,
        p99=timing.p99,
        speedup=speed.ratio,
        speedup_ci=(speed.low, speed.high),
    )
    record(entries.part(case, engine=found))
    head = workbench.detector(case.detector).head
    plain = runtime.open_session(workbench.deployed(case).path, runtime.SessionOptions(optimized=False))
    wanted = plain.run(None, {plain.get_inputs()[0].name: timing_input})
    same = comparison.agreement([head.decode(engine.outputs())], [head.decode(wanted)])
    assert same.share is not None, "neither the engine nor the graph sees anything on the image: nothing was compared"
    assert same.share >= comparison.MIN_AGREEMENT, f"the engine agrees with the graph on {same.share:.0%} only"
