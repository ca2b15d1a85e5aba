"""Whole artifacts on the other kind of processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from lowbit import graph, runtime
from lowbit.errors import InputError
from lowbit.graph import saturation
from lowbit.measure import comparison, emulation
from tests.unit import other_processor
from tests.unit.saturating import SIDE, artifact


@pytest.fixture
def bright() -> list[NDArray[np.float32]]:
    """Images in which neighbouring channels are large together."""
    rng = np.random.default_rng(0)
    return [rng.uniform(0.7, 1, (1, 3, SIDE, SIDE)).astype(np.float32) for _ in range(2)]


def _deployed(model: onnx.ModelProto, inputs: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """What ONNX Runtime's kernels give on this processor, behind the decode tail."""
    session = runtime.plain_session(model)
    return [session.run(None, {"images": one})[0] for one in inputs]


@pytest.mark.parametrize("signed", [False, True], ids=["u8", "s8"])
def test_this_kind_of_processor_is_emulated_bit_by_bit(signed: bool, bright: list[NDArray[np.float32]]) -> None:
    model = artifact(127, signed=signed)
    found = emulation.emulate(model, bright, vnni=not runtime.kernels_saturate(), outputs=["output0"])
    for one, real in zip(found, _deployed(model, bright), strict=True):
        np.testing.assert_array_equal(one, real)
    heads = emulation.emulate(model, bright, vnni=not runtime.kernels_saturate())
    np.testing.assert_array_equal(heads[0] * np.float32(0.5), found[0])


@pytest.mark.parametrize("signed", [False, True], ids=["u8", "s8"])
def test_only_kernels_without_vnni_lose_what_passes_16_bits(signed: bool, bright: list[NDArray[np.float32]]) -> None:
    model = artifact(127, signed=signed)
    exact, lossy = (emulation.emulate(model, bright, vnni=vnni) for vnni in (True, False))
    assert comparison.compare_heads(exact, lossy).sqnr_db < 25
    session = runtime.plain_session(model, optimized=False)
    reference = [session.run(None, {"images": one})[0] for one in bright]
    computed = emulation.emulate(model, bright, vnni=True, outputs=["output0"])
    # Integer kernels round ties in their own way, by a step.
    assert max(np.abs(one - other).max() for one, other in zip(reference, computed, strict=True)) <= 0.5 / 255 + 1e-6


def test_layers_tell_what_saturates(bright: list[NDArray[np.float32]]) -> None:
    layers = emulation.saturating_layers(artifact(127), bright)
    # Not the depthwise one.
    assert [layer.name for layer in layers] == ["/first/Conv", "/head/Conv"]
    first = layers[0]
    assert first.op == "QLinearConv"
    assert 32767 < first.seen <= first.allowed <= 64770
    assert first.share > 0.9
    weight = numpy_helper.to_array(next(t for t in artifact(127).graph.initializer if t.name == "first_w"))
    assert first.allowed == saturation.worst_pair(weight).max()
    dark = [np.full((1, 3, SIDE, SIDE), 0.1, np.float32)]
    assert emulation.saturating_layers(artifact(127), dark)[0].share == 0
    assert emulation.saturating_layers(artifact(127), dark)[0].seen < 2 * 127 * 27


def test_small_weights_cannot_saturate(bright: list[NDArray[np.float32]]) -> None:
    model = artifact(64)
    assert emulation.saturating_layers(model, bright) == []
    exact, lossy = (emulation.emulate(model, bright, vnni=vnni) for vnni in (True, False))
    assert comparison.compare_heads(exact, lossy).sqnr_db == float("inf")


@pytest.mark.parametrize(("lossy", "largest", "expected"), [(True, 127, True), (True, 64, False), (False, 127, False)])
def test_only_where_both_saturate_must_kernels_be_changed(
    lossy: bool, largest: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``lossy``: what the probe would say of a processor."""
    monkeypatch.setattr(emulation, "kernels_saturate", lambda: lossy)
    saturates = emulation.saturates_here(artifact(largest))
    assert saturates is expected
    assert (runtime.PRECISE in runtime.deployed_options("int8", saturates=saturates).config) is expected
    assert runtime.PRECISE not in runtime.deployed_options("int8", "cuda", saturates=saturates).config


def test_the_options_decide_what_runs_in_integers(bright: list[NDArray[np.float32]]) -> None:
    config = (("session.disable_quant_qdq", "1"),)
    assert emulation.saturating_layers(artifact(127), bright, config=config) == []


def test_nodes_without_names_are_found(bright: list[NDArray[np.float32]]) -> None:
    model = artifact(127)
    named = emulation.emulate(model, bright, vnni=False)
    for node in model.graph.node:
        node.name = ""
    assert graph.head_outputs(model) == ["head"]
    assert comparison.compare_heads(named, emulation.emulate(model, bright, vnni=False)).sqnr_db == float("inf")


def test_an_unknown_tensor_is_refused(bright: list[NDArray[np.float32]]) -> None:
    with pytest.raises(InputError, match="'nowhere' can't be found"):
        emulation.emulate(artifact(127), bright, vnni=True, outputs=["nowhere"])


def test_a_precise_session_is_right_everywhere(bright: list[NDArray[np.float32]], tmp_path: Path) -> None:
    """On processors with VNNI the entry changes nothing; on others it brings exact sums."""
    model = artifact(127)
    exact = emulation.emulate(model, bright, vnni=True, outputs=["output0"])
    session = runtime.plain_session(model, (runtime.PRECISE,))
    for one, expected in zip(bright, exact, strict=True):
        np.testing.assert_array_equal(session.run(None, {"images": one})[0], expected)


@other_processor.needed
def test_the_other_processor_is_emulated_bit_by_bit(bright: list[NDArray[np.float32]], tmp_path: Path) -> None:
    """ONNX Runtime itself, with the graph optimized there, on an emulated processor without VNNI."""
    runs: list[other_processor.Run] = []
    expected = []
    for signed in (False, True):
        model = artifact(127, signed=signed)
        for vnni, config in ((False, ()), (True, (runtime.PRECISE,))):
            runs += [(config, model, {"images": one}) for one in bright]
            expected += emulation.emulate(model, bright, vnni=vnni, outputs=["output0"])
    for one, real in zip(expected, other_processor.run(runs, tmp_path), strict=True):
        np.testing.assert_array_equal(one, real)
