"""Where a collapse begins: on a small detector that is broken in known places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QuantType

from lowbit.errors import LowbitError
from lowbit.measure import collapse
from lowbit.measure.correspondence import SELECTED, correspond
from lowbit.measure.remedy import Cause, Remedy, remedy
from lowbit.schemes import catalogue, find_scheme
from tests.unit import departing

# What a graph of the small detector has between its image and its output.
TENSORS = 19


def mend(found: collapse.Collapse, scheme: str, *without: str) -> Remedy:
    return remedy(found, find_scheme(scheme), lambda one: one.tool not in without)


def test_what_works_departs_nowhere(tmp_path: Path) -> None:
    model = departing.detector()
    found = collapse.explain(model, departing.up_to_the_head(tmp_path, model), departing.images())
    assert (found.compared, found.skipped, found.departs, found.way) == (TENSORS, {}, None, [])
    assert found.end_db > 2 * collapse.DEPARTED_DB
    assert mend(found, "int8-ort-minmax").cause is Cause.ACCUMULATED


def test_the_same_graph_is_the_same() -> None:
    model = departing.detector()
    found = collapse.explain(model, model, departing.images())
    assert set(found.curve.values()) == {999.0}
    assert list(found.curve) == [node.name for node in model.graph.node]


@pytest.mark.parametrize("signed", [True, False])
def test_a_quantized_decode_tail_is_named(tmp_path: Path, signed: bool) -> None:
    """ONNX Runtime's own defaults, and the same with unsigned activations: boxes and scores share a scale."""
    model = departing.detector()
    options = {} if signed else {"activation_type": QuantType.QUInt8}
    found = collapse.explain(model, departing.by_ort(tmp_path, model, **options), departing.images())
    # The scale is that of what Concat gives, and the next node reads what it leaves.
    assert (found.departs, found.in_tail) == ("/model.4/Reshape", True)
    assert found.curve["/model.4/Concat"] > 15
    said = mend(found, "int8-nncf")
    assert (said.cause, said.where, said.scheme) == (Cause.TAIL, "/model.4/Concat", "int8-ort-minmax")
    assert mend(found, "int8-modelopt-entropy").scheme == "int8-modelopt-entropy-headfp"


@pytest.mark.parametrize("renamed", [False, True])
def test_operators_on_integers_are_read(tmp_path: Path, renamed: bool) -> None:
    model = departing.detector()
    other = departing.in_operators(tmp_path)
    assert {"QLinearConv", "QLinearConcat"} <= {node.op_type for node in other.graph.node}
    found = collapse.explain(model, departing.renamed(other) if renamed else other, departing.images())
    assert (found.compared, found.departs) == (TENSORS, "/model.4/Concat")
    assert found.curve["/model.3/act/Mul"] > 25
    assert mend(found, "int8-nncf").where == "/model.4/Concat"


@pytest.mark.parametrize("convolution", ["/model.1/Conv", "/model.3/Conv"])
@pytest.mark.parametrize("renamed", [False, True])
def test_weights_with_one_scale_are_named(convolution: str, renamed: bool) -> None:
    model = departing.with_outlier(departing.detector(), convolution)
    other = departing.in_bits(model, convolution)
    found = collapse.explain(model, departing.renamed(other) if renamed else other, departing.images())
    assert (found.compared, found.departs) == (TENSORS, convolution)
    node = next(node for node in found.nodes if node.name == convolution)
    assert (node.weight_bits, node.weight_scales) == (4, 1)
    said = mend(found, "w4a16-brevitas-tensor")
    assert (said.cause, said.where, said.scheme) == (Cause.TENSOR_SCALE, convolution, "w4a16-brevitas-gptq")
    assert mend(found, "w4a8-brevitas-tensor").scheme == "w4a8-brevitas-gptq"
    # Brevitas quantizes torch modules only.
    assert mend(found, "w4a16-brevitas-tensor", "brevitas").scheme == "mixed-native-d1.0"


def test_saturation_is_named_where_the_graph_itself_is_right(tmp_path: Path) -> None:
    model, given = departing.detector(saturating=True), departing.images(darkest=0.7)
    found = collapse.explain(model, departing.up_to_the_head(tmp_path, model, given), given)
    assert found.departs is None
    assert collapse.explain(model, onnx.load(str(tmp_path / "int8.onnx")), given, emulated=False).without_vnni is None
    lossy = found.without_vnni
    assert lossy is not None and lossy.departs == "/model.0/Conv"
    first = next(node for node in found.nodes + lossy.nodes if node.name == "/model.0/Conv")
    assert first.saturated is not None and first.saturated > 0.5
    said = mend(found, "int8-modelopt-entropy-cpu")
    assert (said.cause, said.where, said.scheme) == (Cause.SATURATION, "/model.0/Conv", "int8-ort-minmax")


def test_a_range_that_clips_is_named(tmp_path: Path) -> None:
    model = departing.detector()
    other = departing.up_to_the_head(tmp_path, model)
    place = next(node.output[0] for node in model.graph.node if node.name == "/model.2/act/Mul")
    name = next(
        node.input[1] for node in other.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == place
    )
    tensor = next(tensor for tensor in other.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(numpy_helper.to_array(tensor) / 20, np.float32), name))
    found = collapse.explain(model, other, departing.images())
    assert found.departs == "/model.3/Conv"
    said = mend(found, "int8-ort-entropy")
    assert (said.cause, said.where, said.scheme) == (Cause.CLIPPED, "/model.2/act/Mul", "int8-ort-minmax")
    quantized = next(node.quantized for node in found.nodes if node.name == "/model.2/act/Mul")
    assert quantized is not None and quantized.clipped > 0.1


def test_half_precision_is_compared_and_what_it_cannot_hold_is_named() -> None:
    model = departing.detector()
    found = collapse.explain(model, departing.in_half(model), departing.images())
    assert (found.compared, found.departs) == (TENSORS, None)
    assert 40 < found.end_db < 100
    large = departing.detector()
    for tensor in large.graph.initializer:
        if tensor.name == "/model.2/w":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(2e4), tensor.name))
        elif tensor.name == "/model.3/w":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(5e-5), tensor.name))
    found = collapse.explain(large, departing.in_half(large), departing.images())
    said = mend(found, "fp16")
    assert (said.cause, said.where, said.scheme) == (Cause.NOT_FINITE, "/model.2/Conv", "fp32-lean")


def test_names_that_mean_other_nodes_are_not_believed() -> None:
    """Numbered tensors: two convolutions of the same shape have each other's names."""
    model = departing.detector()
    other = onnx.ModelProto()
    other.CopyFrom(model)
    swapped = {"/model.1/Conv_out": "/model.3/Conv_out", "/model.3/Conv_out": "/model.1/Conv_out"}
    for node in other.graph.node:
        node.input[:] = [swapped.get(name, name) for name in node.input]
        node.output[:] = [swapped.get(name, name) for name in node.output]
    assert {pair.name: pair.other for pair in correspond(model, other).pairs if pair.name in swapped} == swapped
    assert set(collapse.explain(model, other, departing.images(1)).curve.values()) == {999.0}


def test_what_is_chosen_by_rank_is_skipped_and_counted() -> None:
    model = departing.detector()
    model.graph.node.extend(
        [
            onnx.helper.make_node("TopK", ["output0", "two"], ["best", "places"], name="/model.4/TopK"),
            onnx.helper.make_node("Mul", ["best", "pixels"], ["last"], name="/model.4/last"),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "two"))
    found = collapse.explain(model, model, departing.images(1))
    assert (found.compared, found.skipped) == (TENSORS, {SELECTED: 3})


def test_nothing_to_compare_is_said() -> None:
    model = departing.detector()
    with pytest.raises(LowbitError, match="no images"):
        collapse.explain(model, model, [])
    other = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Neg", ["images"], ["negative"])],
            "another",
            list(model.graph.input),
            [onnx.helper.make_empty_tensor_value_info("negative")],
        ),
        opset_imports=model.opset_import,
        ir_version=8,
    )
    with pytest.raises(LowbitError, match="no tensor in common, so nothing was compared"):
        collapse.explain(model, other, departing.images(1))


def test_every_proposal_exists_and_is_another_scheme() -> None:
    model = departing.detector()
    found = collapse.explain(model, model, departing.images(1))
    for scheme in (one for one in catalogue().values() if one.precision != "fp32"):
        said = remedy(found, scheme, lambda _: True)
        assert said.scheme is not None and said.scheme != scheme.id
        assert find_scheme(said.scheme).id == said.scheme
        assert said.scheme in said.reason
        none = remedy(found, scheme, lambda _: False)
        assert none.scheme is None and "No other scheme" in none.reason
    assert remedy(found, find_scheme("int8-nncf"), lambda _: True, {"mixed-ort-d1.0"}).scheme == "mixed-ort-d1.0"


def test_of_a_node_with_several_outputs_the_worst_counts(tmp_path: Path) -> None:
    """A Split behind boxes and scores that share a scale: the scores are gone, the boxes are not."""
    model = departing.detector()
    model.graph.node.append(
        onnx.helper.make_node("Split", ["output0", "sizes"], ["scores", "boxes"], name="/model.4/Split", axis=1)
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([4, 3]), "sizes"))
    other = departing.by_ort(tmp_path, model)
    found = collapse.explain(model, other, departing.images())
    by_output = sorted(node.sqnr_db for node in found.nodes if node.name == "/model.4/Split")
    assert len(by_output) == 2 and by_output[1] > by_output[0] + 10
    assert found.curve["/model.4/Split"] == by_output[0]
