"""Percentiles and interleaved timing."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
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
    found = latency.in_batches(path, runtime.SessionOptions(), tensor, 3, pairs=4)
    spent = time.perf_counter() - started
    assert found.batch == 3 and found.gain > 0
    # At least half of the runs are no slower than the median.
    assert 3 * (latency.WARM_UP + 4) / 2 / found.throughput < spent


def test_a_bound_run_computes_what_a_plain_one_does(tmp_path: Path) -> None:
    """Twice, into the same buffers."""
    session = ort.Cpu().open(toys.make_detector(tmp_path / "toy.onnx"), runtime.SessionOptions())
    tensor = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    run = ort.BoundRun(session.raw, tensor, "cpu")
    wanted = session.run(None, {session.get_inputs()[0].name: tensor})[0]
    for _ in range(2):
        run()
        assert np.array_equal(run.outputs[0].numpy(), wanted)
