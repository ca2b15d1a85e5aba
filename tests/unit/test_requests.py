"""What the store is asked for each kind of artifact, and what its key depends on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from lowbit import host
from lowbit.artifact import Artifact
from lowbit.data.lists import load_calibration
from lowbit.detector import Detector, find_detector
from lowbit.quantize import tool
from lowbit.schemes import find_scheme
from lowbit.store.key import BuildRequest
from lowbit.store.requests import export_request, graph_request, torch_request
from tests.unit.toys import make_detector, make_images

PROCESSOR = host.Processor("x86_64", "AuthenticAMD", 25, 1, "AMD EPYC", ("avx2",), 2)
VNNI = dataclasses.replace(PROCESSOR, instruction_sets=("avx2", "avx512_vnni"))


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    make_images(tmp_path / "calibration", 2, 1)
    names = sorted(path.name for path in (tmp_path / "calibration").iterdir())
    (tmp_path / "calibration" / "list.txt").write_text("\n".join(names))
    return find_detector(str(make_detector(tmp_path / "toy.onnx")))


def request_of(tmp_path: Path, detector: Detector, scheme_id: str) -> BuildRequest:
    scheme, calibration = find_scheme(scheme_id), load_calibration(tmp_path / "calibration" / "list.txt")
    if tool(scheme.tool).takes_checkpoint:
        return torch_request(scheme, detector, calibration)
    artifact = Artifact(detector.source, "f" * 64, {"key": "0" * 40}, built=False)
    return graph_request(scheme, artifact, detector.input, calibration)


@pytest.mark.parametrize(
    ("scheme", "measured"),
    [
        ("mixed-ort-d1.0", True),
        ("mixed-native-d0.5", True),
        ("mixed-brevitas-d1.0", True),
        ("mixed-brevitas-b6.0", False),
        ("int8-ort-minmax", False),
        ("int8-modelopt-k5", False),
    ],
)
def test_what_a_search_ran_on_counts(
    tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, scheme: str, measured: bool
) -> None:
    keys = []
    for processor in (PROCESSOR, VNNI, dataclasses.replace(PROCESSOR, threads=64)):
        monkeypatch.setattr(host, "processor", lambda processor=processor: processor)
        keys.append(request_of(tmp_path, detector, scheme).key)
    assert keys[0] == keys[2]
    assert (keys[0] != keys[1]) is measured


def test_one_scheme_has_one_key(tmp_path: Path, detector: Detector) -> None:
    one, other = (request_of(tmp_path, detector, f"mixed-native-d1.{zeros}") for zeros in ("0", "00"))
    assert one.key == other.key


@pytest.mark.parametrize("changes", [{"name": "yours"}, {"trust": True}], ids=lambda changes: next(iter(changes)))
@pytest.mark.parametrize("scheme", ["fp32", "w4a16-brevitas-channel"])
def test_a_name_and_trust_do_not_count(
    tmp_path: Path, detector: Detector, scheme: str, changes: dict[str, Any]
) -> None:
    other = dataclasses.replace(detector, **changes)
    keys = [
        (export_request(one) if scheme == "fp32" else request_of(tmp_path, one, scheme)).key
        for one in (detector, other)
    ]
    assert keys[0] == keys[1]


def test_packages_that_lists_by_hand_forgot(tmp_path: Path, detector: Detector) -> None:
    versions = request_of(tmp_path, detector, "int8-ort-minmax").ingredients["tool_versions"]
    assert {"opencv-python", "onnxslim", "ml_dtypes", "onnxruntime-gpu"} <= versions.keys() and all(versions.values())
