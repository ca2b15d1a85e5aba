"""A detector's torch module with quantized convolutions (Brevitas), calibrated, exported and compared with its export."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import brevitas.config
import brevitas.nn as qnn
import numpy as np
import onnx
import torch
from brevitas.quant.scaled_int import Int8ActPerTensorFloat, Int8WeightPerChannelFloatMSE, Int8WeightPerTensorFloat
from brevitas.quant.shifted_scaled_int import ShiftedUint8ActPerTensorFloat
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowbit.data.detections import Detections
from lowbit.data.letterbox import InputSpec, preprocess
from lowbit.detector.checkpoint import OPSET
from lowbit.detector.head import Head
from lowbit.detector.torch_module import Raw, RawHead, convolutions
from lowbit.errors import BuildError
from lowbit.measure.comparison import HeadDifference, compare_heads, raw_heads
from lowbit.quantize.qat.crops import Targets
from lowbit.runtime import SessionOptions

MAX_OF_RANGE = 1e-3
# A flipped rounding is a whole step and travels on; seen: 23 to 40 dB. A wrong scale or axis leaves less than 10.
MIN_SQNR = 15.0
# The float module's checkpoint knows nothing of scales.
brevitas.config.IGNORE_MISSING_KEYS = True


class _Int8Channel(Int8WeightPerChannelFloatMSE):  # type: ignore[misc]  # Brevitas has no types
    """8 bits, a scale an output channel, chosen by least squares, then learnable."""

    narrow_range = False


class _Int4Channel(_Int8Channel):
    bit_width = 4


class _Int8Tensor(Int8WeightPerTensorFloat):  # type: ignore[misc]
    """8 bits, one scale from the largest weight."""

    narrow_range = False


class _Int4Tensor(_Int8Tensor):
    bit_width = 4


_WEIGHTS = {
    (8, "channel"): _Int8Channel,
    (4, "channel"): _Int4Channel,
    (8, "tensor"): _Int8Tensor,
    (4, "tensor"): _Int4Tensor,
}


def quantize_convolutions(network: RawHead, settings: Mapping[str, Any], eight: Collection[str]) -> None:
    """Replace every convolution of a fused detector but the DFL's by a quantized one with its weights.

    ``settings`` as :mod:`lowbit.quantize.brevitas` describes them; the convolutions named in ``eight`` get 8-bit
    weights. Only the quantized layers' parameters are trainable.
    """
    network.requires_grad_(False)
    inputs = Int8ActPerTensorFloat if settings.get("symmetric") else ShiftedUint8ActPerTensorFloat
    for name, conv in convolutions(network).items():
        layer = qnn.QuantConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            weight_quant=_WEIGHTS[8 if name in eight else settings["weight_bits"], settings["scales"]],
            input_quant=inputs if settings["activation_bits"] == 8 else None,
        )
        layer.weight.data.copy_(conv.weight.data)
        if conv.bias is not None:
            layer.bias.data.copy_(conv.bias.data)
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer)


def neck_and_head(network: RawHead) -> set[str]:
    """Names of the convolutions behind the backbone: from the first layer that joins several.

    What an object calls forth there is rare, and a percentile cuts off just that.
    """
    first = next(number for number, layer in enumerate(network.model.model) if not isinstance(layer.f, int))
    return {name for name in convolutions(network) if int(name.split(".")[2]) > first}


def calibrate(
    network: RawHead, images: Iterator[NDArray[np.float32]], *, fresh: bool = True, whole: Collection[str] = ()
) -> None:
    """Settle every scale: of weights by least squares, of quantized inputs from images.

    Inputs get Brevitas' percentiles, averaged over the images, but the convolutions named in ``whole`` the whole range
    seen. Where inputs are quantized, the weights are rounded in place. ``fresh=False`` leaves the weights' scales as they
    were loaded.
    """
    from brevitas.graph.calibrate import calibration_mode

    quantized = _quantized(network)
    with torch.inference_mode():
        first = next(images)
        network(torch.from_numpy(first))  # makes the scales
        for layer in quantized if fresh else ():
            learnt = getattr(layer.weight_quant.tensor_quant.scaling_impl, "value", None)
            if learnt is not None:
                # What is learnt is the largest magnitude, 2 ** (bits - 1) steps.
                bits = int(layer.quant_weight().bit_width)
                learnt.data.copy_(least_squares_scales(layer.weight, bits) * 2 ** (bits - 1))
        if any(layer.input_quant.is_quant_enabled for layer in quantized):
            for layer in quantized:
                # Brevitas calibrates with float weights; learnt ones are another network's before they are rounded.
                layer.weight.copy_(layer.quant_weight().value)
            found = convolutions(network)
            ranges = {name: _Range(found[name]) for name in whole}
            with calibration_mode(network):
                for batch in (first, *images):
                    network(torch.from_numpy(batch))
            for seen in ranges.values():
                seen.settle()


class _Range:
    """The least and the largest input of a quantized convolution, from its creation until it settles."""

    def __init__(self, layer: Any) -> None:
        self._layer, self._low, self._high = layer, 0.0, 0.0
        self._hook = layer.register_forward_pre_hook(self._look)

    def _look(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._low, self._high = min(self._low, float(inputs[0].min())), max(self._high, float(inputs[0].max()))

    def settle(self) -> None:
        """Make it the range that is quantized."""
        self._hook.remove()
        quantizer = self._layer.input_quant.fused_activation_quant_proxy.tensor_quant
        if self._layer.input_quant.is_signed:
            # What is learnt is 128 steps, and the largest integer is 127.
            quantizer.scaling_impl.value.data.fill_(max(-self._low, self._high) * 128 / 127)
            return
        quantizer.scaling_impl.value.data.fill_(self._high - self._low)
        quantizer.zero_point_impl.value.data.fill_(self._low)


def save(network: RawHead, path: Path) -> None:
    """Write the weights, biases and weight scales of the quantized layers as safetensors."""
    state = {name: value.contiguous() for name, value in network.state_dict().items() if "input_quant" not in name}
    save_file(state, path)


def load(network: RawHead, path: Path) -> None:
    """Take the weights, biases and weight scales that :func:`save` wrote. Raises :class:`BuildError` for strays."""
    strays = network.load_state_dict(load_file(path), strict=False)
    missing = [name for name in strays.missing_keys if "input_quant" not in name]
    if missing or strays.unexpected_keys:
        raise BuildError(f"{path}: does not fit: missing {missing[:3]}, unexpected {strays.unexpected_keys[:3]}.")


def least_squares_scales(weight: Tensor, bits: int, candidates: int = 500) -> Tensor:
    """The scale an output channel whose rounding to ``bits`` signed bits has the least squared error.

    ``weight``: float [out, ...]; returns float [out, 1, ...]. By exhaustive search: Brevitas' own local search ends
    a fifth above the least error at 4 bits, where a channel's error has many minima.
    """
    rows = weight.detach().flatten(1)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    full = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / high
    best, least = full.clone(), torch.full_like(full, torch.inf)
    for part in torch.linspace(0.3, 1.2, candidates):
        scale = full * part
        error = ((rows / scale).round().clamp(low, high) * scale - rows).square().sum(1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best.view(-1, *[1] * (weight.ndim - 1))


def is_scale(name: str) -> bool:
    """Whether a parameter's name is that of a scale or a zero point."""
    return "scaling" in name or "zero_point" in name


class Reach:
    """Keeps every weight within ``steps`` quantization steps of its float value. With half a step a weight can only be
    rounded up or down; with more, few images are still fitted by changing little."""

    def __init__(self, network: nn.Module, steps: float) -> None:
        self._started = [(layer.weight.detach().clone(), int(_bits(layer))) for layer in _quantized(network)]
        self._steps = steps

    def __call__(self, network: nn.Module) -> None:
        for layer, (weight, bits) in zip(_quantized(network), self._started, strict=True):
            # A step of its own bits, also while it has more of them.
            reach = layer.quant_weight().scale * (self._steps * 2.0 ** (_bits(layer) - bits))
            weight = weight.to(reach.device)
            layer.weight.copy_(torch.minimum(torch.maximum(layer.weight, weight - reach), weight + reach))


class Widths:
    """Gives weights more bits for a while: the same range in finer steps."""

    def __init__(self, network: nn.Module) -> None:
        self._own = [float(_bits(layer)) for layer in _quantized(network)]

    def __call__(self, network: nn.Module, least: int) -> None:
        """Give the weights of every convolution ``least`` bits, or their own if those are more."""
        for layer, own in zip(_quantized(network), self._own, strict=True):
            _bits(layer).fill_(max(own, least))


def _quantized(network: nn.Module) -> list[Any]:
    return [layer for layer in network.modules() if isinstance(layer, qnn.QuantConv2d)]


def _bits(layer: Any) -> Tensor:
    """A quantized convolution's weight bits, a scalar that the quantizer reads; no part of its state."""
    bits: Tensor = layer.weight_quant.tensor_quant.msb_clamp_bit_width_impl.bit_width.value
    return bits


class DetectionLoss:
    """Ultralytics' loss of labelled boxes on a raw head: task-aligned assignment, one anchor an object for a
    one-to-one head, its default gains."""

    def __init__(self, network: RawHead) -> None:
        from ultralytics.cfg import get_cfg
        from ultralytics.utils.loss import v8DetectionLoss

        network.model.args = get_cfg()
        one = network.model.model[-1].end2end
        self._loss = v8DetectionLoss(network.model, tal_topk=7 if one else 10, tal_topk2=1 if one else None)

    def __call__(self, raw: Raw, targets: Targets) -> Tensor:
        """The sum of box, class and distribution losses, per image."""
        features, boxes, scores = raw
        total, _ = self._loss.loss({"boxes": boxes.float(), "scores": scores.float(), "feats": features}, targets)
        mean: Tensor = total.sum() / boxes.shape[0]
        return mean


def detections(network: RawHead, image: Path, *, head: Head) -> Detections:
    """What a network sees on an image, in the image's pixels."""
    tensor, place = preprocess(image, InputSpec(head.sides[0]))
    with torch.inference_mode():
        output: Any = network.model(torch.from_numpy(tensor).to(next(network.parameters()).device))
    seen = head.decode([(output[0] if isinstance(output, tuple) else output).cpu().numpy()])
    return Detections(place.to_image(seen.boxes), seen.scores, seen.classes)


def export(network: RawHead, size: int, path: Path) -> None:
    """Write the QCDQ graph of a fake-quantized detector, end to end, as the FP32 export is."""
    from brevitas.export import export_onnx_qcdq

    head = network.model.model[-1]
    head.export, head.format = True, "onnx"
    export_onnx_qcdq(
        network.model,
        args=torch.zeros(1, 3, size, size),
        export_path=str(path),
        input_names=["images"],
        output_names=["output0"],
        opset_version=OPSET,
        dynamo=False,
    )
    head.export = False


def check_parity(
    network: RawHead, model: onnx.ModelProto, images: Sequence[NDArray[np.float32]], *, quantized_inputs: bool
) -> HeadDifference:
    """Compare the exported graph, executed as written, with the fake-quantized module, raw head by raw head.

    Raises :class:`BuildError` if they differ by more than rounding does: :data:`MAX_OF_RANGE` of the raw head's range
    with float activations; with quantized ones, where a value close to a rounding boundary may fall to either side,
    an SQNR under :data:`MIN_SQNR` dB.
    """
    expected: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for image in images:
            features = network.features(torch.from_numpy(image))
            for kind in network.branches.values():
                expected += [branch(x).numpy() for branch, x in zip(kind, features, strict=True)]
    difference = compare_heads(expected, raw_heads(model, SessionOptions(optimized=False), images))
    close = difference.sqnr_db >= MIN_SQNR if quantized_inputs else difference.of_range <= MAX_OF_RANGE
    if not close:
        raise BuildError(
            f"the exported graph and the fake-quantized module differ by {difference.of_range:.2%} of the raw head's "
            f"range (SQNR {difference.sqnr_db:.1f} dB): the export is wrong."
        )
    return difference
