"""Expected failures, rewritten from what a run measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import tomlkit

from lowbit import files, results
from lowbit.errors import InputError
from lowbit.gate import MAP_TEST, ExpectedFailure, load_expected_failures, points
from lowbit.results import Entry

HEAD = "# Schemes that are known to miss a test on a detector, written by: lowbit expectations update RUN.\n\n"


def update(run: Path, listing: Path) -> str:
    """Rewrite ``listing`` from the results.json in ``run``, atomically, and say what changed.

    A scheme that drops more than its threshold gets a bounded entry, one that does not loses its entry, and what the
    run did not measure is kept. Comments above the first entry are kept. Raises :class:`InputError` for a file that
    cannot be read, and for a run that measured no drop of known weights, or measured on a sample of the images.
    """
    measured = [e for e in results.read(run / "results.json").entries if _drop_of(e) is not None and e.weights]
    if not measured:
        raise InputError(f"{run}: measured no drop of a detector whose weights it names. Run the accuracy tests first.")
    quick = next((entry for entry in measured if entry.sampled_from), None)
    if quick:
        raise InputError(
            f"{run}: measured {quick.images} of {quick.sampled_from} images (--quick). Bounds from so few would let through "
            "more than those of a whole run. Run without --quick first."
        )
    before = load_expected_failures(listing) if listing.exists() else ()
    after = updated(before, measured)
    head = listing.read_text(encoding="utf-8-sig").partition("[[expected]]")[0] if before else HEAD
    blocks = [tomlkit.dumps({"expected": [_as_table(entry)]}) for entry in after]
    files.write_atomic(listing, head + "\n".join(blocks))
    added, gone = (sum(e not in other for e in these) for these, other in ((after, before), (before, after)))
    return f"{listing}: {len(after)} expected failures, {added} new or measured again, {gone} replaced or removed"


def updated(before: Sequence[ExpectedFailure], measured: Sequence[Entry]) -> list[ExpectedFailure]:
    """The entries after a run. ``measured``: entries with weights, a drop, its interval and a threshold."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in measured:
        groups.setdefault((entry.weights or "", entry.scheme), []).append(entry)
    after = []
    for known in before:
        keys = [(weights, known.scheme) for weights in known.weights if (weights, known.scheme) in groups]
        if known.test != MAP_TEST or not keys:
            after.append(known)
            continue
        entries = [entry for key in keys for entry in groups.pop(key)]
        after += _after(known, entries)
    for entries in groups.values():
        after += _after(None, entries)
    return after


def _after(known: ExpectedFailure | None, measured: Sequence[Entry]) -> list[ExpectedFailure]:
    """The entry of one scheme, or none. A runtime that ``known`` names and that was not measured stays in it."""
    failed = [entry for entry in measured if (_drop_of(entry) or 0.0) > (entry.threshold or 0.0)]
    passed = {entry.provider for entry in measured} - {entry.provider for entry in failed}
    unmeasured = set(known.runtimes or () if known else ()) - {entry.provider for entry in measured}
    named = {entry.provider for entry in failed} | unmeasured
    if not named:
        return []
    everywhere = not passed and (known is None or known.runtimes is None)
    runtimes = None if everywhere else tuple(sorted(named))
    if not failed:
        assert known is not None
        return [known.model_copy(update={"runtimes": runtimes})]
    worst = max(failed, key=_upper)
    bound = min(1.0, math.ceil(round(_upper(worst) * 1e4, 6)) / 1e4)
    if unmeasured and known and known.drop_at_most:
        bound = max(bound, known.drop_at_most)
    return [
        ExpectedFailure(
            detector=known.detector if known else worst.detector,
            weights=known.weights if known else (worst.weights or "",),
            scheme=worst.scheme,
            runtimes=runtimes,
            test=MAP_TEST,
            exception="AssertionError",
            text=f"threshold {points(worst.threshold or 0.0)}",
            drop_at_most=bound,
            reason=_reason(worst),
        )
    ]


def _drop_of(entry: Entry) -> float | None:
    known = entry.drop_ci is not None and entry.threshold is not None and entry.scheme != "fp32"
    return entry.drop if known else None


def _upper(entry: Entry) -> float:
    assert entry.drop is not None and entry.drop_ci is not None
    return max(entry.drop, entry.drop_ci[1])


def _reason(entry: Entry) -> str:
    assert entry.drop is not None and entry.drop_ci is not None
    low, high = map(points, entry.drop_ci)
    where = f"{entry.images} images of {entry.dataset}, {entry.provider} on {entry.host}"
    return f"{points(entry.drop)} points [{low}, {high}] on {where}"


def _as_table(entry: ExpectedFailure) -> dict[str, object]:
    return {k: v for k, v in entry.model_dump(mode="json", exclude_none=True).items() if v != []}
