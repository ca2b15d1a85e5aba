"""Which confidence threshold a scheme needs, in words: what its operating point says to whoever deploys it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from lowbit.results import Entry, OperatingPointRecord, ProposalRecord

# Of how many classes the shift is said, and how many objects make a class's median worth saying.
_CLASSES, _OBJECTS = 5, 10


def advice(found: OperatingPointRecord) -> str:
    """What to do with the user's threshold, in a sentence or two."""
    confidence, wanted = found.confidence, found.reference.at_confidence
    if wanted.precision is None or not wanted.recall:
        return f"FP32 finds no object at a threshold of {confidence:g}. Name the one that you deploy it with: --confidence."
    proposed = found.same_precision
    if proposed is None:
        return f"No threshold has FP32's precision, {wanted.precision:.2f} at {confidence:g}."
    low, high = proposed.interval
    if not low <= confidence <= high:
        return (
            f"Use {proposed.at.threshold:g} [{low:.3g}, {high:.3g}] where you used {confidence:g}: "
            f"precision {_beside(proposed.at.precision, wanted.precision)}, "
            f"recall {_beside(proposed.at.recall, wanted.recall)}."
        )
    kept = found.quantized.at_confidence
    return (
        f"Keep {confidence:g}: precision {_beside(kept.precision, wanted.precision)}, "
        f"recall {_beside(kept.recall, wanted.recall)}. FP32's precision needs {_with_interval(proposed)}, and the 95 % CI "
        f"contains {confidence:g}."
    )


def details(found: OperatingPointRecord) -> list[str]:
    """What else there is to know: FP32's recall, best F1, calibration, and the classes whose scores change most."""
    wanted, best, usual = found.reference.at_confidence, found.quantized.best_f1, found.reference.best_f1
    said = []
    if wanted.precision is not None and wanted.recall:
        if found.same_recall is None:
            said.append(f"No threshold has FP32's recall, {wanted.recall:.2f} at {found.confidence:g}.")
        else:
            precision = _beside(found.same_recall.at.precision, wanted.precision)
            said.append(
                f"FP32's recall, {wanted.recall:.2f}, needs {_with_interval(found.same_recall)}: precision {precision} there."
            )
    said.append(f"F1 is best at {best.threshold:g} ({best.f1:.2f}), FP32's at {usual.threshold:g} ({usual.f1:.2f}).")
    errors = (found.quantized.calibration_error, found.reference.calibration_error)
    said.append(
        "Calibration error, how far scores are from precision: "
        + ", FP32 ".join("undefined, for nothing is detected" if error is None else f"{error:.3f}" for error in errors)
        + "."
    )
    shifts = [(name, shift) for name, shift in found.score_shift.items() if shift.objects >= _OBJECTS]
    if shifts:
        most = sorted(shifts, key=lambda item: (-abs(item[1].median), item[0]))[:_CLASSES]
        listed = ", ".join(f"{name} {-shift.median:+.3f} ({shift.objects})" for name, shift in most)
        said.append(f"Median change of scores by class (and how many objects both find), largest first: {listed}.")
    return said


def summary_lines(entries: Sequence[Entry]) -> list[str]:
    """The threshold with FP32's precision of every scheme that was compared, one line a threshold of the user's."""
    found = [(entry.operating_point, entry.scheme) for entry in entries if entry.operating_point]
    lines = []
    for confidence, group in groupby(
        sorted(found, key=lambda one: one[0].confidence), key=lambda one: one[0].confidence
    ):
        said = [
            f"`{scheme}` {_with_interval(point.same_precision) if point.same_precision else 'at none'}"
            for point, scheme in group
        ]
        lines.append(f"Threshold with the precision that FP32 has at {confidence:g}: {', '.join(said)}")
    return lines


def _with_interval(proposal: ProposalRecord) -> str:
    low, high = proposal.interval
    return f"{proposal.at.threshold:g} [{low:.3g}, {high:.3g}]"


def _beside(value: float | None, wanted: float) -> str:
    """A fraction beside FP32's."""
    if value is None:
        return f"of nothing, FP32 had {wanted:.2f}"
    return f"{value:.2f} as FP32 had" if f"{value:.2f}" == f"{wanted:.2f}" else f"{value:.2f} instead of {wanted:.2f}"
