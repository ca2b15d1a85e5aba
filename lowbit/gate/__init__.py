"""Limits, expected failures, and the verdict that is decided from them and from what was measured."""

from lowbit.gate.expected import MAP_TEST, ExpectedFailure, load_expected_failures
from lowbit.gate.judging import Costs, judge, judge_reference
from lowbit.gate.limits import FOOTPRINT, Thresholds, absolute, broken_limits, load_thresholds
from lowbit.gate.policy import WARN, Policy, default_policy
from lowbit.gate.verdict import Verdict, decide, points

__all__ = [
    "FOOTPRINT",
    "MAP_TEST",
    "WARN",
    "Costs",
    "ExpectedFailure",
    "Policy",
    "Thresholds",
    "Verdict",
    "absolute",
    "broken_limits",
    "decide",
    "default_policy",
    "judge",
    "judge_reference",
    "load_expected_failures",
    "load_thresholds",
    "points",
]
