"""``lowbit calibrate-study``: how much of a scheme's drop is the choice of its calibration images.

The same scheme is built from several draws of the calibration list, of several sizes, and judged on the same evaluation
images. The spread of the drops over the draws is calibration's own; the bootstrap's interval is that of the evaluation
images. A difference between two recipes that is smaller than the former may be the draw's.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from lowbit import files, graph, host, runtime
from lowbit.cli.layers import evaluation_of
from lowbit.data.lists import CalibrationSet
from lowbit.errors import InputError
from lowbit.evaluate import Case, Evaluation, reference_of
from lowbit.gate import points
from lowbit.markdown import table
from lowbit.measure import emulation, metrics
from lowbit.progress import Progress, Step
from lowbit.schemes import find_scheme

# A standard normal's 97.5th percentile: half of a 95 % interval over this is a standard error.
_NORMAL = statistics.NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Draw:
    """A build from ``size`` images that ``seed`` chose. ``drop``: of AP, a fraction, with its 95 % ``interval``."""

    size: int
    seed: int
    drop: float
    interval: tuple[float, float]


def study(options: argparse.Namespace, progress: Progress) -> str:
    """Build and measure every draw; writes ``study.json`` and returns the table with what it says.

    Raises :class:`InputError` for a scheme that takes no calibration list of its own and for sizes that the list does not
    have, before anything is built.
    """
    scheme = find_scheme(options.scheme)
    if not scheme.quantized or "start" in scheme.settings:
        other = (
            f"starts from {scheme.settings['start']}: study that"
            if scheme.quantized
            else "is not calibrated: name another"
        )
        raise InputError(f"--scheme {scheme.id}: {other} one.")
    evaluation = evaluation_of(options, progress)
    case = Case(options.detector, scheme, runtime.find_runtime(runtime.DEFAULT))
    if reason := evaluation.unable(case, timed=False, scored=True):
        raise InputError(f"{case.id}: {reason}")
    evaluation.check_detector(options.detector)
    planned = list(draws(evaluation.calibration(options.detector), options.sizes, options.seeds))
    found = []
    for number, (size, seed, images) in enumerate(planned):
        progress(Step(f"{case.id}: draws of calibration images", number, len(planned), "draws"))
        found.append(_measured(evaluation, case, size, seed, images))
    progress(Step(f"{case.id}: draws of calibration images", len(planned), len(planned), "draws"))
    return _written(options, evaluation, case, found)


def draws(pool: CalibrationSet, sizes: Sequence[int], seeds: int) -> Iterator[tuple[int, int, CalibrationSet]]:
    """Every size with every seed, and the images: a sample without replacement, in the list's order. The whole list is one
    draw. Raises :class:`InputError` for a size that the list does not have."""
    for size in sizes:
        if not 1 <= size <= len(pool.paths):
            raise InputError(
                f"--sizes {size}: {pool.source} has {len(pool.paths)} images. Name sizes from 1 to that, or a longer list "
                "with --calibration."
            )
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: needs one or more, and two for a spread.")
    for size in dict.fromkeys(sizes):
        for seed in range(seeds if size < len(pool.paths) else 1):
            chosen = np.random.default_rng(seed).choice(len(pool.paths), size, replace=False)
            yield size, seed, CalibrationSet(pool.source, tuple(pool.paths[i] for i in sorted(chosen.tolist())))


def _measured(evaluation: Evaluation, case: Case, size: int, seed: int, images: CalibrationSet) -> Draw:
    request = dataclasses.replace(
        evaluation.request(case.detector, case.scheme), calibration=images.paths, calibration_digest=images.digest
    )
    path = evaluation.store.get(request).path
    session = runtime.open_session(path, case.runtime.for_many(_deployed(case, path)))
    seen = evaluation.seen_by(session, case.detector, f"{case.id}, {size} images, seed {seed}")
    reference, (accuracy, _) = evaluation.evidence(reference_of(case)).accuracy, evaluation.score(case.detector, seen)
    interval = metrics.drop_interval(reference, accuracy, len(evaluation.truth(case.detector).images))
    return Draw(size, seed, reference.map - accuracy.map, interval)


def _deployed(case: Case, path: Path) -> runtime.SessionOptions:
    scheme = case.scheme
    options = case.runtime.options(scheme.precision, weights_only=scheme.weights_only)
    saturates = emulation.saturates_here(graph.load(path), options.config)
    return case.runtime.options(scheme.precision, weights_only=scheme.weights_only, saturates=saturates)


def _written(options: argparse.Namespace, evaluation: Evaluation, case: Case, found: Sequence[Draw]) -> str:
    dataset, pool = evaluation.truth(case.detector), evaluation.calibration(case.detector)
    digest = files.digest([evaluation.weights(case.detector), case.scheme.id, dataset.digest, pool.digest])[:12]
    path = options.to.resolve() / f"calibrate-study-{case.name}-{case.scheme.id}-{digest}" / "study.json"
    record = {
        "detector": case.name,
        "scheme": case.scheme.id,
        "dataset": dataset.name,
        "images": len(dataset.images),
        "calibration_pool": len(pool.paths),
        "host": host.name(with_gpu=False),
        "draws": [dataclasses.asdict(draw) for draw in found],
    }
    files.write_json(path, record)
    title = (
        f"# {case.name}: {case.scheme.id} on {len(dataset.images)} images of {dataset.name}, calibrated on draws from "
        f"{len(pool.paths)} images"
    )
    return "\n".join([title, "", *summary(found), "", str(path)])


def summary(found: Sequence[Draw]) -> list[str]:
    """A row a size: the drops' mean, standard deviation and range over the draws, and the standard error of one drop that the
    bootstrap over evaluation images gives; then what that says."""
    rows, said = [], []
    for size, group in groupby(found, key=lambda draw: draw.size):
        drawn = list(group)
        drops = [draw.drop for draw in drawn]
        spread = statistics.stdev(drops) if len(drops) > 1 else None
        error = statistics.fmean((high - low) / 2 / _NORMAL for low, high in (draw.interval for draw in drawn))
        rows.append(
            (
                size,
                len(drawn),
                points(statistics.fmean(drops)),
                None if spread is None else points(spread),
                f"{points(min(drops))} to {points(max(drops))}",
                points(error),
            )
        )
        if spread is not None:
            # Two builds differ by the root of two of what one varies by.
            said.append(
                f"- {size} images: two recipes whose drops differ by less than {points(_NORMAL * spread * 2**0.5)} points may "
                "differ by the draw of calibration images only."
            )
    headings = (
        "calibration images",
        "draws",
        "mean drop, points",
        "standard deviation over draws",
        "range",
        "standard error of one drop (bootstrap)",
    )
    return [*table(headings, "rrrrrr", rows), "", *said]
