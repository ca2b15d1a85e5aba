"""``lowbit doctor ARTIFACT``."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from lowbit import cli, graph
from lowbit.data.letterbox import InputSpec, preprocess
from lowbit.measure import comparison, emulation
from tests.unit.saturating import SIDE, artifact


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A list of two bright images."""
    rng = np.random.default_rng(0)
    for number in range(2):
        pixels = rng.integers(180, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
    listing = tmp_path / "images.txt"
    listing.write_text("0.png\n1.png\n")
    return listing


def _written(folder: Path, model: onnx.ModelProto) -> str:
    path = folder / "artifact.onnx"
    onnx.save(model, str(path))
    return str(path)


def test_the_doctor_says_what_saturates_and_what_it_changes(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = artifact(127)
    assert cli.main(["doctor", _written(tmp_path, model), "--images", str(images)]) == 0
    said = capsys.readouterr().out
    tensors = [preprocess(tmp_path / f"{number}.png", InputSpec(SIDE))[0] for number in range(2)]
    first = emulation.saturating_layers(model, tensors)[0]
    assert f"| `{first.name}` | QLinearConv | {first.allowed} | {first.seen} |" in said
    exact, lossy = (emulation.emulate(model, tensors, vnni=vnni) for vnni in (True, False))
    loss = comparison.compare_heads(exact, lossy).sqnr_db
    assert loss < 25
    assert f"SQNR {loss:.1f} dB" in said
    assert "depthwise" not in said


def test_nothing_is_lost_on_dark_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "dark.png"), np.full((SIDE, SIDE, 3), 5, np.uint8))
    listing = tmp_path / "images.txt"
    listing.write_text("dark.png\n")
    assert cli.main(["doctor", _written(tmp_path, artifact(127)), "--images", str(listing)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("0 of 2 layers")
    assert "Nothing saturated on these images" in said


def test_small_weights_need_no_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", _written(tmp_path, artifact(64))]) == 0
    assert "No layer can saturate. In none of 3 integer" in capsys.readouterr().out


def test_what_runs_in_float_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = artifact(127)
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    assert graph.head_outputs(model) == []
    assert cli.main(["doctor", _written(tmp_path, model)]) == 2
    assert "artifact.onnx: has no convolution or matrix product" in capsys.readouterr().err


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.onnx"
    path.write_text("no ONNX")
    assert cli.main(["doctor", str(path)]) == 2
    assert "notes.onnx: is no valid ONNX model" in capsys.readouterr().err


def test_images_are_asked_for_where_the_bundled_ones_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", _written(tmp_path, artifact(127))]) == 2
    assert f"takes images of {SIDE} x {SIDE} pixels, and the bundled ones have 320" in capsys.readouterr().err


def test_images_alone_are_refused(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--images", str(images)]) == 2
    assert "--images" in capsys.readouterr().err
