"""Why a scheme did not pass, in words for people."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowbit.report import html, reasons
from lowbit.results import Status
from tests.unit.synthetic_run import LOG, catalogue_run
from tests.unit.test_results import entry


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"see {LOG}.", "see …/8e23350ab2a28adb.log."),
        ("'/somewhere/else/model.onnx': cannot be read", "'…/model.onnx': cannot be read"),
        ("/home/a/runs is full", "…/runs is full"),
        (r"C:\\Users\\a\\model.onnx: is torn", "…/model.onnx: is torn"),
        ("node /model.23/cv2/Conv differs", "node /model.23/cv2/Conv differs"),
        ("https://example.org/a/b.html and images/a.jpg", "https://example.org/a/b.html and images/a.jpg"),
        ("12 images/s, 8 and/or 9", "12 images/s, 8 and/or 9"),
    ],
)
def test_paths_are_cut_down_to_names(text: str, expected: str) -> None:
    assert reasons.without_paths(text.replace("\\\\", "\\")) == expected


def test_a_failed_build_says_what_to_do_before_its_log() -> None:
    raised = f"lowbit.errors.BuildError: int8-a: ended with exit code 1: no memory\nThe log ends:\n{LOG}: line 7"
    found = reasons.explain(entry("int8-a", None, status=Status.ERROR, reason=raised))
    assert found.what == "int8-a: ended with exit code 1: no memory"
    assert "pytest tests/test_accuracy.py --detector toy --scheme int8-a" in found.remedy
    assert "…/8e23350ab2a28adb.log: line 7" in found.log and "/home" not in found.log


def test_what_has_a_remedy_gets_no_second_one() -> None:
    said = reasons.explain(
        entry("a", None, status=Status.ERROR, reason="lowbit.errors.InputError: a.json: torn. Mend it.")
    )
    assert (said.what, said.remedy) == ("a.json: torn. Mend it.", "")
    refused = reasons.explain(entry("a", 0.2, status=Status.FAILED, reason="drop 20 points"))
    assert (refused.what, refused.log) == ("drop 20 points", "") and "lowbit.toml" in refused.remedy
    unknown = reasons.explain(entry("a", None, status=Status.ERROR, reason="KeyError: 'x'"))
    assert unknown.what == "'x'" and unknown.log == "KeyError: 'x'" and "report it" in unknown.remedy


def test_no_path_of_a_machine_is_in_the_page(tmp_path: Path) -> None:
    text = html.page(catalogue_run(tmp_path, schemes=3), tmp_path)
    assert "/home/runner" not in text and str(tmp_path) not in text
    what, log = text.index("w4a8-brevitas: the build ended"), text.index("line 1 of …/8e23350ab2a28adb.log")
    assert what < text.index("mend what it names") < text.index("lowbit.errors.BuildError") < log
