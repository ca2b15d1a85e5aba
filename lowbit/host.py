"""What results depend on besides the code: the processor, as the kernel describes it, the NVIDIA GPU in use, as its
driver's library (NVML, read only) does, and the versions of installed packages."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
# The instruction sets that choose a kernel of a quantized network, by the kernel's names for them.
_X86_SETS = {
    "sse4_1": "sse4.1",
    "avx2": "avx2",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "amx_int8": "amx_int8",
    "avx512_bf16": "bf16",
    "amx_bf16": "bf16",
}
_ARM_SETS = {"asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16"}
# Linux, arch/arm64/include/asm/cputype.h
_ARM_VENDORS = {
    0x41: "ARM",
    0x46: "Fujitsu",
    0x48: "HiSilicon",
    0x4E: "NVIDIA",
    0x51: "Qualcomm",
    0x61: "Apple",
    0x6D: "Microsoft",
    0xC0: "Ampere",
}
_ARM_PARTS = {
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD84): "Neoverse-V3",
    (0x41, 0xD8E): "Neoverse-N3",
    (0xC0, 0xAC3): "Ampere-1",
}


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor as far as numbers depend on it. What is not known is None.

    ``family`` and ``model``: on ARM the architecture's version and the part number. ``instruction_sets``: those of
    sse4.1, avx2, avx_vnni, avx512f, avx512_vnni, amx_int8, bf16, dotprod and i8mm that every core has, in this order.
    ``threads``: logical processors that this process may use.
    """

    architecture: str
    vendor: str | None
    family: int | None
    model: int | None
    model_name: str | None
    instruction_sets: tuple[str, ...] | None
    threads: int

    @property
    def has_vnni(self) -> bool | None:
        """Whether it adds four 8-bit products in 32 bits by one instruction of x86 (AVX-VNNI or AVX512-VNNI)."""
        if self.instruction_sets is None:
            return None
        return not {"avx_vnni", "avx512_vnni"}.isdisjoint(self.instruction_sets)

    @property
    def adds_pairs_in_16_bits(self) -> bool | None:
        """Whether its INT8 kernels add pairs of products in 16 bits (``vpmaddubsw``), where those of unsigned activations
        and signed weights may saturate: x86 without VNNI."""
        if self.architecture != "x86_64":
            return False
        return None if self.has_vnni is None else not self.has_vnni

    @property
    def name(self) -> str:
        """All of it in a line. Two processors have one name only if nothing known tells them apart."""
        known = [self.architecture, *([self.vendor] if self.vendor else [])]
        if self.family is not None:
            known.append(f"family {self.family}")
        if self.model is not None:
            known.append(f"model {self.model:#x}" if self.architecture == "aarch64" else f"model {self.model}")
        sets = "instruction sets unknown" if self.instruction_sets is None else " ".join(self.instruction_sets)
        label = self.model_name or "unknown processor"
        return f"{label} ({' '.join(known)}; {sets or 'baseline instructions'}), {self.threads} threads"


def processor() -> Processor:
    """This machine's processor."""
    return _processor(len(os.sched_getaffinity(0)))


@functools.cache
def _processor(threads: int) -> Processor:
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return parse_cpuinfo(text, platform.machine(), threads)


def parse_cpuinfo(text: str, machine: str, threads: int) -> Processor:
    """A processor from the text of ``/proc/cpuinfo``. ``machine``: :func:`platform.machine`.

    py-cpuinfo, which pytest-benchmark brings, starts several processes for it and knows no ARM part.
    """
    said: dict[str, list[str]] = defaultdict(list)
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip() not in ("", "unknown"):
            said[key.strip()].append(value.strip())
    architecture = {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if "CPU implementer" in said:
        return _arm(said, architecture, threads)
    return Processor(
        architecture,
        vendor=next(iter(said["vendor_id"]), None),
        family=_number(said["cpu family"]),
        model=_number(said["model"]),
        model_name=next(iter(said["model name"]), None),
        instruction_sets=_instruction_sets(said["flags"], _X86_SETS),
        threads=threads,
    )


def _arm(said: dict[str, list[str]], architecture: str, threads: int) -> Processor:
    """ARM's kernel gives numbers only. Cores of several kinds are named one after the other."""
    implementer, part = _number(said["CPU implementer"]), _number(said["CPU part"])
    kinds = dict.fromkeys(
        _ARM_PARTS.get((_number([maker]) or 0, _number([number]) or 0))
        for maker, number in zip(said["CPU implementer"], said["CPU part"], strict=False)
    )
    return Processor(
        architecture,
        vendor=None if implementer is None else _ARM_VENDORS.get(implementer, f"{implementer:#x}"),
        family=_number(said["CPU architecture"]),
        model=part,
        model_name=" + ".join(kind for kind in kinds if kind) or None,
        instruction_sets=_instruction_sets(said["Features"], _ARM_SETS),
        threads=threads,
    )


def _number(values: list[str]) -> int | None:
    """The first value, decimal or hexadecimal; None if there is none or it is no number."""
    try:
        return int(values[0], 0)
    except (IndexError, ValueError):
        return None


def _instruction_sets(cores: list[str], names: dict[str, str]) -> tuple[str, ...] | None:
    if not cores:
        return None
    common = set.intersection(*(set(flags.split()) for flags in cores))
    return tuple(dict.fromkeys(name for flag, name in names.items() if flag in common))


def name(*, with_gpu: bool = True) -> str:
    """What this machine's numbers may be compared within, in a line: processor, threads, and the GPU with its driver.

    ``with_gpu``: False for what ran on the processor alone.
    """
    device = gpu() if with_gpu else None
    return processor().name + (f", {device.name}, driver {device.driver}" if device else "")


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
    ``throttle_reasons``: names of NVML's ``nvmlClocksEventReason`` bits. ``memory_bytes``: in use, by every process.
    ``energy_j``: joules since the driver was loaded; not of a MIG instance, which shares its board's counter. What NVML does
    not say is None."""

    uuid: str | None
    sm_clock_mhz: int | None
    max_sm_clock_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    throttle_reasons: list[str] | None
    memory_bytes: int | None = None
    energy_j: float | None = None


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
# Those by which a GPU runs slower than it could: power, heat and the supply. The others are what somebody set, or idleness.
THROTTLING = frozenset(
    {"sw_power_cap", "hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"}
)


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


@contextmanager
def gpu_reader() -> Iterator[Callable[[], GpuState] | None]:
    """What reads the state of the GPU in use as often as it is called, or None where :func:`gpu` is None."""
    with _nvml() as nvml:
        device = _in_use(nvml, os.environ.get(VISIBLE_DEVICES)) if nvml else None
        yield None if device is None else functools.partial(_state, nvml, device)


def gpu_state() -> GpuState | None:
    """The state of the GPU in use now, or None where :func:`gpu` is None."""
    with gpu_reader() as read:
        return read() if read else None


def _state(nvml: Any, device: Any) -> GpuState:
    # An instance shares its board's clocks and power, and NVML answers for the board only.
    board = _board(nvml, device)
    milliwatts = _answer(nvml, "nvmlDeviceGetPowerUsage", board)
    reasons = _answer(nvml, "nvmlDeviceGetCurrentClocksEventReasons", board)
    memory = _answer(nvml, "nvmlDeviceGetMemoryInfo", device)
    millijoules = _answer(nvml, "nvmlDeviceGetTotalEnergyConsumption", board) if board is device else None
    return GpuState(
        uuid=_answer(nvml, "nvmlDeviceGetUUID", device),
        sm_clock_mhz=_answer(nvml, "nvmlDeviceGetClockInfo", board, nvml.NVML_CLOCK_SM),
        max_sm_clock_mhz=_answer(nvml, "nvmlDeviceGetMaxClockInfo", board, nvml.NVML_CLOCK_SM),
        temperature_c=_answer(nvml, "nvmlDeviceGetTemperature", board, nvml.NVML_TEMPERATURE_GPU),
        power_w=None if milliwatts is None else milliwatts / 1000,
        throttle_reasons=None if reasons is None else throttle_reasons(reasons),
        memory_bytes=memory.used if memory else None,
        energy_j=None if millijoules is None else millijoules / 1000,
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


def package_version(package: str) -> str | None:
    """The installed version of a package, or None."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None
