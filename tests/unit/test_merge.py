"""``lowbit merge``: shards of one run become one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lowbit import cli, results
from lowbit.results import ArtifactRecord, Entry, Results, RuntimeRecord, Status
from tests.unit.test_results import ENVIRONMENT, latency

ARTIFACT = ArtifactRecord(path="m.onnx", sha256="a" * 64, bytes=10)


def shard(folder: Path, *entries: Entry, **environment: Any) -> Path:
    (folder / "detections").mkdir(parents=True)
    (folder / "detections" / f"{entries[0].scheme}.npz").write_bytes(b"found")
    Results(
        schema=results.SCHEMA,
        run_id=folder.name,
        started=f"2026-01-0{len(entries)}",
        environment={**ENVIRONMENT, **environment},
        entries=list(entries),
    ).write(folder / "results.json")
    return folder


def entry(scheme: str, **more: Any) -> Entry:
    return Entry(detector="toy", scheme=scheme, **{"artifact": ARTIFACT, **more})


def test_shards_become_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime = RuntimeRecord(provider="CPUExecutionProvider", options={}, parity=1.0)
    timed = RuntimeRecord(provider="CPUExecutionProvider", options={}, int8_mac_fraction=0.9)
    one = shard(tmp_path / "one", entry("fp32", map=0.5), entry("int8-a", map=0.4, runtime=runtime))
    failed = entry("int8-a", latency=latency(1, 1, 1), runtime=timed, status=Status.FAILED, reason="drop")
    two = shard(tmp_path / "two", failed, entry("int8-b", map=0.3), python="3.12")
    assert cli.main(["merge", str(one), str(two), "--to", str(tmp_path / "whole")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "whole" / "report.html")
    whole = results.read(tmp_path / "whole" / "results.json")
    found = {e.scheme: e for e in whole.entries}
    assert list(found) == ["fp32", "int8-a", "int8-b"]
    both = found["int8-a"]
    assert (both.map, both.status, both.reason) == (0.4, Status.FAILED, "drop")
    assert both.latency is not None and both.runtime is not None
    assert (both.runtime.parity, both.runtime.int8_mac_fraction) == (1.0, 0.9)
    assert whole.environment["shards"] == 2 and whole.environment["others"][0]["python"] == "3.12"
    assert {p.name for p in (tmp_path / "whole" / "detections").iterdir()} == {"fp32.npz", "int8-a.npz"}
    assert (tmp_path / "whole" / "summary.md").is_file()


def test_shards_of_two_processors_keep_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored = entry("int8-a", map=0.4, host="CPU 1")
    timed = entry("int8-a", latency=latency(1, 1, 1).model_copy(update={"host": "CPU 2"}))
    one, two = shard(tmp_path / "one", scored), shard(tmp_path / "two", timed)
    assert cli.main(["merge", str(one), str(two), "--to", str(tmp_path / "whole")]) == 0
    assert "the shards were measured on several hosts: CPU 1; CPU 2" in capsys.readouterr().err
    (both,) = results.read(tmp_path / "whole" / "results.json").entries
    assert both.host == "CPU 1" and both.latency is not None and both.latency.host == "CPU 2"
    for name in ("summary.md", "report.html"):
        text = (tmp_path / "whole" / name).read_text()
        assert "Measured on several hosts." in text
        assert "CPU 1: toy-int8-a on cpu (accuracy)" in text and "CPU 2: toy-int8-a on cpu (timing)" in text


@pytest.mark.parametrize("reverse", [False, True])
def test_accuracy_of_two_processors_is_not_mixed(tmp_path: Path, reverse: bool) -> None:
    """The graver one's stands, with what only the other one measured of it left out; a timing is kept."""
    good = entry("int8-a", map=0.4, ar=0.5, host="CPU 1", latency=latency(1, 1, 1))
    bad = entry("int8-a", map=0.3, host="CPU 2", status=Status.FAILED, reason="drop")
    shards = [shard(tmp_path / "one", good), shard(tmp_path / "two", bad)]
    if reverse:
        shards.reverse()
    assert cli.main(["merge", *map(str, shards), "--to", str(tmp_path / "whole")]) == 0
    (both,) = results.read(tmp_path / "whole" / "results.json").entries
    assert (both.map, both.ar, both.host, both.status, both.reason) == (0.3, None, "CPU 2", Status.FAILED, "drop")
    assert both.latency is not None


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"artifact": ArtifactRecord(path="m.onnx", sha256="b" * 64, bytes=10)}, "another artifact"),
        ({"dataset_digest": "two"}, "another dataset_digest"),
        ({"images": 7}, "another images"),
    ],
)
def test_shards_of_different_things_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any], said: str
) -> None:
    one = shard(tmp_path / "one", entry("int8-a", map=0.4, dataset_digest="one", images=6))
    two = shard(tmp_path / "two", entry("int8-a", **other))
    assert cli.main(["merge", str(one), str(two), "--to", str(tmp_path / "whole")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "whole").exists()


def test_runs_are_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = shard(tmp_path / "one", entry("fp32", map=0.5))
    assert cli.main(["merge", str(one), "--to", str(one)]) == 2
    assert "runs are never replaced" in capsys.readouterr().err
