"""What numbers depend on beside the code: the NVIDIA GPU in use, by the driver's own library (NVML, read only)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

# Which GPUs CUDA shows to a process, the first one first.
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or one MIG instance of it. ``compute_capability``: 9.0 for Hopper. What NVML does not say is None."""

    uuid: str | None
    name: str | None
    compute_capability: float | None
    driver: str | None


@dataclass(frozen=True, slots=True)
class GpuState:
    """A GPU at one moment. Clocks of the streaming multiprocessors in MHz, temperature in degrees Celsius, power in watts;
    ``throttle_reasons``: names of NVML's ``nvmlClocksEventReason`` bits. What NVML does not say is None."""

    uuid: str | None
    sm_clock_mhz: int | None
    max_sm_clock_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    throttle_reasons: list[str] | None


# NVML's nvmlClocksEventReason bits, https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html
THROTTLE_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}


def gpu() -> Gpu | None:
    """The GPU that CUDA gives to this process first, or None without a driver or a visible GPU."""
    return _described(os.environ.get(VISIBLE_DEVICES))


@functools.cache
def _described(visible: str | None) -> Gpu | None:
    with _nvml() as nvml:
        device = _in_use(nvml, visible) if nvml else None
        if device is None:
            return None
        board = _board(nvml, device)
        capability = _answer(nvml, "nvmlDeviceGetCudaComputeCapability", board)
        return Gpu(
            uuid=_answer(nvml, "nvmlDeviceGetUUID", device),
            name=_answer(nvml, "nvmlDeviceGetName", device),
            compute_capability=float("{}.{}".format(*capability)) if capability else None,
            driver=_answer(nvml, "nvmlSystemGetDriverVersion"),
        )


def gpu_state() -> GpuState | None:
    """Clocks, temperature, power and throttling of the GPU in use now, or None where :func:`gpu` is None."""
    with _nvml() as nvml:
        device = _in_use(nvml, os.environ.get(VISIBLE_DEVICES)) if nvml else None
        if device is None:
            return None
        # An instance shares its board's clocks and power, and NVML answers for the board only.
        board = _board(nvml, device)
        milliwatts = _answer(nvml, "nvmlDeviceGetPowerUsage", board)
        reasons = _answer(nvml, "nvmlDeviceGetCurrentClocksEventReasons", board)
        return GpuState(
            uuid=_answer(nvml, "nvmlDeviceGetUUID", device),
            sm_clock_mhz=_answer(nvml, "nvmlDeviceGetClockInfo", board, nvml.NVML_CLOCK_SM),
            max_sm_clock_mhz=_answer(nvml, "nvmlDeviceGetMaxClockInfo", board, nvml.NVML_CLOCK_SM),
            temperature_c=_answer(nvml, "nvmlDeviceGetTemperature", board, nvml.NVML_TEMPERATURE_GPU),
            power_w=None if milliwatts is None else milliwatts / 1000,
            throttle_reasons=None if reasons is None else throttle_reasons(reasons),
        )


def throttle_reasons(bits: int) -> list[str]:
    """The names of the bits that are set; a bit without a name is shown as a number."""
    set_bits = [1 << place for place in range(bits.bit_length()) if bits >> place & 1]
    return [THROTTLE_REASONS.get(bit, f"{bit:#x}") for bit in set_bits]


def gpu_count() -> int:
    """How many NVIDIA GPUs the driver has, whatever ``CUDA_VISIBLE_DEVICES`` hides; 0 without a driver."""
    with _nvml() as nvml:
        return (_answer(nvml, "nvmlDeviceGetCount") or 0) if nvml else 0


@contextmanager
def _nvml() -> Iterator[Any]:
    """NVML, started; None where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _answer(nvml: Any, function: str, *arguments: Any) -> Any:
    """What an NVML function says; None where this driver or GPU does not support it."""
    ask: Callable[..., Any] = getattr(nvml, function)
    try:
        return ask(*arguments)
    except nvml.NVMLError:
        return None


def _in_use(nvml: Any, visible: str | None) -> Any:
    """The handle of the device that CUDA numbers 0 under ``CUDA_VISIBLE_DEVICES``; None if it hides all.

    The variable holds indices, UUIDs or their beginnings, and UUIDs of MIG instances; CUDA hides everything from an
    invalid entry on (CUDA C++ Programming Guide, "CUDA Environment Variables"). NVML counts in the order of the PCI bus,
    and so does CUDA under ``CUDA_DEVICE_ORDER=PCI_BUS_ID``.
    """
    first = "0" if visible is None else visible.split(",")[0].strip()
    if first.startswith("MIG-"):
        return _answer(nvml, "nvmlDeviceGetHandleByUUID", first)
    if first.startswith("GPU-"):
        boards = (_answer(nvml, "nvmlDeviceGetHandleByIndex", i) for i in range(_answer(nvml, "nvmlDeviceGetCount")))
        found = [board for board in boards if str(_answer(nvml, "nvmlDeviceGetUUID", board)).startswith(first)]
        return _instance(nvml, found[0]) if len(found) == 1 else None
    board = _answer(nvml, "nvmlDeviceGetHandleByIndex", int(first)) if first.isdecimal() else None
    return None if board is None else _instance(nvml, board)


def _instance(nvml: Any, board: Any) -> Any:
    """The board itself, or its first MIG instance where it is divided: CUDA gives a process one instance."""
    mode = _answer(nvml, "nvmlDeviceGetMigMode", board)
    if not mode or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return board
    places = range(_answer(nvml, "nvmlDeviceGetMaxMigDeviceCount", board) or 0)
    instances = (_answer(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", board, place) for place in places)
    return next((instance for instance in instances if instance is not None), None)


def _board(nvml: Any, device: Any) -> Any:
    """The GPU that a MIG instance is part of; any other device is its own."""
    if _answer(nvml, "nvmlDeviceIsMigDeviceHandle", device):
        return _answer(nvml, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", device) or device
    return device
