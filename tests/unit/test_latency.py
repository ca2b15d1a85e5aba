"""Percentiles and interleaved timing."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lowbit import graph, runtime
from lowbit.data.letterbox import InputSpec
from lowbit.detector import heads
from lowbit.measure import latency
from lowbit.runtime import ort
from tests.unit import toys


def _percentile(times: list[float], percent: float) -> float:
    """Linear interpolation between the two nearest ranks, written out."""
    ranked = sorted(times)
    at = (len(ranked) - 1) * percent / 100
    below = int(at)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (at - below) * (ranked[above] - ranked[below])


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1001])
def test_percentiles_equal_those_worked_out_by_hand(count: int) -> None:
    times = np.random.default_rng(count).exponential(0.01, count).tolist()
    timing = latency.summarize(times)
    got = [timing.p50, timing.p90, timing.p95, timing.p99]
    assert got == pytest.approx([_percentile(times, p) for p in (50, 90, 95, 99)])
    assert timing.mean == pytest.approx(sum(times) / count)
    assert timing.throughput == pytest.approx(count / sum(times))
    assert timing.rounds == count


def test_known_percentiles() -> None:
    timing = latency.summarize(np.arange(1.0, 102.0))
    assert (timing.p50, timing.p90, timing.p95, timing.p99) == (51, 91, 96, 100)


def test_no_times_are_an_error() -> None:
    with pytest.raises(ValueError, match="no times"):
        latency.summarize([])


def test_both_run_equally_often_and_take_turns_in_going_first() -> None:
    order: list[str] = []
    _, first, second = latency.interleave(partial(order.append, "a"), partial(order.append, "b"), pairs=6)
    assert order.count("a") == order.count("b") == latency.WARM_UP + 6
    assert "".join(order[2 * latency.WARM_UP :]) == "abbaabbaabba"
    assert first.shape == second.shape == (6,)


def test_the_ratio_of_two_sleeps() -> None:
    speedup, first, second = latency.interleave(partial(time.sleep, 0.001), partial(time.sleep, 0.003), pairs=60)
    # A sleep never falls short, and overshoots by as much as the machine is busy.
    assert first.min() >= 0.001 and second.min() >= 0.003
    assert speedup.ratio == pytest.approx(np.median(first / second))
    assert speedup.low <= speedup.ratio <= speedup.high
    assert speedup.pairs == 60


def _clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Put a clock under the timing that only the returned function advances."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def spend(seconds: float) -> None:
        now[0] += seconds

    return spend


def test_the_ratio_and_its_interval_are_exact_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    spend = _clock(monkeypatch)
    speedup, first, second = latency.interleave(partial(spend, 3.0), partial(spend, 2.0), pairs=9)
    assert [speedup.low, speedup.ratio, speedup.high] == pytest.approx([1.5, 1.5, 1.5])
    assert first == pytest.approx(3.0) and second == pytest.approx(2.0)


def test_a_slowing_machine_does_not_move_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    spend, speed = _clock(monkeypatch), [1.0]

    def work(seconds: float) -> None:
        spend(seconds * speed[0])
        speed[0] *= 1.001

    speedup, first, _ = latency.interleave(partial(work, 3.0), partial(work, 1.0), pairs=500)
    assert first[-1] > 2 * first[0]
    assert speedup.ratio == pytest.approx(3.0, rel=2e-3)
    assert speedup.low <= 3.0 <= speedup.high


def test_noise_widens_the_interval_and_the_seed_fixes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spend = _clock(monkeypatch)

    def measure(spread: float, seed: int) -> latency.Speedup:
        rng = np.random.default_rng(7)
        noisy = [lambda base=base: spend(base * rng.lognormal(0, spread)) for base in (2.0, 1.0)]
        return latency.interleave(*noisy, pairs=80, seed=seed)[0]

    quiet, loud = measure(0.02, 0), measure(0.3, 0)
    assert quiet.low < quiet.ratio < quiet.high
    assert quiet.low < 2.0 < quiet.high and loud.low < 2.0 < loud.high
    assert loud.high - loud.low > 5 * (quiet.high - quiet.low)
    # The clock goes on between the two, so the last digits of its differences may not.
    assert [measure(0.3, 0).low, measure(0.3, 0).high] == pytest.approx([loud.low, loud.high], rel=1e-9)
    assert [measure(0.3, 1).low, measure(0.3, 1).high] != pytest.approx([loud.low, loud.high], rel=1e-9)


def test_the_stages_of_one_image_add_up(tmp_path: Path) -> None:
    path = toys.make_detector(tmp_path / "toy.onnx")
    toys.make_images(tmp_path / "images", 3, seed=1)
    session = runtime.open_session(path, runtime.SessionOptions())
    head = heads.recognise(path, graph.load(path))
    images = sorted((tmp_path / "images").iterdir())
    started = time.perf_counter()
    stages = latency.end_to_end(session, head, InputSpec(64), images)
    spent = time.perf_counter() - started
    assert min(stages.preprocess, stages.model, stages.postprocess) > 0
    assert stages.preprocess + stages.model + stages.postprocess < spent


def test_throughput_in_batches_of_the_detector(tmp_path: Path) -> None:
    path = toys.make_detector(tmp_path / "toy.onnx")
    tensor = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    started = time.perf_counter()
    found = latency.in_batches((path, runtime.SessionOptions()), tensor, (3, 1, 2, 3), pairs=4)
    spent = time.perf_counter() - started
    assert [one.batch for one in found] == [2, 3]
    for one in found:
        assert one.gain > 0 and one.timing.rounds == 4 and one.speedup_fp16 is None
        assert one.timing.throughput == pytest.approx(one.batch / one.timing.mean)
    assert sum(4 * one.timing.mean for one in found) < spent
    assert latency.in_batches((path, runtime.SessionOptions()), tensor, (1,)) == []


def test_batches_are_compared_with_fp16_at_the_same_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a session moves on: FP16 takes 3 s an image, the candidate 2 s and 4 s a run besides."""
    spend = _clock(monkeypatch)
    paths = [toys.make_detector(tmp_path / name) for name in ("candidate.onnx", "fp16.onnx")]
    costs = iter([(2, 4), (2, 4), (3, 0)])  # in the order in which they are opened: one image, two, FP16's two

    class Clocked:
        def timed_run(self, tensor: np.ndarray[Any, Any]) -> Callable[[], None]:
            image, fixed = next(costs)
            return lambda: spend(image * len(tensor) + fixed)

    monkeypatch.setattr(runtime, "open_session", lambda path, options: Clocked())
    artifact, fp16 = ((path, runtime.SessionOptions()) for path in paths)
    (found,) = latency.in_batches(artifact, np.zeros((1, 3, 64, 64), np.float32), (2,), fp16=fp16, pairs=3, seconds=100)
    assert found.speedup_fp16 is not None
    assert found.gain == pytest.approx(2 * 6 / 8) and found.speedup_fp16.ratio == pytest.approx(6 / 8)
    # 8 s a run, so 13 of them last 100 s.
    assert (found.timing.p99, found.timing.throughput, found.timing.rounds) == pytest.approx((8, 2 / 8, 13))


def test_a_bound_run_takes_a_batch(tmp_path: Path) -> None:
    """As on a GPU: the outputs' shapes and types, which the graph does not state, are ONNX Runtime's."""
    path = tmp_path / "batch.onnx"
    onnx.save(graph.raw_head_of_batch(graph.load(toys.make_detector(tmp_path / "toy.onnx")), 3), str(path))
    session = ort.Cpu().open(path, runtime.SessionOptions())
    tensor = np.random.default_rng(0).random((3, 3, 64, 64), np.float32)
    run = ort.BoundRun(session.raw, tensor, "cpu")
    run()
    for found, wanted in zip(run.outputs, session.run(None, {session.get_inputs()[0].name: tensor}), strict=True):
        assert len(wanted) == 3 and np.array_equal(found.numpy(), wanted)


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 5), (1.0, 5), (2.0, 8)])
def test_a_timing_lasts_as_long_as_it_is_asked_to(monkeypatch: pytest.MonkeyPatch, seconds: float, rounds: int) -> None:
    """A run takes 1 s first and 0.25 s later."""
    spend, runs = _clock(monkeypatch), [0]

    def work() -> None:
        runs[0] += 1
        spend(0.25 if runs[0] > 1 else 1.0)

    assert latency.rounds_lasting(work, 5, seconds) == rounds
    assert runs[0] == latency.WARM_UP


def test_a_bound_run_computes_what_a_plain_one_does(tmp_path: Path) -> None:
    """Twice, into the same buffers."""
    session = ort.Cpu().open(toys.make_detector(tmp_path / "toy.onnx"), runtime.SessionOptions())
    tensor = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    run = ort.BoundRun(session.raw, tensor, "cpu")
    wanted = session.run(None, {session.get_inputs()[0].name: tensor})[0]
    for _ in range(2):
        run()
        assert np.array_equal(run.outputs[0].numpy(), wanted)
