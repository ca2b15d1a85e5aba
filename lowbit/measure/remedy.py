"""Why a network departs where it does, and the scheme of the catalogue that mends it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from lowbit.measure.collapse import DEPARTED_DB, Collapse, Node
from lowbit.schemes import Scheme, find_scheme

# What does less harm than this is not why a network departs: its own noise is a tenth of what departs.
_HARMLESS_DB = 2 * DEPARTED_DB


class Cause(StrEnum):
    """What began a collapse."""

    NOT_FINITE = "numbers beyond the type's range"
    SATURATION = "sums of two products beyond 16 bits"
    TAIL = "a quantized decode tail"
    TENSOR_SCALE = "weights with one scale a tensor"
    WEIGHTS = "weights with too few bits"
    CLIPPED = "a range that is too narrow"
    COARSE = "a range that is too wide"
    ACCUMULATED = "noise of many layers"


@dataclass(frozen=True, slots=True)
class Remedy:
    """``cause`` at the node ``where``, None where it is no single one's; ``scheme``: the id of the proposal, None where
    the catalogue has none for this detector; ``reason``: both in a sentence."""

    cause: Cause
    where: str | None
    scheme: str | None
    reason: str


_IN_BITS = {
    True: ("w4a16-brevitas-gptq", "mixed-native-d1.0", "w4a16-brevitas-k20", "w8a16-brevitas"),
    False: ("w4a8-brevitas-gptq", "mixed-ort-d1.0", "int8-ort-minmax"),
}
_GENTLER = {"modelopt": ("int8-modelopt-k10", "int8-modelopt-k20"), "ort": ("mixed-ort-d1.0", "mixed-ort-d0.5")}
_WIDER = {"modelopt": ("int8-modelopt-max",), "ort": ("int8-ort-minmax",)}
_NARROWER = {"modelopt": ("int8-modelopt-entropy",), "ort": ("int8-ort-entropy",)}


def _proposals(cause: Cause, scheme: Scheme) -> Iterator[str]:
    """Ids of the schemes that mend a cause, the nearest to the scheme first."""
    if cause is Cause.NOT_FINITE or not scheme.quantized:
        yield from ("fp32-lean", "fp32")
        return
    if cause is Cause.TAIL and scheme.tool == "modelopt" and scheme.precision == "int8":
        yield "int8-modelopt-entropy-headfp"
    if cause in (Cause.TENSOR_SCALE, Cause.WEIGHTS) and scheme.weight_bits < 8:
        yield from _IN_BITS[scheme.weights_only]
    if cause is Cause.CLIPPED:
        yield from _WIDER.get(scheme.tool, ())
    if cause is Cause.COARSE:
        yield from _NARROWER.get(scheme.tool, ())
    if cause in (Cause.COARSE, Cause.ACCUMULATED):
        if scheme.precision == "fp8":
            yield from ("fp8-modelopt-k10", "fp8-modelopt-k20")
        yield from _IN_BITS[scheme.weights_only] if scheme.weight_bits < 8 else _GENTLER.get(scheme.tool, ())
    yield from ("mixed-native-d1.0", "w8a16-brevitas") if scheme.weights_only else ()
    yield from ("int8-ort-minmax", "int8-ort-entropy", "mixed-ort-d1.0") if not scheme.weights_only else ()


_MENDS = {
    Cause.NOT_FINITE: "float32 holds them",
    Cause.SATURATION: "its weights have 7 bits where sums would not fit",
    Cause.TAIL: "it leaves boxes and scores in float",
    Cause.TENSOR_SCALE: "every output channel has a scale of its own",
    Cause.WEIGHTS: "its weights are rounded with less harm or have more bits",
    Cause.CLIPPED: "its ranges come from the largest values, or fewer layers are quantized",
    Cause.COARSE: "its ranges leave outliers out, or fewer layers are quantized",
    Cause.ACCUMULATED: "it keeps what hurts most in more bits",
}


def remedy(found: Collapse, scheme: Scheme, usable: Callable[[Scheme], bool], passed: Collection[str] = ()) -> Remedy:
    """What to do about a collapse. ``usable``: whether a scheme can be built of the detector; ``passed``: ids of schemes
    that are known to pass, which go first."""
    cause, where, said = _cause(found)
    ids = dict.fromkeys(one for one in _proposals(cause, scheme) if one != scheme.id)
    fit = [one for one in sorted(ids, key=lambda one: one not in passed) if usable(find_scheme(one))]
    if not fit:
        return Remedy(cause, where, None, f"{said}. No other scheme of the catalogue mends that for this detector.")
    also = ", and it passed in this run" if fit[0] in passed else ""
    return Remedy(cause, where, fit[0], f"{said}. Use {fit[0]}: {_MENDS[cause]}{also}.")


def _cause(found: Collapse) -> tuple[Cause, str | None, str]:
    """Kind, node and a sentence without its full stop."""
    lossy = found.without_vnni
    if not found.departs and lossy is not None and lossy.departs:
        share = max(
            (node.saturated or 0.0 for node in found.nodes + lossy.nodes if node.name == lossy.departs), default=0
        )
        return (
            Cause.SATURATION,
            lossy.departs,
            f"At {lossy.departs} {share:.2g} of the sums saturate on x86 processors without VNNI",
        )
    # Of several outputs of a node the worst.
    nodes = {node.name: node for node in sorted(found.nodes, key=lambda node: -node.sqnr_db)}
    departed = nodes.get(found.departs or "")
    if departed is None:
        worst = min(found.nodes, key=lambda node: node.sqnr_db)
        return Cause.ACCUMULATED, None, f"No single node begins it; of those that add most, {worst.name} is the worst"
    if departed.not_finite:
        return (
            Cause.NOT_FINITE,
            departed.name,
            f"{departed.name} gives numbers that are not finite ({departed.not_finite:.2g} of them) where float32 gives up to "
            f"{max(map(abs, departed.range)):.4g}",
        )
    harms = sorted(_harms(found, departed), key=lambda harm: harm[0])
    if not harms or harms[0][0] > _HARMLESS_DB:
        return (
            Cause.ACCUMULATED,
            departed.name,
            f"At {departed.name} the noise of the layers before it has become too much",
        )
    _, cause, node, said = harms[0]
    return cause, node.name, said


def _harms(found: Collapse, departed: Node) -> Iterator[tuple[float, Cause, Node, str]]:
    """What of the nodes up to the departure does harm by itself: the SQNR that it leaves, and what it is."""
    for node in found.nodes:
        if node.weight_db is not None and node.weight_bits is not None:
            one_scale = node.weight_scales == 1
            yield (
                node.weight_db,
                Cause.TENSOR_SCALE if one_scale else Cause.WEIGHTS,
                node,
                f"The weights of {node.name} in {node.weight_bits} bits{' with one scale' * one_scale} have an SQNR of "
                f"{node.weight_db:.1f} dB",
            )
        quantized = node.quantized
        if quantized is not None and (quantized.done or node is not departed):
            low, high = quantized.range
            clips = quantized.clipped_noise > 0.5
            cause = Cause.TAIL if found.in_tail else Cause.CLIPPED if clips else Cause.COARSE
            what = f"{quantized.clipped:.2%} clipped"
            if found.in_tail:
                what = f"{quantized.lost:.0%} of its channels lost"
            yield (
                quantized.sqnr_db,
                cause,
                node,
                f"The output of {node.name}, in float {node.range[0]:.4g} to {node.range[1]:.4g}, is quantized to "
                f"{low:.4g} to {high:.4g} with {what}, which alone leaves an SQNR of {quantized.sqnr_db:.1f} dB",
            )
        if node is departed:
            return
