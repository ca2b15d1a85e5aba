"""Timing: percentiles of one session, and a speed-up as a ratio of interleaved runs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit.host import GpuState

if TYPE_CHECKING:
    from lowbit.data.letterbox import InputSpec
    from lowbit.detector.head import Head
    from lowbit.runtime import Session, SessionOptions

WARM_UP = 10
# Images at once, as the report's heading says.
BATCH = 8


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
    reference: Callable[[], Any], candidate: Callable[[], Any], *, pairs: int, seed: int = 0
) -> tuple[Speedup, NDArray[np.float64], NDArray[np.float64]]:
    """Run A B, B A, A B ... and compare within pairs, so that a drifting clock or neighbour hits both alike.

    Returns the speed-up, with a bootstrap interval of the median of the pairs' ratios, and both lists of seconds.
    """
    for _ in range(WARM_UP):
        reference()
        candidate()
    times = np.empty((pairs, 2))
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            start = time.perf_counter()
            (reference, candidate)[which]()
            times[pair, which] = time.perf_counter() - start
    ratios = times[:, 0] / times[:, 1]
    draws = np.random.default_rng(seed).integers(0, pairs, (2000, pairs))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    speedup = Speedup(float(np.median(ratios)), float(low), float(high), pairs)
    return speedup, times[:, 0].copy(), times[:, 1].copy()


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
    """Throughput of ``batch`` images at once, images a second, from the input tensor to the raw head; ``gain``: over the
    same graph for one image, the median of interleaved pairs."""

    batch: int
    throughput: float
    gain: float


@dataclass(frozen=True, slots=True)
class Timed:
    """All that is timed of a case. ``ratios``: ``speedup``, ``speedup_fp16`` and ``precision_cost``, as far as they were
    measured. ``batched``: None for a graph that takes one image only. ``gpu_state``: before and after, on a GPU."""

    timing: Timing
    ratios: dict[str, Speedup]
    stages: EndToEnd
    batched: Batched | None
    gpu_state: list[GpuState]


def in_batches(
    path: Path, options: SessionOptions, tensor: NDArray[np.float32], batch: int = BATCH, *, pairs: int = 10
) -> Batched:
    """Time an artifact for one image and for ``batch`` of them in turns. ``tensor``: float32 [1, 3, S, S].

    Raises :class:`lowbit.errors.UnavailableError` for a graph that takes one image only.
    """
    import onnx

    from lowbit import graph
    from lowbit.runtime import open_session

    model = graph.load(path)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for size in (1, batch):
            place = Path(folder) / f"batch_{size}.onnx"
            onnx.save(graph.raw_head_of_batch(model, size), str(place))
            stack = np.ascontiguousarray(np.repeat(tensor, size, axis=0))
            runs.append(open_session(place, options).timed_run(stack))
    ratio, _, seconds = interleave(*runs, pairs=pairs)
    return Batched(batch, float(batch / np.median(seconds)), ratio.ratio * batch)
