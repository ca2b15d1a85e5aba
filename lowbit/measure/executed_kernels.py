"""Which kernels ran: an artifact that is called INT8 can still run in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.runtime import Kernels, SessionOptions, find_runtime


def macs_by_node(path: Path) -> dict[str, int]:
    """Multiply-accumulates of an ONNX file's convolutions and matrix products, by node name."""
    model = graph.load(path)
    names = {node.name for node in model.graph.node}
    return {name: count for name, count in graph.macs(model).items() if name in names}


def kernels(path: Path, options: SessionOptions, tensor: NDArray[np.float32]) -> Kernels:
    """Which kernels the session of an ONNX file runs. ``tensor``: float32 [1, 3, S, S]."""
    return find_runtime(options.runtime).kernels(path, options, tensor, graph.macs(graph.load(path)))
