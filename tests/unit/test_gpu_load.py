"""Clocks, power and energy of a timing, from NVML's readings replayed one after the other."""

from __future__ import annotations

import dataclasses
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from lowbit import host
from lowbit.measure import gpu_load
from lowbit.report import summary
from lowbit.results import Entry, GpuLoadRecord
from tests.unit.test_host_gpu import A100, Device, Driver

pytestmark = pytest.mark.usefixtures("unknown_gpu")
POWER_CAP, IDLE = pynvml.nvmlClocksEventReasonSwPowerCap, pynvml.nvmlClocksEventReasonGpuIdle
# MHz, degrees, milliwatts, reasons, bytes, millijoules; the first before the work, the last after it.
READINGS = [
    (345, 30, 70_000, IDLE, 1_000, 1_000_000),
    (1980, 40, 300_000, 0, 9_000, 1_100_000),
    (1755, 52, 350_000, POWER_CAP, 9_500, 1_500_000),
    (1900, 50, 250_000, 0, 9_000, 1_900_000),
    (1700, 51, 300_000, POWER_CAP, 8_000, 2_200_000),
]


class Replay(Driver):
    """A driver whose only GPU says what its reading number ``at`` does."""

    def __init__(self, readings: list[tuple[int, ...]], silent: tuple[str, ...] = ()) -> None:
        super().__init__(Device(A100, "NVIDIA A100", (8, 0), silent=silent))
        self.readings, self.at = readings, 0

    @property
    def now(self) -> tuple[int, ...]:
        return self.readings[self.at]

    def nvmlDeviceGetClockInfo(self, device: Device, kind: int) -> int:  # noqa: N802
        return self.now[0]

    def nvmlDeviceGetTemperature(self, device: Device, sensor: int) -> int:  # noqa: N802
        return self.now[1]

    def nvmlDeviceGetPowerUsage(self, device: Device) -> int:  # noqa: N802
        self._supported(device, "power")
        return self.now[2]

    def nvmlDeviceGetCurrentClocksEventReasons(self, device: Device) -> int:  # noqa: N802
        self._supported(device, "reasons")
        return self.now[3]

    def nvmlDeviceGetMemoryInfo(self, device: Device) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=self.now[4])

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Device) -> int:  # noqa: N802
        self._supported(device, "energy")
        return self.now[5]


def states(monkeypatch: pytest.MonkeyPatch, readings: list[tuple[int, ...]], *silent: str) -> list[host.GpuState]:
    """What NVML's readings become."""
    replay = Replay(readings, silent)
    monkeypatch.setitem(sys.modules, "pynvml", replay)
    found = []
    for at in range(len(readings)):
        replay.at = at
        state = host.gpu_state()
        assert state is not None
        found.append(state)
    return found


def test_the_load_of_a_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """1200 J over 400 images, whose mean power of 300 W is that of the readings after the first."""
    found = gpu_load.load_of(states(monkeypatch, READINGS), images=400)
    assert found == gpu_load.GpuLoad(
        samples=4,
        sm_clock_min=1700,
        sm_clock_median=1827.5,
        sm_clock_max=1980,
        temperature_max=52,
        power_mean=300.0,
        memory_max=9_500,
        energy_per_image=3.0,
        throttle_reasons={"sw_power_cap": 0.5},
        throttled=True,
    )
    # All of it is recorded.
    assert GpuLoadRecord(**dataclasses.asdict(found)).model_dump() == dataclasses.asdict(found)


@pytest.mark.parametrize(("bit", "name"), host.THROTTLE_REASONS.items())
def test_what_counts_as_throttling(monkeypatch: pytest.MonkeyPatch, bit: int, name: str) -> None:
    found = gpu_load.load_of(states(monkeypatch, [READINGS[0], (1500, 50, 1, bit, 1, 1)]), images=1)
    assert found is not None and found.throttle_reasons == {name: 1.0}
    set_by_somebody = ("gpu_idle", "applications_clocks_setting", "sync_boost", "display_clock_setting")
    assert found.throttled == (name not in set_by_somebody)


def test_what_nvml_does_not_say_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = gpu_load.load_of(states(monkeypatch, READINGS, "power", "reasons", "energy"), images=400)
    assert found is not None and found.sm_clock_max == 1980
    assert (found.power_mean, found.throttle_reasons, found.throttled, found.energy_per_image) == (None,) * 4
    assert gpu_load.load_of([], images=1) is None


def test_the_gpu_is_read_before_meanwhile_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    read, real = threading.Semaphore(0), host._state

    def counted(nvml: Any, device: Any) -> host.GpuState:
        state = real(nvml, device)
        read.release()
        return state

    monkeypatch.setattr(host, "_state", counted)
    replay = Replay(READINGS)
    monkeypatch.setitem(sys.modules, "pynvml", replay)

    def work() -> str:
        assert read.acquire(blocking=False), "nothing was read before the work"
        for at in (1, 2):
            replay.at = at
            # The reading that goes on may have begun before.
            assert all(read.acquire(timeout=60) for _ in range(2)), "nothing was read meanwhile"
        replay.at = 4
        return "done"

    result, readings = gpu_load.watch(work, interval=0.001)
    clocks = [one.sm_clock_mhz for one in readings]
    assert result == "done" and clocks[0] == 345 and clocks[-1] == 1700 and {1980, 1755} <= set(clocks)
    assert replay.started == 0 and "lowbit-gpu-load" not in {thread.name for thread in threading.enumerate()}


def test_a_failure_of_the_work_ends_the_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Replay(READINGS))
    with pytest.raises(ZeroDivisionError):
        gpu_load.watch(lambda: 1 // 0, interval=0.001)
    assert "lowbit-gpu-load" not in {thread.name for thread in threading.enumerate()}


def test_without_a_gpu_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(host.VISIBLE_DEVICES, "")
    monkeypatch.setitem(sys.modules, "pynvml", Replay(READINGS))
    assert gpu_load.watch(lambda: 7) == (7, [])


def test_the_report_flags_throttling(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = dict.fromkeys(("p50", "p90", "p95", "p99", "mean"), 0.002)

    def remark(load: gpu_load.GpuLoad | None) -> str:
        assert load is not None
        latency = {**seconds, "rounds": 400, "throughput": 500, "host": "here", "gpu_load": dataclasses.asdict(load)}
        entry = Entry.model_validate({"detector": "a", "scheme": "fp16", "provider": "cuda", "latency": latency})
        (said,) = summary.remarks(entry)
        return said

    said = remark(gpu_load.load_of(states(monkeypatch, READINGS), images=400))
    assert "1700 to 1980 MHz, 300 W, 52 degrees Celsius at most, 3 J an image" in said
    assert "**It was throttled** (sw_power_cap in 50% of the samples)" in said
    assert "throttled" not in remark(gpu_load.load_of(states(monkeypatch, READINGS[:2]), images=400))
