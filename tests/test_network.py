"""Does TensorRT take it? Its parser answers on any machine: TensorRT for RTX parses and builds without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbit import capability, graph
from lowbit.artifact import Artifact
from lowbit.errors import UnavailableError
from lowbit.evaluate import Case
from lowbit.runtime import find_runtime, network
from lowbit_pytest.workbench import Workbench

# Builds of small detectors take seconds.
QUICK_BYTES = 32 * 2**20


@pytest.mark.artifact
def test_tensorrt_takes_what_lowbit_says_it_does(case: Case, artifact: Artifact, workbench: Workbench) -> None:
    """The parser's answer is capability's; what it takes is built if it is small, and half precision is in its layers."""
    if why := network.rtx_reason():
        pytest.skip(why)
    path = workbench.deployed(replace(case, runtime=find_runtime("trt"))).path
    if network.unparsable(capability.form(case.scheme)):
        with pytest.raises(UnavailableError, match="does not take it"):
            network.Network(network.rtx(), path)
        return
    found = network.Network(network.rtx(), path)
    types = found.convolution_types()
    tail = set(graph.decode_tail(graph.load(path)))
    outside = {kind for name, kind in types.items() if name not in tail}
    assert outside == {"HALF" if case.scheme.tool == "half" else "FLOAT"}
    assert {kind for name, kind in types.items() if name in tail} <= {"FLOAT"}, "the decode tail is not in FP32"
    if path.stat().st_size <= QUICK_BYTES:
        assert found.build(found.config())
