"""Which torch module is which convolution of the ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lowbit import graph
from lowbit.errors import BuildError

if TYPE_CHECKING:
    import onnx


def convolutions(model: onnx.ModelProto) -> dict[str, str]:
    """Every convolution's node name, but the DFL's, to its module's name, as the tracer writes it into the weight's.

    ``/model.2/cv1/conv/Conv`` reads ``model.2.cv1.conv.weight``, whose module is ``model.2.cv1.conv``. A weight that was
    folded or renamed does not say; then the node's own path does.
    """
    found = {}
    for node in graph.weighted_convolutions(model):
        stored = node.input[1]
        path = node.name.removesuffix("/Conv").strip("/").replace("/", ".")
        found[node.name] = stored.removesuffix(".weight") if stored.endswith(".weight") else path
    return found


def layer_map(model: onnx.ModelProto, modules: Iterable[str]) -> dict[str, str]:
    """Module name to node name, one to one and complete on both sides.

    ``modules``: names of a fused detector's convolutions. Raises :class:`BuildError` that lists the names without a match.
    """
    nodes = convolutions(model)
    names = list(modules)
    by_module: dict[str, list[str]] = {}
    for node, module in nodes.items():
        by_module.setdefault(module, []).append(node)
    twice = {module: found for module, found in by_module.items() if len(found) > 1}
    without = sorted(set(by_module) - set(names))
    unseen = sorted(set(names) - set(by_module))
    if twice or without or unseen or len(set(names)) != len(names):
        raise BuildError(
            f"the torch module and the ONNX graph do not have the same convolutions: {len(without)} of the graph without "
            f"a module {without[:5]}, {len(unseen)} modules not in the graph {unseen[:5]}, {len(twice)} modules with "
            f"several nodes {sorted(twice)[:5]}."
        )
    return {module: found[0] for module, found in by_module.items()}
