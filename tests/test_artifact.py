"""Is it really low-bit? The graph says what the scheme says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbit import entries, files, graph
from lowbit.artifact import Artifact
from lowbit.evaluate import Case
from lowbit.graph import Structure, layout, qcdq
from lowbit.measure import comparison
from lowbit.quantize import portable, tool
from lowbit.quantize.mixed import SETTINGS
from lowbit.schemes import CATALOGUE, origins
from lowbit_pytest.recording import Record
from lowbit_pytest.workbench import Workbench

pytestmark = pytest.mark.artifact


@pytest.fixture
def quantized(case: Case, structure: Structure, workbench: Workbench, record: Record) -> Structure:
    """The structure of a quantized artifact; float schemes skip."""
    record(entries.built(case, workbench))
    if not case.scheme.quantized:
        pytest.skip("a float scheme has nothing quantized")
    return structure


def convs(structure: Structure) -> list[graph.Weight]:
    return [weight for weight in structure.weights if weight.op == "Conv"]


def test_weights_are_stored_as_the_scheme_says(case: Case, quantized: Structure) -> None:
    """Every quantized convolution has weights of the scheme's dtype, with a scale an output channel or a tensor."""
    low = [weight for weight in convs(quantized) if weight.quantized]
    assert low, "no convolution is quantized"
    if case.scheme.precision == "fp8":
        allowed, axis = {"FLOAT8E4M3FN"}, 0
    elif weights := tool(case.scheme.tool).promises.weights:
        allowed, axis = weights, 0
    else:
        allowed = {"INT8"} if case.scheme.weight_bits == 8 else {"INT4", "INT8"} if mixed(case) else {"INT4"}
        axis = None if case.scheme.settings.get("scales") == "tensor" else 0
    wrong = [w for w in low if w.dtype not in allowed or (w.axis != axis and w.shape[0] > 1) or w.block]
    assert not wrong, f"not {allowed} with axis {axis}: {wrong[:3]}"
    if case.scheme.weight_bits == 4:
        four = sum(w.count for w in low if w.dtype == "INT4") / sum(w.count for w in low)
        assert four > (0.1 if mixed(case) else 0.999), f"only {four:.1%} of the weights have four bits"


def mixed(case: Case) -> bool:
    """Whether a scheme keeps some convolutions at eight bits."""
    return any(SETTINGS & scheme.settings.keys() for scheme in origins(case.scheme))


def test_weight_bits_are_within_budget(case: Case, quantized: Structure) -> None:
    """The average over all quantized weights, scales included, is what the scheme promises."""
    budgets = [scheme.settings["max_bits"] for scheme in origins(case.scheme) if "max_bits" in scheme.settings]
    if not budgets:
        pytest.skip("the scheme has no budget of bits")
    assert quantized.weight_bits <= min(budgets)


def test_convolutions_are_quantized(case: Case, artifact: Artifact, quantized: Structure) -> None:
    """All convolutions are quantized, with their inputs where the scheme says so, but for those kept in float."""
    kept = set(artifact.manifest.get("float_convolutions", ()))
    if case.scheme.settings.get("float_head"):
        kept |= set(graph.head_nodes(graph.load(artifact.path)))
    inputs = case.scheme.activation_bits == 8
    floating = [w.node for w in convs(quantized) if not w.quantized and w.node not in kept]
    if case.scheme.precision == "fp8":
        # ModelOpt quantizes those that TensorRT has FP8 kernels for: not depthwise, not few channels.
        assert quantized.quantized_fraction > 0.5
        return
    assert not floating, f"convolutions in float: {floating[:5]}"
    wrong = [w.node for w in convs(quantized) if w.input_quantized is not inputs and w.node not in kept]
    assert not wrong, f"inputs of convolutions that are {'not ' * inputs}quantized: {wrong[:5]}"
    quantized_anyway = [w.node for w in convs(quantized) if w.quantized and w.node in kept]
    assert not quantized_anyway, f"quantized though the scheme keeps the head in float: {quantized_anyway[:5]}"


def test_activation_dtype(case: Case, quantized: Structure) -> None:
    """ONNX Runtime's CPU kernels want unsigned activations, TensorRT wants signed symmetric ones."""
    found = set(quantized.input_dtypes)
    promised = tool(case.scheme.tool).promised(case.scheme.settings)
    allowed = {"FLOAT8E4M3FN"} if case.scheme.precision == "fp8" else promised.activations
    assert (bool(found) and found <= allowed) if case.scheme.activation_bits == 8 else not found


def test_four_bits_take_half_the_bytes(case: Case, artifact: Artifact, quantized: Structure) -> None:
    """INT4 is how the file stores weights, not only what it computes; the INT8 form of the same values is larger."""
    four = sum(w.count for w in convs(quantized) if w.dtype == "INT4")
    if not four:
        pytest.skip("the scheme has no 4-bit weights")
    wide = qcdq.widen_int4(graph.load(artifact.path))
    assert wide.ByteSize() - artifact.size_bytes == pytest.approx(four / 2, rel=0.02)


def test_int4_computes_what_its_int8_form_does(case: Case, artifact: Artifact, workbench: Workbench) -> None:
    """The fallback for providers without INT4 gives the same raw head, within 1e-4 of its range."""
    if case.scheme.weight_bits != 4:
        pytest.skip("the scheme has no 4-bit weights")
    narrow, wide = graph.load(artifact.path), qcdq.widen_int4(graph.load(artifact.path))
    # Unoptimized: an integer kernel that takes INT8 and not INT4 sums in another order, and where inputs are rounded one
    # flipped rounding is 20 dB. What is compared is what the two files say.
    inputs, options = workbench.inputs(case.detector, 2), replace(workbench.options(case), optimized=False)
    heads = [comparison.raw_heads(model, options, inputs) for model in (narrow, wide)]
    assert comparison.compare_heads(*heads).of_range <= 1e-4


def test_graph_computes_what_torch_does(case: Case, artifact: Artifact) -> None:
    """The build compared the graph with the fake-quantized module; what it found is in the manifest."""
    if not tool(case.scheme.tool).promises.torch_parity:
        pytest.skip("the tool does not quantize a torch module")
    parity = artifact.manifest["torch_parity"]
    assert parity["sqnr_db"] >= (15 if case.scheme.activation_bits == 8 else 60), parity


def test_lowering_keeps_every_scale(case: Case, artifact: Artifact, workbench: Workbench) -> None:
    """From the two files; that nothing else of the raw head changed is the build's proof, whose figures are asked for."""
    if not tool(case.scheme.tool).promises.keeps_scales:
        pytest.skip("the scheme does not lower another scheme's artifact")
    start = graph.load(workbench.artifact(case.detector, origins(case.scheme)[1]).path)
    lowered = graph.load(artifact.path)
    source = graph.load(workbench.artifact(case.detector, CATALOGUE["fp32"]).path)
    start = portable.in_float(start, layout.better_in_float(source), source)
    kept, found = graph.activation_scales(start), graph.activation_scales(lowered)
    assert artifact.manifest["kept_scales"] == len(kept)
    assert [name for name, scale in kept.items() if found.get(name, scale) != scale] == []
    # What is joined or taken apart as integers is quantized before only; convolutions read it all the same.
    moved = {name for node in start.graph.node if node.op_type in {"Concat", "Split"} for name in node.output}
    assert kept.keys() - found.keys() <= moved
    given, read = graph.input_quantizers(start), graph.input_quantizers(lowered)
    assert {name.partition(layout.PART)[0] for name in read} >= given.keys()
    assert [name for name, scale in read.items() if given.get(name.partition(layout.PART)[0], scale) != scale] == []
    assert artifact.manifest["kept_sqnr_db"] > artifact.manifest["rounding_floor_db"] - 3


def test_only_expected_ops_are_quantized(
    case: Case, artifact: Artifact, quantized: Structure, workbench: Workbench
) -> None:
    """The CPU layout keeps activation functions and joins in integers; no scheme touches what selects detections."""
    selecting = {"TopK", "GatherElements", "ReduceMax", "ArgMax", "Mod"} & quantized.ops.keys()
    assert not selecting, f"ops that select detections are quantized: {selecting}"
    if integer_ops := tool(case.scheme.tool).promises.integer_ops:
        source = graph.load(workbench.artifact(case.detector, CATALOGUE["fp32"]).path)
        floating = set(graph.decode_tail(source))
        floating |= set(graph.downstream(source, artifact.manifest["float_convolutions"]))
        floating |= set(artifact.manifest.get("float_nodes", ()))
        there = {node.op_type for node in source.graph.node if node.name not in floating}
        assert integer_ops & there <= quantized.ops.keys()


def test_decode_tail_is_float(quantized: Structure) -> None:
    """Boxes up to the input's size and scores up to 1 must not share a scale: nothing there is quantized."""
    assert not quantized.tail_quantized


def test_artifact_is_what_the_manifest_says(artifact: Artifact, record: Record) -> None:
    assert files.sha256(artifact.path) == artifact.manifest["sha256"]
    assert artifact.log.is_file()
    assert artifact.manifest["seconds"] > 0
    assert artifact.manifest["peak_rss_bytes"] > 0
    assert all(artifact.manifest["tool_versions"].values())
