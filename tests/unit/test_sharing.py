"""Stores on other file systems: an object store in memory and a folder, both through fsspec."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from lowbit import cli, files
from lowbit.artifact import MANIFEST
from lowbit.data.letterbox import InputSpec
from lowbit.errors import InputError, StoreError
from lowbit.store import sharing
from lowbit.store.key import BuildRequest
from lowbit.store.store import Store


@pytest.fixture
def built(tmp_path: Path) -> Store:
    """A store with two artifacts."""
    store = Store(tmp_path / "store")
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    for scheme in ("int8-ort-one", "int8-ort-two"):
        store.get(
            BuildRequest(
                tool="tests.unit.fake_tool",
                scheme=scheme,
                settings={"count": str(tmp_path / "count")},
                source=source,
                identity={"sha256": files.sha256(source)},
                input=InputSpec(64),
            )
        )
    return store


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/shared"
        return
    yield "memory://bucket/lowbit"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def keys(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "artifacts").iterdir())


def test_what_is_pushed_is_pulled_whole_and_once(built: Store, url: str, tmp_path: Path) -> None:
    assert sharing.push(built, url) == 2
    assert sharing.push(built, url) == 0
    other = Store(tmp_path / "other")
    assert sharing.pull(other, url) == 2
    assert sharing.pull(other, url) == 0
    assert keys(other) == keys(built)
    for key in keys(built):
        one, two = built.root / "artifacts" / key, other.root / "artifacts" / key
        assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}
    assert not any((other.root / "partial").iterdir())


def test_half_an_artifact_is_not_there_yet(built: Store, url: str, tmp_path: Path) -> None:
    """The manifest goes last: an interrupted push leaves nothing that a pull takes, and the next push mends it."""
    sharing.push(built, url)
    system, place = fsspec.core.url_to_fs(url)
    first, second = keys(built)
    system.rm(f"{place}/artifacts/{first}/{MANIFEST}")
    other = Store(tmp_path / "other")
    assert sharing.pull(other, url) == 1 and keys(other) == [second]
    assert sharing.push(built, url) == 1
    assert sharing.pull(other, url) == 1 and keys(other) == [first, second]


def test_a_damaged_copy_is_refused(built: Store, url: str, tmp_path: Path) -> None:
    sharing.push(built, url)
    system, place = fsspec.core.url_to_fs(url)
    key = keys(built)[0]
    system.pipe_file(f"{place}/artifacts/{key}/model.onnx", b"something else")
    other = Store(tmp_path / "other")
    with pytest.raises(StoreError, match=f"artifact {key} is not what its manifest says"):
        sharing.pull(other, url)
    assert not (other.root / "artifacts").exists() or key not in keys(other)


def rewrite_manifest(url: str, key: str, changes: dict[str, object]) -> None:
    system, place = fsspec.core.url_to_fs(url)
    name = f"{place}/artifacts/{key}/{MANIFEST}"
    manifest = json.loads(system.cat_file(name))
    system.pipe_file(name, json.dumps({**manifest, **changes}).encode())


@pytest.mark.parametrize(
    "name", ["../../../escaped", "..", "", "/tmp/escaped", "below/escaped", "..\\escaped", "manifest.json"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(built: Store, url: str, tmp_path: Path, name: str) -> None:
    sharing.push(built, url)
    system, place = fsspec.core.url_to_fs(url)
    key = keys(built)[0]
    system.pipe_file(f"{place}/artifacts/escaped", b"x")
    listed = json.loads((built.root / "artifacts" / key / MANIFEST).read_text())["files"]
    rewrite_manifest(url, key, {"files": {**listed, name: hashlib.sha256(b"x").hexdigest()}})
    other = Store(tmp_path / "a" / "b" / "other")
    with pytest.raises(StoreError, match=f"artifact {key} is none that lowbit made .*no plain file name"):
        sharing.pull(other, url)
    assert not [path for path in (tmp_path / "a").rglob("*") if path.name == "escaped" or path.is_symlink()]
    assert not (other.root / "artifacts").exists()


def test_only_what_the_manifest_lists_is_pulled(built: Store, url: str, tmp_path: Path) -> None:
    sharing.push(built, url)
    system, place = fsspec.core.url_to_fs(url)
    key = keys(built)[0]
    system.pipe_file(f"{place}/artifacts/{key}/conftest.py", b"print('run')")
    system.makedirs(f"{place}/artifacts/{key}/below", exist_ok=True)
    system.pipe_file(f"{place}/artifacts/{key}/below/more", b"x")
    system.makedirs(f"{place}/artifacts/no-key", exist_ok=True)
    system.pipe_file(f"{place}/artifacts/no-key/{MANIFEST}", b"{}")
    other = Store(tmp_path / "other")
    assert sharing.pull(other, url) == 2
    assert keys(other) == keys(built)
    found = {path.name for path in (other.root / "artifacts" / key).iterdir()}
    assert found == {"model.onnx", MANIFEST, "build.log"}


@pytest.mark.parametrize("name", ["model.onnx", MANIFEST])
def test_a_link_on_the_other_side_is_refused(built: Store, tmp_path: Path, name: str) -> None:
    url = f"file://{tmp_path}/shared"
    sharing.push(built, url)
    key = keys(built)[0]
    link = tmp_path / "shared" / "artifacts" / key / name
    link.rename(tmp_path / "secret")
    link.symlink_to(tmp_path / "secret")
    other = Store(tmp_path / "other")
    with pytest.raises(StoreError, match=f"artifact {key} is none that lowbit made .{name} is no plain file"):
        sharing.pull(other, url)


@pytest.mark.parametrize("changes", [{"files": None}, {"files": []}, {"files": {}}, {"sha256": "0"}, {"key": "0" * 40}])
def test_a_manifest_of_something_else_is_refused(
    built: Store, url: str, tmp_path: Path, changes: dict[str, object]
) -> None:
    sharing.push(built, url)
    key = keys(built)[0]
    rewrite_manifest(url, key, changes)
    with pytest.raises(StoreError, match=f"artifact {key} is "):
        sharing.pull(Store(tmp_path / "other"), url)


def test_a_link_in_the_store_is_replaced_and_not_followed(built: Store, url: str, tmp_path: Path) -> None:
    sharing.push(built, url)
    other, key = Store(tmp_path / "other"), keys(built)[0]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("mine")
    (other.root / "artifacts").mkdir(parents=True)
    (other.root / "artifacts" / key).symlink_to(outside)
    assert sharing.pull(other, url) == 2
    assert not (other.root / "artifacts" / key).is_symlink()
    assert [path.name for path in outside.iterdir()] == ["kept"]


def test_a_damaged_artifact_is_not_pushed(built: Store, url: str) -> None:
    (built.root / "artifacts" / keys(built)[0] / "model.onnx").write_bytes(b"something else")
    assert sharing.push(built, url) == 1


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_an_address_that_nobody_knows(direction: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="nowhere://there: is no address that fsspec can open"):
        getattr(sharing, direction)(Store(tmp_path), "nowhere://there")
    assert cli.main(["store", direction, "nowhere://there"]) == 2
    assert "nowhere://there" in capsys.readouterr().err


def test_the_command_says_what_it_did(
    built: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{tmp_path}/shared"
    monkeypatch.setenv("LOWBIT_STORE", str(built.root))
    assert cli.main(["store", "push", url]) == 0
    shutil.rmtree(built.root)
    assert cli.main(["store", "pull", url]) == 0
    assert capsys.readouterr().out.splitlines() == [f"2 artifacts pushed to {url}", f"2 artifacts pulled from {url}"]
    assert len(keys(built)) == 2
