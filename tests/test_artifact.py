"""Is it really low-bit? The graph says what the scheme says."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.options import Case
from fixtures.recording import Record, describe_artifact
from lowbit import files, graph
from lowbit.artifacts import Artifact
from lowbit.graph import Structure

pytestmark = pytest.mark.artifact


@pytest.fixture
def quantized(case: Case, artifact: Artifact, structure: Structure, record: Record, run_folder: Path) -> Structure:
    """The structure of a quantized artifact; float schemes skip."""
    record(**describe_artifact(artifact, structure, run_folder))
    if not case.scheme.quantized:
        pytest.skip("a float scheme has nothing quantized")
    return structure


def convs(structure: Structure) -> list[graph.Weight]:
    return [weight for weight in structure.weights if weight.op == "Conv"]


def test_weights_are_int8_per_channel(case: Case, quantized: Structure) -> None:
    """Every convolution that is quantized has INT8 weights with one scale an output channel."""
    low = [weight for weight in convs(quantized) if weight.quantized]
    assert low, "no convolution is quantized"
    wrong = [w for w in low if w.dtype != "INT8" or (w.axis != 0 and w.shape[0] > 1) or w.block]
    assert not wrong, f"not INT8 per output channel: {wrong[:3]}"


def test_convolutions_are_quantized(case: Case, artifact: Artifact, quantized: Structure) -> None:
    """All convolutions are quantized with their inputs, but for those that the scheme keeps in float."""
    kept = set()
    if case.scheme.settings.get("float_head"):
        kept = set(graph.head_nodes(graph.load(artifact.path)))
    floating = [w.node for w in convs(quantized) if not (w.quantized and w.input_quantized) and w.node not in kept]
    assert not floating, f"convolutions in float: {floating[:5]}"
    quantized_anyway = [w.node for w in convs(quantized) if w.quantized and w.node in kept]
    assert not quantized_anyway, f"quantized though the scheme keeps the head in float: {quantized_anyway[:5]}"


def test_activation_dtype(case: Case, quantized: Structure) -> None:
    """ONNX Runtime's CPU kernels want unsigned activations, TensorRT wants signed symmetric ones."""
    assert quantized.input_dtypes == (("UINT8",) if case.scheme.tool == "ort" else ("INT8",))


def test_only_expected_ops_are_quantized(case: Case, quantized: Structure) -> None:
    """The CPU layout keeps activation functions and joins in integers; no scheme touches what selects detections."""
    selecting = {"TopK", "GatherElements", "ReduceMax", "ArgMax", "Mod"} & quantized.ops.keys()
    assert not selecting, f"ops that select detections are quantized: {selecting}"
    if case.scheme.tool == "ort":
        assert {"Conv", "Sigmoid", "Mul", "Concat", "MaxPool"} <= quantized.ops.keys()


def test_decode_tail_is_float(quantized: Structure) -> None:
    """Boxes up to the input's size and scores up to 1 must not share a scale: nothing there is quantized."""
    assert not quantized.tail_quantized


def test_artifact_is_what_the_manifest_says(artifact: Artifact, record: Record) -> None:
    assert files.sha256(artifact.path) == artifact.manifest["sha256"]
    assert artifact.log.is_file()
    assert artifact.manifest["seconds"] > 0
    assert artifact.manifest["peak_rss_bytes"] > 0
    assert all(artifact.manifest["tool_versions"].values())
