"""The flow's last step: what was measured of a case, as its entry in results.json.

An entry comes in parts, one a measurement: an :class:`Entry` of which only the case and what was measured are set. Tests
record parts, and :func:`merge` makes one entry of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lowbit import host
from lowbit.errors import LowbitError, UnavailableError
from lowbit.evaluate import Case, Evaluation, reference_of
from lowbit.gate import WARN, Policy, Verdict
from lowbit.measure import collapse
from lowbit.measure.error_kinds import ErrorKinds
from lowbit.measure.latency import Batched, Timed
from lowbit.measure.parity import Parity
from lowbit.measure.remedy import remedy
from lowbit.results import (
    ArtifactRecord,
    BatchRecord,
    BuildRecord,
    CollapseRecord,
    Entry,
    ErrorKindsRecord,
    ErrorsRecord,
    FootprintRecord,
    GpuLoadRecord,
    LatencyRecord,
    ParityRecord,
    ProcessSpeedupRecord,
    RuntimeRecord,
    ShareRecord,
    Status,
    SwapRecord,
)
from lowbit.schemes import Scheme
from lowbit.store.measured import Measurement

_Model = TypeVar("_Model", bound=BaseModel)
# Of how many pairs of classes the report says that they are confused more often.
_SWAPS = 10
_ACCURACY = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "ar", "recall", "miss_rate", "confidence")


def part(case: Case, **fields: Any) -> Entry:
    """A part of a case's entry. Raises :class:`LowbitError` that names the field, for one that an entry does not have or a
    value that it does not take."""
    try:
        return Entry(detector=case.name, scheme=case.scheme.id, provider=case.runtime.name, **fields)
    except ValidationError as error:
        first = error.errors()[0]
        where, given = ".".join(map(str, first["loc"])), str(first["input"])[:80]
        raise LowbitError(
            f"{case.id}: {where} can't be recorded: {first['msg']} (given: {given}). An entry has the fields of "
            "lowbit.results.Entry."
        ) from error


def merge(first: Entry, second: Entry) -> Entry:
    """One entry of two parts of it. What the second says replaces what the first said; of the runtime, field by field: a
    timing says nothing of parity and must not erase it."""
    merged = _over(first, second)
    if first.runtime and second.runtime:
        merged.runtime = _over(first.runtime, second.runtime)
    return merged


def _over(first: _Model, second: _Model) -> _Model:
    return first.model_copy(update={name: getattr(second, name) for name in second.model_fields_set})


def built(case: Case, evaluation: Evaluation) -> Entry:
    """The artifact, and what it cost to build."""
    artifact = evaluation.artifact(case.detector, case.scheme)
    structure, manifest = evaluation.structure(case.detector, case.scheme), artifact.manifest
    sensitivity = manifest.get("sensitivity", {}).get("sqnr_db")
    return part(
        case,
        artifact=ArtifactRecord(
            path=str(artifact.path),
            sha256=artifact.sha256,
            bytes=artifact.size_bytes,
            weight_bits=structure.weight_bits,
            quantized_fraction=structure.quantized_fraction,
            left_out=manifest.get("left_out"),
        ),
        build=BuildRecord(
            seconds=manifest["seconds"],
            peak_rss_bytes=manifest["peak_rss_bytes"],
            tool_versions=manifest["tool_versions"],
        ),
        **({"layer_sqnr": sensitivity} if sensitivity else {}),
    )


def scored(case: Case, evaluation: Evaluation) -> Entry:
    """Accuracy and its drop, the data set that it was measured on, and the runtime that the parity guard has checked."""
    evidence, dataset = evaluation.evidence(case), evaluation.truth(case.detector)
    reference = evaluation.evidence(reference_of(case))
    return part(
        case,
        **{name: getattr(evidence.accuracy, name) for name in _ACCURACY},
        map_pycocotools=evidence.checked.map,
        map50_pycocotools=evidence.checked.map50,
        host=host.name(with_gpu=case.runtime.gpu),
        measured=evidence.when,
        drop=evidence.drop,
        drop_ci=evidence.uncertainty.interval,
        drop_bounds=evidence.uncertainty.bounds,
        drops=evidence.drops,
        worst_class=evidence.worst_class,
        class_drops=evidence.class_drops,
        operating_point=dataclasses.asdict(evidence.operating_point) if evidence.operating_point else None,
        errors=_errors(reference.errors, evidence.errors),
        weights=evaluation.weights(case.detector),
        dataset=dataset.name,
        dataset_file=str(dataset.annotations),
        dataset_digest=dataset.digest,
        dataset_classes=dataset.category_ids,
        images=len(dataset.images),
        sampled_from=evaluation.dataset(case.detector).sampled_from,
        runtime=_runtime(case, evaluation, evidence.parity),
    )


def _errors(before: ErrorKinds, after: ErrorKinds) -> ErrorsRecord:
    """Both detectors' errors, and the confusions that became more, most first."""
    more = {pair: after.swaps.get(pair, 0) - before.swaps.get(pair, 0) for pair in after.swaps}
    risen = sorted((pair for pair, rise in more.items() if rise > 0), key=lambda pair: (-more[pair], pair))
    return ErrorsRecord(
        reference=ErrorKindsRecord(counts=before.counts, ap50_costs=before.ap50_costs),
        quantized=ErrorKindsRecord(counts=after.counts, ap50_costs=after.ap50_costs),
        swaps=[
            SwapRecord(true=one, taken_for=two, before=before.swaps.get((one, two), 0), after=after.swaps[one, two])
            for one, two in risen[:_SWAPS]
        ],
    )


def timed(case: Case, evaluation: Evaluation, found: Measurement[Timed]) -> Entry:
    """Latency, and the runtime that it was measured on."""
    ratios, load = found.value.ratios, found.value.gpu_load
    speeds: dict[str, Any] = {name: ratio.ratio for name, ratio in ratios.items()}
    speeds |= {f"{name}_ci": (ratio.low, ratio.high) for name, ratio in ratios.items()}
    latency = LatencyRecord(
        **dataclasses.asdict(found.value.timing),
        **speeds,
        end_to_end=dataclasses.asdict(found.value.stages),
        batched=[_batch(one) for one in found.value.batched] or None,
        batched_missing=found.value.batched_missing,
        affinity=list(evaluation.timed_options(case).cores) or None,
        gpu_state=found.value.gpu_state or None,
        gpu_load=GpuLoadRecord(**dataclasses.asdict(load)) if load else None,
        host=host.name(with_gpu=case.runtime.gpu),
        measured=found.when,
    )
    return part(case, latency=latency, runtime=_runtime(case, evaluation))


def _batch(found: Batched) -> BatchRecord:
    fp16 = found.speedup_fp16
    return BatchRecord(
        batch=found.batch,
        gain=found.gain,
        **dataclasses.asdict(found.timing),
        speedup_fp16=fp16.ratio if fp16 else None,
        speedup_fp16_ci=(fp16.low, fp16.high) if fp16 else None,
    )


def explained(case: Case, evaluation: Evaluation, passed: Collection[str] = ()) -> Entry:
    """Where the collapse of a case begins, or why that can't be told. ``passed``: ids of schemes that are known to pass."""
    try:
        found = evaluation.collapse(case)
    except LowbitError as error:
        return part(case, collapse_missing=str(error).splitlines()[0])
    return part(case, collapse=collapse_record(case, evaluation, found, passed))


def collapse_record(
    case: Case, evaluation: Evaluation, found: collapse.Collapse, passed: Collection[str] = ()
) -> CollapseRecord:
    """A collapse with its remedy: a scheme that this machine can build of the detector and run on the case's runtime."""

    def usable(scheme: Scheme) -> bool:
        return evaluation.unable(dataclasses.replace(case, scheme=scheme), timed=False, scored=False) is None

    mend = remedy(found, case.scheme, usable, passed)
    return CollapseRecord(
        **dataclasses.asdict(found), cause=mend.cause, where=mend.where, proposal=mend.scheme, reason=mend.reason
    )


def footprint(case: Case, evaluation: Evaluation) -> Entry:
    """The memory that the artifact adds to a process, and its load time."""
    found = evaluation.footprint(case)
    return part(case, footprint=FootprintRecord(**dataclasses.asdict(found), host=host.name(with_gpu=case.runtime.gpu)))


def costs(case: Case, evaluation: Evaluation, limits: dict[str, float]) -> Entry:
    """What ``limits`` ask to know of what deploying the case costs: footprint, and the speed-up over processes."""
    found, said = evaluation.costs(case, limits), part(case)
    if found.footprint:
        said = merge(said, footprint(case, evaluation))
    if found.speedup:
        where = host.name(with_gpu=case.runtime.gpu)
        record = ProcessSpeedupRecord(**dataclasses.asdict(found.speedup), host=where)
        said = merge(said, part(case, process_speedup=record))
    return said


def judged(case: Case, verdict: Verdict, threshold: float) -> Entry:
    """The gate's verdict. ``threshold``: the drop of mAP that it allows, a fraction."""
    return part(case, status=verdict.status, reason=verdict.reason or None, threshold=threshold)


def entry(case: Case, evaluation: Evaluation, limits: dict[str, float], *, inconclusive: Policy = WARN) -> Entry:
    """The whole flow: a case to its entry, but for timings. ``limits`` and ``inconclusive``: as for
    :meth:`lowbit.evaluate.Evaluation.verdict`.

    A case that this machine cannot measure is skipped, and one that cannot be built or measured is an error, each with the
    reason and what was known by then.
    """
    found = part(case)
    try:
        if reason := evaluation.unable(case, timed=False, scored=True):
            raise UnavailableError(reason)
        for measure in (built, scored):
            found = merge(found, measure(case, evaluation))
        found = merge(found, costs(case, evaluation, limits))
        end = judged(case, evaluation.verdict(case, limits, inconclusive=inconclusive), limits["map"])
    except UnavailableError as error:
        end = part(case, status=Status.SKIPPED, reason=str(error))
    except LowbitError as error:
        end = part(case, status=Status.ERROR, reason=str(error).splitlines()[0])
    return merge(found, end)


def _runtime(case: Case, evaluation: Evaluation, parity: Parity | None = None) -> RuntimeRecord:
    kernels = evaluation.kernels(case)
    shares = {name: ShareRecord(nodes=one.nodes, macs=one.macs) for name, one in kernels.assignment.items()}
    # What was not checked stays unset, so that it replaces nothing.
    checked: dict[str, Any] = {"parity": parity.agreement, "guard": _guard(parity)} if parity else {}
    return RuntimeRecord(
        provider=case.runtime.title,
        options=evaluation.options(case).as_json(),
        int8_mac_fraction=kernels.int8_mac_fraction,
        assignment=shares or None,
        **checked,
    )


def _guard(parity: Parity) -> ParityRecord:
    name, worst = parity.worst_layer or (None, None)
    return ParityRecord(
        sqnr_db=parity.sqnr_db,
        floor_db=parity.floor_db,
        mean_db=parity.head.mean_db,
        mean_floor_db=parity.head.floor_db,
        worst_layer=name,
        worst_layer_db=worst.mean_db if worst else None,
        layers=len(parity.layers),
        detections=parity.detections,
        images=parity.images,
    )
