"""Expected failures are rewritten from a run, and nobody edits numbers by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowbit.cli import main
from lowbit.errors import InputError
from lowbit.gate import load_expected_failures
from lowbit.report.expectations import update
from lowbit.results import SCHEMA, Entry, Results

MINE = "a" * 64
LISTING = """# What the head says stays.

[[expected]]
detector = "d"
weights = ["{weights}"]
scheme = "{scheme}"
test = "test_map_drop"
exception = "AssertionError"
text = "threshold 1.00"
drop_at_most = 0.5
reason = "old"
"""


def entry(scheme: str, drop: float, provider: str = "cpu") -> Entry:
    return Entry(
        detector="d",
        weights=MINE,
        scheme=scheme,
        provider=provider,
        host="a processor",
        dataset="val",
        images=200,
        drop=drop,
        drop_ci=(drop - 0.01, drop + 0.01234),
        threshold=0.01,
    )


def run(folder: Path, *entries: Entry) -> Path:
    folder.mkdir()
    found = Results(schema=SCHEMA, run_id="r", started="now", environment={}, entries=list(entries))
    found.write(folder / "results.json")
    return folder


def test_a_run_rewrites_what_it_measured_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = tmp_path / "expected.toml"
    schemes = ("int8-worse", "int8-mended", "int8-unmeasured")
    head, _, rest = LISTING.partition("[[")
    listing.write_text(head + "".join(f"[[{rest}\n".format(weights=MINE, scheme=s) for s in schemes))
    before = {e.scheme: e for e in load_expected_failures(listing)}
    folder = run(
        tmp_path / "run",
        *(entry("int8-worse", 0.02), entry("int8-mended", 0.001), entry("int8-new", 0.05)),
        *(entry("int8-new", 0.001, "trt"), entry("int8-good", 0.0)),
    )
    assert main(["expectations", "update", str(folder), "--file", str(listing)]) == 0
    assert "3 expected failures" in capsys.readouterr().out
    after = {e.scheme: e for e in load_expected_failures(listing)}
    assert after.keys() == {"int8-worse", "int8-unmeasured", "int8-new"}
    assert after["int8-unmeasured"] == before["int8-unmeasured"]
    assert after["int8-worse"].drop_at_most == 0.0324
    assert after["int8-worse"].reason == "2.00 points [1.00, 3.23] on 200 images of val, cpu on a processor"
    assert after["int8-worse"].runtimes is None
    assert (after["int8-new"].runtimes, after["int8-new"].weights) == (("cpu",), (MINE,))
    assert listing.read_text().startswith("# What the head says stays.\n")
    text = listing.read_text()
    assert main(["expectations", "update", str(folder), "--file", str(listing)]) == 0
    assert listing.read_text() == text


def test_a_run_without_drops_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = tmp_path / "expected.toml"
    folder = run(tmp_path / "run", Entry(detector="d", scheme="fp32"))
    assert main(["expectations", "update", str(folder), "--file", str(listing)]) == 2
    assert "measured no drop" in capsys.readouterr().err and not listing.exists()


def test_a_quick_run_sets_no_bounds(tmp_path: Path) -> None:
    """Its interval is that of 50 images: the bound would be wider than what was measured on all."""
    listing = tmp_path / "expected.toml"
    listing.write_text(LISTING.format(weights=MINE, scheme="int8-worse"))
    sampled = entry("int8-worse", 0.02).model_copy(update={"images": 50, "sampled_from": 204})
    folder = run(tmp_path / "run", sampled)
    with pytest.raises(InputError, match=r"measured 50 of 204 images \(--quick\)"):
        update(folder, listing)
    assert "old" in listing.read_text()
