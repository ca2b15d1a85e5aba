"""Models in memory on the CPU: what lowbit computes while it builds or examines an artifact."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lowbit.runtime.options import available_cores
from lowbit.runtime.ort import Cpu

if TYPE_CHECKING:
    import onnx
    import onnxruntime


def plain_session(
    model: onnx.ModelProto, config: tuple[tuple[str, str], ...] = (), *, optimized: bool = True
) -> onnxruntime.InferenceSession:
    """Open a model in memory on the CPU, for what lowbit computes while it builds or examines an artifact.

    ``config``: session configuration entries. ``optimized``: False is ``ORT_DISABLE_ALL``. What ONNX Runtime raises of a
    model that it does not take is left to the caller, who knows the file.
    """
    import onnxruntime

    settings = _settings(config)
    levels = onnxruntime.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=[Cpu.title], enable_fallback=0)


def optimized_graph(
    model: onnx.ModelProto, config: tuple[tuple[str, str], ...] = (), *, disabled: Sequence[str] = ()
) -> onnx.ModelProto:
    """The graph as ONNX Runtime's optimizer leaves it for the CPU, but for memory layouts, which suit one processor.

    ``disabled``: names of its rewrites to leave out. What it raises of a model that it does not take is left to the
    caller, who knows the file.
    """
    import onnx
    import onnxruntime

    settings = _settings(config)
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        settings.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=[Cpu.title], disabled_optimizers=list(disabled)
        )
        return onnx.load(settings.optimized_model_filepath)


def _settings(config: tuple[tuple[str, str], ...]) -> onnxruntime.SessionOptions:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = available_cores()
    settings.log_severity_level = 3
    for key, value in config:
        settings.add_session_config_entry(key, value)
    return settings


@functools.cache
def kernels_saturate() -> bool:
    """Whether ONNX Runtime's integer kernels lose sums on this processor: without VNNI they add two products in 16 bits.

    By one convolution whose only sum, 2 * 255 * 127, does not fit them.
    """
    import onnx
    from onnx import helper, numpy_helper

    stored: dict[str, Any] = {"one": np.float32(1), "wide": np.float32(512), "unsigned": np.uint8(0)}
    stored |= {"signed": np.int8(0), "weight": np.full((1, 2, 1, 1), 127, np.int8)}
    inputs = ["data", "one", "unsigned", "weight", "one", "signed", "wide", "unsigned"]
    body = helper.make_graph(
        [helper.make_node("QLinearConv", inputs, ["sum"])],
        "probe",
        [helper.make_tensor_value_info("data", onnx.TensorProto.UINT8, [1, 2, 1, 1])],
        [helper.make_tensor_value_info("sum", onnx.TensorProto.UINT8, [1, 1, 1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = plain_session(model).run(None, {"data": np.full((1, 2, 1, 1), 255, np.uint8)})[0]
    return bool(found.item() != np.rint(2 * 255 * 127 / 512))
