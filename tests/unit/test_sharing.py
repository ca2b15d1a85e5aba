"""Stores on other file systems: an object store in memory and a folder, both through fsspec."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from lowbit import cli
from lowbit.data.letterbox import InputSpec
from lowbit.errors import InputError, StoreError
from lowbit.store import sharing
from lowbit.store.artifact import MANIFEST
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
                identity={"sha256": "s"},
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
