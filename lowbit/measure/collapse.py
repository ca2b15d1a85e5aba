"""Where a collapse begins: a quantized graph compared with the float graph, tensor by tensor along the network.

Both run without optimization on the same images, the quantized one as its Q/DQ nodes say; what kernels without VNNI lose
besides is emulated. A tensor's SQNR is cumulative: it has the noise of all that it is computed from. From the worst end
of the network one goes back along the noisiest inputs. The last node on this way whose SQNR is below
:data:`DEPARTED_DB` is where the network departs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit.errors import InputError, LowbitError, UnavailableError
from lowbit.graph.nodes import name_nodes
from lowbit.measure.correspondence import Correspondence, Pair, correspond, weight_forms
from lowbit.measure.divergence import NOT_FINITE_DB, Divergence, Emulated, Measured, Reading, Sums, channel_axis
from lowbit.measure.emulation import Config, Emulator
from lowbit.measure.parity import decibels
from lowbit.measure.quantizers import Range, ranges

if TYPE_CHECKING:
    import onnx

# Images that are run.
IMAGES = 4
# Noise of a tenth of the signal's power. Quantized detectors that work stay above it, see docs/verdict.md.
DEPARTED_DB = 10.0
# A fall of so much in one node belongs to where the network departs, too.
FALL_DB = 6.0
# Operators whose inputs have one unit, but for a Concat of boxes and scores.
_JOINING = ("Concat", "Add", "Sub", "Sum")
# Nodes that are shown before the one where a network departs.
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Quantized:
    """What the quantizer of a tensor alone does to the float graph's values: the ``range`` that it can give, the share of
    values that it clips and of the noise that is theirs, the SQNR that is left (behind the SiLU that alone reads the
    tensor: what it makes zero of may be clipped), and the share of visible channels that are lost, in the decode tail.
    ``done``: whether the tensor that was compared has been through it."""

    range: tuple[float, float]
    clipped: float
    clipped_noise: float
    sqnr_db: float
    lost: float
    done: bool


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the float graph on the way of a collapse, with the tensor that it gives in both graphs.

    ``sqnr_db``: cumulative; ``lost``: share of the visible channels that are lost, in the decode tail, else 0.
    ``range``: lowest and highest in float; ``other_range``: in the quantized graph. ``quantized``: by the tensor's
    quantizer, None without one. ``weight_db``: the SQNR of the convolution's weight; ``weight_bits``: enough for the
    different values of each of its channels; ``weight_scales``: how many it has, None where that can't be read; all None
    for what has no quantized weight. ``saturated``: share of its sums that pass 16 bits without VNNI. ``not_finite``: share
    of its numbers that are not, and are in float.
    """

    name: str
    op: str
    sqnr_db: float
    lost: float
    range: tuple[float, float]
    other_range: tuple[float, float]
    quantized: Quantized | None
    weight_db: float | None
    weight_bits: int | None
    weight_scales: int | None
    saturated: float | None
    not_finite: float


@dataclass(frozen=True, slots=True)
class Collapse:
    """``compared`` and ``skipped``: tensors, the latter by the reason; ``curve``: dB by node in the float graph's order;
    ``end``: the worst of the nodes that nothing compared is computed from, and ``end_db`` its SQNR, with all of its kind
    where the raw head has several; ``way``: from the first node that departs to
    the end, by name, empty for a network that doesn't. ``nodes``: the first of them with what it reads and what reads it;
    without a departure those where the SQNR falls most. ``in_tail``: whether it begins behind the raw head.
    ``without_vnni``: the same as x86 processors without VNNI compute it, if that differs."""

    images: int
    compared: int
    skipped: dict[str, int]
    curve: dict[str, float]
    end: str
    end_db: float
    way: list[str]
    nodes: list[Node]
    in_tail: bool
    without_vnni: Collapse | None = None

    @property
    def departs(self) -> str | None:
        """The first node that departs."""
        return self.way[0] if self.way else None


def explain(
    reference: onnx.ModelProto,
    other: onnx.ModelProto,
    images: Sequence[NDArray[np.float32]],
    config: Config = (),
    *,
    emulated: bool = True,
) -> Collapse:
    """Compare a quantized graph with the float one. ``images``: float32 [1, 3, height, width] each, with objects;
    ``config``: the session configuration entries with which it is deployed; ``emulated``: find out what is lost without
    VNNI, on the first image, which takes minutes for a large input.

    Raises :class:`LowbitError` if there is nothing to compare: no images, or no tensor that both graphs have.
    """
    if not images:
        raise LowbitError("there are no images to compare the two graphs on.")
    reference, other = _named(reference), _named(other)
    found = correspond(reference, other)
    if not found.pairs:
        raise LowbitError(
            "the two graphs have no tensor in common, so nothing was compared: neither names nor weights nor what nodes "
            "read correspond. Is the FP32 export of the same detector?"
        )
    same = [Pair(pair.name, pair.node, pair.op, pair.name) for pair in found.pairs]
    divergence = Divergence(reference, found, Reading(reference, same), images)
    plain, way = divergence.measure(Reading(other, found.pairs)), _Way(reference, other, divergence)
    emulator = _emulator(other, config) if emulated else None
    if emulator is None:
        return way.collapse(plain, {})
    pairs = [pair for pair in found.pairs if pair.op == "Conv" and not pair.scale and emulator.has(pair.other)]
    exact = Divergence(reference, found, Emulated(emulator, pairs, vnni=True), images[:1])
    lossy = exact.measure(Emulated(emulator, pairs, vnni=False))
    saturated = _saturated(other, found, emulator)
    if not saturated:
        return way.collapse(plain, {})
    besides = _Way(reference, other, exact).collapse(lossy, saturated) if lossy.db else None
    return way.collapse(plain, saturated, besides)


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    name_nodes(copied)
    return copied


def _emulator(other: onnx.ModelProto, config: Config) -> Emulator | None:
    """None for a graph that loses nothing without VNNI, or of which that can't be told."""
    try:
        emulator = Emulator(other, config)
    except (InputError, UnavailableError):  # not taken by the optimizer, or a product that isn't emulated
        return None
    return emulator if emulator.saturating else None


def _saturated(other: onnx.ModelProto, found: Correspondence, emulator: Emulator) -> dict[str, float]:
    """The share of sums that saturate, by the float graph's node."""
    makers = {name: node.name for node in other.graph.node for name in node.output}
    of_other = {makers[pair.other]: pair.node for pair in found.pairs if pair.other in makers}
    return {of_other.get(layer.name, layer.name): layer.share for layer in emulator.layers() if layer.share}


class _Way:
    """What a comparison of two graphs says."""

    def __init__(self, reference: onnx.ModelProto, other: onnx.ModelProto, divergence: Divergence) -> None:
        self._divergence, self.found, self._tail = divergence, divergence.found, divergence.tail
        self._other, self._forms = other, weight_forms(other)
        self._pairs = {pair.name: pair for pair in self.found.pairs}
        reads: dict[str, set[str]] = {}
        for node in reference.graph.node:
            for name in node.input:
                reads.setdefault(name, set()).add(node.op_type)
        self._silus = {name for name, ops in reads.items() if ops == {"Sigmoid", "Mul"}}

    def collapse(
        self, measured: Measured, saturated: dict[str, float], without_vnni: Collapse | None = None
    ) -> Collapse:
        """What the comparison says."""
        if not measured.db:
            raise LowbitError(
                f"of {len(self.found.pairs)} tensors that both graphs have none could be compared, so nothing was: "
                f"{counted(measured.skipped)}."
            )
        parents = {name: self._compared(name, measured) for name in measured.db}
        read = {one for above in parents.values() for one in above}
        db = measured.db
        end, end_db = self._end([name for name in db if name not in read], measured)
        broken = [name for name in db if measured.sums[name].not_finite]
        if broken:
            # Whether or not the end has them: ONNX Runtime's CPU provider keeps float32 between nodes in half precision.
            way = list(dict.fromkeys((broken[0], end)))
        else:
            way = self._way(end, parents, measured) if end_db < DEPARTED_DB else []
        if way:
            children = [name for name, above in parents.items() if way[0] in above]
            shown = {*self._before(way[0], parents), *way[:3], *children[:3]}
        else:
            falls = sorted(db, key=lambda name: db[name] - min((db[one] for one in parents[name]), default=60.0))
            shown = set(falls[:8])
        curve: dict[str, float] = {}
        for name, value in db.items():
            node = self._pairs[name].node
            curve[node] = min(value, curve.get(node, value))  # of several outputs the worst
        quantized = ranges(self._other, [self._pairs[name] for name in db if name in shown])
        return Collapse(
            len(self._divergence.images),
            len(db),
            measured.skipped,
            curve,
            self._pairs[end].node,
            end_db,
            [self._pairs[name].node for name in way],
            [self._node(name, measured, quantized, saturated) for name in db if name in shown],
            bool(way) and way[0] in self._tail,
            without_vnni,
        )

    def _compared(self, name: str, measured: Measured) -> list[str]:
        """What a tensor is computed from, of those that were compared."""
        found: dict[str, None] = {}
        left, seen = list(self.found.parents[name]), set[str]()
        while left:
            one = left.pop()
            if one in measured.db:
                found[one] = None
            elif one not in seen:
                seen.add(one)
                left += self.found.parents[one]
        return list(found)

    def _before(self, name: str, parents: dict[str, list[str]]) -> set[str]:
        """A node and what it reads, back to the next convolutions and what those read."""
        found, left = {name}, [name]
        while left and len(found) < _SHOWN:
            one = left.pop(0)
            found.update(parents[one])
            left += [above for above in parents[one] if self._pairs[above].op != "Conv"]
            if one == name:
                continue
            found.update(above for conv in parents[one] if self._pairs[conv].op == "Conv" for above in parents[conv])
        return found

    def _end(self, ends: Sequence[str], measured: Measured) -> tuple[str, float]:
        """The worst of the tensors that nothing is computed from, and its dB.

        What the raw head gives of one kind, as classes at three strides, is one tensor for this: where nothing is ever
        seen at a stride, its scores are noise and do no harm.
        """
        kinds: dict[tuple[Any, ...], list[str]] = {}
        for name in ends:
            sums = measured.sums[name]
            kinds.setdefault((name,) if name in self._tail else (sums.channels,), []).append(name)
        found = [(name, measured.db[name]) for names in kinds.values() if len(names) == 1 for name in names]
        for names in kinds.values():
            joined = [measured.sums[name].differences for name in names]
            db = decibels(sum(one.power for one in joined), sum(one.noise for one in joined))
            noisiest = max(
                names, key=lambda name: (measured.sums[name].not_finite, measured.sums[name].differences.noise)
            )
            broken = any(measured.sums[name].not_finite for name in names)
            if len(names) > 1:
                found.append((noisiest, NOT_FINITE_DB if broken else db))
        visible = [one for one in found if measured.sums[one[0]].visible or one[1] == NOT_FINITE_DB]
        return min(visible or found, key=lambda one: one[1])

    def _way(self, end: str, parents: dict[str, list[str]], measured: Measured) -> list[str]:
        """From where the network departs to its end."""
        db, way = measured.db, [end]
        while above := parents[way[0]]:
            if self._joins(way[0], above, measured):
                worst = max(above, key=lambda name: measured.sums[name].differences.noise)
            else:
                worst = min(above, key=db.__getitem__)
            before = min((db[one] for one in parents[worst]), default=np.inf)
            if db[worst] >= DEPARTED_DB and (db[worst] >= 3 * DEPARTED_DB or before - db[worst] < FALL_DB):
                break
            way.insert(0, worst)
        return way

    def _joins(self, name: str, above: Sequence[str], measured: Measured) -> bool:
        """Whether what a node reads has one unit: the noise of each then counts, however little it is of its own signal."""
        op, shape = self._pairs[name].op, measured.sums[name].shape
        if op != "Concat" or name not in self._tail or len(shape) != 3:
            return op in _JOINING
        channels = channel_axis(shape, self._divergence.heads)
        return all(measured.sums[one].shape[channels] == shape[channels] for one in above)

    def _node(self, name: str, measured: Measured, quantized: dict[str, Range], saturated: dict[str, float]) -> Node:
        pair, sums = self._pairs[name], measured.sums[name]
        weights, form = self.found.weights.get(name), self._forms.get(pair.other)
        return Node(
            pair.node,
            pair.op,
            measured.db[name],
            sums.lost if name in self._divergence.mixed else 0.0,
            sums.range,
            sums.other_range,
            self._alone(name, quantized[name]) if name in quantized else None,
            _sqnr_db(*weights) if weights and form else None,
            _bits(weights[1], form[0]) if weights and form else None,
            form[1] if form else None,
            saturated.get(pair.node),
            sums.not_finite / sums.size,
        )

    def _alone(self, name: str, quantizer: Range) -> Quantized:
        """What the quantizer of a tensor does to the float graph's values."""
        sums, clipped, theirs = Sums(self._divergence.heads), 0, 0.0
        for values in self._divergence.values(name):
            given, outside = quantizer.rounded(values)
            clipped += int(outside.sum())
            if name in self._silus:
                values, given = _silu(values), _silu(given)
            sums.add(values, given)
            theirs += float(np.square(given - values, dtype=float)[outside].sum())
        noise, mixed = max(sums.differences.noise, 1e-300), name in self._divergence.mixed
        lost = sums.lost if mixed else 0.0
        return Quantized(
            quantizer.ends,
            clipped / sums.size,
            min(theirs / noise, 1.0),
            self._divergence.db(name, sums),
            lost,
            quantizer.done,
        )


def _silu(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(values / (1 + np.exp(-np.clip(values, -80, 80))), np.float32)


def _sqnr_db(one: NDArray[np.float32], two: NDArray[np.float32]) -> float:
    noise = float(np.square(two - one, dtype=float).sum())
    return 10 * float(np.log10(max(float(np.square(one, dtype=float).sum()), 1e-300) / max(noise, 1e-300)))


def _bits(weight: NDArray[np.float32], stored: int) -> int:
    """Bits that a stored weight uses: tools store four in bytes, too."""
    rows = weight.reshape(len(weight), -1)
    if rows.shape[1] < 2**4:  # as many values as four bits have
        return stored
    return min(stored, 4) if all(len(np.unique(row)) <= 2**4 for row in rows) else stored


def counted(skipped: dict[str, int]) -> str:
    """How many tensors were not compared, and why."""
    return ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "none was skipped"
