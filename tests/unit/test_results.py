"""results.json and summary.md: what a run leaves for people and programs."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lowbit import host, results
from lowbit.errors import InputError
from lowbit.host import GpuState
from lowbit.report import summary
from lowbit.results import ArtifactRecord, Entry, FootprintRecord, LatencyRecord, ProcessSpeedupRecord, Results, Status

ENVIRONMENT = {
    "python": "3.11.7",
    "packages": {"onnxruntime-gpu": "1"},
    "host": "a CPU",
    "cpu": {"model_name": "a CPU", "instruction_sets": ["avx2"], "threads": 2},
}


def latency(speedup: float, low: float, high: float) -> LatencyRecord:
    return LatencyRecord(
        p50=0.01,
        p90=0.01,
        p95=0.01,
        p99=0.01,
        mean=0.01,
        rounds=10,
        throughput=100.0,
        speedup=speedup,
        speedup_ci=(low, high),
        host="a CPU",
    )


def entry(scheme: str, drop: float | None = 0.0, **more: Any) -> Entry:
    return Entry(detector="toy", scheme=scheme, map=0.5, drop=drop, images=10, dataset="val", **more)


def file_of(megabytes: float) -> ArtifactRecord:
    return ArtifactRecord(path="m.onnx", sha256="a" * 64, bytes=round(megabytes * 1e6))


def run(*entries: Entry) -> Results:
    return Results(schema=results.SCHEMA, run_id="r1", started="now", environment=ENVIRONMENT, entries=list(entries))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    first = run(entry("fp32"), entry("int8-modelopt-max", 0.0123, drop_ci=(0.01, 0.02), status=Status.FAILED))
    first.write(path)
    assert results.read(path) == first
    data = json.loads(path.read_text())
    assert data["schema"] == results.SCHEMA == 19
    assert data["entries"][0]["latency"] is None


def damage(data: dict[str, Any], change: str) -> bytes:
    if change == "unknown field":
        data["entries"][0]["surprise"] = 1
    elif change == "nan":
        return json.dumps(data).replace("0.5", "NaN").encode()
    elif change == "status":
        data["entries"][0]["status"] = "splendid"
    elif change == "no entries":
        del data["entries"]
    elif change == "half":
        return json.dumps(data).encode()[:100]
    elif change == "bytes":
        return b"\xff\x00"
    elif change == "list":
        return b"[]"
    return json.dumps(data).encode()


@pytest.mark.parametrize("change", ["unknown field", "nan", "status", "no entries", "half", "bytes", "list"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, change: str) -> None:
    path = tmp_path / "results.json"
    run(entry("fp32")).write(path)
    path.write_bytes(damage(json.loads(path.read_text()), change))
    with pytest.raises(InputError, match=rf"results\.json: is no results\.json of schema {results.SCHEMA} or older"):
        results.read(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json: cannot be read .* Run the gate first"):
        results.read(tmp_path / "nowhere.json")


def test_run_ids_never_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowbit.results.time.strftime", lambda *_: "20260101-000000")
    made = []
    for _ in range(3):
        made.append(results.new_run_id(tmp_path))
        (tmp_path / made[-1]).mkdir()
    assert made == [f"20260101-000000-{os.getpid()}{suffix}" for suffix in ("", "-2", "-3")]


def test_latest_follows_runs_and_spares_a_real_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        results.point_latest(tmp_path, name)
        assert (tmp_path / "latest").resolve().name == name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "one", "two"]
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "mine").touch()
    results.point_latest(tmp_path, "one")
    assert (tmp_path / "latest" / "mine").exists()


def test_the_summary_keeps_its_tables_and_is_no_html() -> None:
    bad = entry("int8-ort-minmax", 0.5, status=Status.FAILED, reason="<script>|alert\nsecond line")
    text = summary.markdown(run(entry("fp32"), bad))
    assert "<script>" not in text and "&lt;script>\\|alert" in text and "second line" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| int8-ort-minmax")]
    assert row.count("|") == 9


def test_the_heading_names_the_host() -> None:
    """What ran on the CPU of a machine with a GPU is not of another machine."""
    plain = summary.markdown(run(entry("fp32")))
    assert plain.splitlines()[2] == "Measured on a CPU."
    both = [entry("fp32", host="a CPU"), entry("fp32", provider="cuda", host="a CPU, a GPU")]
    assert summary.markdown(run(*both)).splitlines()[2] == "Measured on a CPU, a GPU."
    # Timed on "a CPU", which is all that was written.
    timed = entry("int8-a", host="another CPU", latency=latency(1, 1, 1))
    text = summary.markdown(run(timed))
    assert "Measured on several hosts." in text
    assert "- another CPU: toy-int8-a on cpu (accuracy)" in text and "- a CPU: toy-int8-a on cpu (timing)" in text


def test_the_summary_has_every_skip_with_its_reason() -> None:
    skipped = [
        Entry(detector="toy", scheme=s, provider="cuda", status=Status.SKIPPED, reason="no GPU") for s in ("a", "b")
    ]
    text = summary.markdown(run(entry("fp32"), *skipped))
    assert "- no GPU: a (cuda), b (cuda)" in text
    assert "on cuda" not in text


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry("fp32"), entry("int8-a", 0.02, status=Status.FAILED)], "**Ship `fp32`**: no quantized"),
        (
            # int8-b is a little slower, but not surely, and loses less.
            [
                entry("fp32", latency=latency(1, 1, 1)),
                entry("int8-a", 0.008, latency=latency(1.30, 1.25, 1.35)),
                entry("int8-b", 0.002, latency=latency(1.28, 1.22, 1.33)),
                entry("int8-c", 0.000, latency=latency(1.10, 1.05, 1.15)),
            ],
            "**Ship `int8-b`** on this machine: no other scheme within its threshold is faster beyond the 95 % CI, and of "
            "those as fast this one loses least. It costs 0.20 points of AP, runs at 1.28x the speed of FP32 [1.22, 1.33].",
        ),
        (
            [entry("fp32"), entry("int8-a", 0.003, latency=latency(0.9, 0.8, 0.95)), entry("int8-b", 0.001)],
            "**`int8-b`** loses least; none of those within their threshold is faster than FP32 here. It costs 0.10 points",
        ),
        ([entry("fp32"), entry("int8-a", 0.003)], "latency was not measured. It costs 0.30 points of AP."),
        (
            [
                entry("fp32", artifact=file_of(9.2)),
                entry("int8-a", 0.003, drop_ci=(0.001, 0.005), artifact=file_of(2.4)),
            ],
            "It costs 0.30 points of AP [0.10, 0.50] and takes 2.40 MB instead of 9.20.",
        ),
        ([entry("int8-a", None)], "No accuracy was measured"),
        (
            [entry("fp32"), entry("int8-a", 0.003, status=Status.INCONCLUSIVE)],
            "its one-sided 95 % bounds lie on both sides of a limit, so judge it on more images first.",
        ),
    ],
)
def test_what_is_recommended(entries: list[Entry], expected: str) -> None:
    assert expected in summary.recommend(entries)


OLD = Path(__file__).parent / "data" / "results_schema_1.json"


def test_a_file_of_schema_1_is_read(tmp_path: Path) -> None:
    """Written by a release of that time, but for the GPU's state, which a machine with one adds."""
    found = results.read(OLD)
    assert found.schema_version == results.SCHEMA
    assert [(e.scheme, e.map) for e in found.entries if e.map is not None] == [("fp32", 1.0), ("int8-ort-minmax", 1.0)]
    assert found.environment["host"] == found.entries[1].host == "AMD EPYC, 2 threads"
    cpu = found.environment["cpu"]
    assert (cpu["model_name"], cpu["threads"], cpu["instruction_sets"]) == ("AMD EPYC", 2, None)
    assert summary.markdown(found).splitlines()[2] == "Measured on AMD EPYC, 2 threads."
    quantized = found.entries[1].latency
    assert quantized is not None and quantized.gpu_state == [
        GpuState(None, 1980, 1980, 34, 112.96, ["sw_power_cap"]),
        GpuState(None, 1755, 1980, 41, None, None),
    ]
    found.write(tmp_path / "results.json")
    assert results.read(tmp_path / "results.json") == found


def test_one_larger_batch_becomes_a_list_of_one() -> None:
    """Schema 1 to 17."""
    latency = results.read(OLD).entries[1].latency
    assert latency is not None and latency.batched is not None
    assert [(one.batch, one.p50) for one in latency.batched] == [(8, None)] and latency.batched[0].throughput > 0


def test_fields_that_were_renamed_are_read(tmp_path: Path) -> None:
    data = json.loads(run(entry("int8-a", 0.1, class_drops={"pictures": 0.1})).model_dump_json(by_alias=True))
    shown = {"file": "a.jpg", "image": "a", "lost": 1, "gained": 0}
    del data["entries"][0]["changed_images"]
    data["entries"][0]["pictures"] = [shown]
    layer = {"layer": "a", "score": 1.0, "rank": 1, "graph_rank": 1, "alone_db": 2.0, "spared_db": 3.0}
    sweep = {"detector": "toy", "combination": "int8", "images": 1, "graph_images": 1, "rank_correlation": 1.0}
    data |= {"schema": 8, "sweeps": [{**sweep, "layers": [layer]}]}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    found = results.read(path)
    assert found.entries[0].changed_images == [results.ChangedImage(**shown)]
    assert found.entries[0].class_drops == {"pictures": 0.1}
    assert found.sweeps[0].layers[0].leave_one_out_db == 3.0


def test_old_shards_do_not_say_which_of_them_measured_what(tmp_path: Path) -> None:
    data = json.loads(OLD.read_text())
    data["environment"] |= {"shards": 2, "others": [{**data["environment"], "gpu": {"name": "H100"}}]}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    found = results.read(path)
    assert found.entries[0].host is None
    assert found.environment["others"][0]["host"] == "AMD EPYC, 2 threads, H100"


def test_this_machine_is_described() -> None:
    found = results.environment()
    assert found["host"] == host.name()
    assert found["cpu"] == dataclasses.asdict(host.processor())


@pytest.mark.parametrize("schema", [0, results.SCHEMA + 1, "2", None])
def test_an_unknown_schema_is_refused(tmp_path: Path, schema: object) -> None:
    path = tmp_path / "results.json"
    run(entry("fp32")).write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": schema}))
    with pytest.raises(InputError, match=rf"schema {schema} is unknown, this lowbit reads 1 to {results.SCHEMA}"):
        results.read(path)


@pytest.mark.parametrize("state", [1, "hot", [], {"clocks.sm": [1]}, {"clocks_throttle_reasons.active": "9x"}])
def test_a_damaged_old_file_is_refused_by_name(tmp_path: Path, state: object) -> None:
    data = json.loads(OLD.read_text())
    data["entries"][1]["latency"]["gpu_state"] = [state, 1]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=rf"results\.json: is no results\.json of schema {results.SCHEMA} or older"):
        results.read(path)


def test_the_summary_says_what_deploying_costs() -> None:
    footprint = FootprintRecord(
        load_seconds=0.126, memory_bytes=41_600_000, peak_rss_bytes=120_000_000, processes=3, host="a CPU"
    )
    speed = ProcessSpeedupRecord(
        ratio=1.9, interval=(1.7, 2.12), bounds=(1.76, 2.05), by_process=(1.8, 1.9, 2.0), host="a CPU"
    )
    found = [entry("fp32", footprint=footprint), entry("int8-a", 0.0, footprint=footprint, process_speedup=speed)]
    assert summary.costs(found) == [
        "Memory that loading and running adds to a process, and load time: `fp32` 42 MB, 0.13 s; `int8-a` 42 MB, 0.13 s",
        "`int8-a` over 3 processes: 1.90x the speed of FP32, 95 % CI [1.70, 2.12]; at least 1.76x by the one-sided 95 % bound",
    ]
    assert summary.costs([entry("fp32")]) == []
    assert all(f"- {line}" in summary.markdown(run(*found)) for line in summary.costs(found))


@pytest.mark.parametrize(("schema", "given", "confidence"), [(13, None, 0.25), (14, 0.4, 0.4)])
def test_recall_of_older_files_is_that_at_a_quarter(
    tmp_path: Path, schema: int, given: float | None, confidence: float
) -> None:
    path = tmp_path / "results.json"
    run(entry("fp32", recall=0.5, confidence=given), entry("int8-a", None)).write(path)
    data = json.loads(path.read_text()) | {"schema": schema}
    path.write_text(json.dumps(data))
    assert [one.confidence for one in results.read(path).entries] == [confidence, None]
