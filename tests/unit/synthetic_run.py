"""A run as ``make gate-all`` leaves it, drawn at random: many schemes, some of them alike, some far off."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from lowbit.measure.error_kinds import KINDS
from lowbit.results import (
    SCHEMA,
    ArtifactRecord,
    BatchRecord,
    BehaviourRecord,
    BuildRecord,
    ChangedImage,
    CurveRecord,
    Entry,
    ErrorKindsRecord,
    ErrorsRecord,
    LatencyRecord,
    OperatingPointRecord,
    PointRecord,
    ProposalRecord,
    Results,
    RuntimeRecord,
    ShiftRecord,
    Status,
    SwapRecord,
)

ENVIRONMENT = {
    "python": "3.11.7",
    "packages": {"onnxruntime-gpu": "1.31.1", "torch": "2.13.0"},
    "host": "AMD EPYC (x86_64 AuthenticAMD family 25 model 17; sse4.1 avx2 avx512f avx512_vnni bf16), 2 threads",
}
# Where errors of the tools' processes lie on the machine that ran them.
LOG = "/home/runner/work/lowbit/lowbit/.lowbit/store/failed/8e23350ab2a28adb.log"


def catalogue_run(folder: Path, schemes: int = 25, status: Status | None = None, pictures: int = 0) -> Results:
    """fp32 and ``schemes`` others on one detector. ``status``: of all of them; ``pictures``: changed images of each, noise,
    which no format compresses well: each takes as many bytes as the gallery's own."""
    random = np.random.default_rng(7)
    entries = [_entry("fp32", 0.0, 1.0, 9.2, Status.PASSED, random)]
    entries[0].operating_point = None
    kinds = ("int8-ort-minmax", "int8-modelopt-entropy", "fp8-modelopt-k", "w4a16-brevitas-gptq", "w8a16-brevitas")
    for number in range(schemes):
        scheme = f"{kinds[number % len(kinds)]}{number // len(kinds)}"
        drop = float(random.choice([0.001, 0.004, 0.008, 0.03], p=[0.35, 0.35, 0.2, 0.1]) * random.uniform(0.5, 1.5))
        if number in (3, 11):
            drop = 0.2 + number / 100
        found = Status.FAILED if drop > 0.015 else Status.INCONCLUSIVE if drop > 0.008 else Status.PASSED
        size = {"w4": 1.6, "w8": 2.5, "in": 2.6, "fp": 2.8}[scheme[:2]] * random.uniform(0.97, 1.03)
        entries.append(_entry(scheme, drop, float(random.uniform(0.9, 2.2)), size, status or found, random))
        entries[-1].changed_images = _pictures(folder, scheme, pictures, random) or None
    crashed = f"lowbit.errors.BuildError: w4a8-brevitas: the build ended with exit code 1: {LOG}: RuntimeError('boom')"
    entries.append(
        Entry(
            detector="toy",
            scheme="w4a8-brevitas",
            status=Status.ERROR,
            reason=f"{crashed}\nThe log ends:\nline 1 of {LOG}",
        )
    )
    skipped = "TensorRT cannot be imported: pip install lowbit[tensorrt]."
    entries.append(Entry(detector="toy", scheme="fp16", provider="trt", status=Status.SKIPPED, reason=skipped))
    return Results(
        schema=SCHEMA,
        run_id="20261126-073930-1",
        started="2026-11-26T07:39:30Z",
        environment=ENVIRONMENT,
        entries=entries,
    )


def _entry(
    scheme: str, drop: float, speedup: float, megabytes: float, status: Status, random: np.random.Generator
) -> Entry:
    p50 = 0.021 / speedup
    failed = f"drop {100 * drop:.2f} points [95% CI {100 * drop - 0.4:.2f}, {100 * drop + 0.4:.2f}] is beyond 1.00"
    return Entry(
        detector="toy",
        scheme=scheme,
        host=ENVIRONMENT["host"],
        dataset="val2017",
        images=200,
        status=status,
        reason=failed if status in (Status.FAILED, Status.INCONCLUSIVE) else None,
        map=0.55 - drop,
        map50=0.7 - drop,
        recall=0.6 - drop,
        drop=drop,
        drop_ci=(drop - 0.004, drop + 0.004),
        threshold=0.01,
        drops={"map_small": drop, "map_medium": drop, "map_large": drop, "recall": drop, "score_shift": 0.01},
        class_drops={f"a class of things {n}": drop * n / 4 for n in range(12)},
        operating_point=_operating_point(drop),
        errors=_errors(drop),
        artifact=ArtifactRecord(
            path=f"/home/runner/store/{scheme}/model.onnx",
            sha256="0b5c69b6" * 8,
            bytes=round(megabytes * 1e6),
            weight_bits=8.04,
        ),
        runtime=RuntimeRecord(provider="CPUExecutionProvider", options={}, int8_mac_fraction=0.987),
        latency=LatencyRecord(
            p50=p50,
            p90=p50,
            p95=p50,
            p99=p50,
            mean=p50,
            rounds=50,
            throughput=1 / p50,
            speedup=speedup,
            speedup_ci=(speedup * 0.98, speedup * 1.02),
            end_to_end={"read": 0.004, "letterbox": 0.002, "infer": p50, "decode": 0.001},
            batched=[BatchRecord(batch=8, throughput=1.2 / p50, gain=1.2)],
            host=str(ENVIRONMENT["host"]),
        ),
        build=BuildRecord(seconds=float(random.uniform(5, 200)), peak_rss_bytes=1_397_725_696, tool_versions={}),
    )


def _errors(drop: float) -> ErrorsRecord:
    records = [
        ErrorKindsRecord(counts=dict.fromkeys(KINDS, 100 + more), ap50_costs=dict.fromkeys(KINDS, 0.02 + more / 1000))
        for more in (0, round(100 * drop))
    ]
    swap = SwapRecord(true="a class of things 1", taken_for="a class of things 2", before=3, after=4)
    return ErrorsRecord(reference=records[0], quantized=records[1], swaps=[swap] * 10)


def _operating_point(drop: float) -> OperatingPointRecord:
    grid = np.unique(np.round([*np.geomspace(0.001, 0.1, 15), *np.linspace(0.1, 0.95, 36)], 4))
    curve = CurveRecord(
        thresholds=list(grid),
        precision=[round(float(p), 4) for p in grid**0.3],
        recall=[round(float(r - drop), 4) for r in 0.8 * (1 - grid**2) + 0.2],
    )
    at = PointRecord(threshold=0.25, precision=0.75, recall=0.61, f1=0.67)
    record = BehaviourRecord(at_confidence=at, best_f1=at, calibration_error=0.1, curve=curve)
    proposal = ProposalRecord(at=at.model_copy(update={"threshold": 0.216}), interval=(0.213, 0.242))
    shifts = {f"a class of things {n}": ShiftRecord(median=n / 500, objects=30) for n in range(8)}
    return OperatingPointRecord(
        confidence=0.25,
        reference=record,
        quantized=record,
        same_precision=proposal,
        same_recall=proposal,
        score_shift=shifts,
    )


def _pictures(folder: Path, scheme: str, count: int, random: np.random.Generator) -> list[ChangedImage]:
    made = []
    for number in range(count):
        file = f"images/{scheme}-{number}.jpg"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (220, 300, 3), np.uint8)
        assert cv2.imwrite(str(folder / file), pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])
        made.append(ChangedImage(file=file, image=f"{number:012d}.jpg", lost=4, gained=1))
    return made
