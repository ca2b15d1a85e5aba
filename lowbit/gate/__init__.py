"""Limits, expected failures, and the verdict that is decided from them and from what was measured."""

from lowbit.gate.verdict import (
    Decision,
    ExpectedFailure,
    Thresholds,
    Verdict,
    broken_limits,
    decide,
    load_expected_failures,
    load_thresholds,
    points,
)

__all__ = [
    "Decision",
    "ExpectedFailure",
    "Thresholds",
    "Verdict",
    "broken_limits",
    "decide",
    "load_expected_failures",
    "load_thresholds",
    "points",
]
