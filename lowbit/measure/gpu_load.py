"""What a GPU did while something was timed on it: clocks, power, temperature and memory, sampled by NVML meanwhile."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lowbit import host
from lowbit.host import GpuState

_Result = TypeVar("_Result")
# Seconds between samples: NVML renews power and clocks no more than every 20 to 100 ms.
INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """A GPU over a timing, of ``samples`` readings. Clocks of the streaming multiprocessors in MHz; the highest temperature
    in degrees Celsius; mean power in watts; the most memory in use, by every process, in bytes; ``energy_per_image`` in
    joules, of the whole board; ``throttle_reasons``: share of the readings with each reason; ``throttled``: whether one of
    them is power, heat or the supply (:data:`lowbit.host.THROTTLING`). What NVML did not say is None.
    """

    samples: int
    sm_clock_min: int | None
    sm_clock_median: float | None
    sm_clock_max: int | None
    temperature_max: int | None
    power_mean: float | None
    memory_max: int | None
    energy_per_image: float | None
    throttle_reasons: dict[str, float] | None
    throttled: bool | None


def watch(work: Callable[[], _Result], interval: float = INTERVAL) -> tuple[_Result, list[GpuState]]:
    """Do some work while another thread reads the GPU's state every ``interval`` seconds.

    Returns what the work did, and the readings: one before it, those meanwhile, and one after it; none without a GPU.
    """
    with host.gpu_reader() as read:
        if read is None:
            return work(), []
        readings, done = [read()], threading.Event()

        def sample() -> None:
            while not done.wait(interval):
                readings.append(read())

        thread = threading.Thread(target=sample, name="lowbit-gpu-load", daemon=True)
        thread.start()
        try:
            result = work()
        finally:
            done.set()
            thread.join()
        readings.append(read())
        return result, readings


def load_of(readings: Sequence[GpuState], images: int) -> GpuLoad | None:
    """What the readings of :func:`watch` say of a timing that took ``images``; None for none.

    The first reading counts for energy only: the GPU may still have been idle.
    """
    if not readings:
        return None
    during = readings[1:] or readings
    clocks = [one.sm_clock_mhz for one in during if one.sm_clock_mhz is not None]
    watts = [one.power_w for one in during if one.power_w is not None]
    reasons = [one.throttle_reasons for one in during if one.throttle_reasons is not None]
    counts = Counter(name for names in reasons for name in names)
    before, after = readings[0].energy_j, readings[-1].energy_j
    return GpuLoad(
        samples=len(during),
        sm_clock_min=min(clocks, default=None),
        sm_clock_median=float(np.median(clocks)) if clocks else None,
        sm_clock_max=max(clocks, default=None),
        temperature_max=max((one.temperature_c for one in during if one.temperature_c is not None), default=None),
        power_mean=float(np.mean(watts)) if watts else None,
        memory_max=max((one.memory_bytes for one in during if one.memory_bytes is not None), default=None),
        energy_per_image=None if before is None or after is None else (after - before) / images,
        throttle_reasons={name: count / len(reasons) for name, count in counts.items()} if reasons else None,
        throttled=not host.THROTTLING.isdisjoint(counts) if reasons else None,
    )
