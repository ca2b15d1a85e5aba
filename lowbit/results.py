"""results.json: the schema, versioned. Fields that were not measured are null, never invented."""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
import subprocess
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lowbit import files, host, old_results
from lowbit.errors import InputError
from lowbit.runtime import DEFAULT, runtimes

SCHEMA = 19
# A run is not held up by a repository on a slow file system.
_GIT_SECONDS = 10


class Status(StrEnum):
    """How an entry ended."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    SKIPPED = "skipped"
    ERROR = "error"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class LeftOut(_Model):
    """A rewrite that an artifact was built without, and why."""

    rewrite: str
    reason: str


class ArtifactRecord(_Model):
    """The file that was measured. ``left_out``: rewrites that did not fit the detector's graph or could not be proved."""

    path: str
    sha256: str
    bytes: int
    weight_bits: float | None = None
    quantized_fraction: float | None = None
    left_out: list[LeftOut] | None = None


class ShareRecord(_Model):
    """What an execution provider was given of a graph: nodes, and their multiply-accumulates."""

    nodes: int
    macs: int


class ParityRecord(_Model):
    """The deployed session against the graph's unoptimized execution, on ``images`` images. In dB: SQNR of the raw head, and
    what the artifact's rounding alone does; the same two of the means of its channels. ``worst_layer``: the convolution
    whose channels' means are furthest below their bound, and how far they are from the graph's. ``detections``: how many
    were compared; 0 proves nothing of them."""

    sqnr_db: float
    floor_db: float
    mean_db: float
    mean_floor_db: float
    worst_layer: str | None
    worst_layer_db: float | None
    layers: int
    detections: int
    images: int


class RuntimeRecord(_Model):
    """How it was run. ``parity``: share of confident detections that unoptimized execution has too, None where neither has
    any. ``guard``: what else the parity guard found.

    ``int8_mac_fraction``: share of the multiply-accumulates that ran as integer kernels. ``assignment``: what each execution
    provider of a session was given, on GPUs.
    """

    provider: str
    options: dict[str, Any]
    parity: float | None = None
    guard: ParityRecord | None = None
    int8_mac_fraction: float | None = None
    assignment: dict[str, ShareRecord] | None = None


class BatchRecord(_Model):
    """Runs of ``batch`` images at once, from the input tensor to the raw head: seconds of a run, ``throughput`` in images a
    second, ``gain`` in it over the same graph for one image, and on a GPU the speed-up against FP16 at the same batch."""

    batch: int
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    mean: float | None = None
    rounds: int | None = None
    throughput: float
    gain: float
    speedup_fp16: float | None = None
    speedup_fp16_ci: tuple[float, float] | None = None


class GpuLoadRecord(_Model):
    """The GPU over a timing: :class:`lowbit.measure.gpu_load.GpuLoad`. MHz, degrees Celsius, watts, bytes and joules;
    ``throttle_reasons``: share of the samples with each reason."""

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


class LatencyRecord(_Model):
    """Single-stream latency in seconds, throughput in images a second, speed-up against FP32 in the same run, and against
    FP16 on a GPU. ``end_to_end``: median seconds of ``preprocess``, ``model`` and ``postprocess`` of one image.
    ``batched``: of larger batches, and ``batched_missing`` the reason where the graph takes one image only. ``affinity``: the logical
    processor of every thread, None where the operating system places them. ``precision_cost``: time over that of a session
    whose kernels saturate, where the artifact must run without them on this processor. ``gpu_state``: the GPU
    before and after, ``gpu_load``: meanwhile. ``measured``: when, UTC."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    rounds: int
    throughput: float
    speedup: float | None = None
    speedup_ci: tuple[float, float] | None = None
    speedup_fp16: float | None = None
    speedup_fp16_ci: tuple[float, float] | None = None
    precision_cost: float | None = None
    precision_cost_ci: tuple[float, float] | None = None
    end_to_end: dict[str, float] | None = None
    batched: list[BatchRecord] | None = None
    batched_missing: str | None = None
    affinity: list[int] | None = None
    gpu_state: list[host.GpuState] | None = None
    gpu_load: GpuLoadRecord | None = None
    host: str
    measured: str | None = None


class FootprintRecord(_Model):
    """What :class:`lowbit.measure.alone.Footprint` says, and the machine that it was measured on."""

    load_seconds: float
    memory_bytes: int
    peak_rss_bytes: int
    processes: int
    host: str


class ProcessSpeedupRecord(_Model):
    """What :class:`lowbit.measure.alone.ProcessSpeedup` says, and the machine that it was measured on."""

    ratio: float
    interval: tuple[float, float]
    bounds: tuple[float, float]
    by_process: tuple[float, ...]
    host: str


class BuildRecord(_Model):
    """What the artifact cost to make."""

    seconds: float
    peak_rss_bytes: int
    tool_versions: dict[str, str | None]


class ChangedImage(_Model):
    """An image on which the quantized detector differs most from FP32, drawn with both detectors' boxes.

    ``file`` is relative to the run's folder; ``lost`` and ``gained`` count objects at the entry's confidence and IoU 0.5.
    """

    file: str
    image: str
    lost: int
    gained: int


class CrossCheck(_Model):
    """One tool's artifact beside another's: AP of this one minus the other's, with its 95 % interval, ratio of their
    median latencies where both were timed, and Spearman's correlation of the SQNR with one convolution quantized at a
    time. ``disagreements``: the convolutions that they rank furthest apart."""

    scheme: str
    ap_difference: float
    ap_interval: tuple[float, float]
    speed_ratio: float | None = None
    speed_interval: tuple[float, float] | None = None
    rank_correlation: float
    disagreements: list[str]


class PointRecord(_Model):
    """A detector at a confidence threshold, by all of its detections at IoU 0.5. ``precision``: null where there are none."""

    threshold: float
    precision: float | None
    recall: float
    f1: float


class CurveRecord(_Model):
    """Precision and recall at ascending confidence thresholds."""

    thresholds: list[float]
    precision: list[float | None]
    recall: list[float]


class BehaviourRecord(_Model):
    """A detector at the user's threshold and at that of its best F1. ``calibration_error``: the expected calibration error
    of what the user's threshold keeps, null where that is nothing."""

    at_confidence: PointRecord
    best_f1: PointRecord
    calibration_error: float | None
    curve: CurveRecord


class ProposalRecord(_Model):
    """The quantized detector at a threshold to use instead of the user's; ``interval``: the threshold's, 95 %."""

    at: PointRecord
    interval: tuple[float, float]


class ShiftRecord(_Model):
    """The median fall of the scores of a class's objects that both detectors find, and their number."""

    median: float
    objects: int


class OperatingPointRecord(_Model):
    """What becomes of ``confidence``, the threshold that the user deploys FP32 with: ``same_precision`` is the lowest
    threshold at which the quantized detector has at least FP32's precision, ``same_recall`` the highest with at least its
    recall; null where none has. ``score_shift``: by class."""

    confidence: float
    reference: BehaviourRecord
    quantized: BehaviourRecord
    same_precision: ProposalRecord | None
    same_recall: ProposalRecord | None
    score_shift: dict[str, ShiftRecord]


class ErrorKindsRecord(_Model):
    """Errors by kind, as :class:`lowbit.measure.error_kinds.ErrorKinds`: how many at the entry's confidence, and by how much
    AP50 would rise without each kind, a fraction."""

    counts: dict[str, int]
    ap50_costs: dict[str, float]


class SwapRecord(_Model):
    """How often an object of the class ``true`` was ``taken_for`` another one, by FP32 and by the quantized detector."""

    true: str
    taken_for: str
    before: int
    after: int


class ErrorsRecord(_Model):
    """The errors of FP32 and of the quantized detector by kind; ``swaps``: classes that are confused more often than
    before, those with the largest rise first."""

    reference: ErrorKindsRecord
    quantized: ErrorKindsRecord
    swaps: list[SwapRecord]


class EngineRecord(_Model):
    """An artifact as a TensorRT engine. ``layers``: how many compute in which type; ``mac_fractions``: the share of the
    multiply-accumulates by type, null where not all were found in its layers; ``float_convolutions``: those that do not
    compute in integers or FP8, largest first. Times in seconds; ``speedup``: over the FP32 export's engine in the same run;
    ``build_seconds`` and ``build_log``: TensorRT's warnings, of the build, in this run or an earlier one."""

    layers: dict[str, int]
    float_convolutions: list[str]
    p50: float
    p90: float
    p95: float
    p99: float
    speedup: float
    speedup_ci: tuple[float, float]
    mac_fractions: dict[str, float] | None = None
    build_seconds: float | None = None
    build_log: list[str] | None = None


class QuantizerRecord(_Model):
    """What the quantizer of a tensor alone does to the float values, as :class:`lowbit.measure.collapse.Quantized`."""

    range: tuple[float, float]
    clipped: float
    clipped_noise: float
    sqnr_db: float
    lost: float
    done: bool


class NodeRecord(_Model):
    """A node near the begin of a collapse, as :class:`lowbit.measure.collapse.Node`."""

    name: str
    op: str
    sqnr_db: float
    lost: float
    range: tuple[float, float]
    other_range: tuple[float, float]
    quantized: QuantizerRecord | None
    weight_db: float | None
    weight_bits: int | None
    weight_scales: int | None
    saturated: float | None
    not_finite: float


class DivergenceRecord(_Model):
    """A quantized graph against the float graph along the network, as :class:`lowbit.measure.collapse.Collapse`."""

    images: int
    compared: int
    skipped: dict[str, int]
    curve: dict[str, float]
    end: str
    end_db: float
    way: list[str]
    nodes: list[NodeRecord]
    in_tail: bool
    without_vnni: DivergenceRecord | None = None


class CollapseRecord(DivergenceRecord):
    """Where a scheme's collapse begins and what mends it. ``cause``: in words; ``where``: the node, null where it is no
    single one's; ``proposal``: id of a scheme, null where the catalogue has none for this detector; ``reason``: all of it in
    sentences."""

    cause: str
    where: str | None
    proposal: str | None
    reason: str


class Entry(_Model):
    """One scheme on one detector and one provider. mAP and drop are fractions (0.5 points is 0.005).

    ``weights``: SHA-256 of the detector's. ``dataset_classes``: the data set's category id of every class index, -1 for one that it does not have. ``host``: the
    machine that accuracy was measured on, by :func:`lowbit.host.name`; that of a timing is ``latency.host``. ``measured``:
    when, UTC; earlier than the run where the run found what an earlier one had measured.
    ``sampled_from``: how many images the data set has, where ``images`` are a quick run's choice of them; null where all were
    measured, and in files up to schema 15.
    ``map_pycocotools`` and ``map50_pycocotools``: pycocotools' on the same detections, within 1e-6 of ``map`` and ``map50``.
    ``layer_sqnr``: the raw head's SQNR in dB with one convolution alone quantized, where the scheme measured it.
    ``recall`` and ``miss_rate``: at ``confidence``, the user's threshold. ``drop_ci``: two-sided, 95 %; ``drop_bounds``: the one-sided 95 % bounds, lower and upper, that the verdict is decided by.
    ``operating_point``: null for FP32 itself, and where nobody labelled the images.
    ``collapse``: of a scheme that failed on accuracy; ``collapse_missing``: why that could not be found out.
    """

    detector: str
    scheme: str
    provider: str = DEFAULT
    host: str | None = None
    measured: str | None = None
    weights: str | None = None
    dataset: str | None = None
    dataset_file: str | None = None
    dataset_digest: str | None = None
    dataset_classes: tuple[int, ...] | None = None
    images: int | None = None
    sampled_from: int | None = None
    status: Status = Status.PASSED
    reason: str | None = None
    expected_failure: str | None = None
    map: float | None = None
    map50: float | None = None
    map_pycocotools: float | None = None
    map50_pycocotools: float | None = None
    map75: float | None = None
    map_small: float | None = None
    map_medium: float | None = None
    map_large: float | None = None
    ar: float | None = None
    recall: float | None = None
    miss_rate: float | None = None
    confidence: float | None = None
    drop: float | None = None
    drop_ci: tuple[float, float] | None = None
    drop_bounds: tuple[float, float] | None = None
    drops: dict[str, float] | None = None
    worst_class: str | None = None
    class_drops: dict[str, float] | None = None
    operating_point: OperatingPointRecord | None = None
    errors: ErrorsRecord | None = None
    layer_sqnr: dict[str, float] | None = None
    changed_images: list[ChangedImage] | None = None
    collapse: CollapseRecord | None = None
    collapse_missing: str | None = None
    crosscheck: CrossCheck | None = None
    engine: EngineRecord | None = None
    threshold: float | None = None
    artifact: ArtifactRecord | None = None
    runtime: RuntimeRecord | None = None
    latency: LatencyRecord | None = None
    footprint: FootprintRecord | None = None
    process_speedup: ProcessSpeedupRecord | None = None
    build: BuildRecord | None = None

    @property
    def on_default(self) -> bool:
        """Whether it ran on the default runtime."""
        return self.provider == DEFAULT


class RankedLayer(_Model):
    """A convolution in both sensitivity rankings. ``score``: AutoQuant's, ``rank`` by it; ``graph_rank``: by ``alone_db``, the raw
    head's SQNR in dB with it alone quantized on the ONNX graph; ``leave_one_out_db``: with it alone left in float."""

    layer: str
    score: float
    rank: int
    graph_rank: int
    alone_db: float
    leave_one_out_db: float


class SweepRecord(_Model):
    """One combination of the sensitivity sweep. ``rank_correlation``: Spearman's, of the two rankings of ``layers``."""

    detector: str
    combination: str
    images: int
    graph_images: int
    rank_correlation: float
    layers: list[RankedLayer]


class Results(_Model):
    """One run. ``commit``: of the project that was gated, with ``-dirty`` where its files were changed since, null outside
    Git. ``cut``: it has not ended, or was ended from outside; what was not measured by then is missing."""

    schema_version: int = Field(SCHEMA, alias="schema")
    run_id: str
    started: str
    commit: str | None = None
    environment: dict[str, Any]
    entries: list[Entry]
    sweeps: list[SweepRecord] = []
    cut: bool = False

    @model_validator(mode="before")
    @classmethod
    def _of_any_schema(cls, data: Any) -> Any:
        """Bring an older file's content to this schema; refuse a newer one, whose fields may mean something else."""
        if not isinstance(data, dict):
            return data
        schema = data.get("schema")
        if not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
            raise ValueError(f"schema {schema} is unknown, this lowbit reads 1 to {SCHEMA}")
        return {**old_results.upgrade(data, schema), "schema": SCHEMA}

    def hosts(self) -> dict[str, list[str]]:
        """The hosts that accuracy and timings were measured on, each with what it measured: ``<detector>-<scheme> on
        <provider> (accuracy)``, ``(timing)``."""
        found: dict[str, list[str]] = {}
        for entry in self.entries:
            case = f"{entry.detector}-{entry.scheme} on {entry.provider}"
            if entry.host:
                found.setdefault(entry.host, []).append(f"{case} (accuracy)")
            if entry.latency:
                found.setdefault(entry.latency.host, []).append(f"{case} (timing)")
        for name in sorted(found):  # what ran on the CPU is not named after the GPU beside it
            whole = next((other for other in found if other.startswith(f"{name}, ")), None)
            if whole:
                found[whole] += found.pop(name)
        return found

    def write(self, path: Path) -> None:
        """Write atomically. Raises :class:`lowbit.errors.StoreError`."""
        files.write_json(path, self.model_dump(mode="json", by_alias=True))


def read(path: Path) -> Results:
    """Read a results.json of this or an older schema. Raises :class:`InputError` for a missing, damaged or foreign file."""
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Run the gate first.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{path}: is no results.json of schema {SCHEMA} or older ({where}: {first['msg']})."
        ) from error


def environment() -> dict[str, Any]:
    """Python, packages, processor, GPU and providers of this machine."""
    import onnxruntime

    gpu = host.gpu()
    names = ["lowbit", "onnx", "nvidia-modelopt", "torch", "ultralytics", "brevitas", "numpy", "opencv-python"]
    names += dict.fromkeys(package for runtime in runtimes().values() for package in runtime.packages)
    return {
        "python": platform.python_version(),
        "packages": {name: host.package_version(name) for name in (*names, "pytest-benchmark")},
        "host": host.name(),
        "cpu": dataclasses.asdict(host.processor()),
        "gpu": dataclasses.asdict(gpu) if gpu else None,
        "providers": onnxruntime.get_available_providers(),
    }


def commit(folder: Path) -> str | None:
    """The Git commit that ``folder`` is at, abbreviated to 12 digits, with ``-dirty`` where tracked files differ from it;
    None outside a repository, without Git, and before the first commit."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def new_run_id(runs: Path) -> str:
    """A name for a run that sorts by time: UTC to the second, and the process; never one that ``runs`` holds.

    A clock that was set back could give the same name again, and the new run would replace the old one's results.
    """
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{os.getpid()}"
    candidates = itertools.chain([name], (f"{name}-{again}" for again in itertools.count(2)))
    return next(candidate for candidate in candidates if not (runs / candidate).exists())


def point_latest(runs: Path, run_id: str) -> None:
    """Let ``runs/latest`` point to a run, replacing the link atomically; a real file of that name is left alone."""
    link = runs / "latest"
    if link.exists() and not link.is_symlink():
        return
    partial = runs / f".latest-{os.getpid()}"
    partial.unlink(missing_ok=True)
    partial.symlink_to(run_id, target_is_directory=True)
    partial.replace(link)
