"""The GPU in use, by a driver's library that is not there: which one it is, what it says, and what it does not say."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml
import pytest

from lowbit import host

pytestmark = pytest.mark.usefixtures("unknown_gpu")
A100, H100 = "GPU-aaaa1111-0000", "GPU-bbbb2222-0000"
SLICES = ("MIG-cccc3333-0000", "MIG-dddd4444-0000")


@dataclass
class Device:
    """What NVML knows of a GPU. ``silent``: functions that this one does not support."""

    uuid: str
    name: str
    capability: tuple[int, int]
    instances: list[Device] = field(default_factory=list)
    parent: Device | None = None
    silent: tuple[str, ...] = ()


class Driver(ModuleType):
    """NVML's functions over some devices; constants and errors are pynvml's own."""

    def __init__(self, *devices: Device) -> None:
        super().__init__("pynvml")
        self.devices, self.started = devices, 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvml"):
            raise AssertionError(f"the test's driver has no {name}")
        return getattr(pynvml, name)

    def _supported(self, device: Device, name: str) -> None:
        if name in device.silent:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlInit(self) -> None:  # noqa: N802
        self.started += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.started -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.95.05"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:  # noqa: N802
        if index >= len(self.devices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self.devices[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Device:  # noqa: N802
        for device in self.devices:
            for one in (device, *device.instances):
                if one.uuid == uuid:
                    return one
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, device: Device) -> str:  # noqa: N802
        return device.uuid

    def nvmlDeviceGetName(self, device: Device) -> str:  # noqa: N802
        return device.name

    def nvmlDeviceGetCudaComputeCapability(self, device: Device) -> tuple[int, int]:  # noqa: N802
        self._of_boards_only(device)
        return device.capability

    def nvmlDeviceGetClockInfo(self, device: Device, kind: int) -> int:  # noqa: N802
        self._of_boards_only(device)
        assert kind == pynvml.NVML_CLOCK_SM
        return 1410

    def nvmlDeviceGetMaxClockInfo(self, device: Device, kind: int) -> int:  # noqa: N802
        self._of_boards_only(device)
        assert kind == pynvml.NVML_CLOCK_SM
        return 1980

    def nvmlDeviceGetTemperature(self, device: Device, sensor: int) -> int:  # noqa: N802
        self._of_boards_only(device)
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return 61

    def nvmlDeviceGetPowerUsage(self, device: Device) -> int:  # noqa: N802
        self._of_boards_only(device)
        self._supported(device, "power")
        return 250_500

    def nvmlDeviceGetMemoryInfo(self, device: Device) -> SimpleNamespace:  # noqa: N802
        self._supported(device, "memory")
        return SimpleNamespace(total=80_000, free=50_000, used=30_000)

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Device) -> int:  # noqa: N802
        self._of_boards_only(device)
        self._supported(device, "energy")
        return 7_500

    def nvmlDeviceGetCurrentClocksEventReasons(self, device: Device) -> int:  # noqa: N802
        self._of_boards_only(device)
        self._supported(device, "reasons")
        return int(pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonHwThermalSlowdown)

    def nvmlDeviceGetMigMode(self, device: Device) -> list[int]:  # noqa: N802
        if not device.instances:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [pynvml.NVML_DEVICE_MIG_ENABLE] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Device) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Device, index: int) -> Device:  # noqa: N802
        if not 2 <= index < 2 + len(device.instances):  # places may be empty
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return device.instances[index - 2]

    def nvmlDeviceIsMigDeviceHandle(self, device: Device) -> bool:  # noqa: N802
        return device.parent is not None

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, device: Device) -> Device | None:  # noqa: N802
        return device.parent

    def _of_boards_only(self, device: Device) -> None:
        if device.parent is not None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def divided() -> Device:
    board = Device("GPU-eeee5555-0000", "NVIDIA A100", (8, 0))
    board.instances = [Device(uuid, "NVIDIA A100 MIG 3g.20gb", (0, 0), parent=board) for uuid in SLICES]
    return board


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    two = Driver(Device(A100, "NVIDIA A100", (8, 0)), Device(H100, "NVIDIA H100", (9, 0)))
    monkeypatch.setitem(sys.modules, "pynvml", two)
    return two


@pytest.mark.parametrize(
    ("visible", "uuid"),
    [
        (None, A100),
        ("0", A100),
        ("1", H100),
        (" 1 , 0", H100),
        (H100, H100),
        (f"{H100},{A100}", H100),
        ("GPU-bbbb", H100),
        ("GPU-", None),  # two begin so
        ("GPU-cccc", None),
        ("", None),
        ("-1", None),
        ("2", None),
        ("2,0", None),  # CUDA stops at the first entry that is invalid
        ("all", None),
        ("MIG-cccc3333-0000", None),
    ],
)
def test_the_gpu_in_use(driver: Driver, monkeypatch: pytest.MonkeyPatch, visible: str | None, uuid: str | None) -> None:
    if visible is not None:
        monkeypatch.setenv(host.VISIBLE_DEVICES, visible)
    found, state = host.gpu(), host.gpu_state()
    assert (found.uuid if found else None, state.uuid if state else None) == (uuid, uuid)
    assert host.gpu_count() == 2
    assert driver.started == 0


def test_what_is_said_of_it(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(host.VISIBLE_DEVICES, "1")
    assert host.gpu() == host.Gpu(H100, "NVIDIA H100", 9.0, "580.95.05")
    reasons = ["sw_power_cap", "hw_thermal_slowdown"]
    assert host.gpu_state() == host.GpuState(H100, 1410, 1980, 61, 250.5, reasons, 30_000, 7.5)
    monkeypatch.setenv(host.VISIBLE_DEVICES, "0")
    assert host.gpu() == host.Gpu(A100, "NVIDIA A100", 8.0, "580.95.05")


def test_what_a_gpu_does_not_say_is_none(driver: Driver) -> None:
    driver.devices[0].silent = ("power", "reasons", "memory", "energy")
    state = host.gpu_state()
    assert state is not None and state.sm_clock_mhz == 1410
    assert state.power_w is None and state.throttle_reasons is None
    assert state.memory_bytes is None and state.energy_j is None


@pytest.mark.parametrize(
    ("visible", "uuid"), [(None, SLICES[0]), ("0", SLICES[0]), ("GPU-eeee", SLICES[0]), (SLICES[1], SLICES[1])]
)
def test_an_instance_of_a_divided_gpu(monkeypatch: pytest.MonkeyPatch, visible: str | None, uuid: str) -> None:
    """Its own name, UUID and memory; clocks, power and compute capability are its board's, whose energy others use too."""
    monkeypatch.setitem(sys.modules, "pynvml", Driver(divided()))
    if visible is not None:
        monkeypatch.setenv(host.VISIBLE_DEVICES, visible)
    assert host.gpu() == host.Gpu(uuid, "NVIDIA A100 MIG 3g.20gb", 8.0, "580.95.05")
    assert host.gpu_state() == host.GpuState(
        uuid, 1410, 1980, 61, 250.5, ["sw_power_cap", "hw_thermal_slowdown"], 30_000, None
    )


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriver(Driver):
        def nvmlInit(self) -> None:  # noqa: N802
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setitem(sys.modules, "pynvml", NoDriver(Device(A100, "NVIDIA A100", (8, 0))))
    assert (host.gpu(), host.gpu_state(), host.gpu_count()) == (None, None, 0)


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has an NVIDIA driver")
def test_without_a_driver_for_real() -> None:
    assert (host.gpu(), host.gpu_state(), host.gpu_count()) == (None, None, 0)


def test_reasons_without_a_name_keep_their_number() -> None:
    assert host.throttle_reasons(0) == []
    assert host.throttle_reasons(0x805) == ["gpu_idle", "sw_power_cap", "0x800"]


def test_names_of_reasons_are_nvmls() -> None:
    for bit, name in host.THROTTLE_REASONS.items():
        constant = "nvmlClocksEventReason" + "".join(part.title() for part in name.split("_"))
        assert getattr(pynvml, constant) == bit
