"""Thresholds, verdicts and expected failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowbit.detector import find_detector
from lowbit.errors import InputError
from lowbit.gate import (
    Costs,
    Policy,
    absolute,
    broken_limits,
    decide,
    default_policy,
    judge,
    load_expected_failures,
    load_thresholds,
)
from lowbit.gate.policy import STRICT, Choice
from lowbit.measure.alone import Footprint, ProcessSpeedup
from lowbit.results import Status
from lowbit_pytest.options import HERE

# An interval and one-sided bounds within any threshold.
NARROW = (-0.001, 0.001), (-0.0009, 0.0009)


def rule(choice: Choice) -> Policy:
    return Policy(choice, f"--inconclusive={choice}")


def test_broken_limits_are_said_one_by_one() -> None:
    limits = {"map": 0.01, "recall": 0.02, "miss_rate": 0.02, "map_small": 0.05, "int8_macs": 0.9}
    drops = {"map": 0.5, "recall": 0.03, "miss_rate": 0.03, "map_small": 0.01}
    assert broken_limits(limits, drops, 0.013) == [
        "recall drops 3.00 points, limit 2.00",
        "miss_rate rises 3.00 points, limit 2.00",
        "1.3% of the MACs ran in integer kernels, at least 90.0% are expected",
    ]
    assert not broken_limits(limits, {**drops, "recall": 0.0, "miss_rate": 0.0}, None, kernels_hidden=True)


def test_a_share_of_fp32_is_a_drop_and_the_stricter_limit_counts(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(
        '[default]\nint8 = "mlperf-99"\nfp8 = { relative = 0.9, map = 0.01, max_bytes = 100 }\n[toy]\nint8 = "mlperf-99.9"\n'
    )
    thresholds = load_thresholds(path)
    assert absolute(thresholds.limits("a", "int8-x", "int8"), 0.4) == {"map": pytest.approx(0.004)}
    assert absolute(thresholds.limits("toy", "int8-x", "int8"), 0.4) == {"map": pytest.approx(0.0004)}
    assert absolute(thresholds.limits("a", "fp8-x", "fp8"), 0.4) == {"map": 0.01, "max_bytes": 100}
    assert absolute(thresholds.limits("a", "fp8-x", "fp8"), 0.05) == {"map": pytest.approx(0.005), "max_bytes": 100}


def test_a_file_that_is_too_large_has_failed() -> None:
    limits = {"map": 0.01, "max_bytes": 100}
    for size, status in ((100, Status.PASSED), (101, Status.FAILED)):
        verdict = judge(limits, {"map": 0.0}, *NARROW, None, size_bytes=size)
        assert verdict.status is status
    assert verdict.reason == "the artifact has 101 bytes, at most 100 are allowed"


def test_a_limit_on_what_was_not_measured_is_broken() -> None:
    limits = {"map": 0.01, "map_small": 0.05, "int8_macs": 0.9}
    verdict = judge(limits, {"map": 0.0}, *NARROW, None)
    assert (verdict.status, verdict.allowed) == (Status.FAILED, False)
    assert len(verdict.reasons) == 2 and all("was not measured" in reason for reason in verdict.reasons)
    hidden = judge({"map": 0.01, "int8_macs": 0.9}, {"map": 0.0}, *NARROW, None, kernels_hidden=True)
    assert (hidden.status, hidden.allowed) == (Status.PASSED, True)


@pytest.mark.parametrize(("policy", "status"), [("fail", Status.FAILED), ("pass", Status.INCONCLUSIVE)])
def test_what_stops_a_merge_has_failed(policy: Choice, status: Status) -> None:
    verdict = judge({"map": 0.01}, {"map": 0.008}, (0.001, 0.015), (0.002, 0.014), None, inconclusive=rule(policy))
    assert (verdict.status, verdict.allowed) == (status, policy == "pass")


def speed(ratio: float, low: float, high: float) -> ProcessSpeedup:
    return ProcessSpeedup(ratio, (low - 0.1, high + 0.1), (low, high), (ratio,) * 3)


@pytest.mark.parametrize(
    ("measured", "policy", "status"),
    [
        (speed(1.9, 1.8, 2.0), "fail", Status.PASSED),
        (speed(1.2, 1.1, 1.3), "pass", Status.FAILED),
        (speed(1.6, 1.4, 1.8), "warn", Status.INCONCLUSIVE),
        (speed(1.45, 1.3, 1.6), "warn", Status.FAILED),
        (speed(1.6, 1.4, 1.8), "fail", Status.FAILED),
        (speed(1.45, 1.3, 1.6), "pass", Status.INCONCLUSIVE),
    ],
)
def test_a_speed_up_is_judged_by_its_one_sided_bounds(measured: ProcessSpeedup, policy: Choice, status: Status) -> None:
    costs = Costs(speedup=measured, untimed=None)
    limits = {"map": 0.01, "min_speedup": 1.5}
    verdict = judge(limits, {"map": 0.0}, *NARROW, None, costs=costs, inconclusive=rule(policy))
    assert (verdict.status, verdict.allowed) == (status, status is not Status.FAILED)
    assert "over 3 processes, at least 1.50x asked for" in verdict.reason and "one-sided 95 % bound" in verdict.reason


def test_limits_on_memory_and_load_time() -> None:
    found = Footprint(load_seconds=0.5, memory_bytes=100, peak_rss_bytes=1000, processes=3)
    kept = {"map": 0.01, "max_memory_bytes": 100, "max_load_seconds": 0.5}
    costs = Costs(footprint=found, untimed=None)
    assert judge(kept, {"map": 0.0}, *NARROW, None, costs=costs).status is Status.PASSED
    verdict = judge({**kept, "max_memory_bytes": 99, "max_load_seconds": 0.4}, {"map": 0.0}, *NARROW, None, costs=costs)
    assert verdict.status is Status.FAILED
    assert verdict.reasons == (
        "loading and running the artifact adds 100 bytes of memory, at most 99 are allowed",
        "the artifact takes 0.500 s to load, at most 0.400 s are allowed",
    )


def test_limits_on_times_that_were_not_taken_are_broken() -> None:
    """A runtime that emulates a precision has no times that say anything: there they are not asked for."""
    limits = {"map": 0.01, "min_speedup": 1.5, "max_load_seconds": 1.0, "max_memory_bytes": 100}
    found = Footprint(load_seconds=0.5, memory_bytes=100, peak_rss_bytes=1000, processes=3)
    verdict = judge(limits, {"map": 0.0}, *NARROW, None, costs=Costs(found, untimed="it is a quick run"))
    assert verdict.reasons == (
        "max_load_seconds has a limit and was not measured: it is a quick run",
        "min_speedup has a limit and was not measured: it is a quick run",
    )
    for costs in (Costs(found, times_hidden=True), Costs(found, untimed=None, times_hidden=True)):
        assert judge(limits, {"map": 0.0}, *NARROW, None, costs=costs).status is Status.PASSED
    assert judge(limits, {"map": 0.0}, *NARROW, None).status is Status.FAILED


def test_own_thresholds_go_before_lowbits(tmp_path: Path) -> None:
    own, mine = tmp_path / "own.toml", tmp_path / "mine.toml"
    own.write_text("[default]\nint8 = 0.01\nfp8 = 0.02\n[toy]\nint8 = 0.03\n")
    mine.write_text("[default]\nint8 = 0.05\n")
    both = load_thresholds(mine, load_thresholds(own))
    assert both.limits("toy", "int8-ort-minmax", "int8") == {"map": 0.05}
    assert both.limits("toy", "fp8-modelopt-k0", "fp8") == {"map": 0.02}
    with pytest.raises(InputError, match=r"own\.toml: no threshold for w4a16"):
        both.limits("toy", "w4a16-brevitas-qat", "w4a16")


@pytest.mark.parametrize(
    ("drop", "bounds", "policy", "verdict", "allowed"),
    [
        (0.003, (0.001, 0.005), "warn", Status.PASSED, True),
        (0.003, (0.001, 0.010), "fail", Status.PASSED, True),
        (0.020, (0.015, 0.025), "pass", Status.FAILED, False),
        (0.008, (0.002, 0.014), "warn", Status.INCONCLUSIVE, True),
        (0.012, (0.006, 0.018), "warn", Status.INCONCLUSIVE, False),
        (0.012, (0.006, 0.018), "pass", Status.INCONCLUSIVE, True),
        (0.008, (0.002, 0.014), "fail", Status.INCONCLUSIVE, False),
        (-0.004, (-0.006, -0.001), "fail", Status.PASSED, True),
    ],
)
def test_decide(drop: float, bounds: tuple[float, float], policy: Choice, verdict: Status, allowed: bool) -> None:
    """The two-sided interval contains the threshold every time: it is said, and decides nothing."""
    decision = decide(drop, (-0.5, 0.5), bounds, 0.010, rule(policy))
    assert (decision.status, decision.allowed) == (verdict, allowed)
    assert "95 % CI [-50.00, 50.00], threshold 1.00" in decision.reason
    assert "by the one-sided 95 % bound" in decision.reason or "the one-sided 95 % bounds, " in decision.reason


def test_a_drop_that_one_sided_tests_show_within_passes_though_its_two_sided_interval_does_not() -> None:
    verdict = decide(0.0071, (0.0040, 0.0101), (0.0045, 0.0096), 0.010, STRICT)
    assert (verdict.status, verdict.allowed) == (Status.PASSED, True)
    assert verdict.reason == (
        "drop 0.71 points, 95 % CI [0.40, 1.01], threshold 1.00: at most 0.96 by the one-sided 95 % bound, which decides"
    )


@pytest.mark.parametrize(
    ("environ", "choice"),
    [({}, "warn"), ({"CI": ""}, "warn"), ({"CI": "false"}, "warn"), ({"CI": "true"}, "fail"), ({"CI": "1"}, "fail")],
)
def test_in_ci_the_interval_decides_and_elsewhere_the_point(environ: dict[str, str], choice: Choice) -> None:
    policy = default_policy(environ)
    assert policy.choice == choice
    verdict = decide(0.008, (0.001, 0.015), (0.002, 0.014), 0.010, policy, 200)
    assert verdict.allowed is (choice == "warn")
    decides = "the interval decides" if choice == "fail" else "the point estimate decides"
    assert f"{decides}" in verdict.reason and ("CI=true" in verdict.reason) is (choice == "fail")
    assert "about 1800 images would settle it" in verdict.reason


def test_the_most_specific_threshold_counts(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.toml"
    path.write_text(
        '[default]\nint8 = 0.01\n"int8-ort-minmax" = 0.02\n[mine]\nint8 = 0.03\n"int8-x" = {map = 0.04, recall = 0.05}\n'
    )
    thresholds = load_thresholds(path)
    assert thresholds.limits("other", "int8-modelopt-max", "int8") == {"map": 0.01}
    assert thresholds.limits("other", "int8-ort-minmax", "int8") == {"map": 0.02}
    assert thresholds.limits("mine", "int8-ort-minmax", "int8") == {"map": 0.03}
    assert thresholds.limits("mine", "int8-x", "int8") == {"map": 0.04, "recall": 0.05}
    with pytest.raises(InputError, match="no threshold for fp8"):
        thresholds.limits("mine", "fp8-modelopt-k0", "fp8")


@pytest.mark.parametrize(
    "text", ["[default]\nint8 = 1.5", "[default]\nint8 = 'low'", "int8 = 0.1", "[default", "[a]\nb = true"]
)
def test_bad_thresholds_name_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "thresholds.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"thresholds\.toml"):
        load_thresholds(path)


MINE, OTHER = "a" * 64, "b" * 64


def test_a_table_of_weights_is_for_these_weights_whatever_their_file_is_called(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.toml"
    path.write_text(f'[default]\nint8 = 0.01\n[yolov10n]\nweights = ["{MINE}"]\nint8 = 0.05\n')
    thresholds = load_thresholds(path)
    assert thresholds.limits("yolov10n", "int8-x", "int8", MINE) == {"map": 0.05}
    assert thresholds.limits("renamed", "int8-x", "int8", MINE) == {"map": 0.05}
    assert thresholds.limits("yolov10n", "int8-x", "int8", OTHER) == {"map": 0.01}
    assert thresholds.limits("yolov10n", "int8-x", "int8") == {"map": 0.01}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[default]\nint8 = 1.5", r"thresholds\.toml: default\.limits\.int8\.map: .*1.5.*fraction between 0 and 1"),
        ("[default]\nint8 = { recall = 0.1 }", r"int8: has neither map nor relative"),
        ("[default]\nint8 = 'mlperf-98'", r"int8: is no preset; known: mlperf-99, mlperf-99\.9"),
        ("[default]\nint8 = { map = 0.1, max_bytes = 0.5 }", r"int8\.max_bytes: .*0\.5.*max_bytes, a whole number"),
        ("[default]\nint8 = { map = 0.1, min_speedup = 0 }", r"int8\.min_speedup: .*min_speedup, a ratio above 0"),
        ("[default]\nint8 = { map = 0.1, max_memory_bytes = 1.5 }", r"int8\.max_memory_bytes: .*a whole number"),
        ("[default]\nint8 = { map = 0.1, max_load_seconds = -1 }", r"int8\.max_load_seconds: .*a number above 0"),
        ("[default]\nint8 = { map = 0.1, speed = 0.1 }", r"int8\.speed: .*worst_class"),
        ("[yolov10n]\nweights = ['yolov10n.onnx']", r"yolov10n\.weights\.0: .*yolov10n\.onnx"),
    ],
)
def test_a_bad_threshold_is_named_with_its_key_and_the_remedy(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "thresholds.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        load_thresholds(path)


GOOD = 'detector="d"\nscheme="int8-ort-minmax"\ntest="test_map_drop"\nexception="AssertionError"\ntext="drop"\nreason="x"\ndrop_at_most=0.02\n'


@pytest.mark.parametrize(
    "text",
    [
        f"[[expected]]\n{GOOD}\n[[expected]]\n{GOOD}",
        "[[expected]]\ndetector='d'",
        f"[[expected]]\n{GOOD}more='y'",
        f"[[expected]]\n{GOOD}".replace('"x"', '""'),
        f"[[expected]]\n{GOOD}".replace("drop_at_most=0.02", ""),
        f"[[expected]]\n{GOOD}weights=['d.onnx']",
        f"[[expected]]\n{GOOD}runtimes=[]",
    ],
    ids=["twice", "missing", "unknown", "empty", "unbounded", "a file's name", "on no runtime"],
)
def test_bad_expected_failures_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"expected\.toml"):
        load_expected_failures(path)


def test_an_expected_failure_belongs_to_weights_and_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(
        f'[[expected]]\n{GOOD}weights = ["{MINE}"]\n[[expected]]\n{GOOD.replace("minmax", "x")}runtimes = ["trt"]\n'
    )
    ours, anybodys = load_expected_failures(path)
    assert ours.owned_by("renamed", MINE) and not ours.owned_by("d", OTHER)
    assert anybodys.owned_by("d", OTHER) and not anybodys.owned_by("renamed", MINE)
    assert ours.on("cpu") and ours.on("trt") and anybodys.on("trt") and not anybodys.on("cpu")
    assert ours.exceeded(0.02) is None and ours.exceeded(-0.1) is None
    assert ours.exceeded(0.0201) == "dropped 2.01 points, and at most 2.00 points were expected (x)"
    assert "before its drop was measured" in (ours.exceeded(None) or "")


def test_what_ships_is_well_formed_and_strict() -> None:
    """INT8 may lose 1.0 point, no more; a looser gate gates nothing. Nothing of it goes by a file's name."""
    thresholds = load_thresholds(HERE / "thresholds.toml")
    assert thresholds.limits("shapes10n", "int8-modelopt-entropy", "int8")["map"] <= 0.010
    assert all(table.weights for name, table in thresholds.tables.items() if name != "default")
    bundled = find_detector("shapes10n").weights_sha256
    for entry in load_expected_failures(HERE / "expected_failures.toml"):
        assert entry.weights and (entry.detector != "shapes10n" or entry.weights == (bundled,))
