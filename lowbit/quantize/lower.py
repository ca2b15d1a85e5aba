"""Another tool's INT8 artifact, laid out for ONNX Runtime's CPU kernels: one calibration for TensorRT and for CPU.

ModelOpt and Brevitas quantize the inputs of convolutions only, and leave the rest in float: fused by TensorRT, but on a
CPU an integer convolution needs its output quantized too, and every op between two convolutions in integers. What the
artifact has is kept, number by number: the integers and scales of its weights, and scale and zero point of every
activation (a signed tensor with zero point 0 becomes an unsigned one with 128: the same values). A convolution whose
output is quantized in parts becomes one a part, and convolutions that the artifact keeps in float stay so, as do those at
the image that are better in float (:func:`lowbit.graph.layout.better_in_float`). Then ONNX
Runtime's quantizer adds what is left out, with ranges by entropy on the calibration images.

Proof: integers and scales are the same; biases are within half a step of the integer kernels' 32-bit ones; and without
what is added, the graph's raw head is that of the artifact with those biases. That is, as near as the artifact's own with
biases changed by a millionth: a last digit that differs changes a rounding, which changes others (13 dB on YOLOv10n).

Settings: ``start`` (the scheme whose artifact is lowered; its folder is ``job.start``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.artifact import MODEL
from lowbit.errors import UnavailableError
from lowbit.graph import layout
from lowbit.measure import comparison
from lowbit.quantize import Job, Promises, Tool, ort, portable
from lowbit.quantize.offers import FLOAT, SLACK, Offers, sqnr
from lowbit.runtime import SessionOptions

if TYPE_CHECKING:
    import onnx

# What is added costs a rounding each: 7 to 15 dB were seen, and a wrong scale ends below 0.
MIN_SQNR = 0.0
_MILLIONTH = 1e-6
_PARITY_IMAGES = 4


def build(job: Job) -> dict[str, Any]:
    """Lower the artifact in ``job.start``.

    Raises :class:`UnavailableError` if anything of it is not kept: without the lowering it would be that artifact again.
    """
    import onnx
    from onnx import numpy_helper

    assert job.start is not None
    given = graph.load(job.start / MODEL)
    offers = Offers()
    floating, info = ort.source_of(job, offers)
    # As int8-ort has them: few channels of a wide range, no slower in float.
    given = portable.in_float(given, layout.better_in_float(floating), floating)
    artifact, again = portable.fit_artifact(given, floating)
    scales = graph.activation_scales(artifact)
    weights, weight_scales = graph.dequantized_weights(artifact), graph.weight_scales(artifact)
    parts: dict[str, tuple[str, slice]] = {}
    whole = floating
    floating = offers.take(
        "a convolution a part",
        whole,
        lambda copied: parts.update(layout.cut_channels(copied)),
        ort.layout_proof(job),
    )
    if floating is whole:
        parts.clear()
    floating = ort.prepared(job, floating, offers)
    stored = {tensor.name: tensor for tensor in floating.graph.initializer}
    kept, rounded = [], {}
    for node in graph.weighted_convolutions(floating):
        name, channels = parts.get(node.name, (node.name, slice(None)))
        if name not in weights:
            kept.append(node.name)
            continue
        tensor = stored[node.input[1]]
        tensor.CopyFrom(numpy_helper.from_array(weights[name][channels], tensor.name))
        rounded[tensor.name] = weight_scales[name][channels]
    tensors = {name for node in floating.graph.node for name in node.input}
    scales = {name: found for name, found in scales.items() if name in tensors}
    if not scales:
        raise UnavailableError(f"{job.start / MODEL}: none of its quantized activations is a tensor of {job.source}.")
    ort.place_quantizers(job, floating, "entropy", exclude=kept, overrides=scales, weight_scales=rounded)
    lowered = onnx.load(str(job.output))
    scales = _keep(lowered, scales)
    onnx.save(lowered, str(job.output))
    _check_integers(lowered, {n.name: parts.get(n.name, (n.name, slice(None))) for n in floating.graph.node}, weights)
    probes = list(job.calibration.first(_PARITY_IMAGES).batches(job.input))
    proved = prove(artifact, lowered, scales, probes)
    ort.lay_out(job, offers)
    return {
        **info,
        "kept_scales": len(scales),
        "float_convolutions": kept,
        "rounded_again": _rounded_again(given, artifact, again, probes),
        **proved,
        "left_out": offers.left_out,
    }


def _rounded_again(
    given: onnx.ModelProto,
    artifact: onnx.ModelProto,
    again: Mapping[str, NDArray[np.bool_]],
    images: Sequence[NDArray[np.float32]],
) -> dict[str, float]:
    """What of the artifact's weights did not fit 16 bits: how many output channels and weights were rounded again, of how
    many weights, and the raw head's SQNR in dB between the artifact before and after."""
    weights = graph.dequantized_weights(given)
    names, options = graph.head_outputs(given), SessionOptions("cpu", optimized=False)
    heads = [comparison.raw_heads(model, options, images, names) for model in (given, artifact)]
    return {
        "channels": sum(int(channels.sum()) for channels in again.values()),
        "weights": sum(int(channels.sum()) * weights[name][0].size for name, channels in again.items()),
        "of_weights": sum(weight.size for weight in weights.values()),
        "sqnr_db": sqnr(*heads),
    }


def _keep(model: onnx.ModelProto, scales: Mapping[str, graph.Quantizer]) -> dict[str, graph.Quantizer]:
    """Give these tensors the scale and zero point that they have in the artifact, in place: ONNX Runtime gives what is
    reshaped or taken apart that of the whole. Returns those that ``model`` quantizes."""
    from onnx import numpy_helper

    found = graph.activation_scales(model)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            readers.setdefault(node.input[0], []).append(node)
    for name, quantizer in scales.items():
        if name not in found or _same(found[name], quantizer):
            continue
        names = [f"{name}/kept_{what}" for what in ("scale", "zero_point")]
        model.graph.initializer.extend(map(numpy_helper.from_array, quantizer, names))
        for node in list(model.graph.node):
            if node.op_type == "QuantizeLinear" and node.input[0] == name:
                for pair in (node, *readers.get(node.output[0], [])):
                    pair.input[1], pair.input[2] = names
    return {name: quantizer for name, quantizer in scales.items() if name in found}


def _same(one: graph.Quantizer, other: graph.Quantizer) -> bool:
    return bool(one[0] == other[0] and one[1] == other[1])


def _check_integers(
    lowered: onnx.ModelProto, parts: Mapping[str, tuple[str, slice]], weights: Mapping[str, NDArray[np.float32]]
) -> None:
    """Raises :class:`UnavailableError` for a weight whose values are not the artifact's, but for a last digit."""
    for node, values in graph.dequantized_weights(lowered).items():
        name, channels = parts[node]
        expected = weights[name][channels]
        # Of the largest: ONNX Runtime gives all but dead channels a coarser scale where their bias needs it.
        if np.abs(values - expected).max() > _MILLIONTH * np.abs(expected).max():
            raise UnavailableError(
                f"the weight of {node} is not the artifact's any more: it is no symmetric INT8 there."
            )


def prove(
    artifact: onnx.ModelProto,
    lowered: onnx.ModelProto,
    scales: Mapping[str, graph.Quantizer],
    images: Sequence[NDArray[np.float32]],
) -> dict[str, float]:
    """Compare the raw heads on images, float32 [1, 3, size, size], as the module says.

    ``scales``: the artifact's, by tensor. Returns the SQNR, in dB: how far a millionth of its biases takes the artifact;
    ``lowered`` without what was added from the artifact with the same biases; all of it from the artifact. Raises
    :class:`UnavailableError` if one of the last two is too low, or a scale or a bias is another one.
    """
    names = graph.head_outputs(artifact)  # two tools order the same nodes differently
    unoptimized = SessionOptions(optimized=False)

    def heads(model: onnx.ModelProto) -> list[NDArray[np.float32]]:
        return comparison.raw_heads(model, unoptimized, images, names)

    start = heads(artifact)
    same = sqnr(heads(_with_biases_of(lowered, artifact)), heads(_without_added(artifact, lowered, scales)))
    floor, whole = sqnr(start, heads(graph.nudged(artifact))), sqnr(start, heads(lowered))
    if same < min(floor, FLOAT) - SLACK:
        raise UnavailableError(
            f"the lowered graph without what was added is {same:.1f} dB from the artifact with its biases, and the "
            f"artifact with biases changed by a millionth {floor:.1f} dB. Something of it was not kept."
        )
    if whole < MIN_SQNR:
        raise UnavailableError(
            f"the lowered graph's raw head is {whole:.1f} dB from the artifact's, under {MIN_SQNR:.0f} dB."
        )
    return {"rounding_floor_db": floor, "kept_sqnr_db": same, "raw_head_sqnr_db": whole}


def _with_biases_of(lowered: onnx.ModelProto, artifact: onnx.ModelProto) -> onnx.ModelProto:
    """The artifact with the biases of the lowered graph. Raises :class:`UnavailableError` for one further from its own than half
    a step."""
    given = graph.biases(artifact)
    parts: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {}
    for name, (bias, step) in graph.biases(lowered).items():
        parts.setdefault(name.partition(layout.PART)[0], []).append((bias, step))
    found = {}
    for name, pieces in parts.items():
        bias, step = (np.concatenate(one) for one in zip(*pieces, strict=True))
        found[name] = bias
        wrong = np.abs(bias - given[name][0]) > 0.51 * step + _MILLIONTH * np.abs(given[name][0])
        if wrong.any():
            raise UnavailableError(
                f"the bias of {name} is not the artifact's any more: {wrong.sum()} of {wrong.size} differ."
            )
    return graph.with_biases(artifact, found)


def _without_added(
    artifact: onnx.ModelProto, lowered: onnx.ModelProto, scales: Mapping[str, graph.Quantizer]
) -> onnx.ModelProto:
    """A copy of ``lowered`` in which an input is quantized only if it is in the artifact. Raises :class:`UnavailableError` if
    one has another scale."""
    import onnx

    for name, quantizer in graph.activation_scales(lowered).items():
        if name in scales and not _same(quantizer, scales[name]):
            raise UnavailableError(f"{name} is quantized otherwise than in the artifact.")
    there = {
        (node.name, position)
        for node, position, _ in _quantized_inputs(artifact)
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}
    }
    copied = onnx.ModelProto()
    copied.CopyFrom(lowered)
    for node, position, source in _quantized_inputs(copied):
        if (node.name.partition(layout.PART)[0], position) not in there:
            node.input[position] = source
    return copied


def _quantized_inputs(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, int, str]]:
    """Every node's inputs that are a quantized and dequantized tensor: the node, which of its inputs, and the tensor."""
    made = {output: node for node in model.graph.node for output in node.output}

    def above(name: str, *ops: str) -> str | None:
        return made[name].input[0] if name in made and made[name].op_type in ops else None

    found = []
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            integers = above(name, "DequantizeLinear")
            integers = above(integers, "Clip") or integers if integers else None
            source = above(integers, "QuantizeLinear") if integers else None
            if source and source in made:
                found.append((node, position, source))
    return found


TOOL = Tool(build, Promises(symmetric=False, activations=frozenset({"UINT8"}), keeps_scales=True))
