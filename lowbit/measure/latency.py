"""Timing: percentiles of one session, and a speed-up as a ratio of interleaved runs."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit.host import GpuState
from lowbit.measure.gpu_load import GpuLoad

if TYPE_CHECKING:
    import onnx

    from lowbit.data.letterbox import InputSpec
    from lowbit.detector.head import Head
    from lowbit.runtime import Session, SessionOptions

WARM_UP = 10
# Images at once. A GPU is filled by no fewer; a CPU is by one, and the larger batch would take it as many times as long.
BATCHES, GPU_BATCHES = (1, 8), (1, 8, 32)
# What a timing on a GPU lasts at least: its clocks follow the load within a second.
GPU_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Latency of one session at batch 1. Times in seconds, ``throughput`` in images a second."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    rounds: int
    throughput: float


@dataclass(frozen=True, slots=True)
class Speedup:
    """Median over the pairs of reference time divided by candidate time, with its 95 % interval."""

    ratio: float
    low: float
    high: float
    pairs: int


def summarize(seconds: NDArray[np.float64] | list[float]) -> Timing:
    """Percentiles (linear interpolation) of single-run times in seconds. Raises ``ValueError`` for no times."""
    times = np.asarray(seconds, float)
    if not times.size:
        raise ValueError("no times were measured")
    p50, p90, p95, p99 = (float(v) for v in np.percentile(times, [50, 90, 95, 99]))
    mean = float(times.mean())
    return Timing(p50, p90, p95, p99, mean, len(times), 1 / mean)


def interleave(
    reference: Callable[[], Any], candidate: Callable[[], Any], *, pairs: int, seconds: float = 0.0, seed: int = 0
) -> tuple[Speedup, NDArray[np.float64], NDArray[np.float64]]:
    """Run A B, B A, A B ... and compare within pairs, so that a drifting clock or neighbour hits both alike.

    ``pairs``: at least so many; more until the candidate has run for ``seconds``, whose percentiles are reported.
    Returns the speed-up, with a bootstrap interval of the median of the pairs' ratios, and both lists of seconds.
    """
    for _ in range(WARM_UP):
        reference()
        candidate()
    found: list[list[float]] = []
    spent = 0.0
    while len(found) < pairs or spent < seconds:
        pair = [0.0, 0.0]
        for which in (0, 1) if len(found) % 2 == 0 else (1, 0):
            start = time.perf_counter()
            (reference, candidate)[which]()
            pair[which] = time.perf_counter() - start
        spent += pair[1]
        found.append(pair)
    times, pairs = np.array(found), len(found)
    ratios = times[:, 0] / times[:, 1]
    draws = np.random.default_rng(seed).integers(0, pairs, (2000, pairs))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    speedup = Speedup(float(np.median(ratios)), float(low), float(high), pairs)
    return speedup, times[:, 0].copy(), times[:, 1].copy()


def rounds_lasting(run: Callable[[], Any], rounds: int, seconds: float) -> int:
    """Warm up, and say how many runs to time: ``rounds``, or so many more that they last ``seconds`` at the speed of the
    fastest run of the warm-up."""
    fastest = math.inf
    for _ in range(WARM_UP):
        start = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - start)
    return max(rounds, math.ceil(seconds / fastest)) if fastest > 0 else rounds


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """Median seconds of one image: from its file to the input tensor, through the model, and from the output to boxes in
    the image's pixels."""

    preprocess: float
    model: float
    postprocess: float


def end_to_end(session: Session, head: Head, spec: InputSpec, images: Sequence[Path]) -> EndToEnd:
    """Time every stage on some images, one after the other, as a program without overlap would run them."""
    from lowbit.data.letterbox import preprocess

    name = session.get_inputs()[0].name
    stages = []
    for path in (images[0], *images):  # the first run warms up
        clock = [time.perf_counter()]
        tensor, place = preprocess(path, spec)
        clock.append(time.perf_counter())
        outputs = session.run(None, {name: tensor})
        clock.append(time.perf_counter())
        place.to_image(head.decode(outputs).boxes)
        clock.append(time.perf_counter())
        stages.append(np.diff(clock))
    return EndToEnd(*map(float, np.median(stages[1:], 0)))


@dataclass(frozen=True, slots=True)
class Batched:
    """Runs of ``batch`` images at once, from the input tensor to the raw head. ``timing``: of a run, its throughput in
    images a second. ``gain``: throughput over that of the same graph for one image. ``speedup_fp16``: over FP16 at the same
    batch, where that was asked for. Both are medians of interleaved pairs."""

    batch: int
    timing: Timing
    gain: float
    speedup_fp16: Speedup | None


@dataclass(frozen=True, slots=True)
class Timed:
    """All that is timed of a case. ``ratios``: ``speedup``, ``speedup_fp16`` and ``precision_cost``, as far as they were
    measured. ``batched``: larger batches, smallest first; none for a graph that takes one image only, and
    ``batched_missing`` says why. ``gpu_state``: before and after, on a GPU,
    ``gpu_load`` meanwhile."""

    timing: Timing
    ratios: dict[str, Speedup]
    stages: EndToEnd
    batched: list[Batched]
    batched_missing: str | None
    gpu_state: list[GpuState]
    gpu_load: GpuLoad | None


def in_batches(
    artifact: tuple[Path, SessionOptions],
    tensor: NDArray[np.float32],
    batches: Sequence[int],
    *,
    fp16: tuple[Path, SessionOptions] | None = None,
    pairs: int = 10,
    seconds: float = 0.0,
) -> list[Batched]:
    """Time an artifact for one image and for every size of ``batches`` above 1, in turns.

    ``tensor``: float32 [1, 3, S, S]. ``fp16``: what the speed-up at every batch is against. ``pairs``, ``seconds``: as for
    :func:`interleave`. Raises :class:`lowbit.errors.UnavailableError` for a graph that takes one image only.
    """
    from lowbit import graph
    from lowbit.runtime import open_session

    sizes = sorted({size for size in batches if size > 1})
    if not sizes:
        return []
    models = {path: graph.load(path) for path, _ in filter(None, (artifact, fp16))}
    with tempfile.TemporaryDirectory() as folder:

        def run(of: tuple[Path, SessionOptions], size: int) -> Callable[[], Any]:
            path, options = of
            place = Path(folder) / f"{len(list(Path(folder).iterdir()))}.onnx"
            _save(graph.raw_head_of_batch(models[path], size), place)
            return open_session(place, options).timed_run(np.ascontiguousarray(np.repeat(tensor, size, axis=0)))

        one, found = run(artifact, 1), []
        for size in sizes:
            many = run(artifact, size)
            gain, _, times = interleave(one, many, pairs=pairs, seconds=seconds)
            speedup = None
            if fp16 == artifact:
                speedup = Speedup(1.0, 1.0, 1.0, 0)  # itself
            elif fp16:
                speedup, _, _ = interleave(run(fp16, size), many, pairs=pairs, seconds=seconds)
            timing = summarize(times)
            timing = replace(timing, throughput=size * timing.throughput)
            found.append(Batched(size, timing, gain.ratio * size, speedup))
        return found


def _save(model: onnx.ModelProto, path: Path) -> None:
    import onnx

    onnx.save(model, str(path))
