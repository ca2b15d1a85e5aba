"""Calibration lists: what is read, and what is refused with the file's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import load_calibration
from lowbit.errors import InputError
from tests.unit.data_files import calibration_of, draw


def test_calibration_list_is_relative_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "lists" / "x.png", 1)
    draw(tmp_path / "y.png", 2)
    (tmp_path / "lists" / "list.txt").write_text("# mine\n\n  x.png  \r\n  # not this one\n../y.png\n")
    monkeypatch.chdir(tmp_path)
    for path in (Path("lists/list.txt"), tmp_path / "lists" / "list.txt"):
        paths = load_calibration(path).paths
        assert [p.resolve() for p in paths] == [(tmp_path / "lists" / "x.png"), (tmp_path / "y.png")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such calibration list"),
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("# a\n  # b\n", "is empty"),
        ("x.png\ngone.png", r"gone\.png does not exist"),
        ("gone.png\nx.png\nlost.png", r"gone\.png and 1 more does not exist"),
        ("x.png\nx.png", "names an image twice"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ],
)
def test_bad_calibration_list(tmp_path: Path, text: str | bytes | None, said: str) -> None:
    draw(tmp_path / "x.png", 1)
    path = tmp_path / "list.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=rf"list\.txt: .*{said}"):
        load_calibration(path)


def test_calibration_line_too_long(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a" * 5000)
    with pytest.raises(InputError, match=r"list\.txt"):
        load_calibration(path)


@pytest.mark.parametrize("size", [32, 64])
def test_batches(tmp_path: Path, size: int) -> None:
    names = [draw(tmp_path / f"{n}.png", n).name for n in range(3)]
    batches = list(calibration_of(tmp_path, names).batches(InputSpec(size)))
    assert [(b.shape, b.dtype) for b in batches] == [((1, 3, size, size), np.float32)] * 3
    assert all(0 <= b.min() < b.max() <= 1 for b in batches)
    assert not np.array_equal(batches[0], batches[1])


def test_batches_are_streamed(tmp_path: Path) -> None:
    names = [draw(tmp_path / f"{n}.png", n).name for n in range(3)]
    batches = calibration_of(tmp_path, names).batches(InputSpec(32))
    (tmp_path / "1.png").unlink()
    assert next(batches).shape == (1, 3, 32, 32)
    with pytest.raises(InputError, match=r"1\.png"):
        next(batches)


def test_calibration_digest_knows_how_often_an_image_is_listed(tmp_path: Path) -> None:
    """Copies under other names count each: a calibration sees the image that often."""
    once = [draw(tmp_path / f"{n}.png", n).name for n in range(2)]
    (tmp_path / "copy.png").write_bytes((tmp_path / once[0]).read_bytes())
    lists = [once, [*once, "copy.png"], ["copy.png", *once], ["copy.png", once[1]]]
    digests = [calibration_of(tmp_path, names).digest for names in lists]
    assert len(set(digests[:3])) == 3 and digests[3] == digests[0]


def test_calibration_digest_knows_the_order(tmp_path: Path) -> None:
    names = [draw(tmp_path / f"{n}.png", n).name for n in range(2)]
    first = calibration_of(tmp_path, names).digest
    assert calibration_of(tmp_path, names[::-1]).digest != first
    for name in names:
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / "moved" / name).write_bytes((tmp_path / name).read_bytes())
    assert calibration_of(tmp_path / "moved", names).digest == first
