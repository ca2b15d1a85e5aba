"""The store: once, whole, and after any fault right again."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lowbit import files, worker
from lowbit.artifact import MANIFEST, MODEL
from lowbit.data.letterbox import InputSpec
from lowbit.errors import BuildError, InputError, LowbitError, StoreError
from lowbit.store.key import BuildRequest
from lowbit.store.store import Store
from tests.unit.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
FAULTS = {
    "raise": "the tool's own trouble",
    "kill": "SIGKILL",
    "hog": "MemoryError",
    "half": "SIGKILL",
    "exit": "exit status 7",
    "silent": "wrote no model.onnx",
}


@pytest.fixture(autouse=True)
def _fake_tool_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", timeout=PATIENCE)


def request_for(tmp_path: Path, what: str = "good", **changes: Any) -> BuildRequest:
    settings = {"what": what, "count": str(tmp_path / "count")}
    source = tmp_path / "source"
    if not source.exists():
        source.write_bytes(b"weights")
    request = BuildRequest(
        "tests.unit.fake_tool", "toy", settings, source, {"sha256": files.sha256(source)}, InputSpec(64)
    )
    return dataclasses.replace(request, **changes)


def builds(tmp_path: Path) -> int:
    return len(workers(tmp_path))


def workers(tmp_path: Path) -> list[Path]:
    """The processes that build or have built, as long as they live."""
    count = tmp_path / "count"
    return [Path("/proc", line) for line in count.read_text().splitlines()] if count.exists() else []


def left_over(store: Store) -> list[Path]:
    partial = store.root / "partial"
    return list(partial.iterdir()) if partial.exists() else []


def test_a_build_has_the_threads_that_the_process_began_with(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ultralytics sets OMP_NUM_THREADS to 1 when something imports it, and sums in torch depend on the threads."""
    began_with = os.environ.get("OMP_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    built = store.get(request_for(tmp_path, "threads"))
    assert built.path.read_text() == str(worker.BEGAN_WITH.get("OMP_NUM_THREADS")) != "7"
    assert worker.BEGAN_WITH.get("OMP_NUM_THREADS") in (began_with, None)


def test_builds_once_with_a_manifest(store: Store, tmp_path: Path) -> None:
    request = request_for(tmp_path)
    first, second = store.get(request), store.get(request)
    assert (first.built, second.built, builds(tmp_path)) == (True, False, 1)
    assert first.path.read_bytes() == b"an artifact of toy"
    assert second.manifest["said"] == "well done"
    assert second.manifest["tool_versions"]["numpy"]
    assert second.manifest["peak_rss_bytes"] > 1e6
    assert "the fake tool starts" in first.log.read_text()
    assert not left_over(store)


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"what": "good", "count": "elsewhere"}},
        {"identity": {"sha256": "1"}},
        {"calibration_digest": "other images"},
        {"input": InputSpec(128)},
        {"scheme": "other"},
        {"measured_on": {"model": 1}},
        {"training": (Path("a.png"),), "training_digest": "other images"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_key_knows_all_that_shapes_an_artifact(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert request_for(tmp_path, **changes).key != request_for(tmp_path).key


@pytest.mark.parametrize(
    "changes", [{"source": Path("/elsewhere")}, {"trust": True}], ids=lambda changes: next(iter(changes))
)
def test_the_key_does_not_know_what_shapes_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert request_for(tmp_path, **changes).key == request_for(tmp_path).key


def test_a_source_that_changes_after_its_key_was_made_builds_nothing(store: Store, tmp_path: Path) -> None:
    request = request_for(tmp_path)
    assert request.key
    request.source.write_bytes(b"other weights")
    with pytest.raises(InputError, match=f"{request.source}: changed while it was read"):
        store.get(request)
    assert builds(tmp_path) == 0


@pytest.mark.parametrize("what", ["read", "refuse source"])
def test_a_tool_reads_a_copy_of_its_own_that_is_not_kept(store: Store, tmp_path: Path, what: str) -> None:
    request = request_for(tmp_path, what)
    if what == "read":
        artifact = store.get(request)
        assert artifact.path.read_bytes() == b"weights"
        assert {path.name for path in artifact.path.parent.iterdir()} == {MODEL, MANIFEST, "build.log"}
        assert Path(artifact.manifest["read_from"]) != request.source
        return
    with pytest.raises(InputError, match=f"^{request.source}: is unfit"):
        store.get(request)


@pytest.mark.parametrize(("what", "said"), FAULTS.items())
def test_a_failed_build_is_an_error_with_its_log_and_nothing_more(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, said: str
) -> None:
    request = request_for(tmp_path, what)
    with pytest.raises(BuildError, match=said) as caught:
        store.get(request)
    if what != "silent":
        assert "the fake tool starts" in str(caught.value)
    assert not left_over(store)
    assert not (store.root / "artifacts" / request.key).exists()
    monkeypatch.setenv("LOWBIT_TEST_GOOD", "1")
    assert Store(store.root, timeout=30).get(request).built


@pytest.mark.parametrize("what", ["raise", "refuse", "hang"])
def test_a_failure_is_remembered_for_the_run_and_tried_again_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    request = request_for(tmp_path, what)
    store = Store(tmp_path / "store", timeout=2 if what == "hang" else 30)
    said = []
    for _ in range(3):
        with pytest.raises((BuildError, InputError)) as caught:
            store.get(request)
        said.append((type(caught.value), str(caught.value)))
    assert builds(tmp_path) == 1 and len(set(said)) == 1
    if what != "refuse":
        log = Path(said[0][1].rpartition("The whole log: ")[2])
        assert "the fake tool starts" in log.read_text()
    monkeypatch.setenv("LOWBIT_TEST_GOOD", "1")
    assert Store(store.root, timeout=30).get(request).built


def test_what_another_process_built_meanwhile_counts_more_than_a_failure(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(tmp_path, "raise")
    with pytest.raises(BuildError):
        store.get(request)
    monkeypatch.setenv("LOWBIT_TEST_GOOD", "1")
    Store(store.root, timeout=30).get(request)
    assert not store.get(request).built


def test_a_lock_is_given_back_whatever_happens(store: Store) -> None:
    other = Store(store.root, timeout=0.1)
    with pytest.raises(RuntimeError), store.lock("a"):
        with pytest.raises(StoreError, match="another process has held this lock"), other.lock("a"):
            pass
        raise RuntimeError
    with other.lock("a"):
        pass


def test_folders_and_links_that_a_tool_leaves_are_not_kept(store: Store, tmp_path: Path) -> None:
    folder = store.get(request_for(tmp_path, "litter")).path.parent
    assert {path.name for path in folder.iterdir()} == {MODEL, MANIFEST, "build.log"}
    assert (tmp_path / "source").is_file()


def test_a_file_of_the_artifact_that_is_damaged_is_noticed(store: Store, tmp_path: Path) -> None:
    """A later artifact starts from what lies beside the model."""
    request = request_for(tmp_path, "beside")
    folder = store.get(request).path.parent
    assert not store.get(request).built
    (folder / "beside.bin").write_bytes(b"other weights")
    assert store.get(request).built
    (folder / "beside.bin").unlink()
    assert store.get(request).built


def test_bad_input_stays_bad_input(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this input is unfit"):
        store.get(request_for(tmp_path, "refuse"))


def test_a_hanging_build_is_stopped(tmp_path: Path) -> None:
    """Without an end of its own: that the call returns at all is the proof, and that no worker lives on."""
    store = Store(tmp_path / "store", timeout=2)
    with pytest.raises(BuildError, match="longer than 2 s"):
        store.get(request_for(tmp_path, "hang"))
    # On a slow machine the worker was stopped before it could say its number.
    assert not any(worker.exists() for worker in workers(tmp_path))
    assert not left_over(store)
    assert not list((store.root / "unfinished").iterdir())


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / MODEL).read_bytes())
    data[3] ^= 1
    (folder / MODEL).write_bytes(data)


def truncate_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:50])


def lead_out_of_the_store(folder: Path) -> None:
    outside = folder.parents[2] / "outside"
    (folder).rename(outside)
    folder.symlink_to(outside)


def manifest_of_another_key(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "key": "another"}))


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        truncate_manifest,
        lead_out_of_the_store,
        manifest_of_another_key,
        lambda folder: (folder / MODEL).unlink(),
        lambda folder: (folder / MODEL).write_bytes(b""),
        lambda folder: (folder / MANIFEST).write_text("[]"),
    ],
)
def test_a_damaged_artifact_is_noticed_and_built_again(store: Store, tmp_path: Path, damage: Any) -> None:
    request = request_for(tmp_path)
    good = store.get(request).path.read_bytes()
    damage(store.root / "artifacts" / request.key)
    again = store.get(request)
    assert again.built
    assert again.path.read_bytes() == good
    assert not again.path.parent.is_symlink()
    assert not store.get(request).built


def test_what_a_link_pointed_to_is_kept(store: Store, tmp_path: Path) -> None:
    request = request_for(tmp_path)
    store.get(request)
    lead_out_of_the_store(store.root / "artifacts" / request.key)
    store.get(request)
    assert (tmp_path / "outside" / MODEL).is_file()


def test_two_at_once_build_once(store: Store, tmp_path: Path) -> None:
    """Two stores with locks of their own, as two processes have them."""
    request = request_for(tmp_path, "slow")
    other = Store(store.root, timeout=PATIENCE)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda s: s.get(request), [store, other]))
    assert sorted(artifact.built for artifact in found) == [False, True]
    assert builds(tmp_path) == 1


def test_ctrl_c_ends_the_build_and_the_next_run_is_right(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.unit.test_store import *\n"
        "root = Path(sys.argv[1]); Store(root / 'store', timeout=PATIENCE).get(request_for(root, 'hang'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE)
    wait_until(lambda: builds(tmp_path))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert b"KeyboardInterrupt" in said
    store = Store(tmp_path / "store", timeout=PATIENCE)
    assert not left_over(store)
    os.environ["LOWBIT_TEST_GOOD"] = "1"
    try:
        assert store.get(request_for(tmp_path, "hang")).built
    finally:
        del os.environ["LOWBIT_TEST_GOOD"]


def test_a_killed_caller_takes_its_build_with_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.unit.test_store import *\n"
        "root = Path(sys.argv[1]); Store(root / 'store', timeout=PATIENCE).get(request_for(root, 'hang'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    wait_until(lambda: builds(tmp_path))
    (worker,) = workers(tmp_path)
    assert worker.exists()
    process.kill()
    process.wait(timeout=PATIENCE)
    wait_until(lambda: not worker.exists())


def test_a_build_resumes_from_what_it_left(store: Store, tmp_path: Path) -> None:
    request = request_for(tmp_path, "resume")
    unfinished = store.root / "unfinished"
    with pytest.raises(BuildError, match="SIGKILL"):
        store.get(request)
    assert (unfinished / request.key / "state").is_file()
    assert Store(store.root, timeout=30).get(request).path.read_text() == "half of the work"
    assert not list(unfinished.iterdir())


def test_two_processes_build_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.unit.test_store import *\n"
        "root = Path(sys.argv[1]); print(Store(root / 'store', timeout=PATIENCE).get(request_for(root, 'slow')).built)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate(timeout=PATIENCE)[0].strip() for process in both) == ["False", "True"]
    assert builds(tmp_path) == 1


def test_a_clock_that_jumps_changes_nothing(store: Store, tmp_path: Path) -> None:
    """Files from the future and from 1980 are judged by their content."""
    request = request_for(tmp_path)
    folder = store.get(request).path.parent
    for moment in (4e9, 3.2e8):
        for file in folder.iterdir():
            os.utime(file, (moment, moment))
        assert not store.get(request).built


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; tests that need it skip where mounting is not allowed."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"can't mount a small file system: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_fails_one_build_and_loses_nothing(tiny_disk: Path, tmp_path: Path) -> None:
    store = Store(tiny_disk, timeout=PATIENCE)
    kept = store.get(request_for(tmp_path))
    big = request_for(tmp_path, "good", scheme="x" * 100_000)
    with pytest.raises(LowbitError):
        store.get(big)
    assert not store.get(request_for(tmp_path)).built
    assert kept.path.read_bytes() == b"an artifact of toy"
    assert not left_over(store)
    with pytest.raises(StoreError, match="MiB are free"):
        store.check()


def test_a_read_only_store_serves_what_it_has_and_says_what_it_cannot(tiny_disk: Path, tmp_path: Path) -> None:
    store = Store(tiny_disk, timeout=PATIENCE)
    store.get(request_for(tmp_path))
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    assert not store.get(request_for(tmp_path)).built
    with pytest.raises(StoreError, match="Read-only"):
        store.get(request_for(tmp_path, scheme="other"))
    with pytest.raises(StoreError, match="Read-only"):
        store.check()


def test_a_store_that_cannot_be_written_says_so() -> None:
    with pytest.raises(StoreError, match="/proc/lowbit"):
        Store(Path("/proc/lowbit")).check()


def test_a_full_disk_says_so(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowbit.store.store._MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(StoreError, match="MiB are free"):
        store.check()
