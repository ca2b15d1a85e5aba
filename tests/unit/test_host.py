"""The processor by /proc/cpuinfo: of machines that this one is not, and of files that say little."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from lowbit import cli, host
from lowbit.host import Processor

_ZEN_3_FLAGS = (
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 ht syscall nx mmxext "
    "fxsr_opt pdpe1gb rdtscp lm constant_tsc rep_good nopl xtopology nonstop_tsc cpuid extd_apicid tsc_known_freq pni "
    "pclmulqdq ssse3 fma cx16 pcid sse4_1 sse4_2 x2apic movbe popcnt aes xsave avx f16c rdrand hypervisor lahf_lm abm sse4a "
    "misalignsse 3dnowprefetch osvw topoext fsgsbase bmi1 avx2 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb sha_ni "
    "xsaveopt xsavec xgetbv1 clzero xsaveerptr arat umip vaes vpclmulqdq rdpid"
)
_ZEN_4_FLAGS = (
    f"{_ZEN_3_FLAGS} avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx512_bf16 avx512vbmi avx512_vbmi2 gfni "
    "avx512_vnni avx512_bitalg avx512_vpopcntdq fsrm"
)
_SAPPHIRE_RAPIDS_FLAGS = (
    "fpu vme sse sse2 ssse3 fma sse4_1 sse4_2 avx f16c avx2 avx512f avx512dq avx512cd avx512bw avx512vl avx_vnni avx512_bf16 "
    "avx512vbmi avx512_vbmi2 gfni avx512_vnni avx512_bitalg avx512_vpopcntdq avx512_fp16 amx_bf16 amx_tile amx_int8"
)
_ALDER_LAKE_FLAGS = "fpu vme sse sse2 ssse3 fma sse4_1 sse4_2 avx f16c avx2 sha_ni avx_vnni gfni vaes vpclmulqdq"
_GRAVITON_3_FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 asimddp "
    "sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs paca pacg dcpodp svei8mm svebf16 i8mm bf16 dgh rng"
)


def x86(vendor: str, family: int, model: int, name: str, flags: str, cores: int = 2) -> str:
    """As Linux writes it."""
    return "".join(
        f"processor\t: {core}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {name}\n"
        f"stepping\t: 1\ncpu MHz\t\t: 2596.144\nflags\t\t: {flags}\nbugs\t\t: spectre_v1 spectre_v2\npower management:\n\n"
        for core in range(cores)
    )


def arm(*parts: int, implementer: int = 0x41, features: str = _GRAVITON_3_FEATURES) -> str:
    return "".join(
        f"processor\t: {core}\nBogoMIPS\t: 2100.00\nFeatures\t: {features}\nCPU implementer\t: {implementer:#x}\n"
        f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {part:#x}\nCPU revision\t: 1\n\n"
        for core, part in enumerate(parts)
    )


ZEN_3 = x86("AuthenticAMD", 25, 1, "AMD EPYC", _ZEN_3_FLAGS)
ZEN_4 = x86("AuthenticAMD", 25, 17, "AMD EPYC", _ZEN_4_FLAGS)
XEON = x86("GenuineIntel", 6, 143, "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", _SAPPHIRE_RAPIDS_FLAGS)
CLIENT = x86("GenuineIntel", 6, 151, "12th Gen Intel(R) Core(TM) i7-12700", _ALDER_LAKE_FLAGS)


def parsed(text: str, machine: str = "x86_64") -> Processor:
    return host.parse_cpuinfo(text, machine, 2)


@pytest.mark.parametrize(
    ("text", "machine", "wanted", "vnni", "narrow"),
    [
        (
            ZEN_3,
            "x86_64",
            Processor("x86_64", "AuthenticAMD", 25, 1, "AMD EPYC", ("sse4.1", "avx2"), 2),
            False,
            True,
        ),
        (
            ZEN_4,
            "x86_64",
            Processor(
                "x86_64", "AuthenticAMD", 25, 17, "AMD EPYC", ("sse4.1", "avx2", "avx512f", "avx512_vnni", "bf16"), 2
            ),
            True,
            False,
        ),
        (
            XEON,
            "x86_64",
            Processor(
                "x86_64",
                "GenuineIntel",
                6,
                143,
                "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
                ("sse4.1", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "bf16"),
                2,
            ),
            True,
            False,
        ),
        (
            CLIENT,
            "AMD64",
            Processor(
                "x86_64",
                "GenuineIntel",
                6,
                151,
                "12th Gen Intel(R) Core(TM) i7-12700",
                ("sse4.1", "avx2", "avx_vnni"),
                2,
            ),
            True,
            False,
        ),
        (
            arm(0xD40, 0xD40),
            "aarch64",
            Processor("aarch64", "ARM", 8, 0xD40, "Neoverse-V1", ("dotprod", "i8mm", "bf16"), 2),
            False,
            False,
        ),
    ],
    ids=["AVX2", "AVX512-VNNI", "AMX", "AVX-VNNI", "ARM"],
)
def test_known_processors(text: str, machine: str, wanted: Processor, vnni: bool, narrow: bool) -> None:
    found = parsed(text, machine)
    assert found == wanted
    assert (found.has_vnni, found.adds_pairs_in_16_bits) == (vnni, narrow)


def test_skylake_has_avx512_and_no_vnni() -> None:
    found = parsed(x86("GenuineIntel", 6, 85, "Intel(R) Xeon(R) CPU", "sse4_1 avx2 avx512f avx512bw avx512vl"))
    assert found.instruction_sets == ("sse4.1", "avx2", "avx512f")
    assert found.has_vnni is False and found.adds_pairs_in_16_bits is True


def test_names_are_read_by_people_and_tell_processors_apart() -> None:
    assert parsed(ZEN_3).name == "AMD EPYC (x86_64 AuthenticAMD family 25 model 1; sse4.1 avx2), 2 threads"
    assert parsed(arm(0xD40), "aarch64").name == (
        "Neoverse-V1 (aarch64 ARM family 8 model 0xd40; dotprod i8mm bf16), 2 threads"
    )
    assert parsed("").name == "unknown processor (x86_64; instruction sets unknown), 2 threads"
    assert len({parsed(text).name for text in (ZEN_3, ZEN_4, XEON, CLIENT, "")}) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "i686"},
        {"vendor": "HygonGenuine"},
        {"family": 26},
        {"model": 2},
        {"model_name": "AMD EPYC 9"},
        {"instruction_sets": ("sse4.1", "avx2", "avx512f")},
        {"instruction_sets": ()},
        {"instruction_sets": None},
        {"threads": 4},
        {"vendor": None},
        {"family": None},
        {"model": None},
        {"model_name": None},
    ],
    ids=str,
)
def test_whatever_changes_changes_the_name(change: dict[str, object]) -> None:
    one = parsed(ZEN_3)
    assert dataclasses.replace(one, **change).name != one.name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00\x01\n\n::\n",
        "processor\t: 0\nflags\nmodel name\nmodel\t: many\ncpu family\t:\n",
        "processor\t: 0\nmodel name\t: unknown\nvendor_id\t: unknown\n",
    ],
)
def test_what_a_damaged_file_does_not_say_is_none(text: str) -> None:
    assert parsed(text) == Processor("x86_64", None, None, None, None, None, 2)
    assert parsed(text).has_vnni is None and parsed(text).adds_pairs_in_16_bits is None


def test_no_flags_of_interest_are_not_unknown_flags() -> None:
    found = parsed(x86("GenuineIntel", 6, 15, "Core 2", "fpu sse2"))
    assert found.instruction_sets == () and found.adds_pairs_in_16_bits is True


def test_only_what_every_core_has_counts() -> None:
    """A hybrid's cores; two kinds of ARM cores are both named."""
    mixed = x86("GenuineIntel", 6, 1, "x", "avx2 avx_vnni", 1) + x86("GenuineIntel", 6, 1, "x", "avx2", 1)
    assert parsed(mixed).instruction_sets == ("avx2",)
    assert parsed(arm(0xD05, 0xD41, 0xD41), "aarch64").model_name == "Cortex-A55 + Cortex-A78"


def test_an_unlisted_arm_processor_keeps_its_numbers() -> None:
    found = parsed(arm(0x123, implementer=0x99, features="fp asimd"), "arm64")
    assert found == Processor("aarch64", "0x99", 8, 0x123, None, (), 2)


def test_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host._processor.cache_clear()
    found = host.processor()
    assert found.threads == len(os.sched_getaffinity(0))
    if "avx512_vnni" in Path("/proc/cpuinfo").read_text().split():
        assert found.has_vnni
    monkeypatch.setattr(host, "CPUINFO", tmp_path / "absent")
    host._processor.cache_clear()
    absent = host.processor()
    host._processor.cache_clear()
    assert (absent.model_name, absent.instruction_sets, absent.threads) == (None, None, found.threads)


def test_a_host_is_named_after_its_gpu_and_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "gpu", lambda: host.Gpu("GPU-1", "NVIDIA H100", 9.0, "580.95.05"))
    assert host.name() == f"{host.processor().name}, NVIDIA H100, driver 580.95.05"
    assert host.name(with_gpu=False) == host.processor().name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ZEN_3, "INT8 kernels: no VNNI, so they add pairs of products in 16 bits: U8S8 products saturate"),
        (ZEN_4, "INT8 kernels: add products in 32 bits, nothing saturates"),
        ("", "INT8 kernels: unknown"),
    ],
)
def test_the_doctor_says_what_saturates(monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.setattr(host, "processor", lambda: parsed(text))
    lines = cli.doctor().splitlines()
    assert lines[0] == f"Processor: {parsed(text).name}"
    assert lines[1].startswith(said)
