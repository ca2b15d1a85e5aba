"""An artifact as it computes on the other kind of x86 processor: with VNNI, or without.

The graph is taken as ONNX Runtime's optimizer leaves it, so that what runs in integers here is what runs in integers
there. It is cut at the kernels whose sums may pass 16 bits. Those run in NumPy (:mod:`lowbit.measure.integer_kernels`), all others
in ONNX Runtime; they compute the same on every processor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.errors import InputError, UnavailableError
from lowbit.graph import saturation
from lowbit.graph.nodes import inputs
from lowbit.measure import integer_kernels
from lowbit.runtime import kernels_saturate, optimized_graph, plain_session

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Config = tuple[tuple[str, str], ...]
# Signed activations become unsigned ones on x86, which is what is emulated; on ARM they do not of themselves.
_AS_ON_X86: Config = (("session.qdqisint8allowed", "0"),)
# With it a product's activations are quantized inside one node, where they can't be seen.
_NOT_FUSED = ("DynamicQuantizeMatMulFusion",)
# ONNX's numbers of what ONNX Runtime calls the types of tensors.
_ELEMENTS = {
    "tensor(float)": 1,
    "tensor(uint8)": 2,
    "tensor(int8)": 3,
    "tensor(int32)": 6,
    "tensor(int64)": 7,
    "tensor(bool)": 9,
    "tensor(float16)": 10,
    "tensor(double)": 11,
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or matrix product whose sums can pass 16 bits without VNNI.

    ``allowed``: the largest magnitude of a sum of two neighbouring products that its weights allow. ``seen``: the largest
    of the inputs that were run, or a bound of it if it fits 16 bits. ``share``: fraction of its output sums that saturated.
    """

    name: str
    op: str
    allowed: int
    seen: int
    share: float


@dataclass(frozen=True, slots=True)
class _Segment:
    """Nodes between two cuts."""

    session: onnxruntime.InferenceSession
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Emulator:
    """An artifact on both kinds of processor. ``config``: the session configuration entries with which it is deployed, as
    far as they decide which kernels run.

    Raises :class:`InputError` for a model that ONNX Runtime doesn't take, :class:`UnavailableError` for a product that
    can't be emulated.
    """

    def __init__(self, model: onnx.ModelProto, config: Config = ()) -> None:
        from onnx import numpy_helper

        named = _named(model)
        try:
            self._model = optimized_graph(named, (*_AS_ON_X86, *config), disabled=_NOT_FUSED)
        except Exception as error:  # ORT's exceptions have no common base of their own
            raise InputError(f"ONNX Runtime can't load the model ({str(error)[:300]}). Export it again.") from error
        self._stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in self._model.graph.initializer}
        self.integer_nodes = sum(node.op_type in integer_kernels.INTEGER_OPS for node in self._model.graph.node)
        self._allowed = self._allowed_sums()
        self._heads = graph.head_outputs(named) or [value.name for value in named.graph.output]
        self._makers = {name: node.name for node in named.graph.node for name in node.output}
        self._kept: frozenset[str] = frozenset()
        self._steps: list[onnx.NodeProto | _Segment] = []
        self._seen: dict[str, integer_kernels.Seen] = {}

    def _allowed_sums(self) -> dict[str, int]:
        found = {}
        for node in self._model.graph.node:
            weight = integer_kernels.weight_of(node, self._stored)
            if weight is not None and not saturation.fits(worst := saturation.worst_pair(weight)).all():
                found[node.name] = int(worst.max())
        return found

    @property
    def saturating(self) -> bool:
        """Whether its weights allow sums that 16 bits do not hold."""
        return bool(self._allowed)

    def has(self, name: str) -> bool:
        """Whether :meth:`run` finds a tensor of the model."""
        with contextlib.suppress(InputError):
            return bool(self._place(name).output)
        return False

    def run(
        self, tensor: NDArray[np.float32], *, vnni: bool, outputs: Sequence[str] | None = None
    ) -> list[NDArray[np.float32]]:
        """The raw head, or ``outputs``, which are names of the model's tensors, for one input, float32.

        A tensor that is quantized in the kernel that makes it is given as what its integers stand for: rounded, which
        :func:`lowbit.measure.comparison.raw_heads` does not do. Raises
        :class:`InputError` for a name that no node of the optimized graph can be found by.
        """
        wanted = [self._place(name) for name in outputs or self._heads]
        if not self._kept.issuperset(names := {node.output[0] for node in wanted}):
            self._cut(frozenset(names))
        feed = inputs(self._model)[0].name
        values: dict[str, NDArray[Any]] = {**self._stored, feed: tensor}
        for step in self._steps:
            if isinstance(step, _Segment):
                found = step.session.run(list(step.outputs), {name: values[name] for name in step.inputs})
                values.update(zip(step.outputs, found, strict=True))
            else:
                seen = self._seen.setdefault(step.name, integer_kernels.Seen())
                values[step.output[0]] = integer_kernels.run(step, values, vnni=vnni, seen=seen)
        return [_dequantized(node, values) for node in wanted]

    def layers(self) -> list[Layer]:
        """Every layer that can saturate, in the graph's order, with what the runs without VNNI have seen."""
        found = []
        for node in self._model.graph.node:
            if node.name in self._allowed:
                seen = self._seen.get(node.name, integer_kernels.Seen())
                share = seen.saturated / seen.sums if seen.sums else 0.0
                found.append(Layer(node.name, node.op_type, self._allowed[node.name], seen.worst, share))
        return found

    def _place(self, name: str) -> onnx.NodeProto:
        """The node of the optimized graph that computes a tensor of the model."""
        maker = self._makers.get(name, "")
        for node in self._model.graph.node:
            if name in node.output or (maker and node.name == maker):
                return node
        raise InputError(f"tensor {name!r} can't be found in the graph as ONNX Runtime runs it.")

    def _cut(self, kept: frozenset[str]) -> None:
        """Make sessions of what lies between the nodes that can saturate. ``kept``: tensors that are read at the end."""
        self._kept, needed = kept, set(kept)
        nodes = []
        for node in reversed(self._model.graph.node):  # topologically sorted
            if needed & set(node.output):
                needed.update(_reads(node))
                nodes.append(node)
        runs: list[list[onnx.NodeProto]] = [[]]
        for node in reversed(nodes):
            if node.name in self._allowed:
                runs += [[node], []]
            else:
                runs[-1].append(node)
        runs = [nodes for nodes in runs if nodes]
        kinds = self._kinds(runs)
        read, outputs = set(kept), []
        for nodes in reversed(runs):
            outputs.append(read & {name for node in nodes for name in node.output})
            read |= {name for node in nodes for name in _reads(node)}
        self._steps = [
            nodes[0] if nodes[0].name in self._allowed else self._segment(nodes, kinds, made)
            for nodes, made in zip(runs, reversed(outputs), strict=True)
        ]

    def _segment(
        self, nodes: list[onnx.NodeProto], kinds: dict[str, onnx.ValueInfoProto], outputs: set[str]
    ) -> _Segment:
        made = {name for node in nodes for name in node.output}
        read = dict.fromkeys(name for node in nodes for name in _reads(node) if name and name not in made)
        inputs = tuple(name for name in read if name not in self._stored)
        weights = [tensor for tensor in self._model.graph.initializer if tensor.name in read]
        names = tuple(sorted(outputs))
        model = self._part(nodes, [kinds[name] for name in inputs], names, weights)
        return _Segment(plain_session(model, optimized=False), inputs, names)

    def _kinds(self, runs: Sequence[list[onnx.NodeProto]]) -> dict[str, onnx.ValueInfoProto]:
        """Type and shape of every tensor that goes from one run of nodes to another, as ONNX Runtime infers them."""
        import onnx

        where = {name: number for number, nodes in enumerate(runs) for node in nodes for name in node.output}
        crossing = {
            name: None
            for number, nodes in enumerate(runs)
            for node in nodes
            for name in _reads(node)
            if where.get(name, number) != number
        }
        body = self._model.graph
        model = self._part(list(body.node), list(body.input), tuple(crossing), list(body.initializer))
        found = plain_session(model, optimized=False).get_outputs() if crossing else []
        kinds = {
            value.name: onnx.helper.make_tensor_value_info(value.name, _ELEMENTS[value.type], value.shape)
            for value in found
        }
        return kinds | {value.name: value for value in body.input}

    def _part(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[str],
        weights: Sequence[onnx.TensorProto],
    ) -> onnx.ModelProto:
        import onnx

        values = [onnx.helper.make_empty_tensor_value_info(name) for name in outputs]
        body = onnx.helper.make_graph(nodes, "part", inputs, values, weights)
        return onnx.helper.make_model(body, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)


def emulate(
    model: onnx.ModelProto,
    inputs: Sequence[NDArray[np.float32]],
    *,
    vnni: bool,
    outputs: Sequence[str] | None = None,
    config: Config = (),
) -> list[NDArray[np.float32]]:
    """The raw head (:func:`lowbit.graph.head_outputs`), or ``outputs``, for every input, one after the other, as a
    processor with or without VNNI computes it. See :class:`Emulator`."""
    emulator = Emulator(model, config)
    return [tensor for one in inputs for tensor in emulator.run(one, vnni=vnni, outputs=outputs)]


def saturating_layers(
    model: onnx.ModelProto, inputs: Sequence[NDArray[np.float32]], *, config: Config = ()
) -> list[Layer]:
    """Every layer that can saturate on a processor without VNNI, and how far it does on these inputs."""
    emulator = Emulator(model, config)
    for one in inputs if emulator.saturating else ():
        emulator.run(one, vnni=False)
    return emulator.layers()


def saturates_here(model: onnx.ModelProto, config: Config = ()) -> bool:
    """Whether kernels of this processor lose sums that the model's weights allow, deployed with ``config``. So it is taken
    to be where that can't be told."""
    if not kernels_saturate():
        return False
    try:
        return Emulator(model, config).saturating
    except UnavailableError:
        return True


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name."""
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for number, node in enumerate(copied.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return copied


def _reads(node: onnx.NodeProto) -> list[str]:
    """What a node reads, and what the graphs inside it do."""
    inner = [one for attribute in node.attribute if attribute.HasField("g") for one in attribute.g.node]
    return [*node.input, *(name for one in inner for name in _reads(one))]


def _dequantized(node: onnx.NodeProto, values: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """What a node gives, in float."""
    found = values[node.output[0]]
    at = {"QLinearConv": 6, "QLinearMatMul": 6, "QGemm": 7}.get(node.op_type)
    if at is None or found.dtype.kind == "f":
        return found.astype(np.float32)
    scale, zero = values[node.input[at]], values[node.input[at + 1]]
    return np.asarray((found.astype(np.float32) - zero.astype(np.float32)) * scale, np.float32)
