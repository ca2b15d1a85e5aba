"""Checkpoints, the registry and somebody's ONNX files: what is read, and what is refused before it can do harm."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lowbit import files, graph
from lowbit.data.coco import load_coco
from lowbit.data.letterbox import InputSpec
from lowbit.detector import REGISTRY, Detector, assets_folder, find_detector, heads, rebuild
from lowbit.detector.checkpoint import TRUSTED_CHECKPOINTS, load_state
from lowbit.detector.declare import Declared
from lowbit.detector.heads.decoded import Decoded
from lowbit.detector.heads.end2end import End2End
from lowbit.detector.heads.raw import Raw
from lowbit.detector.registry import ASSETS_VARIABLE
from lowbit.errors import InputError, UnavailableError
from tests.unit.lazily import lazily
from tests.unit.toys import make_detector

torch, safetensors = lazily("torch"), lazily("safetensors.torch")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))


def test_what_is_unpickled_is_what_was_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody puts another file in its place as soon as its hash is known to be good."""
    path, marker = tmp_path / "yolov10n.pt", tmp_path / "marker"
    torch.save({"model": network()}, path)

    class Swapping(dict[str, str]):
        def __contains__(self, sha256: object) -> bool:
            path.write_bytes(pickle.dumps(Trap(marker)))
            return super().__contains__(sha256)

    monkeypatch.setattr("lowbit.detector.checkpoint.TRUSTED_CHECKPOINTS", Swapping({files.sha256(path): path.name}))
    assert load_state(path)["0.weight"].equal(network().state_dict()["0.weight"])
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ""])
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_unknown_pickle_is_refused_unread(tmp_path: Path, suffix: str, writer: str) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / f"model{suffix}"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Trap(marker)))
    else:
        torch.save({"model": Trap(marker)}, path)
    with pytest.raises(InputError, match=rf"{path.name}: is a pickle with the unknown sha256 {files.sha256(path)}"):
        load_state(path)
    assert not marker.exists()


def test_the_trap_works(tmp_path: Path) -> None:
    """Without this the test above could not fail."""
    marker = tmp_path / "marker"
    path = tmp_path / "model.pt"
    torch.save({"model": Trap(marker)}, path)
    with pytest.raises(InputError, match=r"model\.pt: holds no model, but a NoneType"):
        load_state(path, trust=True)
    assert marker.exists()


def test_known_hash_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt"
    torch.save({"model": network()}, path)
    with pytest.raises(InputError, match="unknown sha256"):
        load_state(path)
    monkeypatch.setitem(TRUSTED_CHECKPOINTS, files.sha256(path), "model.pt")
    assert load_state(path).keys() == network().state_dict().keys()


@pytest.mark.parametrize("form", ["model", "ema", "ema is None", "bare", "half"])
def test_trusted_pickle(tmp_path: Path, form: str) -> None:
    path = tmp_path / "model.pt"
    module = network()
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    other = torch.nn.Linear(2, 2)
    saved: dict[str, Any] = {
        "model": {"model": module},
        "ema": {"model": other, "ema": module},
        "ema is None": {"model": module, "ema": None},
        "bare": module,
        "half": {"model": module.half()},
    }
    torch.save(saved[form], path)
    state = load_state(path, trust=True)
    assert state.keys() == expected.keys()
    assert state["0.weight"].dtype == torch.float32
    assert state["1.num_batches_tracked"].dtype == torch.int64
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("content", [{"model": {"weight": 1}}, {"epoch": 3}, [1, 2], 7])
def test_pickle_without_a_model(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "model.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match=r"model\.pt: holds no model"):
        load_state(path, trust=True)


@pytest.mark.parametrize("content", [b"", b"no pickle", b"version https://git-lfs.github.com/spec/v1\n", "half", None])
def test_damaged_trusted_pickle(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "model.pt"
    if content == "half":
        torch.save({"model": network()}, path)
        path.write_bytes(path.read_bytes()[:500])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.pt"):
        load_state(path, trust=True)


def test_safetensors_in_half_precision(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"a": torch.tensor([0.5, -3.25], dtype=torch.float16), "steps": torch.tensor([3])}
    safetensors.save_file(tensors, path)
    state = load_state(path)
    assert state["a"].dtype == torch.float32
    assert state["a"].tolist() == [0.5, -3.25]
    assert state["steps"].dtype == torch.int64


@pytest.mark.parametrize("content", [b"", b"garbage garbage", b"\xff" * 64, "half", None])
def test_damaged_safetensors(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "model.safetensors"
    if content == "half":
        safetensors.save_file({"a": torch.ones(100)}, path)
        path.write_bytes(path.read_bytes()[:200])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_state(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"good": torch.ones(3), "bad.weight": torch.tensor([1.0, value])}, path)
    with pytest.raises(InputError, match=r"model\.safetensors: 'bad\.weight' holds NaN or infinity \(1 tensors\)"):
        load_state(path)


def test_a_pickle_named_safetensors_is_not_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_state(path, trust=True)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["", "yolov11n", "YOLOV10N", "model.pth", "some/folder"])
def test_unknown_detector(name: str) -> None:
    with pytest.raises(InputError, match="there is no detector") as caught:
        find_detector(name)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in REGISTRY)


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("name", ["yolov10n", "yolov10s", "yolov10m"])
def test_assets_not_set(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv(ASSETS_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(ASSETS_VARIABLE, value)
    assert assets_folder() is None
    with pytest.raises(UnavailableError, match=rf"{name}: \$LOWBIT_ASSETS is not set"):
        find_detector(name)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_assets_that_are_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / "assets"
    if kind == "file":
        path.touch()
    monkeypatch.setenv(ASSETS_VARIABLE, str(path))
    with pytest.raises(InputError, match=r"assets: \$LOWBIT_ASSETS is not a folder"):
        find_detector("yolov10n")


def test_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path))
    with pytest.raises(UnavailableError, match=r"yolov10n: no yolov10n\.safetensors or yolov10n\.pt in"):
        find_detector("yolov10n")
    (tmp_path / "yolov10n").mkdir()
    (tmp_path / "yolov10n" / "yolov10n.pt").touch()
    assert find_detector("yolov10n").source.name == "yolov10n.pt"
    (tmp_path / "yolov10n" / "yolov10n.safetensors").touch()
    detector = find_detector("yolov10n", trust=True)
    assert detector.source.name == "yolov10n.safetensors"  # which can't run code
    assert (detector.trust, find_detector("yolov10n").trust) == (True, False)
    assert (detector.input.size, detector.head.classes) == (640, 80)
    with pytest.raises(InputError, match=r"instances_val204\.json: no such annotation file"):
        detector.load_data(tmp_path)


def test_onnx_file(tmp_path: Path) -> None:
    path = make_detector(tmp_path / "toy.onnx")
    detector = find_detector(str(path))
    assert (detector.name, detector.input.size, detector.head.classes) == ("toy", 64, 2)
    assert (detector.source, detector.weights) == (path, None)
    assert detector.head == Raw((64, 64), 2)
    detector.export(tmp_path / "out.onnx")
    exported = onnx.load(str(tmp_path / "out.onnx"))
    assert exported.graph == onnx.load(str(path)).graph
    # What was declared of a head is not lost to those who read the export only.
    assert heads.recognise(tmp_path / "out.onnx", exported) == detector.head
    with pytest.raises(UnavailableError, match="torch-side schemes need a checkpoint"):
        detector.torch_module()


def test_random_detectors_are_seeded(tmp_path: Path) -> None:
    detector = find_detector("yolov10n@random")
    assert (detector.head.kind, detector.head.classes, detector.input.size) == ("end2end", 80, 640)
    one, two = (find_detector("yolov10n@random").torch_module().state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert detector.identity() != dataclasses.replace(detector, seed=2).identity()
    again = rebuild(detector.source, detector.identity(), trust=False)
    assert again.identity() == detector.identity()
    assert find_detector("yolov8n@random", size=320).head == Decoded((320, 320), 80)
    for name in ("yolov99n@random", "yolov8n-seg@random"):
        with pytest.raises(InputError, match=name):
            find_detector(name)


def test_an_ultralytics_checkpoint_is_recognised(tmp_path: Path) -> None:
    """As ``YOLO.train`` leaves one: a pickled model that knows its architecture."""
    from ultralytics.nn.tasks import DetectionModel

    path = tmp_path / "mine.pt"
    torch.save({"model": DetectionModel("yolov8n.yaml", nc=3, verbose=False)}, path)
    with pytest.raises(InputError, match=r"mine\.pt: is a pickle .* --trust-checkpoint"):
        find_detector(str(path))
    detector = find_detector(str(path), trust=True, size=64)
    assert (detector.head.kind, detector.head.classes) == ("decoded", 3)
    again = rebuild(path, json.loads(json.dumps(detector.identity())), trust=True)
    again.export(tmp_path / "out.onnx")
    found = heads.recognise(tmp_path / "out.onnx", graph.load(tmp_path / "out.onnx"))
    assert found == detector.head


def test_a_declared_architecture_counts_by_what_it_says(tmp_path: Path) -> None:
    """And not by where the file lies."""
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import ROOT

    weights = tmp_path / "mine.safetensors"
    safetensors.save_file(DetectionModel("yolov10n.yaml", nc=3, verbose=False).state_dict(), weights)
    text = (ROOT / "cfg/models/v10/yolov10n.yaml").read_text()
    identities = []
    for folder, content in (("a", text), ("b", text), ("c", f"{text}\nkeypoints: 3\n")):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "yolov10n-mine.yaml"
        file.write_text(content)
        declared = {"mine": Declared(model=weights, architecture=str(file))}
        identities.append(find_detector("mine", declared=declared).identity())
    assert identities[0] == identities[1] != identities[2]
    assert str(tmp_path) not in str(identities)


def test_onnx_file_needs_data(tmp_path: Path) -> None:
    detector = find_detector(str(make_detector(tmp_path / "toy.onnx")))
    with pytest.raises(InputError, match=r"toy\.onnx: .*--dataset"):
        detector.load_data(tmp_path)
    with pytest.raises(InputError, match=r"toy\.onnx: .*--calibration"):
        detector.load_calibration(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_bad_onnx_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"mine\.onnx: "):
        find_detector(str(path))


def detector_of(weights: Path) -> Detector:
    head = End2End((320, 320), 10)
    return Detector("mine", InputSpec(320), head, "yolov10n.yaml", weights, None, load_coco, load_coco, load_coco)  # type: ignore[arg-type]


def test_checkpoint_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"a": torch.ones(3)}, path)
    with pytest.raises(InputError, match=r"model\.safetensors: does not fit yolov10n\.yaml with 10 classes"):
        detector_of(path).torch_module()


def test_identity_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"a": torch.ones(3)}, path)
    first = detector_of(path).identity()
    assert detector_of(path).identity() == first
    safetensors.save_file({"a": torch.zeros(3)}, path)
    assert detector_of(path).identity() != first


def test_bundled_detector() -> None:
    detector = find_detector("shapes10n")
    model = detector.torch_module()
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.inference_mode():
        assert np.isfinite(model(torch.zeros(1, 3, 320, 320))[0].numpy()).all()
    assert detector.head == End2End((320, 320), 10)
