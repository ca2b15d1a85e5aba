"""ONNX Runtime's static quantization, laid out for its own CPU kernels.

Unsigned activations, signed per-channel weights, every quantizable op up to the head's last convolutions, so that
whole stretches of the network stay in integers. In float stay a narrow first convolution, the softmax of attention, and
the decode tail, where only the boxes of surviving anchors are decoded if the head allows it. Upsampling and concatenation
become copies (:mod:`lowbit.graph.layout`, :func:`concatenated`), and what SiLU takes is quantized no further down than SiLU
needs (:func:`activated`).

Settings: ``calibration_method`` (minmax, entropy), ``max_drop`` (of agreement with the float graph on calibration
images: the convolutions with the fewest multiply-accumulates that keep it stay in float; none without); or, with
``minutes``, those of :mod:`lowbit.quantize.auto`, which searches for the whole recipe.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.detector import heads
from lowbit.detector.head import Head
from lowbit.graph import layout
from lowbit.progress import silent
from lowbit.quantize import CalibrationReader, Job, Promises, Tool, decode_tail, portable
from lowbit.quantize.offers import Offers, prove_layout
from lowbit.sensitivity import assignment, bit_allocation

if TYPE_CHECKING:
    import onnx

# Images that a layout is proved on: every number of the raw head is compared, whatever the detector sees.
_LAYOUT_IMAGES = 1


def build(job: Job) -> dict[str, Any]:
    """Quantize ``job.source``."""
    if "minutes" in job.settings:
        from lowbit.quantize import auto

        return auto.build(job)
    offers = Offers()
    model, info = source_of(job, offers)
    model = prepared(job, model, offers)
    method = job.settings["calibration_method"]
    stem = layout.better_in_float(model)
    if "max_drop" not in job.settings:
        shipped = quantize(job, model, method, offers, exclude=stem)
        return {**info, "float_convolutions": stem, **shipped, "left_out": offers.left_out}
    head = heads.recognise(job.source, graph.load(job.source))
    found = candidates(job, model, head)
    best, tried = found.cheapest(job.settings["max_drop"], job.output)
    kept = [name for name, dtype in best.dtypes.items() if dtype == bit_allocation.FLOAT]
    shipped = quantize(job, model, method, offers, exclude=[*kept, *stem])
    return {
        **info,
        **shipped,
        "float_convolutions": list(dict.fromkeys([*kept, *stem])),
        # Of this file: the candidates had ranges by min-max on a few images.
        "agreement_drop": found.drop(job.output),
        "tried": bit_allocation.trace(tried),
        "left_out": offers.left_out,
    }


def candidates(job: Job, model: onnx.ModelProto, head: Head) -> assignment.Integers:
    """Assignments of INT8 and float, with ranges by min-max on a few images: a candidate is built in seconds."""
    few = replace(job, calibration=job.calibration.first(assignment.NOISE_IMAGES), progress=silent)

    def build_one(kept: Sequence[str], output: Path) -> None:
        copied = type(model)()
        copied.CopyFrom(model)
        exclude = [*kept, *layout.better_in_float(copied)]
        quantize(replace(few, output=output), copied, "minmax", Offers(), exclude=exclude)

    return assignment.Integers(job.source, head, job.input, job.calibration.paths, job.progress, build_one)


def source_of(job: Job, offers: Offers) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph to quantize, every parameter its own and its decode tail rewritten if its head allows it, and what the
    manifest should know of that."""
    model = graph.load(job.source)
    layout.own_parameters(model)
    model = decode_tail.offer(job, model, offers)
    compared = offers.proved.get(decode_tail.NAME)
    return model, {} if compared is None else {"detections_compared": compared}


def prepared(job: Job, model: onnx.ModelProto, offers: Offers) -> onnx.ModelProto:
    """A float graph with copies in place of what ONNX Runtime's integers would be slow in."""

    def rewrite(copied: onnx.ModelProto) -> None:
        layout.repeat_rows(copied)
        layout.join_whole(copied)

    return offers.take("copies for upsampling and joins", model, rewrite, layout_proof(job))


def layout_proof(job: Job) -> Callable[[onnx.ModelProto, onnx.ModelProto], None]:
    """:func:`prove_layout` on the first calibration images."""

    def prove(one: onnx.ModelProto, two: onnx.ModelProto) -> None:
        prove_layout(one, two, list(job.calibration.first(_LAYOUT_IMAGES).batches(job.input)))

    return prove


def quantize(
    job: Job, model: onnx.ModelProto, method: str, offers: Offers, *, exclude: Collection[str] = ()
) -> dict[str, int]:
    """Quantize ``model`` into ``job.output`` and lay it out. ``exclude``: convolutions that stay in float. Returns what
    :func:`place_quantizers` does."""
    info = place_quantizers(job, model, method, exclude=exclude)
    lay_out(job, offers)
    return info


def lay_out(job: Job, offers: Offers) -> None:
    """Rewrite the quantized graph in ``job.output`` for ONNX Runtime's kernels: the same numbers, sooner, and on every
    processor.

    Raises :class:`lowbit.errors.BuildError` for a graph that would compute something else without VNNI.
    """
    import onnx

    def rewrite(copied: onnx.ModelProto) -> None:
        layout.sink_dequantize(copied, graph.decode_tail(copied))
        layout.move_integers(copied)
        layout.fold_columns(copied)
        layout.channels_last(copied)
        layout.softmax_in_float(copied)

    model = offers.take("layout for integer kernels", onnx.load(str(job.output)), rewrite, layout_proof(job))
    portable.check(model)
    onnx.save(model, str(job.output))


def place_quantizers(
    job: Job,
    model: onnx.ModelProto,
    method: str,
    *,
    exclude: Collection[str] = (),
    apart: Collection[str] = (),
    ends: Mapping[str, tuple[float, float]] | None = None,
    overrides: Mapping[str, graph.Quantizer] | None = None,
    weight_scales: Mapping[str, NDArray[np.float32]] | None = None,
) -> dict[str, int]:
    """Write ``model`` with Q/DQ pairs to ``job.output``, every weight so that it computes the same on every processor.

    ``exclude``: convolutions that stay in float, and with them what only they feed, as the decode tail does; ``apart``: other
    nodes that do. ``ends``: lowest and highest value of every tensor, in place of what ``method`` finds on the images.
    ``overrides``: scale and zero point of tensors whose range is known. ``weight_scales``: [out] of weights, by the
    tensor's name, that have been rounded before. Returns for the manifest how many output channels have a coarser scale than
    eight bits give them, of how many.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

    methods = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}
    tail, known = graph.decode_tail(model), dict(overrides or {})
    floating = [*tail, *exclude, *apart, *graph.downstream(model, exclude)]
    fitted = portable.fit_floats(model, floating, weight_scales or {})
    chosen = {name: (0, scales) for name, scales in (weight_scales or {}).items()}
    chosen |= {name: (axis, found.scale) for name, (axis, found) in fitted.items()}
    rounded = {
        name: [{"axis": axis, "quant_type": QuantType.QInt8, "scale": one, "zero_point": np.int8(0)} for one in scales]
        for name, (axis, scales) in chosen.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "ranges.json"
        if ends is not None:
            given_ends = {name: tuple(np.asarray(end, np.float32) for end in pair) for name, pair in ends.items()}
            save_tensors_data(TensorsData(methods[method], given_ends), cache)
        for _ in range(2):
            given = rounded | {
                name: [{"quant_type": QuantType.QUInt8, "scale": scale, "zero_point": zero}]
                for name, (scale, zero) in known.items()
            }
            quantize_static(
                # A copy: it moves the weights of what it gets to a file that it then deletes.
                onnx.ModelProto.FromString(model.SerializeToString()),
                str(job.output),
                CalibrationReader(job, model.graph.input[0].name),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                nodes_to_exclude=floating,
                calibrate_method=methods[method],
                # One image at a time: the histogram calibrator would keep every activation of every image otherwise.
                extra_options={"CalibStridedMinMax": 1, **({"TensorQuantOverrides": given} if given else {})},
                calibration_cache_path=cache,
            )
            quantized = onnx.load(str(job.output))
            # A scale that is kept is seldom that of the tensor it is joined into, and one that differs is looked up.
            better = (
                refined(model, quantized) if not overrides else activated(model, graph.activation_scales(quantized))
            )
            if known.keys() >= better.keys():
                break
            known = better | known
    coarser = [found.coarser for _, found in fitted.values()]
    return {"channels_rounded_coarser": int(sum(one.sum() for one in coarser)), "weights_fitted": len(coarser)}


def refined(model: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, graph.Quantizer]:
    """Scale and zero point of the tensors of ``quantized``, made of ``model``, that are better with others than their range
    says: :func:`concatenated`, then :func:`activated`."""
    better = concatenated(quantized)
    return better | activated(model, graph.activation_scales(quantized) | better)


def activated(model: onnx.ModelProto, quantizers: Mapping[str, graph.Quantizer]) -> dict[str, graph.Quantizer]:
    """Scale and zero point of what SiLU takes, from where its output rounds to 0 on.

    The inputs of SiLU reach far below 0, where its output is nearly nothing: what lies below the last point at which it
    rounds to 0 may saturate there, and the steps above become the finer for it.
    """
    made = {output: node for node in model.graph.node for output in node.output}
    found: dict[str, graph.Quantizer] = {}
    for node in model.graph.node:
        if node.op_type != "Mul" or node.output[0] not in quantizers:
            continue
        for name, gate in (node.input[:2], node.input[1::-1]):
            if gate in made and made[gate].op_type == "Sigmoid" and made[gate].input[0] == name:
                if not {name, gate} <= quantizers.keys():
                    continue
                better = saturating(quantizers[name], quantizers[gate], quantizers[node.output[0]])
                found |= {name: better} if better else {}
    return found


# Where SiLU is lowest, -0.28: only left of it does it tend to nothing.
_SILU_MINIMUM = -1.2785


def saturating(data: graph.Quantizer, gate: graph.Quantizer, product: graph.Quantizer) -> graph.Quantizer | None:
    """A quantizer of SiLU's input with finer steps and the same upper end, None if there is none: the lowest value that it
    knows, times its quantized sigmoid, must round to 0 as everything below it does."""
    lowest, highest = _ends(data)
    if lowest >= _SILU_MINIMUM or highest <= _SILU_MINIMUM:
        return None
    ends = np.linspace(lowest, _SILU_MINIMUM, 4096)
    steps = (highest - ends) / 255
    zeros = np.clip(np.rint(-ends / steps), 0, 255)
    ends = -zeros * steps
    sigmoids = np.clip(np.rint(1 / (1 + np.exp(-ends)) / float(gate[0])) + int(gate[1]), 0, 255) - int(gate[1])
    # Kernels round in their own ways: a tenth is left to them.
    nothing = np.flatnonzero(np.abs(ends * sigmoids * float(gate[0])) < 0.45 * float(product[0]))
    if not nothing.size:
        return None
    best = nothing[-1]
    return np.asarray(steps[best], np.float32), np.asarray(zeros[best], np.uint8)


def _ends(quantizer: graph.Quantizer) -> tuple[float, float]:
    """The lowest and the highest value that a quantizer knows."""
    scale, zero = float(quantizer[0]), int(quantizer[1])
    return -scale * zero, scale * (255 - zero)


# By how much a range may grow, about a bit. One rounding to coarser steps loses less than two to finer ones, and copies.
_WIDEST = 2.2


def concatenated(model: onnx.ModelProto) -> dict[str, graph.Quantizer]:
    """Scale and zero point of every concatenation for the tensors that it joins, where they cover the tensor's range and
    are not much wider: ONNX Runtime then copies what it otherwise looks up number by number."""
    made = {output: node for node in model.graph.node for output in node.output}
    quantizers = graph.activation_scales(model)
    found: dict[str, graph.Quantizer] = {}
    for node in model.graph.node:
        if node.op_type != "Concat" or node.output[0] not in quantizers:
            continue
        shared = quantizers[node.output[0]]
        for name in node.input:
            root = _root(name, made)
            if root is None or root in found or root not in quantizers:
                continue
            own, step = quantizers[root], float(quantizers[root][0])
            covers = _ends(shared)[0] < _ends(own)[0] + step and _ends(shared)[1] > _ends(own)[1] - step
            if covers and step * _WIDEST >= float(shared[0]):
                found[root] = shared
    return found


def _root(name: str, made: Mapping[str, onnx.NodeProto]) -> str | None:
    """The tensor whose quantizer a dequantized tensor shares: behind Q/DQ pairs and ops that only move numbers."""
    while True:
        for op in ("DequantizeLinear", "QuantizeLinear"):
            node = made.get(name)
            if node is None or node.op_type != op:
                return None
            name = node.input[0]
        node = made.get(name)
        if node is None or node.op_type not in graph.PASSING - {"Concat"}:
            return name
        name = node.input[0]


TOOL = Tool(
    build,
    Promises(
        symmetric=False,
        activations=frozenset({"UINT8"}),
        integer_ops=frozenset({"Conv", "Sigmoid", "Mul", "Concat", "MaxPool"}),
    ),
)
