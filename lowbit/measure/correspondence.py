"""Which tensor of a quantized graph is which of the float graph: by name, by weight, and by what reads what.

Tools keep most names. Where one renamed tensors, convolutions are known by their weights, and other nodes by reading
what corresponds. A name alone proves nothing: exporters number tensors, and the same number may be another node. So the
operators must be the same too, and of convolutions the weights.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.graph.nodes import constants, inputs, is_dfl, stored_weights
from lowbit.runtime import plain_session

if TYPE_CHECKING:
    import onnx

# What gives the values that it is given, but for rounding.
_STORAGE = frozenset({"Cast", "Identity", "QuantizeLinear", "DequantizeLinear"})
# What puts rows into an order or chooses some of them: behind it two graphs have different rows at the same place.
_SELECTING = frozenset({"TopK", "NonMaxSuppression", "NonZero", "ArgMax", "ArgMin", "Unique"})
# Names of operators on integers, without what says so.
_INTEGER_OPS = {"QGemm": "Gemm", "ConvInteger": "Conv", "MatMulInteger": "MatMul", "MatMulIntegerToFloat": "MatMul"}
# Where an operator on integers has its output's scale; the zero point follows it.
_SCALE_AT = {"QLinearConcat": 0, "QLinearSigmoid": 3, "QLinearLeakyRelu": 3, "QLinearAveragePool": 3, "QGemm": 7}
_SCALE_AT |= {"QLinearGlobalAveragePool": 3, "QLinearSoftmax": 3}
_SCALE_OF_OTHERS = 6
# Cosine of two weights from which on they are the same one, quantized; other layers' are near 0.
_SAME_WEIGHT = 0.5
ABSENT, SELECTED = "not in the quantized graph", "behind a selection, in another order"
SHAPES, INTEGERS = "of another shape", "of integers whose scale depends on the image"


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor of the float graph, the ``node`` and ``op`` that make it, and the ``other`` graph's.

    ``scale`` and ``zero``: names of the scale and zero point of an ``other`` that holds integers, else empty.
    """

    name: str
    node: str
    op: str
    other: str
    scale: str = ""
    zero: str = ""


@dataclass(frozen=True, slots=True)
class Correspondence:
    """``pairs`` in the float graph's order; ``skipped``: how many tensors of it have none, by the reason.

    ``parents``: the paired tensors that each paired one is computed from, with no other paired one between. ``weights``:
    of convolutions, float32 [out, in / group, kh, kw] in both graphs, by the paired tensor's name.
    """

    pairs: list[Pair]
    skipped: dict[str, int]
    parents: dict[str, list[str]]
    weights: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]


def correspond(reference: onnx.ModelProto, other: onnx.ModelProto) -> Correspondence:
    """Find the tensors that both graphs have. ``reference``: the float graph. Nodes have names; both take one image."""
    one, two = _Graph(reference), _Graph(other)
    named = {name: name for name in one.makers if one.op(name) == two.op(name)}
    found = _by_weight(one, two, named)
    found |= {name: name for name in named if one.op(name) != "Conv" and name not in found}
    _by_readers(one, two, found)
    selected = one.behind(_SELECTING)
    pairs, skipped = [], Counter[str]()
    parents: dict[str, list[str]] = {}
    nearest: dict[str, list[str]] = {}
    for node in reference.graph.node:
        above = list(dict.fromkeys(place for name in node.input for place in nearest.get(name, [])))
        for name in node.output:
            nearest[name] = above
            if name not in one.dynamic or node.op_type in _STORAGE:
                continue
            if name in selected:
                skipped[SELECTED] += 1
            elif name not in found:
                skipped[ABSENT] += 1
            else:
                place = found[name]
                pairs.append(Pair(name, node.name, node.op_type, place, *two.quantizer(place)))
                parents[name], nearest[name] = above, [name]
    weights = {name: (one.weights[name], two.weights[found[name]]) for name in parents if name in one.weights}
    return Correspondence(pairs, dict(skipped), parents, {k: (a, b) for k, (a, b) in weights.items()})


class _Graph:
    """What is asked of either graph. ``dynamic``: names of the tensors that depend on the image. ``makers``: the node of
    each of them that is no storage. ``weights``: of convolutions, by the output."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.stored = model, constants(model)
        self.image = inputs(model)[0].name
        self._nodes = {name: node for node in model.graph.node for name in node.output}
        self.dynamic = self._reached({self.image})
        self.makers = {name: node for name in self.dynamic - {self.image} if (node := self._maker(name)) is not None}
        self.weights = self._weights()

    def _reached(self, start: Collection[str]) -> set[str]:
        found = set(start)
        for node in self.model.graph.node:  # topologically sorted
            if found.intersection(node.input) and node.op_type not in ("Shape", "Size"):
                found.update(name for name in node.output if name)
        return found

    def behind(self, ops: Collection[str]) -> set[str]:
        """Names of what nodes of these operators give, and of all behind it."""
        start = {name for node in self.model.graph.node if node.op_type in ops for name in node.output}
        return self._reached(start & self.dynamic)

    def root(self, name: str) -> str:
        """The tensor of which this one has the values, stored or rounded otherwise."""
        while (node := self._nodes.get(name)) is not None and (node.op_type in _STORAGE or self._bounds(node)):
            name = node.input[0]
        return name

    def _bounds(self, node: onnx.NodeProto) -> bool:
        """Whether a node is the Clip of QCDQ, which says how many bits of the integers are used."""
        before = self._nodes.get(node.input[0]) if node.op_type == "Clip" else None
        return before is not None and before.op_type == "QuantizeLinear"

    def _maker(self, name: str) -> onnx.NodeProto | None:
        return self._nodes.get(self.root(name))

    def op(self, name: str) -> str:
        """The operator that makes a tensor, whether of floats or of integers; empty for none."""
        node = self.makers.get(name)
        kind = node.op_type if node is not None else ""
        return _INTEGER_OPS.get(kind, kind.removeprefix("QLinear"))

    def by_reading(self) -> dict[tuple[str, ...], list[str]]:
        """First outputs by their operator and by what it reads of the image, in the graph's order."""
        found: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for node in self.model.graph.node:
            name = node.output[0] if node.output else ""
            if name in self.makers and self.root(name) == name:
                read = [self.root(one) for one in node.input if one in self.dynamic]
                found[self.op(name), *read].append(name)
        return found

    def quantizer(self, name: str) -> tuple[str, str]:
        """Names of scale and zero point of a tensor of integers; empty for one of floats."""
        node = self._nodes[name]
        if node.op_type == "QuantizeLinear":
            return node.input[1], node.input[2] if len(node.input) > 2 else ""
        if node.op_type in graph.PASSING and node.input[0] in self._nodes:
            return self.quantizer(node.input[0])
        if not (node.op_type.startswith("QLinear") or node.op_type == "QGemm"):
            return "", ""
        at = _SCALE_AT.get(node.op_type, _SCALE_OF_OTHERS)
        names = [*node.input, "", ""]
        return names[at], names[at + 1] if names[at] else ""

    def _weights(self) -> dict[str, NDArray[np.float32]]:
        """Of every convolution whose weight does not depend on the image, in float, by its output."""
        values = stored_weights(self.model)
        wanted, found = {}, {}
        for node in self.model.graph.node:
            if node.op_type == "Conv" and node.input[1] not in self.dynamic and not is_dfl(node, values):
                wanted[node.output[0]] = node.input[1]
            elif node.op_type == "QLinearConv":
                weight, scale, zero = (self.stored[name].astype(np.float32) for name in node.input[3:6])
                shape = (-1, *[1] * (weight.ndim - 1))
                found[node.output[0]] = np.asarray((weight - zero.reshape(shape)) * scale.reshape(shape), np.float32)
        computed = self._computed({name for name in wanted.values() if name not in self.stored})
        known = {**self.stored, **computed}
        return found | {out: known[name].astype(np.float32) for out, name in wanted.items() if name in known}

    def _computed(self, names: Collection[str]) -> dict[str, NDArray[Any]]:
        """What does not depend on the image: weights behind quantizers, as ONNX Runtime computes them."""
        import onnx

        if not names:
            return {}
        needed = set(names)
        nodes = []
        for node in reversed(self.model.graph.node):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        stored = [tensor for tensor in self.model.graph.initializer if tensor.name in needed]
        values = [onnx.helper.make_empty_tensor_value_info(name) for name in sorted(names)]
        body = onnx.helper.make_graph(nodes[::-1], "weights", [], values, stored)
        part = onnx.helper.make_model(body, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        results = plain_session(part, optimized=False).run(sorted(names), {})
        return dict(zip(sorted(names), results, strict=True))


def weight_forms(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Bits and number of scales of every convolution's weight that is stored in integers or FP8, by the output."""
    stored = constants(model)
    makers = {node.name: node.output[0] for node in model.graph.node if node.output}
    found = {makers[one.node]: (one.bits, one.scales) for one in graph.structure(model).weights if one.quantized}
    for node in model.graph.node:
        if node.op_type == "QLinearConv":
            found[node.output[0]] = 8, stored[node.input[4]].size
    return found


def _by_weight(one: _Graph, two: _Graph, named: Collection[str]) -> dict[str, str]:
    """Convolutions: those of the same name whose weights are no other layer's, then those whose weights are most alike."""
    found: dict[str, str] = {}
    shapes: dict[tuple[int, ...], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for number, side in enumerate((one, two)):
        for name, weight in side.weights.items():
            shapes[weight.shape][number].append(name)
    for mine, theirs in shapes.values():
        if not mine or not theirs:
            continue
        rows = [_direction(one.weights[name]) for name in mine]
        alike = np.stack(rows) @ np.stack([_direction(two.weights[name]) for name in theirs]).T
        for row, name in enumerate(mine):
            if name in named and name in theirs and alike[row, theirs.index(name)] > alike[row].max() - _SAME_WEIGHT:
                found[name] = name
                alike[row], alike[:, theirs.index(name)] = -1, -1
        for row, name in enumerate(mine):
            column = int(alike[row].argmax())
            if alike[row, column] >= _SAME_WEIGHT and int(alike[:, column].argmax()) == row:
                found[name] = theirs[column]
    # Convolutions without a stored weight, as the distribution focal loss'.
    return found | {n: n for n in named if one.op(n) == "Conv" and n not in one.weights and n not in two.weights}


def _direction(weight: NDArray[np.float32]) -> NDArray[np.float64]:
    flat = np.nan_to_num(weight.ravel().astype(float), posinf=0.0, neginf=0.0)
    return flat / max(float(np.linalg.norm(flat)), 1e-30)


def _by_readers(one: _Graph, two: _Graph, found: dict[str, str]) -> None:
    """Nodes that no name gives away: the only one of its operator in either graph that reads what corresponds and is not
    known yet."""
    taken = set(found.values())
    mine, theirs = one.by_reading(), two.by_reading()
    for (kind, *roots), names in mine.items():  # in the graph's order: what a node reads is known before
        left = [name for name in names if name not in found]
        if len(left) != 1 or any(name not in found and name != one.image for name in roots):
            continue
        read = [two.image if name == one.image else two.root(found[name]) for name in roots]
        free = [name for name in theirs.get((kind, *read), ()) if name not in taken]
        if len(free) == 1:
            found[left[0]] = free[0]
            taken.add(free[0])
