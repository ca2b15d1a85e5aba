"""Hashes and atomic writes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from lowbit import files
from lowbit.errors import StoreError


def _no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["replace", "fsync", "chmod"])
def test_a_failing_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "results.json"
    files.write_atomic(path, "old")
    monkeypatch.setattr(os, call, _no_space)
    with pytest.raises(StoreError) as caught:
        files.write_atomic(path, "new")
    assert str(path) in str(caught.value) and "No space left" in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]


def test_an_interrupted_write_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(tmp_path / "a", b"x")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("content", ["", "grüße\n", b"\x00\xff\r\n"])
def test_a_write_makes_folders_and_replaces_the_content(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "a" / "b" / "c"
    files.write_atomic(path, "something longer than what follows")
    files.write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(path.parent) == ["c"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_folder_in_the_way_is_a_store_error(tmp_path: Path) -> None:
    blocked = tmp_path / "plain" / "x"
    (tmp_path / "plain").write_text("a file, not a folder")
    (tmp_path / "folder").mkdir()
    for path in (blocked, tmp_path / "folder"):
        with pytest.raises(StoreError) as caught:
            files.write_atomic(path, b"x")
        assert str(path) in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["folder", "plain"]


def test_write_json_keeps_the_keys_order_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"b": 1, "a": [1.5, None]})
    assert list(json.loads(path.read_text())) == ["b", "a"]
    before = path.read_bytes()
    with pytest.raises(ValueError):
        files.write_json(path, {"a": float("nan")})
    assert path.read_bytes() == before


def test_digest_ignores_the_order_of_keys_only() -> None:
    value = {"a": 1, "b": {"c": [1, 2], "d": None}}
    assert files.digest(value) == files.digest({"b": {"d": None, "c": [1, 2]}, "a": 1})
    others = [
        {"a": 2, "b": {"c": [1, 2], "d": None}},
        {"a": "1", "b": {"c": [1, 2], "d": None}},
        {"a": 1, "b": {"c": [2, 1], "d": None}},
        {"a": 1, "b": {"c": [1, 2], "d": False}},
        {"a": 1, "b": {"c": [1, 2]}},
        {"a": 1, "b": {"c": [12], "d": None}},
    ]
    assert len({files.digest(v) for v in [value, *others]}) == 1 + len(others)


def test_digest_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError):
        files.digest(float("inf"))
    with pytest.raises(TypeError):
        files.digest({"a": object()})


@pytest.mark.parametrize("size", [0, 1, 63, 300_000])
def test_sha256_is_that_of_the_bytes(tmp_path: Path, size: int) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    (tmp_path / "a").write_bytes(data)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_check_writable_names_the_option() -> None:
    with pytest.raises(StoreError) as caught:
        files.check_writable(Path("/proc/x"), "--cache")
    assert "--cache" in str(caught.value) and "/proc/x" in str(caught.value)


def test_check_writable_leaves_nothing_behind(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "new", "--cache")
    assert not os.listdir(tmp_path / "new")
