"""What runs at every change, and how ``make test`` runs it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lowbit.detector import REGISTRY
from lowbit.evaluate import Case
from lowbit.runtime import runtimes
from lowbit.schemes import CATALOGUE
from lowbit_pytest import tiers
from tests.__main__ import JUDGED, MEASURED
from tests.unit.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command, "-q", "-p", "no:cacheprovider", "--collect-only", "-n0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_every_scheme_runs_or_one_stands_for_it() -> None:
    declared = Counter(
        scheme for family in tiers.declared().family for scheme in (family.runs, *family.stands_for) if scheme
    )
    assert declared == dict.fromkeys(CATALOGUE, 1)


def test_every_tool_is_there() -> None:
    assert {CATALOGUE[scheme].tool for scheme in tiers.declared().representatives} == {
        s.tool for s in CATALOGUE.values()
    }


def test_a_first_verdict_is_about_a_few_schemes_unless_others_are_named() -> None:
    first = tiers.declared().first.schemes
    assert first[0] == "fp32" and set(first) <= CATALOGUE.keys()
    for named, chosen in (((), first), (("--scheme", "int8-ort-entropy"), ("int8-ort-entropy",))):
        done = run("pytest", "--tier", "first", "tests/test_accuracy.py", *named)
        assert done.returncode == 0, done.stdout + done.stderr
        found = {line.partition("[")[2].rstrip("]") for line in done.stdout.splitlines() if "::" in line}
        assert found == {
            Case("shapes10n", CATALOGUE[scheme], one).id for scheme in chosen for one in runtimes().values()
        }


def test_the_real_detector_is_one_and_is_compared_with_its_float_export() -> None:
    real = tiers.declared().real
    assert real.detector in REGISTRY
    assert "fp32" in real.schemes and len(real.schemes) > 1 and set(real.schemes) <= CATALOGUE.keys()


def test_the_tier_selects_these_and_nothing_long() -> None:
    chosen = tiers.declared()
    done = run(
        "pytest", "--tier", "change", "tests/test_accuracy.py", "tests/test_sensitivity.py", "tests/test_coverage.py"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    schemes = [("shapes10n", scheme) for scheme in chosen.representatives]
    schemes += [(chosen.real.detector, scheme) for scheme in chosen.real.schemes]
    cases = [Case(detector, CATALOGUE[scheme], one) for detector, scheme in schemes for one in runtimes().values()]
    found = [line for line in done.stdout.splitlines() if "::" in line]
    assert sorted(found) == sorted(f"tests/test_accuracy.py::test_map_drop[{case.id}]" for case in cases)


@pytest.mark.parametrize("path", ["tests/unit/test_files.py", "tests/test_coverage.py"])
def test_both_sessions_take_paths_and_one_of_them_runs_them(path: str) -> None:
    done = run("tests", path)
    assert done.returncode == 0, done.stdout + done.stderr
    collected = [line for line in done.stdout.splitlines() if "::" in line]
    assert collected and all(line.startswith(path) for line in collected)
    assert len(set(collected)) == len(collected)


def test_arguments_that_select_nothing_are_an_error() -> None:
    assert run("tests", "tests/unit/test_files.py", "-k", "nosuchtest").returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_session_that_fails_is_the_exit_status() -> None:
    assert run("tests", "tests/unit/test_files.py", "--nosuchoption").returncode == pytest.ExitCode.USAGE_ERROR


def test_what_takes_times_runs_alone() -> None:
    """With pytest-xdist's workers timings are skipped, and one that no session takes is never measured."""
    suite = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")}
    assert (
        {name for name, code in suite.items() if "mark.latency" in code} < set(MEASURED) < set(JUDGED) <= suite.keys()
    )
